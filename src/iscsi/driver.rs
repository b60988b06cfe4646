//! The task that owns a session's connection: moves bytes between the socket and the [`Engine`], and connects again.

mod reconnect;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use futures_util::future::try_join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::ReadHalf;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::error::{Error, ErrorKind, Result};
use crate::scsi::{Cdb, LunAddress};

use self::reconnect::Pace;
use super::connect::Connection;
use super::proto::{
    Check, Command, Engine, Event, Fault, Limits, LoginTarget, Need, Notices, Receiver,
};
use super::told::Told;
use super::unit::{self, UnitFacts};
use super::watch::{WatcherId, Watchers};
use super::{Config, Portal};

/// How much is read at a time while small answers come in.
const INBOX: usize = 64 << 10;
/// The same while long data segments come in: their bytes shall not take the way through the inbox.
const HEADERS: usize = 512;
/// While so many bytes wait to be sent nothing is read: a target that asks and does not listen fills no memory.
const MAX_UNSENT: usize = 1 << 20;

/// What the owners of a session ask of its task.
#[derive(Debug)]
pub(super) enum Request {
    /// Run a command.
    Run(Command, Ticket),
    /// Somebody opens the unit, or has opened it and relies on these facts: check after each reconnect that it is
    /// still the same.
    Watch(LunAddress, WatcherId, Option<UnitFacts>),
    Unwatch(LunAddress, WatcherId),
    /// Check the open unit before the next read.
    Suspect(LunAddress),
    /// The outcome of such a check: whether the unit has grown.
    Verified(LunAddress, Check, Result<bool>),
    /// Other sessions stand by through other portals: stay with this one's own, and give back what may take another path.
    Share,
    /// Somebody waits for a connection: try soon, however long the wait has grown.
    Hurry,
    /// Log out, and say whether the target confirmed it.
    LogOut(oneshot::Sender<bool>),
}

/// Where the result of a command goes.
#[derive(Debug)]
pub(super) struct Ticket {
    owner: oneshot::Sender<Result<BytesMut>>,
    /// The unit whose blocks it reads, if it reads any.
    reads: Option<LunAddress>,
}

/// The way to a session's task; the task ends when the last one is gone.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    requests: mpsc::UnboundedSender<Request>,
    timeout: Duration,
    state: watch::Receiver<LinkState>,
    detours: bool,
}

/// What has become of a session's connection.
#[derive(Clone, Debug)]
pub(super) enum LinkState {
    /// It serves; the portal is the one of the configuration, the address where it led to.
    Up(Portal, SocketAddr),
    /// It was lost, and the session tries this portal first.
    Down(Portal),
    /// The session is over.
    Over,
}

impl Handle {
    /// The same for commands that may come back because another path may have their result.
    pub(super) fn detouring(&self) -> Self {
        Self { detours: true, ..self.clone() }
    }

    /// What has become of the connection.
    pub(super) fn state(&self) -> LinkState {
        self.state.borrow().clone()
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(*self.state.borrow(), LinkState::Up(..))
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(*self.state.borrow(), LinkState::Over)
    }

    /// Whether both lead to the same session.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.requests.same_channel(&other.requests)
    }

    /// Waits until something becomes of the connection that had not when this was called.
    pub(super) fn changed(&self) -> impl Future<Output = ()> + use<> {
        let mut state = self.state.clone();
        // A clone knows of no more than its original has seen, and no handle ever looks.
        state.mark_unchanged();
        async move {
            if state.changed().await.is_err() {
                // The task has ended: nothing ever will.
                std::future::pending::<()>().await;
            }
        }
    }

    /// How long one operation may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Logs out and waits for the answer. False where the target did not confirm it.
    pub(super) async fn log_out(&self) -> bool {
        let (farewell, done) = oneshot::channel();
        self.tell(Request::LogOut(farewell));
        // A task that has ended already has said how.
        done.await.unwrap_or(true)
    }

    /// Runs a command within the time that one operation may take.
    pub(super) async fn run(&self, lun: LunAddress, cdb: Cdb, expected: u32) -> Result<BytesMut> {
        let deadline = self.deadline();
        let mut answer = self.start(lun, cdb, expected, deadline);
        Self::wait(&mut answer).await
    }

    /// When an operation that begins now must have ended.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    /// Gives a command to the task without waiting for it.
    pub(super) fn start(
        &self,
        lun: LunAddress,
        cdb: Cdb,
        expected: u32,
        deadline: Instant,
    ) -> oneshot::Receiver<Result<BytesMut>> {
        let (owner, answer) = oneshot::channel();
        let ticket = Ticket { owner, reads: cdb.reads_medium().then_some(lun) };
        let deadline = deadline.into_std();
        let Self { timeout, detours, .. } = *self;
        let command = Command { lun, cdb, expected, deadline, timeout, detours };
        // Without a task the ticket is dropped, and `wait` says so.
        let _ = self.requests.send(Request::Run(command, ticket));
        answer
    }

    /// Waits for the result of a command.
    pub(super) async fn wait(answer: &mut oneshot::Receiver<Result<BytesMut>>) -> Result<BytesMut> {
        answer.await.unwrap_or_else(|_| Err(ended()))
    }

    pub(super) fn tell(&self, request: Request) {
        let _ = self.requests.send(request);
    }
}

