//! TCP connections and logins over them.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::error::{Error, ErrorKind, Result};

use super::driver::LinkState;
use super::pdu::{BHS_LEN, Bhs, Digests, Incoming, Outgoing, padding};
use super::proto::{Backoff, Login, LoginStep, LoginTarget, Negotiated, Window};
use super::told::Told;
use super::{Config, Portal};

/// A login is answered within this time or not at all.
const LOGIN_LIMIT: Duration = Duration::from_secs(15);
/// One address of a portal gets no more than this while others wait for their turn.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Redirects in a row; a SAN has one.
const MAX_REDIRECTS: usize = 8;
/// The longest login response, in bytes: ours is 8,192, some targets do not keep to it.
const MAX_LOGIN_SEGMENT: usize = 64 << 10;

/// A connection in the full feature phase.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    /// What came behind the last login response.
    pub(super) inbox: BytesMut,
    pub(super) negotiated: Negotiated,
    pub(super) window: Window,
    /// Where a permanent redirect (0102) has moved the target to.
    pub(super) moved_to: Option<Portal>,
    /// The portal that was asked for, before redirects.
    pub(super) asked: Portal,
    /// Where the connection leads, for messages.
    pub(super) portal: Portal,
    /// The same as an address.
    pub(super) peer: SocketAddr,
}

impl Connection {
    /// What watchers of the session are told of it.
    pub(super) fn state(&self) -> LinkState {
        LinkState::Up(self.asked.clone(), self.peer)
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) struct LoginFailure {
    pub(super) error: Error,
    /// Whether another attempt may succeed without anybody doing anything.
    pub(super) passes: Passes,
}

/// Whether a failure goes away by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passes {
    /// The network or the target's state (class 03).
    Perhaps,
    /// With one CHAP algorithm instead of a list.
    WithOneAlgorithm,
    /// "Target not found" (0203): only where it was found a moment before.
    WhileMoving,
    /// Wrong secret, no permission, broken protocol.
    No,
}

impl LoginFailure {
    fn perhaps(error: Error) -> Self {
        Self { error, passes: Passes::Perhaps }
    }
}

impl From<Error> for LoginFailure {
    fn from(error: Error) -> Self {
        Self { error, passes: Passes::No }
    }
}

/// Logs in through the first portal that lets us; follows redirects. `isid` is the session's. The log says why portals
/// were passed over, but for the last one, whose failure is the result.
pub(super) async fn log_in(
    portals: &[Portal],
    target: &LoginTarget,
    config: &Config,
    isid: [u8; 6],
    told: &mut Told,
) -> Result<Connection, LoginFailure> {
    let end = Instant::now() + config.timeout.min(LOGIN_LIMIT);
    let mut failure: Option<(&Portal, LoginFailure)> = None;
    for (index, portal) in portals.iter().enumerate() {
        // Each portal that is left gets its share of the time.
        let left = u32::try_from(portals.len() - index).unwrap_or(u32::MAX);
        let share = Instant::now() + end.saturating_duration_since(Instant::now()) / left;
        if let Some((before, failure)) = &failure {
            told.passed_over(before, &failure.error);
        }
        match log_in_at(portal, target, config, isid, share, told).await {
            Ok(connection) => {
                told.serves(portal);
                return Ok(connection);
            }
            Err(next) => failure = Some((portal, next)),
        }
    }
    let none = || Error::new(ErrorKind::Usage, "no portal to connect to").into();
    Err(failure.map_or_else(none, |(_, failure)| failure))
}

