#!/usr/bin/env bash
# Sees to what building, the demonstration and the tests need beyond a Rust toolchain. Installs what
# is missing with apt-get when run by root on Debian, and otherwise says what to install.
# Usage: setup.sh [tests | fuzz | bench [OPTIONS]]
#     tests: also the suites and programs that the tests run on a mount
#     fuzz: also what libFuzzer needs: a nightly toolchain, for its counters and the sanitizers
#     bench: also the filesystems and programs of the benchmark, as far as there are packages of them
set -euo pipefail

packages=()
need() { command -v "$1" >/dev/null 2>&1 || packages+=("${@:2}"); }

if ! command -v cargo >/dev/null 2>&1; then
    echo "setup: cargo is not in the PATH: install a Rust toolchain first, see https://rustup.rs" >&2
    exit 1
fi
need cc gcc libc6-dev        # the linker, and the assembly of the hash function
need getfattr attr           # to show a snapshot's figures
need diff diffutils
if [ "$(id -u)" -ne 0 ]; then
    need fusermount3 fuse3   # root mounts without it
fi
if [ "${1:-}" = tests ]; then
    need mkfs.ext4 e2fsprogs # the filesystem that pjdfstest runs on for comparison
    need git git
    need rsync rsync
    need sqlite3 sqlite3
    need fio fio
    need stress-ng stress-ng
    need setfacl acl
    need fusermount3 fuse3   # mounts by an ordinary user
    need setcap libcap2-bin
    need pgrep procps
    need perl perl           # to make a socket
    if [ "$(uname -m)" = x86_64 ]; then
        need linux.uml user-mode-linux # the machine whose power is cut
        need insmod kmod
    fi
    # Debian keeps the server's programs out of the PATH.
    compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || need initdb postgresql
fi

if [ "${1:-}" = fuzz ]; then
    need c++ g++             # libFuzzer
fi

# Installing Debian's package also makes a database and starts a server, unless a file says not to. The file
# is there for this installation only.
no_database=/etc/postgresql-common/createcluster.d/amberfs-setup.conf
forbid_database() { # PACKAGE...
    [[ " $* " = *" postgresql "* ]] || return 0
    mkdir -p "${no_database%/*}"
    echo 'create_main_cluster = false' >"$no_database"
    trap 'rm -f "$no_database"' EXIT
}

install() { # PACKAGE...
    echo "setup: installing $*"
    forbid_database "$@"
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y --no-install-recommends "$@" >/dev/null 2>&1 ||
        { apt-get update >/dev/null && apt-get install -y --no-install-recommends "$@" >/dev/null; }
}

if [ "${#packages[@]}" -gt 0 ]; then
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
        install "${packages[@]}"
    else
        echo "setup: missing: ${packages[*]}; install them with your package manager" >&2
        exit 1
    fi
fi

if [ "${1:-}" = tests ]; then
    # Programs of cargo's own registry: a POSIX suite and a file system exerciser.
    command -v pjdfstest >/dev/null 2>&1 || cargo install --locked --quiet pjdfstest@0.2.2
    command -v fsx >/dev/null 2>&1 || cargo install --locked --quiet fsx@0.3.2
fi

if [ "${1:-}" = fuzz ]; then
    cargo +nightly --version >/dev/null 2>&1 || rustup toolchain install nightly --profile minimal
    command -v cargo-fuzz >/dev/null 2>&1 || cargo install --locked --quiet cargo-fuzz@0.13.2
fi

# The benchmark does without what can't be had, and says so.
offer() { # PROGRAM PACKAGE
    if compgen -G "$1" >/dev/null || command -v "$1" >/dev/null 2>&1; then return 0; fi
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
        install "$2" 2>/dev/null && return 0
    fi
    echo "setup: without $2: the benchmark leaves out what needs it"
}
if [ "${1:-}" = bench ]; then
    PATH=$PATH:/usr/sbin:/sbin
    offer mkfs.btrfs btrfs-progs
    offer mkfs.xfs xfsprogs
    offer bindfs bindfs
    offer zfs-fuse zfs-fuse
    offer git git
    offer sqlite3 sqlite3
    offer '/usr/lib/postgresql/*/bin/initdb' postgresql
    if [[ " $* " != *" --quick "* ]]; then
        offer xz xz-utils
        newest=$(apt-cache pkgnames linux-source- 2>/dev/null | grep -x 'linux-source-[0-9.]*' | sort -V | tail -n 1 || true)
        offer '/usr/src/linux-source-*.tar.xz' "${newest:-linux-source}"
    fi
fi

if [ ! -e /dev/fuse ] && [ "$(id -u)" -eq 0 ]; then
    modprobe fuse 2>/dev/null || true
    [ -e /dev/fuse ] || mknod -m 666 /dev/fuse c 10 229 2>/dev/null || true
fi
if [ ! -e /dev/fuse ]; then
    echo "setup: there is no /dev/fuse: load the module fuse, or start the container with --device /dev/fuse" >&2
    exit 1
fi
