#!/bin/sh
# Looks at this host, and with `apply` makes it as the broker wants it: `ringtide tune`, from the
# installed program or from this tree.
# Usage: scripts/tune.sh check|apply|revert|profile [OPTIONS]
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
for program in "$here/${CARGO_TARGET_DIR:-target}/release/ringtide" \
    "${CARGO_TARGET_DIR:-/}/release/ringtide" "$(command -v ringtide || true)"; do
    if [ -n "$program" ] && [ -x "$program" ]; then
        exec "$program" tune "$@"
    fi
done
echo "tune: no ringtide here: run 'make build' first" >&2
exit 2