/// The same, trying again for as long as a login may take where the target says that it cannot serve *now*.
pub(super) async fn log_in_patiently(
    portals: &[Portal],
    target: &LoginTarget,
    config: &Config,
    isid: [u8; 6],
) -> Result<Connection> {
    let end = Instant::now() + config.timeout.min(LOGIN_LIMIT);
    let (mut backoff, mut told) = (Backoff::default(), Told::default());
    loop {
        let failure = match log_in(portals, target, config, isid, &mut told).await {
            Ok(connection) => return Ok(connection),
            Err(failure) => failure,
        };
        let wait = backoff.next_wait(random_u32()?);
        let again = failure.passes == Passes::Perhaps && failure.error.kind() == ErrorKind::Login;
        if !again || Instant::now() + wait >= end {
            return Err(failure.error);
        }
        tokio::time::sleep(wait).await;
    }
}

async fn log_in_at(
    portal: &Portal,
    target: &LoginTarget,
    config: &Config,
    isid: [u8; 6],
    end: Instant,
    told: &mut Told,
) -> Result<Connection, LoginFailure> {
    let mut moved_to = None;
    let mut seen = vec![portal.clone()];
    let mut config = config.clone();
    loop {
        let here = seen.last().expect("it begins with one").clone();
        let mut stream = connect(&here, config.timeout, end).await?;
        let mut inbox = BytesMut::with_capacity(16 << 10);
        let exchange = exchange(&mut stream, &mut inbox, target, &config, isid);
        let step = match timeout_at(end, exchange).await {
            Ok(Ok(step)) => step,
            Ok(Err(_)) | Err(_) if is_foreign(&inbox) => {
                return Err(LoginFailure::perhaps(foreign(&inbox, &here)));
            }
            Ok(Err(LoginFailure { passes: Passes::WithOneAlgorithm, error })) => {
                tracing::debug!("{here}: {error}: offering one CHAP algorithm");
                config.chap_algorithms.truncate(1);
                continue;
            }
            Ok(Err(failure)) => {
                let LoginFailure { error, passes } = failure;
                return Err(LoginFailure { error: error.context(&here), passes });
            }
            Err(_) => {
                let message = format!("{here}: no answer to the login");
                return Err(LoginFailure::perhaps(Error::new(ErrorKind::NoAnswer, message)));
            }
        };
        match step {
            LoginStep::Done { negotiated, window } => {
                let asked = portal.clone();
                let peer = stream.peer_addr().map_err(|error| lost(&error))?;
                let portal = here;
                return Ok(Connection {
                    stream,
                    inbox,
                    negotiated,
                    window,
                    moved_to,
                    asked,
                    portal,
                    peer,
                });
            }
            LoginStep::Redirect { address, permanent } => {
                let next = parse_target_address(&address, &here)?;
                told.redirected(portal, format!("{here} redirects to {next}"));
                if seen.contains(&next) || seen.len() > MAX_REDIRECTS {
                    return Err(Error::new(
                        ErrorKind::Login,
                        format!("{here} redirects to {next}: the redirects do not come to an end"),
                    )
                    .into());
                }
                // A temporary redirect holds for this login only, and so does whatever follows it.
                let stays = permanent && (moved_to.is_some() || seen.len() == 1);
                moved_to = stays.then(|| next.clone());
                seen.push(next);
            }
            LoginStep::Refused { error, class, detail } => {
                let passes = match (class, detail) {
                    (3, _) => Passes::Perhaps,
                    (2, 3) => Passes::WhileMoving,
                    _ => Passes::No,
                };
                return Err(LoginFailure { error: error.context(&here), passes });
            }
            LoginStep::Send(_) => {
                unreachable!("exchange() goes on for as long as there is something to send")
            }
        }
    }
}

