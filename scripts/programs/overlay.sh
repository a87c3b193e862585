#!/usr/bin/env bash
# overlayfs with its upper and work directory on the volume, its lower one on the host: the same changes through
# it and to a plain copy give the same tree. And programs that run in a root directory on the volume.
# shellcheck source=scripts/programs/lib.sh
. "$(dirname "$0")/lib.sh"

merged=$SCRATCH/merged
unmount_all() { umount "$merged" 2>/dev/null || true; }
trap unmount_all EXIT
modprobe overlay 2>/dev/null || true
if ! grep -qw overlay /proc/filesystems; then
    echo "figures: skipped, this kernel has no overlayfs"
    exit 0
fi

mount_overlay() { # NAME OPTIONS [WHAT-THE-ROOT-IS-AS-OLD-AS]
    mkdir -p "$MNT/$1/upper" "$MNT/$1/work" "$merged"
    mount -t overlay overlay \
        -o "lowerdir=$SCRATCH/lower,upperdir=$MNT/$1/upper,workdir=$MNT/$1/work$2" "$merged"
    # overlayfs makes itself read-only when the upper directory can't do what it needs.
    touch "$merged/probe" || fail "the overlay cannot be written to"
    rm "$merged/probe"
    touch -r "${3:-$SCRATCH/lower}" "$merged"
}

change_tree() { # DIR
    cd "$1"
    echo appended >> types/random
    echo over | dd of=types/holes bs=1 seek=1000 conv=notrunc status=none
    truncate -s 100 types/one
    rm names/back* attributes/many
    rm -r many/0/1
    mkdir many/0/1
    echo anew > many/0/1/anew
    mv many/0/0 renamed
    mv renamed/file1 renamed/file2
    mv types/fifo fifo
    mv types/dangling names/dangling
    echo two names > types/new
    ln types/new another-name
    ln -s nowhere new-link
    mknod new-device c 5 6
    chmod 640 modes/file0777
    chown 5:6 modes/file0444
    chown -h 5:6 types/loop
    setfattr -n user.new -v new attributes/xattr
    setfattr -x user.large attributes/xattr
    setfattr -n trusted.new -v new attributes
    setfacl -m u:99:rw attributes/acl
    setfacl -x d:u:1234 attributes/dir
    echo inherits > attributes/dir/new
    mkdir -p new/a/b
    echo c > new/a/b/c
    mv new/a/b new/b
    rmdir new/a
    find . -depth -exec touch -h -d '2002-03-04 05:06:07.89' {} +
    cd /
}

compare_overlay() { # NAME OPTIONS
    step "overlay with the options '$2'"
    mount_overlay "$1" "$2"
    same_trees "$SCRATCH/lower" "$merged"
    change_tree "$merged"
    same_trees "$SCRATCH/plain" "$merged"
    umount "$merged"
    [ "$(stat -c '%t:%T %F' "$MNT/$1/upper/attributes/many")" = '0:0 character special file' ] ||
        fail "a removed file is not a whiteout in the upper directory"
    remount
    mount_overlay "$1" "$2" "$SCRATCH/plain"
    same_trees "$SCRATCH/plain" "$merged"
    umount "$merged"
}

# A directory with a shell and some tools, and the libraries that they are linked with.
make_root() { # DIR
    local tool
    mkdir -p "$1/bin" "$1/tmp" "$1/dev"
    mknod -m 666 "$1/dev/null" c 1 3
    for tool in bash cat cp ls mv rm mkdir sort sha256sum seq sed grep awk tar find; do
        cp -L "$(type -P "$tool")" "$1/bin/"
    done
    for tool in "$1"/bin/*; do
        ldd "$tool" | grep -o '/[^ ]*' | while IFS= read -r lib; do cp -L --parents "$lib" "$1/"; done
    done
}

use_root() { # DIR
    cat > "$1/tmp/script" <<'SCRIPT'
set -euo pipefail
mkdir /tmp/in
for i in $(seq 20); do seq "$i" 1000 > "/tmp/in/$i"; done
tar -C /tmp/in -cf /tmp/all.tar . 2> /dev/null
mkdir /tmp/out
tar -C /tmp/out -xf /tmp/all.tar
mv /tmp/out/20 /tmp/out/moved
cp /tmp/out/moved /tmp/out/20
rm /tmp/out/moved
sha256sum /tmp/in/* | sed 's|/in/|/|' | sort > /tmp/sums.in
sha256sum /tmp/out/* | sed 's|/out/|/|' | sort > /tmp/sums.out
cat /tmp/sums.in > /dev/null
grep -c . /tmp/sums.in
[ "$(cat /tmp/sums.in)" = "$(cat /tmp/sums.out)" ]
find /tmp/in -name '1*' | awk 'END { print NR }'
SCRIPT
    [ "$(chroot "$1" /bin/bash /tmp/script | paste -s)" = $'20\t11' ] || fail "the programs in $1 did not work"
}

make_odd_tree "$SCRATCH/lower"
# A copy up breaks hard links, as overlayfs documents, so the lower directory has none.
rm "$SCRATCH/lower/types/two" "$SCRATCH/lower/types/second-"* "$SCRATCH/lower/names/three"
cp -a "$SCRATCH/lower" "$SCRATCH/plain"
change_tree "$SCRATCH/plain"
compare_overlay simple ''
compare_overlay redirected ,redirect_dir=on,metacopy=on

step "programs in a root directory on the volume"
make_root "$MNT/root"
remount
use_root "$MNT/root"
step "programs in a root directory of an overlay on the volume"
rm -rf "$SCRATCH/lower"
make_root "$SCRATCH/lower"
mount_overlay programs ''
use_root "$merged"
umount "$merged"
echo "figures: $(find "$SCRATCH/plain" | wc -l) files through two overlays, programs in two roots"
