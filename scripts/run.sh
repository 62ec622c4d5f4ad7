#!/usr/bin/env bash
# A node on its embedded default, built if need be. Its first start shows a first key.
set -euo pipefail
cd "$(dirname "$0")/.."
make --no-print-directory release
relaypacs=target/release/relaypacs
if ! keys=$("$relaypacs" key list --json 2>&1); then
    # Before its first start there is nothing to ask; anything else ends here.
    [[ $keys == *"no node has run on it yet"* ]] || { printf '%s\n' "$keys" >&2; exit 1; }
    keys=
fi
if [ -z "$keys" ]; then
    echo "A first API key, shown only now:"
    "$relaypacs" key add first --scope dicomweb:read --scope dicomweb:write
fi
exec "$relaypacs" serve