/// Runs one login to its end.
async fn exchange(
    stream: &mut TcpStream,
    inbox: &mut BytesMut,
    target: &LoginTarget,
    config: &Config,
    isid: [u8; 6],
) -> Result<LoginStep, LoginFailure> {
    let (mut login, mut request) = Login::start(config, target, isid, random()?)?;
    loop {
        send(stream, request).await?;
        let choosing = login.is_choosing_algorithm();
        let step = match receive(stream, inbox, MAX_LOGIN_SEGMENT).await {
            Ok((Incoming::Login(response), segment)) => {
                login.handle(response, &segment).map_err(LoginFailure::from)
            }
            Ok(_) => {
                let message = "login: the target answered something else";
                Err(Error::new(ErrorKind::Protocol, message).into())
            }
            Err(failure) => Err(failure),
        };
        match step {
            Ok(LoginStep::Send(next)) => request = next,
            Ok(LoginStep::Refused { error, .. }) | Err(LoginFailure { error, .. }) if choosing => {
                return Err(LoginFailure { error, passes: Passes::WithOneAlgorithm });
            }
            step => return step,
        }
    }
}

/// Sends a PDU of a phase without digests.
pub(super) async fn send(stream: &mut TcpStream, pdu: Outgoing) -> Result<(), LoginFailure> {
    let mut out = BytesMut::new();
    pdu.write(Digests::default(), &mut out);
    stream.write_all(&out).await.map_err(|error| lost(&error))
}

/// Receives a PDU of a phase without digests, whole, with at most `longest` bytes of data.
pub(super) async fn receive(
    stream: &mut TcpStream,
    inbox: &mut BytesMut,
    longest: usize,
) -> Result<(Incoming, Vec<u8>), LoginFailure> {
    loop {
        if is_foreign(inbox) {
            let message = "the answer is no PDU of a target";
            return Err(Error::new(ErrorKind::Protocol, message).into());
        }
        if let Some(bytes) = inbox.first_chunk::<BHS_LEN>() {
            let bhs = Bhs(*bytes);
            let (start, len) = (BHS_LEN + bhs.ahs_len(), bhs.data_len());
            if len > longest {
                let message = format!("the target sent a PDU with {len} bytes of text");
                return Err(Error::new(ErrorKind::Protocol, message).into());
            }
            if inbox.len() >= start + len + padding(len) {
                let incoming = Incoming::parse(&bhs).map_err(|opcode| {
                    let message = format!("login: the target sent opcode 0x{opcode:02x}");
                    Error::new(ErrorKind::Protocol, message)
                })?;
                let segment = inbox[start..start + len].to_vec();
                inbox.advance(start + len + padding(len));
                return Ok((incoming, segment));
            }
        }
        match stream.read_buf(inbox).await {
            Ok(0) => {
                let message = "the target closed the connection during the login";
                return Err(LoginFailure::perhaps(Error::new(ErrorKind::Connect, message)));
            }
            Ok(_) => {}
            Err(error) => return Err(lost(&error)),
        }
    }
}

/// Whether this cannot be the beginning of a target's PDU, and so comes from a server of another protocol: by its opcode
/// (RFC 7143 section 11.2.1.2), or because it is text, where the fourth byte of a PDU is reserved, a status or a version.
fn is_foreign(inbox: &[u8]) -> bool {
    let is_targets = |opcode| matches!(opcode, 0x20..=0x26 | 0x31 | 0x32 | 0x3f);
    let is_text = |bytes: &[u8; 4]| bytes.iter().all(|byte| matches!(byte, b' '..=b'~'));
    inbox.first().is_some_and(|byte| !is_targets(byte & 0x3f))
        || inbox.first_chunk().is_some_and(is_text)
}

/// What is said of such a server.
fn foreign(inbox: &[u8], portal: &Portal) -> Error {
    let is_line = |byte: &&u8| matches!(**byte, b' '..=b'~');
    let said: Vec<u8> = inbox.iter().take_while(is_line).take(40).copied().collect();
    let answers = match String::from_utf8_lossy(&said) {
        line if line.len() >= 4 => format!(": it answers \"{}\"", line.escape_debug()),
        _ => String::new(),
    };
    Error::new(ErrorKind::Connect, format!("{portal} does not speak iSCSI{answers}"))
        .with_hint("is this the SAN's portal? its port is 3260 where nobody has chosen another")
}

