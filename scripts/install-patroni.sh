#!/usr/bin/env bash
# Installs Patroni for the test that lets it make a replica with pgbr: into a directory of its own beside the object stores (see
# install-stores.sh), not on PATH. Running it again costs nothing. Works as root, or as a user with sudo.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

PATRONI=(patroni[raft]==4.1.5 pysyncobj==0.3.17 cryptography==50.0.2 psycopg[binary]==3.3.9)

main() {
    local dir
    dir=$(stores_dir)
    mkdir -p "$dir"
    exec 9>"$dir/.patroni.lock"
    flock 9
    pip_install "$dir/patroni" "${PATRONI[@]}"
    say "Patroni: ${PATRONI[0]} in $dir/patroni"
}

main
