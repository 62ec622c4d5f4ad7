#!/usr/bin/env bash
# Fuzzing on stable Rust; docs/fuzzing.md says what is fuzzed. Usage: fuzz.sh [planted|run|only|keep]
#   planted  proves that each target finds the bug planted in it, within PLANTED_SECONDS: by branches, or else by numbers
#   run      that, then each target for SECONDS_EACH; `only` leaves the planted ones out
#   keep     takes what is new into fuzz/corpus, minimised; regression-* stay as they are
# TARGETS chooses some of them, NO_BUILD=1 takes the last build. What fails is kept in fuzz/found/.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh

all=$(sed -n 's/.*Target { name: "\([a-z_]*\)".*/\1/p' fuzz/targets/mod.rs)
read -ra targets <<< "${TARGETS:-${all//$'\n'/ }}"
host=$(rustc -vV | sed -n 's/^host: //p')
fuzzer=fuzz/target/$host/release/relaypacs-fuzz
work=fuzz/target/work
failed=0

# A target directory of its own; `--target` keeps the instrumentation off build scripts and macros.
build() {
    RUSTC_WRAPPER=$PWD/fuzz/rustc.sh cargo build --release --locked --quiet \
        --target "$host" --manifest-path fuzz/Cargo.toml --target-dir fuzz/target
}

# Calls the fuzzer for a target with options and folders; what it says goes to a log of that name.
fuzz() {
    local log=$1 target=$2
    shift 2
    local dictionary=()
    [[ -f fuzz/dictionaries/$target.dict ]] && dictionary=(-dict="fuzz/dictionaries/$target.dict")
    # Without a trace: looking up its names takes seconds, which the time limit would count. Replay the
    # input for it: RELAYPACS_FUZZ_TARGET=… RUST_BACKTRACE=1 relaypacs-fuzz INPUT.
    RUST_BACKTRACE=0 RELAYPACS_FUZZ_TARGET=$target "$fuzzer" -rss_limit_mb=256 -timeout=10 -print_final_stats=1 \
        "${dictionary[@]}" "$@" > "$work/$log.txt" 2>&1
}

prepare() {
    mkdir -p "$work/seeds/$1" "$work/corpus/$1" "fuzz/corpus/$1" "fuzz/found/$1"
    RELAYPACS_FUZZ_TARGET=$1 RELAYPACS_FUZZ_SEEDS=$work/seeds/$1 "$fuzzer" 2> "$work/$1.seeds.txt" || { say "no seeds for $1: see $work/$1.seeds.txt"; exit 1; }
}

executions() {
    sed -n 's/^stat::number_of_executed_units: *//p' "$work/$1.txt"
}

# Whether the planted bug is found from the seeds alone: what earlier runs found may be close to it.
finds_planted() {
    local target=$1
    shift
    rm -rf "$work/planted/$target" && mkdir -p "$work/planted/$target"
    ! RELAYPACS_FUZZ_PLANTED=1 fuzz "$target.planted" "$target" -max_total_time="${PLANTED_SECONDS:-300}" "$@" \
        -artifact_prefix="$work/planted/$target/" "$work/planted/$target" "$work/seeds/$target" \
        && grep -q 'the planted bug' "$work/$target.planted.txt"
}

# Some bugs are found by the branches that inputs take, some where numbers that come closer count, too.
planted() {
    printf '%-12s %10s %12s  %s\n' target seconds executions by
    for target in "${targets[@]}"; do
        prepare "$target"
        local by begun=${EPOCHREALTIME/./}
        if finds_planted "$target"; then by=branches
        elif begun=${EPOCHREALTIME/./} && finds_planted "$target" -use_value_profile=1; then by=numbers
        else by="nothing, see $work/$target.planted.txt" failed=1; fi
        local took=$((${EPOCHREALTIME/./} - begun))
        printf '%-12s %10s %12s  %s\n' "$target" "$((took / 1000000)).$((took / 100000 % 10))" "$(executions "$target.planted")" "$by"
    done
}

run() {
    printf '%-12s %10s %12s %10s\n' target seconds executions findings
    for target in "${targets[@]}"; do
        prepare "$target"
        local findings=0
        fuzz "$target" "$target" -use_value_profile=1 -max_total_time="${SECONDS_EACH:-60}" -artifact_prefix="fuzz/found/$target/" \
            "$work/corpus/$target" "$work/seeds/$target" "fuzz/corpus/$target" || findings=1 failed=1
        printf '%-12s %10s %12s %10s\n' "$target" "${SECONDS_EACH:-60}" "$(executions "$target")" "$findings"
        ((findings)) && grep -m 3 -E 'panicked at|SUMMARY|Test unit written' -A 1 "$work/$target.txt" || true
    done
}

# The smallest set of inputs that covers what all of them cover.
keep() {
    for target in "${targets[@]}"; do
        prepare "$target"
        rm -rf "$work/merged" && mkdir -p "$work/merged"
        fuzz "$target.merged" "$target" -set_cover_merge=1 "$work/merged" "fuzz/corpus/$target" "$work/seeds/$target" "$work/corpus/$target"
        find "fuzz/corpus/$target" -name 'regression-*' -exec cp {} "$work/merged" \;
        rm -rf "fuzz/corpus/$target" && mv "$work/merged" "fuzz/corpus/$target"
        printf '%-12s %5d files %8d bytes\n' "$target" "$(find "fuzz/corpus/$target" -type f | wc -l)" \
            "$(cat "fuzz/corpus/$target"/* | wc -c)"
    done
}

mkdir -p "$work"
if [[ -z ${NO_BUILD:-} ]]; then
    scripts/install-build-tools.sh
    # libFuzzer is C++.
    install $(missing c++:g++)
    build
fi
case ${1:-run} in
    planted) planted ;;
    run) planted && run ;;
    only) run ;;
    keep) keep ;;
    *) sed -n '2,6p' "$0"; exit 2 ;;
esac
exit "$failed"
