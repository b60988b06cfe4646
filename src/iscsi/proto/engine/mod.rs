//! The full feature phase of a session: a queue of commands that outlives connections.
//!
//! Commands go in ([`Engine::submit`]), bytes to send come out ([`Engine::transmit`]), received PDUs go in
//! ([`Engine::begin`], [`Engine::finish`]), results come out ([`Engine::event`]). When a connection fails
//! ([`Engine::disconnected`]), what was in flight goes back to the queue in the callers' order and is issued again on
//! the next one ([`Engine::connected`]). Time is an argument; [`Engine::next_timeout`] says when to call again.

#[cfg(test)]
mod chaos;
mod exchanges;
mod incoming;
mod job;
mod link;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::BytesMut;

use crate::error::{Error, ErrorKind, Result};
use crate::iscsi::pdu::{Digests, write_header};
use crate::scsi::LunAddress;

use super::buffers::Buffers;
use super::keys::Negotiated;
use super::notices::Notices;
use super::window::Window;

pub(crate) use incoming::Payload;
pub(crate) use job::Command;
use job::Job;
use link::{Flight, Link};

/// After a reconnect, or an announcement that connections will be dropped, volumes may be on their way between
/// controllers for so long.
const MOVING: Duration = Duration::from_secs(10);
/// Output is not piled up beyond this many bytes at a time.
const OUTPUT_AT_A_TIME: usize = 64 << 10;

/// The waits that follow from the deadline of an operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// A command unanswered for so long is given up and issued again.
    give_up: Duration,
    /// Silence, while something is under way, after which we ping; and how long the answer may take.
    silence: Duration,
    /// The same while nothing is under way.
    idle: Duration,
}

impl Limits {
    /// A quarter of an operation's time, ten seconds at most, for a lost answer; a sixth of it, five seconds at
    /// most, for a silent peer, so that two pings' worth of waiting still leaves time to reconnect.
    pub(crate) fn new(timeout: Duration) -> Self {
        Self {
            give_up: (timeout / 4).min(Duration::from_secs(10)),
            silence: (timeout / 6).min(Duration::from_secs(5)),
            idle: Duration::from_secs(30),
        }
    }

    /// The same where another path stands by: half the patience with a silent peer.
    fn shared(self) -> Self {
        Self { silence: self.silence / 2, ..self }
    }
}

/// Why a connection must end.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) error: Error,
    /// The tag of the command whose answer was wrong: it counts against that command's tries.
    pub(crate) blame: Option<u32>,
    /// The target asked for a new login after this time; else it is the agreed Time2Wait.
    pub(crate) wait: Option<Duration>,
}

impl Fault {
    /// A fault that no command is to blame for.
    pub(crate) fn new(error: Error) -> Self {
        Self { error, blame: None, wait: None }
    }

    /// The peer broke the protocol.
    pub(crate) fn protocol(message: impl Into<String>) -> Self {
        Self::new(Error::new(ErrorKind::Protocol, message))
    }

    fn blaming(mut self, itt: u32) -> Self {
        self.blame = Some(itt);
        self
    }
}

/// What the engine tells its driver.
#[derive(Debug)]
pub(crate) enum Event<T> {
    /// A command has ended.
    Completed(T, Result<BytesMut>),
    /// Reads of this unit wait until [`Engine::verified`] says what has become of it.
    Verify(LunAddress, Check),
    /// The session is over: the target has confirmed our logout, or will not.
    LoggedOut { confirmed: bool },
}

/// Why a job waits outside the queue.
#[derive(Debug)]
enum Parked {
    /// Until a time: BUSY, NOT READY.
    Until(Instant),
    /// Until its unit has been looked at.
    Unverified,
}

/// One look at a unit, by number: whatever casts doubt on the unit while it goes on makes it void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Check(u64);

/// Where a unit stands that must be looked at before it is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Unverified,
    Verifying(Check),
}

/// The engine; `T` is the caller's ticket for a command, given back with the result.
#[derive(Debug)]
pub(crate) struct Engine<T> {
    limits: Limits,
    link: Option<Link<T>>,
    /// Ready to be issued, in the callers' order.
    waiting: VecDeque<Job<T>>,
    parked: Vec<(Parked, Job<T>)>,
    gates: HashMap<LunAddress, Gate>,
    /// Units that are open, and so must be the same after a reconnect.
    watched: HashSet<LunAddress>,
    events: VecDeque<Event<T>>,
    buffers: Buffers,
    notices: Notices,
    next_order: u64,
    next_check: u64,
    /// No later than the earliest deadline of all commands.
    next_deadline: Option<Instant>,
    moving_until: Option<Instant>,
    was_connected: bool,
    /// Whether the callers know another path, so that a lost connection gives their commands back.
    shared: bool,
    /// How often StatSN has gone on without us.
    gaps: u32,
    last_fault: Option<Error>,
    /// Why nothing is accepted any more.
    closed: Option<Error>,
}

