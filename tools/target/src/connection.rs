//! One TCP connection: login, then the full-feature phase.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::answer::{self, Asked, Out, Outcome, StatSn, Step};
use crate::fault::{Close, Fault, Occasion};
use crate::keys::Keys;
use crate::login::{Login, Negotiated, Verdict};
use crate::lun::Lun;
use crate::scsi::{self, Device};
use crate::sender::{Sender, Session};
use crate::sense::Sense;
use crate::server::{Order, Shared, Target};
use crate::text::Exchange;
use crate::wire::{self, Digests, NO_TAG, Pdu, ReadError, request, response};

/// Steps that may wait for the socket; whoever has more waits.
const QUEUE: usize = 256;

/// Reject reasons (RFC 7143 section 11.17.1).
const DATA_DIGEST_ERROR: u8 = 0x02;
const SNACK_REJECT: u8 = 0x03;
const PROTOCOL_ERROR: u8 = 0x04;
const COMMAND_NOT_SUPPORTED: u8 = 0x05;

/// Serves one connection until it ends.
pub(crate) async fn serve(shared: Arc<Shared>, stream: TcpStream, portal: usize) {
    shared.counters.update(|stats| {
        stats.connections += 1;
        stats.open_connections += 1;
    });
    let (id, orders) = shared.register(portal);
    let faults = shared.script.faults(portal, &Occasion::Connect);
    let _ = stream.set_nodelay(true);
    let (reader, half) = stream.into_split();
    let session = Arc::new(Session::new(shared.config.queue_depth));
    let (steps, queue) = mpsc::channel(QUEUE);
    let mut writer =
        tokio::spawn(Sender::new(half, Arc::clone(&session)).run(queue, orders.clone()));
    let mut reader = BufReader::with_capacity(64 * 1024, reader);

    let connection = Connection { id, portal, shared: Arc::clone(&shared), session, steps };
    tokio::select! {
        () = connection.converse(&mut reader, faults, orders) => writer.abort(),
        _ = &mut writer => {
            // Unread bytes would turn the end into a reset, which may overtake the last answer.
            let drain = async { while reader.read_u8().await.is_ok() {} };
            let _ = tokio::time::timeout(Duration::from_secs(1), drain).await;
        }
    }
    shared.unregister(id);
    shared.counters.update(|stats| stats.open_connections -= 1);
}

struct Connection {
    id: u64,
    portal: usize,
    shared: Arc<Shared>,
    session: Arc<Session>,
    steps: mpsc::Sender<Step>,
}

type Reader = BufReader<OwnedReadHalf>;

impl Connection {
    async fn converse(
        self,
        reader: &mut Reader,
        faults: Vec<Fault>,
        orders: watch::Receiver<Option<Order>>,
    ) {
        let mut greeting = Vec::new();
        faults.iter().for_each(|fault| answer::spoil(&mut greeting, fault));
        for step in greeting {
            match step {
                Step::Pause(time) => tokio::time::sleep(time).await,
                step => self.send(step).await,
            }
        }
        // The kernel has answered the connection at once.
        self.delay().await;
        let Some(agreed) = self.login(reader).await else {
            // The writer ends the connection after the refusal, and this task with it.
            std::future::pending::<()>().await;
            return;
        };
        let discovery = agreed.target.is_none();
        self.shared.counters.update(|stats| {
            stats.normal_sessions += u64::from(!discovery);
            stats.discovery_sessions += u64::from(discovery);
        });
        self.shared.logged_in(self.id, &agreed);
        FullFeature::new(self, agreed).run(reader, orders).await;
    }

    async fn send(&self, step: Step) {
        // Without a writer the connection has ended, and this task ends too.
        let _ = self.steps.send(step).await;
    }

    /// Waits as long as the script lets the initiator wait for each answer.
    async fn delay(&self) {
        let latency = self.shared.latency();
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
    }

