#!/usr/bin/env bash
# The tests of takeover on a kernel that can't send requests again (user-mode Linux is 6.1): daemons are killed
# under load, and nobody notices.
# Usage: old-kernel.sh     (as root; builds the tests of the command line; AMBERFS_KILLS: how many; TMPDIR: where)
set -euo pipefail

here=$(realpath "$(dirname "$0")")
fail() { echo "old-kernel: $*" >&2; exit 1; }
if [ "$(uname -m)" != x86_64 ]; then
    echo "old-kernel: skipped: there is user-mode Linux for x86-64 only"
    exit
fi
[ "$(id -u)" -eq 0 ] || fail "root is needed: the guest has the host's root"

TESTS=$("${CARGO:-cargo}" test --locked --test cli --no-run --message-format=json |
    sed -n 's/.*"executable":"\([^"]*\/deps\/cli-[^"]*\)".*/\1/p')
[ -x "$TESTS" ] || fail "the tests of the command line are not there"
work=$(realpath "$(mktemp -d "${TMPDIR:-/tmp}/amberfs-old.XXXXXX")")
kills=${AMBERFS_KILLS:-5}
max_wait=$((600 + 15 * kills))
# shellcheck source=scripts/power-cuts/machine.sh
. "$here/power-cuts/machine.sh"
trap 'cut_machine; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
complain() { # WHY
    tail -n 60 "$work/console" | sed 's/^/    /' >&2
    fail "$1"
}
hangs() { complain "the machine hangs"; }

begun=$SECONDS
prepare_machine
start_machine 512 "$here/power-cuts/takeover.sh" "TESTS=$TESTS" "AMBERFS_KILLS=$kills"
await 'guest: all passed' || complain "a daemon's death was noticed"
kernel=$(sed -n 's/^guest: Linux //p' "$work/console")
passed=$(grep -c '^test .* ok' "$work/console" || true)
[ "$passed" -ge 5 ] || complain "only $passed tests ran"
echo "old-kernel: $passed tests of takeover passed on Linux $kernel, $((SECONDS - begun)) s"
