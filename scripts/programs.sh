#!/usr/bin/env bash
# Real programs on a mount: databases, version control, backup, compilers, stress tests. Each has a fresh
# pool, which is unmounted and verified after it, and whose daemon must have logged nothing but INFO.
# Usage: programs.sh AMBERFS [PROGRAM...]     (as root; TMPDIR: where; KEEP=1: leaves a failure's files)
#
# A program is scripts/programs/PROGRAM.sh. How long each runs is set by the variables of `length` below.
set -euo pipefail

here=$(realpath "$(dirname "$0")")
all=(sqlite git rsync tar cargo fio overlay postgres kills stress)
usage() { sed -n 's/^# \(Usage: .*\)/\1/p' "$0" >&2; echo "programs: ${all[*]}" >&2; exit 2; }
fail() { echo "programs: $*" >&2; exit 1; }

[ $# -ge 1 ] || usage
AMBERFS=$(realpath "$1")
shift
[ $# -gt 0 ] || set -- "${all[@]}"
for program in "$@"; do [ -f "$here/programs/$program.sh" ] || usage; done
[ "$(id -u)" -eq 0 ] || fail "root is needed: to mount, to make device nodes, and to become another user"

# Sets a variable that the caller has not set: to what is enough for a test, or with LONG=1 for a soak.
length() { # NAME SHORT LONG
    local value=$2
    [ "${LONG:-0}" -eq 0 ] || value=$3
    export "$1=${!1:-$value}"
}
length SQLITE_SECONDS 4 60      # of each journal mode
length GIT_COMMITS 60 2000
length TREE_FILES 300 5000      # of the tree that rsync and tar copy, beside its oddities
length TREE_HOLE 64M 4100M      # of a file without any data in it
length CARGO_MODULES 20 400
length FIO_MB 16 512            # of each pattern
length PG_SCALE 1 20
length PGBENCH_SECONDS 4 60     # before each of the two crashes
length KILLS 10 200            # of the daemon, under load
length STRESS_SECONDS 40 300    # of all stressors together, each at least one second
length PROGRAM_SECONDS 600 3600 # a program that runs for longer than that hangs

work=$(realpath "$(mktemp -d "${TMPDIR:-/tmp}/amberfs-programs.XXXXXX")")
chmod 755 "$work" # the database's user goes through it
running=''
cd /

unmount_all() { # the newest first, because what is mounted within the volume keeps it busy
    local dir
    sed -n "s|^[^ ]* \($work/[^ ]*\) .*|\1|p" /proc/self/mounts | tac | while IFS= read -r dir; do
        umount "$dir" 2>/dev/null || umount -l "$dir" || true
    done
}
clean_up() {
    if [ -n "$running" ]; then
        kill "$running" 2>/dev/null || true
        wait "$running" || true
    fi
    unmount_all
    if [ -d "$work/failed" ] && [ "${KEEP:-0}" -ne 0 ]; then
        echo "programs: see $work/failed" >&2
    else
        rm -rf "$work"
    fi
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# Says why a program is not clean, with the ends of what it and the daemon have said.
failed() { # PROGRAM WHY
    mv "$work/now" "$work/failed"
    tail -n 40 "$work/failed/output" | sed 's/^/    /' >&2
    echo "programs: $1: the daemon's log:" >&2
    tail -n 15 "$work/failed/pool/log" | sed 's/^/    /' >&2
    fail "$1: $2"
}

run_program() { # PROGRAM
    local now=$work/now start=$EPOCHREALTIME status=0
    export AMBERFS POOL=$now/pool MNT=$now/mnt SCRATCH=$now/scratch
    mkdir -p "$MNT" "$SCRATCH"
    "$AMBERFS" mount --create "$POOL" "$MNT"
    # In the background, because a shell that waits for a child handles signals only after it.
    timeout -k 10 "$PROGRAM_SECONDS" "$here/programs/$1.sh" > "$now/output" 2>&1 &
    running=$!
    wait "$running" || status=$?
    running=''
    [ "$status" -ne 124 ] || failed "$1" "still running after $PROGRAM_SECONDS seconds"
    [ "$status" -eq 0 ] || failed "$1" "failed, exit code $status"
    "$AMBERFS" umount "$MNT" >> "$now/output" 2>&1 || failed "$1" "the volume does not unmount"
    "$AMBERFS" check "$POOL" --data >> "$now/output" 2>&1 || failed "$1" "the check found damage"
    touch "$SCRATCH/expected-log" # what a program has written there may be in the daemon's log
    if grep -v ' INFO ' "$POOL/log" | grep -vf "$SCRATCH/expected-log" >> "$now/output"; then failed "$1" "the daemon's log has complaints"; fi
    awk -v name="$1" -v from="$start" -v to="$EPOCHREALTIME" \
        '/^figures: /{ text = substr($0, 10) } END { printf "%-9s %6.1f s  %s\n", name, to - from, text }' "$now/output"
    rm -rf "$now"
}

for program in "$@"; do run_program "$program"; done
