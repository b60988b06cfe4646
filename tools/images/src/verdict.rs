//! What became of one image.

use std::fmt::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use wait_timeout::ChildExt as _;

use crate::debugfs;
use crate::listing::{Listing, from_line};

const TIME: Duration = Duration::from_secs(10);
/// `ext4-view` looks through all of a directory for each of its names.
const BESIDE_TIME: Duration = Duration::from_secs(300);
const PEAK_KIB: u64 = 256 << 10;

/// How it went.
#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    /// As debugfs reads it, so many paths.
    Equal(usize),
    /// Refused with a journal that cannot be used; without it as debugfs reads it.
    EqualIgnoringJournal(usize, String),
    /// Not as debugfs reads it.
    Differs(Vec<String>),
    /// Read, but not by debugfs.
    NoWitness(String),
    /// e2fsck does not call it clean, so nothing is compared; so many entries could not be read.
    Damaged { read: usize, unreadable: usize },
    /// Refused.
    Refused { clean: bool, reason: String },
    /// A panic, a hang, or too much memory.
    Failed(String),
}

impl Verdict {
    pub(crate) fn is_bad(&self) -> bool {
        match self {
            Self::Differs(_) | Self::Failed(_) => true,
            Self::Refused { clean, reason } => *clean && !reason.contains("not supported"),
            _ => false,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Equal(paths) => write!(f, "equal: {paths} paths"),
            Self::EqualIgnoringJournal(paths, reason) => {
                write!(
                    f,
                    "equal with `--journal ignore`: {paths} paths; without it refused: {reason}"
                )
            }
            Self::Differs(differences) => {
                write!(f, "DIFFERS in {} places: {}", differences.len(), differences[0])
            }
            Self::NoWitness(reason) => write!(f, "read; debugfs cannot: {reason}"),
            Self::Damaged { read, unreadable: 0 } => write!(f, "damaged: {read} paths read"),
            Self::Damaged { read, unreadable } => {
                write!(f, "damaged: {read} paths read, {unreadable} errors named")
            }
            Self::Refused { reason, .. } => write!(f, "refused: {reason}"),
            Self::Failed(what) => write!(f, "FAILED: {what}"),
        }
    }
}

/// One line of the table.
pub(crate) struct Row {
    name: String,
    pub(crate) verdict: Verdict,
    view: View,
    warnings: usize,
    peak_kib: u64,
    time: Duration,
}

/// How the other reader, ext4-view, fared with the same blocks.
#[derive(Clone, Debug)]
enum View {
    /// It was not asked: there was nothing to compare it with.
    NotAsked,
    /// It told the same of so many paths.
    Same(u64),
    /// All differences are known faults: which, how often, and where first; so many paths were compared.
    Known(u64, Vec<(u64, String)>),
    /// Something differs for no known reason, or the comparison came to no end.
    Unexplained(Vec<String>),
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAsked => write!(f, "-"),
            Self::Same(paths) => write!(f, "the same: {paths} paths"),
            Self::Known(paths, faults) => {
                match paths {
                    0 => write!(f, "not opened: ")?,
                    paths => write!(f, "{paths} paths, but for ")?,
                }
                let faults: Vec<_> = faults
                    .iter()
                    .map(|(count, fault)| match (paths, count) {
                        (0, _) => fault.clone(),
                        (_, count) => format!("{fault} ({count})"),
                    })
                    .collect();
                write!(f, "{}", faults.join(", "))
            }
            Self::Unexplained(what) => {
                write!(f, "UNEXPLAINED in {} places: {}", what.len(), what[0])
            }
        }
    }
}

impl Row {
    pub(crate) fn is_bad(&self) -> bool {
        self.verdict.is_bad() || matches!(self.view, View::Unexplained(_))
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; ext4-view: {}", self.name, self.verdict, self.view)?;
        if let Verdict::Differs(differences) = &self.verdict {
            for difference in differences.iter().take(10) {
                write!(f, "\n    {difference}")?;
            }
        }
        if let View::Unexplained(what) = &self.view {
            for what in what.iter().take(10) {
                write!(f, "\n    {what}")?;
            }
        }
        Ok(())
    }
}

/// What the reader printed.
#[derive(Default)]
struct Outcome {
    listing: Listing,
    refused: Option<String>,
    unreadable: Vec<String>,
    warnings: usize,
    peak_kib: u64,
    time: Duration,
    failed: Option<String>,
}

/// Reads one image, and compares it where there is something to compare it with.
pub(crate) fn judge(name: &str, image: &Path, journal: Option<&Path>) -> Result<Row> {
    let outcome = read(image, journal, "replay")?;
    let mut row = judge_outcome(name, image, journal, &outcome)?;
    if outcome.refused.is_none() && outcome.failed.is_none() {
        let clean = matches!(row.verdict, Verdict::Equal(_));
        row.view = beside(image, journal, if clean { "clean" } else { "damaged" })?;
    }
    Ok(row)
}

