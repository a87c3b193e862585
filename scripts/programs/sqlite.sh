#!/usr/bin/env bash
# SQLite: writers and readers at the same time, in both kinds of journal, and one writer that is killed.
# Every transaction moves money between two accounts and adds a numbered row. At every moment the sum is what
# it was, and in the end the rows of a writer are those it was told are committed, without gaps.
# shellcheck source=scripts/programs/lib.sh
. "$(dirname "$0")/lib.sh"

writers=3 readers=2 accounts=200 batch=10
started=()
trap 'kill -9 "${started[@]}" 2>/dev/null || true' EXIT

sql() { sqlite3 -bail -cmd '.timeout 120000' "$@"; }

# A process for each batch, so that opening, closing and recovery are part of it.
write_rows() { # DB WRITER UNTIL
    local committed=0
    while [ "$(date +%s)" -lt "$3" ]; do
        awk -v n="$batch" -v from="$committed" -v writer="$2" -v accounts="$accounts" -v seed="$RANDOM" 'BEGIN {
            srand(seed)
            for (i = 1; i <= n; i++) {
                amount = int(rand() * 1000)
                printf "BEGIN IMMEDIATE;\n"
                printf "UPDATE account SET money = money - %d WHERE id = %d;\n", amount, 1 + int(rand() * accounts)
                printf "UPDATE account SET money = money + %d WHERE id = %d;\n", amount, 1 + int(rand() * accounts)
                printf "INSERT INTO done VALUES (%d, %d, hex(randomblob(%d)));\n", writer, from + i, rand() * 600
                printf "COMMIT;\n.print %d\n", from + i
            }
        }' | sql "$1" >> "$SCRATCH/committed-$2"
        committed=$((committed + batch))
    done
}

read_sums() { # DB READER UNTIL
    local sum
    while [ "$(date +%s)" -lt "$3" ]; do
        sum=$(sql "$1" 'SELECT sum(money) FROM account')
        [ "$sum" -eq 0 ] || fail "reader $2 saw the sum $sum, and not 0"
        echo read >> "$SCRATCH/read-$2"
    done
}

under_load() { # DB JOURNAL-MODE
    local db=$1 until pid i
    sql "$db" "PRAGMA journal_mode = $2; PRAGMA synchronous = FULL;
        CREATE TABLE account (id INTEGER PRIMARY KEY, money INTEGER NOT NULL);
        CREATE TABLE done (writer INTEGER, number INTEGER, filling TEXT, UNIQUE (writer, number));
        CREATE INDEX by_filling ON done (filling);
        WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $accounts)
            INSERT INTO account SELECT i, 0 FROM n;" > "$SCRATCH/mode"
    grep -qix "$2" "$SCRATCH/mode" || fail "the journal mode is $(cat "$SCRATCH/mode"), and not $2"
    rm -f "$SCRATCH"/committed-* "$SCRATCH"/read-*
    until=$(($(date +%s) + SQLITE_SECONDS))
    started=()
    for i in $(seq "$writers"); do write_rows "$db" "$i" "$until" & started+=($!); done
    for i in $(seq "$readers"); do read_sums "$db" "$i" "$until" & started+=($!); done
    kill_writers "$db" "$until"
    for pid in "${started[@]}"; do wait "$pid" || fail "a writer or a reader in mode $2 failed"; done
    started=()
}

# Writers that are killed in the midst of a transaction leave a journal for the others to roll back.
kill_writers() { # DB UNTIL
    local from=0 pid
    while [ "$(date +%s)" -lt "$2" ]; do
        { echo "BEGIN IMMEDIATE; UPDATE account SET money = money + 1;"
          echo "PRAGMA cache_spill = 1; PRAGMA cache_size = 5;"
          echo "INSERT INTO done SELECT 99, id + $from, hex(randomblob(2000)) FROM account;"
          sleep 5; } | sqlite3 -cmd '.timeout 120000' "$1" > /dev/null 2>&1 &
        pid=$!
        sleep 0.7
        kill -9 "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
        from=$((from + accounts))
    done
}

compare_rows() { # DB
    local i told rows
    for i in $(seq "$writers"); do
        told=$(tail -n 1 "$SCRATCH/committed-$i")
        rows=$(sql "$1" "SELECT count(*) || ' to ' || max(number) FROM done WHERE writer = $i")
        [ "$rows" = "$told to $told" ] || fail "writer $i has the rows $rows, and committed $told"
    done
    rows=$(sql "$1" "SELECT count(*) FROM done WHERE writer = 99")
    [ "$rows" -eq 0 ] || fail "$rows rows of a killed writer's transaction are there"
    [ "$(sql "$1" 'SELECT sum(money) FROM account')" -eq 0 ] || fail "the sum is not 0"
    [ "$(sql "$1" 'PRAGMA integrity_check')" = ok ] || fail "$(sql "$1" 'PRAGMA integrity_check')"
}

figures=''
for mode in wal delete; do
    step "journal mode $mode"
    under_load "$MNT/$mode.db" "$mode"
    compare_rows "$MNT/$mode.db"
    figures+="$mode: $(cat "$SCRATCH"/committed-* | wc -l) transactions, $(cat "$SCRATCH"/read-* | wc -l) reads; "
    remount
    compare_rows "$MNT/$mode.db"
    sql "$MNT/$mode.db" VACUUM
    compare_rows "$MNT/$mode.db"
done
echo "figures: ${figures%; }"
