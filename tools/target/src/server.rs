//! A running target: portals, connections, and the handles by which a test steers them.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::chap::Chap;
use crate::connection;
use crate::fault::{AsyncMessage, Close, Rule, Script};
use crate::lock;
use crate::login::Negotiated;
use crate::lun::Lun;
use crate::stats::{Counters, Stats};
use crate::wire::Pdu;

/// What a target answers to an offer of digests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DigestSupport {
    /// `None` only.
    None,
    /// What stands first in the initiator's list.
    #[default]
    Allow,
    /// `CRC32C` only.
    Require,
}

/// An iSCSI target node.
#[derive(Clone, Debug)]
pub struct Target {
    name: String,
    pub(crate) alias: Option<String>,
    pub(crate) luns: Vec<Arc<Lun>>,
    pub(crate) chap: Option<Chap>,
    allowed: Option<Vec<String>>,
}

impl Target {
    /// A target without LUNs that lets everyone in.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), alias: None, luns: Vec::new(), chap: None, allowed: None }
    }

    /// Its iSCSI name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same with a logical unit more.
    #[must_use]
    pub fn lun(mut self, lun: Lun) -> Self {
        self.luns.push(Arc::new(lun));
        self
    }

    /// Its logical units.
    pub fn luns(&self) -> impl Iterator<Item = &Lun> {
        self.luns.iter().map(AsRef::as_ref)
    }

    /// The same with TargetAlias.
    #[must_use]
    pub fn alias(mut self, alias: impl Into<String>) -> Self {
        self.alias = Some(alias.into());
        self
    }

    /// The same with CHAP.
    #[must_use]
    pub fn chap(mut self, chap: Chap) -> Self {
        self.chap = Some(chap);
        self
    }

    /// The same, hidden from every initiator but these.
    #[must_use]
    pub fn only_for(mut self, initiators: &[&str]) -> Self {
        self.allowed = Some(initiators.iter().map(|&name| name.to_owned()).collect());
        self
    }

    pub(crate) fn is_visible_to(&self, initiator: &str) -> bool {
        self.allowed.as_ref().is_none_or(|names| names.iter().any(|name| name == initiator))
    }
}

/// What a server is like.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen; port 0 picks one.
    pub portals: Vec<SocketAddr>,
    /// The targets, each reachable through every portal.
    pub targets: Vec<Target>,
    /// CHAP in discovery sessions.
    pub discovery_chap: Option<Chap>,
    /// Whatever the initiator waits for comes this much later (to the millisecond): the connection, each answer to a
    /// login, a command or any other request. Requests do not wait for each other.
    pub latency: Duration,
    /// Commands that a session may have in flight: the width of the command window.
    pub queue_depth: u32,
    /// Send GOOD in the last Data-In instead of a SCSI Response.
    pub status_in_data: bool,
    /// HeaderDigest.
    pub header_digest: DigestSupport,
    /// DataDigest.
    pub data_digest: DigestSupport,
    /// Our MaxBurstLength in bytes.
    pub max_burst: usize,
    /// Our DefaultTime2Wait, and Time2Wait in logout responses, in seconds.
    pub time2wait: u16,
    /// Whether a new session starts with unit attention 29/00 on each LUN.
    pub power_on_attention: bool,
    /// The target sends NOP-Ins of its own this often.
    pub nop_interval: Option<Duration>,
    /// No Data-In has more data than this, whatever the initiator takes.
    pub segment: usize,
    /// Keep the requests for [`Server::requests`].
    pub record: bool,
    /// Take what could change something from an initiator, and only count it. Otherwise the server panics over it when it
    /// is dropped, so that no test passes whose initiator did more than read.
    pub forgiving: bool,
}

impl Default for Config {
    /// One portal on 127.0.0.1, no targets, no latency, 128 commands.
    fn default() -> Self {
        Self {
            portals: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))],
            targets: Vec::new(),
            discovery_chap: None,
            latency: Duration::ZERO,
            queue_depth: 128,
            status_in_data: true,
            header_digest: DigestSupport::Allow,
            data_digest: DigestSupport::Allow,
            max_burst: 1 << 20,
            time2wait: 0,
            power_on_attention: true,
            nop_interval: None,
            segment: 1 << 18,
            record: false,
            forgiving: false,
        }
    }
}

/// What connections share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) targets: Vec<Arc<Target>>,
    pub(crate) portals: Vec<SocketAddr>,
    pub(crate) script: Script,
    pub(crate) counters: Counters,
    requests: Mutex<Vec<Request>>,
    latency_nanos: AtomicU64,
    connections: Mutex<Connections>,
}

/// A request as it came: its header and its data.
#[derive(Clone, Debug)]
pub struct Request {
    /// The basic header segment (RFC 7143 section 11.2.1).
    pub header: [u8; 48],
    /// The data segment.
    pub data: Bytes,
}

impl Request {
    /// The opcode without the immediate bit.
    pub fn opcode(&self) -> u8 {
        self.header[0] & 0x3f
    }

    /// Whether it is marked for immediate delivery.
    pub fn is_immediate(&self) -> bool {
        self.header[0] & 0x40 != 0
    }

    /// The 32-bit field at this byte: 16 is the Initiator Task Tag, 24 CmdSN, 28 ExpStatSN in most requests.
    pub fn field(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.header[at..at + 4].try_into().expect("four bytes"))
    }
}

#[derive(Default)]
struct Connections {
    next: u64,
    open: HashMap<u64, Entry>,
}

struct Entry {
    portal: usize,
    /// Initiator, ISID and target of a normal session, once logged in.
    session: Option<(String, [u8; 6], String)>,
    orders: watch::Sender<Option<Order>>,
}

/// What a connection is told from outside.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    Close(Close),
    Send(AsyncMessage),
}

impl Shared {
    pub(crate) fn record(&self, pdu: &Pdu) {
        if self.config.record {
            lock(&self.requests).push(Request { header: pdu.bhs, data: pdu.data.clone() });
        }
    }

    pub(crate) fn latency(&self) -> Duration {
        Duration::from_nanos(self.latency_nanos.load(Ordering::Relaxed))
    }

    pub(crate) fn register(&self, portal: usize) -> (u64, watch::Receiver<Option<Order>>) {
        let (orders, receiver) = watch::channel(None);
        let mut connections = lock(&self.connections);
        let id = connections.next;
        connections.next += 1;
        connections.open.insert(id, Entry { portal, session: None, orders });
        (id, receiver)
    }

    pub(crate) fn unregister(&self, id: u64) {
        lock(&self.connections).open.remove(&id);
    }

    /// A normal session is logged in: an older one with the same initiator, ISID and target is reinstated away
    /// (RFC 7143 section 6.3.5).
    pub(crate) fn logged_in(&self, id: u64, session: &Negotiated) {
        let Some(target) = &session.target else {
            return;
        };
        let name = (session.initiator.clone(), session.isid, target.name().to_owned());
        let mut connections = lock(&self.connections);
        for (other, entry) in &mut connections.open {
            if *other != id && entry.session.as_ref() == Some(&name) {
                entry.orders.send_replace(Some(Order::Close(Close::Fin)));
            }
        }
        if let Some(entry) = connections.open.get_mut(&id) {
            entry.session = Some(name);
        }
    }

    fn order(&self, order: Order, to: impl Fn(&Entry) -> bool) {
        for entry in lock(&self.connections).open.values().filter(|entry| to(entry)) {
            entry.orders.send_replace(Some(order));
        }
    }
}

/// A target that listens until it is dropped.
pub struct Server {
    shared: Arc<Shared>,
    listeners: Mutex<Vec<Option<JoinHandle<()>>>>,
}

