#!/usr/bin/env bash
# Builds the fuzz targets and runs each for a while:  scripts/fuzz.sh SECONDS [TARGET...]
#
# The stable compiler does: RUSTC_BOOTSTRAP lets it instrument for the address sanitizer (which also shows libFuzzer the
# operands of memcmp). cargo-fuzz is not needed, but works on the same crate. A crash fails the script; its input is in
# fuzz/artifacts/TARGET/. Inputs worth keeping belong into fuzz/corpus/TARGET/ under a name that says what they are.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

[[ "${1:-}" =~ ^[1-9][0-9]*$ ]] || die "usage: $0 SECONDS [TARGET...]"
seconds=$1
shift

cd "$ROOT/fuzz"
[ -f Cargo.toml ] || die "there is no fuzz/Cargo.toml"
if [ "$#" -eq 0 ]; then
    # shellcheck disable=SC2046  # names of targets hold no blanks
    set -- $(sed -n '/^\[\[bin\]\]/,/^$/s/^name = "\(.*\)"/\1/p' Cargo.toml)
fi
[ "$#" -gt 0 ] || die "fuzz/Cargo.toml has no targets"

host=$(rustc -vV | sed -n 's/^host: //p')
flags="--cfg fuzzing -Cdebug-assertions -Coverflow-checks -Cpasses=sancov-module"
for option in level=4 inline-8bit-counters pc-table trace-compares; do
    flags+=" -Cllvm-args=-sanitizer-coverage-$option"
done
if compgen -G "$(rustc --print target-libdir)/librustc-*_rt.asan.a" >/dev/null; then
    export RUSTC_BOOTSTRAP=1
    flags+=" -Zsanitizer=address"
else
    say "FUZZED WITHOUT ADDRESS SANITIZER: this toolchain does not bring its runtime"
fi
# With a target named, the flags do not reach build scripts and macros, which would not link with them.
RUSTFLAGS=$flags cargo build --release --target "$host" --bins || die "the fuzz targets do not build"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for target in "$@"; do
    mkdir -p "$scratch/$target" "artifacts/$target"
    corpus=("$scratch/$target")
    [ ! -d "corpus/$target" ] || corpus+=("corpus/$target")
    if ! "target/$host/release/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=0 \
        -artifact_prefix="artifacts/$target/" "${corpus[@]}" >"$scratch/log" 2>&1; then
        tail -n 60 "$scratch/log" >&2
        die "target $target failed; the input is in fuzz/artifacts/$target"
    fi
    say "fuzzed $target: $(tail -n 1 "$scratch/log")"
done
