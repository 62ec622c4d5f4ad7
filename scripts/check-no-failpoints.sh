#!/usr/bin/env bash
# Fails when a binary can be killed by RELAYPACS_FAILPOINT: the name of the variable is in it if
# and only if fail points are compiled in. `--expect` checks the opposite, so that this check can
# be seen to notice.
set -euo pipefail
expected=absent
if [ "${1-}" = --expect ]; then
    expected=present
    shift
fi
binary=$1
if grep -q RELAYPACS_FAILPOINT "$binary"; then found=present; else found=absent; fi
if [ "$found" != "$expected" ]; then
    echo "$binary: fail points are $found, and should be $expected" >&2
    exit 1
fi