fn ended() -> Error {
    Error::new(ErrorKind::SessionLost, "the session has ended")
}

/// A session's task.
pub(super) struct Driver {
    engine: Engine<Ticket>,
    requests: mpsc::UnboundedReceiver<Request>,
    handle: mpsc::WeakUnboundedSender<Request>,
    config: Config,
    target: LoginTarget,
    isid: [u8; 6],
    portals: Vec<Portal>,
    /// Which of them the last connection was made through.
    asked: Portal,
    state: watch::Sender<LinkState>,
    /// Whether other sessions stand by through other portals.
    shared: bool,
    watchers: Watchers,
    farewells: Vec<oneshot::Sender<bool>>,
    closing: bool,
    /// Whether the target has confirmed the logout.
    confirmed: bool,
    pace: Pace,
    notices: Notices,
    /// What was said of the portals that were passed over.
    told: Told,
}

/// How the service of one connection ended.
enum End {
    /// The session is over.
    Over,
    /// Connect again.
    Fault(Fault),
}

/// What ended a wait.
enum Woken {
    Read(std::io::Result<usize>),
    Written(std::io::Result<usize>),
    Request(Option<Request>),
    Timer,
}

impl Driver {
    /// Starts the task of a session that has just logged in.
    pub(super) fn spawn(
        connection: Connection,
        config: &Config,
        target: LoginTarget,
        isid: [u8; 6],
        portals: &[Portal],
    ) -> Handle {
        let (requests, receiver) = mpsc::unbounded_channel();
        let (state, watched) = watch::channel(connection.state());
        let driver = Self {
            engine: Engine::new(Limits::new(config.timeout)),
            requests: receiver,
            handle: requests.downgrade(),
            config: config.clone(),
            target,
            isid,
            portals: portals.to_vec(),
            asked: connection.asked.clone(),
            state,
            shared: false,
            watchers: Watchers::default(),
            farewells: Vec::new(),
            closing: false,
            confirmed: false,
            pace: Pace::new(Instant::now()),
            notices: Notices::default(),
            told: Told::default(),
        };
        tokio::spawn(driver.run(connection));
        Handle { requests, timeout: config.timeout, state: watched, detours: false }
    }

    async fn run(mut self, first: Connection) {
        let mut connection = first;
        loop {
            if let Some(portal) = connection.moved_to.take() {
                self.portals = vec![portal.clone()];
                connection.asked = portal;
            }
            self.asked = connection.asked.clone();
            self.state.send_replace(connection.state());
            let portal = connection.portal.clone();
            let since = Instant::now();
            match self.serve(connection).await {
                End::Over => break,
                End::Fault(fault) => {
                    self.state.send_replace(LinkState::Down(self.asked.clone()));
                    let error = fault.error.clone().context(&portal);
                    let now = Instant::now();
                    self.notices
                        .warn("lost", now.into_std(), || format!("{error}: connecting again"));
                    let wait = self.engine.disconnected(Fault { error, ..fault }, now.into_std());
                    // Whoever has an answer by this shall not wait for the next connection, or for ever.
                    if self.dispatch() {
                        break;
                    }
                    self.pace.lost(now, since, wait);
                    match self.reconnect(now).await {
                        Some(next) => connection = next,
                        None => break,
                    }
                    let now = Instant::now().into_std();
                    let portal = &connection.portal;
                    self.notices.info("connected", now, || format!("{portal}: connected again"));
                }
            }
        }
        self.state.send_replace(LinkState::Over);
        for farewell in self.farewells {
            let _ = farewell.send(self.confirmed);
        }
    }

