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

/// What was taken: its address as it is announced, and the file to remove at the end. Over TCP nobody can connect before
/// [`listen`](Bound::listen).
pub struct Bound {
    /// As printed: with the port that was taken for 0.
    pub name: String,
    /// For TCP.
    pub address: Option<SocketAddr>,
    /// For a Unix socket.
    pub path: Option<PathBuf>,
    socket: Taken,
}

/// A socket that has its address.
enum Taken {
    /// It does not listen yet.
    Tcp(OwnedFd),
    /// It listens: one that does not is taken for what a dead server has left behind.
    Unix(UnixListener),
}

/// Takes an address; the file of a Unix socket gets this mode.
pub fn take(address: &Address, mode: u32) -> Result<Bound, BindError> {
    match address {
        Address::Tcp(address) => take_tcp(*address).map_err(|error| failed(address.to_string(), error)),
        Address::Unix(path) => take_unix(path, mode).map_err(|error| failed(format!("unix:{}", path.display()), error)),
    }
}

impl Bound {
    /// Listens, with a socket for each worker.
    pub fn listen(self, workers: usize) -> Result<Sockets, BindError> {
        let sockets = match (self.socket, self.address) {
            (Taken::Unix(listener), _) => handles(listener, workers).map(Sockets::Unix),
            (Taken::Tcp(socket), Some(address)) => listen_all(socket, address, workers).map(Sockets::Tcp),
            (Taken::Tcp(_), None) => Err(io::ErrorKind::AddrNotAvailable.into()),
        };
        sockets.map_err(|error| failed(self.name, error))
    }
}

fn failed(address: String, source: io::Error) -> BindError {
    if source.kind() == io::ErrorKind::AddrInUse {
        BindError::InUse(address)
    } else {
        BindError::Failed { address, source }
    }
}

fn take_tcp(address: SocketAddr) -> io::Result<Bound> {
    let socket = open(address, false)?;
    let address = getsockname(&socket)?.try_into().map_err(io::Error::from)?;
    Ok(Bound { name: SocketAddr::to_string(&address), address: Some(address), path: None, socket: Taken::Tcp(socket) })
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

fn handles(listener: UnixListener, workers: usize) -> io::Result<Vec<UnixListener>> {
    let others = (1..workers).map(|_| listener.try_clone()).collect::<io::Result<Vec<_>>>()?;
    Ok(std::iter::once(listener).chain(others).collect())
}

fn take_unix(path: &Path, mode: u32) -> io::Result<Bound> {
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
    let (name, path) = (format!("unix:{}", path.display()), Some(path.to_owned()));
    Ok(Bound { name, address: None, path, socket: Taken::Unix(listener) })
}

fn is_socket(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn a_second_server_on_an_address_is_told() {
        let any = Address::Tcp("127.0.0.1:0".parse().unwrap());
        for workers in [1, 3] {
            let first = take(&any, 0).unwrap();
            let address = Address::Tcp(first.address.unwrap());
            let beside = take(&address, 0).unwrap();
            let _listening = first.listen(workers).unwrap();
            for others in [1, 2] {
                let second = take(&address, 0).and_then(|bound| bound.listen(others));
                assert!(matches!(second, Err(BindError::InUse(_))), "{workers} {others}");
            }
            assert!(matches!(beside.listen(workers), Err(BindError::InUse(_))), "both took it before one listened");
        }
    }

    #[test]
    fn nobody_connects_before_it_listens() {
        let bound = take(&Address::Tcp("127.0.0.1:0".parse().unwrap()), 0).unwrap();
        let address = bound.address.unwrap();
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
