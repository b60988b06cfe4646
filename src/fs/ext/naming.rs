//! How the names of a directory are stored, shown and compared.

use std::iter::once;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use caseless::Caseless as _;
use regex_syntax::hir::{Class, ClassUnicode, Hir, HirKind};
use sha2::{Digest as _, Sha256};
use unicode_normalization::UnicodeNormalization as _;

use super::disk::Disk;
use super::inodes::File;
use super::layout::dirent::Dirent;
use super::layout::features::Compat;
use super::layout::hash::Hasher;
use super::layout::inode::Flags;
use super::layout::{FileBlock, corrupt, htree, le32};
use crate::error::Result;

/// The one encoding of `s_encoding` (`EXT4_ENC_UTF8_12_1`).
const UTF8: u16 = 1;
/// How many bytes of an encrypted name its substitute holds; of the rest it holds a digest.
const NOKEY_BYTES: usize = 149;

/// The kinds of names.
pub(super) enum Naming {
    /// As they are.
    Plain,
    /// As they are, but `lookup` does not tell upper from lower case.
    Folded,
    /// Encrypted: shown by a substitute, as the kernel does without the key (`fscrypt_fname_disk_to_usr`).
    Encrypted(NokeyHash),
}

/// Where the hash comes from that a substitute begins with.
pub(super) enum NokeyHash {
    /// Calculated as the directory's index does it; zeros where there is none.
    Of(Option<Hasher>),
    /// Stored behind each name, because without the key it cannot be calculated.
    Stored,
}

impl Naming {
    /// The name that users see and use.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Corrupt`] for one that no directory can hold.
    pub(super) fn shown(&self, entry: &Dirent<'_>) -> Result<Vec<u8>> {
        match self {
            Self::Encrypted(hash) if !matches!(entry.name, b"." | b"..") => {
                Ok(nokey_name(hash, entry))
            }
            _ if entry.name.contains(&b'/') || entry.name.contains(&0) => {
                let name = String::from_utf8_lossy(entry.name);
                Err(corrupt(format!("{} has the name {name:?}", entry.ino)))
            }
            _ => Ok(entry.name.to_vec()),
        }
    }

    /// The hash by which the directory's index has the name.
    pub(super) fn hash(&self, hasher: &Hasher, name: &[u8]) -> u32 {
        match self {
            Self::Folded => match folded(name) {
                Some(folded) => hasher.hash(folded.as_bytes()),
                None => hasher.hash(name),
            },
            Self::Plain | Self::Encrypted(_) => hasher.hash(name),
        }
    }

    /// Whether `name` means this entry.
    pub(super) fn matches(&self, entry: &Dirent<'_>, name: &[u8]) -> bool {
        match self {
            Self::Plain => entry.name == name,
            Self::Folded => entry.name == name || same_folded(entry.name, name),
            Self::Encrypted(_) => self.shown(entry).is_ok_and(|shown| shown == name),
        }
    }
}

/// Compares as the kernel's `utf8_strncasecmp`. What is not UTF-8 is equal to nothing else.
fn same_folded(a: &[u8], b: &[u8]) -> bool {
    folded(a).is_some_and(|a| folded(b) == Some(a))
}

/// A name as it is compared and hashed where case is ignored (kernel: `utf8_casefold`): canonical decomposition and full case
/// folding, characters that are ignored by default left out. Those and new ones part the marks before them from the ones
/// behind, which are not brought into one order. `None` where it is not UTF-8.
fn folded(name: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(name).ok()?;
    let mut folded = String::with_capacity(name.len());
    for piece in name.split_inclusive(|c| ignorable(c) || is_new(c)) {
        let last = piece.chars().next_back().filter(|c| ignorable(*c) || is_new(*c));
        let known = &piece[..piece.len() - last.map_or(0, char::len_utf8)];
        // Each on its own first, as in the kernel's table: what a mark is folded to may be none.
        folded.extend(known.chars().flat_map(|c| once(c).nfd().default_case_fold()).nfd());
        folded.extend(last.filter(|c| !ignorable(*c)));
    }
    Some(folded)
}

/// Whether a character came after Unicode 12.1: then it stands for itself.
fn is_new(c: char) -> bool {
    static KNOWN: LazyLock<ClassUnicode> = LazyLock::new(|| {
        let class = regex_syntax::parse(r"\p{age=12.1}").map(Hir::into_kind);
        match class {
            Ok(HirKind::Class(Class::Unicode(class))) => class,
            other => unreachable!("a class of characters, by its being a constant: {other:?}"),
        }
    });
    let known = KNOWN.ranges();
    let after = known.partition_point(|range| range.start() <= c);
    after.checked_sub(1).is_none_or(|before| known[before].end() < c)
}

/// `Default_Ignorable_Code_Point` (Unicode 12.1, `DerivedCoreProperties.txt`).
fn ignorable(c: char) -> bool {
    matches!(u32::from(c),
        0x00AD | 0x034F | 0x061C | 0x115F..=0x1160 | 0x17B4..=0x17B5 | 0x180B..=0x180E
        | 0x200B..=0x200F | 0x202A..=0x202E | 0x2060..=0x206F | 0x3164 | 0xFE00..=0xFE0F
        | 0xFEFF | 0xFFA0 | 0xFFF0..=0xFFF8 | 0x1BCA0..=0x1BCA3 | 0x1D173..=0x1D17A
        | 0xE0000..=0xE0FFF)
}

