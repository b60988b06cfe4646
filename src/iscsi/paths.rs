//! One logical unit through one session or several: which path a read takes, and what becomes of it when that one fails.
//!
//! A unit is opened through one session. Its other paths are opened beside the reading, and only when there is a use
//! for them: after so many bytes, or when the first path does not serve. A read goes to the path with the least
//! bytes under way among those that serve the unit best, so a slow path gets less to do and a single reader stays on
//! one. When a path is lost, or its port does not serve the unit any more, the reads that it had go to another one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::future::{join_all, select_all};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::error::{Error, ErrorKind, Result};
use crate::scsi::{AccessState, Cdb, PortIds};

use super::Portal;
use super::driver::{Handle, LinkState, Request};
use super::proto::MAX_TRIES;
use super::routes::{Routes, is_of_the_way};
use super::unit::{self, Found, Unit, UnitFacts};
use super::watch::Watch;

/// The other paths are opened when so many bytes were read: a short command ends before they would be of use.
const WIDEN_AFTER: u64 = 16 << 20;
/// While reads go on, missing paths are tried again this often.
const TEND_INTERVAL: Duration = Duration::from_secs(30);
/// The same when a path has failed.
const URGENT_INTERVAL: Duration = Duration::from_secs(1);
/// A port that does not serve the unit is not asked again sooner.
const CLOSED: Duration = Duration::from_millis(500);
/// A path that did not lead to the unit is looked at again after this time, doubled each time, ...
const FIRST_LOOK: Duration = Duration::from_secs(1);
/// ... up to this: somebody may be at work on a controller for minutes, or for hours.
const LONGEST_LOOK: Duration = Duration::from_secs(60);
/// An answer about access states that takes longer is done without.
const ACCESS_LIMIT: Duration = Duration::from_secs(5);

/// What can be said of one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathInfo {
    /// The portal that it leads through.
    pub portal: Portal,
    /// Whether reads take it now.
    pub in_use: bool,
    /// Its access state, or why it is not in use, in words.
    pub state: String,
}

/// One session's way to the unit.
#[derive(Debug)]
struct Path {
    portal: Portal,
    handle: Handle,
    /// Whatever is read here is read from the unit that was opened, or not at all.
    _watch: Watch,
    /// Bytes that were asked for and have not come.
    queued: AtomicU64,
    /// One look at a time: whoever wants another one meanwhile waits for what comes of it.
    looking: tokio::sync::Mutex<()>,
    state: Mutex<PathState>,
}

#[derive(Debug, Default)]
struct PathState {
    port: PortIds,
    /// What REPORT TARGET PORT GROUPS says, where the target has such states.
    access: Option<AccessState>,
    /// The port has said that it does not serve the unit.
    closed_until: Option<Instant>,
    /// It does not lead to the unit that was opened.
    refused: Option<Refusal>,
    /// How often it was refused since it was a good path for long.
    refusals: u32,
    /// Since when it is a good path.
    accepted: Option<Instant>,
}

/// Why a path is not read from, and when it is looked at again.
#[derive(Debug)]
struct Refusal {
    error: Error,
    looked: Instant,
    again: Instant,
}

impl PathState {
    /// Gives when it is to be looked at again.
    fn refuse(&mut self, error: Error) -> Instant {
        let now = Instant::now();
        if self.accepted.take().is_some_and(|since| now >= since + LONGEST_LOOK) {
            self.refusals = 0;
        }
        let again = now + FIRST_LOOK.saturating_mul(1 << self.refusals.min(10)).min(LONGEST_LOOK);
        self.refusals = self.refusals.saturating_add(1);
        self.refused = Some(Refusal { error, looked: now, again });
        again
    }

    fn accept(&mut self, (port, access): (PortIds, Option<AccessState>)) {
        (self.port, self.access) = (port, access);
        (self.refused, self.accepted) = (None, Some(Instant::now()));
    }
}

/// When the paths are looked after.
#[derive(Debug, Default)]
struct Tending {
    last: Option<Instant>,
    /// A path that was refused is to be looked at again.
    look_at: Option<Instant>,
}

