//! The sessions with one target: the one that everything begins with, and one more through each other portal, once
//! there is a use for it.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::error::{Error, ErrorKind, Result};

use super::connect::{log_in_patiently, random_isid};
use super::driver::{Driver, Handle, LinkState, Request};
use super::proto::LoginTarget;
use super::{Config, Portal};

/// A portal that has refused a login is asked again after this time, doubled each time, ...
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// ... up to this.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// The ways to one target.
#[derive(Debug)]
pub(super) struct Routes {
    target: LoginTarget,
    config: Config,
    /// Whatever its portal is: while it is alone it tries all of them.
    first: Handle,
    /// The portals that may be used at the same time; `first` may lead through another one.
    ways: Vec<Way>,
    /// What goes on in the background; `None` after the logout.
    tasks: Mutex<Option<JoinSet<()>>>,
}

/// One portal.
#[derive(Debug)]
struct Way {
    portal: Portal,
    /// One login at a time.
    opening: tokio::sync::Mutex<()>,
    session: Mutex<Option<Handle>>,
    trouble: Mutex<Option<Trouble>>,
}

/// Why nothing is read through a portal.
#[derive(Debug)]
struct Trouble {
    error: Error,
    since: Instant,
    /// How many logins were refused in a row.
    refused: u32,
    /// No login before this.
    again: Instant,
}

impl Routes {
    /// The ways of a session that has just logged in.
    pub(super) fn new(
        target: LoginTarget,
        config: &Config,
        first: Handle,
        portals: &[Portal],
    ) -> Self {
        let mut ways: Vec<Way> = Vec::new();
        for portal in portals.iter().take(config.paths.max(1)) {
            if ways.iter().all(|way| way.portal != *portal) {
                ways.push(Way {
                    portal: portal.clone(),
                    opening: tokio::sync::Mutex::default(),
                    session: Mutex::default(),
                    trouble: Mutex::default(),
                });
            }
        }
        let first = if ways.len() > 1 { first.detouring() } else { first };
        let (config, tasks) = (config.clone(), Mutex::new(Some(JoinSet::new())));
        Self { target, config, first, ways, tasks }
    }

    /// Whether the sessions are logged out.
    pub(super) fn are_over(&self) -> bool {
        lock(&self.tasks).is_none()
    }

    /// Whether there is more than one way at all.
    pub(super) fn are_several(&self) -> bool {
        self.ways.len() > 1
    }

    /// The portals, one for each way.
    pub(super) fn portals(&self) -> impl Iterator<Item = &Portal> {
        self.ways.iter().map(|way| &way.portal)
    }

    /// The session that everything begins with.
    pub(super) fn first(&self) -> &Handle {
        &self.first
    }

    /// A session whose connection serves, else the first one.
    pub(super) fn any(&self) -> Handle {
        let others = self.ways.iter().filter_map(|way| lock(&way.session).clone());
        let mut sessions = std::iter::once(self.first.clone()).chain(others);
        sessions.find(Handle::is_up).unwrap_or_else(|| self.first.clone())
    }

    /// Why nothing is read through this portal, if an attempt has failed.
    pub(super) fn trouble(&self, portal: &Portal) -> Option<Error> {
        let way = self.ways.iter().find(|way| way.portal == *portal)?;
        lock(&way.trouble).as_ref().map(|trouble| trouble.error.clone())
    }

    /// Whether an attempt has failed not long ago: after that, another one is worth waiting for.
    pub(super) fn was_tried(&self, portal: &Portal) -> bool {
        let way = self.ways.iter().find(|way| way.portal == *portal);
        let tried = way.and_then(|way| lock(&way.trouble).as_ref().map(|trouble| trouble.since));
        tried.is_some_and(|since| Instant::now() < since + LONGEST_RETRY)
    }

    /// The session through this portal; logs in where there is none.
    ///
    /// # Errors
    /// Those of the login; [`ErrorKind::SessionLost`] after the logout.
    pub(super) async fn open(&self, portal: &Portal) -> Result<Handle> {
        let way = self.ways.iter().find(|way| way.portal == *portal);
        let way = way.ok_or_else(|| Error::new(ErrorKind::Usage, "not one of the portals"))?;
        let _one_at_a_time = way.opening.lock().await;
        if let Some(session) = lock(&way.session).clone() {
            return Ok(session);
        }
        match self.first.state() {
            LinkState::Up(asked, _) | LinkState::Down(asked) if asked == *portal => {
                return Ok(self.first.clone());
            }
            _ => {}
        }
        match &*lock(&way.trouble) {
            Some(trouble) if Instant::now() < trouble.again => return Err(trouble.error.clone()),
            _ => {}
        }
        let opened = self.log_in(way).await;
        self.note(portal, opened.as_ref().map(|_| ()).map_err(Clone::clone));
        opened
    }

