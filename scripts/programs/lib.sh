# shellcheck shell=bash
# What the programs share; each of them sources it first.
# They get AMBERFS, POOL, MNT (the mount), SCRATCH (an empty directory of the host) and their lengths in the
# environment, and print a line "figures: ..." when all was well.
set -euo pipefail
cd /

fail() { echo "$*" >&2; exit 1; }
step() { printf '%(%H:%M:%S)T  %s\n' -1 "$*"; }

# Empties every cache: what is read after it comes from the pool's files.
remount() {
    "$AMBERFS" -q umount "$MNT"
    "$AMBERFS" mount "$POOL" "$MNT"
}

# Makes in a directory what copying programs get wrong: odd names, types, modes, owners, times, attributes.
make_odd_tree() { # DIR
    mkdir -p "$1"
    (
        cd "$1"
        odd_names
        odd_types
        odd_modes
        many_files
        odd_attributes
        odd_times
    )
}

odd_names() {
    local name long
    long=$(printf 'n%.0s' {1..255})
    mkdir names
    for name in ' ' 'a b' $'new\nline' $'tab\tand\e[1m' '-rf' '--' '*' '?' 'back\slash' 'quo"te'"'s" '~' '#x#' \
        $'not\xffutf8\xc3' 'é' $'e\xcc\x81' '...' 'ends.' 'ends ' '%41' ':' 'CON' "$long"; do
        printf 'in %q\n' "$name" > "names/$name"
    done
    mkdir -p "deep/$long/$long/$long/$long/$long"
    echo deep > "deep/$long/$long/$long/$long/$long/file"
}

odd_types() {
    mkdir types
    mkfifo types/fifo
    mknod types/char c 1 3
    mknod types/block b 7 200
    mknod types/large-numbers c 4095 1048575
    perl -MSocket -e 'socket(S, PF_UNIX, SOCK_STREAM, 0) && bind(S, sockaddr_un("types/socket")) or die $!'
    ln -s nowhere types/dangling
    ln -s "$(printf 'x%.0s' {1..4000})" types/long-link
    ln -s $'odd\n\xff' types/odd-link
    ln -s . types/loop
    echo linked > types/one
    ln types/one types/two
    ln types/one names/three
    ln types/fifo types/second-fifo
    ln types/dangling types/second-dangling
    : > types/empty
    truncate -s "$TREE_HOLE" types/all-hole
    echo start > types/holes
    truncate -s 10M types/holes
    echo middle | dd of=types/holes bs=1 seek=5000001 conv=notrunc status=none
    echo end >> types/holes
    head -c 3000001 /dev/urandom > types/random
}

odd_modes() {
    local mode
    mkdir modes
    for mode in 0000 0111 0200 0444 0777 1644 2755 4755 6711 7777; do
        echo "$mode" > "modes/file$mode"
        mkdir "modes/dir$mode"
        chown 1234:4321 "modes/file$mode" "modes/dir$mode"
        chmod "$mode" "modes/file$mode" "modes/dir$mode"
    done
    echo far > modes/owner
    chown 4294967293:4294967294 modes/owner
    ln -s owner modes/owned-link
    chown -h 77:88 modes/owned-link
}

many_files() {
    awk -v n="$TREE_FILES" 'BEGIN {
        srand(1)
        for (i = 0; i < n; i++) {
            if (i % 100 == 0) { dir = "many/" int(i / 1000) "/" int(i / 100); system("mkdir -p " dir) }
            file = dir "/file" i
            lines = int(exp(rand() * 7))
            for (l = 0; l < lines; l++) printf "%d %d %.12f\n", i, l, rand() > file
            printf "end of %d\n", i > file
            close(file)
        }
    }'
}

odd_attributes() {
    local i
    mkdir attributes attributes/dir
    echo x > attributes/acl
    echo x > attributes/xattr
    echo x > attributes/many
    cp "$(type -P true)" attributes/capable
    setfacl -m u:1234:rwx,g:4321:r--,u:nobody:---,m::r-x attributes/acl
    setfacl -m u:1:rw,d:u:1234:r-x,d:g::r-x,d:o::- attributes/dir
    echo inherits > attributes/dir/file
    mkdir attributes/dir/dir
    setfattr -n user.empty -v '' attributes/xattr
    setfattr -n user.binary -v 0x0001ff00fe attributes/xattr
    setfattr -n user.large -v "$(printf 'v%.0s' {1..2000})" attributes/xattr
    setfattr -n trusted.secret -v root attributes/xattr
    setfattr -h -n trusted.of-link -v link types/dangling
    setfattr -n user.on-dir -v dir attributes
    for i in $(seq 60); do setfattr -n "user.number.$i" -v "value $i" attributes/many; done
    setcap cap_net_raw,cap_sys_admin+ep attributes/capable
}

