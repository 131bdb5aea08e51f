//! Taking addresses: one listening socket for each worker, and no second server hidden behind them.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};

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
    Tcp(Vec<std::net::TcpListener>),
    /// Handles of one Unix socket.
    Unix(Vec<UnixListener>),
}

/// What was bound: its address as it is announced, and the file to remove at the end.
pub struct Bound {
    /// As printed: with the port that was taken for 0.
    pub name: String,
    /// For TCP.
    pub address: Option<SocketAddr>,
    /// For a Unix socket.
    pub path: Option<PathBuf>,
    /// One socket for each worker.
    pub sockets: Sockets,
}

/// Binds an address for a number of workers.
pub fn take(address: &Address, mode: u32, workers: usize) -> Result<Bound, BindError> {
    match address {
        Address::Tcp(address) => take_tcp(*address, workers).map_err(|error| failed(address.to_string(), error)),
        Address::Unix(path) => {
            take_unix(path, mode, workers).map_err(|error| failed(format!("unix:{}", path.display()), error))
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

/// The first socket is bound and listens before SO_REUSEPORT is set on it, so it cannot share the address with a server
/// that is there already; only then it is opened to the sockets of our own other workers.
fn take_tcp(address: SocketAddr, workers: usize) -> io::Result<Bound> {
    let first = open(address, false)?;
    let bound = first.local_addr()?;
    let mut sockets = vec![first];
    if workers > 1 {
        sockopt::set_socket_reuseport(&sockets[0], true)?;
        for _ in 1..workers {
            sockets.push(open(bound, true)?);
        }
    }
    Ok(Bound { name: bound.to_string(), address: Some(bound), path: None, sockets: Sockets::Tcp(sockets) })
}

fn open(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if shared {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(std::net::TcpListener::from(socket))
}

fn take_unix(path: &Path, mode: u32, workers: usize) -> io::Result<Bound> {
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
    let handles = (1..workers).map(|_| listener.try_clone()).collect::<io::Result<Vec<_>>>()?;
    let sockets = Sockets::Unix(std::iter::once(listener).chain(handles).collect());
    Ok(Bound { name: format!("unix:{}", path.display()), address: None, path: Some(path.to_owned()), sockets })
}

fn is_socket(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_server_on_an_address_is_told() {
        for workers in [1, 3] {
            let first = take(&Address::Tcp("127.0.0.1:0".parse().unwrap()), 0, workers).unwrap();
            let address = Address::Tcp(first.address.unwrap());
            for others in [1, 2] {
                assert!(matches!(take(&address, 0, others), Err(BindError::InUse(_))), "{workers} {others}");
            }
        }
    }

    #[test]
    fn a_socket_left_behind_is_taken_over_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let address = Address::Unix(folder.path().join("proxy.sock"));
        let first = take(&address, 0o600, 2).unwrap();
        assert!(matches!(take(&address, 0o600, 1), Err(BindError::InUse(_))));
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &folder.path().join("proxy.sock").metadata().unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
        drop(first);
        assert!(take(&address, 0o600, 1).is_ok());
    }
}
