//! Real mounts of a file system in memory: what only the kernel can show.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use tokio::runtime::Runtime;

use super::super::memory::Memory;
use super::super::needs::{Need, can_run};
use super::super::unmount;
use super::*;
use crate::fs::Ino;

/// A mount on a directory of its own.
struct Mounted {
    mount: Option<Mount>,
    runtime: Runtime,
    directory: tempfile::TempDir,
}

impl Mounted {
    fn new(memory: Memory) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let directory = tempfile::tempdir().unwrap();
        let mountpoint = Mountpoint::new(directory.path()).unwrap();
        let options =
            MountOptions { source_name: "a,test\\ image".to_owned(), ..MountOptions::default() };
        let handle = runtime.handle().clone();
        let mount = Mount::new(Arc::new(memory), &mountpoint, &options, handle).unwrap();
        Self { mount: Some(mount), runtime, directory }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn unmount(mut self) {
        self.runtime.block_on(self.mount.take().unwrap().unmount()).unwrap();
        assert_eq!(fs::read_dir(self.directory.path()).unwrap().count(), 0, "still mounted");
    }
}

/// Whether real mounts can be made here.
fn can_mount(test: &str) -> bool {
    can_run(test, &[Need::Fuse, Need::Program("fusermount3")])
}

fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

#[test]
fn a_mount_shows_what_the_file_system_holds() {
    if !can_mount("a_mount_shows_what_the_file_system_holds") {
        return;
    }
    let mut memory = Memory::new();
    memory.file(b"holes", Ino(12), 300_000, &[(4096, b"abc"), (200_000, b"xyz")]);
    memory.symlink(b"link", Ino(13), b"holes");
    memory.xattr(Ino(12), b"user.a", b"value");
    let mounted = Mounted::new(memory);

    assert_eq!(fs::metadata(mounted.directory.path()).unwrap().ino(), 2);
    let holes = fs::metadata(mounted.path("link")).unwrap();
    assert_eq!(
        (holes.ino(), holes.size(), holes.uid(), holes.mode()),
        (12, 300_000, 12, 0o100_640)
    );
    assert_eq!((holes.mtime(), holes.mtime_nsec()), (-3, 5));
    assert_eq!(fs::read_link(mounted.path("link")).unwrap(), Path::new("holes"));

    let mut file = File::open(mounted.path("holes")).unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), 300_000);
    assert_eq!((&bytes[4096..4099], &bytes[200_000..200_003]), (&b"abc"[..], &b"xyz"[..]));
    assert_eq!(bytes.iter().filter(|byte| **byte != 0).count(), 6);
    let data = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(5000)).unwrap();
    assert_eq!(data, 200_000);
    let hole = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(4096)).unwrap();
    assert_eq!(hole, 4099);
    assert_eq!(file.seek(SeekFrom::End(0)).unwrap(), 300_000);

    let mut value = [0; 16];
    let len = rustix::fs::getxattr(mounted.path("holes"), "user.a", &mut value).unwrap();
    assert_eq!(&value[..len], b"value");
    let none = rustix::fs::getxattr(mounted.path("holes"), "user.b", &mut value);
    assert_eq!(none.unwrap_err(), rustix::io::Errno::NODATA);

    let stat = rustix::fs::statvfs(mounted.directory.path()).unwrap();
    assert_eq!((stat.f_bsize, stat.f_blocks, stat.f_files), (1024, 1000, 50));
    mounted.unmount();
}

#[test]
fn the_mount_is_read_only_and_says_what_it_is() {
    if !can_mount("the_mount_is_read_only_and_says_what_it_is") {
        return;
    }
    let mut memory = Memory::new();
    memory.file(b"f", Ino(12), 1, &[]);
    let mounted = Mounted::new(memory);
    assert_eq!(errno(File::create(mounted.path("new"))), 30);
    assert_eq!(errno(fs::remove_file(mounted.path("f"))), 30);
    assert_eq!(errno(File::options().write(true).open(mounted.path("f"))), 30);
    let table = fs::read_to_string("/proc/mounts").unwrap();
    let line = table.lines().find(|line| line.contains(mounted.directory.path().to_str().unwrap()));
    let fields: Vec<&str> = line.unwrap().split(' ').collect();
    assert_eq!((fields[0], fields[2]), ("a_test_\\040image", "fuse.snapbrowse"));
    for option in ["ro", "nosuid", "nodev"] {
        assert!(fields[3].split(',').any(|field| field == option), "no {option} in {fields:?}");
    }
    mounted.unmount();
}

#[test]
fn a_broken_inode_is_listed_and_its_error_has_a_name() {
    if !can_mount("a_broken_inode_is_listed_and_its_error_has_a_name") {
        return;
    }
    let mut memory = Memory::new();
    for number in 11..40 {
        memory.file(format!("f{number}").as_bytes(), Ino(number), 1, &[(0, b"x")]);
    }
    memory.break_inode(Ino(20), ErrorKind::BadChecksum);
    memory.break_inode(Ino(21), ErrorKind::Corrupt);
    let mounted = Mounted::new(memory);
    let names =
        fs::read_dir(mounted.directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.count(), 29);
    assert_eq!(errno(fs::metadata(mounted.path("f20"))), 74);
    assert_eq!(errno(fs::metadata(mounted.path("f21"))), 117);
    assert_eq!(errno(fs::metadata(mounted.path("none"))), 2);
    assert_eq!(fs::read(mounted.path("f22")).unwrap(), b"x");
    mounted.unmount();
}

#[test]
fn a_slow_lookup_holds_up_nobody_else() {
    if !can_mount("a_slow_lookup_holds_up_nobody_else") {
        return;
    }
    let mut memory = Memory::new();
    memory.file(b"slow", Ino(12), 1, &[]);
    memory.file(b"quick", Ino(13), 1, &[]);
    let (begun, gate) = memory.slow_lookup(b"slow");
    let mounted = Mounted::new(memory);
    let slow = mounted.path("slow");
    let waiting = std::thread::spawn(move || fs::metadata(slow).unwrap().ino());
    mounted.runtime.block_on(begun.notified());
    // The same directory, while the other lookup waits. Bounded, so that a failure here lets the first one go: a
    // lookup without an answer cannot be killed.
    let quick = mounted.path("quick");
    let (done, answered) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(fs::metadata(quick).unwrap().ino()));
    let answer = answered.recv_timeout(Duration::from_secs(10));
    gate.notify_one();
    assert_eq!(answer, Ok(13));
    assert_eq!(waiting.join().unwrap(), 12);
    mounted.unmount();
}

#[test]
fn many_readers_of_one_file_each_get_their_bytes() {
    if !can_mount("many_readers_of_one_file_each_get_their_bytes") {
        return;
    }
    let contents: Vec<u8> =
        (0..1_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut memory = Memory::new();
    memory.file(b"f", Ino(12), contents.len() as u64, &[(0, &contents)]);
    let mounted = Mounted::new(memory);
    let path = mounted.path("f");
    std::thread::scope(|scope| {
        for reader in 0..8_usize {
            let (path, contents) = (&path, &contents);
            scope.spawn(move || {
                let file = File::open(path).unwrap();
                for step in 0..200_usize {
                    let at = (reader * 131_071 + step * 77_777) % 990_000;
                    let mut bytes = [0; 9999];
                    file.read_exact_at(&mut bytes, at as u64).unwrap();
                    assert_eq!(bytes, contents[at..at + 9999]);
                }
            });
        }
    });
    mounted.unmount();
}

#[test]
fn whoever_unmounts_the_session_ends() {
    if !can_mount("whoever_unmounts_the_session_ends") {
        return;
    }
    let mut mounted = Mounted::new(Memory::new());
    let command = if rustix::process::geteuid().is_root() { "umount" } else { "fusermount3" };
    let mut unmount = std::process::Command::new(command);
    if command == "fusermount3" {
        unmount.arg("-u");
    }
    assert!(unmount.arg(mounted.directory.path()).status().unwrap().success());
    mounted.runtime.block_on(mounted.mount.as_mut().unwrap().ended()).unwrap();
}

#[test]
fn a_mount_in_use_is_not_unmounted_by_request_but_by_its_own_end() {
    if !can_mount("a_mount_in_use_is_not_unmounted_by_request_but_by_its_own_end") {
        return;
    }
    let mut memory = Memory::new();
    memory.file(b"f", Ino(12), 1, &[(0, b"x")]);
    let mounted = Mounted::new(memory);
    let open = File::open(mounted.path("f")).unwrap();
    let busy = unmount(mounted.directory.path(), Duration::ZERO).unwrap_err();
    assert!(busy.to_string().contains("busy"), "{busy}");
    assert!(busy.hint().is_some());
    mounted.unmount();
    drop(open);
}

#[test]
fn umount_names_what_it_cannot_do() {
    let directory = tempfile::tempdir().unwrap();
    let error = unmount(directory.path(), Duration::ZERO).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let error = unmount(&directory.path().join("none/there"), Duration::ZERO).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn a_second_mount_on_the_same_directory_is_refused() {
    if !can_mount("a_second_mount_on_the_same_directory_is_refused") {
        return;
    }
    let mounted = Mounted::new(Memory::new());
    let error = Mountpoint::new(mounted.directory.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exists);
    assert!(error.hint().unwrap().contains("umount"), "{error}");
    mounted.unmount();
}

#[test]
fn fusermounts_words_become_advice() {
    let directory = tempfile::tempdir().unwrap();
    let mountpoint = Mountpoint::new(directory.path()).unwrap();
    for (said, kind, hint) in [
        (
            "fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf\n",
            io::ErrorKind::PermissionDenied,
            "/etc/fuse.conf",
        ),
        (
            "fusermount3: user has no write access to mountpoint /x\n",
            io::ErrorKind::Other,
            "belongs to you",
        ),
    ] {
        let error = explain(&mountpoint, io::Error::new(kind, said));
        assert!(error.hint().unwrap().contains(hint), "{error}");
        assert!(
            !error.message().contains('\n') && !error.message().contains("fusermount3:"),
            "{error}"
        );
    }
    let missing = explain(&mountpoint, io::Error::from(io::ErrorKind::NotFound));
    assert!(missing.to_string().contains("fuse3"), "{missing}");
}
