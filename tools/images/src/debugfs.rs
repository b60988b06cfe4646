//! The witness: the same listing by debugfs, which shares no code with the reader.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::listing::{Contents, Entry, Listing, contents_of};

/// Everything that debugfs finds below the root.
pub(crate) fn listing(image: &Path) -> Result<Listing> {
    let mut names = vec![(2_u64, String::new(), 0_u32)];
    let mut entered = HashSet::new();
    let mut level = vec![(2_u64, String::new())];
    while !level.is_empty() {
        level.retain(|(ino, _)| entered.insert(*ino));
        let requests: Vec<_> = level.iter().map(|(ino, _)| format!("ls -p <{ino}>")).collect();
        let answers = ask(image, &requests)?;
        let mut next = Vec::new();
        for ((_, path), answer) in level.iter().zip(answers) {
            for (ino, mode, name) in answer.split(|byte| *byte == b'\n').filter_map(ls_line) {
                if name == b"." || name == b".." {
                    continue;
                }
                let child = format!("{path}/{}", name.escape_ascii());
                if mode & 0o170_000 == 0o040_000 {
                    next.push((ino, child.clone()));
                }
                names.push((ino, child, mode));
            }
        }
        level = next;
    }
    let dir = tempfile::tempdir()?;
    let mut listing = Listing::new();
    for chunk in names.chunks(500) {
        let requests: Vec<_> = chunk.iter().map(|(ino, ..)| format!("stat <{ino}>")).collect();
        let stats = ask(image, &requests)?;
        let mut dumps = Vec::new();
        for ((ino, path, _), stat) in chunk.iter().zip(stats) {
            let path = if path.is_empty() { "/" } else { path };
            let stat = String::from_utf8_lossy(&stat).into_owned();
            let entry = entry_of(*ino, &stat).with_context(|| format!("{path}: {stat:?}"))?;
            let has_blocks = stat.contains("Type: regular") || stat.contains("Type: symlink");
            if has_blocks && entry.get("contents").is_none() {
                dumps.push((path.to_owned(), dir.path().join(format!("inode-{ino}")), *ino));
            }
            listing.insert(path.into(), entry);
        }
        let requests: Vec<_> =
            dumps.iter().map(|(_, file, ino)| format!("dump <{ino}> {}", file.display())).collect();
        ask(image, &requests)?;
        for (path, file, _) in dumps {
            let entry = listing.entry(path).or_default();
            // What debugfs dumps of inline data is as long as the space for it.
            let size = entry.get("size").and_then(|size| size.parse().ok()).unwrap_or(0);
            let dumped = std::fs::OpenOptions::new().write(true).open(&file)?;
            dumped.set_len(dumped.metadata()?.len().min(size))?;
            entry.set("contents", contents_of(&file)?);
        }
    }
    Ok(listing)
}

/// `/ino/mode/uid/gid/name/size/`; inode 0 stands for an unused entry.
fn ls_line(line: &[u8]) -> Option<(u64, u32, &[u8])> {
    let line = line.strip_prefix(b"/")?;
    let mut fields = line.splitn(5, |byte| *byte == b'/');
    let mut text = || std::str::from_utf8(fields.next()?).ok();
    let ino = text()?.parse().ok().filter(|ino| *ino != 0)?;
    let mode = u32::from_str_radix(text()?, 8).ok()?;
    let (_uid, _gid) = (text()?, text()?);
    let rest = fields.next()?.strip_suffix(b"/")?;
    let end = rest.iter().rposition(|byte| *byte == b'/')?;
    Some((ino, mode, &rest[..end]))
}

/// Asks many things of one debugfs; the answers are told apart by what it prints in front of each request.
fn ask(image: &Path, requests: &[String]) -> Result<Vec<Vec<u8>>> {
    let file = tempfile::NamedTempFile::new()?;
    let script = requests.iter().fold(String::new(), |mut script, request| {
        let _ = writeln!(script, "{request}");
        script
    });
    std::fs::write(file.path(), script)?;
    // -c: damaged bitmaps are of no interest.
    let output = Command::new("timeout")
        .args(["120", "debugfs", "-c", "-f"])
        .arg(file.path())
        .arg(image)
        .env("DEBUGFS_PAGER", "__none__")
        .stdin(Stdio::null())
        .output()
        .context("debugfs")?;
    let mut rest = output.stdout.as_slice();
    let mut answers = Vec::new();
    for request in requests {
        let prompt = format!("debugfs: {request}\n");
        let start = find(rest, prompt.as_bytes()).with_context(|| {
            format!("no answer to {request}: {}", String::from_utf8_lossy(&output.stderr))
        })?;
        rest = &rest[start + prompt.len()..];
        let end = find(rest, b"debugfs: ").unwrap_or(rest.len());
        answers.push(rest[..end].to_vec());
    }
    ensure!(answers.len() == requests.len());
    Ok(answers)
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn entry_of(ino: u64, stat: &str) -> Result<Entry> {
    let word = |name: &str| {
        let after = &stat[stat.find(name)? + name.len()..];
        after.split_whitespace().next()
    };
    let number = |name: &str| -> Result<u64> {
        let text = word(name).with_context(|| format!("no {name}"))?;
        text.parse().with_context(|| format!("{name} {text}"))
    };
    let mut entry = Entry::default();
    let kind = word("Type: ").context("no type")?;
    let permissions = u32::from_str_radix(word("Mode:").context("no mode")?, 8)?;
    let bits = match kind {
        "regular" => 0o100_000,
        "directory" => 0o040_000,
        "symlink" => 0o120_000,
        "character" => 0o020_000,
        "block" => 0o060_000,
        "FIFO" => 0o010_000,
        "socket" => 0o140_000,
        _ => 0,
    };
    let flags = word("Flags: 0x").and_then(|flags| u64::from_str_radix(flags, 16).ok());
    entry.set("ino", ino);
    entry.set("mode", format!("{:06o}", bits | permissions));
    entry.set("uid", number("User:")?);
    entry.set("gid", number("Group:")?);
    entry.set("links", number("Links:")?);
    // Not shown for device nodes.
    entry.set("size", number("Size:").unwrap_or(0));
    // The kernel shows other units for the one, and for the other what the contents would take.
    const HUGE_FILE: u64 = 0x4_0000;
    const INLINE_DATA: u64 = 0x1000_0000;
    if flags.unwrap_or(0) & (HUGE_FILE | INLINE_DATA) == 0 {
        entry.set("blocks", number("Blockcount:")?);
    }
    for name in ["atime", "mtime", "ctime"] {
        entry.set(name, time(word(&format!("{name}: 0x")).context("no time")?)?);
    }
    if let Some(device) = word("Device major/minor number: ") {
        entry.set("rdev", device);
    }
    if let Some(start) = stat.find("Fast link dest: \"") {
        let target = stat[start..].split('"').nth(1).unwrap_or_default();
        let mut contents = Contents::default();
        contents.add(0, target.as_bytes());
        entry.set("contents", contents.finish());
    }
    Ok(entry)
}

/// `SECONDS[:EXTRA]` in hexadecimal: the low 32 bits are signed, two bits of EXTRA go on top, the rest is
/// nanoseconds.
fn time(text: &str) -> Result<String> {
    let (seconds, extra) = text.split_once(':').unwrap_or((text, "0"));
    let seconds = u32::from_str_radix(seconds, 16)?;
    let extra = u32::from_str_radix(extra, 16)?;
    let seconds =
        i64::from(i32::from_ne_bytes(seconds.to_ne_bytes())) + (i64::from(extra & 3) << 32);
    Ok(format!("{seconds}.{:09}", extra >> 2))
}
