#!/usr/bin/env bash
# Makes fuzz-images/: small file systems that have some of everything, without checksums, which would end a fuzzer's way in at
# once. Needs e2fsprogs, python3 and, for the fast commits that only the kernel writes, root.
#
# Each is packed as its length in 64 bits and its pieces of 1 KiB that are not zeros, each behind its number in 32 bits, all
# little-endian: a fuzzer changes these pieces, and has nothing to unpack.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'umount -q "$work/mounted" || true; rm -rf "$work"' EXIT
PATH=$PATH:/usr/sbin:/sbin
export E2FSPROGS_FAKE_TIME=1700000000
mkdir -p "$here/fuzz-images"

tree=$work/tree
mkdir -p "$tree/many" "$tree/deep/deeper"
# Two levels of names: enough for an index.
for number in $(seq 60); do
    ln -s "$number" "$tree/many/a-name-that-takes-up-some-room-in-its-directory-$number"
done
printf 'a few bytes' >"$tree/small"
seq 700 >"$tree/deep/larger"
ln "$tree/small" "$tree/deep/hard"
ln -s "$(printf 't%.0s' $(seq 40))" "$tree/short"
ln -s "$(printf 't%.0s' $(seq 300))" "$tree/deep/long"
mkfifo "$tree/deep/deeper/fifo"
printf 'value %.0s' $(seq 20) >"$work/value"
printf 'value %.0s' $(seq 500) >"$work/large-value"

# islands FILE BLOCK...: a sparse file with a few bytes in these blocks of 1 KiB.
islands() {
    local file=$1 block
    shift
    for block in "$@"; do
        printf 'island %d' "$block" | dd of="$file" bs=1024 seek="$block" conv=notrunc status=none
    done
}

# make NAME SIZE MKE2FS-ARGUMENT...: a file system with the tree.
make() {
    local name=$1 size=$2
    shift 2
    mke2fs -q -F -b 1024 -N 96 -U 01234567-89ab-cdef-0123-456789abcdef \
        -E hash_seed=01234567-89ab-cdef-0123-456789abcdef,root_owner=0:0 -m 0 "$@" -d "$tree" "$work/$name" "$size" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
    # Makes the indexes; 1 means that it changed something.
    e2fsck -fyD "$work/$name" >"$work/log" 2>&1 || [ $? -eq 1 ]
}

# change NAME: gives debugfs the requests on standard input.
change() {
    debugfs -w -f - "$work/$1" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
    ! grep -iE 'usage|error|invalid|not found|unknown' "$work/log"
}

pack() {
    python3 - "$work/$1" "$here/fuzz-images/$1" <<'PACK'
import struct, sys
image = open(sys.argv[1], "rb").read()
with open(sys.argv[2], "wb") as out:
    out.write(struct.pack("<Q", len(image)))
    for number, at in enumerate(range(0, len(image), 1024)):
        piece = image[at:at + 1024].ljust(1024, b"\0")
        if piece.strip(b"\0"):
            out.write(struct.pack("<I", number) + piece)
PACK
}

# Direct blocks and all three levels below them.
islands "$tree/sparse" 0 5 12 13 267 268 600 65804
make ext2 2M -t ext2 -I 128 -O dir_index,^resize_inode
change ext2 <<REQUESTS
ea_set -f $work/value /small user.colour
ea_set -f $work/value /deep trusted.note
cd /deep/deeper
mknod disk b 8 1
mknod terminal c 4 1000
REQUESTS
pack ext2

make ext3-dirty 3M -t ext3 -I 256 -O dir_index,^resize_inode -J size=1
bmap() { debugfs -R "bmap $2 $3" "$work/$1" 2>/dev/null; }
dd if="$work/ext3-dirty" of="$work/copy" bs=1024 skip="$(bmap ext3-dirty /many 1)" count=1 status=none
dd if="$work/ext3-dirty" of="$work/copies" bs=1024 skip="$(bmap ext3-dirty /many 2)" count=2 status=none
change ext3-dirty <<REQUESTS
ea_set -f $work/value /small user.colour
jo
jw -b $(bmap ext3-dirty /many 1) $work/copy
jw -b $(bmap ext3-dirty /many 2),$(bmap ext3-dirty /many 3) $work/copies
jw -r $(bmap ext3-dirty /deep/larger 0)
jw -b $(bmap ext3-dirty /many 1) $work/copy
jc
REQUESTS
pack ext3-dirty

# More extents than fit into the inode.
rm "$tree/sparse"
islands "$tree/sparse" 0 2 4 6 8 10 12 90 9000 90000
make ext4 2M -t ext4 -I 256 -O ^metadata_csum,^has_journal,^resize_inode,64bit
change ext4 <<REQUESTS
ea_set -f $work/value /small user.colour
ea_set /deep/deeper user.small 7
fallocate /deep/larger 10 20
REQUESTS
pack ext4

make ext4-inline 2M -t ext4 -I 256 -O ^metadata_csum,^has_journal,^resize_inode,inline_data,ea_inode,large_dir
change ext4-inline <<REQUESTS
ea_set -f $work/large-value /small user.large
ea_set -f $work/value /deep/larger user.colour
REQUESTS
pack ext4-inline

make ext4-clusters 10M -t ext4 -I 128 -g 256 -C 16384 \
    -O ^metadata_csum,^uninit_bg,^has_journal,^resize_inode,bigalloc,meta_bg,huge_file,mmp,quota
pack ext4-clusters

make ext4-names 2M -t ext4 -I 256 -E encoding=utf8,hash_seed=01234567-89ab-cdef-0123-456789abcdef \
    -O ^metadata_csum,^has_journal,^resize_inode,casefold,encrypt
change ext4-names <<REQUESTS
sif /deep flags 0x40080000
sif /deep/deeper flags 0x40080800
sif /many flags 0x81800
REQUESTS
pack ext4-names

# As a crash leaves it after fsync of files made, grown, renamed, linked and removed.
make ext4-fast-commits 8M -t ext4 -I 256 -O ^metadata_csum,^resize_inode,fast_commit -J size=2
mkdir "$work/mounted"
mount -o loop,noatime "$work/ext4-fast-commits" "$work/mounted"
python3 - "$work/mounted" <<'FILES'
import os, sys
os.chdir(sys.argv[1])
def commit(name):
    file = os.open(name, os.O_RDONLY)
    os.fsync(file)
    os.close(file)
for number in range(4):
    with open(f"new-{number}", "w") as out:
        out.write("some bytes " * (number * 300))
    commit(f"new-{number}")
os.rename("new-1", "renamed")
os.link("new-2", "deep/linked")
os.unlink("small")
with open("sparse", "r+b") as out:
    out.truncate(7000)
    out.seek(50000)
    out.write(b"more")
for name in ["renamed", "new-2", "deep/hard", "sparse"]:
    commit(name)
FILES
cp "$work/ext4-fast-commits" "$work/crashed"
umount "$work/mounted"
mv "$work/crashed" "$work/ext4-fast-commits"
pack ext4-fast-commits

du -b "$here"/fuzz-images/*
