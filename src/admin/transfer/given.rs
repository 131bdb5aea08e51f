//! What a document of an import says: its shape, checked by itself.

use super::{MOST, VERSION};
use crate::model::connection::{ConnectionDraft, SharingDraft, read_values};
use crate::model::document::Reader;
use crate::model::id::IntegrationId;
use crate::model::integration::{Integration, Values};
use crate::model::name::Key;

/// A thing of the document, and where it stands there.
pub(super) struct At<T> {
    pub(super) pointer: String,
    pub(super) thing: T,
}

/// What is filled in for an integration.
pub(super) struct FilledIn {
    pub(super) slug: Key,
    pub(super) values: Values,
}

/// A connection of the document.
pub(super) struct Draft {
    pub(super) connection: ConnectionDraft,
    pub(super) sharing: SharingDraft,
}

/// A document.
pub(super) struct Given {
    pub(super) integrations: Vec<At<Integration>>,
    pub(super) values: Vec<At<FilledIn>>,
    pub(super) connections: Vec<At<Draft>>,
}

impl Given {
    /// Reads the document: every mistake of it at once.
    pub(super) fn read(reader: &Reader<'_>) -> Option<Self> {
        if reader.number("version", VERSION..=VERSION).is_none() && !reader.has("version") {
            reader.problem("version", format!("the key `version` is missing; it is {VERSION}"));
        }
        let lists = ["integrations", "values", "connections"].map(|key| reader.list(key));
        if lists.iter().map(Vec::len).sum::<usize>() > MOST {
            let detail = format!("an import has {MOST} integrations, values and connections at most");
            reader.problem("connections", detail);
            return None;
        }
        let [integrations, values, connections] = lists;
        let mut given = Given { integrations: Vec::new(), values: Vec::new(), connections: Vec::new() };
        for (pointer, item) in integrations {
            if let Some(inner) = Reader::new(item, &pointer, reader.problems())
                && let Some(thing) = Integration::read(inner, item, IntegrationId::generate())
            {
                given.add_integration(reader, At { pointer, thing });
            }
        }
        for (pointer, item) in values {
            let Some(inner) = Reader::new(item, &pointer, reader.problems()) else { continue };
            let (slug, values) = (inner.required("integration"), inner.required_table("values").map(read_values));
            inner.finish();
            if let Some(slug) = slug {
                let thing = FilledIn { slug, values: values.unwrap_or_default() };
                given.add_values(reader, At { pointer, thing });
            }
        }
        for (pointer, item) in connections {
            let Some(inner) = Reader::new(item, &pointer, reader.problems()) else { continue };
            let (connection, sharing) = (ConnectionDraft::read(&inner), SharingDraft::read(&inner));
            inner.finish();
            if let Some(connection) = connection {
                given.add_connection(reader, At { pointer, thing: Draft { connection, sharing } });
            }
        }
        Some(given)
    }

    fn add_integration(&mut self, reader: &Reader<'_>, at: At<Integration>) {
        let slug = &at.thing.slug;
        if self.integrations.iter().any(|other| other.thing.slug == *slug) {
            reader.problems().add(at.pointer.clone(), format!("the integration {slug} is there twice"));
        }
        self.integrations.push(at);
    }

    fn add_values(&mut self, reader: &Reader<'_>, at: At<FilledIn>) {
        let slug = &at.thing.slug;
        if self.values.iter().any(|other| other.thing.slug == *slug) {
            reader.problems().add(at.pointer.clone(), format!("the values of the integration {slug} are there twice"));
        }
        self.values.push(at);
    }

    fn add_connection(&mut self, reader: &Reader<'_>, at: At<Draft>) {
        let Draft { connection, sharing } = &at.thing;
        if sharing.visibility.is_some() || sharing.owner.is_some() {
            let detail = "an import is for the organization: no visibility and no owner";
            reader.problems().add(at.pointer.clone(), detail);
        }
        let name = |draft: &Draft| (draft.connection.key.clone(), draft.connection.customer.clone());
        if self.connections.iter().any(|other| name(&other.thing) == name(&at.thing)) {
            reader.problems().add(at.pointer.clone(), format!("the connection {} is there twice", connection.key));
        }
        self.connections.push(at);
    }
}
