#!/usr/bin/env bash
# The daemon is killed again and again under PostgreSQL with pgbench, fsx, fio that verifies what it has written, and
# a loop of snapshots. None of them may see an error, and no transaction may be lost or be there twice.
# shellcheck source=scripts/programs/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/programs/postgres-server.sh
. "$(dirname "$0")/postgres-server.sh"

jobs=()
stop_jobs() {
    touch "$SCRATCH/over"
    for job in "${jobs[@]}"; do wait "$job" || true; done
    stop_all
}
trap stop_jobs EXIT
going_on() { [ ! -e "$SCRATCH/over" ]; }

fsx_again_and_again() {
    local seed=0
    mkdir "$SCRATCH/fsx"
    cat > "$SCRATCH/fsx.toml" <<'CONF'
flen = 1048576
[opsize]
max = 65536
[weights]
close_open = 1
read = 10
write = 10
mapread = 10
mapwrite = 10
invalidate = 1
truncate = 5
fsync = 0.5
fdatasync = 0.5
posix_fallocate = 2
punch_hole = 4
sendfile = 2
copy_file_range = 4
CONF
    while going_on; do
        seed=$((seed + 1))
        fsx -f "$SCRATCH/fsx.toml" -N 5000 -S "$seed" -P "$SCRATCH/fsx" "$MNT/fsx" > "$SCRATCH/fsx/output" 2>&1 ||
            { cat "$SCRATCH/fsx/output"; fail "fsx with seed $seed failed"; }
        echo "$seed" > "$SCRATCH/fsx/runs"
    done
}

fio_run() { # NUMBER OPTION...: through the page cache and past it, by turns
    local how=(--ioengine=psync --bsrange=4k-32k --blockalign=4k --fsync=64)
    [ $(($1 % 2)) -ne 0 ] || how=(--ioengine=libaio --iodepth=8 --bs=4k --direct=1)
    verified_fio fio "$1" --rw=randwrite --size=8m "${how[@]}" "${@:2}"
}

fio_again_and_again() {
    local number=0
    while going_on; do
        number=$((number + 1))
        fio_run "$number"
        echo "$number" > "$SCRATCH/fio-runs"
    done
}

snapshots_again_and_again() {
    local number=0
    while going_on; do
        number=$((number + 1))
        echo "$number" > "$MNT/counter"
        mkdir "$MNT/.snapshots/at-$number"
        [ "$(cat "$MNT/.snapshots/at-$number/counter")" = "$number" ] || fail "snapshot $number is not of its moment"
        rmdir "$MNT/.snapshots/at-$number"
        echo "$number" > "$SCRATCH/snapshots"
        sleep 0.05
    done
}

daemon_of() { "$AMBERFS" status "$POOL" --json | sed -n 's/^ *"pid": \([0-9]*\).*/\1/p' | head -n 1; }

kill_again_and_again() {
    local number pid
    for number in $(seq "$KILLS"); do
        sleep "0.$((RANDOM % 8 + 2))"
        sleep 0.4
        pid=$(daemon_of)
        kill -9 "$pid"
        [ $((number % 20)) -ne 0 ] || step "$number kills"
    done
}

each_is_there_once() { [ "$(query 'SELECT count(*) FROM pgbench_history')" -eq "$(acked)" ]; }

set_up
# It outlasts the kills: a second for each is more than they take.
seconds=$((KILLS + 5))
step "$KILLS kills in $seconds s"
load "$seconds" & jobs+=($!)
fsx_again_and_again & jobs+=($!)
fio_again_and_again & jobs+=($!)
snapshots_again_and_again & jobs+=($!)
kill_again_and_again
wait "${jobs[0]}" || { cat "$SCRATCH/pgbench"; fail "pgbench failed"; }
touch "$SCRATCH/over"
for job in "${jobs[@]:1}"; do wait "$job" || fail "a job beside pgbench failed"; done
jobs=()
grep -q 'number of failed transactions: 0 ' "$SCRATCH/pgbench" || { cat "$SCRATCH/pgbench"; fail "failed transactions"; }
if grep -E 'ERROR|FATAL|PANIC|WARNING' "$SCRATCH/server-log"; then fail "the server complains"; fi
deaths=$("$AMBERFS" status "$POOL" --json | sed -n 's/^ *"deaths": \([0-9]*\).*/\1/p')
[ "$deaths" -eq "$KILLS" ] || fail "$KILLS kills, and $deaths deaths"
accounts_match
each_is_there_once || fail "not every transaction that was acknowledged is there once"
# The comparisons must be able to fail: one that is lost is noticed by both.
query 'DELETE FROM pgbench_history WHERE ctid = (SELECT ctid FROM pgbench_history WHERE delta <> 0 LIMIT 1)'
if each_is_there_once || (accounts_match); then fail "a lost transaction is not noticed"; fi
# What the last run of fio has written is there after all kills, and a change of it is noticed.
fio_runs=$(cat "$SCRATCH/fio-runs")
fio_run "$fio_runs" --verify_only=1
head -c 65536 /dev/zero | dd of="$MNT/fio.0.0" bs=65536 seek=16 conv=notrunc status=none
if (fio_run "$fio_runs" --verify_only=1); then fail "a change of what fio has written is not noticed"; fi
verify_tables
pg pg_ctl -D "$data" -s -w -m fast stop
verify_files
# What the supervisor says of each death.
echo 'the daemon died; another takes over' > "$SCRATCH/expected-log"
echo "figures: $deaths kills, $(acked) transactions, fsx $(($(cat "$SCRATCH/fsx/runs") * 5000)) operations," \
    "fio $fio_runs times 8 MiB, $(cat "$SCRATCH/snapshots") snapshots"
