//! `snapbrowse find`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::SystemTime;

use clap::ValueEnum;
use globset::{Glob, GlobSet, GlobSetBuilder};

use crate::error::{Error, ErrorKind, Result};
use crate::fs::walk::{self, Found, Listing, Walk};
use crate::fs::{Attr, FileType, Filesystem, LastLink, Timestamp, resolve};

use super::args::SourceArg;
use super::context::Context;
use super::entry::Entry;
use super::exit::Exit;
use super::output::Output;
use super::source;
use super::tally::Tally;
use super::units;

/// Look for files in a tree
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  snapbrowse find disk.img /etc --name '*.conf'
  snapbrowse find disk.img --type f --newer 2026-11-20 --size +10MiB
  snapbrowse find --json disk.img /home/ann --older 30d")]
pub(crate) struct Args {
    /// A pattern for the last part of the path; several are alternatives
    #[arg(long = "name", value_name = "GLOB")]
    names: Vec<String>,
    /// The kind: f file, d directory, l symlink, b block device, c character device, p fifo, s socket
    #[arg(long = "type", value_enum, value_name = "KIND", value_delimiter = ',')]
    kinds: Vec<Kind>,
    /// Changed at this time or later: 2026-11-20, 2026-11-20T08:00:00Z, or 2d for two days ago
    #[arg(long, value_name = "TIME", value_parser = time)]
    newer: Option<Timestamp>,
    /// Changed before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    older: Option<Timestamp>,
    /// Of this size; +SIZE for larger, -SIZE for smaller
    #[arg(long, value_name = "[+-]SIZE", value_parser = size, allow_hyphen_values = true)]
    size: Option<Size>,
    /// An iscsi:// URL, an image file or a block device
    source: SourceArg,
    /// Where to begin
    #[arg(default_value = "/", hide_default_value = true)]
    path: OsString,
}

/// `--type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    F,
    D,
    L,
    B,
    C,
    P,
    S,
}

impl Kind {
    fn is(self, file_type: FileType) -> bool {
        file_type
            == match self {
                Self::F => FileType::Regular,
                Self::D => FileType::Directory,
                Self::L => FileType::Symlink,
                Self::B => FileType::BlockDevice,
                Self::C => FileType::CharDevice,
                Self::P => FileType::Fifo,
                Self::S => FileType::Socket,
            }
    }
}

/// `--size`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Above(u64),
    Exactly(u64),
    Below(u64),
}

impl Size {
    fn holds(self, size: u64) -> bool {
        match self {
            Self::Above(limit) => size > limit,
            Self::Exactly(wanted) => size == wanted,
            Self::Below(limit) => size < limit,
        }
    }
}

fn size(text: &str) -> Result<Size, String> {
    if let Some(limit) = text.strip_prefix('+') {
        units::size(limit).map(Size::Above)
    } else if let Some(limit) = text.strip_prefix('-') {
        units::size(limit).map(Size::Below)
    } else {
        units::size(text).map(Size::Exactly)
    }
}

/// A date or a time in the local zone, a time with a zone, or how long ago.
fn time(text: &str) -> Result<Timestamp, String> {
    let bad = || format!("`{text}` is no time; write it as 2026-11-20, 2026-11-20T08:00:00Z or 2d");
    let local = |time: jiff::civil::DateTime| {
        time.to_zoned(jiff::tz::TimeZone::system()).map(|time| time.timestamp())
    };
    let parsed = if let Ok(time) = text.parse::<jiff::Timestamp>() {
        time
    } else if let Ok(time) = text.parse::<jiff::civil::DateTime>() {
        local(time).map_err(|_| bad())?
    } else {
        let ago = humantime::parse_duration(text).map_err(|_| bad())?;
        let time = SystemTime::now().checked_sub(ago).ok_or_else(bad)?;
        jiff::Timestamp::try_from(time).map_err(|_| bad())?
    };
    let nanoseconds = parsed.as_nanosecond();
    let billion = 1_000_000_000;
    Ok(Timestamp {
        seconds: i64::try_from(nanoseconds.div_euclid(billion)).map_err(|_| bad())?,
        nanoseconds: u32::try_from(nanoseconds.rem_euclid(billion)).map_err(|_| bad())?,
    })
}

/// What is looked for.
struct Wanted {
    names: Option<GlobSet>,
    kinds: Vec<Kind>,
    newer: Option<Timestamp>,
    older: Option<Timestamp>,
    size: Option<Size>,
}