fn lost(error: &std::io::Error) -> LoginFailure {
    let message = format!("the connection broke during the login: {error}");
    LoginFailure::perhaps(Error::new(ErrorKind::Connect, message))
}

/// Connects to the first address of the portal's name that answers.
async fn connect(
    portal: &Portal,
    timeout: Duration,
    end: Instant,
) -> Result<TcpStream, LoginFailure> {
    let failure = |kind, why: String| {
        LoginFailure::perhaps(Error::new(kind, format!("connect {portal}: {why}")))
    };
    let failed = |why| failure(ErrorKind::Connect, why);
    let lookup = tokio::net::lookup_host((&*portal.host, portal.port));
    let addresses: Vec<SocketAddr> = match timeout_at(end, lookup).await {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => return Err(failed(format!("the name does not resolve: {error}"))),
        Err(_) => return Err(failed("the name was not resolved in time".into())),
    };
    let (mut kind, mut why) = (ErrorKind::Connect, "the name has no address".to_owned());
    let several = addresses.len() > 1;
    for address in addresses {
        let end = if several { end.min(Instant::now() + CONNECT_LIMIT) } else { end };
        match timeout_at(end, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                set_options(&stream, timeout).map_err(|error| {
                    Error::io(format_args!("{portal}: set socket options"), error)
                })?;
                return Ok(stream);
            }
            Ok(Err(error)) if error.kind() != std::io::ErrorKind::TimedOut => {
                (kind, why) = (ErrorKind::Connect, describe(&error));
            }
            Ok(Err(_)) | Err(_) => (kind, why) = (ErrorKind::NoAnswer, "no answer".to_owned()),
        }
    }
    Err(failure(kind, why))
}

fn describe(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        std::io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
        _ => error.to_string(),
    }
}

/// Small requests go out at once, and the kernel notices a peer that is gone.
fn set_options(stream: &TcpStream, timeout: Duration) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(30))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)?;
    // The kernel takes no more milliseconds than an `int` holds.
    socket.set_tcp_user_timeout(Some(
        timeout.min(Duration::from_millis(i32::MAX.unsigned_abs().into())),
    ))
}

/// `host[:port][,portal group tag]`, as TargetAddress has it (RFC 7143 section 13.8), said by the portal that was asked.
///
/// A link-local address means something on one interface only, that of the portal that named it; and a target that
/// listens everywhere and says so (0.0.0.0, [::]) means the address at which it was asked.
pub(super) fn parse_target_address(address: &str, asked: &Portal) -> Result<Portal> {
    let host = address.split_once(',').map_or(address, |(host, _)| host);
    let mut portal = host.parse::<Portal>().map_err(|_| {
        Error::new(
            ErrorKind::Protocol,
            format!("the target named an address that is none: \"{}\"", address.escape_debug()),
        )
    })?;
    if portal.host.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified()) {
        portal.host.clone_from(&asked.host);
    }
    let is_link_local = portal.host.parse::<Ipv6Addr>().is_ok_and(|address| {
        // fe80::/10; with a zone it does not parse.
        address.segments()[0] & 0xffc0 == 0xfe80
    });
    if let (true, Some((_, zone))) = (is_link_local, asked.host.split_once('%')) {
        portal.host = format!("{}%{zone}", portal.host);
    }
    Ok(portal)
}

/// An ISID of the random format (section 11.12.5): qualifier bits 10, then 24 random bits and 16 more. No two sessions
/// share one, so none is ever reinstated away by another process with our initiator name.
pub(super) fn random_isid() -> Result<[u8; 6]> {
    let [a, b, c, d, e] = random()?;
    Ok([0x80, a, b, c, d, e])
}

pub(super) fn random_u32() -> Result<u32> {
    Ok(u32::from_ne_bytes(random()?))
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| {
        Error::new(ErrorKind::Io, format!("no random numbers from the system: {error}"))
    })?;
    Ok(bytes)
}
