#!/usr/bin/env bash
# Everything that has to pass before a change is taken; continuous integration runs nothing else.
#
#   scripts/test.sh             the whole project
#   scripts/test.sh -p CRATE    formatting, lints, documentation and tests of one crate
#
# Environment:
#   PGBR_TEST_PG_MAJORS   PostgreSQL majors to test against (default "13 15 17 18"; known: 13 to 18)
#   PGBR_FUZZ_SECONDS     how long each fuzz target runs (default 5, 0: not at all)
#   PGBR_TEST_DENSE       1: crash sweeps that are sampled every day try everything
#   PGBR_TEST_SEED        the seed that crash sweeps begin with (default 1)
#   PGBR_TEST_CASE        a try of a crash sweep that is repeated alone, as one that fails is printed
#   PGBR_TEST_TMP         where the tests make their directories (default: a directory in /tmp, made and removed here)
#   PGBR_TEST_KEEP        1: what the tests make stays
#   PGBR_TEST_KILLS       how many commands are killed at random moments (default 8; PGBR_TEST_KILLS_SEED gives others)
#   RUST_TEST_THREADS     tests at a time (default: two for each processor, as most wait for servers more than they compute)
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

# Modules of crates/pgbr-cli/tests/it that are run under the name pgbackrest as well; scripts/test-as-pgbackrest.sh runs all of them so.
AS_PGBACKREST=(command_line effects help listing recovery_exit rules sources values)

export PGBR_TEST_PG_MAJORS=${PGBR_TEST_PG_MAJORS:-13 15 17 18}
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((2 * $(nproc)))}

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

# Removes what is made here, and ends what was started.
fuzz='' log='' made=''
finish() {
    [ -z "$fuzz" ] || kill -- "-$fuzz" 2>/dev/null || true
    [ -z "$log" ] || rm -f -- "$log"
    [ -z "$made" ] || remove_tests_dir "$made"
}
trap finish EXIT

check_modules "${AS_PGBACKREST[@]}"
cd "$ROOT"
step scripts/setup-tests.sh
if [ -z "${PGBR_TEST_TMP:-}" ]; then
    made=$(make_tests_dir)
    export PGBR_TEST_TMP=$made
fi
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
# With the examples, which need what tests need, the dependencies are those that clippy has checked: nothing is compiled for this alone.
step env RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --no-deps --lib --bins --examples
step cargo test --workspace --no-run
# The tests leave the processors idle for a good part of their time: fuzzing has the rest.
if [ "${PGBR_FUZZ_SECONDS:=5}" -gt 0 ]; then
    log=$(mktemp)
    set -m
    (step nice -n 19 scripts/fuzz.sh "$PGBR_FUZZ_SECONDS") >"$log" 2>&1 &
    fuzz=$!
    set +m
else
    say "NOT FUZZED: PGBR_FUZZ_SECONDS is 0"
fi
step cargo test --workspace
step env PGBR_TEST_NAME=pgbackrest cargo test -p pgbr-cli --test it -- "${AS_PGBACKREST[@]/%/::}"
if [ -n "$fuzz" ]; then
    say "waiting for the fuzz targets"
    wait "$fuzz" && fuzz='' || { cat "$log"; die "failed: fuzzing"; }
    cat "$log"
fi
