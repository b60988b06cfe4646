//! What an ordinary user's mount shows, beside the kernel's.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::SeekFrom;

use crate::common::{
    Aspects, KernelMount, Limits, MadeImage, Manifest, Need, Snapbrowse, User, can_run, run,
};

const NEEDS: &[Need] =
    &[Need::Root, Need::Fuse, Need::Program("fusermount3"), Need::Program("getfattr")];

const LIMITS: Limits = Limits { largest: 3 << 30, entries: 50_000, long_times: true };

fn image() -> MadeImage {
    MadeImage::new("user", "300M", &["-t", "ext4", "-N", "60000"], LIMITS)
}

/// Every path below `root`.
fn paths(root: &Path) -> Vec<std::path::PathBuf> {
    let walk = walkdir::WalkDir::new(root).sort_by_file_name();
    walk.into_iter().map(|entry| entry.unwrap().path().strip_prefix(root).unwrap().into()).collect()
}

/// Where data and holes begin, in turn.
fn map(file: &File) -> Vec<u64> {
    let size = file.metadata().unwrap().len();
    let mut map = Vec::new();
    let mut at = 0;
    while let Ok(data) = rustix::fs::seek(file, SeekFrom::Data(at)) {
        let hole = rustix::fs::seek(file, SeekFrom::Hole(data)).unwrap();
        map.extend([data, hole]);
        at = hole;
    }
    map.push(size);
    map
}