impl Path {
    fn new(portal: Portal, handle: Handle, watch: Watch, state: PathState) -> Self {
        let (queued, looking) = Default::default();
        Self { portal, handle, _watch: watch, queued, looking, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, PathState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How well it serves reads now, the lower the better; `None`: not at all.
    fn rank(&self, now: Instant) -> Option<u8> {
        let state = self.state();
        let closed = state.closed_until.is_some_and(|until| now < until);
        if closed || state.refused.is_some() || !self.handle.is_up() {
            return None;
        }
        match state.access {
            None | Some(AccessState::Optimized) => Some(0),
            Some(access) => access.serves_reads().then_some(1),
        }
    }

    fn is_refused(&self) -> bool {
        self.state().refused.is_some()
    }
}

/// A logical unit and the paths to it.
#[derive(Debug)]
pub(super) struct Paths {
    /// The unit and its target, for messages.
    name: String,
    found: Found,
    facts: UnitFacts,
    routes: Arc<Routes>,
    /// Never empty.
    paths: RwLock<Vec<Arc<Path>>>,
    read: AtomicU64,
    tending: Mutex<Tending>,
    /// When the access states were last asked for.
    refreshed: tokio::sync::Mutex<Option<Instant>>,
    /// Another path, or another access state.
    news: Notify,
}

/// A command on its way over one path.
#[derive(Debug)]
pub(super) struct Attempt {
    cdb: Cdb,
    expected: u32,
    begun: Instant,
    deadline: Instant,
    path: Arc<Path>,
    answer: oneshot::Receiver<Result<BytesMut>>,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.path.queued.fetch_sub(self.expected.into(), Ordering::Relaxed);
    }
}

impl Paths {
    /// The first path: that of the session through which the unit was opened.
    pub(super) fn new(
        routes: Arc<Routes>,
        handle: Handle,
        watch: Watch,
        found: Found,
        unit: &Unit,
        name: String,
    ) -> Self {
        watch.rely_on(unit.facts.clone());
        let portal = match handle.state() {
            LinkState::Up(portal, _) | LinkState::Down(portal) => portal,
            LinkState::Over => routes.portals().next().expect("a session has a portal").clone(),
        };
        let state = PathState { port: unit.port, ..PathState::default() };
        let path = Path::new(portal, handle, watch, state);
        Self {
            name,
            found,
            facts: unit.facts.clone(),
            routes,
            paths: RwLock::new(vec![Arc::new(path)]),
            read: AtomicU64::new(0),
            tending: Mutex::default(),
            refreshed: tokio::sync::Mutex::default(),
            news: Notify::new(),
        }
    }

    /// How long one operation may take.
    pub(super) fn timeout(&self) -> Duration {
        self.routes.first().timeout()
    }

    /// What the unit said before it was opened.
    pub(super) fn found(&self) -> &Found {
        &self.found
    }

    /// A session that serves, for other commands than reads.
    pub(super) fn any(&self) -> Handle {
        self.routes.any()
    }

    /// Starts a command on the best path.
    pub(super) fn start(self: &Arc<Self>, cdb: Cdb, expected: u32, deadline: Instant) -> Attempt {
        if self.routes.are_several() {
            let before = self.read.fetch_add(expected.into(), Ordering::Relaxed);
            if before >= WIDEN_AFTER {
                self.tend(TEND_INTERVAL);
            }
        }
        let path = self.choose(None).unwrap_or_else(|| {
            let paths = self.read_paths();
            let lost = paths.iter().find(|path| !path.is_refused());
            Arc::clone(lost.unwrap_or(&paths[0]))
        });
        self.start_on(path, cdb, expected, deadline)
    }

    fn start_on(&self, path: Arc<Path>, cdb: Cdb, expected: u32, deadline: Instant) -> Attempt {
        path.queued.fetch_add(expected.into(), Ordering::Relaxed);
        let begun = Instant::now();
        let answer = path.handle.start(self.found.address, cdb, expected, deadline);
        Attempt { cdb, expected, begun, deadline, path, answer }
    }

