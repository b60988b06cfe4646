//! Many targets as one tree: a [`Filesystem`](crate::fs::Filesystem) made of file systems.
//!
//! The root lists every target that the portals report; entering one logs in, and one that nobody uses is logged
//! out. All volumes share one mount and so one `st_dev`: a volume's number in the upper half of its inode numbers
//! keeps them apart. A number is never used for a second volume, so that nothing that the kernel remembers of a
//! snapshot is ever taken for part of another one, not even of one that was made again under the same name.

mod files;
mod names;
mod san;
mod status;
mod target;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use globset::GlobMatcher;

use crate::error::{Error, ErrorKind, Result};
use crate::fs::Timestamp;

pub use names::Aliases;
pub use san::{Discovery, OpenTarget, OpenVolume, San, Teller, Told};

use target::{Live, Target};
use tree::{Kind, ROOT, Tree};

/// How a tree behaves.
#[derive(Debug)]
pub struct Options {
    /// How long a target may be unused before it is logged out.
    pub idle: Duration,
    /// How often the portals are asked for their targets.
    pub refresh: Duration,
    /// How many targets may be logged in at a time.
    pub max_sessions: usize,
    /// How long a login waits for another target to be out of use where no more may be logged in.
    pub patience: Duration,
    /// How long a login that is under way at the end is waited for.
    pub login_limit: Duration,
    /// Which targets are shown; all of them where there is none.
    pub targets: Option<GlobMatcher>,
    /// Readable names beside the targets' own.
    pub aliases: Aliases,
}

/// How soon after one discovery a name that nobody knows may cause the next.
const SHORTEST_REFRESH: Duration = Duration::from_secs(1);

/// How often a login that waits for room looks whether there is some.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The tree of all targets. Clones are the same tree.
#[derive(Clone)]
pub struct Browse {
    shared: Arc<Shared>,
}

struct Shared {
    san: Arc<dyn San>,
    options: Options,
    tree: RwLock<Tree>,
    discovery: tokio::sync::Mutex<Option<Instant>>,
    /// What the last discovery failed with, by who did not answer.
    failures: RwLock<Vec<(Teller, Error)>>,
    /// How many logins are being made; they count as much as those that are.
    under_way: Mutex<usize>,
    /// The times of the tree's own directories.
    started: Timestamp,
    /// The targets that are not shown because something else has their name.
    taken: Mutex<BTreeSet<String>>,
    /// Whose they are: those of the one who browses.
    owner: (u32, u32),
}

impl Browse {
    /// A tree of what the portals report now.
    ///
    /// # Errors
    /// The first failure where nobody answered, neither a portal nor a hook that lists targets.
    pub async fn new(san: Arc<dyn San>, options: Options) -> Result<Self> {
        let mut tree = Tree::new();
        let dir = tree.add(ROOT, ".snapbrowse", Kind::Dir);
        tree.add(dir, "status", Kind::Status { json: false });
        tree.add(dir, "status.json", Kind::Status { json: true });
        let shared = Arc::new(Shared {
            san,
            options,
            tree: RwLock::new(tree),
            discovery: tokio::sync::Mutex::new(None),
            failures: RwLock::default(),
            under_way: Mutex::default(),
            taken: Mutex::default(),
            started: now(),
            owner: (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw()),
        });
        let answered = shared.refresh().await;
        let failure = shared.read_failures().first().cloned();
        match failure {
            Some((_, failure)) if !answered => Err(failure),
            _ => Ok(Self { shared }),
        }
    }

    /// Asks the portals for their targets now.
    pub async fn refresh(&self) {
        self.shared.refresh().await;
    }

    /// Logs out of everything, waiting for logins that are under way, and gives back what went wrong with that; the tree
    /// is of no use afterwards.
    pub async fn log_out(&self) -> Vec<Error> {
        let targets = self.shared.targets();
        let logins = targets.iter().filter_map(|target| target.vanish()).collect();
        let limit = self.shared.options.login_limit;
        let under_way = join_all(targets.iter().map(|target| target.outlast_login(limit)));
        let (mut failures, orphaned) = tokio::join!(log_out(logins), under_way);
        failures.extend(orphaned.into_iter().flatten());
        failures
    }

