#!/usr/bin/env bash
# Everything that has to pass before a change is taken; continuous integration runs nothing else.
#
#   scripts/test.sh             the whole project
#   scripts/test.sh -p CRATE    formatting, lints, documentation and tests of one crate
#
# Environment:
#   PGBR_TEST_PG_MAJORS   PostgreSQL majors to test against (default "13 15 17 18"; known: 13 to 18)
#   PGBR_FUZZ_SECONDS     how long each fuzz target runs (default 10, 0: not at all)
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

export PGBR_TEST_PG_MAJORS=${PGBR_TEST_PG_MAJORS:-13 15 17 18}
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}

crate=
case "$#-${1:-}" in
    0-) ;;
    2--p) crate=$2 ;;
    *) die "usage: $0 [-p CRATE]" ;;
esac

# Says what is run and how long it took.
step() {
    local start=$SECONDS
    say "$*"
    "$@" || die "failed: $*"
    say "passed in $((SECONDS - start)) s: $*"
}

cd "$ROOT"
step scripts/setup-tests.sh
if [ -n "$crate" ]; then
    step cargo fmt -p "$crate" --check
    step cargo clippy -p "$crate" --all-targets -- -D warnings
    step env RUSTDOCFLAGS=-Dwarnings cargo doc -p "$crate" --no-deps
    step cargo test -p "$crate"
    exit
fi
step cargo fmt --all --check
step scripts/check-arrows.sh
step cargo clippy --workspace --all-targets -- -D warnings
step env RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --no-deps
if [ "${PGBR_FUZZ_SECONDS:=5}" -gt 0 ]; then
    step scripts/fuzz.sh "$PGBR_FUZZ_SECONDS"
else
    say "NOT FUZZED: PGBR_FUZZ_SECONDS is 0"
fi
# Last, so that what is printed last is the count of tests.
step cargo test --workspace
