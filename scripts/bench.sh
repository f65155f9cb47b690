#!/usr/bin/env bash
# Measures pgbr beside pgBackRest on the same cluster, in one run, as ratios.
#
#   scripts/bench.sh [-n PAIRS] [-s SCALE] [STAGE...]
#
# PAIRS (default 3) runs of each program a stage, one after the other and in changing order; ratios are medians of pairs,
# pgbr to pgBackRest: below 1, pgbr needs less. SCALE (default 70, about 1 GiB) is pgbench's. Stages (default: all), two
# processes and zst level 3 where nothing else is said; the first three without and with encryption:
#   backup   a full backup                                       restore   the same back into an empty directory
#   push     archive-push of 50 WAL segments, one after another
#   incr     an incr after updates of 1 % of the rows of pgbench_accounts, in clumps that touch some 13 % of its pages (the
#            report says how many); without compression and with zst
#   delta    restore --delta over a directory in which nothing is wrong
#   chain    pgbr alone: restore of the last of 1 full + 60 incr beside that of a full of the same cluster
#   many     a full of 20,000 tables (some 60,000 files), and an incr after changes in 200 of them
#   noop     an incr of the same cluster when nothing changed
# Through the same S3 server (moto, behind nginx for TLS; its log gives the requests and the bytes that were sent):
#   s3-backup, s3-restore   as above
#   s3-push   archive-push of 200 WAL segments, one after another
#   s3-async  the same with archive-async, the segments waiting as PostgreSQL lets them wait
# Memory comes from a run before the measured ones, which also warms the caches.
#
# The system's own packages give PostgreSQL and pgBackRest (installed if missing); what is measured lies in one directory
# under /tmp, removed at the end. PGBR_BENCH_PROGRAM measures another program than a release build, PGBR_BENCH_PGBACKREST
# another pgBackRest than the system's. Bundles are on in pgBackRest, and so are block increments where it has them: from
# 2.46 on, and as a beta in 2.45. With PGBR_BENCH_BUNDLE=n both are off, as they are where nobody sets them.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/cluster.sh
. "$(dirname "$0")/cluster.sh"
# shellcheck source=scripts/s3.sh
. "$(dirname "$0")/s3.sh"

PAIRS=3
SCALE=70
SEGMENTS=50
TABLES=20000
CHAIN=60
STAGES="backup restore push incr delta chain many noop s3-backup s3-restore s3-push s3-async"

main() {
    parse_arguments "$@"
    prepare
    ! wanted s3-push s3-async || SEGMENTS=200
    if wanted backup restore push incr delta chain s3-backup s3-restore s3-push s3-async; then make_cluster; fi
    local mode
    for mode in none encrypted; do
        ! wanted backup restore push || whole_stages "$mode"
    done
    for mode in uncompressed none; do
        ! wanted incr || incr_stage "$mode"
    done
    ! wanted delta || delta_stage none
    ! wanted chain || chain_stage none
    ! wanted s3-backup s3-restore s3-push s3-async || s3_stages
    ! wanted many noop || many_stages none
    report
}

# Whether one of the named stages is to be run.
wanted() {
    local stage
    for stage in "$@"; do
        [[ " $STAGES " != *" $stage "* ]] || return 0
    done
    return 1
}

# Fresh repositories of both programs for a mode: none, encrypted or uncompressed.
make_repos() {
    local program
    say "$1: repositories"
    for program in theirs ours; do make_stanza "$program" "$1" "$WORK/repo-$program-$1"; done
}

whole_stages() {
    local mode=$1 program
    make_repos "$mode"
    ! wanted backup || measure_stage backup "$mode"
    if wanted restore; then
        wanted backup || for program in theirs ours; do run_backup "$program" "$mode" >/dev/null; done
        measure_stage restore "$mode"
    fi
    ! wanted push || measure_stage push "$mode"
    rm -rf "$WORK"/repo-*
}

