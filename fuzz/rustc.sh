#!/usr/bin/env bash
# RUSTC_WRAPPER: gives SanitizerCoverage to what is fuzzed and to what it parses with, and to nothing
# else: libFuzzer looks at every counter after every run. `sancov-module` is a pass of LLVM, so stable
# Rust has it. Build scripts and macros are compiled without `--target`, and have no fuzzer to link to.
set -euo pipefail
instrumented=" relaypacs relaypacs_fuzz dicom_ul serde_json percent_encoding "
crate= target=
for ((i = 1; i < $#; i++)); do
    next=$((i + 1))
    case ${!i} in
        --crate-name) crate=${!next} ;;
        --target) target=${!next} ;;
    esac
done
if [[ -z $target || $instrumented != *" $crate "* ]]; then
    exec "$@"
fi
exec "$@" -Cpasses=sancov-module -Ccodegen-units=1 \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares
