#!/usr/bin/env bash
# A minute with AmberFS, in a temporary directory: prints each command and its outcome, and leaves
# nothing behind. Usage: demo.sh AMBERFS
set -euo pipefail

binary=$(realpath "$1")
export SOURCE
SOURCE=$(realpath "$(dirname "$0")/..")
work=$(mktemp -d "${TMPDIR:-/tmp}/amberfs-demo.XXXXXX")
mkdir "$work/bin" "$work/mnt"
ln -s "$binary" "$work/bin/amberfs"
export PATH="$work/bin:$PATH"
cd "$work"

clean_up() {
    cd /
    if grep -q " $work/mnt fuse.amberfs " /proc/self/mounts; then
        amberfs umount "$work/mnt" || umount -l "$work/mnt" || true
    fi
    rm -rf "$work"
}
trap clean_up EXIT

bold='' blue='' plain=''
if [ -t 1 ]; then bold=$'\e[1m' blue=$'\e[36m' plain=$'\e[0m'; fi
say() { printf '\n%s# %s%s\n' "$bold" "$*" "$plain"; }
# Prints a command as it would be typed, then runs it.
run() { printf '%s$ %s%s\n' "$blue" "$1" "$plain"; eval "$1"; }
# The same for a command that must fail, and shows how.
must_fail() {
    printf '%s$ %s%s\n' "$blue" "$1" "$plain"
    if eval "$1"; then echo "that should have failed" >&2; exit 1; fi
}
check() { eval "$1" || { echo "demo: not so: $1" >&2; exit 1; }; }

say "A pool is a directory; --create makes it, and the volume main in it"
run 'amberfs mount --create pool mnt'
run 'amberfs status pool'

say "Real files: this project's own source"
run 'cp -a "$SOURCE/src" "$SOURCE/docs" mnt/'
run 'echo "the only copy" > mnt/letter.txt'
run 'find mnt -type f | wc -l; du -sh mnt'

say "Freeze the volume with mkdir"
run 'mkdir mnt/.snapshots/monday'
run 'ls mnt/.snapshots'

say "Then things happen"
run 'echo "overwritten" > mnt/letter.txt'
run 'rm -r mnt/docs'
run 'echo new > mnt/new.txt'

say "What has changed since monday?"
run 'diff -rq --no-dereference mnt/.snapshots/monday mnt || true'
check '[ "$(cat mnt/.snapshots/monday/letter.txt)" = "the only copy" ]'

say "A snapshot never changes, not even for root"
must_fail 'rm mnt/.snapshots/monday/letter.txt'

say "Copy a file back out of it, and a whole directory"
run 'cp -a mnt/.snapshots/monday/letter.txt mnt/letter.txt'
run 'cat mnt/letter.txt'
run 'cp -a mnt/.snapshots/monday/docs mnt/docs'
run 'rm mnt/new.txt'
run 'diff -r --no-dereference mnt/.snapshots/monday mnt && echo "as it was on monday"'
check 'diff -r --no-dereference mnt/.snapshots/monday mnt'

say "Figures"
run 'amberfs snapshot list mnt'
run 'getfattr -d mnt/.snapshots/monday'
run 'df -h mnt'

say "All of it is there after unmount and mount"
run 'amberfs umount mnt'
run 'amberfs mount pool mnt'
run 'ls mnt/.snapshots mnt'
check '[ "$(cat mnt/.snapshots/monday/letter.txt)" = "the only copy" ]'

say "Delete the snapshot with rmdir, full as it is"
run 'rmdir mnt/.snapshots/monday'
run 'ls mnt/.snapshots'
check '[ -z "$(ls mnt/.snapshots)" ]'

say "Unmount, and verify every block of the pool"
run 'amberfs umount mnt'
run 'amberfs check pool --data'

say "Done; everything is removed again"
