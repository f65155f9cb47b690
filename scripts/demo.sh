#!/usr/bin/env bash
# Shows pgbr at work on a machine with nothing but Rust: builds it, backs up a database under load into an encrypted
# repository, in full and as an increment, drops a table "by mistake", and restores the moment before.
#
#   scripts/demo.sh            KEEP=1 keeps the directory with everything in it
#
# Takes what is missing from the system's packages (as root, or by sudo). Servers run as the user postgres when this
# runs as root. Nothing outside one directory under /tmp is touched, and that is removed at the end.
# With PGBR_DEMO_PROGRAM=/usr/bin/pgbackrest PGBR_DEMO_CIPHER=aes-256-cbc it shows pgBackRest instead.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/cluster.sh
. "$(dirname "$0")/cluster.sh"

ROWS=200000
STEPS=()

main() {
    title "Prepare: PostgreSQL, the program, a cluster with data"
    timed "install what is missing" prepare
    timed "build pgbr (release)" build
    make_work
    RUN=$WORK/bin/$(basename "$PROGRAM")
    install -m 0755 "$PROGRAM" "$RUN"
    timed "make a cluster with data" make_cluster
    note "$(sql "select count(*) from orders") rows in table orders, the database is $(sql "select pg_size_pretty(pg_database_size('postgres'))")"

    title "A repository: encrypted, zstd"
    write_config
    sed -e 's/^\(.*cipher-pass=\).*/\1(generated)/' -e '/^$/d' -e 's/^/    /' "$WORK/pgbr.conf"
    timed "stanza-create" pgbr stanza-create
    cluster_conf archive_command "$RUN --config=$WORK/pgbr.conf --stanza=demo archive-push %p"
    sql "select pg_reload_conf()" >/dev/null
    timed "check" pgbr check

    title "A full backup while four sessions write"
    start_load
    timed "backup --type=full" pgbr backup --type=full

    title "An increment: only the pages that they have changed since"
    timed "backup --type=incr" pgbr backup --type=incr
    stop_load
    note "pgbench committed $(sql "select count(*) from pgbench_history") transactions meanwhile"

    title "The mistake"
    # The time that a backup ended is kept in whole seconds, and it has to lie before the target.
    sleep 2
    sql "insert into orders select g, 'late order ' || g, now() from generate_series($ROWS + 1, $ROWS + 1000) g"
    local before target
    before=$(orders)
    target=$(sql "select clock_timestamp()")
    sleep 1
    show sql "drop table orders"
    if sql "select 1 from orders" >/dev/null 2>&1; then die "the table is still there"; fi
    note "table orders is gone; just before, at $target, it was: $before"

    title "Back to the moment before"
    timed "stop the server" cluster_stop
    timed "restore --type=time" pgbr restore --delta --type=time --target="$target" --target-action=promote
    timed "recover to the target" recover
    note "table orders is now:                                            $(orders)"
    [ "$(orders)" = "$before" ] || die "the restored table differs"
    client pg_amcheck --install-missing --heapallindexed -d postgres || die "pg_amcheck found damage"
    note "the same rows, and pg_amcheck finds every index right"

    title "What is in the repository"
    pgbr info
    note "the repository takes $(du -sh "$WORK/repo" | cut -f 1)"

    title "Where the time went"
    printf '    %s\n' "${STEPS[@]}"
}

title() { printf '\n### %s\n' "$*"; }
note() { printf '  # %s\n' "$*"; }

# Shows a command as one would type it, if it is one that a reader would type, and runs it.
show() {
    local word line
    case "$1" in
        pgbr) line="pgbr --stanza=demo" ;;
        sql) line="psql -c" ;;
        *) line= ;;
    esac
    if [ -n "$line" ]; then
        for word in "${@:2}"; do
            [[ "$word" != *' '* ]] || word="\"$word\""
            line+=" $word"
        done
        printf '  $ %s\n' "$line"
    fi
    "$@"
}

# timed NAME COMMAND...: runs it and notes how long it took.
timed() {
    local name=$1 start=$EPOCHREALTIME
    shift
    show "$@" || die "failed: $name"
    STEPS+=("$(awk -v a="$start" -v b="$EPOCHREALTIME" -v n="$name" 'BEGIN { printf "%8.2f s  %s", b - a, n }')")
}

prepare() {
    MAJOR=$(system_pg_major)
    "$ROOT/scripts/install-postgres.sh" "$MAJOR"
    apt_install gcc libc6-dev pkg-config
    [ "$(id -u)" -ne 0 ] || id postgres >/dev/null
}

build() {
    PROGRAM=${PGBR_DEMO_PROGRAM:-}
    [ -n "$PROGRAM" ] || PROGRAM=$(build_release) || return 1
    [ -x "$PROGRAM" ] || die "there is no program $PROGRAM"
}

make_cluster() {
    cluster_init
    cluster_conf archive_mode on
    cluster_conf log_line_prefix '%m [%p] '
    cluster_start
    client pgbench -i -q -s 20 postgres 2>/dev/null
    sql "create table orders (id bigint primary key, what text not null, at timestamptz not null)"
    sql "insert into orders select g, md5(g::text), now() from generate_series(1, $ROWS) g"
}

write_config() {
    as_operator mkdir "$WORK/repo" "$WORK/log" "$WORK/lock" "$WORK/spool"
    (umask 077 && cat >"$WORK/pgbr.conf" <<CONF
[global]
repo1-path=$WORK/repo
repo1-cipher-type=${PGBR_DEMO_CIPHER:-aes-256-gcm}
repo1-cipher-pass=$(head -c 48 /dev/urandom | base64 -w 0)
repo1-retention-full=2
compress-type=zst
process-max=2
start-fast=y
log-level-console=warn
log-path=$WORK/log
lock-path=$WORK/lock
spool-path=$WORK/spool

[demo]
pg1-path=$WORK/data
pg1-socket-path=$WORK/socket
pg1-user=postgres
CONF
    )
    [ "$(id -u)" -ne 0 ] || chown postgres: "$WORK/pgbr.conf"
}

pgbr() { as_operator "$RUN" --config="$WORK/pgbr.conf" --stanza=demo "$@"; }

start_load() {
    client pgbench -n -c 4 -T 600 postgres >/dev/null 2>&1 &
    LOAD=$!
}

# Ends the sessions from the server's side, so that pgbench ends whatever user it runs as.
stop_load() {
    sql "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'pgbench'" >/dev/null
    wait "$LOAD" || true
}

recover() {
    cluster_start
    cluster_wait_promoted
}

orders() { sql "select count(*) || ' rows, md5 ' || md5(string_agg(o::text, ',' order by id)) from orders o"; }

main