odd_times() { # at last, the directories' deepest first, because making things changes them
    mkdir times
    for at in '1969-12-31 23:59:59.999999999' '1965-03-04 05:06:07.123456789' '1901-12-14 00:00:00.000000001' \
        '1970-01-01 00:00:00' '2038-01-19 03:14:08.5' '2106-02-07 06:28:16.000000001' '2400-02-29 12:00:00.25'; do
        echo "$at" > "times/${at%% *}"
        TZ=UTC0 touch -d "$at" "times/${at%% *}"
    done
    TZ=UTC0 touch -h -d '1955-11-05 06:00:00.000000007' types/dangling types/fifo types/char
    find . -depth -type d -exec touch -d '2001-02-03 04:05:06.123456789' {} +
}

# Everything that stat, getfacl and getfattr tell of a tree, but what has to differ between filesystems; hard
# links as the first of the names that share the inode. TIMES=0 leaves out the times.
describe_tree() { # DIR
    local times=' %t'
    [ "${TIMES:-1}" -ne 0 ] || times=''
    (
        cd "$1"
        # The record separator stands for line feeds in names.
        find . -printf "%D:%i %P|%y %m %U:%G${times/t/T@} %l|%n %s\\0" | LC_ALL=C sort -z -k 2 | tr '\n\0' '\036\n' |
            LC_ALL=C awk -F '|' '{
                inode = $1; sub(/ .*/, "", inode)
                name = $1; sub(/^[0-9:]+ /, "", name)
                is_dir = $2 ~ /^d/
                if (!(inode in first)) first[inode] = name
                print name "|" $2 "|" (is_dir ? "" : $3 " with " first[inode])
            }'
        find . \( -type b -o -type c \) -exec stat -c '%N %t:%T' {} + | LC_ALL=C sort
        getfacl -R -P -n . | records_sorted
        getfattr -R -P -h -d -m - -e hex . | records_sorted
    ) 2>&1
}
records_sorted() { # records end with an empty line; the order is that of readdir
    LC_ALL=C awk 'BEGIN { RS = ""; ORS = "\0" } { gsub(/\n/, "\n  "); print }' | LC_ALL=C sort -z | tr '\0' '\n'
}

same_trees() { # A B
    describe_tree "$1" > "$SCRATCH/described-a"
    describe_tree "$2" > "$SCRATCH/described-b"
    diff -a "$SCRATCH/described-a" "$SCRATCH/described-b" > "$SCRATCH/difference" || {
        head -n 20 "$SCRATCH/difference" | cat -v
        fail "$1 and $2 differ in what is above"
    }
    find "$1" -type f -printf '%P\0' > "$SCRATCH/files"
    (cd "$1" && xargs -0 sha256sum --zero -- < "$SCRATCH/files") > "$SCRATCH/sums"
    (cd "$2" && xargs -0 sha256sum --zero -- < "$SCRATCH/files") | cmp - "$SCRATCH/sums" ||
        fail "the contents of $1 and $2 differ"
}

# Writes files with a checksum in every block, reads them back and verifies them; the options say how.
verified_fio() { # NAME SEED OPTION...
    fio --name="$1" --directory="$MNT" --randseed="$2" --allow_file_create=1 --thread=0 --verify=crc32c \
        --verify_fatal=1 --verify_state_save=0 --do_verify=1 --fallocate=none --output-format=terse --terse-version=3 \
        "${@:3}" > "$SCRATCH/fio-result" || { cat "$SCRATCH/fio-result"; fail "fio $1 $2 failed"; }
    # The fifth field is the first error number of a job.
    awk -F ';' '/^3;/ && $5 != 0 { bad = 1; print } END { exit bad }' "$SCRATCH/fio-result" || fail "fio $1 $2 had errors"
}
