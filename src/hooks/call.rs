//! One run of a hook: bounded in time and in what it may say.

use std::fs::File;
use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::error::{Error, ErrorKind, Result};

use super::{Argv, Snapshot};

/// How long a hook that was asked to end may take before it is made to.
const GRACE: Duration = Duration::from_secs(2);
/// How long the output of a hook that has ended is waited for: something that it left in the background, such as
/// ssh's shared connection, may keep it open.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// The longest line that is kept, in bytes.
const LONGEST_LINE: usize = 1024;
/// How many lines of one run go to the log.
const MOST_LINES: usize = 200;
/// How much a hook may print where what it prints is wanted.
const MOST_PRINTED: usize = 4 << 20;

/// Secrets of ours that hooks have no use for.
const SECRETS: [&str; 2] = ["LIBISCSI_CHAP_PASSWORD", "LIBISCSI_CHAP_TARGET_PASSWORD"];

/// What a hook is for; `SNAPBROWSE_HOOK`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    Present,
    Revoke,
    List,
}

impl Hook {
    fn name(self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Revoke => "revoke",
            Self::List => "list",
        }
    }
}

/// A hook about to be run.
pub(super) struct Call<'a> {
    pub(super) hook: Hook,
    pub(super) argv: &'a Argv,
    /// What messages are about: the target.
    pub(super) object: String,
    pub(super) variables: Vec<(&'static str, String)>,
    pub(super) limit: Duration,
    /// An empty file for standard input; none is `/dev/null`.
    pub(super) input: Option<File>,
}

impl<'a> Call<'a> {
    pub(super) fn on(hook: Hook, argv: &'a Argv, snapshot: &Snapshot, limit: Duration) -> Self {
        let variables = vec![
            ("SNAPBROWSE_TARGET", snapshot.target.clone()),
            ("SNAPBROWSE_PORTAL", snapshot.portal.clone()),
            ("SNAPBROWSE_LUN", snapshot.lun.map(|lun| lun.to_string()).unwrap_or_default()),
            ("SNAPBROWSE_INITIATOR", snapshot.initiator.clone()),
        ];
        Self { hook, argv, object: snapshot.target.clone(), variables, limit, input: None }
    }

    /// How long it takes at most with such a limit: one that does not heed it is killed.
    pub(super) fn longest(limit: Duration) -> Duration {
        limit.saturating_add(GRACE * 2)
    }

    /// Runs it to its end; everything that it says goes to the log.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] where it failed, [`ErrorKind::Timeout`] where it took too long and was killed,
    /// [`ErrorKind::Usage`] where it could not be started.
    pub(super) async fn run(self) -> Result<()> {
        self.execute(None).await
    }

    /// The same, but what it prints is what is wanted of it.
    pub(super) async fn printed(self) -> Result<String> {
        let printed = Mutex::new(Vec::new());
        self.execute(Some(&printed)).await?;
        let printed = printed.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(String::from_utf8_lossy(&printed).into_owned())
    }

    async fn execute(self, printed: Option<&Mutex<Vec<u8>>>) -> Result<()> {
        tracing::info!("{}: running its {} hook {}", self.object, self.hook.name(), self.argv);
        let mut child = self.start()?;
        let group = Group::of(&child);
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let said = Mutex::new(Said::new(self.hook));
        let listen = async {
            let out = async {
                match (stdout, printed) {
                    (Some(pipe), Some(printed)) => keep(pipe, printed).await,
                    (Some(pipe), None) => listen(pipe, Stream::Out, &said).await,
                    (None, _) => {}
                }
            };
            let err = async {
                if let Some(pipe) = stderr {
                    listen(pipe, Stream::Err, &said).await;
                }
            };
            tokio::join!(out, err);
        };
        let ended = timeout(self.limit, end_of(&mut child, listen)).await;
        let last = said.into_inner().unwrap_or_else(PoisonError::into_inner).last_words();
        match ended {
            Ok(Ok(status)) => {
                group.leave();
                if status.success() { Ok(()) } else { Err(self.failed(status, &last)) }
            }
            Ok(Err(error)) => Err(Error::io(self.name(), error)),
            Err(_) => {
                group.end(&mut child).await;
                let limit = humantime::format_duration(self.limit);
                let message = format!("{}: not done after {limit}, killed{last}", self.name());
                Err(Error::new(ErrorKind::Timeout, message)
                    .with_hint("the limit is `timeout` in [hooks]; -v shows all that it says"))
            }
        }
    }

