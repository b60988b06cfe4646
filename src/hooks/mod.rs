//! Commands of the user's own that have the SAN present a snapshot before a login, and take it back after the logout.
//!
//! A snapshot that was presented is written down before its hook runs, and crossed out after it
//! has been revoked: what a process leaves behind when it is killed, the next one revokes. Several processes may use
//! one snapshot at a time; the last one revokes it.

mod argv;
mod call;
mod records;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

pub use argv::Argv;

use call::{Call, Hook};
use records::{Claim, Claimed, Record, Records};

/// How often a process looks whether another one has finished presenting or revoking.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The hooks of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Commands {
    /// Presents a snapshot; what it is called for can be logged in to when it ends with 0.
    pub present: Option<Argv>,
    /// Takes it back.
    pub revoke: Option<Argv>,
    /// Prints the names of targets that could be presented, one per line.
    pub list: Option<Argv>,
    /// The longest that each may take.
    pub limit: Duration,
    /// Whether LUNs of one target are presented each on its own, and not the target with all of them.
    pub per_lun: bool,
}

/// What is presented. Hooks find it in their environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// `SNAPBROWSE_TARGET`, an iSCSI name.
    pub target: String,
    /// `SNAPBROWSE_PORTAL`, as `host:port`.
    pub portal: String,
    /// `SNAPBROWSE_LUN`; empty where all LUNs of the target are meant, and so always without [`Commands::per_lun`].
    pub lun: Option<u64>,
    /// `SNAPBROWSE_INITIATOR`, the name that the SAN has to let in.
    pub initiator: String,
}

/// The hooks, with what this process has presented.
#[derive(Debug)]
pub struct Hooks {
    commands: Commands,
    records: Records,
    /// Everything presented by or for this process. A claim is here from before its hook begins until it is revoked,
    /// whatever becomes of the work that asked for it.
    held: Mutex<Vec<Arc<Claim>>>,
}

/// A snapshot that is presented until [`Hooks::revoke`] or [`Hooks::revoke_all`] is called.
#[derive(Clone, Debug)]
pub struct Presented(Arc<Claim>);

impl Hooks {
    /// Hooks that write down in `directory` what they have presented.
    pub fn new(commands: Commands, directory: PathBuf) -> Self {
        Self { commands, records: Records::new(directory), held: Mutex::default() }
    }

