#!/usr/bin/env bash
# Installs the object stores that the tests run against: moto for S3 and azurite for Azure (Google's is a part of the testkit).
#
# Each goes into a directory of its own below $PGBR_TEST_STORES_DIR, by default /var/cache/pgbr-test/stores or, where that
# cannot be written, ~/.cache/pgbr-test/stores. Nothing is put on PATH. Running it again costs nothing. Works as root, or as a
# user with sudo (only missing system packages need it).
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

MOTO=(moto[s3]==5.2.5 Flask==3.1.3 flask-cors==6.0.5 Werkzeug==3.1.9)
AZURITE=azurite@3.37.0
# azurite asks for 22 and runs with 18; a system with an older one gets this beside it.
NODE_WANTED=18
NODE=22.23.3

main() {
    local dir
    dir=$(stores_dir)
    # One at a time, should two runs meet.
    mkdir -p "$dir"
    exec 9>"$dir/.lock"
    flock 9
    pip_install "$dir/moto" "${MOTO[@]}"
    is_there "$dir/azurite" "$AZURITE" || install_azurite "$dir/azurite"
    say "object stores: ${MOTO[0]} and $AZURITE in $dir"
}

install_azurite() {
    command -v npm >/dev/null || apt_install npm
    local wanted=("$AZURITE") node=/usr/bin/node machine=x64
    if ! [ -x "$node" ] || [ "$("$node" -p 'process.versions.node.split(".")[0]')" -lt "$NODE_WANTED" ]; then
        [ "$(uname -m)" != aarch64 ] || machine=arm64
        wanted+=("node-linux-$machine@$NODE")
        node=$1/node_modules/node-linux-$machine/bin/node
    fi
    rm -rf "$1"
    mkdir -p "$1"
    say "npm install ${wanted[*]}"
    quietly npm install --prefix "$1" --no-save --no-audit --no-fund --ignore-scripts "${wanted[@]}" ||
        die "could not install ${wanted[*]}"
    printf '#!/bin/sh\nexec %s %s "$@"\n' "$node" "$1/node_modules/azurite/dist/src/blob/main.js" >"$1/azurite-blob"
    chmod 0755 "$1/azurite-blob"
    complete "$1" "$AZURITE"
}

main
