#!/usr/bin/env bash
# Fails when a binary can be killed by RELAYPACS_FAILPOINT, or made to leave out a sync by
# RELAYPACS_LEAVE_OUT: the names of the variables are in it if and only if fail points are compiled
# in. `--expect` checks the opposite, so that this check can be seen to notice.
set -euo pipefail
expected=absent
if [ "${1-}" = --expect ]; then
    expected=present
    shift
fi
binary=$1
for variable in RELAYPACS_FAILPOINT RELAYPACS_LEAVE_OUT; do
    if grep -q "$variable" "$binary"; then found=present; else found=absent; fi
    if [ "$found" != "$expected" ]; then
        echo "$binary: $variable is $found, and should be $expected" >&2
        exit 1
    fi
done