incr_stage() {
    local mode=$1 program
    make_repos "$mode"
    for program in theirs ours; do run_backup "$program" "$mode" >/dev/null; done
    measure_stage incr "$mode"
    check_restored ours "$mode"
    # The beta is one.
    (check_restored theirs "$mode") || WRONG="$WRONG $mode"
    rm -rf "$WORK"/repo-*
}

delta_stage() {
    local mode=$1 program
    make_repos "$mode"
    for program in theirs ours; do
        run_backup "$program" "$mode" >/dev/null
        as_operator mkdir -m 0700 "$WORK/in-place-$program"
        command_of "$program" "$mode"
        measured "${COMMAND[@]}" "--pg1-path=$WORK/in-place-$program" restore >/dev/null
    done
    measure_stage delta "$mode"
    for program in theirs ours; do
        same_files "$WORK/in-place-$program" || die "$program: the restored files differ"
    done
    rm -rf "$WORK"/repo-* "$WORK"/in-place-*
}

# In the report, "theirs" is the restore of a full.
chain_stage() {
    local mode=$1 link
    make_stanza ours "$mode" "$WORK/repo-ours-$mode"
    run_backup ours "$mode" >/dev/null
    for ((link = 1; link <= CHAIN; link++)); do
        say "chain, incr $link of $CHAIN"
        scatter "$link"
        run_incr ours "$mode" >/dev/null
    done
    LINK=$(newest_backup "$mode")
    run_backup ours "$mode" >/dev/null
    FULL=$(newest_backup "$mode")
    measure_stage chain "$mode"
    rm -rf "$WORK"/repo-*
}

many_stages() {
    local mode=$1 program
    make_many_cluster
    make_repos "$mode"
    if wanted many; then
        measure_stage many-full "$mode"
        measure_stage many-incr "$mode"
    else
        for program in theirs ours; do run_backup "$program" "$mode" >/dev/null; done
    fi
    ! wanted noop || measure_stage noop "$mode"
    check_restored ours "$mode"
    rm -rf "$WORK"/repo-*
}

# Each program in an own bucket of one server.
s3_stages() {
    local program stage
    s3_start
    for program in theirs ours; do
        s3_bucket "bench-$program"
        make_stanza "$program" s3 ''
    done
    for stage in s3-backup s3-restore s3-push s3-async; do
        ! wanted "$stage" || measure_stage "$stage" s3
        if [ "$stage" = s3-backup ] && ! wanted s3-backup && wanted s3-restore; then
            for program in theirs ours; do run_backup "$program" s3 >/dev/null; done
        fi
    done
    s3_stop
}

parse_arguments() {
    while getopts n:s: option; do
        case $option in
            n) PAIRS=$OPTARG ;;
            s) SCALE=$OPTARG ;;
            *) die "usage: $0 [-n PAIRS] [-s SCALE] [STAGE...], of: $STAGES" ;;
        esac
    done
    shift $((OPTIND - 1))
    [[ "$PAIRS" =~ ^[1-9][0-9]*$ && "$SCALE" =~ ^[1-9][0-9]*$ ]] || die "PAIRS and SCALE are numbers above 0"
    local stage
    for stage in "$@"; do
        wanted "$stage" || die "there is no stage '$stage', only: $STAGES"
    done
    [ "$#" -eq 0 ] || STAGES=$*
}