    /// Logs idle targets out and asks for new ones, until the tree is dropped.
    pub async fn keep(self) {
        let shared = Arc::downgrade(&self.shared);
        let refresh = self.shared.options.refresh;
        let tick = (self.shared.options.idle.min(refresh) / 4)
            .clamp(Duration::from_millis(50), Duration::from_secs(15));
        drop(self);
        let mut ticks = tokio::time::interval(tick);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut refreshed = Instant::now();
        let mut refreshing = tokio::spawn(async {});
        loop {
            ticks.tick().await;
            let Some(shared) = shared.upgrade() else { return };
            shared.log_out_idle().await;
            if refreshed.elapsed() >= refresh && refreshing.is_finished() {
                // Aside: a portal that is slow must not keep idle targets logged in.
                refreshing = tokio::spawn(async move {
                    shared.refresh().await;
                });
                refreshed = Instant::now();
            }
        }
    }
}

impl Shared {
    /// Asks the portals again; `false` where nobody answered ([`Discovery::answered`]), and then no target comes or goes.
    async fn refresh(&self) -> bool {
        let mut last = self.discovery.lock().await;
        let Discovery { answered, targets, failures, .. } = self.san.discover().await;
        *last = Some(Instant::now());
        drop(last);
        let silent = failures.iter().map(|(teller, _)| *teller).collect();
        for failure in self.take_note(failures) {
            tracing::warn!("{failure}");
        }
        let gone = self.apply(targets, &silent);
        log_out(gone).await;
        answered
    }

    /// Keeps what a discovery failed with, and gives back what is new of it: who is silent for days is told of once,
    /// and again when the reason is another one, or when there was an answer meanwhile.
    fn take_note(&self, failures: Vec<(Teller, Error)>) -> Vec<Error> {
        let mut known = self.failures.write().unwrap_or_else(PoisonError::into_inner);
        let is_news = |(teller, failure): &&(Teller, Error)| {
            let reason = failure.to_string();
            !known.iter().any(|(who, why)| who == teller && why.to_string() == reason)
        };
        let news = failures.iter().filter(is_news).map(|(_, failure)| failure.clone()).collect();
        *known = failures;
        news
    }

    /// Keeps which targets are not shown because their name is taken, and gives back those that were shown, or not there,
    /// before.
    fn news_of_taken(&self, taken: BTreeSet<String>) -> Vec<String> {
        let mut known = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let news = taken.difference(&known).cloned().collect();
        *known = taken;
        news
    }

    /// A name that nobody knows may be a snapshot presented a moment ago.
    async fn refresh_for(&self, name: &[u8]) -> bool {
        let asked = Instant::now();
        if !names::is_target_name(name) {
            return false;
        }
        let last = *self.discovery.lock().await;
        match last {
            Some(last) if last > asked => true,
            Some(last) if last.elapsed() < SHORTEST_REFRESH => false,
            _ => self.refresh().await,
        }
    }

    /// Puts a list of targets into the tree. A target vanishes where one who told of it before does not any more: those
    /// who are `silent` say nothing about theirs. Gives back the logins of those that vanished.
    fn apply(&self, mut found: Vec<Told>, silent: &BTreeSet<Teller>) -> Vec<Arc<Live>> {
        found.retain(|Told { record, .. }| {
            names::is_safe(&record.name)
                && self.options.targets.as_ref().is_none_or(|glob| glob.is_match(&record.name))
        });
        let names: HashSet<&str> = found.iter().map(|told| &*told.record.name).collect();
        let mut tree = self.write();
        let mut gone = Vec::new();
        let vanished: Vec<_> = tree
            .children(ROOT, 0)
            .filter_map(|(id, node)| match &node.kind {
                Kind::Target(target) if !names.contains(&*node.name) => {
                    let may_be_there = target.told_by().is_subset(silent);
                    (!may_be_there).then(|| (id, Arc::clone(target)))
                }
                _ => None,
            })
            .collect();
        for (id, target) in vanished {
            gone.extend(target.vanish());
            tree.remove(id);
            tree.drop_slots(&target);
        }
        let mut taken = BTreeSet::new();
        for told in found {
            let known = tree.find(ROOT, &told.record.name).and_then(|id| tree.get(id));
            match known.map(|node| node.kind.clone()) {
                Some(Kind::Target(target)) => target.update(told, silent),
                Some(_) => {
                    taken.insert(told.record.name);
                }
                None => {
                    let name = told.record.name.clone();
                    tree.add(ROOT, &name, Kind::Target(Arc::new(Target::new(told))));
                }
            }
        }
        self.options.aliases.apply(&mut tree);
        drop(tree);
        for name in self.news_of_taken(taken) {
            tracing::warn!("{name}: the name is taken by an alias");
        }
        gone
    }

