#!/usr/bin/env bash
# PostgreSQL, by a user who is not root: pgbench, an immediate crash of all of its processes under load, the
# recovery from it, and every check that PostgreSQL has.
# shellcheck source=scripts/programs/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/programs/postgres-server.sh
. "$(dirname "$0")/postgres-server.sh"

# Kills the server and all of its processes at once, when pgbench has run for a while.
crash_under_load() {
    local children pgbench master
    load 100000 &
    pgbench=$!
    sleep "$PGBENCH_SECONDS"
    master=$(postmaster)
    children=$(pgrep -P "$master")
    # shellcheck disable=SC2086
    kill -9 "$master" $children 2>/dev/null || true
    wait "$pgbench" && fail "pgbench has not noticed the crash"
    for _ in $(seq 100); do
        # shellcheck disable=SC2086
        kill -0 "$master" $children 2>/dev/null || return 0
        sleep 0.1
    done
    fail "the server's processes do not end"
}

set_up
for method in fdatasync open_datasync; do
    step "a crash with wal_sync_method=$method"
    crash_under_load
    start "$method"
    grep -q 'automatic recovery in progress' "$SCRATCH/server-log" || fail "that was no crash"
    accounts_match
done
step "load after the recovery"
load "$PGBENCH_SECONDS" || { cat "$SCRATCH/pgbench"; fail "pgbench failed"; }
tps=$(sed -n 's/^tps = \([0-9]*\).*/\1/p' "$SCRATCH/pgbench")
query 'VACUUM FULL'
query 'REINDEX DATABASE bench'
accounts_match
verify_tables
pg pg_ctl -D "$data" -s -w -m fast stop
verify_files
remount
step "after a remount"
verify_files
start fsync
accounts_match
verify_tables
pg pg_ctl -D "$data" -s -w -m fast stop
echo "figures: $(acked) transactions, $tps/s, two crashes," \
    "$(sed -n 's/^Blocks scanned: *//p' "$SCRATCH/checksums") blocks verified"
