//! One target: logged out, logged in, or failed not long ago.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::fs::Filesystem;
use crate::iscsi::TargetRecord;

use super::san::{OpenTarget, San, Teller, Told};

/// The wait after a first failed login; doubled with each further one.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// The longest wait. A person who mends the SAN does not want to wait longer for the next try.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// The longest that a thread is on its way from the kernel's check of permissions to us.
const ON_THE_WAY: Duration = Duration::from_secs(10);

/// A target of the tree, whatever its state.
pub(super) struct Target {
    told: Mutex<Told>,
    /// Requests and open files; a target with any is not idle.
    leases: AtomicUsize,
    /// One login at a time; held while it lasts.
    login: tokio::sync::Mutex<Orphaned>,
    state: RwLock<State>,
}

/// What went wrong with logging out of a login that stood only after its target had left the tree.
type Orphaned = Vec<Error>;

struct State {
    live: Option<Arc<Live>>,
    /// Whether it has left the tree: nobody would end a login that it gets now.
    gone: bool,
    /// What was open last, to be recognised when it comes back.
    known: Option<Arc<Incarnation>>,
    /// Why there was no login the last time.
    failure: Option<Failure>,
    /// Why there was no answer the last time, though there is a login.
    silence: Option<Failure>,
    last_used: Instant,
    logins: u64,
    alias: Option<String>,
}

struct Failure {
    error: Error,
    at: Instant,
    count: u32,
}

impl Failure {
    /// One more than `before`.
    fn after(before: Option<&Self>, error: Error) -> Self {
        let count = before.map_or(0, |before| before.count).saturating_add(1);
        Self { error, at: Instant::now(), count }
    }

    /// How long nothing is tried again.
    fn wait(&self) -> Duration {
        backoff(self.count).saturating_sub(self.at.elapsed())
    }
}

/// The volumes of one state of a target: the same slots mean the same files.
#[derive(Debug)]
pub(super) struct Incarnation {
    /// For each volume its slot, in the order of [`Live::volumes`].
    pub(super) slots: Vec<u32>,
    identities: Vec<Identity>,
}

impl Incarnation {
    fn is(&self, identities: &[Identity]) -> bool {
        self.identities == identities && identities.iter().all(|(_, identity)| identity.is_some())
    }
}

/// Where a volume lies in its target, and what it holds.
type Identity = (Vec<String>, Option<Vec<u8>>);

/// A login with its open file systems.
pub(super) struct Live {
    pub(super) open: OpenTarget,
    pub(super) incarnation: Arc<Incarnation>,
    /// For each volume the error that it answers with, once it has been found to change.
    changed: Vec<OnceLock<Error>>,
    since: Instant,
    /// The threads that have asked since, while it is new.
    known_to: Mutex<HashSet<u32>>,
}

impl Live {
    /// The file system behind a slot, if this login has it.
    ///
    /// # Errors
    /// [`ErrorKind::BeingWritten`] once the volume has been found to change.
    pub(super) fn volume(&self, slot: u32) -> Result<Option<&Arc<dyn Filesystem>>> {
        let index = self.incarnation.slots.iter().position(|known| *known == slot);
        let Some(index) = index else { return Ok(None) };
        match self.changed[index].get() {
            Some(changed) => Err(changed.clone()),
            None => Ok(Some(&self.open.volumes[index].filesystem)),
        }
    }

    /// Whether the thread `who` has seen this login already; one that asks for the first time may have been on its way
    /// since before. After a while nobody is.
    pub(super) fn is_known_to(&self, who: u32) -> bool {
        let mut known_to = self.known_to.lock().unwrap_or_else(PoisonError::into_inner);
        if self.since.elapsed() > ON_THE_WAY {
            *known_to = HashSet::new();
            return true;
        }
        !known_to.insert(who)
    }

    /// Looks whether the volumes hold still. One that does not answers nothing any more until the next login.
    pub(super) async fn check_unchanged(&self, target: &str) {
        for (volume, changed) in self.open.volumes.iter().zip(&self.changed) {
            if changed.get().is_some() {
                continue;
            }
            match volume.filesystem.check_unchanged().await {
                Err(error) if error.kind() == ErrorKind::BeingWritten => {
                    let error =
                        error.context([&[target.to_owned()], &volume.path[..]].concat().join("/"));
                    tracing::error!("{error}; every further request is answered EIO");
                    changed.get_or_init(|| error);
                }
                // A failed look is no change; whoever needs those blocks is told.
                Ok(()) | Err(_) => {}
            }
        }
    }

