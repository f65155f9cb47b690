#!/usr/bin/env bash
# Makes the repositories beside this file, each with blocks, which the versions of pgBackRest that Debian 12 has do not write:
#
#   make.sh PGBACKREST NAME CIPHER COMPRESSION      as: make.sh /usr/local/bin/pgbackrest 2.59-zst-encrypted aes-256-cbc zst
#
# The cluster is only as much of one as pgBackRest looks at when it runs without a server: a control file and some files whose
# blocks are told apart by their content. It is backed up in full, changed and backed up again, five times. The passphrase is "vectors".
# Needs initdb of PostgreSQL 15, and a user who is not root.
set -euo pipefail

[ "$#" -eq 4 ] || { echo "usage: $0 PGBACKREST NAME CIPHER COMPRESSION" >&2; exit 2; }
program=$1 name=$2 cipher=$3 compression=$4
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export LC_ALL=C TZ=UTC

/usr/lib/postgresql/15/bin/initdb -D "$work/initdb" -U postgres -A trust >"$work/log"
mkdir -m 0700 "$work/pg" "$work/pg/global" "$work/pg/base" "$work/pg/base/5" "$work/pg/pg_tblspc" "$work/pg/pg_wal"
cp "$work/initdb/PG_VERSION" "$work/pg/"
cp "$work/initdb/global/pg_control" "$work/pg/global/"

cat >"$work/pgbackrest.conf" <<CONF
[global]
repo1-path=$work/repo
repo1-retention-full=9
repo1-bundle=y
repo1-bundle-limit=256KiB
repo1-block=y
repo1-cipher-type=$cipher
$([ "$cipher" = none ] || echo repo1-cipher-pass=vectors)
compress-type=$compression
lock-path=$work/lock
log-path=$work
log-level-file=off
checksum-page=n
$([[ "$("$program" version)" != *" 2.45" ]] || echo beta=y)
[main]
pg1-path=$work/pg
CONF

# round FILE BLOCK...: rewrites these blocks (of 8 KiB) of a file, so that they tell file, block and round; the time of the change is set.
write() {
    python3 - "$work/pg/base/5" "$@" <<'PYTHON'
import hashlib, os, sys, time
directory, turn, name, *blocks = sys.argv[1:]
path = os.path.join(directory, name)
with open(path, "r+b" if os.path.exists(path) else "w+b") as file:
    for block in blocks:
        first, _, last = block.partition("-")
        for number in range(int(first), int(last or first) + 1):
            file.seek(8192 * number)
            file.write(hashlib.sha256(f"{name} {number} {turn}".encode()).digest() * 256)
when = time.time() - 7200 + 60 * int(turn)
os.utime(path, (when, when))
PYTHON
}

cut() {
    truncate -s "$3" "$work/pg/base/5/$2"
    touch -d "@$(($(date +%s) - 7200 + 60 * $1))" "$work/pg/base/5/$2"
}

backup() { "$program" --config="$work/pgbackrest.conf" --stanza=main --log-level-console=warn --no-online --type="$1" backup; }

"$program" --config="$work/pgbackrest.conf" --stanza=main --no-online stanza-create
# 100 is too large for a bundle, 102 has a short last block, 103 is too small for blocks, 104 has several super blocks.
write 0 100 0-39
write 0 101 0-19
write 0 102 0-2
cut 0 102 16500
write 0 103 0
write 0 104 0-149
write 0 105 0-9
backup full
sleep 1
write 1 100 3 20-25
write 1 101 0
write 1 104 50-60 150-154
backup diff
sleep 1
write 2 100 22
write 2 104 55 149
write 2 106 0-30
cut 2 105 40000
backup incr
sleep 1
write 3 100 0-39
write 3 101 5 7 9
write 3 104 2 57
write 3 102 0
cut 3 102 16000
backup incr
sleep 1
write 4 104 1 3 5 100-140
write 4 106 15
cut 4 104 900000
backup incr

here=$(cd "$(dirname "$0")" && pwd)
rm -rf "${here:?}/$name"
mkdir -p "$here/$name"
cp -R "$work/repo/archive" "$work/repo/backup" "$here/$name/"
rm -rf "$here/$name"/backup/main/latest "$here/$name/backup/main/backup.history"
find "$here/$name" -name '*.copy' -delete
find "$here/$name" -type d -exec chmod 0755 {} + -o -type f -exec chmod 0644 {} +
