//! Which snapshots the hooks are run for, and where it is written down.

use std::path::PathBuf;
use std::time::Duration;

use globset::GlobMatcher;

use crate::error::{Error, ErrorKind, Result};
use crate::hooks::{self, Commands, Hooks, Presented, Snapshot};
use crate::iscsi::{self, Portal};

use super::config::{HooksConfig, glob, state_directory};
use super::units;

/// Has the SAN present what is about to be logged in to.
#[derive(Debug)]
pub(crate) struct Presenter {
    hooks: Hooks,
    targets: Option<GlobMatcher>,
}

impl Presenter {
    /// The hooks of the configuration, if it has any.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] where it is wrong, or where there is no place to write down what is presented.
    pub(crate) fn new(config: &HooksConfig) -> Result<Option<Self>> {
        let HooksConfig { present, revoke, list, timeout: _, targets, per_lun } = config.clone();
        if present.is_none() && revoke.is_none() && list.is_none() {
            return Ok(None);
        }
        let targets = targets.map(|pattern| glob("hooks.targets", &pattern)).transpose()?;
        let commands = Commands { present, revoke, list, limit: config.limit()?, per_lun };
        let directory = directory().ok_or_else(|| {
            Error::new(
                ErrorKind::Usage,
                "no home directory to write down what hooks have presented",
            )
            .with_hint("set XDG_STATE_HOME")
        })?;
        Ok(Some(Self {
            hooks: Hooks::new(commands, directory),
            targets: targets.map(|glob| glob.compile_matcher()),
        }))
    }

    /// Presents a target, if it is one of those that hooks are run for.
    pub(crate) async fn present(
        &self,
        target: &str,
        portals: &[Portal],
        lun: Option<u64>,
        config: &iscsi::Config,
    ) -> Result<Option<Presented>> {
        if !self.is_for(target) {
            return Ok(None);
        }
        let snapshot = Snapshot {
            target: target.to_owned(),
            portal: first(portals),
            lun,
            initiator: config.initiator.clone(),
        };
        self.hooks.present(&snapshot).await
    }

    /// Revokes one, after its logout.
    pub(crate) async fn revoke(&self, presented: &Presented) -> Result<()> {
        self.hooks.revoke(presented).await
    }

    /// Revokes what is presented still; gives back what failed.
    pub(crate) async fn revoke_all(&self) -> Vec<Error> {
        self.hooks.revoke_all().await
    }

    /// The names of targets that could be presented; `None` where no hook lists them.
    pub(crate) async fn list(
        &self,
        portals: &[Portal],
        config: &iscsi::Config,
    ) -> Result<Option<Vec<String>>> {
        let mut names = self.hooks.list(&first(portals), &config.initiator).await?;
        if let Some(names) = &mut names {
            names.retain(|name| self.is_for(name));
        }
        Ok(names)
    }

    /// Whether hooks are run for a target.
    fn is_for(&self, target: &str) -> bool {
        self.targets.as_ref().is_none_or(|glob| glob.is_match(target))
    }
}

fn first(portals: &[Portal]) -> String {
    portals.first().map(Portal::to_string).unwrap_or_default()
}

impl HooksConfig {
    /// Whether a target can be presented that no portal tells of yet.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a pattern that is none.
    pub(crate) fn may_present(&self, target: &str) -> Result<bool> {
        if self.present.is_none() {
            return Ok(false);
        }
        let Some(pattern) = &self.targets else { return Ok(true) };
        Ok(glob("hooks.targets", pattern)?.compile_matcher().is_match(target))
    }

    /// The longest that presenting a snapshot takes, or revoking it; nothing where there are no hooks for that.
    ///
    /// # Errors
    /// Those of [`HooksConfig::limit`].
    pub(crate) fn longest(&self) -> Result<Duration> {
        if self.present.is_none() && self.revoke.is_none() {
            return Ok(Duration::ZERO);
        }
        Ok(hooks::longest(self.limit()?))
    }

    /// The longest that a hook may take.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a text that is no duration.
    pub(crate) fn limit(&self) -> Result<Duration> {
        let text = self.timeout.as_deref().unwrap_or("30s");
        let wrong =
            |why| Error::new(ErrorKind::Usage, format!("configuration: hooks.timeout: {why}"));
        let limit = units::duration(text).map_err(wrong)?;
        if limit.is_zero() {
            Err(wrong("0 leaves no time for anything".to_owned()))
        } else {
            Ok(limit)
        }
    }
}

/// Revokes what processes that are gone have left presented; gives back what failed.
pub(crate) async fn reconcile() -> Vec<Error> {
    match directory() {
        Some(directory) => hooks::reconcile(directory).await,
        None => Vec::new(),
    }
}

/// Not a place that ends with the session or at the next boot: the SAN does not forget what it presents, either.
fn directory() -> Option<PathBuf> {
    state_directory().map(|directory| directory.join("presented"))
}
