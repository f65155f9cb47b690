#!/usr/bin/env bash
# Writes small repositories with a pgbr program of some time, as a test vector: every later program must open them.
#
#   scripts/make-old-repository.sh NAME PROGRAM [PART...]
#
# NAME is the vector's name: what the format had learned by then, with a number before it (12-what-is-new). PROGRAM is the pgbr that
# writes. Parts are what it can do beyond a full backup and WAL, each as a word:
#
#   increments   a diff and an incr
#   resume       a backup that was broken off and taken up, and one that was broken off and left
#   annotate     annotations changed after the backup
#   hold         a backup on hold
#   copy         repo-copy into another repository
#   no-creates   a repository in a store that does not honour conditional creates (needs strace)
#   keys         more passphrases, with names, and the key replaced twice
#   writers      a passphrase for writing only, and what was stored by it
#   export       the key of sealed/ as key-export prints it
#   verify       ledgers, by a verify with a budget
#   drill        a record of a drill
#   all          all of these: for the program of now
#   slim         nothing more, but less: without the database itself in sealed/, where data files are written as before
#
# The result is crates/pgbr-cli/tests/vectors/repositories/NAME.tar.gz. In it:
#   sealed/, plain/, copy/, no-creates/   the repositories, as far as there are
#   expected/REPOSITORY/LABEL             digests of what PROGRAM itself restores from each backup
#   expected/REPOSITORY/info.json         what PROGRAM's info says
#   expected/REPOSITORY/mark              the last row that is in its archived WAL
#   passphrases                           what opens sealed/, a line each
#   exported                              its exported key, if there is one: it holds its passphrase itself
# The cluster is a real one, made small: no database but one, and what nobody needs of its catalogs taken out.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/cluster.sh
. "$(dirname "$0")/cluster.sh"

MAJOR=15
PASSPHRASE='Marmalade-59-tricycle-orbit'
OTHER_PASSPHRASE='Teapot-17-avalanche-violin'
TO=$ROOT/crates/pgbr-cli/tests/vectors/repositories
PARTS=" "
MARK=0

main() {
    [ $# -ge 2 ] || die "usage: make-old-repository.sh NAME PROGRAM [PART...]"
    local name=$1 program=$2
    shift 2
    PARTS=" $* "
    make_work
    as_operator mkdir "$WORK/made" "$WORK/made/expected" "$WORK/lock" "$WORK/log" "$WORK/spool"
    PROGRAM=$WORK/bin/pgbr
    install -m 0755 "$program" "$PROGRAM"
    small_cluster

    repository sealed
    repository plain
    if has copy; then copied; fi
    if has no-creates; then repository no-creates; fi

    tar -C "$WORK/made" --sort=name --owner=0 --group=0 --numeric-owner -cf - . | gzip -9n >"$TO/$name.tar.gz"
    say "$name: $(stat -c %s "$TO/$name.tar.gz") bytes"
}

has() { [[ "$PARTS" == *" $1 "* || "$PARTS" == *" all "* ]]; }

# A cluster that starts, recovers and passes every check, of some 4 MB.
small_cluster() {
    cluster_init
    cluster_conf archive_mode on
    cluster_conf archive_command "$WORK/bin/archive %p"
    cluster_conf autovacuum off
    cluster_conf shared_buffers 16MB
    cluster_conf allow_system_table_mods on
    archive_to nowhere
    cluster_start
    sql "update pg_database set datistemplate = false"
    sql "drop database template0"
    sql "drop database template1"
    sql "set client_min_messages = warning; drop schema information_schema cascade; drop extension plpgsql"
    sql "delete from pg_description; delete from pg_shdescription; delete from pg_statistic; delete from pg_init_privs;
         delete from pg_collation where oid > 1000;
         delete from pg_rewrite where ev_class in (select oid from pg_class where relkind = 'v' and relname not in
           ('pg_available_extensions', 'pg_available_extension_versions', 'pg_settings', 'pg_stat_activity',
            'pg_stat_archiver', 'pg_stat_replication', 'pg_stat_wal_receiver', 'pg_roles', 'pg_user'))"
    sql "select format('drop text search configuration %I', cfgname) from pg_ts_config where oid >= 12000 union all
         select format('drop text search dictionary %I', dictname) from pg_ts_dict where oid >= 12000" |
        while read -r statement; do sql "$statement"; done
    sql "create table mark (id int primary key, note text)"
    sql "create table fresh (n int)"
    sql "create table less as select n from generate_series(1, 4000) n"
    sql "vacuum full"
    sql "vacuum freeze"
    sql "checkpoint"
    # The WAL of all this goes nowhere.
    archived
}

# archive_to REPOSITORY: WAL goes there from now on; before there is one, nowhere. WORK/more, where there is one, says how many segments go
# before the others wait.
archive_to() {
    REPO=$1
    cat >"$WORK/bin/archive" <<END
#!/bin/sh
[ -e $WORK/$1.conf ] || exit 0
if [ -e $WORK/more ]; then
    more=\$(cat $WORK/more)
    [ "\$more" -gt 0 ] || exit 1
    echo \$((more - 1)) >$WORK/more
fi
exec $PROGRAM --config=$WORK/$1.conf --stanza=demo archive-push "\$1"
END
    chmod 0755 "$WORK/bin/archive"
}

# configure REPOSITORY FILE: as the program of the first day knew it.
configure() {
    local repo=$1
    as_operator mkdir "$WORK/made/$repo"
    {
        echo "[global]"
        echo "repo1-path=$WORK/made/$repo"
        [ "$repo" != no-creates ] || echo "repo1-type=cifs"
        case $repo in
        sealed) printf '%s\n' "repo1-cipher-type=aes-256-gcm" "repo1-cipher-pass=$PASSPHRASE" ;;
        copy) printf '%s\n' "repo1-cipher-type=aes-256-gcm" "repo1-cipher-pass=$OTHER_PASSPHRASE" ;;
        esac
        printf '%s\n' "lock-path=$WORK/lock" "log-path=$WORK/log" "spool-path=$WORK/spool" "start-fast=y" \
            "compress-type=zst" "compress-level=19" "archive-timeout=60" "log-level-file=off" "repo1-retention-full=9"
        echo "[demo]"
        printf '%s\n' "pg1-path=$WORK/data" "pg1-socket-path=$WORK/socket" "pg1-user=postgres"
    } >"$WORK/$repo.conf"
    chown "$(operator)": "$WORK/$repo.conf"
    chmod 0640 "$WORK/$repo.conf"
}

