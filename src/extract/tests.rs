//! Extraction from trees that no honest file system holds, and from honest ones.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tempfile::TempDir;

use super::*;
use crate::fs::memory::MemoryFs;
use crate::fs::{DeviceNumber, Filesystem, Timestamp};

/// A destination beside things that must not be touched.
struct World {
    directory: TempDir,
    options: Options,
}

/// What came of it.
struct Outcome {
    report: Arc<Report>,
    failures: Vec<String>,
}

impl Outcome {
    #[track_caller]
    fn failed_with(&self, expected: &[&str]) {
        assert_eq!(self.failures.len(), expected.len(), "{:#?}", self.failures);
        for (failure, expected) in self.failures.iter().zip(expected) {
            assert!(failure.contains(expected), "{failure:?} does not say {expected:?}");
        }
    }
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("outside")).unwrap();
        fs::write(directory.path().join("outside/victim"), "untouched").unwrap();
        fs::create_dir(directory.path().join("to")).unwrap();
        Self { directory, options: Options::default() }
    }

    fn overwriting(mut self) -> Self {
        self.options.overwrite = true;
        self
    }

    fn to(&self, path: &str) -> PathBuf {
        self.directory.path().join("to").join(path)
    }

    fn outside(&self) -> PathBuf {
        self.directory.path().join("outside")
    }

    async fn extract(&self, filesystem: &MemoryFs, paths: &[&str]) -> Outcome {
        let told = Arc::new(Mutex::new(Vec::new()));
        let listener = Arc::clone(&told);
        let report =
            Arc::new(Report::new(move |error| listener.lock().unwrap().push(error.to_string())));
        let paths: Vec<Vec<u8>> = paths.iter().map(|path| path.as_bytes().to_vec()).collect();
        let filesystem = Arc::new(filesystem.clone());
        extract(filesystem, &paths, &self.to(""), self.options, Arc::clone(&report)).await.unwrap();
        self.nothing_outside_changed();
        let mut failures = told.lock().unwrap().clone();
        failures.sort();
        Outcome { report, failures }
    }

    #[track_caller]
    fn nothing_outside_changed(&self) {
        let victim = self.outside().join("victim");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
        assert_eq!(fs::metadata(&victim).unwrap().nlink(), 1);
        assert_eq!(fs::read_dir(self.outside()).unwrap().count(), 1);
        assert_eq!(fs::read_dir(self.directory.path()).unwrap().count(), 2);
    }

    /// All names below the destination; a temporary file that stayed behind would be among them.
    fn names(&self) -> Vec<String> {
        let all = walkdir::WalkDir::new(self.to("")).min_depth(1).sort_by_file_name();
        let name = |entry: walkdir::DirEntry| {
            let path = entry.path().strip_prefix(self.to("")).unwrap();
            path.to_str().unwrap().to_owned()
        };
        all.into_iter().map(|entry| name(entry.unwrap())).collect()
    }
}

fn root() -> bool {
    rustix::process::geteuid().is_root()
}

fn time(metadata: &fs::Metadata) -> Timestamp {
    Timestamp {
        seconds: metadata.mtime(),
        nanoseconds: u32::try_from(metadata.mtime_nsec()).unwrap(),
    }
}