    /// The login phase; `None` after a refusal.
    async fn login(&self, reader: &mut Reader) -> Option<Box<Negotiated>> {
        let mut login = Login::new(&self.shared.config, &self.shared.targets, self.portal);
        loop {
            let Ok(Some(pdu)) = wire::read_pdu(reader, Digests::default()).await else {
                self.send(Step::Close(Close::Fin)).await;
                return None;
            };
            if pdu.opcode() != request::LOGIN {
                let what = format!("opcode {:#04x} before the login", pdu.opcode());
                self.shared.counters.violation(what);
                self.send(Step::Close(Close::Fin)).await;
                return None;
            }
            self.session.start(pdu.cmd_sn());
            let faults = self.shared.script.faults(self.portal, &Occasion::Login);
            let verdict = login.handle(&pdu, &faults);
            login.violations().into_iter().for_each(|what| self.shared.counters.violation(what));
            let (reply, agreed, refused) = match verdict {
                Verdict::Reply(reply) => (reply, None, false),
                Verdict::Done(reply, agreed) => (reply, Some(agreed), false),
                Verdict::Refuse(reply) => (reply, None, true),
            };
            let mut steps = vec![Step::Send(Out::new(reply, StatSn::Advance))];
            faults.iter().for_each(|fault| answer::spoil(&mut steps, fault));
            self.delay().await;
            for step in steps {
                self.send(step).await;
            }
            if refused {
                self.send(Step::Close(Close::Fin)).await;
                return None;
            }
            if let Some(agreed) = agreed {
                self.send(Step::Digests(agreed.digests)).await;
                return Some(agreed);
            }
        }
    }
}

/// The full-feature phase of one connection, which is one session (MaxConnections=1).
struct FullFeature {
    connection: Connection,
    agreed: Box<Negotiated>,
    text: Exchange,
    /// Answers that wait for their time.
    waiting: JoinSet<()>,
    /// How many unit attentions of each LUN this session has been told.
    told: HashMap<u16, usize>,
    /// LUNs whose first command has met 29/00.
    greeted: HashSet<u16>,
    last_exp_stat_sn: Option<u32>,
}

impl FullFeature {
    fn new(connection: Connection, agreed: Box<Negotiated>) -> Self {
        let luns = agreed.target.iter().flat_map(|target| &target.luns);
        let told = luns.map(|lun| (lun.number, lun.attentions_so_far())).collect();
        Self {
            connection,
            agreed,
            text: Exchange::default(),
            waiting: JoinSet::new(),
            told,
            greeted: HashSet::new(),
            last_exp_stat_sn: None,
        }
    }

    fn shared(&self) -> &Shared {
        &self.connection.shared
    }

    fn violation(&self, what: impl Into<String>) {
        self.shared().counters.violation(what);
    }

    fn faults(&self, occasion: &Occasion<'_>) -> Vec<Fault> {
        self.shared().script.faults(self.connection.portal, occasion)
    }

    async fn run(mut self, reader: &mut Reader, mut orders: watch::Receiver<Option<Order>>) {
        let interval = self.shared().config.nop_interval.unwrap_or(Duration::from_secs(1 << 30));
        let mut pings = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
        loop {
            // A PDU must be read to its end, so the other events wait only between two.
            let ready = async {
                let _ = tokio::io::AsyncBufReadExt::fill_buf(reader).await;
            };
            tokio::select! {
                () = ready => {}
                _ = pings.tick() => {
                    self.ping().await;
                    continue;
                }
                changed = orders.changed() => {
                    let order = *orders.borrow_and_update();
                    match (changed, order) {
                        (Ok(()), Some(Order::Send(message))) => {
                            self.dispatch(answer::async_message(message, [0; 8])).await;
                        }
                        // The writer obeys an order to close.
                        _ => std::future::pending().await,
                    }
                    continue;
                }
            }
            match wire::read_pdu(reader, self.agreed.digests).await {
                Ok(Some(pdu)) => self.handle(pdu).await,
                Ok(None) | Err(ReadError::Lost) => return,
                Err(ReadError::Broken(what)) => {
                    self.violation(what);
                    let header = Pdu::new(0, 0);
                    let reject = answer::reject(DATA_DIGEST_ERROR, &header);
                    let close = Step::Close(Close::Fin);
                    self.dispatch(vec![Step::Send(reject), close]).await;
                }
            }
        }
    }

    async fn ping(&mut self) {
        let pdu = Pdu::new(response::NOP_IN, 0x80).with_u32(16, NO_TAG).with_u32(20, 1);
        self.dispatch(vec![Step::Send(Out::new(pdu, StatSn::Peek))]).await;
    }