prepare() {
    MAJOR=$(system_pg_major)
    "$ROOT/scripts/install-postgres.sh" "$MAJOR"
    apt_install pgbackrest python3 gcc libc6-dev pkg-config
    local program=${PGBR_BENCH_PROGRAM:-}
    [ -n "$program" ] || program=$(build_release)
    make_work
    # Both from the same place: a copy that the operator may run.
    install -m 0755 "$program" "$WORK/bin/pgbr"
    install -m 0755 "${PGBR_BENCH_PGBACKREST:-/usr/bin/pgbackrest}" "$WORK/bin/pgbackrest"
    install -m 0755 "$ROOT/scripts/measure.py" "$WORK/bin/measure.py"
    THEIRS=$("$WORK/bin/pgbackrest" version)
    BLOCK=n BUNDLE=${PGBR_BENCH_BUNDLE:-y}
    [ "$BUNDLE" = n ] || case "${THEIRS#pgBackRest }" in
        2.45) BLOCK=beta ;;
        *) [ "$(printf '%s\n' 2.46 "${THEIRS#pgBackRest }" | sort -V | head -n 1)" != 2.46 ] || BLOCK=y ;;
    esac
    PASS=$(head -c 48 /dev/urandom | base64 -w 0)
    as_operator mkdir "$WORK/wal" "$WORK/log" "$WORK/lock" "$WORK/spool"
    : >"$WORK/results"
    SIZE='' TOUCHED='' MANY='' WRONG='' SEED=0
}

# An empty cluster that runs, and writes nothing that it was not asked for.
quiet_cluster() {
    cluster_init
    cluster_conf archive_mode on
    # pgBackRest wants to see its name in there.
    cluster_conf archive_command "$WORK/bin/archive-pgbackrest-pgbr %p"
    local setting
    for setting in fsync synchronous_commit autovacuum; do cluster_conf "$setting" off; done
    cluster_conf shared_buffers 256MB
    cluster_conf max_wal_size 2GB
    cluster_conf max_locks_per_transaction 1024
    archive_with "true"
    cluster_start
}

# A cluster with pgbench's tables, WAL segments of its load, nothing running, everything in the cache.
make_cluster() {
    say "cluster: pgbench scale $SCALE and $SEGMENTS WAL segments of its load"
    quiet_cluster
    client pgbench -i -q -s "$SCALE" postgres 2>/dev/null
    sql checkpoint
    archive_with "cp \"\$1\" $WORK/wal/"
    client pgbench -n -c 4 -T 600 postgres >/dev/null 2>&1 &
    local load=$! try
    # Each checkpoint makes the load write whole pages again: more WAL, of the usual kind, in less time.
    for ((try = 0; try < 290 && $(segments | wc -l) < SEGMENTS; try++)); do
        sleep 2
        sql checkpoint
    done
    sql "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'pgbench'" >/dev/null
    wait "$load" || true
    [ "$(segments | wc -l)" -ge "$SEGMENTS" ] || die "the load did not write $SEGMENTS WAL segments in time"
    # No room within: new versions of rows go to the end of the table, and what an update changes can be said.
    sql "vacuum full pgbench_accounts"
    sql "vacuum freeze" && sql checkpoint
    settle
    find "$WORK/data/base" -type f -exec cat {} + >/dev/null
    SIZE=$(du -sh "$WORK/data/base" | cut -f 1)
}

# A cluster of many small files in place of the other one: each table has a row and two indexes.
make_many_cluster() {
    say "cluster: $TABLES tables"
    [ ! -e "$WORK/data/postmaster.pid" ] || cluster_stop fast
    rm -rf "$WORK/data"
    quiet_cluster
    local first start=$SECONDS
    for ((first = 1; first <= TABLES; first += 1000)); do
        sql "do \$\$ begin for i in $first..least($first + 999, $TABLES) loop
                 execute format('create table t_%s (id int primary key, v varchar(100) unique)', i);
                 execute format('insert into t_%s values (1, %L)', i, md5(i::text));
             end loop; end \$\$"
    done
    sql checkpoint
    settle
    MANY="$(find "$WORK/data" -type f | wc -l) files, $(du -sh "$WORK/data/base" | cut -f 1)"
    say "$MANY, made in $((SECONDS - start)) s"
    find "$WORK/data/base" -type f -exec cat {} + >/dev/null
}

# A row more in each of 200 tables.
change_many() {
    sql "do \$\$ begin for i in 1..200 loop execute format('insert into t_%s values ($(($1 + 2)), %L)', i * ($TABLES / 200), 'more $1'); end loop; end \$\$"
    sql checkpoint
}

# Updates 1 % of the rows of pgbench_accounts: every 10th row in each of 10 % of its clumps of 180 rows (some 3 pages):
# neither one place nor pages on their own, of which each would cost pgBackRest a block of 80 KiB.
# TOUCHED says what came of it: pages of the table that held these rows, and all pages of the database that changed.
update_clumps() {
    SEED=$((SEED + 1))
    local clump="hashint4(aid / 180 + 1000003 * $SEED) & 2147483647" before
    local rows="($clump) % 100 < 10 and aid % 10 = $SEED % 10"
    TOUCHED=$(sql "select format('%s %% of the rows on %s %% of the pages', round(100.0 * count(*) / $((SCALE * 100000)), 2),
        round(100.0 * count(distinct (ctid::text::point)[0]) / (pg_relation_size('pgbench_accounts') / 8192), 1))
        from pgbench_accounts where $rows")
    before=$(sql "select pg_current_wal_lsn() - '0/0'")
    sql "update pgbench_accounts set abalance = abalance + 1 where $rows"
    # Who reads next sets hint bits and prunes: let that be now, or it would count for the next round.
    sql "select sum(abalance) from pgbench_accounts" >/dev/null
    sql checkpoint
    TOUCHED="$TOUCHED; $(changed_since "$before") MiB of pages changed, indexes and new pages included"
    say "updated $TOUCHED"
}

# The pages of all tables and indexes whose LSN is this or higher, in MiB.
changed_since() {
    /usr/bin/python3 - "$WORK/data/base" "$1" <<'PYTHON'
import os, re, struct, sys
count = 0
for path, _, names in os.walk(sys.argv[1]):
    for name in names:
        if re.fullmatch(r"\d+([._].*)?", name):
            with open(os.path.join(path, name), "rb", buffering=0) as file:
                for at in range(0, os.fstat(file.fileno()).st_size, 8192):
                    high, low = struct.unpack("=II", os.pread(file.fileno(), 8, at))
                    count += (high << 32 | low) >= int(sys.argv[2])
print(round(count / 128, 1))
PYTHON
}

# Changes 1 % of the pages of pgbench_accounts and its index at random: half of them each, for a new version of a row
# gets a new entry in the index.
scatter() {
    sql "update pgbench_accounts set abalance = abalance + 1 where aid = any (array(
             select 1 + (hashint4(n + 1000003 * $1) & 2147483647) % $((SCALE * 100000))
             from generate_series(1, (pg_total_relation_size('pgbench_accounts') / 8192 / 200)::int) n))"
    sql checkpoint
}

