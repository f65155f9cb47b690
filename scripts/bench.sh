#!/usr/bin/env bash
# Measures pgbr beside pgBackRest on the same cluster, in one run, as ratios.
#
#   scripts/bench.sh [-n PAIRS] [-s SCALE] [STAGE...]
#
# PAIRS (default 3) runs of each program a stage, one after the other and in changing order; ratios are medians of pairs,
# pgbr to pgBackRest: below 1, pgbr needs less. SCALE (default 70, about 1 GiB) is pgbench's. Stages (default: all):
#   backup   a full backup, zst level 3, two processes           restore   the same back into an empty directory
#   push     archive-push of 50 WAL segments, one after another
# each without and with encryption. Memory comes from a run before the measured ones, which also warms the caches.
#
# The system's own packages give PostgreSQL and pgBackRest (installed if missing); what is measured lies in one directory
# under /tmp (or PGBR_BENCH_DIR), removed at the end. PGBR_BENCH_PROGRAM measures another program than a release build.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/cluster.sh
. "$(dirname "$0")/cluster.sh"

PAIRS=3
SCALE=70
SEGMENTS=50
STAGES="backup restore push"

main() {
    parse_arguments "$@"
    prepare
    make_cluster
    local mode
    for mode in none encrypted; do
        say "$mode: repositories"
        for program in theirs ours; do
            make_stanza "$program" "$mode" "$WORK/repo-$program-$mode"
        done
        for stage in backup restore push; do
            # A restore needs a backup, so that stage always makes one.
            if [[ " $STAGES " == *" $stage "* ]]; then
                measure_stage "$stage" "$mode"
            elif [ "$stage" = backup ] && [[ " $STAGES " == *" restore "* ]]; then
                for program in theirs ours; do run_backup "$program" "$mode" >/dev/null; done
            fi
        done
        rm -rf "$WORK"/repo-*
    done
    report
}

parse_arguments() {
    while getopts n:s: option; do
        case $option in
            n) PAIRS=$OPTARG ;;
            s) SCALE=$OPTARG ;;
            *) die "usage: $0 [-n PAIRS] [-s SCALE] [backup] [restore] [push]" ;;
        esac
    done
    shift $((OPTIND - 1))
    [[ "$PAIRS" =~ ^[1-9][0-9]*$ && "$SCALE" =~ ^[1-9][0-9]*$ ]] || die "PAIRS and SCALE are numbers above 0"
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
    install -m 0755 /usr/bin/pgbackrest "$WORK/bin/pgbackrest"
    install -m 0755 "$ROOT/scripts/measure.py" "$WORK/bin/measure.py"
    THEIRS=$("$WORK/bin/pgbackrest" version)
    BLOCK=n
    # Block increments came with 2.46 (before that, 2.45 had them as a beta).
    if [ "$(printf '%s\n' 2.46 "${THEIRS#pgBackRest }" | sort -V | head -n 1)" = 2.46 ]; then BLOCK=y; fi
    PASS=$(head -c 48 /dev/urandom | base64 -w 0)
    : >"$WORK/results"
}

# A cluster with pgbench's tables, WAL segments of its load, nothing running, everything in the cache.
make_cluster() {
    say "cluster: pgbench scale $SCALE and $SEGMENTS WAL segments of its load"
    cluster_init
    as_operator mkdir "$WORK/wal" "$WORK/log" "$WORK/lock" "$WORK/spool"
    cluster_conf archive_mode on
    # pgBackRest wants to see its name in there.
    cluster_conf archive_command "$WORK/bin/archive-pgbackrest-pgbr %p"
    local setting
    for setting in fsync synchronous_commit autovacuum; do cluster_conf "$setting" off; done
    cluster_conf shared_buffers 256MB
    cluster_conf max_wal_size 2GB
    archive_with "true"
    cluster_start
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
    sql "vacuum freeze" && sql checkpoint
    settle
    find "$WORK/data/base" -type f -exec cat {} + >/dev/null
    SIZE=$(du -sh "$WORK/data/base" | cut -f 1)
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
        printf '[global]\nrepo1-path=%s\nrepo1-retention-full=100\n' "$WORK/repo-$1-$2"
        [ "$cipher" = none ] || printf 'repo1-cipher-type=%s\nrepo1-cipher-pass=%s\n' "$cipher" "$PASS"
        [ "$1" = ours ] || printf 'repo1-bundle=y\n'
        [ "$1-$BLOCK" != theirs-y ] || printf 'repo1-block=y\n'
        printf 'compress-type=zst\ncompress-level=3\nprocess-max=2\nstart-fast=y\n'
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

make_stanza() {
    command_of "$1" "$2"
    as_operator rm -rf "$3"
    as_operator mkdir "$3"
    as_operator "${COMMAND[@]}" "--repo1-path=$3" stanza-create >&2 || die "stanza-create failed"
}

# measured COMMAND...: one line, wall CPU memory. The disk is quiet when it starts.
measured() {
    sync
    as_root /usr/bin/python3 "$WORK/bin/measure.py" ${MEMORY:+--memory} "$(operator)" "$@"
}

run_backup() {
    command_of "$1" "$2"
    archive_with "${COMMAND[*]} archive-push \"\$1\""
    # The segment before the backup belongs into the same archive: its arrival is what a backup looks for first.
    settle
    measured "${COMMAND[@]}" backup --type=full || return 1
    settle
    archive_with "true"
}

run_restore() {
    as_operator rm -rf "$WORK/restored"
    as_operator mkdir -m 0700 "$WORK/restored"
    command_of "$1" "$2"
    measured "${COMMAND[@]}" "--pg1-path=$WORK/restored" restore || return 1
    # A quick restore of something else would be worth nothing.
    diff -rq -x pg_internal.init -x pgsql_tmp "$WORK/data/base" "$WORK/restored/base" >&2 || die "$1: the restored files differ"
    as_operator rm -rf "$WORK/restored"
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

# bytes_of STAGE PROGRAM MODE: what is stored, in bytes.
bytes_of() {
    case "$1" in
        backup) tree_bytes "$WORK/repo-$2-$3" ;;
        push) tree_bytes "$WORK/repo-push-$2" ;;
        restore) echo 0 ;;
    esac
}

