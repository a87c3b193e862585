#!/usr/bin/env bash
# PostgreSQL, by a user who is not root: pgbench, an immediate crash of all of its processes under load, the
# recovery from it, and every check that PostgreSQL has.
# shellcheck source=scripts/programs/lib.sh
. "$(dirname "$0")/lib.sh"

# Debian keeps the server's programs, of every version, out of the PATH.
bin=$(find /usr/lib/postgresql -name initdb -printf '%h\n' 2>/dev/null | sort -V | tail -n 1)
[ -n "$bin" ] || bin=$(dirname "$(type -P initdb)") || fail "there is no initdb: install PostgreSQL's server"
user=postgres
id "$user" > /dev/null 2>&1 || user=nobody
data=$MNT/data clients=4

as_user() { setpriv --reuid="$user" --regid="$(id -g "$user")" --clear-groups env HOME="$SCRATCH" "$@"; }
pg() { as_user "$bin/$1" "${@:2}"; }
query() { pg psql -h "$MNT" -U postgres -d bench -XAtq -v ON_ERROR_STOP=1 -c "$1"; }
postmaster() { head -n 1 "$data/postmaster.pid"; }

stop_all() { # nothing may keep the mount busy after a failure
    if [ -f "$data/postmaster.pid" ]; then pg pg_ctl -D "$data" -s -m immediate stop || true; fi
}
trap stop_all EXIT

start() { # WAL-SYNC-METHOD
    as_user truncate -s 0 "$SCRATCH/server-log"
    pg pg_ctl -D "$data" -s -w -t 300 -l "$SCRATCH/server-log" -o "-c wal_sync_method=$1" start ||
        { cat "$SCRATCH/server-log"; fail "the server does not start"; }
}

configure() {
    cat >> "$data/postgresql.conf" <<CONF
listen_addresses = ''
unix_socket_directories = '$MNT'
shared_buffers = 8MB
max_wal_size = 64MB
min_wal_size = 32MB
checkpoint_timeout = 30s
autovacuum_naptime = 1s
CONF
}

load() { # SECONDS: pgbench, which notes every transaction that was acknowledged in acked.*
    (cd "$SCRATCH" && pg pgbench -h "$MNT" -U postgres -c "$clients" -j 2 -T "$1" -n -l \
        --log-prefix="$SCRATCH/acked" bench) > "$SCRATCH/pgbench" 2>&1
}

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

accounts_match() {
    local sums acked rows
    sums=$(query 'SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),
        (SELECT sum(bbalance) FROM pgbench_branches), (SELECT sum(delta) FROM pgbench_history)')
    [ "$(tr '|' '\n' <<< "$sums" | sort -u | wc -l)" -eq 1 ] || fail "the sums differ: $sums"
    acked=$(cat "$SCRATCH"/acked.* | wc -l)
    rows=$(query 'SELECT count(*) FROM pgbench_history')
    [ "$rows" -ge "$acked" ] || fail "$acked transactions were acknowledged, and there are $rows"
}

verify_tables() { pg pg_amcheck -h "$MNT" -U postgres --install-missing --heapallindexed --rootdescend --all; }
verify_files() { pg pg_checksums --check -D "$data" | tee "$SCRATCH/checksums"; }

chown "$user" "$MNT" "$SCRATCH"
step "initdb"
pg initdb -D "$data" --data-checksums --locale=C -E UTF8 -A trust -U postgres > "$SCRATCH/initdb"
configure
start fdatasync
pg createdb -h "$MNT" -U postgres bench
pg pgbench -h "$MNT" -U postgres -i -q -s "$PG_SCALE" bench > "$SCRATCH/init" 2>&1
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
echo "figures: $(cat "$SCRATCH"/acked.* | wc -l) transactions, $tps/s, two crashes," \
    "$(sed -n 's/^Blocks scanned: *//p' "$SCRATCH/checksums") blocks verified"
