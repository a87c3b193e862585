#!/usr/bin/env bash
# The fuzz bodies under libFuzzer, which keeps the inputs that reach what none before has reached.
# Usage: fuzz.sh SECONDS     (for each body; those inputs go to target/fuzz, one that fails to tests/fuzz/artifacts)
set -euo pipefail

if [ $# -ne 1 ]; then
    sed -n 's/^# \(Usage: [^(]*\).*/\1/p' "$0" >&2
    exit 2
fi
cd "$(dirname "$0")/.."
for target in records request requests operations pool; do
    corpora=("target/fuzz/$target")
    mkdir -p "${corpora[0]}"
    if [ -d "tests/fuzz/corpus/$target" ]; then corpora+=("tests/fuzz/corpus/$target"); fi
    # A session counts as ended a moment before its threads have given back what is theirs alone: no leak.
    "${CARGO:-cargo}" +nightly fuzz run --fuzz-dir tests/fuzz "$target" "${corpora[@]}" -- \
        -max_total_time="$1" -timeout=60 -detect_leaks=0
done
