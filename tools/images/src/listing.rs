//! Everything in a file system, one entry for each path, in a form that two readers can be compared by.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context as _, Result};
use sha2::{Digest, Sha256};

/// Pieces that a digest is made of: those that hold only zeros count as holes.
const PIECE: usize = 4096;
/// Beyond this many bytes of data a file is not read to its end.
const MAX_DATA: u64 = 64 << 20;

/// What is known of one path. Times are `seconds.nanoseconds`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) fields: BTreeMap<String, String>,
}

/// Paths as bytes, printed with escapes.
pub(crate) type Listing = BTreeMap<String, Entry>;

impl Entry {
    pub(crate) fn set(&mut self, field: &str, value: impl std::fmt::Display) {
        self.fields.insert(field.into(), value.to_string());
    }

    pub(crate) fn get(&self, field: &str) -> Option<&str> {
        self.fields.get(field).map(String::as_str)
    }
}

/// One line: the path and the fields, separated by tabs.
pub(crate) fn to_line(path: &str, entry: &Entry) -> String {
    let fields = entry.fields.iter().map(|(name, value)| format!("\t{name}={value}"));
    format!("{path}{}", fields.collect::<String>())
}

pub(crate) fn from_line(line: &str) -> Option<(String, Entry)> {
    let mut parts = line.split('\t');
    let path = parts.next()?.to_owned();
    let mut entry = Entry::default();
    for part in parts {
        let (name, value) = part.split_once('=')?;
        entry.set(name, value);
    }
    Some((path, entry))
}

/// A digest of all pieces that are not zero, with their places; the same wherever the holes are.
#[derive(Default)]
pub(crate) struct Contents {
    hash: Sha256,
    data: u64,
}

impl Contents {
    /// Takes the next piece, which starts at a multiple of [`PIECE`].
    pub(crate) fn add(&mut self, offset: u64, bytes: &[u8]) {
        for (index, piece) in bytes.chunks(PIECE).enumerate() {
            if piece.iter().any(|byte| *byte != 0) {
                self.data += piece.len() as u64;
                self.hash.update((offset + (index * PIECE) as u64).to_le_bytes());
                self.hash.update(piece);
            }
        }
    }

    pub(crate) fn too_much(&self) -> bool {
        self.data > MAX_DATA
    }

    pub(crate) fn finish(self) -> String {
        if self.too_much() {
            return "too large".into();
        }
        self.hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The digest of a file on this machine.
pub(crate) fn contents_of(path: &Path) -> Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut contents = Contents::default();
    let mut buffer = vec![0; 1 << 20];
    let mut offset = 0_u64;
    while let Ok(data) = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(offset)) {
        offset = data - data % PIECE as u64;
        file.seek(SeekFrom::Start(offset))?;
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read(&mut buffer[filled..]).with_context(|| path.display().to_string())? {
                0 => break,
                read => filled += read,
            }
        }
        contents.add(offset, &buffer[..filled]);
        offset += filled as u64;
        if filled == 0 || contents.too_much() {
            break;
        }
    }
    Ok(contents.finish())
}