segments() { find "$WORK/wal" -name '0*[0-9A-F]' -size 16M | sort; }

# What the archiver runs from now on; it gets the path of the segment as $1.
archive_with() {
    printf '#!/bin/sh\nexec %s\n' "$1" >"$WORK/bin/archive.new"
    chmod 0755 "$WORK/bin/archive.new"
    mv "$WORK/bin/archive.new" "$WORK/bin/archive-pgbackrest-pgbr"
}

# Ends the current WAL segment (there is always something in it) and waits until the archiver has nothing left to do.
settle() {
    local try
    sql "select pg_logical_emit_message(true, 'bench', 'settle')" >/dev/null
    sql "select pg_switch_wal()" >/dev/null
    for ((try = 0; try < 600; try++)); do
        compgen -G "$WORK/data/pg_wal/archive_status/*.ready" >/dev/null || return 0
        sleep 0.1
    done
    die "the archiver does not come to an end"
}

# config PROGRAM MODE: writes its config file and prints the path.
config() {
    local file=$WORK/$1-$2.conf cipher=none
    if [ "$2" = encrypted ]; then
        case "$1" in
            theirs) cipher=aes-256-cbc ;;
            ours) cipher=${PGBR_BENCH_CIPHER:-aes-256-gcm} ;;
        esac
    fi
    {
        printf '[global]\nrepo1-retention-full=100\n'
        case "$2" in
            s3) s3_options "bench-$1" ;;
            *) printf 'repo1-path=%s\n' "$WORK/repo-$1-$2" ;;
        esac
        [ "$cipher" = none ] || printf 'repo1-cipher-type=%s\nrepo1-cipher-pass=%s\n' "$cipher" "$PASS"
        [ "$1" = ours ] || printf 'repo1-bundle=%s\n' "$BUNDLE"
        case "$1-$BLOCK" in
            theirs-y) printf 'repo1-block=y\n' ;;
            theirs-beta) printf 'beta=y\nrepo1-block=y\n' ;;
        esac
        if [ "$2" = uncompressed ]; then printf 'compress-type=none\n'; else printf 'compress-type=zst\ncompress-level=3\n'; fi
        printf 'process-max=2\nstart-fast=y\n'
        printf 'log-level-console=warn\nlog-level-file=off\n'
        printf 'log-path=%s/log\nlock-path=%s/lock\nspool-path=%s/spool\n' "$WORK" "$WORK" "$WORK"
        printf '[bench]\npg1-path=%s\npg1-socket-path=%s\npg1-user=postgres\n' "$WORK/data" "$WORK/socket"
    } >"$file"
    chmod 0640 "$file"
    [ "$(id -u)" -ne 0 ] || chown postgres: "$file"
    echo "$file"
}

