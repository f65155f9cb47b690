#!/usr/bin/env bash
# The compiler as scripts/fuzz.sh has cargo call it: with PGBR_FUZZ_FLAGS for the crates whose coverage leads a fuzzer on, and for no others.
# Those are ours and the parsers and decompressors that get foreign bytes from them. It halves the time that a build takes.
set -euo pipefail
compiler=$1
shift
name='' target=''
for ((n = 1; n <= $#; n++)); do
    next=$((n + 1))
    case "${!n}" in
        --crate-name) name=${!next:-} ;;
        --target) target=${!next:-} ;;
    esac
done
# What runs while building has no target.
case "$target/$name" in
    /*) ;;
    */pgbr* | */fuzz | */serde_json | */quick_xml | */lz4_flex | */zlib_rs | */flate2 | */bzip2 | */libbz2_rs_sys)
        # shellcheck disable=SC2086  # flags hold no blanks
        exec "$compiler" "$@" $PGBR_FUZZ_FLAGS
        ;;
esac
exec "$compiler" "$@"
