//! Paths: from the root of a file system to an inode, over any [`Filesystem`].

use crate::error::{Error, ErrorKind, Result};

use super::{Attr, FileType, Filesystem, Ino};

/// As many symbolic links as the kernel follows in one path (`MAXSYMLINKS`, path_resolution(7)).
const MAX_LINKS: u32 = 40;

/// As long as the kernel's PATH_MAX: what a chain of links may expand to.
const MAX_PENDING: usize = 4096 * 4;

/// Whether a symbolic link in the last place is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastLink {
    /// What it points to is meant (`stat`).
    Follow,
    /// The link itself is meant (`lstat`); a slash after it makes it followed all the same.
    Keep,
}

/// Finds what `path` names, from the root, as path_resolution(7) does; a missing first slash makes no difference.
///
/// Symbolic links are followed inside the file system: an absolute target starts at its root, and `..` never
/// leads above it.
///
/// # Errors
/// [`ErrorKind::NotFound`], [`ErrorKind::NotDir`], [`ErrorKind::Loop`], and those of the file system.
pub async fn resolve(filesystem: &dyn Filesystem, path: &[u8], last: LastLink) -> Result<Attr> {
    // As path_resolution(7) says. A script's variable that is not set must not stand for the whole volume.
    if path.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, "an empty path names nothing")
            .with_hint("the root directory is /"));
    }
    let named = |error: Error| error.context(String::from_utf8_lossy(path));
    walk(filesystem, path, last).await.map_err(named)
}

async fn walk(filesystem: &dyn Filesystem, path: &[u8], last: LastLink) -> Result<Attr> {
    // The directories from the root to where we are: `..` goes back along it and trusts no entry on the disk.
    let mut parents: Vec<Ino> = Vec::new();
    let mut here = filesystem.getattr(filesystem.root()).await?;
    // What is still to be walked, the next component last.
    let mut pending: Vec<Vec<u8>> = Vec::new();
    push(&mut pending, path)?;
    let mut links = 0;
    while let Some(component) = pending.pop() {
        if here.file_type != FileType::Directory {
            return Err(Error::new(ErrorKind::NotDir, "not a directory"));
        }
        match component.as_slice() {
            b"" | b"." => continue,
            b".." => {
                if let Some(parent) = parents.pop() {
                    here = filesystem.getattr(parent).await?;
                }
                continue;
            }
            _ => {}
        }
        let ino =
            filesystem.lookup(here.ino, &component).await.map_err(|error| match error.kind() {
                ErrorKind::NotFound => Error::new(ErrorKind::NotFound, "no such file or directory"),
                _ => error,
            })?;
        let found = filesystem.getattr(ino).await?;
        if found.file_type == FileType::Symlink && !(pending.is_empty() && last == LastLink::Keep) {
            links += 1;
            if links > MAX_LINKS {
                return Err(Error::new(ErrorKind::Loop, "too many symbolic links"));
            }
            let target = filesystem.readlink(ino).await?;
            if target.first() == Some(&b'/') {
                parents.clear();
                here = filesystem.getattr(filesystem.root()).await?;
            }
            push(&mut pending, &target)?;
        } else {
            parents.push(here.ino);
            here = found;
        }
    }
    Ok(here)
}

/// Puts the components of `path` in front of what is pending. A slash at the end leaves an empty component, which
/// asks for a directory.
fn push(pending: &mut Vec<Vec<u8>>, path: &[u8]) -> Result<()> {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    if path.is_empty() {
        return Ok(());
    }
    pending.extend(path.split(|&byte| byte == b'/').rev().map(<[u8]>::to_vec));
    if pending.len() > MAX_PENDING {
        return Err(Error::new(ErrorKind::NameTooLong, "path too long"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::memory::MemoryFs;

    fn tree() -> MemoryFs {
        let mut fs = MemoryFs::new();
        fs.file("/etc/foo", b"foo");
        fs.symlink("/etc/abs", b"/etc/foo");
        fs.symlink("/etc/up", b"../etc/foo");
        fs.symlink("/etc/out", b"../../../../etc/foo");
        fs.symlink("/etc/dir", b"/etc");
        fs.symlink("/etc/slash", b"/etc/");
        fs.symlink("/etc/loop", b"loop");
        fs.symlink("/etc/a", b"b");
        fs.symlink("/etc/b", b"a");
        fs.symlink("/etc/none", b"nowhere");
        fs.symlink("/etc/root", b"/");
        for n in 0..50 {
            fs.symlink(&format!("/chain{n}"), format!("chain{}", n + 1).as_bytes());
        }
        fs.file("/chain50", b"end");
        fs
    }

    async fn size(path: &str, last: LastLink) -> Result<(FileType, u64)> {
        let attr = resolve(&tree(), path.as_bytes(), last).await?;
        Ok((attr.file_type, attr.size))
    }

    #[tokio::test]
    async fn every_way_to_one_file() {
        for path in [
            "/etc/foo",
            "etc/foo",
            "//etc///foo",
            "/etc/./foo",
            "/etc/../etc/foo",
            "/../../etc/foo",
            "/etc/abs",
            "/etc/up",
            "/etc/out",
            "/etc/dir/foo",
            "/etc/slash/foo",
            "/etc/dir/dir/up",
            "/etc/root/etc/foo",
            "/etc/dir/../etc/foo",
        ] {
            assert_eq!(
                size(path, LastLink::Follow).await.unwrap(),
                (FileType::Regular, 3),
                "{path}"
            );
        }
    }

    #[tokio::test]
    async fn a_link_in_the_last_place() {
        assert_eq!(size("/etc/abs", LastLink::Keep).await.unwrap().0, FileType::Symlink);
        assert_eq!(size("/etc/dir", LastLink::Keep).await.unwrap().0, FileType::Symlink);
        assert_eq!(size("/etc/dir/", LastLink::Keep).await.unwrap().0, FileType::Directory);
        assert_eq!(size("/", LastLink::Keep).await.unwrap().0, FileType::Directory);
    }

    #[tokio::test]
    async fn paths_that_lead_nowhere() {
        for (path, kind) in [
            ("", ErrorKind::NotFound),
            ("/etc/bar", ErrorKind::NotFound),
            ("/nowhere/foo", ErrorKind::NotFound),
            ("/etc/none", ErrorKind::NotFound),
            ("/etc/foo/bar", ErrorKind::NotDir),
            ("/etc/foo/", ErrorKind::NotDir),
            ("/etc/foo/..", ErrorKind::NotDir),
            ("/etc/abs/", ErrorKind::NotDir),
            ("/etc/loop", ErrorKind::Loop),
            ("/etc/a", ErrorKind::Loop),
            ("/chain0", ErrorKind::Loop),
        ] {
            let error = size(path, LastLink::Follow).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{path}");
            assert!(error.message().starts_with(path), "{error}");
        }
        assert_eq!(size("/chain10", LastLink::Follow).await.unwrap().1, 3);
    }
}