    async fn handle(&mut self, pdu: Pdu) {
        self.shared().record(&pdu);
        self.check_exp_stat_sn(&pdu);
        if !pdu.immediate() {
            if let Err(what) = self.connection.session.take_command(&pdu) {
                self.violation(what);
                return;
            }
        }
        match pdu.opcode() {
            request::SCSI_COMMAND => self.command(&pdu).await,
            request::NOP_OUT => self.nop(&pdu).await,
            request::TEXT => self.text(&pdu).await,
            request::TASK_MANAGEMENT => self.task_management(&pdu).await,
            request::LOGOUT => self.logout(&pdu).await,
            opcode => {
                self.violation(format!("opcode {opcode:#04x} in the full-feature phase"));
                let reason = if opcode == 0x10 { SNACK_REJECT } else { COMMAND_NOT_SUPPORTED };
                self.dispatch(vec![Step::Send(answer::reject(reason, &pdu))]).await;
            }
        }
    }

    /// ExpStatSN never goes back and never passes what was sent (RFC 7143 section 4.2.2.2).
    fn check_exp_stat_sn(&mut self, pdu: &Pdu) {
        let found = pdu.exp_stat_sn();
        let next = self.connection.session.stat_sn();
        if wire::is_before(next, found) {
            self.violation(format!("ExpStatSN {found}, and only {next} is next"));
        }
        if self.last_exp_stat_sn.is_some_and(|last| wire::is_before(found, last)) {
            self.violation(format!("ExpStatSN went back to {found}"));
        }
        self.last_exp_stat_sn = Some(found);
    }

    /// Sends an answer: in place where nothing delays it, else from a task of its own.
    async fn dispatch(&mut self, steps: Vec<Step>) {
        if !steps.iter().any(|step| matches!(step, Step::Pause(_))) {
            for step in steps {
                self.connection.send(step).await;
            }
            return;
        }
        while self.waiting.try_join_next().is_some() {}
        let task = steps.iter().find_map(|step| match step {
            Step::Send(out) => out.task,
            _ => None,
        });
        let queue = self.connection.steps.clone();
        let handle = self.waiting.spawn(async move {
            for step in steps {
                match step {
                    Step::Pause(time) => tokio::time::sleep(time).await,
                    step => {
                        if queue.send(step).await.is_err() {
                            return;
                        }
                    }
                }
            }
        });
        if let Some(itt) = task {
            self.connection.session.set_abort_handle(itt, handle);
        }
    }

    async fn respond(&mut self, reply: Pdu, faults: &[Fault]) {
        let steps = self.response(reply, faults);
        self.dispatch(steps).await;
    }

    fn response(&self, reply: Pdu, faults: &[Fault]) -> Vec<Step> {
        let mut steps = vec![Step::Send(Out::new(reply, StatSn::Advance))];
        self.delay(&mut steps);
        faults.iter().for_each(|fault| answer::spoil(&mut steps, fault));
        steps
    }

    fn delay(&self, steps: &mut Vec<Step>) {
        let latency = self.shared().latency();
        if !latency.is_zero() {
            steps.insert(0, Step::Pause(latency));
        }
    }

    async fn command(&mut self, pdu: &Pdu) {
        let cdb = &pdu.bhs[32..48];
        let occasion = Occasion::Command(cdb);
        let in_flight = self.connection.session.begin_task(pdu.itt(), !pdu.immediate());
        let Some(target) = self.agreed.target.clone() else {
            self.violation("a SCSI command in a discovery session");
            self.dispatch(vec![Step::Send(answer::reject(PROTOCOL_ERROR, pdu))]).await;
            return;
        };
        match in_flight {
            Some(count) => self.shared().counters.update(|stats| {
                stats.max_in_flight = stats.max_in_flight.max(count);
            }),
            None => self.violation(format!("Initiator Task Tag {:#x} is in use", pdu.itt())),
        }
        self.shared().counters.command(self.connection.portal, cdb);
        let number = scsi::decode_lun(pdu.lun_field());
        let lun = target.luns.iter().find(|lun| Some(lun.number) == number).cloned();
        self.check_command(pdu, cdb, lun.as_deref());

        let faults = self.faults(&occasion);
        self.change_state(&faults, lun.as_deref());
        let rejected = faults.iter().find_map(|fault| match fault {
            Fault::Reject(reason) => Some(*reason),
            _ => None,
        });
        let mut steps = match rejected {
            Some(reason) => {
                let mut out = answer::reject(reason, pdu);
                (out.task, out.last) = (Some(pdu.itt()), true);
                vec![Step::Send(out)]
            }
            None => {
                let outcome = self.execute(&target, lun.as_deref(), cdb, &faults);
                let asked = Asked {
                    itt: pdu.itt(),
                    expected: if pdu.bhs[1] & 0x40 != 0 { pdu.u32_at(20) } else { 0 },
                    segment: self.agreed.segment.min(self.shared().config.segment),
                    burst: self.agreed.max_burst,
                    status_in_data: self.shared().config.status_in_data,
                };
                if scsi::read_range(cdb).is_some() {
                    let bytes = u64::try_from(outcome.data.len()).unwrap_or(u64::MAX);
                    self.shared().counters.update(|stats| stats.bytes_read += bytes);
                }
                answer::scsi_answer(&asked, &outcome, &faults)
            }
        };
        self.delay(&mut steps);
        faults.iter().for_each(|fault| answer::spoil(&mut steps, fault));
        self.dispatch(steps).await;
    }