program_of() { if [ "$1" = ours ]; then echo "$WORK/bin/pgbr"; else echo "$WORK/bin/pgbackrest"; fi; }

# command PROGRAM MODE: sets the array COMMAND to what every call of it begins with.
command_of() { COMMAND=("$(program_of "$1")" "--config=$(config "$1" "$2")" --stanza=bench); }

# make_stanza PROGRAM MODE DIRECTORY: without a directory, where the config file says.
make_stanza() {
    command_of "$1" "$2"
    if [ -n "$3" ]; then
        as_operator rm -rf "$3"
        as_operator mkdir "$3"
    fi
    as_operator "${COMMAND[@]}" ${3:+"--repo1-path=$3"} stanza-create >&2 || die "stanza-create failed"
}

# measured COMMAND...: one line, wall CPU memory. The disk is quiet when it starts.
measured() {
    sync
    as_root /usr/bin/python3 "$WORK/bin/measure.py" ${MEMORY:+--memory} "$(operator)" "$@"
}

# run_backup PROGRAM MODE [TYPE]
run_backup() {
    command_of "$1" "$2"
    archive_with "${COMMAND[*]} archive-push \"\$1\""
    # The segment before the backup belongs into the same archive: its arrival is what a backup looks for first.
    settle
    measured "${COMMAND[@]}" backup "--type=${3:-full}" || return 1
    settle
    archive_with "true"
}

run_incr() { run_backup "$1" "$2" incr; }

run_noop() { run_incr "$@"; }

run_many-full() { run_backup "$@"; }

run_many-incr() { run_incr "$@"; }

# run_restore PROGRAM MODE [ARGUMENT]
run_restore() {
    as_operator rm -rf "$WORK/restored"
    as_operator mkdir -m 0700 "$WORK/restored"
    command_of "$1" "$2"
    measured "${COMMAND[@]}" "--pg1-path=$WORK/restored" ${3:+"$3"} restore || return 1
    # A quick restore of something else would be worth nothing.
    same_files "$WORK/restored" || die "$1: the restored files differ"
    as_operator rm -rf "$WORK/restored"
}

run_s3-backup() { run_backup "$@"; }

run_s3-restore() { run_restore "$@"; }

run_delta() {
    command_of "$1" "$2"
    measured "${COMMAND[@]}" "--pg1-path=$WORK/in-place-$1" --delta restore
}

run_chain() {
    local backup=$LINK
    [ "$1" = ours ] || backup=$FULL
    run_restore ours "$2" "--set=$backup"
}

check_restored() { run_restore "$1" "$2" >/dev/null; }

