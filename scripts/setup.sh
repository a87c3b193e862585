#!/usr/bin/env bash
# Sees to what building, the demonstration and the tests need beyond a Rust toolchain. Installs what
# is missing with apt-get when run by root on Debian, and otherwise says what to install.
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

if [ "${#packages[@]}" -gt 0 ]; then
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "setup: installing ${packages[*]}"
        export DEBIAN_FRONTEND=noninteractive
        apt-get install -y --no-install-recommends "${packages[@]}" >/dev/null 2>&1 ||
            { apt-get update >/dev/null && apt-get install -y --no-install-recommends "${packages[@]}" >/dev/null; }
    else
        echo "setup: missing: ${packages[*]}; install them with your package manager" >&2
        exit 1
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