    /// Waits for the data, over other paths where the first one fails.
    pub(super) async fn finish(self: &Arc<Self>, mut attempt: Attempt) -> Result<BytesMut> {
        let (mut damaged, mut closed) = (0, 0);
        loop {
            let error = match Handle::wait(&mut attempt.answer).await {
                Ok(data) => return Ok(data),
                Err(error) if !self.routes.are_several() => return Err(error),
                Err(error) => error,
            };
            let path = &attempt.path;
            match error.kind() {
                ErrorKind::PathClosed => {
                    let _ = timeout_at(attempt.deadline, self.refresh(Instant::now())).await;
                    let mut state = path.state();
                    // Where the states have only changed among the ports that serve, nothing is to wait for.
                    if closed > 0 || state.access.is_none() {
                        state.closed_until = Some(Instant::now() + CLOSED);
                    }
                    closed += 1;
                }
                kind if is_of_the_way(kind) => {}
                ErrorKind::Protocol => {
                    damaged += 1;
                    if damaged == MAX_TRIES {
                        return Err(error);
                    }
                }
                kind if leads_elsewhere(kind) => {
                    self.refuse(path, attempt.begun, &error);
                    if self.are_all_refused() {
                        // What was wrong with the others may have been put right since, and a portal that nobody has
                        // tried may lead to the unit.
                        let look = self.look_again(Some(FIRST_LOOK));
                        let looks = async { tokio::join!(look, self.open_untried()) };
                        let _ = timeout_at(attempt.deadline, looks).await;
                    }
                    if self.are_all_refused() {
                        // Whoever asks next may find a path that is not open yet.
                        self.tend(URGENT_INTERVAL);
                        return Err(error);
                    }
                }
                _ => return Err(error),
            }
            tracing::debug!("{}: {}: {error}: another path is tried", self.name, path.portal);
            self.tend(URGENT_INTERVAL);
            let next = self.wait_for_path(&attempt, error).await?;
            let Attempt { cdb, expected, deadline, .. } = attempt;
            attempt = self.start_on(next, cdb, expected, deadline);
        }
    }

    /// The path led to another unit, or to none, for a command begun at that time: it is not read from until it was
    /// looked at again.
    fn refuse(&self, path: &Path, begun: Instant, error: &Error) {
        let mut state = path.state();
        // What was asked before the last look has nothing to say against it.
        if state.refused.is_some() || state.accepted.is_some_and(|since| begun < since) {
            return;
        }
        tracing::warn!("{}: {}: {error}: not read through this portal", self.name, path.portal);
        self.look_at(state.refuse(error.clone()));
    }

    fn are_all_refused(&self) -> bool {
        self.read_paths().iter().all(|path| path.is_refused())
    }

    /// Has the paths looked after at this time, once there is reading.
    fn look_at(&self, time: Instant) {
        let mut tending = self.tending.lock().unwrap_or_else(PoisonError::into_inner);
        tending.look_at = Some(tending.look_at.map_or(time, |other| other.min(time)));
    }

    /// Looks again at the refused paths whose time has come; with `rest`, at all that were last looked at longer ago
    /// than that.
    async fn look_again(&self, rest: Option<Duration>) {
        let is_due = |path: &Path, now: Instant| {
            path.handle.is_up()
                && path.state().refused.as_ref().is_some_and(|refusal| match rest {
                    Some(rest) => refusal.looked + rest <= now,
                    None => refusal.again <= now,
                })
        };
        let now = Instant::now();
        let paths = self.read_paths().clone();
        let due: Vec<_> = paths.iter().filter(|path| is_due(path, now)).collect();
        join_all(due.iter().map(|path| async move {
            let _one_at_a_time = path.looking.lock().await;
            // Another visit was faster.
            if !is_due(path, now) {
                return;
            }
            let examined = self.examine(&path.handle).await;
            let mut state = path.state();
            match examined {
                Ok(good) => {
                    path.handle.tell(Request::Suspect(self.found.address));
                    state.accept(good);
                    tracing::info!("{}: reading through {} again", self.name, path.portal);
                }
                Err(error) => {
                    tracing::debug!("{}: {}: still {error}", self.name, path.portal);
                    self.look_at(state.refuse(error));
                }
            }
        }))
        .await;
        if !due.is_empty() {
            self.news.notify_waiters();
        }
    }

    /// Waits until some path is read through, or every portal has been tried not long ago.
    async fn open_untried(self: &Arc<Self>) {
        let is_untried = |portal: &Portal| self.lacks(portal) && !self.routes.was_tried(portal);
        loop {
            let news = self.news.notified();
            tokio::pin!(news);
            // From here on no news is missed.
            news.as_mut().enable();
            let is_over = !self.routes.portals().any(is_untried) || self.routes.are_over();
            if is_over || !self.are_all_refused() {
                return;
            }
            self.tend(URGENT_INTERVAL);
            // It may have been too early for that.
            let _ = timeout(CLOSED, news).await;
        }
    }

