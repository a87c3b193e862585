#!/usr/bin/env bash
# rsync: an odd tree from the host to the mount and back, with everything that rsync can carry.
# shellcheck source=scripts/programs/lib.sh
. "$(dirname "$0")/lib.sh"

# A window of -1 has it compare the nanoseconds of times too.
copy() { rsync -aHAXS --modify-window=-1 --numeric-ids "$@"; }
nothing_to_do() { # FROM TO
    local difference
    difference=$(copy -n --itemize-changes --checksum --delete "$1/" "$2/")
    [ -z "$difference" ] || { head -n 20 <<< "$difference"; fail "rsync would change $2 from $1"; }
}

host=$SCRATCH/host back=$SCRATCH/back
step "making the tree on the host"
make_odd_tree "$host"
step "copying it to the mount"
copy "$host/" "$MNT/tree/"
remount
step "comparing it"
nothing_to_do "$host" "$MNT/tree"
nothing_to_do "$MNT/tree" "$host"
same_trees "$host" "$MNT/tree"
[ "$(stat -c %b "$MNT/tree/types/all-hole")" -eq 0 ] || fail "the hole takes space on the mount"

step "copying it back"
copy "$MNT/tree/" "$back/"
nothing_to_do "$MNT/tree" "$back"
nothing_to_do "$back" "$host"
same_trees "$MNT/tree" "$back"

step "within the mount, with hard links to what is the same, and changing a part in place"
copy --link-dest=../tree "$MNT/tree/" "$MNT/linked/"
[ "$MNT/linked/types/random" -ef "$MNT/tree/types/random" ] || fail "rsync --link-dest has not made a hard link"
rm -r "$MNT/linked"
echo changed >> "$host/types/random"
echo changed > "$host/types/one"
find "$host/many" -type f -name '*7' -delete
rm -r "$host/names"
copy --delete --inplace --no-whole-file -S "$host/" "$MNT/tree/"
nothing_to_do "$host" "$MNT/tree"
same_trees "$host" "$MNT/tree"
echo "figures: $(find "$host" | wc -l) files, $(du -sm --apparent-size --exclude=all-hole "$host" | cut -f1) MiB"
