//! Sites: where requests of a connection go and what every one of them has, with every field filled in.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use super::base_url::{BaseUrl, RenderError, UrlTemplate};
use super::integration::{Integration, Values};
use super::origin::Origin;
use super::template::Undefined;

/// What an integration says of its connections' requests, for the values of one of them. Where nothing in it depends on
/// values, all connections of the integration share one.
#[derive(Debug, PartialEq, Eq)]
pub struct Site {
    /// Where reverse requests go.
    pub base: BaseUrl,
    /// Where the credential may go at all; the base URL's origin first.
    pub origins: Box<[Origin]>,
    /// Default headers, rendered.
    pub headers: Box<[(HeaderName, HeaderValue)]>,
    /// The authority of each origin, as it is logged.
    authorities: Box<[Box<str>]>,
}

/// Why there is no site for the values of a connection.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SiteError {
    /// A URL.
    #[error(transparent)]
    Url(#[from] RenderError),
    /// A default header's field.
    #[error(transparent)]
    Undefined(#[from] Undefined),
    /// A default header.
    #[error("the default header {0} is no header value")]
    Header(HeaderName),
}

impl Site {
    /// Fills in the values of a connection.
    pub(super) fn new(integration: &Integration, values: &Values) -> Result<Self, SiteError> {
        let (base, origins) = integration.place(values)?;
        let mut headers = Vec::with_capacity(integration.headers.len());
        for (name, template) in &integration.headers {
            let text = template.render(|field| integration.value(values, field))?;
            let value = HeaderValue::from_str(&text).map_err(|_| SiteError::Header(name.clone()))?;
            headers.push((name.clone(), value));
        }
        let authorities = origins.iter().map(|origin| origin.authority().into()).collect();
        Ok(Site { base, origins: origins.into(), headers: headers.into(), authorities })
    }

    /// The site of every connection, where no field stands in any part of it.
    pub(super) fn fixed(integration: &Integration) -> Option<Arc<Self>> {
        let is_fixed = |url: &UrlTemplate| url.fields().next().is_none();
        let urls = std::iter::once(&integration.base_url).chain(&integration.hosts).all(is_fixed);
        let headers = integration.headers.iter().all(|(_, template)| template.fields().next().is_none());
        (urls && headers).then(|| Site::new(integration, &Values::new()).ok().map(Arc::new)).flatten()
    }

    /// Host and port of one of its origins as text, made once.
    pub fn authority(&self, index: usize) -> &str {
        &self.authorities[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::IntegrationId;

    fn integration(base_url: &str, header: &str) -> Integration {
        let document = serde_json::json!({
            "slug": "api", "base_url": base_url, "headers": { "x-account": header },
            "fields": [{ "name": "account" }], "auth": [{ "method": "none", "type": "none" }],
        });
        Integration::parse(&document, IntegrationId::generate()).unwrap()
    }

    fn values(account: &str) -> Values {
        Values::from([("account".parse().unwrap(), account.to_owned())])
    }

    #[test]
    fn connections_share_a_site_that_does_not_depend_on_them() {
        let fixed = integration("https://api.test/v1", "all");
        assert!(Arc::ptr_eq(&fixed.site(&values("a")).unwrap(), &fixed.site(&values("b")).unwrap()));
        for own in [integration("https://{{ account }}.test", "all"), integration("https://api.test", "{{ account }}")]
        {
            let (one, other) = (own.site(&values("a")).unwrap(), own.site(&values("b")).unwrap());
            assert_ne!(one, other);
        }
        assert!(integration("https://{{ account }}.test", "all").site(&Values::new()).is_err());
    }
}