    /// A path for the next attempt: another one if any serves, else whichever serves first.
    async fn wait_for_path(self: &Arc<Self>, failed: &Attempt, error: Error) -> Result<Arc<Path>> {
        loop {
            let news = self.news.notified();
            tokio::pin!(news);
            // From here on no news is missed, and no change.
            news.as_mut().enable();
            let paths = self.read_paths().clone();
            let changes: Vec<_> =
                paths.iter().map(|path| Box::pin(path.handle.changed())).collect();
            if let Some(path) = self.choose(Some(&failed.path)) {
                return Ok(path);
            }
            if paths.iter().all(|path| path.handle.is_over()) {
                return Err(error);
            }
            let now = Instant::now();
            if now >= failed.deadline {
                let (command, seconds) = (failed.cdb.name(), self.timeout().as_secs_f64());
                let what = format!("{command}: no result within {seconds:.0} s (last: {error})");
                return Err(Error::new(ErrorKind::Timeout, what));
            }
            // However many wait, that asks the lost sessions to hurry once in an interval.
            self.tend(URGENT_INTERVAL);
            tokio::select! {
                _ = select_all(changes) => {}
                () = news => {}
                () = sleep_until(failed.deadline.min(now + CLOSED)) => {
                    let _ = timeout_at(failed.deadline, self.refresh(now)).await;
                }
            }
        }
    }

    /// The path with the least to do among the best ones; one that has failed only where there is no other.
    fn choose(&self, failed: Option<&Arc<Path>>) -> Option<Arc<Path>> {
        let paths = self.read_paths();
        if let (None, [only]) = (failed, &paths[..]) {
            return Some(Arc::clone(only));
        }
        let now = Instant::now();
        let key = |path: &Arc<Path>| {
            let again = failed.is_some_and(|failed| Arc::ptr_eq(failed, path));
            Some((again, path.rank(now)?, path.queued.load(Ordering::Relaxed)))
        };
        let served = paths.iter().filter_map(|path| Some((key(path)?, path)));
        served.min_by_key(|(key, _)| *key).map(|(_, path)| Arc::clone(path))
    }

    fn read_paths(&self) -> std::sync::RwLockReadGuard<'_, Vec<Arc<Path>>> {
        self.paths.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks after the paths in the background, unless that was done not long ago.
    fn tend(self: &Arc<Self>, interval: Duration) {
        let now = Instant::now();
        let mut tending = self.tending.lock().unwrap_or_else(PoisonError::into_inner);
        let is_early = tending.last.is_some_and(|last| now < last + interval);
        let look_at = tending.look_at.filter(|time| now < *time);
        if is_early && look_at == tending.look_at {
            return;
        }
        *tending = Tending { last: Some(now), look_at };
        drop(tending);
        let paths = Arc::clone(self);
        self.routes.spawn(async move { paths.open_all().await });
    }

    /// Opens what is missing, tries what is lost, and asks for the access states.
    pub(super) async fn open_all(self: &Arc<Self>) {
        for path in self.read_paths().iter().filter(|path| !path.handle.is_up()) {
            path.handle.tell(Request::Hurry);
        }
        for (portal, handle) in self.moved() {
            self.routes.note(&portal, self.join(&portal, handle).await);
        }
        let portals = self.routes.portals().filter(|portal| self.lacks(portal));
        let joining = portals.map(|portal| async move {
            if let Ok(handle) = self.routes.open(portal).await {
                self.routes.note(portal, self.join(portal, handle).await);
            }
            self.news.notify_waiters();
        });
        let asking = self.refresh(Instant::now());
        tokio::join!(join_all(joining), self.look_again(None), asking);
    }

    /// The sessions that have come back through another portal than they were lost at, as one does while it is alone:
    /// the port, and with it the access state, is another one there, and the portal that it left lacks a path.
    fn moved(&self) -> Vec<(Portal, Handle)> {
        let paths = self.read_paths();
        let moved = paths.iter().filter_map(|path| match path.handle.state() {
            LinkState::Up(portal, _) if portal != path.portal => {
                Some((portal, path.handle.clone()))
            }
            _ => None,
        });
        // Redirects, and portals beyond the number wanted, lead elsewhere.
        moved.filter(|(portal, _)| self.routes.portals().any(|known| known == portal)).collect()
    }

    /// Whether no path leads through this portal yet.
    fn lacks(&self, portal: &Portal) -> bool {
        self.read_paths().iter().all(|path| path.portal != *portal)
    }