    /// Takes note of what came of an attempt to read through a portal; a failure is told once, however often it comes
    /// back.
    pub(super) fn note(&self, portal: &Portal, outcome: Result<()>) {
        let Some(way) = self.ways.iter().find(|way| way.portal == *portal) else { return };
        let mut trouble = lock(&way.trouble);
        let Err(error) = outcome else {
            *trouble = None;
            return;
        };
        let before = trouble.take();
        if before.as_ref().is_some_and(|before| before.error.to_string() == error.to_string()) {
            tracing::debug!("{error}: reading without this path, still");
        } else {
            tracing::info!("{error}: reading without this path");
        }
        let since = Instant::now();
        let (mut refused, mut again) = (0, since);
        if error.kind() == ErrorKind::Login {
            refused = before.map_or(0, |before| before.refused).saturating_add(1);
            let doubled = FIRST_RETRY.saturating_mul(1 << (refused - 1).min(10));
            again += doubled.min(LONGEST_RETRY);
        }
        *trouble = Some(Trouble { error, since, refused, again });
    }

    async fn log_in(&self, way: &Way) -> Result<Handle> {
        let portals = std::slice::from_ref(&way.portal);
        let isid = random_isid()?;
        let connection = log_in_patiently(portals, &self.target, &self.config, isid).await?;
        let peer = connection.peer;
        let handle =
            Driver::spawn(connection, &self.config, self.target.clone(), isid, portals).detouring();
        if let Err(error) = self.take_up(way, &handle, peer) {
            handle.log_out().await;
            return Err(error);
        }
        for session in self.sessions() {
            session.tell(Request::Share);
        }
        Ok(handle)
    }

    /// Puts a new session on the list, unless it is of no use.
    fn take_up(&self, way: &Way, session: &Handle, peer: SocketAddr) -> Result<()> {
        // The logout takes the tasks before it looks at the list, and what comes later finds none.
        let tasks = lock(&self.tasks);
        if tasks.is_none() {
            return Err(Error::new(ErrorKind::SessionLost, "logged out"));
        }
        let same = self.sessions().find_map(|session| match session.state() {
            LinkState::Up(portal, other) if other == peer => Some(portal),
            _ => None,
        });
        if let Some(portal) = same {
            let message = format!("{} leads to where {portal} leads", way.portal);
            return Err(Error::new(ErrorKind::Connect, message));
        }
        *lock(&way.session) = Some(session.clone());
        Ok(())
    }

    /// Runs something in the background until it ends or the sessions are logged out.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        if let Some(tasks) = lock(&self.tasks).as_mut() {
            while tasks.try_join_next().is_some() {}
            tasks.spawn(work);
        }
    }

    /// Logs out of every session. False where the target did not confirm it.
    pub(super) async fn log_out(&self) -> bool {
        // A login under way breaks off: without its connection there is no session.
        let tasks = lock(&self.tasks).take();
        drop(tasks);
        let sessions: Vec<Handle> = self.sessions().collect();
        let up: Vec<bool> = sessions.iter().map(Handle::is_up).collect();
        let confirmed = join_all(sessions.iter().map(Handle::log_out)).await;
        // A session whose path was lost has ended with its connection: it counts only where no other one can.
        let counts = |index: usize| up[index] || !up.contains(&true);
        confirmed.iter().enumerate().all(|(index, confirmed)| *confirmed || !counts(index))
    }

    fn sessions(&self) -> impl Iterator<Item = Handle> + '_ {
        let others = self.ways.iter().filter_map(|way| lock(&way.session).clone());
        std::iter::once(self.first.clone()).chain(others)
    }
}

/// Whether such a failure is one of the way to the target, so that another way may do.
pub(super) fn is_of_the_way(kind: ErrorKind) -> bool {
    use ErrorKind::{Connect, Login, NoAnswer, PathClosed, SessionLost};
    matches!(kind, Connect | Login | NoAnswer | PathClosed | SessionLost)
}

/// Every critical section here leaves its data whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