impl<T> Engine<T> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            link: None,
            waiting: VecDeque::new(),
            parked: Vec::new(),
            gates: HashMap::new(),
            watched: HashSet::new(),
            events: VecDeque::new(),
            buffers: Buffers::default(),
            notices: Notices::default(),
            next_order: 0,
            next_check: 0,
            next_deadline: None,
            moving_until: None,
            was_connected: false,
            shared: false,
            gaps: 0,
            last_fault: None,
            closed: None,
        }
    }

    /// Takes a command.
    pub(crate) fn submit(&mut self, command: Command, ticket: T) {
        if let Some(error) = &self.closed {
            self.events.push_back(Event::Completed(ticket, Err(error.clone())));
            return;
        }
        if self.link.is_none() && self.shared && command.detours {
            let error = self.not_connected();
            self.events.push_back(Event::Completed(ticket, Err(error)));
            return;
        }
        self.next_deadline = earlier(self.next_deadline, Some(command.deadline));
        let job = Job::new(command, ticket, self.next_order);
        self.next_order += 1;
        self.enqueue(job);
    }

    /// The session is one of several with the unit from now on: commands that may take another path come back as soon
    /// as this one is lost, and at once where it is lost already.
    pub(crate) fn set_shared(&mut self) {
        if self.shared {
            return;
        }
        self.shared = true;
        self.limits = self.limits.shared();
        if self.link.is_none() {
            let error = self.not_connected();
            self.give_back(&error);
        }
    }

    /// Why there is no connection.
    fn not_connected(&self) -> Error {
        let lost = || Error::new(ErrorKind::SessionLost, "not connected");
        self.last_fault.as_ref().map_or_else(lost, given_back)
    }

    /// The next thing that happened.
    pub(crate) fn event(&mut self) -> Option<Event<T>> {
        self.events.pop_front()
    }

    /// Whether any command is waiting for its result.
    pub(crate) fn has_work(&self) -> bool {
        !self.waiting.is_empty()
            || !self.parked.is_empty()
            || self.link.as_ref().is_some_and(|link| link.commands > 0)
    }

    /// The unit is open from now on: after a reconnect it must still be the same.
    pub(crate) fn watch(&mut self, lun: LunAddress) {
        self.watched.insert(lun);
    }

    /// The unit must be looked at before it is read again.
    pub(crate) fn suspect(&mut self, lun: LunAddress) {
        self.gates.insert(lun, Gate::Unverified);
    }

    /// The unit is closed.
    pub(crate) fn unwatch(&mut self, lun: LunAddress) {
        self.watched.remove(&lun);
        self.gates.remove(&lun);
        self.release(lun);
    }

    /// Answers [`Event::Verify`]: reads of the unit go on, or fail.
    pub(crate) fn verified(&mut self, lun: LunAddress, check: Check, result: Result<()>) {
        match result {
            // A connection was lost meanwhile, or the target told of another change: part of what was learned may be
            // of another unit. The reads that waited go back to the gate, and another look is taken.
            _ if self.gates.get(&lun) != Some(&Gate::Verifying(check)) => self.release(lun),
            Ok(()) => {
                self.gates.remove(&lun);
                self.release(lun);
            }
            Err(error) => {
                self.gates.insert(lun, Gate::Unverified);
                for (_, job) in self.take_parked(|parked, job| {
                    matches!(parked, Parked::Unverified) && job.command.lun == lun
                }) {
                    self.complete(job, Err(error.clone()));
                }
            }
        }
    }

    /// A login has succeeded.
    pub(crate) fn connected(&mut self, negotiated: &Negotiated, window: Window, now: Instant) {
        debug_assert!(self.link.is_none(), "one connection per session");
        self.link = Some(Link::new(negotiated, window, now));
        if self.was_connected {
            self.moving_until = later(self.moving_until, now + MOVING);
            for lun in &self.watched {
                self.gates.insert(*lun, Gate::Unverified);
            }
            // What waits for a unit that is now to be verified waits at its gate.
            for job in std::mem::take(&mut self.waiting) {
                self.enqueue(job);
            }
        }
        self.was_connected = true;
    }

    /// The connection has ended. Gives the time to wait before the next login.
    pub(crate) fn disconnected(&mut self, fault: Fault, now: Instant) -> Duration {
        let Fault { error, blame, wait } = fault;
        self.last_fault = Some(error.clone());
        let Some(link) = self.link.take() else { return Duration::ZERO };
        let wait = wait.unwrap_or(link.time_to_wait);
        // Whom no PDU names, the one at the front stands for: a fault that comes back must end some time.
        let blame = blame.or_else(|| link.is_damaged(&error).then(|| link.oldest()).flatten());
        for exchange in link.into_flights() {
            let Flight { mut job, itt, .. } = exchange;
            if blame == Some(itt) {
                job.faults += 1;
            }
            if job.faults >= super::verdict::MAX_TRIES {
                self.complete(job, Err(error.clone()));
            } else if self.may_detour(&job) {
                // Its kind tells the one to blame that its own data was damaged.
                let mine = blame == Some(itt);
                let error = if mine { error.clone() } else { given_back(&error) };
                self.complete(job, Err(error));
            } else {
                self.enqueue(job);
            }
        }
        self.give_back(&error);
        self.expire(now);
        wait
    }

    fn may_detour(&self, job: &Job<T>) -> bool {
        self.shared && job.command.detours
    }

    /// What may take another path goes back to its callers, in their order.
    fn give_back(&mut self, error: &Error) {
        if !self.shared {
            return;
        }
        let (back, kept): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|job| job.command.detours);
        self.waiting = kept;
        let parked = self.take_parked(|_, job| job.command.detours);
        let mut back: Vec<_> =
            back.into_iter().chain(parked.into_iter().map(|(_, job)| job)).collect();
        back.sort_by_key(|job| job.order);
        for job in back {
            self.complete(job, Err(given_back(error)));
        }
    }

    /// A login failed, for good or so that nothing is left to hope for: everything that waits fails.
    pub(crate) fn fail_all(&mut self, error: &Error) {
        let parked = std::mem::take(&mut self.parked).into_iter().map(|(_, job)| job);
        let waiting = std::mem::take(&mut self.waiting);
        for job in waiting.into_iter().chain(parked) {
            self.complete(job, Err(error.clone()));
        }
        for gate in self.gates.values_mut() {
            *gate = Gate::Unverified;
        }
    }

    /// Remembers why connecting failed, for the commands that run out of time meanwhile.
    pub(crate) fn connect_failed(&mut self, error: Error) {
        self.last_fault = Some(error);
    }

    /// Ends the session: commands fail, new ones too, and a Logout Request goes out if there is a connection.
    pub(crate) fn close(&mut self, error: &Error, now: Instant) {
        self.fail_all(error);
        self.closed = Some(error.clone());
        match &mut self.link {
            Some(link) => {
                for flight in link.take_flights() {
                    self.events.push_back(Event::Completed(flight.job.ticket, Err(error.clone())));
                }
                link.log_out(now + self.limits.silence);
            }
            None => self.events.push_back(Event::LoggedOut { confirmed: false }),
        }
    }

    /// Appends what is to be sent now.
    pub(crate) fn transmit(&mut self, now: Instant, out: &mut BytesMut) {
        let Some(link) = &mut self.link else { return };
        link.transmit_control(out);
        while out.len() < OUTPUT_AT_A_TIME && link.takes_commands() {
            let Some(job) = self.waiting.pop_front() else { break };
            let bhs = link.issue(job, now);
            write_header(&bhs, link.digests, out);
        }
    }

    /// The digests of the connection, for whoever takes PDUs apart.
    pub(crate) fn digests(&self) -> Digests {
        self.link.as_ref().map_or_else(Digests::default, |link| link.digests)
    }

    /// When to call [`Engine::handle_timeout`] at the latest.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let parked = self.parked.iter().filter_map(|(parked, _)| match parked {
            Parked::Until(until) => Some(*until),
            Parked::Unverified => None,
        });
        let link = self.link.as_ref().and_then(|link| link.next_timeout(&self.limits));
        let pending = self.next_deadline.filter(|_| self.has_work());
        [pending, link].into_iter().flatten().chain(parked).min()
    }

    /// Acts on what time has brought: deadlines, lost answers, silence.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Result<(), Fault> {
        let ready =
            self.take_parked(|parked, _| matches!(parked, Parked::Until(until) if *until <= now));
        for (_, job) in ready {
            self.enqueue(job);
        }
        self.expire(now);
        while let Some(job) = self.link.as_mut().and_then(|link| link.give_up(&self.limits, now)) {
            let Command { cdb, lun, .. } = job.command;
            self.notices.warn("unanswered", now, || {
                format!("{} of {lun}: no answer, issued again", cdb.name())
            });
            if self.may_detour(&job) {
                let message = format!("{}: no answer", cdb.name());
                self.complete(job, Err(Error::new(ErrorKind::SessionLost, message)));
            } else {
                self.enqueue(job);
            }
        }
        let Some(link) = &mut self.link else { return Ok(()) };
        if link.logout_is_over(now) {
            self.link = None;
            self.events.push_back(Event::LoggedOut { confirmed: false });
            return Ok(());
        }
        link.keep_alive(&self.limits, now)
    }

    /// Fails what has passed its deadline.
    fn expire(&mut self, now: Instant) {
        if self.next_deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        let mut late = Vec::new();
        let mut next = None;
        for job in std::mem::take(&mut self.waiting) {
            if job.command.deadline <= now {
                late.push(job);
            } else {
                next = earlier(next, Some(job.command.deadline));
                self.waiting.push_back(job);
            }
        }
        late.extend(
            self.take_parked(|_, job| job.command.deadline <= now).into_iter().map(|(_, job)| job),
        );
        for (_, job) in &self.parked {
            next = earlier(next, Some(job.command.deadline));
        }
        if let Some(link) = &mut self.link {
            let until = now + self.limits.give_up;
            next = earlier(next, link.expire(now, until, &mut late));
        }
        self.next_deadline = next;
        late.sort_by_key(|job| job.order);
        for job in late {
            let error = self.timeout_error(&job);
            self.complete(job, Err(error));
        }
    }

    fn timeout_error(&self, job: &Job<T>) -> Error {
        let command = job.command.cdb.name();
        let seconds = job.command.timeout.as_secs_f64();
        let why = match (&job.last_answer, &self.last_fault) {
            (Some(answer), _) => format!(" (last answer: {answer})"),
            (None, Some(fault)) if self.link.is_none() => format!(" (not connected: {fault})"),
            (None, Some(fault)) => format!(" (last fault: {fault})"),
            (None, None) => String::new(),
        };
        Error::new(ErrorKind::Timeout, format!("{command}: no result within {seconds:.0} s{why}"))
    }

    /// Puts a job where it belongs: at its place in the queue, or before its unit's gate.
    fn enqueue(&mut self, job: Job<T>) {
        let lun = job.command.lun;
        if job.command.cdb.reads_medium() {
            if let Some(gate) = self.gates.get_mut(&lun) {
                if *gate == Gate::Unverified {
                    let check = Check(self.next_check);
                    self.next_check += 1;
                    *gate = Gate::Verifying(check);
                    self.events.push_back(Event::Verify(lun, check));
                }
                self.parked.push((Parked::Unverified, job));
                return;
            }
        }
        let at = self.waiting.partition_point(|other| other.order < job.order);
        self.waiting.insert(at, job);
    }

    /// Keeps a job from being issued before `until`.
    fn park(&mut self, job: Job<T>, until: Instant) {
        self.parked.push((Parked::Until(until), job));
    }

    /// Lets the reads of a unit pass.
    fn release(&mut self, lun: LunAddress) {
        for (_, job) in self.take_parked(|parked, job| {
            matches!(parked, Parked::Unverified) && job.command.lun == lun
        }) {
            self.enqueue(job);
        }
    }

    fn take_parked(&mut self, which: impl Fn(&Parked, &Job<T>) -> bool) -> Vec<(Parked, Job<T>)> {
        if self.parked.is_empty() {
            return Vec::new();
        }
        let all = std::mem::take(&mut self.parked);
        let (taken, kept) = all.into_iter().partition(|(parked, job)| which(parked, job));
        self.parked = kept;
        taken
    }

    fn complete(&mut self, job: Job<T>, result: Result<BytesMut>) {
        self.events.push_back(Event::Completed(job.ticket, result));
    }

    fn is_moving(&self, now: Instant) -> bool {
        self.moving_until.is_some_and(|until| now < until)
    }
}

/// The fault of a connection, to a command that is not to blame for it.
fn given_back(error: &Error) -> Error {
    Error::new(ErrorKind::SessionLost, error.message())
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

fn later(one: Option<Instant>, other: Instant) -> Option<Instant> {
    Some(one.map_or(other, |one| one.max(other)))
}