/// Kernel: `struct fscrypt_nokey_name`, in base64.
fn nokey_name(hash: &NokeyHash, entry: &Dirent<'_>) -> Vec<u8> {
    let (hash, minor) = match hash {
        NokeyHash::Of(None) => (0, 0),
        NokeyHash::Of(Some(hasher)) => hasher.hash_and_minor(entry.name),
        // After the name, at the next multiple of four (`EXT4_DIRENT_HASHES`).
        NokeyHash::Stored => {
            let at = entry.name.len().next_multiple_of(4) - entry.name.len();
            let word = |at| le32(entry.rest, at).unwrap_or(0);
            (word(at), word(at + 4))
        }
    };
    let mut raw = [hash.to_le_bytes(), minor.to_le_bytes()].concat();
    match entry.name.split_at_checked(NOKEY_BYTES) {
        Some((start, rest)) if !rest.is_empty() => {
            raw.extend_from_slice(start);
            raw.extend_from_slice(&Sha256::digest(rest));
        }
        _ => raw.extend_from_slice(entry.name),
    }
    URL_SAFE_NO_PAD.encode(raw).into_bytes()
}

impl Disk {
    /// How a directory names its entries.
    pub(super) async fn naming(&self, dir: &File) -> Result<Naming> {
        let flags = dir.inode.flags;
        let folded = flags.contains(Flags::CASEFOLD);
        if !flags.contains(Flags::ENCRYPT) {
            let utf8 = self.sb.encoding == UTF8;
            return Ok(if folded && utf8 { Naming::Folded } else { Naming::Plain });
        }
        if folded {
            return Ok(Naming::Encrypted(NokeyHash::Stored));
        }
        // Directories of one block are listed by hash even without an index (kernel: `is_dx_dir`).
        let hashed = self.sb.features.compat.contains(Compat::DIR_INDEX)
            && (flags.contains(Flags::INDEX) || self.dir_blocks(dir)? <= 1);
        let hasher = match (hashed, flags.contains(Flags::INDEX)) {
            (false, _) => None,
            (true, false) => htree::hasher(&self.sb, self.sb.def_hash_version).ok(),
            (true, true) => match self.dir_block(dir, FileBlock(0)).await? {
                Ok(root) => {
                    htree::parse_root(&self.sb, &root.bytes).ok().map(|(root, _)| root.hasher)
                }
                Err(_) => None,
            },
        };
        Ok(Naming::Encrypted(NokeyHash::Of(hasher)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::hash::Algorithm;
    use super::*;

    #[test]
    fn case_accents_and_invisible_characters_do_not_count() {
        assert!(same_folded("Straße".as_bytes(), "STRASSE".as_bytes()));
        assert!(same_folded("\u{e9}t\u{e9}".as_bytes(), "E\u{301}TE\u{301}".as_bytes()));
        assert!(same_folded("soft\u{ad}hyphen".as_bytes(), b"SoftHyphen"));
        assert!(!same_folded("\u{2C2F}".as_bytes(), "\u{2C5F}".as_bytes()));
        assert!(!same_folded("ete".as_bytes(), "\u{e9}t\u{e9}".as_bytes()));
        assert!(!same_folded(b"\xff", b"\xff"));
    }

    /// What `debugfs -R "dx_hash -h half_md4 -c -e utf8 NAME"` prints.
    #[test]
    fn the_hash_is_that_of_the_folded_name() {
        let algorithm = Algorithm::HalfMd4;
        let hasher = Hasher { algorithm, unsigned: false, seed: [0; 4] };
        let hash = |name: &str| Naming::Folded.hash(&hasher, name.as_bytes());
        for (name, expected) in [
            ("Straße", 0x7e09_9ecc),
            ("STRASSE", 0x7e09_9ecc),
            ("Éte", 0x2011_ee1a),
            // Characters newer than Unicode 12.1 stand for themselves, and those around them are folded.
            ("A\u{1FAE0}", 0xe96c_098c),
            ("a\u{1FAE0}", 0xe96c_098c),
            ("\u{2C2F}", 0xc3a7_f222),
            ("\u{2C5F}", 0x3f72_16b4),
            ("a\u{180F}b", 0x53c6_4018),
            ("ab", 0xee5e_f564),
            // Marks keep their order across what is ignored, what is new, and what a mark is folded to.
            ("x\u{323}\u{301}", 0x65fb_8d16),
            ("x\u{301}\u{AD}\u{323}", 0xaa5d_6668),
            ("x\u{301}\u{1DFA}\u{323}", 0x22a6_f7f6),
            ("x\u{301}\u{1F80}\u{323}", 0x6678_638e),
        ] {
            assert_eq!(hash(name), expected, "{}", name.escape_unicode());
        }
        assert_ne!(Naming::Plain.hash(&hasher, b"STRASSE"), 0x7e09_9ecc);
    }
}
