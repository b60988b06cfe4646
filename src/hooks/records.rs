//! What is presented, written down so that it is revoked even if the process that presented it is killed.
//!
//! One file for each snapshot, made before its present hook runs and removed after its revoke hook has. A lock on the
//! file (flock(2), which ends with the process) tells who stands behind it:
//!
//! - exclusive: somebody is presenting or revoking the snapshot;
//! - shared: so many use it, in one process or in several;
//! - none: whoever presented it is gone, and it has to be revoked.
//!
//! Beside it stands a file for as long as a hook runs, which the hook has as its standard input, locked: it tells of a hook
//! that outlives its killed process.
//!
//! What a record says never changes. A lock is worth something only while its file still has a name, which is looked at
//! after each lock.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind as IoKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind, Result};

use super::call::{Call, Hook};
use super::{Argv, LOOK_AGAIN, Snapshot};

/// More than any record needs.
const LONGEST: u64 = 64 << 10;

/// How a record's name ends.
const SUFFIX: &str = "json";
/// How the name of the file beside it ends while a hook runs.
const RUNNING: &str = "running";
/// How the name of a file begins that is not a record yet.
const UNFINISHED: &str = ".new-";
/// How old such a file is when whoever began it must have been killed over it.
const ABANDONED: Duration = Duration::from_secs(60);

/// All that is needed to revoke a snapshot, whatever the configuration says by then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) snapshot: Snapshot,
    pub(super) revoke: Argv,
    pub(super) limit: Duration,
}

/// A record with a lock of ours on it.
#[derive(Debug)]
pub(super) struct Claim {
    file: File,
    path: PathBuf,
    record: Record,
    /// Whether there is nothing left to revoke here; held while that is being done.
    over: tokio::sync::Mutex<bool>,
}

/// What asking for a snapshot led to.
pub(super) enum Claimed {
    /// Nobody has presented it: we are to.
    New(Claim),
    /// Others use it, and we with them.
    Shared(Claim),
    /// Whoever presented it is gone: it is to be revoked first.
    Leftover(Claim),
    /// Somebody is presenting or revoking it now.
    Busy,
}

/// The directory of records.
#[derive(Clone, Debug)]
pub(super) struct Records {
    directory: PathBuf,
}

impl Records {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Asks for a snapshot, without waiting. `key` tells it from others.
    pub(super) fn claim(&self, key: &str, record: &Record) -> Result<Claimed> {
        self.make()?;
        let digest = Sha256::digest(key.as_bytes());
        let name: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let path = self.directory.join(name).with_extension(SUFFIX);
        let Some(claim) = open(&path)? else {
            // Where another process is as quick, we look again.
            return Ok(self.create(&path, record)?.map_or(Claimed::Busy, Claimed::New));
        };
        if claim.lock(FlockOperation::NonBlockingLockExclusive)? {
            return Ok(Claimed::Leftover(claim));
        }
        Ok(if claim.share()? { Claimed::Shared(claim) } else { Claimed::Busy })
    }

    /// Everything that is presented and that nobody uses, locked.
    pub(super) fn leftovers(&self) -> Result<Vec<Claim>> {
        let entries = match self.directory.read_dir() {
            Ok(entries) => entries,
            Err(error) if error.kind() == IoKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(self.failed("read", error)),
        };
        self.check()?;
        let mut leftovers = Vec::new();
        for entry in entries {
            let path = entry.map_err(|error| self.failed("read", error))?.path();
            if path
                .file_name()
                .is_some_and(|name| name.as_encoded_bytes().starts_with(UNFINISHED.as_bytes()))
            {
                remove_unfinished(&path);
            } else if path.extension().is_some_and(|end| end == SUFFIX) {
                match open(&path) {
                    Ok(Some(claim)) if claim.lock(FlockOperation::NonBlockingLockExclusive)? => {
                        leftovers.push(claim);
                    }
                    Ok(_) => {}
                    // One that cannot be read must not keep the others from being revoked.
                    Err(error) => tracing::warn!("{error}"),
                }
            }
        }
        Ok(leftovers)
    }

    /// A new record under a name that nothing has yet, locked and safe on the disk; `None` where there is one.
    fn create(&self, path: &Path, record: &Record) -> Result<Option<Claim>> {
        let failed = |error| Error::io(format!("write {}", path.display()), error);
        let mut random = [0; 8];
        getrandom::fill(&mut random)
            .map_err(|error| Error::new(ErrorKind::Io, format!("random numbers: {error}")))?;
        let aside = self.directory.join(format!("{UNFINISHED}{:016x}", u64::from_ne_bytes(random)));
        let mut text =
            serde_json::to_string_pretty(record).map_err(|error| failed(error.into()))?;
        text.push('\n');
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&aside)
            .map_err(failed)?;
        let made = flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(std::io::Error::from)
            .and_then(|()| file.write_all(text.as_bytes()))
            .and_then(|()| file.sync_all())
            // Unlike a rename this replaces nothing: of two that begin at once, one does.
            .and_then(|()| std::fs::hard_link(&aside, path));
        // It has served its purpose, or never will.
        let _ = std::fs::remove_file(&aside);
        match made {
            Ok(()) => {}
            Err(error) if error.kind() == IoKind::AlreadyExists => return Ok(None),
            Err(error) => return Err(failed(error)),
        }
        self.sync()?;
        Ok(Some(Claim::new(file, path.to_owned(), record.clone())))
    }

    fn make(&self) -> Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .map_err(|error| self.failed("make", error))?;
        self.check()
    }

    /// What stands in here is run: nobody else may have written it.
    fn check(&self) -> Result<()> {
        let metadata = self.directory.metadata().map_err(|error| self.failed("look at", error))?;
        trusted(&self.directory, &metadata)
    }

    /// Makes sure that the names in the directory outlive a power failure.
    fn sync(&self) -> Result<()> {
        let synced = File::open(&self.directory).and_then(|directory| directory.sync_all());
        synced.map_err(|error| self.failed("write", error))
    }

    fn failed(&self, what: &str, error: std::io::Error) -> Error {
        Error::io(format!("{what} {}", self.directory.display()), error).with_hint(
            "what is presented is written down there; XDG_STATE_HOME chooses another place",
        )
    }
}

