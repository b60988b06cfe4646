//! Reads e2fsprogs' test images and says of each how it went; `tools/e2fsprogs-images` fetches them and runs this.

mod debugfs;
mod listing;
mod verdict;
mod walk;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use snapbrowse::fs::ext::JournalMode;
use snapbrowse_images::engines::Condition;

use verdict::{Row, Verdict};

fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let arguments: Vec<&OsStr> = arguments.iter().map(AsRef::as_ref).collect();
    match arguments[..] {
        [walk, mode, image, ref journal @ ..] if walk == "walk" && journal.len() < 2 => {
            walk::walk(Path::new(image), journal.first().map(Path::new), journal_mode(mode))
        }
        [beside, state, image, ref journal @ ..] if beside == "beside" && journal.len() < 2 => {
            walk::beside(Path::new(image), journal.first().map(Path::new), condition(state))
        }
        [tests, table] => run(Path::new(tests), Path::new(table), ""),
        [tests, table, only] => run(Path::new(tests), Path::new(table), &only.to_string_lossy()),
        _ => bail!("usage: snapbrowse-images TESTS TABLE [NAME]"),
    }
}

fn journal_mode(name: &OsStr) -> JournalMode {
    if name == "ignore" { JournalMode::Ignore } else { JournalMode::Replay }
}

fn condition(name: &OsStr) -> Condition {
    if name == "clean" { Condition::Clean } else { Condition::Damaged }
}

/// Judges every image below `tests` whose name contains `only`, and writes the table.
fn run(tests: &Path, table: &Path, only: &str) -> Result<()> {
    let mut rows: Vec<Row> = Vec::new();
    for (name, packed) in images(tests)? {
        if !name.contains(only) {
            continue;
        }
        let dir = tempfile::tempdir()?;
        for (name, image, journal) in unpack(&name, &packed, dir.path())? {
            let row =
                verdict::judge(&name, &image, journal.as_deref()).with_context(|| name.clone())?;
            println!("{row}");
            rows.push(row);
        }
    }
    std::fs::write(table, verdict::table(&rows)).context("the table")?;
    let bad = rows.iter().filter(|row| row.is_bad()).count();
    println!("{}", verdict::summary(&rows));
    if bad > 0 {
        bail!("{bad} images are not read as they should be");
    }
    if !rows.iter().any(|row| matches!(row.verdict, Verdict::Equal(_))) {
        bail!("nothing was compared");
    }
    Ok(())
}

/// The packed images: every test directory has at most a few.
fn images(tests: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut images = Vec::new();
    for test in std::fs::read_dir(tests).with_context(|| tests.display().to_string())? {
        let test = test?.path();
        let Ok(files) = std::fs::read_dir(&test) else { continue };
        for file in files {
            let file = file?.path();
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let image = name.starts_with("image") || name == "journal.gz";
            if image && [".gz", ".bz2"].iter().any(|packed| name.ends_with(packed)) {
                let test = test.file_name().unwrap_or_default().to_string_lossy();
                images.push((format!("{test}/{name}"), file));
            }
        }
    }
    images.sort();
    Ok(images)
}

/// Unpacks one file: names and images, each with its journal if that lies on another device.
fn unpack(
    name: &str,
    packed: &Path,
    dir: &Path,
) -> Result<Vec<(String, PathBuf, Option<PathBuf>)>> {
    let test = name.split('/').next().unwrap_or(name);
    if name.ends_with(".tar.bz2") {
        let status = Command::new("tar").arg("xjf").arg(packed).arg("-C").arg(dir).status()?;
        anyhow::ensure!(status.success(), "tar: {status}");
        let image = dir.join(format!("{test}.img"));
        let journal = dir.join(format!("{test}.img.jnl"));
        return Ok(vec![
            (format!("{test}/journal"), journal.clone(), None),
            (test.into(), image, Some(journal)),
        ]);
    }
    let image = dir.join("image");
    decompress(packed, &image)?;
    let journal = packed.with_file_name("journal.gz");
    let mut beside = None;
    if name.ends_with("/image.gz") && journal.exists() {
        beside = Some(dir.join("journal"));
        decompress(&journal, &dir.join("journal"))?;
    }
    let name = name.strip_suffix("/image.gz").or(name.strip_suffix("/image.bz2")).unwrap_or(name);
    Ok(vec![(name.into(), image, beside)])
}

fn decompress(packed: &Path, to: &Path) -> Result<()> {
    let program = if packed.extension().is_some_and(|end| end == "gz") { "gzip" } else { "bzip2" };
    let status = Command::new(program)
        .arg("-dc")
        .arg(packed)
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(to)?)
        .status()
        .context(program)?;
    anyhow::ensure!(status.success(), "{program}: {status}");
    Ok(())
}
