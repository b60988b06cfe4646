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
enum View {
    /// It was not asked: there was nothing to compare it with.
    NotAsked,
    /// It told the same of all paths.
    Same,
    /// So many paths it could not read, and of so many it told something else; the first of them.
    Differs { unread: usize, other: usize, first: String },
    /// It refused the image, or panicked or hung.
    Failed(String),
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAsked => write!(f, "-"),
            Self::Same => write!(f, "the same"),
            Self::Differs { unread, other: 0, .. } => write!(f, "{unread} paths not read"),
            Self::Differs { unread, other, first } => {
                write!(f, "{unread} paths not read, {other} differ: {first}")
            }
            Self::Failed(what) => write!(f, "{what}"),
        }
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
    let outcome = read(image, journal, "native", "replay")?;
    let view = match outcome.refused.is_some() || outcome.failed.is_some() {
        true => View::NotAsked,
        false => beside(&outcome, &read(image, journal, "ext4-view", "replay")?),
    };
    let mut row = judge_outcome(name, image, journal, &outcome)?;
    row.view = view;
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
        let ignoring = read(image, None, "native", "ignore")?;
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

/// What ext4-view tells of the paths that we could read; it knows nothing of inode numbers, links and blocks.
fn beside(ours: &Outcome, theirs: &Outcome) -> View {
    if let Some(what) = theirs.failed.as_ref().or(theirs.refused.as_ref()) {
        return View::Failed(what.clone());
    }
    let (mut unread, mut other, mut first) = (0, 0, String::new());
    for (path, expected) in &ours.listing {
        let Some(found) = theirs.listing.get(path) else {
            unread += 1;
            continue;
        };
        if expected.get("contents").is_some() && found.get("contents").is_none() {
            unread += 1;
            continue;
        }
        let differs =
            |field: &&str| expected.get(field).is_some() && expected.get(field) != found.get(field);
        let fields = ["mode", "uid", "gid", "size", "atime", "mtime", "contents"];
        if let Some(field) = fields.iter().find(|field| differs(field)) {
            other += 1;
            if first.is_empty() {
                let (expected, found) = (expected.get(field), found.get(field));
                first = format!(
                    "{path}: {field} {}, ours {}",
                    found.unwrap_or("nothing"),
                    expected.unwrap_or("nothing")
                );
            }
        }
    }
    match (unread, other) {
        (0, 0) => View::Same,
        _ => View::Differs { unread, other, first },
    }
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

/// Runs the reader in a process of its own, within bounds.
fn read(image: &Path, journal: Option<&Path>, engine: &str, mode: &str) -> Result<Outcome> {
    let printed = tempfile::NamedTempFile::new()?;
    let complaints = tempfile::NamedTempFile::new()?;
    let started = Instant::now();
    let mut child = Command::new(std::env::current_exe()?)
        .args(["walk", engine, mode])
        .arg(image)
        .args(journal)
        .stdin(Stdio::null())
        .stdout(printed.reopen()?)
        .stderr(complaints.reopen()?)
        .spawn()?;
    let status = child.wait_timeout(TIME)?;
    let mut outcome = Outcome { time: started.elapsed(), ..Outcome::default() };
    match status {
        Some(status) if status.success() => {}
        Some(status) => {
            let said = std::fs::read_to_string(complaints.path())?;
            let said = said.lines().take(2).collect::<Vec<_>>().join(" ");
            outcome.failed = Some(format!("{status}: {said}"));
        }
        None => {
            child.kill()?;
            child.wait()?;
            outcome.failed = Some(format!("no end within {TIME:?}"));
        }
    }
    for line in String::from_utf8_lossy(&std::fs::read(printed.path())?).lines() {
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
         was {} MiB. ext4-view, given the same blocks, tells the same of all paths in {}, differs in {}, and refuses {} or \
         fails on them",
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
        views(|view| matches!(view, View::Same)),
        views(|view| matches!(view, View::Differs { .. })),
        views(|view| matches!(view, View::Failed(_))),
    )
}