impl Claim {
    fn new(file: File, path: PathBuf, record: Record) -> Self {
        Self { file, path, record, over: tokio::sync::Mutex::new(false) }
    }

    pub(super) fn target(&self) -> &str {
        &self.record.snapshot.target
    }

    /// Lets others use the snapshot too; `false` where it has been revoked meanwhile.
    pub(super) fn share(&self) -> Result<bool> {
        self.lock(FlockOperation::NonBlockingLockShared)
    }

    /// Runs the revoke hook, unless others use the snapshot still, and crosses the record out. Once is enough.
    pub(super) async fn revoke(&self) -> Result<()> {
        let mut over = self.over.lock().await;
        if !*over && self.lock(FlockOperation::NonBlockingLockExclusive)? {
            self.outlast_hook().await;
            let Record { snapshot, revoke, limit } = &self.record;
            let call = Call::on(Hook::Revoke, revoke, snapshot, *limit);
            self.run(call).await.map_err(|error| {
                let path = self.path.display();
                let hint = format!("it may be presented still; the next start tries again, unless you remove {path}");
                error.with_hint(hint)
            })?;
            self.forget();
        }
        *over = true;
        Ok(())
    }

    /// Runs a hook for it. The lock on it is exclusive.
    pub(super) async fn run(&self, call: Call<'_>) -> Result<()> {
        let path = self.path.with_extension(RUNNING);
        let failed = |error| Error::io(format!("write {}", path.display()), error);
        // One that is there already belongs to a hook that was given up.
        let _ = std::fs::remove_file(&path);
        let file =
            OpenOptions::new().write(true).read(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(failed)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|e| failed(e.into()))?;
        let ended = Call { input: Some(file), ..call }.run().await;
        // Whatever it has left behind with its input open is no concern of ours.
        let _ = std::fs::remove_file(&path);
        ended
    }

    /// Waits while a hook goes on whose process was killed: it would undo what is done meanwhile. No longer than it may take.
    async fn outlast_hook(&self) {
        let Ok(file) = File::open(self.path.with_extension(RUNNING)) else { return };
        let until = Instant::now() + self.record.limit;
        while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            if Instant::now() > until {
                tracing::warn!(
                    "{}: a hook of a killed process goes on; revoking it",
                    self.target()
                );
                return;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Crosses the record out. The lock on it is exclusive.
    pub(super) fn forget(&self) {
        let _ = std::fs::remove_file(self.path.with_extension(RUNNING));
        // At worst it is revoked once more.
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!("{}", Error::io(format!("remove {}", self.path.display()), error));
        }
    }

    /// `false` where others have a lock that speaks against it, or the record has been crossed out.
    fn lock(&self, how: FlockOperation) -> Result<bool> {
        match flock(&self.file, how) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(errno) => {
                return Err(Error::io(format!("lock {}", self.path.display()), errno.into()));
            }
        }
        let metadata = self.file.metadata();
        let metadata =
            metadata.map_err(|error| Error::io(format!("stat {}", self.path.display()), error))?;
        Ok(metadata.nlink() > 0)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Closing it would not do at once: a process that another thread is just starting has the file open too, until
        // it becomes another program.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

/// The record in a file; `None` where it is there no more.
fn open(path: &Path) -> Result<Option<Claim>> {
    let failed = |error| Error::io(format!("read {}", path.display()), error);
    let mut options = OpenOptions::new();
    options.read(true).custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32);
    let file = match options.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == IoKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let metadata = file.metadata().map_err(failed)?;
    trusted(path, &metadata)?;
    let mut text = String::new();
    (&file).take(LONGEST).read_to_string(&mut text).map_err(failed)?;
    let record = serde_json::from_str(&text).map_err(|error| {
        Error::new(ErrorKind::Io, format!("{}: not a record of ours: {error}", path.display()))
            .with_hint("a snapshot may be presented still; remove the file when it is not")
    })?;
    Ok(Some(Claim::new(file, path.to_owned(), record)))
}

/// A file that a process was killed over while it wrote it.
fn remove_unfinished(path: &Path) {
    let modified = path.symlink_metadata().and_then(|metadata| metadata.modified()).ok();
    if modified.is_some_and(|time| time.elapsed().is_ok_and(|age| age > ABANDONED)) {
        let _ = std::fs::remove_file(path);
    }
}

fn trusted(path: &Path, metadata: &std::fs::Metadata) -> Result<()> {
    let ours = metadata.uid() == rustix::process::geteuid().as_raw();
    if ours && metadata.mode() & 0o022 == 0 {
        return Ok(());
    }
    let message = format!("{}: others can write it, and it names what is run", path.display());
    Err(Error::new(ErrorKind::Permission, message).with_hint("it must be yours alone"))
}
