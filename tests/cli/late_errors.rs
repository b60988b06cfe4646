//! A destination that takes everything and says when a file is closed that it has no room for it, as NFS does where a quota
//! is used up.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyEmpty, ReplyEntry, ReplyWrite, Request,
    TimeOrNow, WriteFlags,
};

use crate::common::{Need, can_run};
use crate::image::{Image, NEEDS};

const TTL: Duration = Duration::from_secs(0);

/// Names and inodes of the files in its root.
#[derive(Default)]
struct Full {
    files: Mutex<BTreeMap<OsString, u64>>,
}

fn attr(ino: INodeNo) -> FileAttr {
    let time = SystemTime::UNIX_EPOCH;
    let (kind, perm) = match ino {
        INodeNo::ROOT => (FileType::Directory, 0o755),
        _ => (FileType::RegularFile, 0o644),
    };
    FileAttr {
        ino,
        size: 0,
        blocks: 0,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind,
        perm,
        nlink: 1,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl fuser::Filesystem for Full {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.files.lock().unwrap().get(name) {
            Some(ino) => reply.entry(&TTL, &attr(INodeNo(*ino)), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &attr(ino));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.attr(&TTL, &attr(ino));
    }

    fn create(
        &self,
        _: &Request,
        _: INodeNo,
        name: &OsStr,
        _: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let mut files = self.files.lock().unwrap();
        let ino = files.values().max().map_or(2, |last| last + 1);
        files.insert(name.to_owned(), ino);
        let attr = attr(INodeNo(ino));
        reply.created(&TTL, &attr, Generation(0), FileHandle(0), FopenFlags::empty());
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.written(u32::try_from(data.len()).unwrap());
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::EDQUOT);
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        from: &OsStr,
        _: INodeNo,
        to: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mut files = self.files.lock().unwrap();
        let ino = files.remove(from).unwrap();
        files.insert(to.to_owned(), ino);
        reply.ok();
    }

    fn unlink(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.files.lock().unwrap().remove(name);
        reply.ok();
    }
}

#[test]
fn what_is_told_only_when_a_file_is_closed_is_told() {
    let test = "what_is_told_only_when_a_file_is_closed_is_told";
    let fuse = &[Need::Fuse, Need::Program("fusermount3")];
    if !can_run(test, NEEDS) || !can_run(test, fuse) {
        return;
    }
    let image = Image::new();
    let tree = image.path("files");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("small"), "1").unwrap();
    fs::write(tree.join("large"), vec![1; 3 << 20]).unwrap();
    image.make("files.img", &tree);
    let source = image.path("files.img");
    let source = source.to_str().unwrap();
    let to = image.path("full");
    fs::create_dir(&to).unwrap();
    let full = fuser::spawn_mount(Full::default(), &to, &Config::default()).unwrap();

    for path in ["/small", "/large"] {
        let to = to.to_str().unwrap();
        let said = image.snapbrowse.output(["extract", source, path, "--to", to]);
        let complaint = String::from_utf8(said.stderr).unwrap();
        assert_eq!(said.status.code(), Some(1), "{complaint}");
        assert!(
            complaint.contains(&format!("{path}: ")) && complaint.contains("quota"),
            "{complaint}"
        );
        assert!(!to_has(to, path), "{path} is there");

        let mut cat = image.snapbrowse.command(["cat", source, path]);
        let said = cat.stdout(fs::File::create(format!("{to}/copy")).unwrap()).output().unwrap();
        let complaint = String::from_utf8(said.stderr).unwrap();
        assert_eq!(said.status.code(), Some(1), "{complaint}");
        assert!(
            complaint.contains("standard output") && complaint.contains("quota"),
            "{complaint}"
        );
    }
    full.umount_and_join().unwrap();
}

fn to_has(to: &str, path: &str) -> bool {
    fs::symlink_metadata(format!("{to}{path}")).is_ok()
}
