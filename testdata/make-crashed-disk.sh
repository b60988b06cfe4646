#!/bin/bash
# Makes a disk as a SAN snapshot of a running server shows it: an MBR, one ext3 or ext4 partition, and a journal with
# transactions that are committed but not checkpointed, revoke records among them.
#
#   testdata/make-crashed-disk.sh ext3|ext4 DIRECTORY
#
# writes into DIRECTORY
#   dirty-ext3.img        the disk, copied while the kernel had it mounted
#   dirty-ext3.manifest   every file of another copy, after the kernel's own recovery
# and fails unless the disk reads differently without recovery. The copies in this directory were made by it and
# gzip -9n.
usage="usage: make-crashed-disk.sh ext3|ext4 DIRECTORY"
type=${1:?$usage}
out=${2:?$usage}
# shellcheck source=testdata/lib.sh
. "$(dirname "$0")/lib.sh"

case $type in
    ext3) features=() options=noatime ;;
    ext4) features=(-O metadata_csum,64bit) options=noatime,nodelalloc ;;
    *) echo "$usage" >&2; exit 2 ;;
esac

start=$((2048 * 512)) # of the partition, in bytes
live=$work/live.img
truncate -s 13M "$live"
printf 'label: dos\nlabel-id: 0x5eed0001\nstart=2048, type=83\n' | sfdisk -q "$live"
mke2fs -q -t $type "${features[@]}" -b 1024 -J size=2 -L srv-root -U 5eed0000-0000-4000-8000-000000000003 \
    -E "offset=$start,root_owner=0:0" "$live" 12M

# As the server was at its last reboot.
mount_image "$live" $start $type $options
mkdir -p "$mnt"/{etc,home/alice/projects,home/bob,var/log,var/spool/queue,var/lib}
echo "srv1" >"$mnt/etc/hostname"
printf 'color = "blue"\nlimit = 10\n' >"$mnt/etc/foo.conf"
printf '/dev/sda1 / ext3 defaults 0 1\n' >"$mnt/etc/fstab"
printf 'root:*:20000:0:99999:7:::\n' >"$mnt/etc/shadow"
seq 1 40000 >"$mnt/home/alice/numbers.txt" # double indirect blocks
seq 1 2000 >"$mnt/var/log/messages"
dd if=/dev/zero of="$mnt/var/lib/spare" bs=1024 count=300 status=none
printf 'will be renamed\n' >"$mnt/home/bob/old-name"
printf 'will be deleted\n' >"$mnt/home/bob/deleted"
for n in $(seq 400); do echo "job $n" >"$mnt/var/spool/queue/job-with-a-rather-long-name-$n"; done
umount "$mnt"

# And what happened since: all of it is in the journal only, or in blocks that only the journal refers to.
mount_image "$live" $start $type $options
printf 'color = "green"\nlimit = 20\nowner = "alice"\n' >"$mnt/etc/foo.conf"
chmod 640 "$mnt/etc/foo.conf" && chown 0:42 "$mnt/etc/foo.conf"
chmod 600 "$mnt/etc/shadow"
seq 2001 6000 >>"$mnt/var/log/messages"
mv "$mnt/home/bob/old-name" "$mnt/home/bob/new-name"
rm "$mnt/home/bob/deleted"
printf 'Results: all green.\n' >"$mnt/home/alice/report.txt"
chown 1000:1000 "$mnt/home/alice" "$mnt"/home/alice/*
touch -d '1999-12-31T23:59:59.000000001Z' "$mnt/home/alice/report.txt"
touch -d '1955-11-05T06:15:00Z' "$mnt/home/bob/new-name"
mkdir "$mnt/var/lib/burst"
for n in $(seq 300); do ln "$mnt/etc/hostname" "$mnt/var/lib/burst/name-of-a-hard-link-$n"; done
commit var/.1
# Directory blocks and indirect blocks that the log holds, freed and used again as file data: only the revoke records
# keep recovery from writing old directories over the data.
rm -r "$mnt/var/spool/queue" "$mnt/var/lib/burst"
truncate -s 100 "$mnt/home/alice/numbers.txt"
commit var/.2
yes 'a line of the new database' | dd of="$mnt/var/lib/database" bs=1024 iflag=fullblock status=none 2>/dev/null ||
    true # until the disk is full: whatever was freed is used again
rm "$mnt/var/lib/spare"
commit var/.3
ln "$mnt/home/alice/report.txt" "$mnt/home/bob/report-of-alice.txt"
ln -s ../../etc/foo.conf "$mnt/home/alice/foo.conf"
ln -s "/nowhere/$(printf 'a%.0s' $(seq 200))" "$mnt/home/alice/dangling" # too long for the inode
mkfifo "$mnt/var/spool/pipe"
mknod "$mnt/var/spool/null" c 1 3
mknod "$mnt/var/spool/sda" b 8 0
truncate -s 200M "$mnt/home/alice/sparse.img"
printf 'in the middle' | dd of="$mnt/home/alice/sparse.img" bs=1 seek=150000000 conv=notrunc status=none
printf 'not UTF-8\n' >"$mnt/home/alice/caf"$'\xe9'
setfattr -n user.origin -v "scanner 7" "$mnt/home/alice/report.txt"
setfacl -m u:1001:rw "$mnt/etc/foo.conf"
chmod u+s,g+s,o+t "$mnt/var/spool"
exec 9>"$mnt/var/lib/unlinked" # open and without a name when the power goes: an orphan inode
echo "nobody will read this" >&9
rm "$mnt/var/lib/unlinked"
commit var/.4
cp --sparse=always "$live" "$work/dirty.img"
exec 9>&-
umount "$mnt"

cp --sparse=always "$work/dirty.img" "$work/replayed.img"
mount_replayed "$work/replayed.img" $start
manifest >"$work/replayed.manifest"
umount "$mnt"
mount_image "$work/dirty.img" $start $type ro,noload
(manifest || true) >"$work/noload.manifest" 2>/dev/null # as damaged as it may be
umount "$mnt"

if cmp -s "$work/replayed.manifest" "$work/noload.manifest"; then
    echo "the journal holds nothing that matters: the kernel was faster with its checkpoint; try again" >&2
    exit 1
fi
dd if="$work/dirty.img" of="$work/p1.img" bs=1M skip=1 conv=sparse status=none
debugfs -R 'logdump -a' "$work/p1.img" >"$work/log" 2>/dev/null
# At least one block of the database must have been logged as something else before, and then revoked.
dd if="$work/replayed.img" of="$work/p1.img" bs=1M skip=1 conv=sparse,notrunc status=none
debugfs -R 'blocks /var/lib/database' "$work/p1.img" 2>/dev/null | tr ' ' '\n' | sed '/^$/d' | sort >"$work/reused"
sed -n 's/^ *Revoke FS block \([0-9]*\).*/\1/p' "$work/log" | sort -u >"$work/revoked"
[ -n "$(join "$work/reused" "$work/revoked")" ] || {
    echo "no revoke record covers a block that was used again; try again" >&2
    exit 1
}

mkdir -p "$out"
cp --sparse=always "$work/dirty.img" "$out/dirty-$type.img"
cp "$work/replayed.manifest" "$out/dirty-$type.manifest"
