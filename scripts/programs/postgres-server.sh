# shellcheck shell=bash
# PostgreSQL's server with its data on the mount, by a user who is not root. Sourced after lib.sh.

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

acked() { cat "$SCRATCH"/acked.* | wc -l; } # transactions

accounts_match() {
    local sums acked rows
    sums=$(query 'SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),
        (SELECT sum(bbalance) FROM pgbench_branches), (SELECT sum(delta) FROM pgbench_history)')
    [ "$(tr '|' '\n' <<< "$sums" | sort -u | wc -l)" -eq 1 ] || fail "the sums differ: $sums"
    acked=$(acked)
    rows=$(query 'SELECT count(*) FROM pgbench_history')
    [ "$rows" -ge "$acked" ] || fail "$acked transactions were acknowledged, and there are $rows"
}

verify_tables() { pg pg_amcheck -h "$MNT" -U postgres --install-missing --heapallindexed --rootdescend --all; }
verify_files() { pg pg_checksums --check -D "$data" | tee "$SCRATCH/checksums"; }

set_up() { # a server with pgbench's tables
    chown "$user" "$MNT" "$SCRATCH"
    step "initdb"
    pg initdb -D "$data" --data-checksums --locale=C -E UTF8 -A trust -U postgres > "$SCRATCH/initdb"
    configure
    start fdatasync
    pg createdb -h "$MNT" -U postgres bench
    pg pgbench -h "$MNT" -U postgres -i -q -s "$PG_SCALE" bench > "$SCRATCH/init" 2>&1
}