fn judge_outcome(
    name: &str,
    image: &Path,
    journal: Option<&Path>,
    outcome: &Outcome,
) -> Result<Row> {
    let row = |verdict, outcome: &Outcome| Row {
        name: name.into(),
        verdict,
        view: View::NotAsked,
        warnings: outcome.warnings,
        peak_kib: outcome.peak_kib,
        time: outcome.time,
    };
    if let Some(failed) = &outcome.failed {
        return Ok(row(Verdict::Failed(failed.clone()), outcome));
    }
    let judged = recovered_copy(image, journal)?;
    let clean = is_clean(&judged)?;
    let compared = clean || name.starts_with("j_");
    if let Some(reason) = &outcome.refused {
        let reason = reason.clone();
        let ignoring = read(image, None, "ignore")?;
        if !compared || ignoring.refused.is_some() {
            return Ok(row(Verdict::Refused { clean, reason }, outcome));
        }
        let verdict = match compare(&judged, &ignoring)? {
            Verdict::Equal(paths) => Verdict::EqualIgnoringJournal(paths, reason),
            // The journal would have to be played back, and is refused by name.
            _ if reason.contains("not supported") => Verdict::Refused { clean, reason },
            other => other,
        };
        return Ok(row(verdict, &ignoring));
    }
    if !compared {
        let (read, unreadable) = (outcome.listing.len(), outcome.unreadable.len());
        return Ok(row(Verdict::Damaged { read, unreadable }, outcome));
    }
    Ok(row(compare(&judged, outcome)?, outcome))
}

/// Compares both engines in a process of its own.
fn beside(image: &Path, journal: Option<&Path>, condition: &str) -> Result<View> {
    let run = run(&["beside", condition], image, journal, BESIDE_TIME)?;
    if let Some(failed) = run.failed {
        return Ok(View::Unexplained(vec![failed]));
    }
    let (mut paths, mut faults, mut unexplained) = (0, Vec::new(), Vec::new());
    for line in run.printed.lines() {
        let Some((kind, text)) = line.split_once(": ") else { continue };
        match kind {
            "paths" => paths = text.parse()?,
            "fault" => {
                let mut parts = text.split('\t');
                let count = parts.next().unwrap_or_default().parse()?;
                faults.push((count, parts.next().unwrap_or_default().to_owned()));
            }
            "unexplained" => unexplained.push(text.to_owned()),
            _ => {}
        }
    }
    Ok(match (unexplained.is_empty(), faults.is_empty()) {
        (false, _) => View::Unexplained(unexplained),
        (true, true) => View::Same(paths),
        (true, false) => View::Known(paths, faults),
    })
}

/// A copy, its journal played back by e2fsck where that is needed.
fn recovered_copy(image: &Path, journal: Option<&Path>) -> Result<PathBuf> {
    const INCOMPAT_AT: u64 = 1024 + 0x60;
    const RECOVER: u8 = 4;
    let copy = image.with_extension("copy");
    std::fs::copy(image, &copy)?;
    let mut incompat = [0];
    let has_flags = std::fs::File::open(image)?.read_exact_at(&mut incompat, INCOMPAT_AT).is_ok();
    if has_flags && incompat[0] & RECOVER != 0 {
        let mut e2fsck = Command::new("e2fsck");
        e2fsck.args(["-y", "-E", "journal_only"]);
        if let Some(journal) = journal {
            let journal_copy = image.with_extension("journal-copy");
            std::fs::copy(journal, &journal_copy)?;
            e2fsck.arg("-j").arg(journal_copy);
        }
        quiet(e2fsck.arg(&copy))?;
    }
    Ok(copy)
}

fn is_clean(image: &Path) -> Result<bool> {
    Ok(quiet(Command::new("e2fsck").arg("-fn").arg(image))?.is_some_and(|code| code == 0))
}

fn quiet(command: &mut Command) -> Result<Option<i32>> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("{command:?}"))?;
    let Some(status) = child.wait_timeout(TIME)? else {
        child.kill()?;
        child.wait()?;
        return Ok(None);
    };
    Ok(status.code())
}

fn compare(image: &Path, outcome: &Outcome) -> Result<Verdict> {
    let expected = match debugfs::listing(image) {
        Ok(expected) => expected,
        Err(error) => return Ok(Verdict::NoWitness(format!("{error:#}"))),
    };
    let mut differences = Vec::new();
    for (path, expected) in &expected {
        let Some(found) = outcome.listing.get(path) else {
            differences.push(format!("{path}: missing"));
            continue;
        };
        for (field, expected) in &expected.fields {
            let found = found.get(field).unwrap_or("nothing");
            if found != expected {
                differences.push(format!("{path}: {field} {found}, debugfs says {expected}"));
            }
        }
    }
    // e2fsck takes the name away from a journal that has one.
    let named_journal = |path: &&String| matches!(path.as_str(), "/journal" | "/.journal");
    let surplus = outcome.listing.keys().filter(|path| !expected.contains_key(*path));
    for path in surplus.filter(|path| !named_journal(path)) {
        differences.push(format!("{path}: not known to debugfs"));
    }
    differences.extend(outcome.unreadable.iter().cloned());
    if differences.is_empty() {
        return Ok(Verdict::Equal(expected.len()));
    }
    Ok(Verdict::Differs(differences))
}

