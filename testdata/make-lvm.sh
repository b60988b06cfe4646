#!/usr/bin/env bash
# Makes lvm.img.gz: a GPT disk whose two partitions are physical volumes of one group, made by lvm2's own tools.
# Needs root (loop devices) and lvm2, no device-mapper: the volumes are never activated. Their contents are put where
# lvm2 itself says that their extents lie.
#   vg0/linear   two runs of extents with another volume between them
#   vg0/striped  two stripes of 64 KiB, one on each partition
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
loops=()
trap 'losetup -d "${loops[@]}"; rm -rf "$work"' EXIT

disk=$work/disk
truncate -s 48M "$disk"
sfdisk -q "$disk" <<'TABLE'
label: gpt
start=2048, size=22M, type=lvm
start=47104, size=22M, type=lvm
TABLE
# One loop device a partition: not every kernel scans loop devices for tables.
for start in 2048 47104; do
    loops+=("$(losetup -f --show -o $((start * 512)) --sizelimit $((22 << 20)) "$disk")")
done
config="devices{use_devicesfile=0 filter=[\"a|^${loops[0]}$|\",\"a|^${loops[1]}$|\",\"r|.*|\"]} activation{udev_sync=0 udev_rules=0 monitoring=0}"
run() { lvm "$@" --driverloaded n --config "$config" 2>/dev/null; }
run pvcreate "${loops[0]}" "${loops[1]}"
run vgcreate -s 1M vg0 "${loops[0]}" "${loops[1]}"
new="lvcreate -an -Zn -Wn -y"
run $new -l 3 -n linear vg0 "${loops[0]}"
run $new -i 2 -I 64k -l 6 -n striped vg0
run lvextend -l +3 vg0/linear "${loops[0]}"

for lv in linear striped; do
    mkdir -p "$work/$lv/dir"
    echo "this is vg0/$lv" >"$work/$lv/name"
    # Lines of 1 KiB: every block differs, and it compresses.
    seq -f "%01023.0f" 1 3000 >"$work/$lv/dir/numbers"
    mke2fs -q -t ext4 -b 1024 -d "$work/$lv" "$work/$lv.img" 6M
    run lvs --noheadings --units b --nosuffix --segments --separator ' ' \
        -o seg_start,seg_size,stripes,stripe_size,seg_pe_ranges "vg0/$lv" >"$work/$lv.map"
    python3 - "$work/$lv.img" "$work/$lv.map" <<'PUT'
import sys
image, extent, first = open(sys.argv[1], "rb").read(), 1 << 20, 1 << 20
for line in open(sys.argv[2]):
    start, size, stripes, unit, *ranges = line.split()
    start, size, stripes, unit = int(start), int(size), int(stripes), int(unit) or int(size)
    places = [(r.split(":")[0], int(r.split(":")[1].split("-")[0])) for r in ranges]
    assert len(places) == stripes
    for turn, at in enumerate(range(start, start + size, unit)):
        device, pe = places[turn % stripes]
        with open(device, "r+b") as out:
            out.seek(first + pe * extent + turn // stripes * unit)
            out.write(image[at:at + unit])
PUT
done
sync
gzip -9n <"$disk" >"$here/lvm.img.gz"
ls -l "$here/lvm.img.gz"
