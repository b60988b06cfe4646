# Sourced by the make-*.sh scripts: mounts that are always undone, and manifests.
# shellcheck shell=bash
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
export LC_ALL=C TZ=UTC

[ "$(id -u)" -eq 0 ] || { echo "${0##*/}: needs root (loop devices, kernel mounts)" >&2; exit 1; }

work=$(mktemp -d)
mnt=$work/mnt
mkdir "$mnt"
cleanup() {
    exec 9>&-
    if mountpoint -q "$mnt"; then umount "$mnt"; fi
    rm -rf "$work"
}
trap cleanup EXIT

# mount_image IMAGE OFFSET TYPE OPTIONS
mount_image() {
    mount -t "$3" -o "loop,offset=$2,$4" "$1" "$mnt"
}

# mount_replayed IMAGE OFFSET: for reading, but on a writable device, so that the kernel plays the journal back.
mount_replayed() {
    local size
    size=$(($(stat -c %s "$1") - $2))
    loop=$(losetup --find --show --offset "$2" --sizelimit "$size" "$1")
    mount -o ro,noatime "$loop" "$mnt"
    losetup --detach "$loop" # goes when the mount goes
}

# commit NAME: a journal commit without checkpoint. sync and syncfs would write in place too.
commit() {
    dd if=/dev/zero of="$mnt/$1" bs=1 count=1 conv=fsync,excl status=none
}

# manifest: one line for each file under $mnt, in the form that tests/common/manifest.rs reads: type and permissions
# (st_mode in hex), owner, group, links, inode, size, 512-byte blocks, device, atime, mtime, ctime, digest, path.
manifest() {
    (
        cd "$mnt"
        find . -print0 | sort -z | while IFS= read -r -d '' path; do
            digest=-
            if [ -L "$path" ]; then
                digest=$(readlink -n "$path" | sha256sum)
            elif [ -f "$path" ]; then
                digest=$(sha256sum <"$path")
            fi
            stat --printf='%f\t%u\t%g\t%h\t%i\t%s\t%b\t%t:%T\t%.9X\t%.9Y\t%.9Z\t' "$path"
            printf '%s\t%s\n' "${digest%% *}" "$path"
        done
    )
}
