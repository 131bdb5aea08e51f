//! Taking addresses, and then listening: one socket for each worker, and no second server hidden behind them.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, listen, socket_with};

use crate::config::Address;

/// How many connections may wait to be accepted, for each worker.
const BACKLOG: i32 = 4096;

/// Why an address cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Something listens there already.
    #[error("{0} is in use; stop the other server, or choose another address")]
    InUse(String),
    /// Anything else.
    #[error("cannot listen on {address}")]
    Failed {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Listening sockets, one for each worker.
pub enum Sockets {
    /// Sockets of one TCP address; the kernel spreads connections over them.
    Tcp(Vec<TcpListener>),
    /// Handles of one Unix socket.
    Unix(Vec<UnixListener>),
}

/// An address that was taken.
pub enum Bound {
    /// Nobody can connect before [`listen`](Bound::listen).
    Tcp(BoundTcp),
    /// It listens already: a socket that does not is taken for what a dead server has left behind.
    Unix(BoundUnix),
}

/// A TCP address that was taken.
pub struct BoundTcp {
    /// With the port that was taken for 0.
    pub address: SocketAddr,
    /// It does not listen yet.
    socket: OwnedFd,
}

/// A Unix socket that was made.
pub struct BoundUnix {
    path: PathBuf,
    listener: UnixListener,
}

/// Takes an address; the file of a Unix socket gets this mode.
pub fn take(address: &Address, mode: u32) -> Result<Bound, BindError> {
    match address {
        Address::Tcp(address) => BoundTcp::take(*address).map(Bound::Tcp),
        Address::Unix(path) => BoundUnix::take(path, mode).map(Bound::Unix),
    }
}

impl Bound {
    /// The address as it is announced.
    pub fn name(&self) -> String {
        match self {
            Bound::Tcp(bound) => bound.address.to_string(),
            Bound::Unix(bound) => unix_name(&bound.path),
        }
    }

    /// For TCP, with the port that was taken for 0.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Bound::Tcp(bound) => Some(bound.address),
            Bound::Unix(_) => None,
        }
    }

    /// For a Unix socket, the file to remove at the end.
    pub fn socket_file(&self) -> Option<PathBuf> {
        match self {
            Bound::Tcp(_) => None,
            Bound::Unix(bound) => Some(bound.path.clone()),
        }
    }

    /// Listens, with a socket for each worker.
    pub fn listen(self, workers: usize) -> Result<Sockets, BindError> {
        match self {
            Bound::Tcp(bound) => bound.listen(workers).map(Sockets::Tcp),
            Bound::Unix(bound) => bound.handles(workers).map(Sockets::Unix),
        }
    }
}

fn failed(address: String, source: io::Error) -> BindError {
    if source.kind() == io::ErrorKind::AddrInUse {
        BindError::InUse(address)
    } else {
        BindError::Failed { address, source }
    }
}

impl BoundTcp {
    /// Takes an address.
    pub fn take(address: SocketAddr) -> Result<Self, BindError> {
        let taken = || {
            let socket = open(address, false)?;
            let address = getsockname(&socket)?.try_into()?;
            Ok(BoundTcp { address, socket })
        };
        taken().map_err(|error| failed(address.to_string(), error))
    }

    /// Listens, with a socket for each worker.
    pub fn listen(self, workers: usize) -> Result<Vec<TcpListener>, BindError> {
        listen_all(self.socket, self.address, workers).map_err(|error| failed(self.address.to_string(), error))
    }
}

impl BoundUnix {
    fn take(path: &Path, mode: u32) -> Result<Self, BindError> {
        let listener = listen_at(path, mode).map_err(|error| failed(unix_name(path), error))?;
        Ok(BoundUnix { path: path.to_owned(), listener })
    }

    fn handles(self, workers: usize) -> Result<Vec<UnixListener>, BindError> {
        let others = (1..workers).map(|_| self.listener.try_clone()).collect::<io::Result<Vec<_>>>();
        let others = others.map_err(|error| failed(unix_name(&self.path), error))?;
        Ok(std::iter::once(self.listener).chain(others).collect())
    }
}

fn unix_name(path: &Path) -> String {
    format!("unix:{}", path.display())
}

/// The first socket is bound and listens before SO_REUSEPORT is set on it, so it cannot share the address with a server
/// that is there already, nor with one that takes it at the same time; only then it is opened to the sockets of our own
/// other workers.
fn listen_all(first: OwnedFd, address: SocketAddr, workers: usize) -> io::Result<Vec<TcpListener>> {
    listen(&first, BACKLOG)?;
    if workers > 1 {
        sockopt::set_socket_reuseport(&first, true)?;
    }
    let mut listeners = vec![TcpListener::from(first)];
    for _ in 1..workers {
        let socket = open(address, true)?;
        listen(&socket, BACKLOG)?;
        listeners.push(TcpListener::from(socket));
    }
    Ok(listeners)
}

fn open(address: SocketAddr, shared: bool) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if shared {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    bind(&socket, &address)?;
    Ok(socket)
}

fn listen_at(path: &Path, mode: u32) -> io::Result<UnixListener> {
    match UnixStream::connect(path) {
        Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
        // A socket that nobody listens on was left behind by a server that was killed. Any other file refuses as well,
        // and is somebody's.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && is_socket(path) => {
            std::fs::remove_file(path)?;
        }
        Err(_) => {}
    }
    // The file is never there with wider permissions than it is to have.
    let before = rustix::process::umask(Mode::from_raw_mode(!mode & 0o777));
    let listener = UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = listener?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn is_socket(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    fn any_port() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    #[test]
    fn a_second_server_on_an_address_is_told() {
        for workers in [1, 3] {
            let first = BoundTcp::take(any_port()).unwrap();
            let address = first.address;
            let beside = BoundTcp::take(address).unwrap();
            let _listening = first.listen(workers).unwrap();
            for others in [1, 2] {
                let second = BoundTcp::take(address).and_then(|bound| bound.listen(others));
                assert!(matches!(second, Err(BindError::InUse(_))), "{workers} {others}");
            }
            assert!(matches!(beside.listen(workers), Err(BindError::InUse(_))), "both took it before one listened");
        }
    }

    #[test]
    fn nobody_connects_before_it_listens() {
        let bound = BoundTcp::take(any_port()).unwrap();
        let address = bound.address;
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let listening = bound.listen(2).unwrap();
        assert!(TcpStream::connect(address).is_ok());
        drop(listening);
    }

    #[test]
    fn a_socket_left_behind_is_taken_over_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let address = Address::Unix(folder.path().join("proxy.sock"));
        let first = take(&address, 0o600).unwrap();
        assert!(matches!(take(&address, 0o600), Err(BindError::InUse(_))));
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &folder.path().join("proxy.sock").metadata().unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
        drop(first);
        assert!(take(&address, 0o600).is_ok());
    }
}
