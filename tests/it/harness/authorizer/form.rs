//! Forms as `application/x-www-form-urlencoded` has them, read strictly.

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// The parameters of a request, in their order; none is there twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Form {
    /// Names and values, decoded.
    pub pairs: Vec<(String, String)>,
}

impl Form {
    /// Reads `text`; a parameter without a value, in bytes that need an escape, or given twice is a fault.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut form = Self::default();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or_else(|| format!("no value: {pair}"))?;
            let (name, value) = (decoded(name)?, decoded(value)?);
            if form.get(&name).is_some() {
                return Err(format!("{name} is given twice"));
            }
            form.pairs.push((name, value));
        }
        Ok(form)
    }

    /// The value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// The text that was encoded.
pub(super) fn decoded(text: &str) -> Result<String, String> {
    let is_encoded = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~*+%".contains(&byte);
    if !text.bytes().all(is_encoded) {
        return Err(format!("bytes that need an escape: {text}"));
    }
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8().map_err(|_| format!("no text: {text}"))?;
    Ok(decoded.into_owned())
}

/// A text as a value of a query.
pub(super) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}