# same_files DIRECTORY: whether the tables and indexes of users are in it as they are in the cluster. Catalogs are passed
# over: each session may set hint bits in them.
same_files() {
    local differing
    differing=$(diff -rq -x pg_internal.init -x pgsql_tmp "$WORK/data/base" "$1/base" |
        awk '/^Only in/ { print; next } { n = $2; sub(".*/", "", n); sub("[._].*", "", n); if (n + 0 >= 16384) print }' | head -n 20)
    [ -z "$differing" ] || { printf '%s\n' "$differing" >&2 && return 1; }
}

# newest_backup MODE: the label of our newest backup.
newest_backup() {
    command_of ours "$1"
    as_operator "${COMMAND[@]}" --output=json info | /usr/bin/python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["backup"][-1]["label"])'
}

run_push() {
    make_stanza "$1" "$2" "$WORK/repo-push-$1"
    command_of "$1" "$2"
    {
        printf 'set -e\n'
        segments | head -n "$SEGMENTS" | while read -r segment; do
            printf '%s --repo1-path=%s archive-push %s\n' "${COMMAND[*]}" "$WORK/repo-push-$1" "$segment"
        done
    } >"$WORK/push.sh"
    measured sh "$WORK/push.sh"
}

# A stanza of its own each time: the segments must be new to it.
fresh_s3_stanza() {
    s3_bucket "bench-$1" fresh
    make_stanza "$1" s3 ''
}

run_s3-push() {
    fresh_s3_stanza "$1"
    command_of "$1" s3
    {
        printf 'set -e\n'
        segments | head -n "$SEGMENTS" | while read -r segment; do
            printf '%s archive-push %s\n' "${COMMAND[*]}" "$segment"
        done
    } >"$WORK/push.sh"
    s3_forget
    measured sh "$WORK/push.sh"
}

# What PostgreSQL's archiver does with segments that wait: one after another, each is done when the command says so.
run_s3-async() {
    local data=$WORK/waiting segment name
    fresh_s3_stanza "$1"
    as_operator rm -rf "$data" "$WORK/spool"
    as_operator mkdir -p "$data/pg_wal/archive_status" "$data/global" "$WORK/spool"
    as_operator cp "$WORK/data/global/pg_control" "$data/global/"
    as_operator cp "$WORK/data/PG_VERSION" "$data/"
    command_of "$1" s3
    {
        printf 'set -e\ncd %s\n' "$data"
        for segment in $(segments | head -n "$SEGMENTS"); do
            name=$(basename "$segment")
            as_operator ln "$segment" "$data/pg_wal/$name"
            as_operator touch "$data/pg_wal/archive_status/$name.ready"
            printf '%s --pg1-path=%s --archive-async archive-push pg_wal/%s\n' "${COMMAND[*]}" "$data" "$name"
            printf 'mv pg_wal/archive_status/%s.ready pg_wal/archive_status/%s.done\n' "$name" "$name"
        done
    } >"$WORK/push.sh"
    s3_forget
    measured sh "$WORK/push.sh" || return 1
    # Its worker may still be waiting for more; the next round must not meet it.
    as_operator "$(program_of "$1")" "--config=$(config "$1" s3)" --stanza=bench stop >&2
    sleep 2
    as_operator "$(program_of "$1")" "--config=$(config "$1" s3)" --stanza=bench start >&2
}

# stored STAGE PROGRAM MODE: what is stored, as two numbers: bytes and files. A backup's WAL does not count.
# Through S3: bytes sent, and requests, WAL of a backup included.
stored() {
    case "$1" in
        s3-*) s3_requests "bench-$2" ;;
        push) tree "$WORK/repo-push-$2" ;;
        restore | delta | chain) echo 0 0 ;;
        *) tree "$WORK/repo-$2-$3" ! -path '*/archive/*' ;;
    esac
}

tree() { find "$@" -type f -printf '%s\n' | awk '{ n += $1 } END { printf "%.0f %d\n", n, NR }'; }

