#!/usr/bin/env bash
# What a build needs beside a Rust toolchain: a C compiler and make, for SQLite, the TLS library and the allocator.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh

if ! command -v cargo > /dev/null; then
    say "no Rust toolchain: install one with rustup (https://rustup.rs); rust-toolchain.toml names its version"
    exit 1
fi
install $(missing cc:gcc make:make /usr/include/stdlib.h:libc6-dev)