/// What a process of this program came to.
struct Run {
    printed: String,
    time: Duration,
    failed: Option<String>,
}

/// Runs this program with `arguments`, an image and its journal.
fn run(arguments: &[&str], image: &Path, journal: Option<&Path>, most: Duration) -> Result<Run> {
    let printed = tempfile::NamedTempFile::new()?;
    let complaints = tempfile::NamedTempFile::new()?;
    let started = Instant::now();
    let mut child = Command::new(std::env::current_exe()?)
        .args(arguments)
        .arg(image)
        .args(journal)
        .stdin(Stdio::null())
        .stdout(printed.reopen()?)
        .stderr(complaints.reopen()?)
        .spawn()?;
    let status = child.wait_timeout(most)?;
    let time = started.elapsed();
    let failed = match status {
        Some(status) if status.success() => None,
        Some(status) => {
            let said = std::fs::read_to_string(complaints.path())?;
            let said = said.lines().take(2).collect::<Vec<_>>().join(" ");
            Some(format!("{status}: {said}"))
        }
        None => {
            child.kill()?;
            child.wait()?;
            Some(format!("no end within {most:?}"))
        }
    };
    let printed = String::from_utf8_lossy(&std::fs::read(printed.path())?).into_owned();
    Ok(Run { printed, time, failed })
}

/// Runs the reader in a process of its own, within bounds.
fn read(image: &Path, journal: Option<&Path>, mode: &str) -> Result<Outcome> {
    let run = run(&["walk", mode], image, journal, TIME)?;
    let mut outcome = Outcome { time: run.time, failed: run.failed, ..Outcome::default() };
    for line in run.printed.lines() {
        let Some((kind, text)) = line.split_once(": ") else { continue };
        match kind {
            "entry" => outcome.listing.extend(from_line(text)),
            "unreadable" => outcome.unreadable.push(text.into()),
            "refused" => outcome.refused = Some(text.into()),
            "warning" => outcome.warnings += 1,
            "peak" => outcome.peak_kib = text.parse().unwrap_or(0),
            _ => {}
        }
    }
    if outcome.peak_kib > PEAK_KIB {
        outcome.failed = Some(format!("{} KiB of memory", outcome.peak_kib));
    }
    Ok(outcome)
}

/// All rows as a table in Markdown.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut table = format!(
        "{}\n\n| image | verdict | ext4-view | warnings | peak MiB |\n| --- | --- | --- | ---: | ---: |\n",
        summary(rows)
    );
    for row in rows {
        let verdict = row.verdict.to_string().replace('|', "\\|");
        let view = row.view.to_string().replace('|', "\\|");
        let _ = writeln!(
            table,
            "| {} | {verdict} | {view} | {} | {} |",
            row.name,
            row.warnings,
            row.peak_kib.div_ceil(1024)
        );
    }
    table
}

/// How many of each.
pub(crate) fn summary(rows: &[Row]) -> String {
    let views = |is: fn(&View) -> bool| rows.iter().filter(|row| is(&row.view)).count();
    let count = |is: fn(&Verdict) -> bool| rows.iter().filter(|row| is(&row.verdict)).count();
    format!(
        "{} images: {} equal to debugfs, {} equal once the journal is ignored, {} damaged and read as far as they go, \
         {} refused, {} different, {} failed (a panic, more than {} s or more than {} MiB); the slowest took {} s, peak memory \
         was {} MiB. ext4-view, given the same blocks, tells the same of all paths in {}, and but for known faults in {}; it \
         does not open {} for known reasons; in {} something differs for no known reason",
        rows.len(),
        count(|verdict| matches!(verdict, Verdict::Equal(_))),
        count(|verdict| matches!(verdict, Verdict::EqualIgnoringJournal(..))),
        count(|verdict| matches!(verdict, Verdict::Damaged { .. })),
        count(|verdict| matches!(verdict, Verdict::Refused { .. })),
        count(|verdict| matches!(verdict, Verdict::Differs(_))),
        count(|verdict| matches!(verdict, Verdict::Failed(_))),
        TIME.as_secs(),
        PEAK_KIB / 1024,
        // Rounded up, so that one run's words are the next one's.
        rows.iter().map(|row| row.time.as_secs() + 1).max().unwrap_or(0),
        rows.iter().map(|row| row.peak_kib.div_ceil(1024)).max().unwrap_or(0),
        views(|view| matches!(view, View::Same(_))),
        views(|view| matches!(view, View::Known(1.., _))),
        views(|view| matches!(view, View::Known(0, _))),
        views(|view| matches!(view, View::Unexplained(_))),
    )
}
