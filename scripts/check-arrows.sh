#!/usr/bin/env bash
# Checks which crates depend on which: the arrows point one way only.
#
#   pgbr-cli -> pgbr -> { pgbr-repo -> { manifest, codec }, pgbr-pg -> manifest, pgbr-pgbackrest -> manifest }
#
# manifest and codec depend on none of ours and on nothing that does I/O; nor does pgbackrest depend on such, and the cipher and the hash
# of its format are used nowhere else. The testkit is for tests only.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

status=0
complain() {
    printf '%s\n' "$*" >&2
    status=1
}

# Names of the crates that one depends on, directly or (depth unlimited) at all; not those of its tests.
depends() { cargo tree --quiet -p "$1" -e normal,build --prefix none ${2:+--depth "$2"} | sed 1d | awk '{ print $1 }' | sort -u; }

check() {
    local crate=$1 allowed=" $2 " name
    for name in $(depends "$crate" 1); do
        if [[ "$name" == pgbr || "$name" == pgbr-* ]] && [[ "$allowed" != *" $name "* ]]; then
            complain "$crate may not depend on $name (allowed:$allowed)"
        fi
    done
}

check_pure() {
    local crate=$1 name
    for name in $(depends "$crate"); do
        case "$name" in
            tokio | tokio-* | object_store | rustix | reqwest | hyper) complain "$crate does no I/O and may not depend on $name" ;;
        esac
    done
}

# These are good enough for reading what others wrote that way, and for nothing of ours.
check_own() {
    local crate name
    for crate in pgbr-manifest pgbr-codec pgbr-repo pgbr-pg pgbr pgbr-cli; do
        for name in $(depends "$crate" 1); do
            case "$name" in
                aes | cbc | sha1) complain "$crate may not depend on $name: only pgbr-pgbackrest reads what is made with it" ;;
            esac
        done
    done
}

known=" pgbr-manifest pgbr-codec pgbr-repo pgbr-pg pgbr-pgbackrest pgbr pgbr-cli pgbr-testkit "
for manifest in crates/*/Cargo.toml; do
    name=$(basename "$(dirname "$manifest")")
    [[ "$known" == *" $name "* ]] || complain "$name is not known to scripts/check-arrows.sh: say there what it may depend on"
done

check pgbr-manifest ""
check pgbr-codec ""
check pgbr-repo "pgbr-manifest pgbr-codec"
check pgbr-pg "pgbr-manifest"
check pgbr-pgbackrest "pgbr-manifest"
check pgbr "pgbr-manifest pgbr-codec pgbr-repo pgbr-pg pgbr-pgbackrest"
check pgbr-cli "pgbr"
check pgbr-testkit ""
check_pure pgbr-manifest
check_pure pgbr-codec
check_pure pgbr-pgbackrest
check_own
exit "$status"
