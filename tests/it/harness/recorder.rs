//! A line between a client and a server, on which is noted what the client asks. Both sides see nothing of it.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::client::Address;

/// A listener that hands everything on.
pub struct Recorder {
    /// Where it listens.
    pub address: Address,
    asked: Arc<Mutex<Vec<u8>>>,
}

impl Recorder {
    /// Listens before a server.
    pub async fn before(server: &Address) -> Self {
        let Address::Tcp(server) = *server else { panic!("only TCP is handed on") };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = Address::Tcp(listener.local_addr().expect("an address"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let upstream = TcpStream::connect(server).await.expect("a running server");
                tokio::spawn(hand_on(client, upstream, Arc::clone(&noted)));
            }
        });
        Self { address, asked }
    }

    /// Method and target of every HTTP/1.1 request since the last time, in their order. What was answered is noted.
    pub fn taken(&self) -> Vec<(String, String)> {
        let bytes = std::mem::take(&mut *self.asked.lock().expect("nobody has panicked"));
        let text = String::from_utf8_lossy(&bytes);
        // A body of JSON has no line that ends so.
        let heads = text.split("\r\n").filter_map(|line| line.strip_suffix(" HTTP/1.1"));
        let request = |line: &str| {
            let (method, target) = line.split_once(' ')?;
            // The line begins where the body before it ended.
            let method: String = method.chars().rev().take_while(char::is_ascii_uppercase).collect();
            Some((method.chars().rev().collect(), target.to_owned()))
        };
        heads.filter_map(request).collect()
    }
}

async fn hand_on(client: TcpStream, server: TcpStream, noted: Arc<Mutex<Vec<u8>>>) {
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let asking = async {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
            noted.lock().expect("nobody has panicked").extend(&buffer[..length]);
            if to_server.write_all(&buffer[..length]).await.is_err() {
                break;
            }
        }
        drop(to_server);
    };
    let answering = async {
        let copied = tokio::io::copy(&mut from_server, &mut to_client).await;
        // A server that closes is seen to close; who is gone already needs not be told.
        to_client.shutdown().await.and(copied)
    };
    let _ends = tokio::join!(asking, answering);
}
