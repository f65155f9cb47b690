# What the scripts beside this file share. Meant to be sourced by bash, not run.
# shellcheck shell=bash

# shellcheck disable=SC2034  # used by those who source this
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '== %s\n' "$*" >&2; }

die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# Runs a command as root: as it is when this is root, by sudo otherwise.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo -n "$@" || die "'sudo $*' failed: run this as root, or as a user who may use sudo without a password"
    else
        die "this needs root for '$*': run it as root or install sudo"
    fi
}

# The user who owns test and demo servers: PostgreSQL refuses to run as root.
operator() {
    if [ "$(id -u)" -eq 0 ]; then echo postgres; else id -un; fi
}

# Runs a command as the operator, with a home and working directory that the operator may use, and without variables
# that would steer PostgreSQL, pgBackRest or pgbr.
as_operator() (
    local name
    for name in "${!PG@}"; do
        # The scripts' own variables are not exported, but some of the caller's may be.
        [[ "$name" == PGBIN ]] || unset "$name"
    done
    cd /
    if [ "$(id -u)" -eq 0 ]; then
        runuser -u postgres -- env HOME=/tmp USER=postgres LOGNAME=postgres "$@"
    else
        "$@"
    fi
)

# Where install-postgres.sh unpacks servers that the system's packages do not have.
pg_cache_dir() {
    local shared=/var/cache/pgbr-test/pg
    if [ -n "${PGBR_TEST_PG_DIR:-}" ]; then
        echo "$PGBR_TEST_PG_DIR"
    elif mkdir -p "$shared" 2>/dev/null && [ -w "$shared" ]; then
        echo "$shared"
    else
        echo "$HOME/.cache/pgbr-test/pg"
    fi
}

# Where install-stores.sh puts the object stores that tests and benchmark run against.
stores_dir() {
    local shared=/var/cache/pgbr-test/stores
    if [ -n "${PGBR_TEST_STORES_DIR:-}" ]; then
        echo "$PGBR_TEST_STORES_DIR"
    elif mkdir -p "$shared" 2>/dev/null && [ -w "$shared" ]; then
        echo "$shared"
    else
        echo "$HOME/.cache/pgbr-test/stores"
    fi
}

# Whether a directory has what it is to have. It counts once it says so itself; a half-made one is made anew.
is_there() { [ -f "$1/.complete" ] && [ "$(cat "$1/.complete")" = "$2" ]; }

# Lets everybody use a directory, and says what is in it.
complete() {
    chmod -R u+rwX,go+rX,go-w "$1"
    echo "$2" >"$1/.complete"
}

# Makes a Python environment in a directory, with the packages that are named. The system's own Python, not one of a user's home: the
# operator of the tests has to be able to run it.
pip_install() {
    local dir=$1
    shift
    ! is_there "$dir" "$*" || return 0
    apt_install python3 python3-venv
    rm -rf "$dir"
    /usr/bin/python3 -m venv "$dir" || die "could not make a Python environment in $dir"
    say "pip install $*"
    quietly "$dir/bin/python" -m pip install --quiet --disable-pip-version-check "$@" || die "could not install $*"
    complete "$dir" "$*"
}

# Makes a directory for what tests make, and prints its path. Who makes it has to remove it by remove_tests_dir.
#
# ext4 takes its subdirectories for tops of trees of their own, and spreads them over the disk. Without that, clusters that come and go lie
# in the same few groups of inodes, and where there is no journal each new file looks through all that were lately removed there: most of
# the time of a restore.
make_tests_dir() {
    local dir
    dir=$(mktemp -d /tmp/pgbr.XXXX) || die "no directory can be made in /tmp"
    chmod 1777 "$dir"
    chattr +T "$dir" 2>/dev/null ||
        say "$dir is not on ext4, or chattr (of e2fsprogs) is missing: what the tests make is not spread over the disk"
    echo "$dir"
}

# With PGBR_TEST_KEEP=1 it stays, as what is in it.
remove_tests_dir() {
    if [ "${PGBR_TEST_KEEP:-}" = 1 ]; then
        say "what the tests made stays in $1"
    else
        # Watchdogs of the tests may be removing the same.
        rm -rf -- "$1" || true
    fi
}

# Ends the script where one of the named modules of the end-to-end tests is not there: of a name that nothing has, cargo runs nothing.
check_modules() {
    local module
    for module in "$@"; do
        [ -f "$ROOT/crates/pgbr-cli/tests/it/$module.rs" ] || die "there is no module $module of the end-to-end tests"
    done
}

# Builds the program that users get, and prints its path.
build_release() {
    command -v cargo >/dev/null || die "cargo is not on PATH: install Rust first"
    (cd "$ROOT" && cargo build --release --quiet -p pgbr-cli >&2) || die "the program does not build"
    echo "${CARGO_TARGET_DIR:-$ROOT/target}/release/pgbr"
}

apt_has() { [[ "$(dpkg-query -W -f '${Status}' "$1" 2>/dev/null)" == *"ok installed"* ]]; }

# Refreshes the package lists once in a run (of this script and those that it calls).
apt_update() {
    [ -z "${PGBR_APT_UPDATED:-}" ] || return 0
    command -v apt-get >/dev/null || die "apt-get is missing: these scripts know Debian and Ubuntu only"
    say "apt-get update"
    quietly as_root apt-get update || die "apt-get update failed"
    export PGBR_APT_UPDATED=1
}

# Installs those of the named Debian packages that are not there yet.
apt_install() {
    local name missing=()
    for name in "$@"; do
        apt_has "$name" || missing+=("$name")
    done
    [ "${#missing[@]}" -eq 0 ] && return 0
    apt_update
    say "apt-get install ${missing[*]}"
    quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold "${missing[@]}" ||
        die "apt-get install ${missing[*]} failed"
}

# Runs a command and shows the end of what it wrote only if it fails.
quietly() {
    local log status=0
    log=$(mktemp)
    ("$@") >"$log" 2>&1 || status=$?
    [ "$status" -eq 0 ] || tail -n 40 "$log" >&2
    rm -f "$log"
    return "$status"
}

# Installs the first of the named packages that the system knows (names differ between releases).
apt_install_any() {
    local name
    for name in "$@"; do
        apt_has "$name" && return 0
    done
    apt_update
    for name in "$@"; do
        if apt_candidate "$name"; then
            apt_install "$name"
            return 0
        fi
    done
    die "none of these packages is known to apt: $*"
}

apt_candidate() { [[ "$(apt-cache policy "$1" 2>/dev/null)" =~ Candidate:\ [0-9] ]]; }

# The major version of PostgreSQL that this system's own packages have.
system_pg_major() {
    local pattern='Depends: postgresql-([0-9]+)'
    if [[ ! "$(apt-cache depends postgresql 2>/dev/null)" =~ $pattern ]]; then
        apt_update
        [[ "$(apt-cache depends postgresql)" =~ $pattern ]] || die "apt knows no package 'postgresql'"
    fi
    echo "${BASH_REMATCH[1]}"
}
