#!/usr/bin/env bash
# Cargo: a generated crate is built, tested and run on the mount. What has not changed is not built again, and
# what has changed is.
# shellcheck source=scripts/programs/lib.sh
. "$(dirname "$0")/lib.sh"

unset CARGO_TARGET_DIR CARGO_BUILD_TARGET_DIR RUSTFLAGS
export CARGO_NET_OFFLINE=true CARGO_INCREMENTAL=1 CARGO_TERM_COLOR=never

make_crate() { # DIR
    local i
    mkdir -p "$1/src" "$1/tests"
    printf '[package]\nname = "sums"\nversion = "0.1.0"\nedition = "2021"\n[workspace]\n' > "$1/Cargo.toml"
    for i in $(seq "$CARGO_MODULES"); do
        cat > "$1/src/part$i.rs" <<RUST
pub fn value(of: &[u64]) -> u64 {
    let mut sorted: std::collections::BTreeMap<u64, Vec<u64>> = Default::default();
    for x in of { sorted.entry(x % $((i + 1))).or_default().push(*x); }
    sorted.into_values().flatten().map(|x| x.wrapping_mul($i)).fold(0, u64::wrapping_add)
}
#[test]
fn is_a_multiple() { assert_eq!(value(&[1, 2, 3]), 6 * $i); }
RUST
    done
    { for i in $(seq "$CARGO_MODULES"); do echo "pub mod part$i;"; done
      echo "pub fn sum() -> u64 { [$(seq -f 'part%g::value(&[1])' -s ', ' "$CARGO_MODULES")].iter().sum() }"; } > "$1/src/lib.rs"
    echo 'fn main() { println!("{}", sums::sum()); }' > "$1/src/main.rs"
    echo '#[test] fn adds_up() { assert!(sums::sum() > 0); }' > "$1/tests/whole.rs"
}

says() { # NUMBER
    local said
    said=$(cargo run -q)
    [ "$said" = "$1" ] || fail "the program prints $said, and not $1"
}

make_crate "$MNT/crate"
cd "$MNT/crate"
sum=$((CARGO_MODULES * (CARGO_MODULES + 1) / 2))
step "the first build"
start=$EPOCHREALTIME
cargo build 2>&1
took=$(awk -v from="$start" -v to="$EPOCHREALTIME" 'BEGIN { printf "%.1f", to - from }')
says "$sum"
step "nothing to do"
cargo build -v 2>&1 | tee "$SCRATCH/again"
grep -q 'Fresh sums' "$SCRATCH/again" || fail "what has not changed is built again"
step "one file changed"
sed -i 's/wrapping_mul(1)/wrapping_mul(1).wrapping_add(1000)/' src/part1.rs
says $((sum + 1000))
sed -i 's/.wrapping_add(1000)//' src/part1.rs
says "$sum"
step "the tests, and an optimized build"
cargo test 2>&1 | tee "$SCRATCH/tests"
grep -q "test result: ok. $CARGO_MODULES passed" "$SCRATCH/tests" || fail "the tests did not all pass"
cargo build --release 2>&1
[ "$(target/release/sums)" = "$sum" ] || fail "the optimized program is wrong"
cd /
remount
cd "$MNT/crate"
step "after a remount"
cargo build -v 2>&1 | tee "$SCRATCH/again"
grep -q 'Fresh sums' "$SCRATCH/again" || fail "the remount made it build again"
says "$sum"
cargo clean
[ ! -e target ] || fail "cargo clean has left something"
says "$sum" # built anew, which leaves the pool's check something to verify
cd /
echo "figures: $CARGO_MODULES modules built in $took s"
