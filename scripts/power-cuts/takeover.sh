#!/bin/bash
# The first process of the virtual machine of old-kernel.sh. WORK, TESTS and AMBERFS_KILLS are in the kernel's
# command line, which the kernel hands on as the environment.
set -uo pipefail
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/ AMBERFS_REQUIRE_FUSE=1 RUST_BACKTRACE=1

off() {
    sync
    echo o > /proc/sysrq-trigger
    sleep 60
}

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp "$WORK/guest"
echo "guest: Linux $(uname -r)"
insmod "$(find "/usr/lib/uml/modules/$(uname -r)" -name fuse.ko)" || { echo "guest: FAILED: no FUSE"; off; }
cd "$WORK/guest" || off
export TMPDIR=$PWD
# This kernel breaks off what it copies to or from a process that is being killed; and no life is short on so slow a
# machine.
export AMBERFS_STOP_BEFORE_KILL=1
if "$TESTS" takeover:: --skip dies_at_once --test-threads 2 --color never; then echo "guest: all passed"; else echo "guest: FAILED"; fi
off
