//! Addresses where nobody answers: one that refuses, one that stays silent.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};

/// An address that refuses every connection. Its port stays ours, so nobody else can begin to listen there.
pub struct Refusing {
    /// Where nobody listens.
    pub addr: SocketAddr,
    _bound: TcpSocket,
}

impl Refusing {
    /// Takes a free port without listening on it.
    pub fn new() -> Self {
        let bound = TcpSocket::new_v4().expect("a socket");
        bound.bind(loopback()).expect("a free port");
        Self { addr: bound.local_addr().expect("a bound socket"), _bound: bound }
    }
}

/// An address that never completes a handshake: its backlog is full, so the kernel drops what comes.
pub struct Silent {
    /// Where nobody answers.
    pub addr: SocketAddr,
    _listener: tokio::net::TcpListener,
    _filling: Vec<TcpStream>,
}

impl Silent {
    /// Listens with the shortest backlog and fills it.
    pub async fn new() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(loopback()).expect("a free port");
        let listener = socket.listen(1).expect("a listener");
        let addr = listener.local_addr().expect("a bound listener");
        let mut filling = Vec::new();
        // Full is when a connection of ours is not completed at once: on loopback there is nothing else to wait for.
        while let Ok(stream) = tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(addr)).await {
            filling.push(stream.expect("the backlog takes it"));
        }
        Self { addr, _listener: listener, _filling: filling }
    }
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}