#[test]
fn root_sees_by_fuse_what_the_kernel_shows() {
    if !can_run("root_sees_by_fuse_what_the_kernel_shows", NEEDS) {
        return;
    }
    let image = image();
    let snapbrowse = Snapbrowse::new();
    let mount = snapbrowse.mount(image.path().to_str().unwrap());
    let copy = image.dir.path().join("copy.img");
    crate::common::copy_image(&image.path(), &copy);
    let kernel = KernelMount::replaying(&copy, 0);

    let expected = Manifest::of_tree(kernel.path());
    assert!(expected.0.len() > 50_000);
    expected.assert_same(&Manifest::of_tree(mount.path()), Aspects::All, "the whole tree");

    // As the directories themselves have it: the numbers that `ls -i` shows, and the types, without a stat.
    for dir in [".", "large", "special", "links"] {
        let listed = |root: &Path| {
            let entries = fs::read_dir(root.join(dir)).unwrap().map(Result::unwrap);
            use std::os::unix::fs::DirEntryExt;
            let mut entries: Vec<_> = entries
                .map(|entry| (entry.file_name(), entry.ino(), entry.file_type().unwrap()))
                .collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            entries
        };
        assert_eq!(listed(mount.path()), listed(kernel.path()), "{dir}");
    }
    // With the dots, whose numbers `read_dir` hides.
    let numbers = |root: &Path| {
        let listed = run("ls", &["-aif", root.join("special").to_str().unwrap()]);
        let lines = String::from_utf8(listed).unwrap();
        let mut lines: Vec<String> = lines.lines().map(|line| line.trim().to_owned()).collect();
        lines.sort();
        lines
    };
    assert_eq!(numbers(mount.path()), numbers(kernel.path()));

    for file in ["contents/largest", "contents/holes", "contents/0-bytes", "contents/4097-bytes"] {
        let [ours, theirs] =
            [mount.path(), kernel.path()].map(|root| map(&File::open(root.join(file)).unwrap()));
        assert_eq!(ours, theirs, "data and holes of {file}");
    }

    for path in ["attributes", "attributes/file", "attributes/many", "contents/1-bytes"] {
        let attributes = |root: &Path| {
            let path = root.join(path);
            let dump = run("getfattr", &["-h", "-d", "-m-", "-e", "hex", path.to_str().unwrap()]);
            let text = String::from_utf8(dump).unwrap();
            // The comment names the path.
            let mut lines: Vec<String> =
                text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(attributes(mount.path()), attributes(kernel.path()), "{path}");
    }

    // f_blocks and f_bavail are left out: the kernel takes its own overhead off them, which it counts while it mounts.
    let figures = |root: &Path| {
        let stat = rustix::fs::statvfs(root).unwrap();
        [stat.f_bsize, stat.f_frsize, stat.f_files, stat.f_ffree, stat.f_namemax]
    };
    assert_eq!(figures(mount.path()), figures(kernel.path()));
    mount.unmount();
}

#[test]
fn an_ordinary_user_reads_everything_that_the_snapshot_holds() {
    if !can_run("an_ordinary_user_reads_everything_that_the_snapshot_holds", NEEDS) {
        return;
    }
    let limits = Limits { entries: 1000, largest: 64 << 20, ..LIMITS };
    let image = MadeImage::new("user", "100M", &["-t", "ext3"], limits);
    let kernel = KernelMount::replaying(&image.path(), 0);
    // tempfile's directories are the owner's alone.
    run("chmod", &["711", image.dir.path().to_str().unwrap()]);
    let snapbrowse = Snapbrowse::run_by(User::Nobody);
    let mount = snapbrowse.mount(image.path().to_str().unwrap());
    // Files of root's with mode 0 too: the volume belongs to whoever may log in to it.
    let summed = |by: &mut std::process::Command| {
        let output = by.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let script = "find . -type f -exec sha256sum {} + | sort; find . -printf '%p %m %U %G %n %i %s %T@\\n' | sort";
    let mut ours = snapbrowse.command_of("sh");
    ours.args(["-c", &format!("cd \"$0\" && {{ {script}; }}")]).arg(mount.path());
    let mut theirs = std::process::Command::new("sh");
    theirs.args(["-c", &format!("cd \"$0\" && {{ {script}; }}")]).arg(kernel.path());
    let (ours, theirs) = (summed(&mut ours), summed(&mut theirs));
    assert!(ours == theirs, "{}", String::from_utf8_lossy(&ours));
    // Not even root looks into a user's mount.
    assert!(fs::metadata(mount.path().join("contents")).is_err());
    mount.unmount();
}

#[test]
fn others_are_let_in_by_the_permissions_and_acls_of_the_snapshot() {
    if !can_run("others_are_let_in_by_the_permissions_and_acls_of_the_snapshot", NEEDS) {
        return;
    }
    let limits = Limits { entries: 10, largest: 16 << 20, ..LIMITS };
    let image = MadeImage::new("others", "64M", &["-t", "ext4"], limits);
    {
        let kernel = KernelMount::writable(&image.path(), 0, "noatime");
        for (name, mode, acl) in [
            ("open", "644", None),
            ("secret", "600", None),
            ("allowed", "600", Some("u:nobody:r")),
            ("denied", "644", Some("u:nobody:-")),
        ] {
            let file = kernel.path().join(name);
            let file = file.to_str().unwrap();
            fs::write(file, name).unwrap();
            run("chmod", &[mode, file]);
            if let Some(acl) = acl {
                run("setfacl", &["-m", acl, file]);
            }
        }
    }
    let snapbrowse = Snapbrowse::new();
    let mount = snapbrowse.mount_with(&["-o", "allow_other"], image.path().to_str().unwrap());
    let nobody = Snapbrowse::run_by(User::Nobody);
    run("chmod", &["711", snapbrowse.home().to_str().unwrap()]);
    for (name, readable) in
        [("open", true), ("secret", false), ("allowed", true), ("denied", false)]
    {
        let read = nobody.command_of("cat").arg(mount.path().join(name)).output().unwrap();
        assert_eq!(read.status.success(), readable, "{name}: {read:?}");
        assert_eq!(fs::read_to_string(mount.path().join(name)).unwrap(), name);
    }
    mount.unmount();
}

#[test]
fn parallel_readers_get_what_the_kernel_reads() {
    if !can_run("parallel_readers_get_what_the_kernel_reads", NEEDS) {
        return;
    }
    let limits = Limits { entries: 3000, largest: 64 << 20, ..LIMITS };
    let image = MadeImage::new("parallel", "100M", &["-t", "ext3", "-b", "1024"], limits);
    let kernel = KernelMount::replaying(&image.path(), 0);
    let snapbrowse = Snapbrowse::new();
    let mount = snapbrowse.mount(image.path().to_str().unwrap());
    let files: Vec<_> = paths(kernel.path())
        .into_iter()
        .filter(|path| kernel.path().join(path).symlink_metadata().unwrap().is_file())
        .collect();
    std::thread::scope(|scope| {
        for reader in 0..8_usize {
            let (files, mount, kernel) = (&files, &mount, &kernel);
            scope.spawn(move || {
                for step in 0..files.len() {
                    // Each in an order of its own.
                    let path = &files[(step * (2 * reader + 1) + reader) % files.len()];
                    let [ours, theirs] = [mount.path(), kernel.path()].map(|root| {
                        let file = File::open(root.join(path)).unwrap();
                        let size = file.metadata().unwrap().size();
                        let at = size.saturating_sub(5000 * reader as u64) / 2;
                        let mut bytes = vec![0; 9000];
                        let read = file.read_at(&mut bytes, at).unwrap();
                        bytes.truncate(read);
                        bytes
                    });
                    assert!(ours == theirs, "{}", path.display());
                }
            });
        }
    });
    mount.unmount();
}