    /// The slot of the only file system, if the target shows it directly.
    pub(super) fn direct(&self) -> Option<u32> {
        match self.open.volumes.as_slice() {
            [only] if only.path.is_empty() => self.incarnation.slots.first().copied(),
            _ => None,
        }
    }
}

/// Keeps a target logged in while it lives.
pub(super) struct Lease {
    target: Arc<Target>,
    counts_as_use: bool,
}

impl Lease {
    /// Ends the lease as if it had not been: looking after a target is no use of it.
    pub(super) fn end_unused(mut self) {
        self.counts_as_use = false;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.counts_as_use {
            self.target.write().last_used = Instant::now();
        }
        self.target.leases.fetch_sub(1, Ordering::SeqCst);
    }
}

/// For the status file.
pub(super) struct Report {
    pub(super) live: Option<Arc<Live>>,
    pub(super) in_use: usize,
    pub(super) idle: Duration,
    pub(super) logins: u64,
    pub(super) failure: Option<(Error, Duration)>,
}

impl Target {
    pub(super) fn new(told: Told) -> Self {
        Self {
            told: Mutex::new(told),
            leases: AtomicUsize::new(0),
            login: tokio::sync::Mutex::default(),
            state: RwLock::new(State {
                live: None,
                gone: false,
                known: None,
                failure: None,
                silence: None,
                last_used: Instant::now(),
                logins: 0,
                alias: None,
            }),
        }
    }

    pub(super) fn record(&self) -> TargetRecord {
        self.told().record.clone()
    }

    /// Who told of it when they last answered.
    pub(super) fn told_by(&self) -> BTreeSet<Teller> {
        self.told().by.clone()
    }

