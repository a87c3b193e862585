#!/usr/bin/env bash
# A minute with AmberFS, in a temporary directory: prints each command and its outcome, and leaves
# nothing behind. Usage: demo.sh AMBERFS
set -euo pipefail

binary=$(realpath "$1")
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

say() { printf '\n\033[1m# %s\033[0m\n' "$*"; }
# Prints a command as it would be typed, then runs it.
run() { printf '\033[36m$ %s\033[0m\n' "$1"; eval "$1"; }
# The same for a command that must fail, and shows how.
must_fail() {
    printf '\033[36m$ %s\033[0m\n' "$1"
    if eval "$1"; then echo "that should have failed" >&2; exit 1; fi
}
check() { eval "$1" || { echo "demo: not so: $1" >&2; exit 1; }; }

say "A pool is a directory; --create makes it, and the volume main in it"
run 'amberfs mount --create pool mnt'
run 'amberfs status pool'

say "Real files: the programs and settings of this machine"
run 'cp -a /etc/. mnt/etc 2>/dev/null || true; cp -aL /usr/share/common-licenses mnt/licenses 2>/dev/null || cp -a /etc mnt/licenses'
run 'echo "the only copy" > mnt/letter.txt'
run 'find mnt -type f | wc -l; du -sh mnt'

say "Freeze the volume with mkdir"
run 'mkdir mnt/.snapshots/monday'
run 'ls mnt/.snapshots'

say "Then things happen"
run 'echo "overwritten" > mnt/letter.txt'
run 'rm -r mnt/licenses'
run 'echo new > mnt/new.txt'

say "What has changed since monday?"
run 'diff -rq --no-dereference mnt/.snapshots/monday mnt || true'
check '[ "$(cat mnt/.snapshots/monday/letter.txt)" = "the only copy" ]'

say "A snapshot never changes, not even for root"
must_fail 'rm mnt/.snapshots/monday/letter.txt'

say "Copy a file back out of it, and a whole directory"
run 'cp -a mnt/.snapshots/monday/letter.txt mnt/letter.txt'
run 'cat mnt/letter.txt'
run 'cp -a mnt/.snapshots/monday/licenses mnt/licenses'
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