impl Wanted {
    fn new(args: &Args) -> Result<Self> {
        let mut names = GlobSetBuilder::new();
        for name in &args.names {
            let glob = Glob::new(name).map_err(|error| {
                Error::new(ErrorKind::Usage, format!("--name {name}: {}", error.kind()))
            })?;
            names.add(glob);
        }
        let names = names
            .build()
            .map_err(|error| Error::new(ErrorKind::Usage, format!("--name: {}", error.kind())))?;
        Ok(Self {
            names: (!names.is_empty()).then_some(names),
            kinds: args.kinds.clone(),
            newer: args.newer,
            older: args.older,
            size: args.size,
        })
    }

    fn is(&self, name: &[u8], attr: &Attr) -> bool {
        self.names.as_ref().is_none_or(|names| names.is_match(OsStr::from_bytes(name)))
            && (self.kinds.is_empty() || self.kinds.iter().any(|kind| kind.is(attr.file_type)))
            && self.newer.is_none_or(|time| attr.mtime >= time)
            && self.older.is_none_or(|time| attr.mtime < time)
            && self.size.is_none_or(|size| size.holds(attr.size))
    }
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<Exit> {
    let wanted = Wanted::new(&args)?;
    source::with_filesystem(context, &args.source, async |opened| {
        let mut search = Search {
            filesystem: &*opened.filesystem,
            wanted,
            json: context.settings.json,
            out: Output::new(),
            tally: Tally::default(),
        };
        search.tree(args.path.into_vec()).await?;
        search.out.flush()?;
        Ok(search.tally.exit())
    })
    .await
}

struct Search<'a> {
    filesystem: &'a dyn Filesystem,
    wanted: Wanted,
    json: bool,
    out: Output,
    tally: Tally,
}

impl Search<'_> {
    async fn tree(&mut self, path: Vec<u8>) -> Result<()> {
        let attr = resolve(self.filesystem, &path, LastLink::Follow).await?;
        let mut walk = Walk::new(self.filesystem);
        if attr.file_type == FileType::Directory {
            walk.enter(vec![(path.clone(), attr.ino)]);
        }
        let name = path.split(|&byte| byte == b'/').rfind(|part| !part.is_empty());
        let name = name.unwrap_or(b"/").to_vec();
        self.consider(path, &name, attr).await?;
        while let Some(Listing { path, entries, failure, .. }) = walk.next().await {
            self.tally.listed(&path, &entries, failure);
            let mut inside = Vec::new();
            for Found { name, attr } in entries {
                let path = walk::join(&path, &name);
                match attr {
                    Ok(attr) => {
                        if attr.file_type == FileType::Directory {
                            inside.push((path.clone(), attr.ino));
                        }
                        self.consider(path, &name, attr).await?;
                    }
                    Err(error) => self.tally.failed(&error.context(String::from_utf8_lossy(&path))),
                }
            }
            walk.enter(inside);
        }
        Ok(())
    }

    async fn consider(&mut self, path: Vec<u8>, name: &[u8], attr: Attr) -> Result<()> {
        if !self.wanted.is(name, &attr) {
            return Ok(());
        }
        if !self.json {
            self.out.name(&path)?;
            return self.out.line("");
        }
        let shown = String::from_utf8_lossy(&path).into_owned();
        match Entry::read(self.filesystem, path, attr).await {
            Ok(entry) => self.out.json_line(&entry.to_json())?,
            Err(error) => self.tally.failed(&error.context(shown)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_with_a_direction() {
        assert_eq!(size("+1KiB"), Ok(Size::Above(1024)));
        assert_eq!(size("-4"), Ok(Size::Below(4)));
        assert_eq!(size("0"), Ok(Size::Exactly(0)));
        assert!(size("+-1").is_err());
        assert!(Size::Above(4).holds(5) && !Size::Above(4).holds(4) && !Size::Below(4).holds(4));
    }

    #[test]
    fn times_absolute_and_ago() {
        let zulu = Timestamp { seconds: 1_795_132_800, nanoseconds: 0 };
        assert_eq!(time("2026-11-20T00:00:00Z"), Ok(zulu));
        assert_eq!(time("2026-11-20T02:00:00+02:00"), Ok(zulu));
        assert!(time("2026-11-20").is_ok() && time("2026-11-20T08:00").is_ok());
        assert!(time("1h").unwrap() > time("2days").unwrap());
        assert!(time("yesterday").is_err());
        let before = time("1969-12-31T23:59:59.5Z").unwrap();
        assert_eq!((before.seconds, before.nanoseconds), (-1, 500_000_000));
    }
}
