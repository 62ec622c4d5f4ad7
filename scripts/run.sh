#!/usr/bin/env bash
# A node on its embedded default, built if need be. Its first start shows a first key.
set -euo pipefail
cd "$(dirname "$0")/.."
make --no-print-directory release
relaypacs=target/release/relaypacs
keys=
# Before its first start there is nothing to ask.
[ ! -e data/spool ] || keys=$("$relaypacs" key list --json)
if [ -z "$keys" ]; then
    echo "A first API key, shown only now:"
    "$relaypacs" key add first --scope dicomweb:read --scope dicomweb:write
fi
exec "$relaypacs" serve
