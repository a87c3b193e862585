#!/usr/bin/env bash
# Git: a clone of this project (or a repository of its files, where it is not one), many commits, branches and
# merges, garbage collection, and every check that Git has.
# shellcheck source=scripts/programs/lib.sh
. "$(dirname "$0")/lib.sh"

project=$(realpath "$(dirname "$0")/../..")
# Whatever runs this may be a hook, with variables that name another repository.
# shellcheck disable=SC2046
unset $(git rev-parse --local-env-vars)
export GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=$SCRATCH/config
git config --file "$GIT_CONFIG_GLOBAL" --add safe.directory '*'
git config --file "$GIT_CONFIG_GLOBAL" user.name Somebody
git config --file "$GIT_CONFIG_GLOBAL" user.email somebody@example.org
git config --file "$GIT_CONFIG_GLOBAL" core.fsync all
git config --file "$GIT_CONFIG_GLOBAL" gc.auto 200
git config --file "$GIT_CONFIG_GLOBAL" gc.autoDetach false
git config --file "$GIT_CONFIG_GLOBAL" advice.detachedHead false

get_project() { # DIR
    if git -C "$project" rev-parse --git-dir > /dev/null 2>&1; then
        git clone -q --no-local "$project" "$1"
    else
        git init -q "$1"
        (cd "$project" && tar -cf - --exclude=./target .) | tar -C "$1" -xf -
        git -C "$1" add -A
        git -C "$1" commit -q -m 'As it is'
    fi
}

# Lines at the end of some files, a new file, a removed and a renamed one; now and then a branch and its merge.
make_commits() {
    local i
    mkdir -p work
    for i in $(seq "$GIT_COMMITS"); do
        if [ $((i % 20)) -eq 1 ]; then git switch -q -c "topic$i"; fi
        echo "line $i" | tee -a "work/file$((i % 7))" "work/file$((i % 11))" > /dev/null
        seq "$i" $((i + i % 300)) > "work/new$i"
        if [ -e "work/new$((i - 10))" ]; then git rm -q "work/new$((i - 10))"; fi
        if [ -e "work/new$((i - 5))" ]; then git mv -f "work/new$((i - 5))" "work/moved$((i % 13))"; fi
        git add -A
        git commit -q -m "Commit $i"
        if [ $((i % 20)) -eq 0 ]; then
            git switch -q -
            git merge -q --no-ff -m "Merge $i" "topic$((i - 19))"
        fi
    done
}

is_clean() { # without the index, so that every file is read
    local changed
    rm .git/index
    git reset -q
    changed=$(git status --porcelain)
    [ -z "$changed" ] || { head <<< "$changed"; fail "the work tree is not what was committed"; }
    git fsck --full --strict --no-dangling
}

step "cloning $project"
get_project "$MNT/first"
cd "$MNT/first"
before=$(git rev-list --count HEAD)
is_clean
step "committing"
make_commits
is_clean
head=$(git rev-parse HEAD)
[ "$(git rev-list --count --no-merges HEAD)" -ge "$GIT_COMMITS" ] || fail "commits are missing"
step "collecting garbage"
git gc -q --prune=now
git repack -q -adf --depth=20 --window=20
is_clean

step "cloning with hard links, and another work tree"
git clone -q "$MNT/first" "$MNT/second"
git worktree add -q "$MNT/third" 'HEAD~5'
cd /
remount
for dir in first second; do
    cd "$MNT/$dir"
    [ "$(git rev-parse HEAD)" = "$head" ] || fail "$dir has another HEAD after the remount"
    is_clean
done
cd "$MNT/third"
[ -z "$(git status --porcelain)" ] || fail "the other work tree is not clean"
[ "$(git -C "$MNT/first" archive HEAD | sha256sum)" = "$(git -C "$MNT/second" archive HEAD | sha256sum)" ] ||
    fail "the clones' archives differ"
echo "figures: $before commits cloned, $GIT_COMMITS made, $(git -C "$MNT/first" count-objects -v |
    sed -n 's/^in-pack: //p') objects"