impl Server {
    /// Listens on all portals of `config`.
    pub async fn start(mut config: Config) -> io::Result<Self> {
        let mut sockets = Vec::new();
        for portal in &config.portals {
            sockets.push(TcpListener::bind(portal).await?);
        }
        let portals = sockets.iter().map(TcpListener::local_addr).collect::<io::Result<_>>()?;
        let targets = std::mem::take(&mut config.targets).into_iter().map(Arc::new).collect();
        let shared = Arc::new(Shared {
            latency_nanos: AtomicU64::new(nanos(config.latency)),
            config,
            targets,
            portals,
            script: Script::default(),
            counters: Counters::default(),
            requests: Mutex::default(),
            connections: Mutex::default(),
        });
        let listeners = sockets.into_iter().enumerate();
        let listeners = listeners.map(|(index, socket)| Some(listen(&shared, index, socket)));
        Ok(Self { listeners: Mutex::new(listeners.collect()), shared })
    }

    /// The first portal.
    pub fn portal(&self) -> SocketAddr {
        self.shared.portals[0]
    }

    /// All portals in the order of the configuration.
    pub fn portals(&self) -> &[SocketAddr] {
        &self.shared.portals
    }

    /// A rule more.
    pub fn inject(&self, rule: Rule) {
        self.shared.script.add(rule);
    }

    /// Forgets all rules.
    pub fn clear_rules(&self) {
        self.shared.script.clear();
    }

    /// What has been seen so far.
    pub fn stats(&self) -> Stats {
        self.shared.counters.snapshot()
    }

    /// Waits until what has been seen is as wanted.
    pub async fn wait_for(&self, wanted: impl Fn(&Stats) -> bool) -> Stats {
        self.shared.counters.wait_for(wanted).await
    }

    /// Every request of the full-feature phase so far, where [`Config::record`] says so.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.requests).clone()
    }

    /// A logical unit of the target with this index, to change it while it is served.
    ///
    /// # Panics
    /// Where there is no such target or unit.
    pub fn lun(&self, target: usize, number: u16) -> Arc<Lun> {
        let luns = &self.shared.targets[target].luns;
        let lun = luns.iter().find(|lun| lun.number == number);
        Arc::clone(lun.expect("a unit that the caller configured"))
    }

    /// From now on each answer comes this much later.
    pub fn set_latency(&self, latency: Duration) {
        self.shared.latency_nanos.store(nanos(latency), Ordering::Relaxed);
    }

    /// Ends all connections.
    pub fn close_connections(&self, how: Close) {
        self.shared.order(Order::Close(how), |_| true);
    }

    /// Sends an asynchronous message on all connections.
    pub fn send_async(&self, message: AsyncMessage) {
        self.shared.order(Order::Send(message), |_| true);
    }

    /// A portal stops listening and its connections end; afterwards connections are refused.
    pub async fn stop_portal(&self, index: usize, how: Close) {
        let listener = lock(&self.listeners)[index].take();
        if let Some(listener) = listener {
            listener.abort();
            let _ = listener.await;
        }
        self.shared.order(Order::Close(how), |entry| entry.portal == index);
    }

    /// A stopped portal listens again, on the same port.
    pub async fn start_portal(&self, index: usize) -> io::Result<()> {
        let socket = TcpListener::bind(self.shared.portals[index]).await?;
        lock(&self.listeners)[index] = Some(listen(&self.shared, index, socket));
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for listener in lock(&self.listeners).drain(..).flatten() {
            listener.abort();
        }
        self.close_connections(Close::Fin);
        let forbidden = self.stats().forbidden;
        let excused = self.shared.config.forgiving || std::thread::panicking();
        assert!(forbidden == 0 || excused, "{forbidden} commands were not for reading");
    }
}

fn listen(shared: &Arc<Shared>, index: usize, socket: TcpListener) -> JoinHandle<()> {
    let shared = Arc::clone(shared);
    let accept = async move {
        loop {
            // An error concerns the one connection that failed before it was taken.
            if let Ok((stream, _)) = socket.accept().await {
                tokio::spawn(connection::serve(Arc::clone(&shared), stream, index));
            }
        }
    };
    tokio::spawn(accept)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
