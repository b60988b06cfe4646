//! POSIX ACLs: from ext4's form on the disk to that of `system.posix_acl_*` (kernel: `fs/ext4/acl.c`).

use super::{corrupt, le16, le32};
use crate::error::Result;

const DISK_VERSION: u32 = 1;
const XATTR_VERSION: u32 = 2;
const TAG_USER: u16 = 0x02;
const TAG_GROUP: u16 = 0x08;
/// The tags that name no user or group of their own: owner, owning group, mask, others.
const SHORT_TAGS: [u16; 4] = [0x01, 0x04, 0x10, 0x20];
const UNDEFINED_ID: u32 = u32::MAX;

/// Rewrites an ACL: on the disk only entries that name a user or a group have room for an id.
///
/// # Errors
/// [`crate::ErrorKind::Corrupt`].
pub fn to_xattr(disk: &[u8]) -> Result<Vec<u8>> {
    let version = le32(disk, 0).ok_or_else(|| corrupt("ACL without a version"))?;
    if version != DISK_VERSION {
        return Err(corrupt(format!("ACL version {version}, expected {DISK_VERSION}")));
    }
    let mut xattr = XATTR_VERSION.to_le_bytes().to_vec();
    let mut rest = &disk[4..];
    while !rest.is_empty() {
        let cut = || corrupt(format!("ACL entry of {} bytes", rest.len()));
        let tag = le16(rest, 0).ok_or_else(cut)?;
        let (id, len) = match tag {
            TAG_USER | TAG_GROUP => (le32(rest, 4).ok_or_else(cut)?, 8),
            tag if SHORT_TAGS.contains(&tag) => (UNDEFINED_ID, 4),
            tag => return Err(corrupt(format!("ACL tag {tag:#x}"))),
        };
        xattr.extend_from_slice(rest.get(..4).ok_or_else(cut)?);
        xattr.extend_from_slice(&id.to_le_bytes());
        rest = &rest[len..];
    }
    Ok(xattr)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_entries_gain_an_undefined_id() {
        let disk = [
            &[1, 0, 0, 0][..],
            &[0x01, 0, 6, 0],
            &[0x02, 0, 4, 0, 0xE8, 3, 0, 0],
            &[0x20, 0, 0, 0],
        ]
        .concat();
        let xattr = [
            &[2, 0, 0, 0][..],
            &[0x01, 0, 6, 0, 255, 255, 255, 255],
            &[0x02, 0, 4, 0, 0xE8, 3, 0, 0],
            &[0x20, 0, 0, 0, 255, 255, 255, 255],
        ]
        .concat();
        assert_eq!(to_xattr(&disk).unwrap(), xattr);
    }

    #[test]
    fn damaged_lists_are_refused() {
        for disk in
            [&[1, 0][..], &[2, 0, 0, 0], &[1, 0, 0, 0, 2, 0, 4, 0], &[1, 0, 0, 0, 3, 0, 4, 0]]
        {
            assert!(to_xattr(disk).is_err(), "{disk:?}");
        }
    }
}
