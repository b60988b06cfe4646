use super::super::memory::{Memory, ROOT};
use super::*;
use std::sync::atomic::Ordering;

/// What one listing call gave: names, numbers, and whether the attributes could be read.
async fn list(
    view: &View,
    listing: &Listing,
    cookie: u64,
    want: Want,
    room: usize,
) -> Result<Vec<(String, u64, Option<FileAttr>)>> {
    let mut got = Vec::new();
    let add = |listed: Listed<'_>| {
        if got.len() == room {
            return Full::Yes;
        }
        let name = String::from_utf8(listed.entry.name.clone()).unwrap();
        got.push((name, listed.entry.cookie, listed.attr().map(|(attr, _)| attr)));
        Full::No
    };
    view.list(INodeNo::ROOT, listing, cookie, want, add).await?;
    Ok(got)
}

fn twenty_files() -> Memory {
    let mut memory = Memory::new();
    for number in 11..31 {
        memory.file(format!("f{number}").as_bytes(), Ino(number), 0, &[]);
    }
    memory
}

#[tokio::test]
async fn a_listing_goes_on_where_the_reply_was_full_without_reading_again() {
    let memory = Arc::new(twenty_files());
    let view = View::new(Arc::clone(&memory) as Arc<dyn Filesystem>, Shown::default());
    let listing = Listing::default();
    let mut names = Vec::new();
    let mut cookie = 0;
    loop {
        let part = list(&view, &listing, cookie, Want::Names, 3).await.unwrap();
        let Some(last) = part.last() else { break };
        cookie = last.1;
        names.extend(part.into_iter().map(|entry| entry.0));
    }
    let expected: Vec<String> = [".".to_owned(), "..".to_owned()]
        .into_iter()
        .chain((11..31).map(|n| format!("f{n}")))
        .collect();
    assert_eq!(names, expected);
    // 22 entries in batches of 7, and once more for the end after each of the last two replies.
    assert!(memory.listings.load(Ordering::Relaxed) <= 6);
}

#[tokio::test]
async fn a_listing_starts_again_from_any_cookie() {
    let view = View::new(Arc::new(twenty_files()), Shown::default());
    let listing = Listing::default();
    let all = list(&view, &listing, 0, Want::Names, 100).await.unwrap();
    assert_eq!(all.len(), 22);
    for at in [3, 20, 0, 7] {
        let part = list(&view, &listing, all[at].1, Want::Names, 2).await.unwrap();
        let expected = all.iter().skip(at + 1).take(2).cloned().collect::<Vec<_>>();
        assert_eq!(part, expected, "after entry {at}");
    }
}

#[tokio::test]
async fn the_inodes_of_a_listing_are_fetched_ahead() {
    for want in [Want::Names, Want::Attributes] {
        let memory = Arc::new(twenty_files());
        let view = View::new(Arc::clone(&memory) as Arc<dyn Filesystem>, Shown::default());
        list(&view, &Listing::default(), 0, want, 5).await.unwrap();
        assert!(memory.prefetched.lock().unwrap().contains(&Ino(12)));
    }
}

#[tokio::test]
async fn one_unreadable_inode_does_not_hide_its_name_or_its_neighbours() {
    let mut memory = twenty_files();
    memory.break_inode(Ino(13), ErrorKind::BadChecksum);
    let view = View::new(Arc::new(memory), Shown::default());
    let all = list(&view, &Listing::default(), 0, Want::Attributes, 100).await.unwrap();
    assert_eq!(all.len(), 22);
    let unreadable: Vec<&str> =
        all.iter().filter(|entry| entry.2.is_none()).map(|entry| entry.0.as_str()).collect();
    assert_eq!(unreadable, ["f13"]);
}

#[tokio::test]
async fn a_listing_waits_once_for_a_device_that_does_not_answer() {
    let mut memory = twenty_files();
    for number in 13..31 {
        memory.break_inode(Ino(number), ErrorKind::Timeout);
    }
    let view = View::new(Arc::new(memory), Shown::default());
    let listing = Listing::default();
    let read = list(&view, &listing, 0, Want::Attributes, 100).await.unwrap();
    let names: Vec<&str> = read.iter().map(|entry| entry.0.as_str()).collect();
    assert_eq!(names, [".", "..", "f11", "f12"]);
    let next = list(&view, &listing, read[3].1, Want::Attributes, 100).await;
    assert_eq!(next.unwrap_err().kind(), ErrorKind::Timeout);
    // Names alone need no inode.
    let all = list(&view, &listing, 0, Want::Names, 100).await.unwrap();
    assert_eq!(all.len(), 22);
}

