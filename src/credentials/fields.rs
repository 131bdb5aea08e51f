//! The values that templates of an auth method may ask for, their references to secrets resolved once.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::SecretString;
use zeroize::Zeroizing;

use super::injection::{CONTROL, LARGEST, RenderError, Secret, SecretKind, Secrets, reveal};
use crate::directory::route::Route;
use crate::model::auth::SlotValue;
use crate::model::credential::{Piece, pieces, refers};
use crate::model::name::FieldName;
use crate::model::template::Template;

/// The values that templates may ask for.
pub(super) struct Fields<'a> {
    route: &'a Route,
    values: Vec<Value<'a>>,
    /// Whether a secret's own value looks like a reference: such a one goes as it is.
    has_look_alike: bool,
}

struct Value<'a> {
    name: &'a FieldName,
    text: Text<'a>,
    is_secret: bool,
}

/// A field's value: as it was given, or with its references replaced.
enum Text<'a> {
    Given(&'a str),
    Filled(Zeroizing<String>),
}

impl Text<'_> {
    fn as_str(&self) -> &str {
        match self {
            Text::Given(text) => text,
            Text::Filled(text) => text,
        }
    }
}

impl<'a> Fields<'a> {
    pub(super) fn new(
        route: &'a Route,
        given: impl Fn(&FieldName) -> Option<&'a SecretString>,
        secrets: &Secrets,
    ) -> Result<Self, RenderError> {
        let mut values = Vec::with_capacity(route.auth().fields.len());
        for field in route.auth().injected_fields(&route.integration.fields) {
            let text = match (given(&field.name), &field.default) {
                (Some(value), _) => resolve(&field.name, reveal(value), secrets)?,
                (None, Some(default)) => Text::Given(default),
                (None, None) => continue,
            };
            values.push(Value { name: &field.name, text, is_secret: field.secret });
        }
        let has_look_alike = secrets.values().any(|value| refers(reveal(value)));
        Ok(Fields { route, values, has_look_alike })
    }

    fn value(&self, name: &FieldName) -> Option<&str> {
        let own = self.values.iter().find(|value| value.name == name);
        own.map(|value| value.text.as_str()).or_else(|| self.route.value(name))
    }

    fn template(&self, template: &Template) -> Result<Zeroizing<String>, RenderError> {
        let text = template.render(|name| self.value(name)).map_err(|undefined| RenderError::Field(undefined.0))?;
        self.whole(text)
    }

    /// Never a request with a reference in the place of a secret.
    fn whole(&self, text: Zeroizing<String>) -> Result<Zeroizing<String>, RenderError> {
        if refers(&text) && !self.has_look_alike { Err(RenderError::Joined) } else { Ok(text) }
    }

    pub(super) fn fill(&self, value: &SlotValue) -> Result<Zeroizing<String>, RenderError> {
        match value {
            SlotValue::Template(template) => self.template(template),
            SlotValue::Basic { username, password } => {
                let pair = self.pair(username, password)?;
                Ok(Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes()))))
            }
        }
    }

    /// User name and password as Basic joins them.
    fn pair(&self, username: &Template, password: &Template) -> Result<Zeroizing<String>, RenderError> {
        let (username, password) = (self.template(username)?, self.template(password)?);
        let wrong = |why| RenderError::Value { place: "header", name: "authorization".to_owned(), why };
        if username.contains(':') {
            return Err(wrong("has a colon in its user name, which Basic cannot carry (RFC 7617 §2)"));
        }
        if username.chars().chain(password.chars()).any(char::is_control) {
            return Err(wrong(CONTROL));
        }
        self.whole(Zeroizing::new(format!("{}:{}", *username, *password)))
    }

    /// What an upstream is now told, through whichever field it goes, and could tell others.
    pub(super) fn told<'t>(
        &'t self,
        secrets: &'t Secrets,
        pairs: &'t [Zeroizing<String>],
    ) -> impl Iterator<Item = Secret<'t>> + Clone {
        let values = self.values.iter().filter(|value| value.is_secret).map(|value| value.text.as_str());
        let values = values.chain(secrets.values().map(reveal)).map(|text| Secret { kind: SecretKind::Value, text });
        values.chain(pairs.iter().map(|pair| Secret { kind: SecretKind::Pair, text: pair }))
    }

    /// What the Basic slots join.
    pub(super) fn pairs(&self) -> Vec<Zeroizing<String>> {
        let slots = self.route.auth().slots.iter();
        let pairs = slots.filter_map(|slot| match &slot.value {
            SlotValue::Basic { username, password } => self.pair(username, password).ok(),
            SlotValue::Template(_) => None,
        });
        pairs.collect()
    }
}

/// A field's value with its references replaced, for who sends it in another way than as an injection.
pub(super) fn resolved(
    name: &FieldName,
    value: &SecretString,
    secrets: &Secrets,
) -> Result<Zeroizing<String>, RenderError> {
    Ok(Zeroizing::new(resolve(name, reveal(value), secrets)?.as_str().to_owned()))
}

/// A field's value with its references replaced, once: a secret's own value is not looked at again.
fn resolve<'a>(name: &FieldName, value: &'a str, secrets: &Secrets) -> Result<Text<'a>, RenderError> {
    let too_large = || RenderError::Value { place: "field", name: name.to_string(), why: "is larger than 64 KiB" };
    if !refers(value) {
        return if value.len() > LARGEST { Err(too_large()) } else { Ok(Text::Given(value)) };
    }
    let mut text = Zeroizing::new(String::with_capacity(value.len()));
    for piece in pieces(value).map_err(|_| RenderError::Reference(name.clone()))? {
        match piece {
            Piece::Text(literal) => text.push_str(literal),
            Piece::Secret(key) => {
                text.push_str(reveal(secrets.get(&key).ok_or_else(|| RenderError::Secret(key.clone()))?))
            }
        }
        if text.len() > LARGEST {
            return Err(too_large());
        }
    }
    Ok(Text::Filled(text))
}
