//! sd_notify(3): tells systemd how far a service is.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// What systemd waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The mount is there.
    Ready,
    /// It is being taken away, and the logout follows.
    Stopping,
}

/// Tells whoever started us and wants to know. There is nobody to tell of a failure.
pub(crate) fn notify(state: State) {
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET") {
        if let Err(error) = send(&socket, state) {
            tracing::debug!("NOTIFY_SOCKET: {error}");
        }
    }
}

fn send(socket: &OsStr, state: State) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let sender = UnixDatagram::unbound()?;
    // A service manager that is stuck must not hold up the mount.
    sender.set_nonblocking(true)?;
    let message = match state {
        State::Ready => "READY=1",
        State::Stopping => "STOPPING=1",
    };
    sender.send_to_addr(message.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(receiver: &UnixDatagram, socket: &OsStr) -> String {
        send(socket, State::Ready).unwrap();
        let mut message = [0; 64];
        let len = receiver.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..len]).into_owned()
    }

    #[test]
    fn sockets_with_a_path_and_abstract_ones() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let receiver = UnixDatagram::bind(&path).unwrap();
        assert_eq!(received(&receiver, path.as_os_str()), "READY=1");

        let name = format!("snapbrowse-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let receiver = UnixDatagram::bind_addr(&address).unwrap();
        assert_eq!(received(&receiver, OsStr::new(&format!("@{name}"))), "READY=1");

        assert!(send(OsStr::new("/no/such/socket"), State::Ready).is_err());
    }
}