#[tokio::test]
async fn the_dots_show_ext_numbers_and_files_their_node() {
    let view = View::new(Arc::new(twenty_files()), Shown::default());
    let all = list(&view, &Listing::default(), 0, Want::Attributes, 3).await.unwrap();
    let numbers: Vec<u64> = all.iter().map(|entry| entry.2.unwrap().ino.0).collect();
    assert_eq!(numbers, [2, 2, 11]);
}

#[tokio::test]
async fn types_come_from_the_inodes_where_directories_have_none() {
    let mut memory = Memory::new();
    memory.symlink(b"link", Ino(12), b"target");
    let view = View::new(Arc::new(memory.without_types_in_directories()), Shown::default());
    let mut types = Vec::new();
    let add = |listed: Listed<'_>| {
        types.push(listed.file_type());
        Full::No
    };
    view.list(INodeNo::ROOT, &Listing::default(), 0, Want::Names, add).await.unwrap();
    use fuser::FileType::{Directory, Symlink};
    assert_eq!(types, [Directory, Directory, Symlink]);
}

#[tokio::test]
async fn a_lookup_tells_a_missing_name_from_a_broken_inode() {
    let mut memory = twenty_files();
    memory.break_inode(Ino(13), ErrorKind::Corrupt);
    memory.link(b"nowhere", Ino(0));
    let view = View::new(Arc::new(memory), Shown::default());
    assert_eq!(view.lookup(INodeNo::ROOT, b"none").await.unwrap(), None);
    let (attr, generation) = view.lookup(INodeNo::ROOT, b"f12").await.unwrap().unwrap();
    assert_eq!((attr.ino.0, attr.uid, attr.perm, generation), (12, 12, 0o640, Generation(77)));
    for name in [&b"f13"[..], b"nowhere"] {
        let error = view.lookup(INodeNo::ROOT, name).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}

#[tokio::test]
async fn the_root_is_node_1_to_the_kernel_and_inode_2_to_the_user() {
    let view = View::new(Arc::new(Memory::new()), Shown::default());
    assert_eq!(view.ino(INodeNo::ROOT), ROOT);
    assert_eq!(view.attr(INodeNo::ROOT).await.unwrap().ino, INodeNo(2));
}

#[tokio::test]
async fn seeks_find_data_holes_and_the_end() {
    let mut memory = Memory::new();
    // Data at 4..6 and, touching it, 6..8; a hole; data at 20..22; a hole up to 30.
    memory.file(b"f", Ino(12), 30, &[(4, b"ab"), (6, b"cd"), (20, b"ef")]);
    let view = View::new(Arc::new(memory), Shown::default());
    let file = view.open(INodeNo(12)).await.unwrap();
    let seek = async |offset, to| view.seek(INodeNo(12), &*file, offset, to).await.unwrap();
    for (offset, data, hole) in [
        (0, Some(4), Some(0)),
        (4, Some(4), Some(8)),
        (5, Some(5), Some(8)),
        (8, Some(20), Some(8)),
        (21, Some(21), Some(22)),
        (22, None, Some(22)),
        (29, None, Some(29)),
        (30, None, None),
        (u64::MAX, None, None),
    ] {
        assert_eq!(seek(offset, SeekTo::Data).await, data, "data from {offset}");
        assert_eq!(seek(offset, SeekTo::Hole).await, hole, "hole from {offset}");
    }
}

#[tokio::test]
async fn a_file_full_of_data_ends_in_a_hole() {
    let mut memory = Memory::new();
    memory.file(b"f", Ino(12), 4, &[(0, b"abcd")]);
    let view = View::new(Arc::new(memory), Shown::default());
    let file = view.open(INodeNo(12)).await.unwrap();
    assert_eq!(view.seek(INodeNo(12), &*file, 1, SeekTo::Hole).await.unwrap(), Some(4));
}

#[tokio::test]
async fn a_search_for_a_hole_ends_and_goes_on_where_it_ended() {
    let mut memory = Memory::new();
    let pieces: Vec<(u64, &[u8])> = (0..MOST_PIECES * 5 / 2).map(|at| (at, &b"x"[..])).collect();
    let size = pieces.len() as u64;
    memory.file(b"f", Ino(12), size + 5, &pieces);
    let view = View::new(Arc::new(memory), Shown::default());
    let file = view.open(INodeNo(12)).await.unwrap();
    let seek = async |offset, to| view.seek(INodeNo(12), &*file, offset, to).await.unwrap();
    let mut holes = Vec::new();
    let mut at = 0;
    while let Some(data) = seek(at, SeekTo::Data).await {
        assert_eq!(data, at, "no data is passed over");
        at = seek(data, SeekTo::Hole).await.unwrap();
        holes.push(at);
    }
    assert_eq!(holes, [MOST_PIECES, 2 * MOST_PIECES, size]);
}

#[tokio::test]
async fn attribute_names_are_listed_as_the_system_call_wants_them() {
    let mut memory = twenty_files();
    memory.xattr(Ino(12), b"user.a", b"1");
    memory.xattr(Ino(12), b"user.b", b"");
    memory.xattr(Ino(12), b"trusted.c", b"");
    let view = View::new(Arc::new(memory), Shown::default());
    assert_eq!(view.listxattr(INodeNo(12), 0).await.unwrap(), b"user.a\0user.b\0trusted.c\0");
    assert_eq!(view.listxattr(INodeNo(12), 1000).await.unwrap(), b"user.a\0user.b\0");
    assert_eq!(view.listxattr(INodeNo(13), 0).await.unwrap(), b"");
    assert_eq!(view.getxattr(INodeNo(12), b"user.a").await.unwrap(), b"1");
    let none = view.getxattr(INodeNo(12), b"user.c").await.unwrap_err();
    assert_eq!(none.kind(), ErrorKind::NoXattr);
}

#[tokio::test]
async fn from_the_first_change_of_the_volume_on_nothing_is_told_any_more() {
    let memory = Arc::new(twenty_files());
    let view = View::new(Arc::clone(&memory) as Arc<dyn Filesystem>, Shown::default());
    view.check_unchanged().await.unwrap();
    view.attr(INodeNo(12)).await.unwrap();
    memory.changed.store(true, Ordering::Relaxed);
    // Not known before somebody looks.
    view.attr(INodeNo(12)).await.unwrap();
    assert_eq!(view.check_unchanged().await.unwrap_err().kind(), ErrorKind::BeingWritten);
    memory.changed.store(false, Ordering::Relaxed);
    assert_eq!(view.attr(INodeNo(12)).await.unwrap_err().kind(), ErrorKind::BeingWritten);
    assert_eq!(view.check_readable().unwrap_err().kind(), ErrorKind::BeingWritten);
    let listed = list(&view, &Listing::default(), 0, Want::Names, 9).await;
    assert_eq!(listed.unwrap_err().kind(), ErrorKind::BeingWritten);
}

#[tokio::test]
async fn owners_and_permissions_are_shown_as_asked() {
    let shown = Shown { uid: Some(1000), gid: None, umask: 0o022 };
    let mut memory = twenty_files();
    memory.xattr(Ino(12), b"system.posix_acl_access", &[2, 0, 0, 0, 0x20, 0, 7, 0, 0, 0, 0, 0]);
    let view = View::new(Arc::new(memory), shown);
    let attr = view.attr(INodeNo(12)).await.unwrap();
    assert_eq!((attr.uid, attr.gid, attr.perm), (1000, 34, 0o640));
    let acl = view.getxattr(INodeNo(12), b"system.posix_acl_access").await.unwrap();
    assert_eq!(acl[6], 5);
    let all = list(&view, &Listing::default(), 0, Want::Attributes, 100).await.unwrap();
    assert!(all.iter().all(|entry| entry.2.unwrap().uid == 1000));
}