    /// Takes note of what is said of the target now, and not by those who are `silent`.
    pub(super) fn update(&self, mut told: Told, silent: &BTreeSet<Teller>) {
        let mut known = self.told();
        told.by.extend(known.by.intersection(silent));
        *known = told;
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lease(self: &Arc<Self>) -> Lease {
        self.leases.fetch_add(1, Ordering::SeqCst);
        Lease { target: Arc::clone(self), counts_as_use: true }
    }

    /// The name that the target gave itself at its last login.
    pub(super) fn alias(&self) -> Option<String> {
        self.read().alias.clone()
    }

    /// The login, if there is one.
    pub(super) fn live(&self) -> Option<Arc<Live>> {
        self.read().live.clone()
    }

    /// The login, made if there is none; the caller holds a lease. `room` is waited for before, and what it gives kept
    /// until the login stands or has failed. `new_slots` numbers volumes not seen before.
    ///
    /// # Errors
    /// Those of `room` and of [`San::open`]; of these the last one again, without a new try, until its back-off has
    /// passed. [`ErrorKind::Stale`] where the target has left the tree, before or meanwhile.
    pub(super) async fn log_in<R: Send>(
        self: &Arc<Self>,
        san: &Arc<dyn San>,
        room: impl Future<Output = Result<R>> + Send + 'static,
        new_slots: impl Fn(usize) -> Vec<u32> + Send + 'static,
    ) -> Result<Arc<Live>> {
        if let Some(live) = self.live() {
            return Ok(live);
        }
        // A task of its own: whoever asked may be interrupted, and the others still wait for it.
        let (target, san) = (Arc::clone(self), Arc::clone(san));
        let task = tokio::spawn(async move {
            let mut orphaned = target.login.lock().await;
            if let Some(live) = target.live() {
                return Ok(live);
            }
            target.check_backoff()?;
            let _room = room.await?;
            if target.is_gone() {
                return Err(stale());
            }
            let record = target.record();
            let open = san.open(&record).await;
            let open = open.map_err(|error| target.failed(error.about(&record.name)))?;
            match target.opened(open, new_slots) {
                Ok(live) => Ok(live),
                Err(orphan) => {
                    orphaned.extend((orphan.log_out)().await);
                    Err(stale())
                }
            }
        });
        task.await
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::Interrupted, "the login broke off")))
    }

    fn check_backoff(&self) -> Result<()> {
        let state = self.read();
        match &state.failure {
            _ if state.gone => Err(stale()),
            Some(failure) if !failure.wait().is_zero() => Err(failure.error.clone()),
            _ => Ok(()),
        }
    }

    /// The reason, where requests went unanswered not long ago: a walk over a dead target must not wait for each of
    /// its files anew. After a back-off one may try again.
    pub(super) fn silence(&self) -> Option<Error> {
        let state = self.read();
        let silence = state.silence.as_ref().filter(|silence| !silence.wait().is_zero())?;
        Some(silence.error.clone())
    }

    /// Takes note of a request that was not answered in time.
    pub(super) fn was_silent(&self, error: &Error) {
        let mut state = self.write();
        // Several that waited at the same time are one silence.
        if state.silence.as_ref().is_none_or(|silence| silence.wait().is_zero()) {
            state.silence = Some(Failure::after(state.silence.as_ref(), error.clone()));
        }
    }

    /// Takes note of an answer that came from the target.
    pub(super) fn has_answered(&self) {
        if self.read().silence.is_some() {
            self.write().silence = None;
        }
    }

    /// Takes note of a login; one that came too late is given back.
    fn opened(
        &self,
        open: OpenTarget,
        new_slots: impl Fn(usize) -> Vec<u32>,
    ) -> Result<Arc<Live>, OpenTarget> {
        let identity =
            |volume: &super::san::OpenVolume| (volume.path.clone(), volume.identity.clone());
        let identities: Vec<Identity> = open.volumes.iter().map(identity).collect();
        // The tree's lock goes before the state's; there is no other login meanwhile.
        let known = self.read().known.clone().filter(|known| known.is(&identities));
        let incarnation = known.unwrap_or_else(|| {
            Arc::new(Incarnation { slots: new_slots(identities.len()), identities })
        });
        let mut state = self.write();
        if state.gone {
            return Err(open);
        }
        let changed = open.volumes.iter().map(|_| OnceLock::new()).collect();
        if open.alias.is_some() {
            state.alias.clone_from(&open.alias);
        }
        let live = Arc::new(Live {
            open,
            incarnation: Arc::clone(&incarnation),
            changed,
            since: Instant::now(),
            known_to: Mutex::default(),
        });
        state.live = Some(Arc::clone(&live));
        state.known = Some(incarnation);
        state.failure = None;
        state.silence = None;
        state.logins += 1;
        Ok(live)
    }

    fn failed(&self, error: Error) -> Error {
        tracing::warn!("{error}");
        let mut state = self.write();
        state.failure = Some(Failure::after(state.failure.as_ref(), error.clone()));
        error
    }

    /// How long the target has been logged in without use; `None` where it is in use or logged out.
    pub(super) fn idle(&self) -> Option<Duration> {
        let state = self.read();
        let in_use = self.leases.load(Ordering::SeqCst) > 0;
        (state.live.is_some() && !in_use).then(|| state.last_used.elapsed())
    }

    /// Takes the login away, if nobody uses it; the caller logs it out.
    pub(super) fn take_idle(&self) -> Option<Arc<Live>> {
        // Whoever takes a lease after this look waits for the lock and then finds no login.
        let mut state = self.write();
        if self.leases.load(Ordering::SeqCst) > 0 {
            return None;
        }
        state.live.take()
    }

    /// The target leaves the tree. Takes the login away from under its users, and there is no further one; one that is
    /// under way is logged out as soon as it stands.
    pub(super) fn vanish(&self) -> Option<Arc<Live>> {
        let mut state = self.write();
        state.gone = true;
        state.live.take()
    }

    /// After [`Target::vanish`]: waits for a login that is under way to be logged out again, but no longer than `limit`, and
    /// gives back what went wrong with that.
    pub(super) async fn outlast_login(&self, limit: Duration) -> Vec<Error> {
        match tokio::time::timeout(limit, self.login.lock()).await {
            Ok(mut orphaned) => std::mem::take(&mut *orphaned),
            Err(_) => {
                let limit = humantime::format_duration(limit);
                let message = format!("a login is under way still after {limit}");
                let error = Error::new(ErrorKind::Timeout, message).about(&self.record().name);
                tracing::warn!("{error}");
                vec![error]
            }
        }
    }

    /// Whether it has left the tree.
    pub(super) fn is_gone(&self) -> bool {
        self.read().gone
    }

    /// Takes this login away, if it still is the one.
    pub(super) fn give_up(&self, broken: &Arc<Live>) -> Option<Arc<Live>> {
        self.write().live.take_if(|live| Arc::ptr_eq(live, broken))
    }

    pub(super) fn report(&self) -> Report {
        let state = self.read();
        Report {
            live: state.live.clone(),
            in_use: self.leases.load(Ordering::SeqCst),
            idle: state.last_used.elapsed(),
            logins: state.logins,
            failure: state
                .failure
                .as_ref()
                .or(state.silence.as_ref())
                .map(|failure| (failure.error.clone(), failure.wait())),
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number belongs to a volume or a target that is gone.
pub(super) fn stale() -> Error {
    Error::new(ErrorKind::Stale, "it belonged to a snapshot that is no longer there")
}

fn backoff(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(10);
    (FIRST_BACKOFF * (1 << doublings)).min(LONGEST_BACKOFF)
}