#[tokio::test]
async fn a_tree_comes_out_as_it_was() {
    let mut image = MemoryFs::new();
    let foo = image.file("/etc/foo", b"contents");
    image.symlink("/etc/link", b"../etc/foo");
    image.file("/etc/deep/er/empty", b"");
    let secret = image.file("/etc/deep/secret", b"s");
    image.node(secret).attr.permissions = 0o400;
    image.node(secret).xattrs.push((b"user.colour".to_vec(), b"red".to_vec()));
    let closed = image.directory("/etc/deep");
    image.node(closed).attr.permissions = 0o555;
    image.node(closed).attr.mtime = Timestamp { seconds: -5, nanoseconds: 7 };
    image.put("/etc/pipe", FileType::Fifo, b"");
    image.put("/etc/socket", FileType::Socket, b"");
    image.node(foo).xattrs.push((b"user.colour".to_vec(), b"blue".to_vec()));

    let world = World::new();
    let outcome = world.extract(&image, &["/etc"]).await;
    outcome.failed_with(&[]);
    assert_eq!(
        world.names(),
        [
            "etc",
            "etc/deep",
            "etc/deep/er",
            "etc/deep/er/empty",
            "etc/deep/secret",
            "etc/foo",
            "etc/link",
            "etc/pipe",
            "etc/socket"
        ]
    );
    assert_eq!(
        (outcome.report.files(), outcome.report.directories(), outcome.report.bytes()),
        (6, 3, 9)
    );
    assert_eq!(fs::read(world.to("etc/foo")).unwrap(), b"contents");
    assert_eq!(fs::read_link(world.to("etc/link")).unwrap(), Path::new("../etc/foo"));
    assert!(fs::metadata(world.to("etc/pipe")).unwrap().file_type().is_fifo());
    let mode = |path: &str| fs::metadata(world.to(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("etc/foo"), mode("etc/deep/secret"), mode("etc/deep")), (0o644, 0o400, 0o555));
    for (path, ino) in [("etc/foo", foo), ("etc/deep", closed)] {
        let attr = image.getattr(ino).await.unwrap();
        assert_eq!(time(&fs::metadata(world.to(path)).unwrap()), attr.mtime, "{path}");
    }
    // Also where the mode forbids even the owner to change it afterwards.
    for (path, expected) in [("etc/foo", &b"blue"[..]), ("etc/deep/secret", b"red")] {
        let mut value = [0; 16];
        let len = rustix::fs::getxattr(world.to(path), c"user.colour", &mut value).unwrap();
        assert_eq!(&value[..len], expected);
    }
    // Otherwise an ordinary user could not remove it.
    fs::set_permissions(world.to("etc/deep"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn the_root_means_what_is_in_it() {
    let mut image = MemoryFs::new();
    image.file("/a", b"a");
    image.file("/d/b", b"b");
    for path in ["/", "/d/..", "."] {
        let world = World::new();
        let before = fs::metadata(world.to("")).unwrap().permissions();
        world.extract(&image, &[path]).await.failed_with(&[]);
        assert_eq!(world.names(), ["a", "d", "d/b"], "{path:?}");
        assert_eq!(fs::metadata(world.to("")).unwrap().permissions(), before);
    }
}

#[tokio::test]
async fn several_paths_and_one_that_is_missing() {
    let mut image = MemoryFs::new();
    image.file("/a/x", b"x");
    image.file("/b/y", b"y");
    image.symlink("/way", b"/b");
    let world = World::new();
    let outcome = world.extract(&image, &["/a", "/way/y", "/none", "/way"]).await;
    outcome.failed_with(&["/none: no such file"]);
    assert_eq!(outcome.report.first_failure(), Some(ErrorKind::NotFound));
    assert_eq!(world.names(), ["a", "a/x", "way", "y"]);
    assert_eq!(fs::read_link(world.to("way")).unwrap(), Path::new("/b"));
}

#[tokio::test]
async fn holes_stay_holes() {
    let mut image = MemoryFs::new();
    let size = 8 << 20;
    for (path, data) in [
        ("/middle", vec![(1 << 20, (1 << 20) + 4096)]),
        ("/ends", vec![(0, 4096), (size - 4096, size)]),
        ("/tail", vec![(0, 1)]),
        ("/all", vec![]),
    ] {
        let mut contents = vec![0; size as usize];
        for &(start, end) in &data {
            contents[start as usize..end as usize].fill(7);
        }
        let ino = image.file(path, &contents);
        image.node(ino).data = data;
    }
    let small = image.file("/small", b"\0\0\0\0");
    image.node(small).data.clear();
    let world = World::new();
    let outcome = world.extract(&image, &["/"]).await;
    outcome.failed_with(&[]);
    assert_eq!(outcome.report.bytes(), 4096 * 3 + 1);
    for path in ["middle", "ends", "tail", "all"] {
        let metadata = fs::metadata(world.to(path)).unwrap();
        assert_eq!(metadata.len(), size);
        assert!(metadata.blocks() * 512 <= 64 << 10, "{path} takes {} blocks", metadata.blocks());
    }
    let middle = fs::read(world.to("middle")).unwrap();
    assert_eq!(middle.iter().filter(|&&byte| byte == 7).count(), 4096);
    assert_eq!(middle[1 << 20], 7);
    assert_eq!(fs::read(world.to("small")).unwrap(), [0; 4]);
}

#[tokio::test]
async fn hard_links_stay_together() {
    let mut image = MemoryFs::new();
    let ino = image.file("/a/one", b"same");
    image.link("/b/two", ino);
    image.link("/b/three", ino);
    let world = World::new();
    let outcome = world.extract(&image, &["/a", "/b"]).await;
    outcome.failed_with(&[]);
    let inode = |path: &str| fs::metadata(world.to(path)).unwrap().ino();
    assert_eq!((inode("b/two"), inode("b/three")), (inode("a/one"), inode("a/one")));
    assert_eq!(fs::metadata(world.to("a/one")).unwrap().nlink(), 3);
    // Again over what is there now: the temporary links must not stay.
    let world = world.overwriting();
    world.extract(&image, &["/"]).await.failed_with(&[]);
    assert_eq!(world.names(), ["a", "a/one", "b", "b/three", "b/two"]);
    assert_eq!(fs::metadata(world.to("a/one")).unwrap().nlink(), 3);
}

#[tokio::test]
async fn a_link_is_never_made_to_what_stood_there_before() {
    let mut image = MemoryFs::new();
    let ino = image.file("/a", b"new");
    image.link("/b", ino);
    let world = World::new();
    fs::write(world.to("a"), "old").unwrap();
    let outcome = world.extract(&image, &["/"]).await;
    outcome.failed_with(&["/a: File exists", "/b: another name of a file that was not restored"]);
    assert_eq!(world.names(), ["a"]);
    assert_eq!(fs::read(world.to("a")).unwrap(), b"old");
}

#[tokio::test]
async fn what_exists_is_not_read() {
    let mut image = MemoryFs::new();
    for (path, size) in [("/large", 8 << 20), ("/small", 8)] {
        let ino = image.file(path, &vec![1; size]);
        image.node(ino).hangs_at = Some(0);
    }
    let world = World::new();
    fs::write(world.to("large"), "old").unwrap();
    fs::write(world.to("small"), "old").unwrap();
    let outcome = world.extract(&image, &["/"]).await;
    outcome.failed_with(&["/large: File exists", "/small: File exists"]);
    assert_eq!(outcome.report.bytes(), 0);
}

#[tokio::test]
async fn existing_files_need_overwrite() {
    let mut image = MemoryFs::new();
    image.file("/f", b"new");
    image.symlink("/l", b"new");
    image.file("/d/f", b"new");
    let world = World::new();
    fs::write(world.to("f"), "old").unwrap();
    symlink("old", world.to("l")).unwrap();
    fs::create_dir(world.to("d")).unwrap();
    fs::set_permissions(world.to("d"), fs::Permissions::from_mode(0o700)).unwrap();

    let kept = "/d: the directory exists and keeps its own mode";
    let outcome = world.extract(&image, &["/"]).await;
    outcome.failed_with(&[kept, "/f: File exists", "/l: File exists"]);
    assert_eq!(fs::read(world.to("f")).unwrap(), b"old");
    assert_eq!(fs::read(world.to("d/f")).unwrap(), b"new");
    assert_eq!(fs::metadata(world.to("d")).unwrap().mode() & 0o777, 0o700);

    let world = world.overwriting();
    world.extract(&image, &["/"]).await.failed_with(&[]);
    assert_eq!(fs::read(world.to("f")).unwrap(), b"new");
    assert_eq!(fs::read_link(world.to("l")).unwrap(), Path::new("new"));
    assert_eq!(fs::metadata(world.to("d")).unwrap().mode() & 0o777, 0o755);
    assert_eq!(world.names(), ["d", "d/f", "f", "l"]);
}

#[tokio::test]
async fn a_directory_that_exists_is_compared() {
    let mut image = MemoryFs::new();
    let ino = image.directory("/d");
    let ours = fs::metadata(World::new().to("")).unwrap();
    (image.node(ino).attr.uid, image.node(ino).attr.gid) = (ours.uid(), ours.gid());
    let world = World::new();
    fs::create_dir(world.to("d")).unwrap();
    fs::set_permissions(world.to("d"), fs::Permissions::from_mode(0o755)).unwrap();
    world.extract(&image, &["/d"]).await.failed_with(&[]);

    image.node(ino).xattrs.push((b"user.colour".to_vec(), b"red".to_vec()));
    let kept = "/d: the directory exists and keeps its own attribute user.colour";
    world.extract(&image, &["/d"]).await.failed_with(&[kept]);
    let world = world.overwriting();
    world.extract(&image, &["/d"]).await.failed_with(&[]);
    let world = World { options: Options::default(), ..world };
    world.extract(&image, &["/d"]).await.failed_with(&[]);
}

#[tokio::test]
async fn two_files_for_one_place() {
    let mut image = MemoryFs::new();
    let ino = image.file("/s1/d/f", b"AAA");
    image.link("/s1/d/g", ino);
    image.file("/s2/d/f", b"BBB");
    let taken = "d/f: another file of this run has the same place";
    // The order in which the two directories are read is open.
    for _ in 0..20 {
        let world = World::new().overwriting();
        world.extract(&image, &["/s1/d", "/s2/d"]).await.failed_with(&[taken]);
        assert_eq!(fs::read(world.to("d/g")).unwrap(), b"AAA");
    }
    let world = World::new().overwriting();
    let outcome = world.extract(&image, &["/s1/d/f", "/s2/d/f"]).await;
    outcome.failed_with(&[taken]);
    assert_eq!(outcome.report.files(), 1);
}

#[tokio::test]
async fn a_name_that_stands_twice_in_a_directory() {
    let mut image = MemoryFs::new();
    let first = image.file("/d/f", b"AAA");
    image.link("/d/z", first);
    let other = image.file("/other", b"BBB");
    let directory = image.directory("/d");
    image.entry(directory, b"f", other);
    let world = World::new().overwriting();
    world.extract(&image, &["/d"]).await.failed_with(&["/d/f: another file of this run"]);
    assert_eq!(fs::read(world.to("d/z")).unwrap(), b"AAA");
}

#[tokio::test]
async fn a_link_in_the_destination_is_not_followed() {
    for overwrite in [false, true] {
        let mut image = MemoryFs::new();
        image.file("/etc/victim", b"evil");
        image.file("/file", b"evil");
        let mut world = World::new();
        world.options.overwrite = overwrite;
        symlink(world.outside(), world.to("etc")).unwrap();
        symlink(world.outside().join("victim"), world.to("file")).unwrap();
        let outcome = world.extract(&image, &["/"]).await;
        let refused = "/etc: the destination has something else than a directory there";
        if overwrite {
            outcome.failed_with(&[refused]);
            assert!(world.to("file").symlink_metadata().unwrap().is_file());
        } else {
            outcome.failed_with(&[refused, "/file: File exists"]);
            assert!(world.to("file").is_symlink());
        }
    }
}

#[tokio::test]
async fn a_name_that_is_a_link_and_a_directory() {
    for overwrite in [false, true] {
        let mut world = World::new();
        world.options.overwrite = overwrite;
        let mut image = MemoryFs::new();
        // The same name twice: first a way out, then a directory with something to put there.
        image.symlink("/x", world.outside().to_str().unwrap().as_bytes());
        image.file("/hidden/victim", b"evil");
        image.file("/hidden/new", b"evil");
        let directory = image.directory("/hidden");
        let root = image.root();
        image.entry(root, b"x", directory);
        let outcome = world.extract(&image, &["/"]).await;
        assert!(outcome.report.failed() > 0);
    }
}

#[tokio::test]
async fn names_that_lead_out() {
    let mut image = MemoryFs::new();
    let evil = image.file("/fine", b"evil");
    let directory = image.directory("/d");
    for name in [&b"../outside/victim"[..], b"/etc/passwd", b"a/b", b"", b"nul\0"] {
        image.entry(directory, name, evil);
    }
    let up = image.directory("/up");
    image.entry(directory, b"../outside", up);
    let world = World::new();
    let outcome = world.extract(&image, &["/d"]).await;
    outcome.failed_with(&["a name that no directory can hold"; 6]);
    assert_eq!(world.names(), ["d"]);
    assert_eq!(outcome.report.first_failure(), Some(ErrorKind::Corrupt));
}

#[tokio::test]
async fn links_in_the_image_are_copied_and_not_followed() {
    let world = World::new();
    let mut image = MemoryFs::new();
    let outside = world.outside();
    image.symlink("/to-outside", outside.to_str().unwrap().as_bytes());
    image.symlink("/to-victim", outside.join("victim").to_str().unwrap().as_bytes());
    let link = image.symlink("/owned", outside.join("victim").to_str().unwrap().as_bytes());
    image.node(link).attr.permissions = 0o777;
    world.extract(&image, &["/"]).await.failed_with(&[]);
    assert!(world.to("to-victim").is_symlink());
    // Inside the image this path leads nowhere, whatever there is outside of it.
    world.extract(&image, &["/to-victim/"]).await.failed_with(&["/to-victim/: no such file"]);
}

#[tokio::test]
async fn a_directory_that_holds_itself() {
    let mut image = MemoryFs::new();
    let a = image.directory("/a");
    image.file("/a/f", b"f");
    image.entry(a, b"again", a);
    let root = image.root();
    image.entry(a, b"root", root);
    let world = World::new();
    let outcome = world.extract(&image, &["/"]).await;
    outcome.failed_with(&["/a/again: a directory that was copied already", "/a/root: a directory"]);
    assert_eq!(world.names(), ["a", "a/f"]);
}

#[tokio::test]
async fn a_bad_file_is_named_and_passed_over() {
    let mut image = MemoryFs::new();
    for (path, size) in [("/small", 10), ("/large", 3 << 20)] {
        let ino = image.file(path, &vec![1; size]);
        image.node(ino).failure = Some(ErrorKind::BadChecksum);
    }
    let directory = image.directory("/broken");
    image.node(directory).failure = Some(ErrorKind::Corrupt);
    image.file("/good", b"good");
    let world = World::new();
    let outcome = world.extract(&image, &["/"]).await;
    outcome.failed_with(&["/broken: ", "/large: ", "/small: "]);
    assert_eq!(world.names(), ["broken", "good"]);
}

#[tokio::test]
async fn set_id_bits_need_the_owner() {
    let mut image = MemoryFs::new();
    let ino = image.file("/su", b"#!");
    image.node(ino).attr.permissions = 0o6755;
    let world = World::new();
    let lost: &[&str] = &["/su: set-id bits not kept: Operation not permitted"];
    world.extract(&image, &["/su"]).await.failed_with(if root() { &[] } else { lost });
    let mode = fs::metadata(world.to("su")).unwrap().mode() & 0o7777;
    assert_eq!(mode, if root() { 0o6755 } else { 0o755 });
}

#[tokio::test]
async fn nothing_gets_acls_from_where_it_is_put() {
    /// `user::rwx user:1234:rwx group::r-x mask::rwx other::r-x`
    const ACL: [(u16, u16, u32); 5] =
        [(1, 7, u32::MAX), (2, 7, 1234), (4, 5, u32::MAX), (16, 7, u32::MAX), (32, 5, u32::MAX)];
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in ACL {
        acl.extend_from_slice(&tag.to_le_bytes());
        acl.extend_from_slice(&rights.to_le_bytes());
        acl.extend_from_slice(&id.to_le_bytes());
    }
    let (access, default) = (c"system.posix_acl_access", c"system.posix_acl_default");
    let mut image = MemoryFs::new();
    for path in ["/etc/secret", "/etc/deep/secret"] {
        let ino = image.file(path, b"s");
        image.node(ino).attr.permissions = 0o640;
    }
    image.put("/etc/pipe", FileType::Fifo, b"");
    // Its own ACL is kept.
    let shared = image.file("/etc/shared", b"");
    image.node(shared).attr.permissions = 0o675;
    image.node(shared).xattrs.push((access.to_bytes().to_vec(), acl.clone()));

    let world = World::new();
    let set = |path: &str| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(world.to(path), default, &acl, flags).unwrap();
    };
    set("");
    world.extract(&image, &["/etc"]).await.failed_with(&[]);
    let has = |path: &str, name: &std::ffi::CStr| {
        rustix::fs::lgetxattr_query(world.to(path), name).is_ok()
    };
    for path in ["etc", "etc/secret", "etc/deep", "etc/deep/secret", "etc/pipe"] {
        assert!(!has(path, access) && !has(path, default), "{path}");
    }
    assert!(has("etc/shared", access));
    let mode = |path: &str| fs::metadata(world.to(path)).unwrap().mode() & 0o7777;
    assert_eq!((mode("etc/deep/secret"), mode("etc/shared")), (0o640, 0o675));

    // Nor from a directory that was there before.
    set("etc");
    fs::remove_file(world.to("etc/secret")).unwrap();
    // That the other names are taken is told, of course.
    world.extract(&image, &["/etc"]).await;
    assert!(world.to("etc/secret").exists() && !has("etc/secret", access));
}

#[tokio::test]
async fn devices_are_restored_or_named() {
    let mut image = MemoryFs::new();
    let ino = image.put("/null", FileType::CharDevice, b"");
    image.node(ino).attr.rdev = DeviceNumber { major: 1, minor: 3 };
    let world = World::new();
    let outcome = world.extract(&image, &["/null"]).await;
    match fs::symlink_metadata(world.to("null")) {
        Ok(metadata) => {
            outcome.failed_with(&[]);
            assert!(metadata.file_type().is_char_device());
            assert_eq!(metadata.rdev(), rustix::fs::makedev(1, 3));
        }
        Err(_) => outcome.failed_with(&["/null: Operation not permitted"]),
    }
}

#[tokio::test]
async fn many_files_in_many_directories() {
    let mut image = MemoryFs::new();
    for directory in 0..30 {
        for file in 0..100 {
            image.file(&format!("/d{directory}/f{file}"), format!("{directory}-{file}").as_bytes());
        }
    }
    let world = World::new();
    let outcome = world.extract(&image, &["/"]).await;
    outcome.failed_with(&[]);
    assert_eq!((outcome.report.files(), outcome.report.directories()), (3000, 31));
    for directory in 0..30 {
        for file in 0..100 {
            let contents = fs::read_to_string(world.to(&format!("d{directory}/f{file}"))).unwrap();
            assert_eq!(contents, format!("{directory}-{file}"));
        }
    }
}

#[tokio::test]
async fn an_interrupted_copy_leaves_nothing_half_done() {
    let mut image = MemoryFs::new();
    let ino = image.file("/large", &vec![1; 8 << 20]);
    image.node(ino).hangs_at = Some(4 << 20);
    let world = World::new();
    let report = Arc::new(Report::new(|_| {}));
    let (paths, to) = ([b"/large".to_vec()], world.to(""));
    let copy = extract(Arc::new(image), &paths, &to, Options::default(), Arc::clone(&report));
    tokio::select! {
        _ = copy => panic!("it cannot end"),
        () = async { while report.bytes() < 4 << 20 { tokio::task::yield_now().await } } => {}
    }
    // The copy is dropped; the thread that writes finds out and takes its file away.
    while !world.names().is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn attributes_without_end_are_not_kept_in_memory() {
    let mut image = MemoryFs::new();
    let file = image.file("/file", b"contents");
    for index in 0..100 {
        image.node(file).xattrs.push((format!("user.{index}").into_bytes(), vec![0; 1 << 16]));
    }
    image.file("/other", b"contents");
    let world = World::new();
    let outcome = world.extract(&image, &["/file", "/other"]).await;
    outcome.failed_with(&["more than 4194304 bytes of extended attributes"]);
    assert_eq!(fs::read(world.to("file")).unwrap(), b"contents", "without them");
    assert!(world.to("other").exists());
}

#[tokio::test]
async fn without_its_acl_nothing_opens_to_its_group() {
    let mut image = MemoryFs::new();
    let acl = (b"system.posix_acl_access".to_vec(), b"no ACL".to_vec());
    let unread = image.file("/d/unread", b"secret");
    let refused = image.file("/d/refused", b"secret");
    let closed = image.file("/d/closed", b"secret");
    let other = image.file("/d/other", b"");
    let directory = image.directory("/d");
    let large = image.file("/d/large", &vec![1; 2 << 20]);
    for ino in [unread, refused, other, large] {
        image.node(ino).attr.permissions = 0o664;
    }
    image.node(closed).attr.permissions = 0o604;
    image.node(directory).attr.permissions = 0o775;
    for ino in [unread, closed, directory, large] {
        image.node(ino).xattrs_failure = Some(ErrorKind::BadChecksum);
    }
    image.node(refused).xattrs.push(acl);
    // What is lost there is no ACL.
    for index in 0..100 {
        image.node(other).xattrs.push((format!("user.{index}").into_bytes(), vec![0; 1 << 16]));
    }

    let world = World::new();
    let outcome = world.extract(&image, &["/d"]).await;
    let group = "closed to its group, whom an ACL may keep out: extended attributes lost: ";
    outcome.failed_with(&[
        "/d/closed: extended attributes lost: ",
        &format!("/d/large: {group}"),
        "/d/other: extended attributes lost: ",
        "/d/refused: attribute system.posix_acl_access not kept: Operation not supported, the group's permissions not kept",
        &format!("/d/unread: {group}"),
        &format!("/d: {group}"),
    ]);
    let mode = |path: &str| fs::metadata(world.to(path)).unwrap().mode() & 0o7777;
    let modes = ["d", "d/unread", "d/refused", "d/closed", "d/other", "d/large"].map(mode);
    assert_eq!(modes, [0o705, 0o604, 0o604, 0o604, 0o664, 0o604]);

    // An archive holds the mode that it may be given.
    let bytes = archived(&image, "/d/unread").await;
    let mut members = tar::Archive::new(&*bytes);
    let member = members.entries().unwrap().next().unwrap().unwrap();
    assert_eq!(member.header().mode().unwrap(), 0o604);
}

/// The bytes of an archive of `path`, of which everything can be read or is expected not to be.
async fn archived(image: &MemoryFs, path: &str) -> Vec<u8> {
    let (out, mut taken) = tokio::sync::mpsc::channel(100);
    let report = Report::new(|_| {});
    let path = [path.as_bytes().to_vec()];
    let written = async {
        archive(image, &path, &out, &report).await;
        drop(out);
    };
    let read = async {
        let mut bytes = Vec::new();
        while let Some(piece) = taken.recv().await {
            bytes.extend_from_slice(&piece.into_bytes());
        }
        bytes
    };
    tokio::join!(written, read).1
}

/// What a sparse member stands for, and in how many places its data lies, the empty one at the end counted.
fn expanded(body: &[u8], size: usize) -> (Vec<u8>, usize) {
    let mut at = 0;
    let mut number = || {
        let len = body[at..].iter().position(|&byte| byte == b'\n').unwrap();
        let number: usize = str::from_utf8(&body[at..at + len]).unwrap().parse().unwrap();
        at += len + 1;
        number
    };
    let count = number();
    let places: Vec<(usize, usize)> = (0..count).map(|_| (number(), number())).collect();
    let mut data = &body[at.next_multiple_of(512)..];
    let mut whole = vec![0; size];
    for (start, len) in places {
        let (piece, rest) = data.split_at(len);
        whole[start..start + len].copy_from_slice(piece);
        data = rest;
    }
    assert!(data.is_empty(), "{} bytes more than the map tells", data.len());
    (whole, count)
}

#[tokio::test]
async fn an_archive_with_more_places_than_it_can_tell_holds_every_byte() {
    for more in [0, 1, 1000] {
        let mut image = MemoryFs::new();
        let ino = image.file("/f", b"");
        let mut contents = Vec::new();
        let mut data = Vec::new();
        for place in 0..contents::MOST_RANGES + more {
            // Behind those that can be told stand larger holes, too.
            let hole = if place >= contents::MOST_RANGES && place % 7 == 0 { 3000 } else { 1 };
            contents.resize(contents.len() + hole, 0);
            contents.push(u8::try_from(place % 251).unwrap() + 1);
            data.push((contents.len() as u64 - 1, contents.len() as u64));
        }
        contents.resize(contents.len() + 100, 0);
        let node = image.node(ino);
        (node.attr.size, node.data) = (contents.len() as u64, data);
        node.contents = contents.clone();

        let bytes = archived(&image, "/f").await;
        let mut members = tar::Archive::new(&*bytes);
        let mut member = members.entries().unwrap().next().expect("it is not left out").unwrap();
        let mut body = Vec::new();
        std::io::Read::read_to_end(&mut member, &mut body).unwrap();
        let (whole, places) = expanded(&body, contents.len());
        assert!(whole == contents, "with {more} more");
        assert_eq!(places, contents::MOST_RANGES + 1, "with {more} more");
    }
}