pgbr() { as_operator "$PROGRAM" "--config=$WORK/$REPO.conf" --stanza=demo "$@"; }

# One more row, the number of which says how far a recovery has come; files that come, shrink and go; one that is kept, with another time.
mark() {
    MARK=$((MARK + 1))
    sql "insert into mark values ($MARK, 'row $MARK of $REPO')"
    if [ "$REPO" = sealed ]; then
        sql "truncate fresh"
        sql "insert into fresh select n from generate_series(1, 100) n"
        sql "delete from less where n > 4000 - $MARK * 300"
        sql "vacuum less"
    fi
    as_operator touch "$WORK/data/PG_VERSION"
}

# Ends the segment and waits until it is in the archive.
archived() {
    local last try
    last=$(sql "select pg_walfile_name(pg_switch_wal())")
    for ((try = 0; try < 600; try++)); do
        [[ "$(sql "select last_archived_wal from pg_stat_archiver")" < "$last" ]] || return 0
        sleep 0.1
    done
    die "WAL does not reach the archive: $(tail -n 5 "$WORK/server.log")"
}

# backup TYPE ARGUMENT...
backup() {
    mark
    say "$REPO: $*"
    as_backup "$@"
}

# All but sealed/ leave the database itself out, for their size.
as_backup() {
    local without=()
    if [ "$REPO" != sealed ] || [[ "$PARTS" == *" slim "* ]]; then without=(--exclude=base/); fi
    pgbr backup "${without[@]}" --type="$@"
}

labels() { find "$WORK/made/$REPO/pgbr/demo/backup" -path '*/manifest*' -printf '%P\n' | cut -d/ -f1 | sort; }

# repository NAME: all that one repository gets.
repository() {
    configure "$1"
    archive_to "$1"
    if [ "$1" = no-creates ]; then without_links pgbr stanza-create; else pgbr stanza-create; fi
    archived
    backup full --annotation=purpose=vector --annotation=old=yes
    local full
    full=$(labels)
    if has increments; then
        backup diff
        backup incr
    fi
    if has resume && [ "$1" != no-creates ]; then
        broken incr
        backup incr
        mark
        broken incr
    fi
    if has annotate; then
        pgbr annotate --set="$full" --annotation=purpose=changed --annotation=old= --annotation=new=later
    fi
    if has hold; then pgbr annotate --set="$full" --hold --hold-reason="of an old time"; fi
    if has keys && [ "$1" = sealed ]; then keys; fi
    if has writers && [ "$1" = sealed ]; then writers; fi
    if has export && [ "$1" = sealed ]; then pgbr key-export --generate >"$WORK/made/exported"; fi
    # A drill asks there; of this the WAL says no more than where to copy from.
    if has drill && [ "$1" = sealed ]; then sql "create database template1 template postgres strategy file_copy"; fi
    mark
    archived
    if has verify; then pgbr verify --budget=1GiB; fi
    if has drill && [ "$1" = sealed ]; then
        as_operator mkdir "$WORK/drills"
        pgbr drill --drill-path="$WORK/drills" --pg-bin-path="$PGBIN"
    fi
    expect
}

