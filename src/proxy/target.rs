//! Request targets: the form they came in, and the part that is forwarded byte for byte.

use http::Version;

use super::error::ProxyError;
use crate::model::base_url::check_path;
use crate::model::origin::{Origin, parse_scheme};
use crate::wire::RequestHead;

/// What a request asks for, read in place.
#[derive(Debug)]
pub struct Requested<'h> {
    /// How it was written.
    pub form: Form,
    /// Path and query; empty after a path tag that nothing follows, else beginning with `/` or `?`.
    pub rest: &'h str,
}

/// The form of a request target (RFC 9112 §3.2).
#[derive(Debug, PartialEq, Eq)]
pub enum Form {
    /// A path: Sidekey is taken for the server.
    Origin,
    /// A whole URL: Sidekey is taken for a proxy.
    Absolute(Origin),
}

const PATH_TAG: &str = "/c/";

impl<'h> Requested<'h> {
    /// Reads a target. Over HTTP/2 it is a path, and its authority means what `Host` means.
    pub fn parse(head: &'h RequestHead) -> Result<Self, ProxyError> {
        let invalid = ProxyError::TargetInvalid;
        let shape = "the target is a path that begins with /, or an http:// URL";
        let target = std::str::from_utf8(head.target()).map_err(|_| invalid("the target is no UTF-8"))?;
        if target.bytes().any(|byte| !byte.is_ascii_graphic() || byte == b'#') {
            return Err(invalid("the target has a fragment, a space, a control character or one beyond ASCII"));
        }
        let (form, rest) = if target.starts_with('/') {
            (Form::Origin, target)
        } else if head.version == Version::HTTP_2 {
            return Err(invalid(shape));
        } else {
            absolute(target).ok_or(invalid(shape))??
        };
        let path = rest.bytes().position(|byte| byte == b'?').map_or(rest, |end| &rest[..end]);
        if check_path(path.as_bytes()).is_err() {
            return Err(invalid("the path has a dot segment, a backslash or an encoded form of them"));
        }
        Ok(Requested { form, rest })
    }

    /// Takes `/c/<connection>` off the front, if it is there.
    pub fn take_path_tag(&mut self) -> Option<&'h str> {
        let tagged = self.rest.strip_prefix(PATH_TAG)?;
        let (tag, rest) = tagged.split_at(tagged.find(['/', '?']).unwrap_or(tagged.len()));
        self.rest = rest;
        Some(tag)
    }
}

/// Takes a whole URL apart; `None` where it is none.
fn absolute(target: &str) -> Option<Result<(Form, &str), ProxyError>> {
    let (scheme, after) = target.split_once("://")?;
    let end = after.find(['/', '?']).unwrap_or(after.len());
    let origin = parse_scheme(scheme).and_then(|scheme| Origin::from_authority(scheme, &after[..end]));
    let unusable = |_| ProxyError::TargetInvalid("the target's scheme, host or port is not usable");
    Some(origin.map(|origin| (Form::Absolute(origin), &after[end..])).map_err(unusable))
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::wire::Fields;

    fn head(target: &str) -> RequestHead {
        RequestHead::new(Method::GET, Version::HTTP_11, target.as_bytes(), None, Fields::default())
    }

    #[test]
    fn odd_targets_are_refused() {
        for target in [
            "*",
            "api.test:80",
            "ftp://h/",
            "gopher://h/",
            "http://u:p@api.test/",
            "http://h:0/",
            "/../x",
            "/a\\b",
            "/a#b",
            "/caf\u{e9}",
            "http:/p",
            "http:///p",
            "admin",
        ] {
            assert!(Requested::parse(&head(target)).is_err(), "{target}");
        }
        let head = head("http://API.test/p?q");
        let absolute = Requested::parse(&head).unwrap();
        assert_eq!(absolute.form, Form::Absolute(Origin::parse("http://api.test").unwrap()));
        assert_eq!(absolute.rest, "/p?q");
    }
}