tree_bytes() { find "$1" -type f -printf '%s\n' | awk '{ n += $1 } END { printf "%d\n", n }'; }

# Appends to results: stage mode program round wall cpu memory bytes. Round 0 is the one that measures memory.
measure_stage() {
    local stage=$1 mode=$2 round order program before line
    for ((round = 0; round <= PAIRS; round++)); do
        order="theirs ours"
        if ((round % 2)); then order="ours theirs"; fi
        for program in $order; do
            say "$stage, $mode, round $round of $PAIRS: $(basename "$(program_of "$program")")"
            before=0
            [ "$stage" != backup ] || before=$(bytes_of "$stage" "$program" "$mode")
            MEMORY=
            ((round)) || MEMORY=1
            line=$("run_$stage" "$program" "$mode") || die "$stage with $program failed"
            echo "$stage $mode $program $round $line $(($(bytes_of "$stage" "$program" "$mode") - before))" >>"$WORK/results"
        done
    done
}

report() {
    printf '\npgbr beside pgBackRest (%s), PostgreSQL %s, pgbench scale %s (%s), zst 3, 2 processes, %s pairs\n' \
        "${THEIRS#pgBackRest }" "$MAJOR" "$SCALE" "$SIZE" "$PAIRS"
    printf 'theirs: bundle=y, block=%s; encrypted: theirs aes-256-cbc, ours aes-256-gcm; push: %s segments\n' "$BLOCK" "$SEGMENTS"
    printf 'ratios are medians of pairs, pgbr / pgBackRest: below 1, pgbr needs less\n\n'
    /usr/bin/python3 - "$WORK/results" <<'PYTHON'
import statistics, sys
rows = {}
for line in open(sys.argv[1]):
    stage, mode, program, turn, *numbers = line.split()
    rows.setdefault((stage, mode), {}).setdefault(program, {})[int(turn)] = [float(n) for n in numbers]
head = f"{'stage':<18}" + "".join(f"{name:>23}" for name in ("wall s", "CPU s", "peak MiB", "stored MiB"))
print(head)
print(f"{'':<18}" + f"{'theirs   ours  ratio':>23}" * 4)
for (stage, mode), programs in rows.items():
    theirs, ours = programs["theirs"], programs["ours"]
    turns = [turn for turn in theirs if turn > 0]
    cells = ""
    for column, unit in ((0, 1), (1, 1), (2, 1024), (3, 1024 * 1024)):
        use = [0] if column == 2 else turns
        a, b = [theirs[t][column] / unit for t in use], [ours[t][column] / unit for t in use]
        if not all(a):
            cells += f"{'-':>23}"
            continue
        ratio = statistics.median(y / x for x, y in zip(a, b))
        cells += f"{statistics.median(a):>9.2f}{statistics.median(b):>7.2f}{ratio:>7.2f}"
    print(f"{stage + (' enc' if mode == 'encrypted' else ''):<18}" + cells)
PYTHON
}

main "$@"