    /// The login of a target, made room for and made if there is none; the caller holds a lease.
    async fn log_in(self: &Arc<Self>, target: &Arc<Target>) -> Result<Arc<Live>> {
        if let Some(live) = target.live() {
            return Ok(live);
        }
        let (shared, owner) = (Arc::clone(self), Arc::clone(target));
        let new_slots = move |count| shared.write().new_slots(&owner, count);
        let room = Arc::clone(self).make_room();
        let live = target.log_in(&self.san, room, new_slots).await?;
        self.show_volumes(target, &live);
        Ok(live)
    }

    /// Puts the volumes of a login into the tree: under the target itself, or each in a directory.
    fn show_volumes(&self, target: &Arc<Target>, live: &Live) {
        let record = target.record();
        let mut tree = self.write();
        // It may have vanished meanwhile, and another one have its name; its inode numbers lead nowhere then.
        if target.is_gone() {
            return;
        }
        let Some(id) = tree.find(ROOT, &record.name) else { return };
        let slots = &live.incarnation.slots;
        if slots.iter().all(|slot| tree.shown(*slot).is_some()) {
            return;
        }
        tree.clear(id);
        for (volume, slot) in live.open.volumes.iter().zip(slots) {
            let node = match volume.path.split_last() {
                None => id,
                Some((name, dirs)) => {
                    let dir = dirs.iter().fold(id, |dir, name| tree.add(dir, name, Kind::Dir));
                    tree.add(dir, name, Kind::Volume(Arc::clone(target), *slot))
                }
            };
            tree.show(*slot, node);
        }
        self.options.aliases.apply(&mut tree);
    }

    /// Room for one more login. Where as many targets are logged in, or about to be, as may be, the longest unused one is
    /// logged out, or waited for while all are in use.
    async fn make_room(self: Arc<Self>) -> Result<Room> {
        let begun = Instant::now();
        loop {
            let targets = self.targets();
            let live: Vec<_> = targets.iter().filter(|target| target.live().is_some()).collect();
            {
                let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
                if live.len().saturating_add(*under_way) < self.options.max_sessions {
                    *under_way += 1;
                    drop(under_way);
                    return Ok(Room(self));
                }
            }
            let idle = live.iter().filter_map(|target| target.idle().map(|idle| (idle, target)));
            if let Some((_, longest)) = idle.max_by_key(|(idle, _)| *idle) {
                log_out(longest.take_idle().into_iter().collect()).await;
            } else if begun.elapsed() < self.options.patience {
                tokio::time::sleep(LOOK_AGAIN).await;
            } else {
                return Err(Error::new(
                    ErrorKind::Busy,
                    format!("{} targets are logged in and in use", self.options.max_sessions),
                )
                .with_hint("close files, or allow more with --max-sessions"));
            }
        }
    }

    async fn log_out_idle(&self) {
        let idle = |target: &Arc<Target>| {
            let login = target.idle().filter(|idle| *idle >= self.options.idle);
            let login = login.and_then(|_| target.take_idle())?;
            tracing::info!("{}: logging out, idle", target.record().name);
            Some(login)
        };
        log_out(self.targets().iter().filter_map(idle).collect()).await;
    }

    fn targets(&self) -> Vec<Arc<Target>> {
        let tree = self.read();
        let targets = tree.children(ROOT, 0).filter_map(|(_, node)| match &node.kind {
            Kind::Target(target) => Some(Arc::clone(target)),
            _ => None,
        });
        targets.collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, Tree> {
        self.tree.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tree> {
        self.tree.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_failures(&self) -> RwLockReadGuard<'_, Vec<(Teller, Error)>> {
        self.failures.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One login that may be made; over when it is, for good or ill.
struct Room(Arc<Shared>);

impl Drop for Room {
    fn drop(&mut self) {
        *self.0.under_way.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
    }
}

/// Ends logins, side by side, and gives back what went wrong with that.
async fn log_out(logins: Vec<Arc<Live>>) -> Vec<Error> {
    let log_outs = logins.iter().map(|login| (login.open.log_out)());
    join_all(log_outs).await.concat()
}

/// The time of day.
fn now() -> Timestamp {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanoseconds: since.subsec_nanos(),
    }
}