    fn start(&self) -> Result<Child> {
        let input = self.input.as_ref().map(File::try_clone).transpose();
        let input = input.map_err(|error| Error::io(self.name(), error))?;
        let mut command = Command::new(self.argv.program());
        command
            .args(self.argv.arguments())
            .env("SNAPBROWSE_HOOK", self.hook.name())
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(input.map_or_else(Stdio::null, Stdio::from))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is for us: the hook of a snapshot that is to be revoked must not die of it.
            .process_group(0);
        for secret in SECRETS {
            command.env_remove(secret);
        }
        command.spawn().map_err(|error| {
            let reason = Error::io(self.name(), error);
            Error::new(ErrorKind::Usage, reason.message())
                .with_hint("[hooks] of the configuration names programs that can be run")
        })
    }

    fn failed(&self, status: ExitStatus, last: &str) -> Error {
        let end = match status.code() {
            Some(code) => format!("exit code {code}"),
            None => status.to_string(),
        };
        Error::new(ErrorKind::Io, format!("{}: {end}{last}", self.name()))
            .with_hint("-v shows all that it says")
    }

    fn name(&self) -> String {
        format!("{}: {} hook {}", self.object, self.hook.name(), self.argv)
    }
}

/// Waits for the end of the process, not of its output, and listens meanwhile.
async fn end_of(
    child: &mut Child,
    listen: impl Future<Output = ()>,
) -> std::io::Result<ExitStatus> {
    let mut listen = std::pin::pin!(listen);
    let status = tokio::select! {
        status = child.wait() => status,
        () = &mut listen => return child.wait().await,
    };
    let _ = timeout(LAST_WORDS, listen).await;
    status
}

/// The processes of a hook. Killed with everything that they have started when this is dropped in mid-work.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)))
    }

    /// What goes on in the background of a hook that ended well is meant to.
    fn leave(mut self) {
        self.0 = None;
    }

    /// Ends them: in peace if they can, and in any case.
    async fn end(self, child: &mut Child) {
        self.signal(Signal::TERM);
        let _ = timeout(GRACE, child.wait()).await;
        self.signal(Signal::KILL);
        // Nothing survives that; the bound is for a process that the kernel itself is stuck in.
        let _ = timeout(GRACE, child.wait()).await;
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.0 {
            // Where there is none any more there is nothing to do.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// What a hook has said so far.
struct Said {
    hook: Hook,
    lines: usize,
    /// The last line of each [`Stream`].
    last: [String; 2],
}

/// Where a hook says something.
#[derive(Clone, Copy)]
enum Stream {
    Out,
    Err,
}

impl Said {
    fn new(hook: Hook) -> Self {
        Self { hook, lines: 0, last: Default::default() }
    }

    /// The line that most likely says why it failed, as it stands at the end of a message.
    fn last_words(self) -> String {
        let [out, err] = self.last;
        let last = if err.is_empty() { out } else { err };
        if last.is_empty() { last } else { format!(": {last}") }
    }

    fn line(&mut self, stream: Stream, line: &[u8]) {
        let text: String = String::from_utf8_lossy(line)
            .trim_end()
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        if text.is_empty() {
            return;
        }
        self.lines += 1;
        let hook = self.hook.name();
        match self.lines {
            ..=MOST_LINES => tracing::info!("{hook} hook: {text}"),
            lines if lines == MOST_LINES + 1 => {
                tracing::info!("{hook} hook: says more than {MOST_LINES} lines");
            }
            _ => {}
        }
        self.last[stream as usize] = text;
    }
}

/// Hands on what comes through a pipe, line by line; the rest of a line that is too long is left out.
async fn listen(mut pipe: impl AsyncRead + Unpin, stream: Stream, said: &Mutex<Said>) {
    let mut buffer = [0; 4096];
    let mut line = Vec::new();
    loop {
        // A pipe that fails has said all that it will.
        let read = pipe.read(&mut buffer).await.unwrap_or(0);
        for byte in &buffer[..read] {
            if *byte == b'\n' {
                said.lock().unwrap_or_else(PoisonError::into_inner).line(stream, &line);
                line.clear();
            } else if line.len() < LONGEST_LINE {
                line.push(*byte);
            }
        }
        if read == 0 {
            return said.lock().unwrap_or_else(PoisonError::into_inner).line(stream, &line);
        }
    }
}

/// Keeps what comes through a pipe, up to a bound.
async fn keep(mut pipe: impl AsyncRead + Unpin, printed: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 4096];
    loop {
        let read = pipe.read(&mut buffer).await.unwrap_or(0);
        if read == 0 {
            return;
        }
        let mut printed = printed.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MOST_PRINTED.saturating_sub(printed.len());
        printed.extend_from_slice(&buffer[..read.min(room)]);
    }
}
