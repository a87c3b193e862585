#!/bin/bash
# The first process of the virtual machine of power-cuts.sh, whose root is the host's, read-only. What it is to do
# is in the kernel's command line, which the kernel hands on as the environment: WORK, the directory of the
# host with this run's files; AMBERFS and PROGRAM, the binaries; MODE and SEED.
set -uo pipefail
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/

off() {
    sync
    echo o > /proc/sysrq-trigger
    sleep 60
}
fail() { echo "guest: FAILED: $*"; off; }

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp "$WORK/guest"
insmod "$(find "/usr/lib/uml/modules/$(uname -r)" -name fuse.ko)" || fail "no FUSE in this kernel"
cd "$WORK/guest" || fail "no directory to work in"
mkdir disk mnt

# Sometimes the kernel writes back soon, sometimes hardly ever: more or less of what is not synced is there.
case $MODE$((SEED % 3)) in
work0) age=10 ;;
work1) age=100 ;;
*) age=6000 ;;
esac
echo "$age" > /proc/sys/vm/dirty_writeback_centisecs
echo "$age" > /proc/sys/vm/dirty_expire_centisecs

mount -t ext4 -o noatime /dev/ubda disk || fail "the guest's own file system"
if [ -e disk/pool ]; then
    "$AMBERFS" -q check disk/pool --data || fail "the check found damage"
else
    # A cut while it is made leaves what is no pool yet.
    rm -rf disk/new
    "$AMBERFS" -q pool create disk/new --size 160M || fail "no pool"
    sync
    mv disk/new disk/pool
    sync
fi
"$AMBERFS" mount --create -o "cache_size=24M,commit=$((1 + SEED % 3))" disk/pool mnt || fail "the pool does not open"

if [ "$MODE" != verify ]; then
    lie=()
    [ "$MODE" != lie ] || lie=(lie)
    "$PROGRAM" work mnt /dev/ubdb "$AMBERFS" disk/pool "$SEED" "${lie[@]}" || fail "see above"
fi
"$PROGRAM" verify mnt /dev/ubdb "$AMBERFS" disk/pool || fail "see above"
"$AMBERFS" umount mnt || fail "the volume does not unmount"
"$AMBERFS" -q check disk/pool --data || fail "the last check found damage"
# The log is not synced: a power cut can leave a hole in it.
if tr -d '\0' < disk/pool/log | grep -v ' INFO ' | grep -v 'this kernel (before 6.9)'; then
    fail "the daemon's log has complaints"
fi
umount disk
echo "guest: all is there"
off
