#!/usr/bin/env bash
# Brings what the tests need to a Debian or Ubuntu system that has Rust: a C and C++ compiler, strace, libfaketime, openssl, pgBackRest, the
# PostgreSQL servers of the test matrix, the object stores and, where the tests run as root, the user postgres. Installs only what is
# missing.
# Works as root or as a user with sudo.  PGBR_TEST_PG_MAJORS: the servers to bring, by default "13 15 17 18".
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

main() {
    check_rust
    apt_install gcc g++ libc6-dev pkg-config strace faketime openssl python3 util-linux e2fsprogs
    local majors=${PGBR_TEST_PG_MAJORS:-13 15 17 18}
    # shellcheck disable=SC2086  # a list, divided by blanks or commas
    "$ROOT/scripts/install-postgres.sh" ${majors//,/ }
    "$ROOT/scripts/install-stores.sh"
    # Writes the repositories that its format is read from. It brings no server, and so makes and starts no cluster.
    apt_install pgbackrest
    # Monitoring that was made for pgBackRest.
    apt_install check-pgbackrest
    "$ROOT/scripts/install-patroni.sh"
    if [ "$(id -u)" -eq 0 ]; then
        make_operator
    fi
}

check_rust() {
    command -v cargo >/dev/null || die "cargo is not on PATH: install Rust $(rust_version) or later first (rustup.rs)"
    (cd "$ROOT" && cargo --version >/dev/null) || die "cargo does not start: rustup toolchain install stable"
    (cd "$ROOT" && cargo fmt --version >/dev/null 2>&1) || die "rustfmt is missing: rustup component add rustfmt"
    (cd "$ROOT" && cargo clippy --version >/dev/null 2>&1) || die "clippy is missing: rustup component add clippy"
}

rust_version() { sed -n 's/^rust-version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml"; }

# PostgreSQL refuses to run as root; Debian's own packages bring this user, the unpacked servers do not.
make_operator() {
    id postgres >/dev/null 2>&1 && return 0
    say "useradd postgres"
    useradd --system --user-group --home-dir /var/lib/postgresql --create-home --shell /bin/bash postgres
}

main
