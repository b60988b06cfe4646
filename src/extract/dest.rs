//! The tree that is written: every step goes through a directory that is held open, never through a path that
//! someone else could bend, so nothing outside the destination can be reached whatever the image holds.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind, Result};

use super::metadata::{DEFAULT_ACL, Target};

/// The longest path given to one `openat2`; PATH_MAX is 4096, and an image may nest deeper than that.
const LONGEST_STEP: usize = 2048;

/// One component of a path: not empty, not `.` or `..`, without `/` and NUL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Name(CString);

impl Name {
    /// Takes a name from an image.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for what no directory can hold.
    pub(super) fn parse(name: &[u8]) -> Result<Self> {
        let bad =
            || Error::new(ErrorKind::Corrupt, "a name that no directory can hold; not restored");
        if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') {
            return Err(bad());
        }
        CString::new(name).map(Self).map_err(|_| bad())
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    fn as_c_str(&self) -> &CStr {
        &self.0
    }
}

/// A path below the destination, made of [`Name`]s; empty for the destination itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct RelPath(Vec<u8>);

impl RelPath {
    pub(super) fn join(&self, name: &Name) -> Self {
        let mut path = Vec::with_capacity(self.0.len() + 1 + name.as_bytes().len());
        path.extend_from_slice(&self.0);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.as_bytes());
        Self(path)
    }

    pub(super) fn is_root(&self) -> bool {
        self.0.is_empty()
    }
}

/// The directory that everything goes into.
pub(super) struct Destination {
    root: OwnedFd,
    /// Whether it was made for us.
    created: bool,
}

impl Destination {
    /// Opens `path`, made with its parents where it is not there.
    ///
    /// # Errors
    /// [`ErrorKind::Permission`], [`ErrorKind::Io`].
    pub(super) fn open(path: &Path) -> Result<Self> {
        let failed = |error: io::Error| match error.kind() {
            // Not what was asked for is missing, but where to put it.
            io::ErrorKind::NotFound => {
                Error::new(ErrorKind::Io, format!("destination {}: cannot be made", path.display()))
                    .with_source(error)
            }
            _ => Error::io(format!("destination {}", path.display()), error),
        };
        let created = match std::fs::DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir_all(path).map_err(failed)?;
                true
            }
            Err(error) => return Err(failed(error)),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, path, flags, Mode::empty())
            .map_err(|error| failed(error.into()))?;
        Ok(Self { root, created })
    }

    /// Opens the directory `path` below the destination.
    pub(super) fn directory(&self, path: &RelPath) -> io::Result<Directory> {
        let mut here = self.root.try_clone()?;
        let mut left = path.0.as_slice();
        while !left.is_empty() {
            let step = match left.get(..LONGEST_STEP) {
                None => left,
                // A name has at most 255 bytes, so a step of this length ends at some slash.
                Some(head) => match head.iter().rposition(|&byte| byte == b'/') {
                    Some(slash) => &left[..slash],
                    None => return Err(Errno::NAMETOOLONG.into()),
                },
            };
            here = open_beneath(&here, step)?;
            left = left.get(step.len() + 1..).unwrap_or_default();
        }
        Ok(Directory::new(here))
    }

    /// Makes the directory `name` in `parent` unless it is there, and opens it. The flag says whether it was made.
    /// Only we can enter it until [`super::metadata`] gives it its mode.
    pub(super) fn make(&self, parent: &RelPath, name: &Name) -> io::Result<(Directory, bool)> {
        let parent = self.directory(parent)?;
        let made = match rustix::fs::mkdirat(parent.fd(), name.as_c_str(), Mode::RWXU) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(error.into()),
        };
        let directory = open_beneath(parent.fd(), name.as_bytes())?;
        if made && parent.bequeaths_acls {
            // Its own come last: what is made in it must not get these.
            Target::open(&directory).remove_acls()?;
        }
        Ok((Directory::new(directory), made))
    }

    pub(super) fn created(&self) -> bool {
        self.created
    }
}

/// No `..`, no symbolic link, no mount point trick leads out of `base`: the kernel itself sees to it (openat2(2)).
fn open_beneath(base: impl AsFd, path: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(base, path, flags, Mode::empty(), resolve)?)
}

/// A directory of the destination, held open.
#[derive(Clone)]
pub(super) struct Directory {
    fd: Arc<OwnedFd>,
    /// Whether what is made in it gets ACLs from it.
    bequeaths_acls: bool,
}