    /// What RFC 7143 section 11.3 asks of a command that reads.
    fn check_command(&self, pdu: &Pdu, cdb: &[u8], lun: Option<&Lun>) {
        let (flags, length) = (pdu.bhs[1], pdu.u32_at(20));
        let mut broken = Vec::new();
        let mut require = |holds: bool, what: &'static str| {
            if !holds {
                broken.push(what);
            }
        };
        require(flags & 0x80 != 0, "no F bit");
        require(flags & 0x20 == 0, "the W bit");
        require(flags & 0x18 == 0, "reserved flags");
        require(flags & 0x40 != 0 || length == 0, "a length without the R bit");
        require(pdu.data.is_empty(), "immediate data");
        require(pdu.itt() != NO_TAG, "the reserved Initiator Task Tag");
        if let (Some(range), Some(lun)) = (scsi::read_range(cdb), lun) {
            let wanted = (range.end - range.start).saturating_mul(u64::from(lun.block_size));
            require(wanted == u64::from(length), "a length that is not what the CDB asks for");
        }
        for what in broken {
            self.violation(format!("SCSI command {:#04x}: {what}", cdb[0]));
        }
    }

    /// Faults that change the unit or the session rather than the answer.
    fn change_state(&mut self, faults: &[Fault], lun: Option<&Lun>) {
        for fault in faults {
            match (fault, lun) {
                (Fault::Vanish, Some(lun)) => lun.vanish(),
                (Fault::Resize(blocks), Some(lun)) => lun.resize(*blocks),
                (Fault::Access(states), Some(lun)) => lun.set_access_states(states.clone()),
                (Fault::NotReady(time), Some(lun)) => lun.not_ready_for(*time),
                (Fault::Attention(list), Some(lun)) => {
                    list.iter().for_each(|sense| lun.attention(*sense));
                }
                (Fault::FreezeWindow(time), _) => self.freeze_window(*time),
                _ => {}
            }
        }
    }

    fn freeze_window(&mut self, time: Duration) {
        let session = Arc::clone(&self.connection.session);
        let steps = self.connection.steps.clone();
        session.freeze();
        self.waiting.spawn(async move {
            tokio::time::sleep(time).await;
            session.thaw();
            let pdu = Pdu::new(response::NOP_IN, 0x80).with_u32(16, NO_TAG).with_u32(20, NO_TAG);
            let _ = steps.send(Step::Send(Out::new(pdu, StatSn::Peek))).await;
        });
    }

    fn execute(
        &mut self,
        target: &Target,
        lun: Option<&Lun>,
        cdb: &[u8],
        faults: &[Fault],
    ) -> Outcome {
        for fault in faults {
            if let Fault::Status(status, sense) = fault {
                return Outcome::status(*status, *sense);
            }
        }
        if let Some(sense) = lun.and_then(|lun| self.attention(lun, cdb)) {
            return Outcome::from(Err(sense));
        }
        let device = Device {
            luns: &target.luns,
            name: target.name(),
            portal: self.connection.portal,
            portals: self.shared().portals.len(),
        };
        Outcome::from(scsi::execute(&device, lun, cdb))
    }

    /// The unit attention that this command meets (SAM-5 section 5.14).
    fn attention(&mut self, lun: &Lun, cdb: &[u8]) -> Option<Sense> {
        if scsi::passes_unit_attention(cdb) || !lun.is_present() {
            return None;
        }
        if self.shared().config.power_on_attention && self.greeted.insert(lun.number) {
            return Some(Sense::POWER_ON);
        }
        let told = self.told.entry(lun.number).or_insert(0);
        let sense = lun.next_attention(*told)?;
        *told += 1;
        Some(sense)
    }

    async fn nop(&mut self, pdu: &Pdu) {
        self.shared().counters.update(|stats| stats.nops += 1);
        if pdu.itt() == NO_TAG {
            if !pdu.immediate() {
                self.violation("a NOP-Out without Initiator Task Tag that is not immediate");
            }
            return;
        }
        let faults = self.faults(&Occasion::Nop);
        let reply = Pdu::new(response::NOP_IN, 0x80)
            .with_u32(16, pdu.itt())
            .with_u32(20, NO_TAG)
            .with_data(pdu.data.clone());
        self.respond(reply, &faults).await;
    }

    async fn text(&mut self, pdu: &Pdu) {
        self.shared().counters.update(|stats| stats.texts += 1);
        let faults = self.faults(&Occasion::Text);
        let size = faults.iter().find_map(|fault| match fault {
            Fault::Pieces(size) => Some((*size).max(1)),
            _ => None,
        });
        let size = size.unwrap_or(usize::MAX).min(self.agreed.segment);
        let mut exchange = std::mem::take(&mut self.text);
        let answer = exchange.handle(pdu, size, |keys| self.send_targets(keys, &faults));
        self.text = exchange;
        match answer {
            Ok(reply) => self.respond(reply, &faults).await,
            Err((reason, what)) => {
                self.violation(what);
                self.dispatch(vec![Step::Send(answer::reject(reason, pdu))]).await;
            }
        }
    }

    /// The targets that the initiator may see, with all portals.
    fn send_targets(&self, keys: &Keys, faults: &[Fault]) -> Keys {
        let mut reply = Keys::default();
        for (key, value) in keys.iter() {
            if key != "SendTargets" {
                reply.push(key, "NotUnderstood");
                continue;
            }
            let own = self.agreed.target.as_deref().map(Target::name);
            let wanted = match (value, own) {
                ("All", None) => None,
                ("All", Some(_)) => {
                    reply.push("SendTargets", "Reject");
                    continue;
                }
                ("", own) => own,
                (name, _) => Some(name),
            };
            for target in &self.shared().targets {
                let named = wanted.is_none_or(|name| name == target.name());
                if !named || !target.is_visible_to(&self.agreed.initiator) {
                    continue;
                }
                reply.push("TargetName", target.name());
                for (index, portal) in self.shared().portals.iter().enumerate() {
                    reply.push("TargetAddress", format!("{portal},{}", index + 1));
                }
                for fault in faults {
                    if let Fault::MoreKeys(more) = fault {
                        more.iter().for_each(|(key, value)| reply.push(key, value));
                    }
                }
            }
        }
        reply
    }

    async fn task_management(&mut self, pdu: &Pdu) {
        const ABORT_TASK: u8 = 1;
        let function = pdu.bhs[1] & 0x7f;
        let faults = self.faults(&Occasion::TaskManagement);
        self.shared().counters.update(|stats| {
            *stats.task_management.entry(function).or_default() += 1;
            stats.forbidden += u64::from(function != ABORT_TASK);
        });
        let answer = match function {
            ABORT_TASK if self.connection.session.abort_task(pdu.u32_at(20)) => 0,
            ABORT_TASK => 1, // no such task
            _ => 5,          // not supported
        };
        let reply = Pdu::new(response::TASK_MANAGEMENT, 0x80)
            .with_bytes(2, &[answer])
            .with_u32(16, pdu.itt());
        self.respond(reply, &faults).await;
    }

    async fn logout(&mut self, pdu: &Pdu) {
        self.shared().counters.update(|stats| stats.logouts += 1);
        let faults = self.faults(&Occasion::Logout);
        let reply = Pdu::new(response::LOGOUT, 0x80)
            .with_u32(16, pdu.itt())
            .with_bytes(40, &self.shared().config.time2wait.to_be_bytes());
        let answered = !faults.contains(&Fault::Silence);
        let mut steps = self.response(reply, &faults);
        if answered {
            steps.push(Step::Close(Close::Fin));
        }
        self.dispatch(steps).await;
    }
}
