# shellcheck shell=bash
# A virtual machine (user-mode Linux, whose kernel is a process) whose root is the host's, read-only; sourced.
# $work is a directory of the run, and $WORK its name for the machine, with `guest`, where it mounts what it writes
# to. What the machine says is in $work/console.

# Longest time until something is said that is awaited, in seconds.
max_wait=${max_wait:-120}
machine=''

prepare_machine() {
    mkdir "$work/guest"
    cc -O1 -shared -fPIC -o "$work/xstate.so" "$(dirname "${BASH_SOURCE[0]}")/xstate.c"
}

start_machine() { # MEGABYTES INIT ARGUMENT...
    : > "$work/console"
    LD_PRELOAD=$work/xstate.so setsid linux.uml "mem=$1M" root=/dev/root rootfstype=hostfs rootflags=/ ro quiet \
        "init=$2" con=null con0=null,fd:1 "WORK=$work" "${@:3}" < /dev/null >> "$work/console" 2>&1 &
    machine=$!
}

cut_machine() {
    if [ -n "$machine" ]; then
        # The machine is a process group: its kernel, and one process for each address space in it.
        kill -9 -- "-$machine" 2>/dev/null || true
        wait "$machine" 2>/dev/null || true
    fi
    machine=''
}

says() { grep -q "$1" "$work/console"; }
ends() { ! kill -0 "$machine" 2>/dev/null; }

# Waits until the machine says something; fails if it says that it has failed, or ends, or hangs, which calls `hangs`.
await() { # WHAT
    local until=$((SECONDS + max_wait))
    until says "$1"; do
        if says ': FAILED' || ends; then return 1; fi
        [ "$SECONDS" -lt "$until" ] || hangs
        sleep 0.05
    done
}
