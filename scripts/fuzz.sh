#!/bin/sh
# Runs every fuzz target for SECONDS each: with the nightly Rust and its address sanitizer, else
# with the Rust that is there and no sanitizer.
# Usage: scripts/fuzz.sh SECONDS
set -eu
cd "$(dirname "$0")/../broker"
seconds=${1:?usage: scripts/fuzz.sh SECONDS}

# An entry named nightly may be a link to another toolchain: what counts is what it says it is.
if rustc +nightly --version 2>/dev/null | grep -q nightly; then
    toolchain=+nightly
    sanitizer=address
else
    echo "fuzz: no nightly Rust here: running without the address sanitizer"
    toolchain=
    sanitizer=none
    export RUSTC_BOOTSTRAP=1
fi
# shellcheck disable=SC2086
for target in $(cargo $toolchain fuzz list); do
    echo "fuzz: $target for $seconds s, sanitizer: $sanitizer"
    cargo $toolchain fuzz run --sanitizer "$sanitizer" "$target" -- \
        -max_total_time="$seconds" -verbosity=0 -print_final_stats=1
done
