#!/usr/bin/env bash
# Unit and integration tests, with nextest where it is installed. Arguments go to cargo.
set -euo pipefail
cd "$(dirname "$0")/.."
if cargo nextest --version > /dev/null 2>&1; then
    exec cargo nextest run --locked --no-fail-fast --status-level fail --final-status-level slow "$@"
fi
exec cargo test --locked --lib --bins --tests "$@"
