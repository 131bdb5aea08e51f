//! Outlines: an injection as it looks on the wire, with a mask in the place of every value.
//!
//! It is rendered from a credential that says nothing, so no secret is opened for it and none can show.

use secrecy::SecretString;

use super::Injection;
use super::injection::{Pair, RenderError, Secrets};
use crate::directory::Preview;
use crate::directory::route::Route;

/// What stands in the place of a value while it is rendered: letters, which every place takes.
const STAND_IN: &str = "SidekeyStandsInHere";

/// Where something is injected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// `header`, `query`, `cookie`, `path` or `body`.
    pub place: &'static str,
    /// The name there.
    pub name: String,
    /// How the value looks, masked.
    pub value: String,
}

/// The outline of an injection.
#[derive(Debug)]
pub struct Outline(Injection);

impl Outline {
    /// What would be injected into requests of this route.
    pub fn of(route: &Route) -> Result<Self, RenderError> {
        let stand_in = SecretString::from(STAND_IN);
        Injection::render_with(route, |_| Some(&stand_in), &Secrets::default()).map(Outline)
    }

    fn masked(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.0.mask(text.as_bytes())).into_owned()
    }

    /// The URL of a request, masked.
    pub fn url(&self, preview: &Preview, rest: &str) -> String {
        let path = self.0.path_of(&preview.admission.route, preview.below_base, rest);
        format!("{}{}", preview.admission.origin(), self.masked(&path))
    }

    /// Everything that is injected.
    pub fn parts(&self) -> Vec<Part> {
        let elsewhere = self.0.elsewhere();
        let part = |place, name: &str, value: &str| Part { place, name: name.to_owned(), value: self.masked(value) };
        let headers = self
            .0
            .header_values()
            .iter()
            .map(|(name, value)| part("header", name.as_str(), &String::from_utf8_lossy(value.as_bytes())));
        // A pair is kept as it is written, with its name.
        let value = |pair: &Pair| pair.value.split_once('=').map_or(&**pair.value, |(_, value)| value).to_owned();
        let pairs =
            |place, pairs: &[Pair]| pairs.iter().map(|pair| part(place, &pair.name, &value(pair))).collect::<Vec<_>>();
        let members =
            elsewhere.json.iter().map(|(tokens, value)| part("body", &format!("/{}", tokens.join("/")), value));
        headers
            .chain(pairs("query", &elsewhere.query))
            .chain(pairs("cookie", &elsewhere.cookies))
            .chain(pairs("path", &elsewhere.path))
            .chain(pairs("body", &elsewhere.form))
            .chain(members)
            .collect()
    }
}