    /// Serves one connection until it ends.
    async fn serve(&mut self, connection: Connection) -> End {
        let Connection { mut stream, inbox, negotiated, window, .. } = connection;
        self.engine.connected(&negotiated, window, std::time::Instant::now());
        let mut receiver = Receiver::new(self.engine.digests(), inbox);
        let (mut reader, mut writer) = stream.split();
        let mut out = BytesMut::with_capacity(16 << 10);
        let timer = sleep_until(Instant::now());
        tokio::pin!(timer);
        loop {
            let now = std::time::Instant::now();
            let need = match receiver.process(&mut self.engine, now) {
                Ok(need) => need,
                Err(fault) => return self.end(fault),
            };
            while let Ok(request) = self.requests.try_recv() {
                self.take(request, now);
            }
            if self.dispatch() {
                return End::Over;
            }
            self.engine.transmit(now, &mut out);
            if !out.is_empty() {
                match writer.try_write(&out) {
                    Ok(count) => bytes::Buf::advance(&mut out, count),
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(error) => return self.end(broken(&error)),
                }
            }
            if self.dispatch() {
                return End::Over;
            }
            let timeout = self.engine.next_timeout();
            arm(timer.as_mut(), timeout);
            let woken = tokio::select! {
                biased;
                // Where there is always something to read, the time would never come.
                () = std::future::ready(()), if timeout.is_some_and(|timeout| timeout <= now) => {
                    Woken::Timer
                }
                read = read(&mut reader, &mut self.engine, &mut receiver, need),
                    if out.len() < MAX_UNSENT => Woken::Read(read),
                request = self.requests.recv(), if !self.closing => Woken::Request(request),
                written = writer.write_buf(&mut out), if !out.is_empty() => Woken::Written(written),
                () = timer.as_mut() => Woken::Timer,
            };
            let now = std::time::Instant::now();
            match woken {
                Woken::Read(Ok(0)) => {
                    self.hung_up();
                    let error =
                        Error::new(ErrorKind::SessionLost, "the target closed the connection");
                    return self.end(Fault::new(error));
                }
                Woken::Read(Ok(_)) => self.engine.heard(now),
                Woken::Read(Err(error)) | Woken::Written(Err(error)) => {
                    if error.kind() == std::io::ErrorKind::ConnectionReset {
                        self.hung_up();
                    }
                    return self.end(broken(&error));
                }
                Woken::Written(Ok(_)) => {}
                Woken::Request(Some(request)) => {
                    self.take(request, now);
                    step_aside().await;
                }
                Woken::Request(None) => self.close(now),
                Woken::Timer => {
                    if let Err(fault) = self.engine.handle_timeout(now) {
                        return self.end(fault);
                    }
                }
            }
        }
    }

    /// The target has ended the connection. Instead of an answer to a logout it says as
    /// much: at error recovery level 0 a session ends with its connection.
    fn hung_up(&mut self) {
        self.confirmed |= self.closing;
    }

    /// A connection that fails during the logout has served its purpose.
    fn end(&mut self, fault: Fault) -> End {
        self.dispatch();
        if self.closing { End::Over } else { End::Fault(fault) }
    }

    fn take(&mut self, request: Request, now: std::time::Instant) {
        match request {
            Request::Run(command, ticket) => self.engine.submit(command, ticket),
            Request::Watch(lun, id, facts) => {
                if self.watchers.add(lun, id, facts) {
                    self.engine.suspect(lun);
                }
                self.engine.watch(lun);
            }
            Request::Unwatch(lun, id) => {
                if self.watchers.remove(lun, id) {
                    self.engine.unwatch(lun);
                }
            }
            Request::Suspect(lun) => self.engine.suspect(lun),
            Request::Verified(lun, check, result) => {
                if self.watchers.looked(lun, &result) {
                    tracing::warn!("{lun} grew: what is new is not read");
                }
                self.engine.verified(lun, check, result.map(|_| ()));
            }
            Request::Share => {
                self.shared = true;
                self.engine.set_shared();
            }
            Request::Hurry => self.pace.hurry(Instant::from_std(now)),
            Request::LogOut(farewell) => {
                self.farewells.push(farewell);
                self.close(now);
            }
        }
    }

    fn close(&mut self, now: std::time::Instant) {
        if !self.closing {
            self.closing = true;
            self.engine.close(&Error::new(ErrorKind::SessionLost, "logged out"), now);
        }
    }

    /// Gives results to their owners. True when the session is over.
    fn dispatch(&mut self) -> bool {
        let mut over = false;
        while let Some(event) = self.engine.event() {
            match event {
                Event::Completed(Ticket { owner, reads }, result) => {
                    let result = result.map_err(|error| self.explain(error, reads));
                    // Whoever no longer waits has dropped the other end.
                    drop(owner.send(result));
                }
                Event::Verify(lun, check) => self.verify(lun, check),
                Event::LoggedOut { confirmed } => {
                    self.confirmed = confirmed;
                    over = true;
                }
            }
        }
        over
    }