# Appends to results: stage mode program round wall cpu memory bytes files. Round 0 is the one that measures memory.
measure_stage() {
    local stage=$1 mode=$2 round order program who before after line
    for ((round = 0; round <= PAIRS; round++)); do
        order="theirs ours"
        if ((round % 2)); then order="ours theirs"; fi
        case "$stage" in
            incr) update_clumps ;;
            many-incr) change_many "$round" ;;
        esac
        for program in $order; do
            who=$(basename "$(program_of "$program")")
            [ "$stage" != chain ] || who="pgbr, as $program"
            say "$stage, $mode, round $round of $PAIRS: $who"
            before="0 0"
            case "$stage" in
                push | s3-push | s3-async) ;;
                *) before=$(stored "$stage" "$program" "$mode") ;;
            esac
            MEMORY=
            ((round)) || MEMORY=1
            line=$("run_$stage" "$program" "$mode") || die "$stage with $program failed"
            after=$(stored "$stage" "$program" "$mode")
            echo "$stage $mode $program $round $line $((${after% *} - ${before% *})) $((${after#* } - ${before#* }))" >>"$WORK/results"
        done
    done
}

report() {
    printf '\npgbr beside pgBackRest (%s), PostgreSQL %s, zst 3, 2 processes, %s pairs\n' "${THEIRS#pgBackRest }" "$MAJOR" "$PAIRS"
    printf 'theirs: bundle=%s, block=%s; encrypted: theirs aes-256-cbc, ours aes-256-gcm; push: %s segments\n' "$BUNDLE" "$BLOCK" "$SEGMENTS"
    [ -z "$SIZE" ] || printf 'pgbench scale %s (%s)\n' "$SCALE" "$SIZE"
    [ -z "$TOUCHED" ] || printf 'incr: updated %s (the last time)\n' "$TOUCHED"
    [ -z "$WRONG" ] || printf 'what pgBackRest restored of its increments was not what was backed up:%s\n' "$WRONG"
    [ -z "$MANY" ] || printf 'many, noop: %s tables, %s\n' "$TABLES" "$MANY"
    ! wanted chain || printf 'chain: a restore of a full (under "theirs") beside that of the last of 1 full + %s incr, both by pgbr\n' "$CHAIN"
    ! wanted s3-push s3-async || printf 's3-push, s3-async: %s segments; the CPU of a detached worker is not in the figure\n' "$SEGMENTS"
    ! wanted s3-backup s3-restore s3-push s3-async || printf 's3: MiB sent and requests instead of MiB and files stored\n'
    printf 'ratios are medians of pairs, pgbr / pgBackRest: below 1, pgbr needs less\n\n'
    /usr/bin/python3 - "$WORK/results" <<'PYTHON'
import statistics, sys
rows = {}
for line in open(sys.argv[1]):
    stage, mode, program, turn, *numbers = line.split()
    rows.setdefault((stage, mode), {}).setdefault(program, {})[int(turn)] = [float(n) for n in numbers]
names = ("wall s", "CPU s", "peak MiB", "stored MiB", "files stored")
suffix = {"none": "", "encrypted": " enc", "uncompressed": " raw", "s3": ""}
print(f"{'stage':<14}" + "".join(f"{name:>26}" for name in names))
print(f"{'':<14}" + f"{'theirs     ours   ratio':>26}" * len(names))
for (stage, mode), programs in rows.items():
    theirs, ours = programs["theirs"], programs["ours"]
    turns = [turn for turn in theirs if turn > 0]
    cells = ""
    for column, unit in ((0, 1), (1, 1), (2, 1024), (3, 1024 * 1024), (4, 1)):
        use = [0] if column == 2 else turns
        a, b = [theirs[t][column] / unit for t in use], [ours[t][column] / unit for t in use]
        if not all(a):
            cells += f"{'-':>26}"
            continue
        ratio = statistics.median(y / x for x, y in zip(a, b))
        digits = 0 if column == 4 else 2
        cells += f"{statistics.median(a):>10.{digits}f}{statistics.median(b):>9.{digits}f}{ratio:>7.{2 if ratio >= 0.1 else 4}f}"
    print(f"{stage + suffix[mode]:<14}" + cells)
PYTHON
}

main "$@"
