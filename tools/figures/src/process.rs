//! Runs programs and reads from /proc what they cost.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// What a run took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    pub(crate) wall: Duration,
    /// User and system time.
    pub(crate) cpu: Duration,
    /// The most memory that was resident, in bytes.
    pub(crate) peak: u64,
}

/// Between two looks at a process's memory, when it has just begun, ...
const SHORTEST_PAUSE: Duration = Duration::from_micros(200);
/// ... and later.
const LONGEST_PAUSE: Duration = Duration::from_millis(10);

/// Runs a command to its end; it must succeed.
pub(crate) fn measure(command: &mut Command) -> Result<Cost> {
    let name = format!("{command:?}");
    let begun = Instant::now();
    let mut child = command.stdin(Stdio::null()).spawn().with_context(|| name.clone())?;
    let pid = child.id();
    let (peak, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let cost = std::thread::scope(|scope| {
        scope.spawn(|| {
            // The figure only grows, so that the last look before the end is right but for an instant: a short one
            // where the whole process lives for milliseconds only.
            while !over.load(Ordering::Relaxed) {
                peak.fetch_max(peak_memory(pid).unwrap_or(0), Ordering::Relaxed);
                let pause = begun.elapsed() / 50;
                std::thread::sleep(pause.clamp(SHORTEST_PAUSE, LONGEST_PAUSE));
            }
        });
        let id = Pid::from_child(&child);
        let waited = waitid(WaitId::Pid(id), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        let wall = begun.elapsed();
        over.store(true, Ordering::Relaxed);
        waited.context("waitid")?;
        // A process that has ended and was not reaped still has its times.
        anyhow::Ok(Cost { wall, cpu: cpu_time(pid)?, peak: 0 })
    })?;
    let status = child.wait()?;
    ensure!(status.success(), "{name}: {status}");
    Ok(Cost { peak: peak.into_inner(), ..cost })
}

/// User and system time of a process so far.
pub(crate) fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // After the name in parentheses, which may hold anything: field 3 and on.
    let fields: Vec<&str> =
        stat.rsplit_once(')').context("/proc/PID/stat")?.1.split_whitespace().collect();
    let ticks = |field: usize| -> Result<u64> { Ok(fields[field - 3].parse()?) };
    // USER_HZ is 100 on every Linux.
    Ok(Duration::from_millis(10 * (ticks(14)? + ticks(15)?)))
}

/// How often the threads of a process have gone to sleep so far, and so have been woken.
pub(crate) fn switches(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(thread?.path().join("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        sum += line.context("voluntary_ctxt_switches")?.trim().parse::<u64>()?;
    }
    Ok(sum)
}

/// The most memory that a process has had resident, in bytes.
pub(crate) fn peak_memory(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}

/// A process that serves, ended when dropped.
pub(crate) struct Daemon {
    pub(crate) child: Child,
}

impl Daemon {
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let name = format!("{command:?}");
        let child = command.stdin(Stdio::null()).spawn().context(name)?;
        Ok(Self { child })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until `ready`, for ten seconds at most.
pub(crate) fn wait_until(what: &str, ready: impl Fn() -> bool) -> Result<()> {
    let begun = Instant::now();
    while !ready() {
        ensure!(begun.elapsed() < Duration::from_secs(10), "{what} did not become ready");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// A command run by an ordinary user where we are root.
pub(crate) fn as_user(program: &str) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", program]);
    command.env("HOME", "/nonexistent").env_remove("XDG_CONFIG_HOME");
    command
}