    /// Whether a session leads to the unit that was opened: through which port, in which access state.
    async fn examine(&self, handle: &Handle) -> Result<(PortIds, Option<AccessState>)> {
        let Found { address, pages, asymmetric_access } = &self.found;
        let (identity, port) = unit::identity(handle, *address, pages).await?;
        let different = match (&self.facts.identity, identity) {
            (Some(ours), Some(theirs)) if *ours == theirs => None,
            (None, _) => Some("the unit does not say which one it is (VPD 0x83, 0x80)"),
            _ => Some("another device answers under this LUN"),
        };
        if let Some(why) = different {
            return Err(Error::new(ErrorKind::BeingWritten, why));
        }
        let access = match asymmetric_access {
            true => unit::access_state(handle, *address, port).await?,
            false => None,
        };
        Ok((port, access))
    }

    /// Adds a path. If it leads to the same unit its reads wait until the session has checked the rest of the facts, else
    /// it is refused.
    async fn join(&self, portal: &Portal, handle: Handle) -> Result<()> {
        let watch = Watch::begin(&handle, self.found.address);
        let mut state = PathState::default();
        match self.examine(&handle).await {
            Ok(good) => {
                let shown = good.1.map_or_else(String::new, |access| format!(" ({access})"));
                tracing::info!("{}: reading through {portal}{shown} too", self.name);
                state.accept(good);
            }
            Err(error) if leads_elsewhere(error.kind()) => {
                tracing::warn!("{}: {portal}: {error}: not read through this portal", self.name);
                self.look_at(state.refuse(error));
            }
            Err(error) => return Err(error.context(format_args!("{}: {portal}", self.name))),
        }
        watch.rely_on(self.facts.clone());
        handle.tell(Request::Suspect(self.found.address));
        let path = Arc::new(Path::new(portal.clone(), handle, watch, state));
        let mut paths = self.paths.write().unwrap_or_else(PoisonError::into_inner);
        // Where the session led before it does not lead any more.
        paths.retain(|other| other.portal == *portal || !other.handle.is_same(&path.handle));
        // Two visits at a time may have opened it.
        if paths.iter().all(|other| other.portal != *portal) {
            paths.push(path);
        }
        drop(paths);
        self.news.notify_waiters();
        Ok(())
    }

    /// Asks every path how well its port serves the unit, unless that was done after `since`.
    async fn refresh(&self, since: Instant) {
        if !self.found.asymmetric_access {
            return;
        }
        let mut refreshed = self.refreshed.lock().await;
        if refreshed.is_some_and(|last| last > since) {
            return;
        }
        *refreshed = Some(Instant::now());
        let paths = self.read_paths().clone();
        let asked = paths.iter().filter(|path| path.handle.is_up() && !path.is_refused());
        join_all(asked.map(|path| async {
            let port = path.state().port;
            let answer = unit::access_state(&path.handle, self.found.address, port);
            // What cannot be asked now keeps the state that it had.
            let Ok(Ok(access)) = timeout(ACCESS_LIMIT, answer).await else { return };
            let mut state = path.state();
            if let (Some(access), true) = (access, state.access != access) {
                tracing::info!("{}: {} is {access} now", self.name, path.portal);
            }
            state.access = access;
        }))
        .await;
        self.news.notify_waiters();
    }

    /// What can be said of each path, those that are missing too.
    pub(super) fn report(&self) -> Vec<PathInfo> {
        let now = Instant::now();
        let paths = self.read_paths();
        let known = paths.iter().map(|path| {
            let in_use = path.rank(now).is_some();
            let state = path.state();
            let words = match (&state.refused, state.access) {
                (Some(refusal), _) => refusal.error.to_string(),
                (None, _) if !path.handle.is_up() => "not connected".to_owned(),
                (None, Some(access)) => access.to_string(),
                (None, None) => "active".to_owned(),
            };
            PathInfo { portal: path.portal.clone(), in_use, state: words }
        });
        let missing =
            self.routes.portals().filter(|portal| paths.iter().all(|path| path.portal != **portal));
        let missing = missing.map(|portal| PathInfo {
            portal: portal.clone(),
            in_use: false,
            state: match self.routes.trouble(portal) {
                Some(error) => error.to_string(),
                None => "not opened yet".to_owned(),
            },
        });
        known.chain(missing).collect()
    }
}

/// Whether such a failure says that a path does not lead to the unit that was opened.
fn leads_elsewhere(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::BeingWritten | ErrorKind::LunNotFound)
}

#[cfg(test)]
mod tests;
