//! Mails: an invitation, through the operator's own mail server.
//!
//! The server is the operator's and stands in the configuration, so its address is not judged like an upstream's. A mail
//! that is not taken within the deadline is told to whoever invites; they have the link and can pass it on.

use std::time::Duration;

use lettre::message::header::ContentType;
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::{Address, AsyncSmtpTransport, AsyncTransport, Tokio1Executor};
use secrecy::{ExposeSecret, SecretString};

use crate::clock;
use crate::model::user::User;

/// For the whole conversation with the server.
const DEADLINE: Duration = Duration::from_secs(15);

/// How the conversation with the mail server is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// TLS from the first byte.
    Tls,
    /// TLS after `STARTTLS`, and nothing without it.
    StartTls,
    /// None: for a relay on the same machine.
    None,
}

/// Which mail server.
#[derive(Debug)]
pub struct Settings {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the conversation is protected.
    pub protection: Protection,
    /// Who the mails are from: `Sidekey <sidekey@example.test>`.
    pub from: String,
    /// As whom we come, where it wants to know.
    pub login: Option<(String, SecretString)>,
    /// PEM texts with CAs that are trusted beside the system's.
    pub authorities: Vec<Vec<u8>>,
}

/// Why no mail is sent. It names the mail server's answer, and no link.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// The sender is no address.
    #[error("smtp.from is not an address such as \"Sidekey <sidekey@example.test>\"")]
    Sender,
    /// The receiver or a part of the mail is not what a mail can have.
    #[error("the mail cannot be written")]
    Message(#[from] lettre::error::Error),
    /// The server did not take it.
    #[error("the mail server did not take it: {0}")]
    Server(#[from] lettre::transport::smtp::Error),
    /// It took too long.
    #[error("the mail server did not answer in time")]
    Deadline,
}

/// Sends mails.
#[derive(Debug)]
pub struct Mailer {
    from: Mailbox,
    transport: AsyncSmtpTransport<Tokio1Executor>,
}

impl Mailer {
    /// Reads the settings; the server is not asked until there is a mail.
    #[expect(clippy::disallowed_methods, reason = "the password of the mail account goes to the mail server")]
    pub fn new(settings: Settings) -> Result<Self, MailError> {
        let Settings { host, port, protection, from, login, authorities } = settings;
        let tls = match protection {
            Protection::None => Tls::None,
            Protection::Tls => Tls::Wrapper(trust(&host, &authorities)?),
            Protection::StartTls => Tls::Required(trust(&host, &authorities)?),
        };
        let mut transport =
            AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host).port(port).tls(tls).timeout(Some(DEADLINE));
        if let Some((user, password)) = login {
            transport = transport.credentials(Credentials::new(user, password.expose_secret().to_owned()));
        }
        Ok(Mailer { from: from.parse().map_err(|_| MailError::Sender)?, transport: transport.build() })
    }

    /// Sends somebody the link that lets them in.
    pub async fn invite(&self, user: &User, link: &str, expires_at: &str) -> Result<(), MailError> {
        let name = format!("{} {}", user.first_name, user.last_name);
        let name = Some(name.trim().to_owned()).filter(|name| !name.is_empty());
        let address: Address = user.email.as_str().parse().map_err(|_| lettre::error::Error::MissingTo)?;
        let text = format!(
            "You are invited to Sidekey.\n\nOpen this link to come in; it works once, until {expires_at}:\n\n{link}\n\n\
             If you do not know what this is, ignore it: nothing happens without the link.\n"
        );
        let message = Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(name, address))
            .subject("Your invitation to Sidekey")
            .header(ContentType::TEXT_PLAIN)
            .body(text)?;
        let sending = self.transport.send(message);
        clock::timeout(DEADLINE, sending).await.map_err(|_| MailError::Deadline)??;
        Ok(())
    }
}

/// Whom to believe that it is the mail server: the platform's store, or where it has none the compiled-in roots, and the
/// files of the configuration.
fn trust(host: &str, authorities: &[Vec<u8>]) -> Result<TlsParameters, MailError> {
    let parameters = |store: CertificateStore| {
        let mut parameters = TlsParameters::builder(host.to_owned()).certificate_store(store);
        for pem in authorities {
            parameters = parameters.add_root_certificate(Certificate::from_pem(pem)?);
        }
        parameters.build_rustls()
    };
    Ok(parameters(CertificateStore::Default).or_else(|_| parameters(CertificateStore::WebpkiRoots))?)
}