# Kills a backup when it has stored all but its manifest: the WAL before its start comes into the archive, what it ends with does not.
broken() {
    say "$REPO: a broken $1"
    mark
    archived
    as_operator tee "$WORK/more" <<<1 >/dev/null
    as_backup "$1" >"$WORK/broken.log" 2>&1 &
    local job=$! try
    for ((try = 0; try < 600; try++)); do
        [ -z "$(unfinished)" ] || break
        sleep 0.1
    done
    sleep 2
    [ -n "$(unfinished)" ] || die "the backup was not broken off: $(cat "$WORK/broken.log")"
    kill -9 "$(pgrep -f "^$PROGRAM .* backup .*--type=$1" | head -n 1)"
    wait "$job" || true
    rm "$WORK/more"
}

# Labels that have packs and no manifest.
unfinished() { comm -23 <(packed) <(labels); }

# Labels that have packs.
packed() { find "$WORK/made/$REPO/pgbr/demo/backup" -path '*/pack/*' -printf '%P\n' | cut -d/ -f1 | sort -u; }

# More passphrases, one of them with a name and one generated; two replaced keys with backups and WAL under each.
keys() {
    local file=$WORK/pass
    printf '%s\n' "$PASSPHRASE" "$OTHER_PASSPHRASE" >"$WORK/made/passphrases"
    as_operator tee "$file" <<<"$OTHER_PASSPHRASE" >/dev/null
    pgbr key-rotate
    backup incr
    archived
    pgbr key-rotate
    backup incr
    pgbr key-add --new-cipher-pass-file="$file" --slot-name="night shift"
    pgbr key-add --generate --log-level-console=off >>"$WORK/made/passphrases"
}

# A passphrase for writing only, and a backup and WAL by the host that has it; who reads goes on from there.
writers() {
    local passphrase
    passphrase=$(pgbr key-add --write-only --generate --slot-name="database host" --log-level-console=off)
    [ -e "$WORK/made/passphrases" ] || echo "$PASSPHRASE" >"$WORK/made/passphrases"
    echo "$passphrase" >>"$WORK/made/passphrases"
    sed -i "s/^repo1-cipher-pass=.*/repo1-cipher-pass=$passphrase/" "$WORK/sealed.conf"
    backup incr
    mark
    archived
    sed -i "s/^repo1-cipher-pass=.*/repo1-cipher-pass=$PASSPHRASE/" "$WORK/sealed.conf"
}

# Another repository, sealed with another passphrase, that gets the newest backup of plain/ with all it builds on.
copied() {
    configure copy
    {
        printf '%s\n' "[global]" "repo2-path=$WORK/made/copy" "repo2-cipher-type=aes-256-gcm" "repo2-cipher-pass=$OTHER_PASSPHRASE"
        cat "$WORK/plain.conf"
    } >"$WORK/both.conf"
    as_operator "$PROGRAM" --config="$WORK/both.conf" --stanza=demo --repo=1 --to-repo=2 repo-copy
    REPO=copy
    expect
}

# Runs a command while the system makes no hard links, as on some shares.
without_links() {
    as_operator strace --seccomp-bpf -f -o "$WORK/lock/trace" -e trace=linkat,prctl -e inject=linkat:error=EPERM -e inject=prctl:retval=0 \
        "$PROGRAM" "--config=$WORK/$REPO.conf" --stanza=demo "${@:2}"
}

# What the program itself restores from each backup. Settings of the recovery are of the place that is restored to.
expect() {
    local to=$WORK/made/expected/$REPO label
    as_operator mkdir "$to"
    [ -e "$WORK/made/passphrases" ] || echo "$PASSPHRASE" >"$WORK/made/passphrases"
    for label in $(labels); do
        as_operator mkdir -m 0700 "$WORK/target"
        pgbr restore --set="$label" --pg1-path="$WORK/target" --type=none
        list_tree "$WORK/target" >"$to/$label"
        rm -r "$WORK/target"
    done
    pgbr info --output=json >"$to/info.json"
    echo "$MARK" >"$to/mark"
}

# Kept as it is in crates/pgbr-cli/tests/it/old_repositories.rs.
list_tree() {
    (
        cd "$1"
        find . ! -type f -printf '%y %m %P %l\n' | LC_ALL=C sort
        find . -type f ! -name postgresql.auto.conf -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
    )
}

main "$@"
