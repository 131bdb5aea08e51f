//! A mail server on a free port that takes every mail and keeps it.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::board::Board;
use super::pki::{self, Clients, Versions};

/// A mail as it came.
#[derive(Clone, Debug, Default)]
pub struct Mail {
    /// Whether it came inside TLS.
    pub encrypted: bool,
    /// `AUTH` lines, as they were sent.
    pub auth: Vec<String>,
    /// The envelope's sender.
    pub from: String,
    /// The envelope's receivers.
    pub to: Vec<String>,
    /// Head and body.
    pub text: String,
}

/// What the server offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offers {
    /// Mails in clear.
    Clear,
    /// `STARTTLS`.
    StartTls,
    /// Nothing: every mail is refused.
    Refusal,
}

/// The server.
pub struct MailSink {
    /// Where it listens.
    pub addr: SocketAddr,
    mails: Arc<Board<Vec<Mail>>>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Drop for MailSink {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl MailSink {
    /// Starts it; its certificate is for `127.0.0.1`.
    pub async fn start(offers: Offers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("its address");
        let mails = Arc::new(Board::new(Vec::new()));
        let kept = Arc::clone(&mails);
        let leaf = pki::authority().leaf(&["127.0.0.1"]);
        let tls = TlsAcceptor::from(Arc::new(pki::server_config(&leaf, &[], Clients::Anonymous, Versions::All)));
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (kept, tls) = (Arc::clone(&kept), tls.clone());
                // Whoever hangs up has sent nothing more.
                tokio::spawn(async move { drop(serve(stream, offers, tls, &kept).await) });
            }
        });
        Self { addr, mails, accepting }
    }

    /// The first mail, when it is there.
    pub async fn mail(&self) -> Mail {
        self.mails.wait("a mail", |mails| mails.first().cloned()).await
    }

    /// How many have come.
    pub fn count(&self) -> usize {
        self.mails.read(Vec::len)
    }
}

async fn serve(stream: TcpStream, offers: Offers, tls: TlsAcceptor, kept: &Board<Vec<Mail>>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 sink.test ESMTP\r\n").await?;
    if !converse(&mut stream, offers, false, kept).await? {
        return Ok(());
    }
    let mut encrypted = BufReader::new(tls.accept(stream.into_inner()).await?);
    converse(&mut encrypted, Offers::Clear, true, kept).await?;
    Ok(())
}

/// Whether TLS was asked for.
async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufReader<S>,
    offers: Offers,
    encrypted: bool,
    kept: &Board<Vec<Mail>>,
) -> std::io::Result<bool> {
    let mut mail = Mail { encrypted, ..Mail::default() };
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(false);
        }
        let words = line.trim_end();
        let verb = words.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        let answer = match verb.as_str() {
            "EHLO" if offers == Offers::StartTls => "250-sink.test\r\n250 STARTTLS\r\n",
            "EHLO" => "250-sink.test\r\n250-8BITMIME\r\n250 AUTH PLAIN LOGIN\r\n",
            "STARTTLS" if offers == Offers::StartTls => {
                stream.write_all(b"220 go on\r\n").await?;
                return Ok(true);
            }
            "AUTH" => {
                mail.auth.push(words.to_owned());
                "235 welcome\r\n"
            }
            "MAIL" if offers == Offers::Refusal => "550 not here\r\n",
            "MAIL" => {
                mail.from = words.to_owned();
                "250 ok\r\n"
            }
            "RCPT" => {
                mail.to.push(words.to_owned());
                "250 ok\r\n"
            }
            "DATA" => {
                stream.write_all(b"354 go on\r\n").await?;
                loop {
                    line.clear();
                    stream.read_line(&mut line).await?;
                    if line.trim_end() == "." {
                        break;
                    }
                    mail.text.push_str(&line);
                }
                kept.update(|mails| mails.push(mail.clone()));
                "250 taken\r\n"
            }
            "QUIT" => "221 bye\r\n",
            _ => "250 ok\r\n",
        };
        stream.write_all(answer.as_bytes()).await?;
    }
}