    /// Presents a snapshot, or joins those who use it already. `None` where there is nothing to revoke later.
    ///
    /// # Errors
    /// Those of the hook: [`ErrorKind::Io`] where it failed, [`ErrorKind::Timeout`] where it took too long,
    /// [`ErrorKind::Usage`] where it cannot be started; it has been revoked then.
    pub async fn present(&self, snapshot: &Snapshot) -> Result<Option<Presented>> {
        let Commands { present, revoke, limit, per_lun, .. } = &self.commands;
        // A target that is presented with all its LUNs is so for whoever comes later with another one, too.
        let lun = snapshot.lun.filter(|_| *per_lun);
        let snapshot = &Snapshot { lun, ..snapshot.clone() };
        let Some(revoke) = revoke else {
            self.run_present(present.as_ref(), snapshot, None).await?;
            return Ok(None);
        };
        let record = Record { snapshot: snapshot.clone(), revoke: revoke.clone(), limit: *limit };
        let key = match snapshot.lun {
            Some(lun) => format!("{} {lun}", snapshot.target),
            None => snapshot.target.clone(),
        };
        let until = Instant::now() + longest(*limit);
        loop {
            let (claim, leftover) = match self.records.claim(&key, &record)? {
                Claimed::New(claim) => (self.hold(claim), false),
                Claimed::Leftover(claim) => {
                    let claim = self.hold(claim);
                    match claim.revoke().await {
                        Ok(()) => {
                            self.let_go(&claim);
                            continue;
                        }
                        // We are about to present it in any case, and to revoke it ourselves.
                        Err(error) => tracing::warn!("{error}"),
                    }
                    (claim, true)
                }
                Claimed::Shared(claim) => return Ok(Some(Presented(self.hold(claim)))),
                Claimed::Busy if Instant::now() < until => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                    continue;
                }
                Claimed::Busy => {
                    return Err(Error::new(
                        ErrorKind::Timeout,
                        format!(
                            "{}: another process is presenting or revoking it",
                            snapshot.target
                        ),
                    ));
                }
            };
            if let Err(error) = self.run_present(present.as_ref(), snapshot, Some(&claim)).await {
                self.undo(&claim, leftover, &error).await;
                return Err(error);
            }
            if claim.share()? {
                return Ok(Some(Presented(claim)));
            }
            // In the moment between the two locks somebody took it for left over.
            self.let_go(&claim);
        }
    }

    /// Revokes a snapshot unless others use it.
    ///
    /// # Errors
    /// Those of the hook; it will be tried again by [`reconcile`].
    pub async fn revoke(&self, presented: &Presented) -> Result<()> {
        self.revoke_claim(&presented.0).await
    }

    /// Revokes everything that this process has presented and has not revoked; gives back what failed.
    pub async fn revoke_all(&self) -> Vec<Error> {
        let held = self.held().clone();
        let revoked = join_all(held.iter().map(|claim| self.revoke_claim(claim))).await;
        revoked.into_iter().filter_map(Result::err).collect()
    }

    /// The names of the targets that could be presented; `None` where no hook lists them.
    ///
    /// # Errors
    /// Those of the hook.
    pub async fn list(&self, portal: &str, initiator: &str) -> Result<Option<Vec<String>>> {
        let Some(argv) = &self.commands.list else { return Ok(None) };
        let variables = vec![
            ("SNAPBROWSE_PORTAL", portal.to_owned()),
            ("SNAPBROWSE_INITIATOR", initiator.to_owned()),
        ];
        let object = portal.to_owned();
        let limit = self.commands.limit;
        let call = Call { hook: Hook::List, argv, object, variables, limit, input: None };
        Ok(Some(names(&call.printed().await?)))
    }

    async fn run_present(
        &self,
        argv: Option<&Argv>,
        snapshot: &Snapshot,
        claim: Option<&Claim>,
    ) -> Result<()> {
        let Some(argv) = argv else { return Ok(()) };
        let call = Call::on(Hook::Present, argv, snapshot, self.commands.limit);
        match claim {
            Some(claim) => claim.run(call).await,
            None => call.run().await,
        }
    }

    /// After a present hook that failed: it may have done half of its work.
    async fn undo(&self, claim: &Arc<Claim>, leftover: bool, failure: &Error) {
        // A hook that could not be started has left nothing, and one that says that it failed has not either, most
        // likely; one that was killed may have.
        let nothing_left = !leftover && failure.kind() != ErrorKind::Timeout;
        if nothing_left && failure.kind() == ErrorKind::Usage {
            claim.forget();
            self.let_go(claim);
        } else if let Err(error) = self.revoke_claim(claim).await {
            if nothing_left {
                tracing::info!("{}", error.message());
                claim.forget();
            } else {
                tracing::warn!("{error}");
            }
        }
    }

    async fn revoke_claim(&self, claim: &Arc<Claim>) -> Result<()> {
        let revoked = claim.revoke().await;
        self.let_go(claim);
        revoked
    }

    fn hold(&self, claim: Claim) -> Arc<Claim> {
        let claim = Arc::new(claim);
        self.held().push(Arc::clone(&claim));
        claim
    }

    fn let_go(&self, claim: &Arc<Claim>) {
        self.held().retain(|held| !Arc::ptr_eq(held, claim));
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Claim>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a process is busy with a snapshot at most, with such a limit of [`Commands`]: it may be waiting for the end of
/// a dead one's hook, then revoking it, then presenting it.
pub fn longest(limit: Duration) -> Duration {
    Call::longest(limit).saturating_add(LOOK_AGAIN).saturating_mul(3)
}

/// Revokes what processes that are gone have left presented, by the hooks that they would have used; gives back
/// what failed.
pub async fn reconcile(directory: PathBuf) -> Vec<Error> {
    let leftovers = match Records::new(directory).leftovers() {
        Ok(leftovers) => leftovers,
        Err(error) => return vec![error],
    };
    let revoked = leftovers.iter().map(|claim| async move {
        tracing::warn!("{}: left presented by a process that is gone; revoking it", claim.target());
        claim.revoke().await
    });
    join_all(revoked).await.into_iter().filter_map(Result::err).collect()
}

/// One target name per line; what follows white space on a line, and lines that begin with `#`, are for people.
fn names(printed: &str) -> Vec<String> {
    let names = printed.lines().filter_map(|line| line.split_whitespace().next());
    let (names, others): (Vec<&str>, Vec<&str>) = names
        .filter(|name| !name.starts_with('#'))
        .partition(|name| ["iqn.", "eui.", "naa."].iter().any(|form| name.starts_with(form)));
    if let Some(other) = others.first() {
        tracing::warn!("list hook: {other:?} is no target name; one per line is expected");
    }
    names.into_iter().map(str::to_owned).collect()
}
