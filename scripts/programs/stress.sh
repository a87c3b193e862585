#!/usr/bin/env bash
# stress-ng: its stressors for filesystems, one after the other, each verifying what it does. One that fails on
# the host's filesystem just the same is named, and is no failure of ours.
# shellcheck source=scripts/programs/lib.sh
. "$(dirname "$0")/lib.sh"

# Those that need other filesystems or modules, or have nothing to do with files.
excluded='binderfs bind-mount procfs ioprio eventfd'

stressors() {
    stress-ng --class 'filesystem?' 2>&1 | sed -n 's/^class .*stressors: //p' | tr ' ' '\n' |
        grep -vxF "$(tr ' ' '\n' <<< "$excluded")"
}

# stress-ng exits with 0 although a stressor failed, so its messages decide.
failures() { # STRESSOR DIR SECONDS
    local log=$SCRATCH/log
    mkdir -p "$2"
    timeout -k 5 $(($3 + 120)) stress-ng "--$1" 2 --verify --temp-path "$2" -t "$3" --hdd-bytes 64M \
        > "$log" 2>&1 || { echo "exit code $?" >> "$log"; echo "$1: exit code not 0: $(tail -n 3 "$log" | paste -s)"; }
    sed -n "s/^stress-ng: fail: *\[[0-9]*\] */$1: /p" "$log" | sort -u | head -n 10
}

mapfile -t names < <(stressors)
[ "${#names[@]}" -gt 20 ] || fail "stress-ng has only the stressors ${names[*]}"
each=$((STRESS_SECONDS / ${#names[@]}))
[ "$each" -gt 0 ] || each=1
bad=0 excused=()
for name in "${names[@]}"; do
    step "$name"
    here=$(failures "$name" "$MNT/stress" "$each")
    [ -n "$here" ] || continue
    echo "$here"
    if [ -n "$(failures "$name" "$SCRATCH/stress" "$each")" ]; then
        excused+=("$name")
    else
        bad=$((bad + 1))
    fi
done
[ "$bad" -eq 0 ] || fail "$bad stressors fail on the mount and not on the host"
rm -r "$MNT/stress" # whatever the stressors have left can be removed
figures="${#names[@]} stressors, $each s each"
[ "${#excused[@]}" -eq 0 ] || figures+="; these fail on the host too: ${excused[*]}"
echo "figures: $figures"
