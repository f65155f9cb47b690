#!/usr/bin/env bash
# Runs the end-to-end tests with the repository in each kind of object store:  scripts/test-stores.sh [s3|azure|gcs|posix]...
#
# By default all three object stores, one after the other, each on a server that the tests start (see setup-tests.sh). Takes far
# longer than what scripts/test.sh runs of them: for the night, and for whoever changes how stores are spoken to.
#
# Environment:
#   PGBR_TEST_PG_MAJORS      PostgreSQL majors to test against (default "15")
#   PGBR_TEST_TMP            where the tests make their directories (default: a directory in /tmp, made and removed here)
#   PGBR_TEST_KEEP           1: what the tests make stays
#   PGBR_TEST_KILLS          how many commands are killed at random moments (default 8)
#   PGBR_TEST_DENSE          set: many more changed bytes in the tests of verify
#   PGBR_TEST_AWAY_SECONDS   how long a store stays away in the tests of that (default here 60, else 5)
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

# Modules of crates/pgbr-cli/tests/it that are the same for every store. The others are about files, or need no repository.
MODULES=(annotations archive_get delta drill guards keys kills layouts majors model random_kills recovery retention scenarios selective
    signals standbys stopping storm timelines upgrade verify)
# Those that break, refuse or take away an object store.
FAULTS=(bad_stores flaky_store store_away)

export PGBR_TEST_PG_MAJORS=${PGBR_TEST_PG_MAJORS:-15}
export PGBR_TEST_AWAY_SECONDS=${PGBR_TEST_AWAY_SECONDS:-60}

main() {
    [ "$#" -gt 0 ] || set -- s3 azure gcs
    local store failed=()
    for store in "$@"; do
        [[ " posix s3 azure gcs " == *" $store "* ]] || die "usage: $0 [s3|azure|gcs|posix]..."
    done
    check_modules "${FAULTS[@]}" "${MODULES[@]}"
    "$ROOT/scripts/setup-tests.sh"
    cd "$ROOT"
    if [ -z "${PGBR_TEST_TMP:-}" ]; then
        made=$(make_tests_dir)
        trap 'remove_tests_dir "$made"' EXIT
        export PGBR_TEST_TMP=$made
    fi
    for store in "$@"; do
        run_tests "$store" "${FAULTS[@]}" "${MODULES[@]}" || failed+=("$store")
    done
    [ "${#failed[@]}" -eq 0 ] || die "failed: ${failed[*]}"
}

# <store> <module>...
run_tests() {
    local store=$1 start=$SECONDS
    shift
    say "$store: $*"
    PGBR_TEST_STORE=$store cargo test -p pgbr-cli --test it -- "${@/%/::}" || return
    say "passed in $((SECONDS - start)) s: $store"
}

main "$@"
