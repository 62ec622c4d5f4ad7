#!/usr/bin/env bash
# Everything that must pass, each part timed, all of them run even when one fails; a summary at the
# end. RELAYPACS_REQUIRE_ALL=1 makes a skipped test a failure (the suites see to that themselves).
set -uo pipefail
cd "$(dirname "$0")/.."

features=(--features failpoints)
export RELAYPACS_BIN=${RELAYPACS_BIN:-$PWD/target/debug/relaypacs}
# Enough to meet every fail point several times.
export CRASH_ROUNDS=${CRASH_ROUNDS:-50}
names=() results=() seconds=()
failed=0

part() {
    local name=$1 begun=$SECONDS result=passed
    shift
    printf '\n== %s\n' "$name"
    "$@" || { result=FAILED; failed=1; }
    names+=("$name") results+=("$result") seconds+=($((SECONDS - begun)))
}

suites() {
    (cd conformance && .venv/bin/pytest -q "$@")
}

against_orthanc() {
    SUBJECT=orthanc suites dimse dicomweb
}

fail_points() {
    cargo build --locked -q && scripts/check-no-failpoints.sh target/debug/relaypacs \
        && cargo build --locked -q "${features[@]}" \
        && scripts/check-no-failpoints.sh --expect target/debug/relaypacs
}

scripts/install-test-tools.sh || exit 1
part "format, lints" make --no-print-directory check
part "unit and integration" scripts/unit.sh "${features[@]}"
part "fail points only where asked for" fail_points
part "conformance, SQLite" suites
part "conformance, PostgreSQL" suites -m sql --database postgres
part "the suites against Orthanc" against_orthanc

printf '\n%-36s %-8s %s\n' part result seconds
for i in "${!names[@]}"; do
    printf '%-36s %-8s %s\n' "${names[$i]}" "${results[$i]}" "${seconds[$i]}"
done
exit "$failed"
