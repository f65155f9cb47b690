#!/usr/bin/env bash
# Runs the end-to-end tests with the program under the name pgbackrest:  scripts/test-as-pgbackrest.sh [MODULE]...
#
# It reads the variables of pgBackRest then, has that one's default paths and says its version; config files and commands are the same.
# By default all modules of crates/pgbr-cli/tests/it: for the night, and for whoever changes what the name decides. scripts/test.sh runs
# some of them so.
#
# Environment:
#   PGBR_TEST_PG_MAJORS      PostgreSQL majors to test against (default "15")
#   PGBR_TEST_TMP            where the tests make their directories (default: a directory in /tmp, made and removed here)
#   PGBR_TEST_KEEP           1: what the tests make stays
#   RUST_TEST_THREADS        tests at a time (default: two for each processor)
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

export PGBR_TEST_NAME=pgbackrest
export PGBR_TEST_PG_MAJORS=${PGBR_TEST_PG_MAJORS:-15}
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((2 * $(nproc)))}

main() {
    local start=$SECONDS
    check_modules "$@"
    "$ROOT/scripts/setup-tests.sh"
    cd "$ROOT"
    if [ -z "${PGBR_TEST_TMP:-}" ]; then
        made=$(make_tests_dir)
        trap 'remove_tests_dir "$made"' EXIT
        export PGBR_TEST_TMP=$made
    fi
    cargo test -p pgbr-cli --test it -- "${@/%/::}"
    say "passed under the name $PGBR_TEST_NAME in $((SECONDS - start)) s"
}

main "$@"