impl Directory {
    fn new(fd: OwnedFd) -> Self {
        let found = rustix::fs::fgetxattr_query(&fd, DEFAULT_ACL);
        Self { fd: Arc::new(fd), bequeaths_acls: found.is_ok_and(|len| len > 0) }
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Whether something has this name already. Where that cannot be told, putting something down will tell.
    pub(super) fn has(&self, name: &Name) -> bool {
        rustix::fs::statat(&self.fd, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// A regular file that nobody else can open yet.
    pub(super) fn temporary_file(&self) -> io::Result<(Temporary, File)> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let (temporary, file) =
            self.temporary(|name| rustix::fs::openat(self.fd(), name, flags, mode))?;
        if self.bequeaths_acls {
            Target::open(&file).remove_acls()?;
        }
        Ok((temporary, File::from(file)))
    }

    pub(super) fn temporary_symlink(&self, target: &[u8]) -> io::Result<Temporary> {
        let (temporary, ()) =
            self.temporary(|name| rustix::fs::symlinkat(target, self.fd(), name))?;
        Ok(temporary)
    }

    pub(super) fn temporary_node(&self, kind: FileType, device: u64) -> io::Result<Temporary> {
        let mode = Mode::RUSR | Mode::WUSR;
        let (temporary, ()) =
            self.temporary(|name| rustix::fs::mknodat(self.fd(), name, kind, mode, device))?;
        if self.bequeaths_acls {
            Target::named(temporary.at()).remove_acls()?;
        }
        Ok(temporary)
    }

    /// A second name for `name` of `other`.
    pub(super) fn temporary_link(&self, other: &Self, name: &Name) -> io::Result<Temporary> {
        let (temporary, ()) = self.temporary(|new| {
            rustix::fs::linkat(other.fd(), name.as_c_str(), self.fd(), new, AtFlags::empty())
        })?;
        Ok(temporary)
    }

    fn temporary<T>(
        &self,
        make: impl FnOnce(&CStr) -> rustix::io::Result<T>,
    ) -> io::Result<(Temporary, T)> {
        let name = temporary_name()?;
        let made = make(&name)?;
        Ok((Temporary { directory: self.clone(), name }, made))
    }
}

/// A name that no image foresees and no other process uses.
fn temporary_name() -> io::Result<CString> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    static RANDOM: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    let random = match RANDOM.get() {
        Some(random) => *random,
        None => {
            let random = getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?;
            *RANDOM.get_or_init(|| random)
        }
    };
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!(".snapbrowse-{random:016x}-{number}");
    Ok(CString::new(name).expect("hexadecimal digits hold no NUL"))
}

/// Something new under a temporary name: it gets its final name when it is complete, or vanishes.
pub(super) struct Temporary {
    directory: Directory,
    name: CString,
}

impl Temporary {
    /// The directory and the name, to finish the metadata of what has no descriptor.
    pub(super) fn at(&self) -> (&OwnedFd, &CStr) {
        (self.directory.fd(), &self.name)
    }

    /// Gives it its name. What has that name already is replaced only with `overwrite`.
    pub(super) fn keep_as(self, name: &Name, overwrite: bool) -> io::Result<()> {
        let directory = self.directory.fd();
        let name = name.as_c_str();
        if overwrite {
            rustix::fs::renameat(directory, &self.name, directory, name)?;
        } else {
            let flags = RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(directory, &self.name, directory, name, flags) {
                // Not every file system can (NFS); a link never replaces either, and drop takes the old name away.
                Err(Errno::INVAL) => {
                    rustix::fs::linkat(directory, &self.name, directory, name, AtFlags::empty())?;
                    return Ok(());
                }
                result => result?,
            }
        }
        // rename(2) does nothing where both names are links to one file; then drop still has something to do.
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Gone already, after a rename; and nothing could be done about any other failure.
        let _ = rustix::fs::unlinkat(self.directory.fd(), &self.name, AtFlags::empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> Name {
        Name::parse(name.as_bytes()).unwrap()
    }

    #[test]
    fn names_that_lead_elsewhere_are_no_names() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"/", b"/etc", b"../x", b"a\0b"] {
            assert_eq!(Name::parse(bad).unwrap_err().kind(), ErrorKind::Corrupt);
        }
        assert_eq!(name("...").as_bytes(), b"...");
        Name::parse(b"\xff\n").unwrap();
    }

    #[test]
    fn a_symlink_is_no_directory_to_go_through() {
        let outside = tempfile::tempdir().unwrap();
        let inside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), inside.path().join("link")).unwrap();
        let destination = Destination::open(inside.path()).unwrap();
        let root = RelPath::default();
        assert!(destination.make(&root, &name("link")).is_err());
        assert!(destination.directory(&root.join(&name("link"))).is_err());
        assert!(destination.make(&root.join(&name("link")), &name("x")).is_err());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        // The destination itself is the user's choice, by whatever way it is named.
        Destination::open(&inside.path().join("link")).unwrap();
    }

    #[test]
    fn deeper_than_the_longest_path() {
        let inside = tempfile::tempdir().unwrap();
        let destination = Destination::open(inside.path()).unwrap();
        let mut path = RelPath::default();
        let long = name(&"n".repeat(200));
        for _ in 0..40 {
            destination.make(&path, &long).unwrap();
            path = path.join(&long);
        }
        destination.directory(&path).unwrap();
    }

    #[test]
    fn what_is_not_kept_vanishes() {
        let inside = tempfile::tempdir().unwrap();
        let destination = Destination::open(inside.path()).unwrap();
        let directory = destination.directory(&RelPath::default()).unwrap();
        let names = || {
            let mut names: Vec<_> = std::fs::read_dir(inside.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        drop(directory.temporary_file().unwrap());
        assert!(names().is_empty());
        directory.temporary_symlink(b"/t").unwrap().keep_as(&name("a"), false).unwrap();
        assert!(directory.temporary_file().unwrap().0.keep_as(&name("a"), false).is_err());
        assert_eq!(names(), ["a"]);
        assert!(inside.path().join("a").is_symlink());
        directory.temporary_file().unwrap().0.keep_as(&name("a"), true).unwrap();
        directory
            .temporary_link(&directory, &name("a"))
            .unwrap()
            .keep_as(&name("b"), false)
            .unwrap();
        // Both names are links to one file: rename leaves the temporary name, and it must not stay.
        directory
            .temporary_link(&directory, &name("a"))
            .unwrap()
            .keep_as(&name("b"), true)
            .unwrap();
        assert_eq!(names(), ["a", "b"]);
    }
}
