# A throwaway PostgreSQL cluster in $WORK, for the demonstration and the benchmark. Sourced by bash after lib.sh.
# shellcheck shell=bash
#
# Callers set MAJOR before make_work. Then: PGBIN (the server's programs), WORK (a directory of the operator, removed
# with the servers in it when the script ends), WORK/data (the cluster), WORK/socket (its Unix socket).

# Makes $WORK and sees to it that nothing is left, however the script ends. With KEEP=1 the directory stays.
make_work() {
    PGBIN=/usr/lib/postgresql/$MAJOR/bin
    [ -x "$PGBIN/postgres" ] || PGBIN=$(pg_cache_dir)/$MAJOR/bin
    [ -x "$PGBIN/postgres" ] || die "PostgreSQL $MAJOR is not installed: scripts/install-postgres.sh $MAJOR"
    WORK=$(mktemp -d /tmp/pgbr-XXXXXX)
    trap clean_work EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    chmod 0755 "$WORK"
    [ "$(id -u)" -ne 0 ] || chown postgres: "$WORK"
    as_operator mkdir "$WORK/socket" "$WORK/bin"
}

clean_work() {
    local data
    for data in "$WORK"/*/postmaster.pid; do
        [ ! -e "$data" ] || as_operator "$PGBIN/pg_ctl" stop -D "$(dirname "$data")" -m immediate -w >/dev/null 2>&1 || true
    done
    if [ "${KEEP:-0}" = 1 ]; then
        say "kept $WORK"
    else
        rm -rf "$WORK"
    fi
}

# cluster_init [initdb argument...]: makes WORK/data, with page checksums.
# shellcheck disable=SC2120  # not every caller has arguments
cluster_init() {
    as_operator "$PGBIN/initdb" -D "$WORK/data" -k -U postgres -A trust -E UTF8 --locale=C --no-sync "$@" >"$WORK/initdb.log" ||
        die "initdb failed"
}

# cluster_conf NAME VALUE: the last value of a name counts.
cluster_conf() { printf "%s = '%s'\n" "$1" "${2//\'/\'\'}" >>"$WORK/data/postgresql.conf"; }

# cluster_start: returns when the server takes connections.
cluster_start() {
    as_operator "$PGBIN/pg_ctl" start -D "$WORK/data" -l "$WORK/server.log" -w -t 120 \
        -o "-c listen_addresses='' -c unix_socket_directories='$WORK/socket' -c port=5432" >/dev/null || {
        tail -n 30 "$WORK/server.log" >&2
        die "the server did not start"
    }
}

cluster_stop() { as_operator "$PGBIN/pg_ctl" stop -D "$WORK/data" -m "${1:-fast}" -w -t 120 >/dev/null; }

# Waits until a recovery has ended with the server taking writes.
cluster_wait_promoted() {
    local try
    for ((try = 0; try < 1200; try++)); do
        [ "$(sql 'select pg_is_in_recovery()' 2>/dev/null)" != f ] || return 0
        sleep 0.1
    done
    tail -n 30 "$WORK/server.log" >&2
    die "the recovery did not end"
}

# client PROGRAM ARGUMENT...: runs a client program against the cluster.
client() { as_operator "$PGBIN/$1" -h "$WORK/socket" -p 5432 -U postgres "${@:2}"; }

sql() { client psql -XAtq -v ON_ERROR_STOP=1 -d postgres -c "$1"; }
