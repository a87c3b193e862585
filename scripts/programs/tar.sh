#!/usr/bin/env bash
# tar: an odd tree made on the mount, packed there and unpacked on the host, and the reverse.
# shellcheck source=scripts/programs/lib.sh
. "$(dirname "$0")/lib.sh"

pack() { # DIR ARCHIVE
    tar -C "$1" --format=posix --xattrs --xattrs-include='*' --acls --no-selinux --sparse --numeric-owner -cf "$2" .
}
unpack() { # ARCHIVE DIR
    mkdir "$2"
    tar -C "$2" --xattrs --xattrs-include='*' --acls --no-selinux --numeric-owner -xpf "$1"
}

step "making the tree on the mount"
make_odd_tree "$MNT/tree"
rm "$MNT/tree/types/socket" "$MNT/tree/types/second-fifo" # archives hold no sockets, and no links to pipes
touch -d '2001-02-03 04:05:06.123456789' "$MNT/tree/types"
remount
step "from the mount to the host"
pack "$MNT/tree" "$SCRATCH/from-mount.tar"
unpack "$SCRATCH/from-mount.tar" "$SCRATCH/host"
same_trees "$MNT/tree" "$SCRATCH/host"
step "and back"
pack "$SCRATCH/host" "$MNT/from-host.tar"
unpack "$MNT/from-host.tar" "$MNT/back"
remount
same_trees "$SCRATCH/host" "$MNT/back"
same_trees "$MNT/tree" "$MNT/back"
tar -C "$MNT/tree" --numeric-owner --acls --xattrs --compare -f "$MNT/from-host.tar"
echo "figures: $(tar -tf "$MNT/from-host.tar" | wc -l) files, $(du -m --apparent-size "$MNT/from-host.tar" | cut -f1) MiB of archive"
