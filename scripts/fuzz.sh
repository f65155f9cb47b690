#!/usr/bin/env bash
# Builds the fuzz targets and runs each for a while, as many at a time as there are cores:
#
#   scripts/fuzz.sh SECONDS [TARGET...]
#
# The stable compiler does: RUSTC_BOOTSTRAP lets it instrument for the address sanitizer (which also shows libFuzzer the
# operands of memcmp). A crash fails the script, and so does one allocation of more than 256 MiB: no length is believed. The input is in
# fuzz/artifacts/TARGET/ then. Every run begins with fuzz/seeds/TARGET/, which is checked in: inputs worth keeping belong there under a
# name that says what they are. With a directory fuzz/corpus/TARGET/, which is not, what is found is kept in it.
#
# All targets are one program, which is told by PGBR_FUZZ_TARGET which of them it is.
#
# Environment:
#   PGBR_FUZZ_FEATURES   `cloud`: with the targets for what comes from cloud stores, which take as long again to compile
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

main() {
    [[ "${1:-}" =~ ^[1-9][0-9]*$ ]] || die "usage: $0 SECONDS [TARGET...]"
    seconds=$1
    shift
    cd "$ROOT/fuzz"
    host=$(rustc -vV | sed -n 's/^host: //p')
    build
    if [ "$#" -eq 0 ]; then
        local files=(src/targets/*.rs) file
        for file in "${files[@]}"; do
            file=${file##*/}
            # Without its feature it is not in the program.
            [[ "$file" == s3_versions.rs && "${PGBR_FUZZ_FEATURES:-}" != *cloud* ]] || set -- "$@" "${file%.rs}"
        done
    fi

    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    local target
    for target in "$@"; do
        while [ "$(jobs -pr | wc -l)" -ge "$(nproc)" ]; do wait -n || true; done
        fuzz "$target" &
    done
    wait
    [ ! -s "$scratch/failed" ] || die "failed: $(tr '\n' ' ' <"$scratch/failed")"
}

build() {
    local flags option
    flags="-Cpasses=sancov-module"
    for option in level=4 inline-8bit-counters pc-table trace-compares; do
        flags+=" -Cllvm-args=-sanitizer-coverage-$option"
    done
    if compgen -G "$(rustc --print target-libdir)/librustc-*_rt.asan.a" >/dev/null; then
        export RUSTC_BOOTSTRAP=1
        flags+=" -Zsanitizer=address"
    else
        say "FUZZED WITHOUT ADDRESS SANITIZER: this toolchain does not bring its runtime"
    fi
    # With a target named, flags do not reach build scripts and macros, which would not link with them.
    PGBR_FUZZ_FLAGS=$flags RUSTC_WRAPPER="$ROOT/scripts/fuzz-rustc.sh" CARGO_TARGET_DIR=target \
        RUSTFLAGS="--cfg fuzzing -Cdebug-assertions -Coverflow-checks" \
        cargo build --release --target "$host" ${PGBR_FUZZ_FEATURES:+--features "$PGBR_FUZZ_FEATURES"} ||
        die "the fuzz targets do not build"
}

# Runs one target; on a crash shows the end of its log.
fuzz() {
    local target=$1 corpus=() directory
    mkdir -p "$scratch/$target" "artifacts/$target"
    # New inputs go into the first directory.
    for directory in "corpus/$target" "$scratch/$target" "seeds/$target"; do
        [ ! -d "$directory" ] || corpus+=("$directory")
    done
    if ! PGBR_FUZZ_TARGET=$target "target/$host/release/fuzz" -max_total_time="$seconds" -timeout=10 \
        -rss_limit_mb=1024 -malloc_limit_mb=256 \
        -artifact_prefix="artifacts/$target/" "${corpus[@]}" >"$scratch/$target.log" 2>&1; then
        tail -n 60 "$scratch/$target.log" >&2
        say "target $target failed; the input is in fuzz/artifacts/$target"
        echo "$target" >>"$scratch/failed"
        return
    fi
    say "fuzzed $target: $(tail -n 1 "$scratch/$target.log")"
}

main "$@"