    /// Says why a read was not issued, where it has waited for a look at its unit that has come to nothing: whatever
    /// casts doubt on the unit meanwhile makes a look void, and the next one is waited for.
    fn explain(&self, error: Error, reads: Option<LunAddress>) -> Error {
        let reason = reads.and_then(|lun| self.watchers.trouble(lun));
        match (error.kind(), reason) {
            // Where the look stands, its error is that of the read already.
            (ErrorKind::Timeout, Some(reason)) if reason.message() != error.message() => {
                let what = format!("{} (not known to be the same unit: {reason})", error.message());
                Error::new(ErrorKind::Timeout, what)
            }
            _ => error,
        }
    }

    /// Looks at a unit again, beside the commands that go on.
    fn verify(&mut self, lun: LunAddress, check: Check) {
        let facts = self.watchers.facts(lun);
        let (Some(requests), false) = (self.handle.upgrade(), facts.is_empty()) else {
            self.engine.verified(lun, check, Ok(()));
            return;
        };
        // The reads that wait for it shall end with its reason, not just before it.
        let timeout = self.config.timeout - self.config.timeout / 16;
        let state = self.state.subscribe();
        // Where reads may take another path they shall not wait for a port that does not serve the unit.
        let handle = Handle { requests, timeout, state, detours: self.shared };
        tokio::spawn(async move {
            let looks = facts.iter().map(|facts| unit::verify(&handle, lun, facts));
            let result = try_join_all(looks).await.map(|grown| grown.contains(&true));
            handle.tell(Request::Verified(lun, check, result));
        });
    }
}

/// Reads what is needed next: data goes straight to its command's buffer.
async fn read(
    reader: &mut ReadHalf<'_>,
    engine: &mut Engine<Ticket>,
    receiver: &mut Receiver,
    need: Need,
) -> std::io::Result<usize> {
    if let Need::Data { itt, left } = need {
        if let Some(buffer) = engine.buffer(itt) {
            let count = reader.read_buf(&mut buffer.limit(left)).await?;
            receiver.received(engine, count);
            return Ok(count);
        }
    }
    let size = if receiver.is_bulky() { HEADERS } else { INBOX };
    let inbox = &mut receiver.inbox;
    inbox.reserve(size);
    reader.read_buf(&mut inbox.limit(size)).await
}

/// Lets the tasks run that are ready now: what they ask for goes out together, by one call instead of one each.
async fn step_aside() {
    let mut done = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut done, true) {
            return std::task::Poll::Ready(());
        }
        // Woken from within, a task goes behind those that are ready.
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

/// Sets the timer, but never later than it is: it costs less to wake once too often than to move it with each command.
fn arm(mut timer: std::pin::Pin<&mut Sleep>, timeout: Option<std::time::Instant>) {
    let Some(timeout) = timeout.map(Instant::from_std) else {
        if timer.is_elapsed() {
            timer.as_mut().reset(Instant::now() + Duration::from_secs(3600));
        }
        return;
    };
    if timer.is_elapsed() || timeout < timer.deadline() {
        timer.as_mut().reset(timeout);
    }
}

fn broken(error: &std::io::Error) -> Fault {
    Fault::new(Error::new(ErrorKind::SessionLost, format!("the connection broke: {error}")))
}

#[cfg(test)]
impl Handle {
    /// A session's handle with nobody behind it but a test: what it is asked, and what is to become of it.
    pub(super) fn scripted(
        state: LinkState,
    ) -> (Self, mpsc::UnboundedReceiver<Request>, watch::Sender<LinkState>) {
        let (requests, receiver) = mpsc::unbounded_channel();
        let (sender, state) = watch::channel(state);
        let timeout = Duration::from_secs(30);
        (Self { requests, timeout, state, detours: false }, receiver, sender)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn a_change_is_told_once_and_the_end_not_at_all() {
        let portal: Portal = "192.0.2.1:3260".parse().unwrap();
        let (handle, _requests, state) = Handle::scripted(LinkState::Over);
        state.send_replace(LinkState::Down(portal.clone()));
        assert!(handle.changed().now_or_never().is_none(), "what was before is no change");
        let changed = handle.changed();
        state.send_replace(LinkState::Over);
        assert!(changed.now_or_never().is_some());
        drop(state);
        assert!(handle.changed().now_or_never().is_none(), "nothing will ever become of it");
    }
}
