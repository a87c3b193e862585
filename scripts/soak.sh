#!/usr/bin/env bash
# Large runs on a mount: a tree of many files that is snapshotted, half destroyed, compared, remounted
# and compared again; then many snapshots, deleted in random order. Everything is checked at the end.
# Usage: soak.sh AMBERFS FILES SNAPSHOTS     (TMPDIR: where; SEED: of the random order)
set -euo pipefail

binary=$(realpath "$1") files=$2 snapshots=$3 seed=${SEED:-1}
work=$(mktemp -d "${TMPDIR:-/tmp}/amberfs-soak.XXXXXX")
mkdir "$work/mnt"
mnt=$work/mnt pool=$work/pool

clean_up() {
    cd /
    if grep -q " $mnt fuse.amberfs " /proc/self/mounts; then
        "$binary" umount "$mnt" || umount -l "$mnt" || true
    fi
    rm -rf "$work"
}
trap clean_up EXIT

step() { printf '%(%H:%M:%S)T  %s\n' -1 "$*"; }
fail() { echo "soak: $*" >&2; exit 1; }
field() { sed -n "s/^ *\"$1\": \([0-9]*\),*\$/\1/p" | head -n 1; }
used_bytes() { "$binary" pool status "$pool" --json | field used_bytes; }
referenced_bytes() { "$binary" volume list "$pool" --json | field referenced_bytes; }
amberfs() { "$binary" -q "$@"; }
settle() { # waits until the background has reclaimed what was deleted
    for _ in $(seq 600); do
        "$binary" pool status "$pool" --json | grep -q '"reclaim_pending": 0' && return
        sleep 0.5
    done
    fail "deleted space has not come back after five minutes"
}

step "seed $seed: making a tree of $files files"
mkdir "$work/tree"
awk -v n="$files" -v seed="$seed" -v dir="$work/tree" 'BEGIN {
    srand(seed)
    for (i = 0; i < n; i++) {
        if (i % 100 == 0) { sub_dir = dir "/d" int(i / 10000) "/s" int(i / 100); system("mkdir -p " sub_dir) }
        file = sub_dir "/file" i ".txt"
        lines = int(exp(rand() * 6))
        for (l = 0; l < lines; l++) printf "%d %d %.12f\n", i, l, rand() > file
        printf "end of %d\n", i > file
        close(file)
    }
}'
tar -C "$work/tree" -cf "$work/tree.tar" .

step "unpacking it on a mount"
amberfs mount --create "$pool" "$mnt"
tar -C "$mnt" -xf "$work/tree.tar"
mkdir "$mnt/.snapshots/before"

step "deleting and overwriting half of it"
find "$mnt" -name 'file*[02].txt' -delete
find "$mnt" -name 'file*[468].txt' -print0 | while IFS= read -r -d '' file; do echo overwritten > "$file"; done

step "comparing the snapshot"
diff -r "$work/tree" "$mnt/.snapshots/before" || fail "the snapshot differs"
amberfs umount "$mnt"
amberfs mount "$pool" "$mnt"
step "comparing it after a remount"
diff -r "$work/tree" "$mnt/.snapshots/before" || fail "the snapshot differs after a remount"

step "deleting it, and comparing the space in use with what the live tree needs"
rmdir "$mnt/.snapshots/before"
settle
tar -C "$mnt" -cf "$work/live.tar" .
amberfs umount "$mnt"
amberfs check "$pool" --data
used=$(used_bytes) needed=$(referenced_bytes)
mv "$pool" "$pool.first"
amberfs mount --create "$pool" "$mnt"
tar -C "$mnt" -xf "$work/live.tar"
amberfs umount "$mnt"
step "in use: $used bytes; the live tree refers to $needed; freshly unpacked it takes $(used_bytes)"
# The pool's own trees have a size of their own, which shows in small runs only.
[ "$used" -le $((needed + needed / 100 + 262144)) ] || fail "more than 1% is not given back"
rm -rf "$pool" "$pool.first" "$work/tree" "$work"/*.tar

step "making $snapshots snapshots with a small change each"
amberfs mount --create "$pool" "$mnt"
first=0 last=0
for i in $(seq "$snapshots"); do
    echo "$i" > "$mnt/file$((i % 500))"
    start=$(date +%s%N)
    mkdir "$mnt/.snapshots/s$i"
    took=$(($(date +%s%N) - start))
    if [ "$i" -le 200 ]; then first=$((first + took)); fi
    if [ "$i" -gt $((snapshots - 200)) ]; then last=$((last + took)); fi
done
step "mkdir took $((first / 200000)) µs at first and $((last / 200000)) µs in the end"
step "deleting them in random order"
awk -v n="$snapshots" -v seed="$seed" 'BEGIN { srand(seed); for (i = 1; i <= n; i++) print rand(), "s" i }' |
    sort -n | cut -d' ' -f2 | (cd "$mnt/.snapshots" && xargs -n 100 rmdir)
[ -z "$(ls "$mnt/.snapshots")" ] || fail "there are snapshots left"
settle
amberfs umount "$mnt"
amberfs check "$pool" --data
step "done: every comparison and check was clean"
