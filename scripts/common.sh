# Sourced by the other scripts: installing Debian packages without starting what is in them.

say() { printf '%s\n' "$*" >&2; }

# missing COMMAND:PACKAGE...: the packages whose command is not there.
missing() {
    local pair
    for pair in "$@"; do
        command -v "${pair%%:*}" > /dev/null 2>&1 || [ -e "${pair%%:*}" ] || printf '%s ' "${pair#*:}"
    done
}

# install PACKAGE...: as root at once; otherwise says what to run, and stops.
install() {
    [ $# -eq 0 ] && return 0
    if [ "$(id -u)" -ne 0 ]; then
        say "missing: $*"
        say "run: sudo apt-get install -y --no-install-recommends $*"
        exit 1
    fi
    say "installing: $*"
    local policy=/usr/sbin/policy-rc.d ours=
    # Debian starts services as it installs them; the suites start their own, on their own ports.
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' > "$policy"
        chmod 755 "$policy"
        ours=yes
    fi
    local failed=0
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update -q && apt-get install -q -y --no-install-recommends "$@"; } > /tmp/relaypacs-apt.log 2>&1 || failed=1
    [ -n "$ours" ] && rm -f "$policy"
    if [ "$failed" -ne 0 ]; then
        tail -n 20 /tmp/relaypacs-apt.log >&2
        exit 1
    fi
}
