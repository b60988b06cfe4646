//! What every command works with.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::block::{BlockSource, CachePool};
use crate::error::{Error, Result};
use crate::fuse::Farewell;
use crate::hooks::Presented;
use crate::iscsi::{self, Portal, Session};

use super::presenting::Presenter;
use super::settings::Settings;

/// The settings, and what must be given back at the end: sessions, and what was presented for them.
pub(crate) struct Context {
    pub(crate) settings: Settings,
    /// Above LUNs only: the kernel's page cache does for images.
    cache: CachePool,
    sessions: Mutex<Vec<Session>>,
    /// What went wrong when others logged out.
    unconfirmed: Mutex<Vec<Error>>,
    presenter: Option<Presenter>,
    farewell: OnceLock<Farewell>,
}

impl Context {
    pub(crate) fn new(settings: Settings, presenter: Option<Presenter>) -> Self {
        let budget = usize::try_from(settings.cache).unwrap_or(usize::MAX);
        Self {
            settings,
            cache: CachePool::new(budget),
            sessions: Mutex::default(),
            unconfirmed: Mutex::default(),
            presenter,
            farewell: OnceLock::new(),
        }
    }

    /// Puts the cache above a LUN; one budget for all of them.
    pub(crate) fn cache(&self, lun: Arc<dyn BlockSource>) -> impl BlockSource {
        self.cache.cache(lun)
    }

    /// The hooks, where this command has any.
    pub(crate) fn presenter(&self) -> Option<&Presenter> {
        self.presenter.as_ref()
    }

    /// Has a target presented. [`Context::revoke_all`] will revoke it, whatever happens in between.
    pub(crate) async fn present(
        &self,
        target: &str,
        portals: &[Portal],
        lun: Option<u64>,
        config: &iscsi::Config,
    ) -> Result<Option<Presented>> {
        match &self.presenter {
            Some(presenter) => presenter.present(target, portals, lun, config).await,
            None => Ok(None),
        }
    }

    /// Logs in to what is presented for it; [`Context::log_out`] will end the session, whatever happens in between.
    pub(crate) async fn log_in(
        &self,
        portals: &[Portal],
        target: &str,
        lun: Option<u64>,
        config: &iscsi::Config,
    ) -> Result<Session> {
        self.present(target, portals, lun, config).await?;
        let session = Session::login(portals, target, config).await?;
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).push(session.clone());
        Ok(session)
    }

    /// Logs out of everything; gives back what was not confirmed.
    pub(crate) async fn log_out(&self) -> Vec<Error> {
        let sessions =
            std::mem::take(&mut *self.sessions.lock().unwrap_or_else(PoisonError::into_inner));
        let mut failures =
            std::mem::take(&mut *self.unconfirmed.lock().unwrap_or_else(PoisonError::into_inner));
        for session in sessions {
            if let Err(error) = session.logout().await {
                tracing::warn!("logout: {error}");
                failures.push(error);
            }
        }
        failures
    }

    /// Revokes everything that is presented still; gives back what failed.
    pub(crate) async fn revoke_all(&self) -> Vec<Error> {
        match &self.presenter {
            Some(presenter) => presenter.revoke_all().await,
            None => Vec::new(),
        }
    }

    /// Takes note of what was not logged out or not revoked; [`Context::log_out`] tells of it.
    pub(crate) fn left_behind(&self, failures: Vec<Error>) {
        self.unconfirmed.lock().unwrap_or_else(PoisonError::into_inner).extend(failures);
    }

    /// How the command ends will be told to whoever unmounts this.
    pub(crate) fn will_say(&self, farewell: Farewell) {
        // One command mounts once.
        let _ = self.farewell.set(farewell);
    }

    /// Where to tell it.
    pub(crate) fn farewell(&self) -> Option<&Farewell> {
        self.farewell.get()
    }
}
