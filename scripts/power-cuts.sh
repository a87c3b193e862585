#!/usr/bin/env bash
# Power cuts: AmberFS under load in a virtual machine (user-mode Linux, whose kernel is a process), which is
# killed at random instants and started again. What the machine had told the host to be durable must be there,
# names and attributes must be a prefix of what was done, data old, new or zeros, snapshots exact, and
# `amberfs check --data` clean.
# Usage: power-cuts.sh AMBERFS COUNT     (as root; TMPDIR: where; SEED: of instants and operations; KEEP=1: leaves
#                                         a failure's files)
#
# Before that a machine that says so without having synced is cut, as long as it takes to be found out.
set -euo pipefail

here=$(realpath "$(dirname "$0")")
usage() { sed -n 's/^# \(Usage: [^(]*\).*/\1/p' "$0" >&2; exit 2; }
fail() { echo "power-cuts: $*" >&2; exit 1; }

[ $# -eq 2 ] || usage
AMBERFS=$(realpath "$1") count=$2 seed=${SEED:-1}
PROGRAM=$(dirname "$AMBERFS")/examples/power_cut
[ -x "$PROGRAM" ] || fail "there is no $PROGRAM: build it with cargo build --example power_cut"
if [ "$(uname -m)" != x86_64 ]; then
    echo "power-cuts: skipped: there is user-mode Linux for x86-64 only"
    exit
fi
[ "$(id -u)" -eq 0 ] || fail "root is needed: the guest has the host's root"

max_liars=5
work=$(realpath "$(mktemp -d "${TMPDIR:-/tmp}/amberfs-power.XXXXXX")")
# shellcheck source=scripts/power-cuts/machine.sh
. "$here/power-cuts/machine.sh"

clean_up() {
    cut_machine
    if [ "${KEEP:-0}" -ne 0 ]; then echo "power-cuts: see $work" >&2; else rm -rf "$work"; fi
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# Numbers that the seed fixes.
random() { # BELOW
    seed=$(((seed * 1103515245 + 12345) % 2147483648))
    drawn=$((seed / 65536 % $1))
}

new_machine() {
    rm -f "$work/disk" "$work/records"
    truncate -s 400M "$work/disk"
    mkfs.ext4 -q -F "$work/disk"
    truncate -s 64K "$work/records"
}

start() { # MODE
    random 32768
    start_machine 192 "$here/power-cuts/guest.sh" "ubda=$work/disk" "ubdb=$work/records" "AMBERFS=$AMBERFS" \
        "PROGRAM=$PROGRAM" "MODE=$1" "SEED=$drawn"
}
complain() { # WHY
    tail -n 25 "$work/console" | sed 's/^/    /' >&2
    fail "cut $((cuts + 1)): $1 (SEED=${SEED:-1})"
}

hangs() { complain "the machine hangs"; }

# One start, and a cut at some instant: most of them under load, some while the machine starts, verifies or recovers.
run_and_cut() { # MODE
    start "$1"
    random 5
    if [ "$drawn" -ne 0 ] || [ "$1" = lie ]; then
        await 'power_cut: working' || return 1
        random 2000
        # A liar's machine writes back so late that nearly all is lost.
        [ "$1" != lie ] || drawn=1000
    else
        random 4000
    fi
    sleep "$(printf '%d.%03d' $((drawn / 1000)) $((drawn % 1000)))"
    if says FAILED || ends; then return 1; fi
    cut_machine
}

prepare_machine

cuts=0 begun=$SECONDS
new_machine
while run_and_cut lie; do
    cuts=$((cuts + 1))
    [ "$cuts" -lt "$max_liars" ] || fail "a machine that syncs nothing was cut $cuts times and not found out"
done
says 'power_cut: FAILED: round' || complain "a machine that syncs nothing failed for another reason"
cut_machine
echo "power-cuts: a machine that syncs nothing was found out after $cuts cuts, $((SECONDS - begun)) s"

cuts=0 begun=$SECONDS operations=0
new_machine
while [ "$cuts" -lt "$count" ]; do
    if ! run_and_cut work; then
        says FAILED || complain "the machine ended by itself"
        complain "not all is there"
    fi
    verified=$(sed -n 's/^power_cut: verified .* rounds, \([0-9]*\) new operations.*/\1/p' "$work/console")
    operations=$((operations + ${verified:-0}))
    cuts=$((cuts + 1))
done
start verify
await 'guest: all is there' || complain "not all is there in the end"
echo "power-cuts: $cuts cuts, all was there, $operations operations verified, $((SECONDS - begun)) s"
