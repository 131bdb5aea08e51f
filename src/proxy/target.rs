//! Request targets: the form they came in, and the part that is forwarded byte for byte.

use http::{Uri, Version};

use super::error::ProxyError;
use crate::model::base_url::check_path;
use crate::model::origin::Origin;

/// What a request asks for.
#[derive(Debug)]
pub struct Requested {
    /// How it was written.
    pub form: Form,
    /// Path and query; empty after a path tag that nothing follows, else beginning with `/` or `?`.
    pub rest: String,
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

impl Requested {
    /// Reads a target. Over HTTP/2 scheme and authority are always there and mean what `Host` means.
    pub fn parse(uri: &Uri, version: Version) -> Result<Self, ProxyError> {
        let path = uri.path();
        if !path.starts_with('/') {
            return Err(ProxyError::TargetInvalid("the target is a path that begins with /, or an http:// URL"));
        }
        if check_path(path.as_bytes()).is_err() {
            return Err(ProxyError::TargetInvalid(
                "the path has a dot segment, a backslash or an encoded form of them",
            ));
        }
        let form = match (uri.scheme_str(), uri.authority()) {
            (Some(scheme), Some(authority)) if version != Version::HTTP_2 => {
                let scheme = crate::model::origin::parse_scheme(scheme);
                let origin = scheme.and_then(|scheme| Origin::from_authority(scheme, authority.as_str()));
                Form::Absolute(
                    origin.map_err(|_| ProxyError::TargetInvalid("the target's scheme, host or port is not usable"))?,
                )
            }
            (None, Some(_)) => {
                return Err(ProxyError::TargetInvalid("the target is a path that begins with /, or an http:// URL"));
            }
            _ => Form::Origin,
        };
        let rest = uri.path_and_query().map(|text| text.as_str().to_owned()).unwrap_or_default();
        Ok(Requested { form, rest })
    }

    /// Takes `/c/<connection>` off the front, if it is there.
    pub fn take_path_tag(&mut self) -> Option<String> {
        let tagged = self.rest.strip_prefix(PATH_TAG)?;
        let end = tagged.find(['/', '?']).unwrap_or(tagged.len());
        let tag = tagged[..end].to_owned();
        self.rest = tagged[end..].to_owned();
        Some(tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(target: &str) -> Result<Requested, &'static str> {
        let uri = target.parse().map_err(|_| "uri")?;
        Requested::parse(&uri, Version::HTTP_11).map_err(|error| error.code())
    }

    #[test]
    fn odd_targets_are_refused() {
        for target in
            ["*", "api.test:80", "ftp://h/", "gopher://h/", "http://u:p@api.test/", "http://h:0/", "/../x", "/a\\b"]
        {
            assert!(parse(target).is_err(), "{target}");
        }
        let absolute = parse("http://API.test/p?q").unwrap();
        assert_eq!(absolute.form, Form::Absolute(Origin::parse("http://api.test").unwrap()));
        assert_eq!(absolute.rest, "/p?q");
    }
}
