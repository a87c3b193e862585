#!/usr/bin/env bash
# fio: files written in several ways, with checksums in every block, which are read back and verified: at once,
# after each was overwritten in another order, and after a remount.
# shellcheck source=scripts/programs/lib.sh
. "$(dirname "$0")/lib.sh"

patterns=(buffered direct mapped mixed aio append)
options() { # PATTERN
    case $1 in
        buffered) echo --ioengine=psync --rw=randwrite --bsrange=4k-64k --blockalign=4k --fsync=64 ;;
        direct) echo --ioengine=psync --rw=randwrite --bs=16k --direct=1 ;;
        mapped) echo --ioengine=mmap --rw=randwrite --bs=4k --fsync=256 ;;
        mixed) echo --ioengine=psync --rw=randrw --bs=8k --rwmixread=30 --numjobs=2 --fdatasync=128 ;;
        aio) echo --ioengine=libaio --iodepth=16 --rw=randwrite --bs=4k --direct=1 ;;
        append) echo --ioengine=pvsync2 --rw=write --bs=3000 "--size=$((FIO_MB * 333 * 3000))" --end_fsync=1 ;;
    esac
}
run() { # PATTERN SEED [OPTION...]
    local chosen
    read -ra chosen <<< "$(options "$1")"
    verified_fio "$1" "$2" --size="${FIO_MB}m" "${chosen[@]}" "${@:3}"
}

for pattern in "${patterns[@]}"; do
    step "$pattern"
    run "$pattern" 1
    run "$pattern" 2
done
remount
for pattern in "${patterns[@]}"; do
    step "$pattern after the remount"
    run "$pattern" 2 --verify_only=1
done

step "all at once, with a snapshot"
mkdir "$MNT/.snapshots/before"
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true' EXIT
for pattern in "${patterns[@]}"; do
    (SCRATCH=$SCRATCH/$pattern; mkdir "$SCRATCH"; run "$pattern" 3) & pids+=($!)
done
sleep 1
mkdir "$MNT/.snapshots/during"
for pid in "${pids[@]}"; do wait "$pid" || fail "a run at the same time as others failed"; done
pids=()
[ "$(find "$MNT/.snapshots/before/" -type f -size "${FIO_MB}M" | wc -l)" -ge 5 ] || fail "the snapshot lacks files"
rmdir "$MNT/.snapshots/before" "$MNT/.snapshots/during"
echo "figures: ${#patterns[@]} patterns of $FIO_MB MiB, each written three times"
