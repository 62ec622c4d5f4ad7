#!/usr/bin/env bash
# What the suites need: real peers from Debian, and a Python environment with pinned packages.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh

scripts/install-build-tools.sh
install $(missing storescu:dcmtk Orthanc:orthanc \
    /usr/share/orthanc/plugins/libOrthancDicomWeb.so:orthanc-dicomweb \
    /usr/lib/postgresql:postgresql strace:strace python3:python3 runuser:util-linux mkfs.ext4:e2fsprogs \
    qemu-storage-daemon:'qemu-utils qemu-system-common' fusermount3:fuse3)
python3 -c 'import ensurepip, venv' 2> /dev/null || install python3-venv

venv=conformance/.venv
requirements=conformance/requirements.txt
if ! cmp -s "$requirements" "$venv/installed.txt"; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install -q --disable-pip-version-check -r "$requirements"
    cp "$requirements" "$venv/installed.txt"
fi
