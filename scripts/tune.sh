#!/bin/sh
# Looks at this host, and with `apply` makes it as the broker wants it: `ringtide tune` of the
# program built in this tree, else of the installed one.
# Usage: scripts/tune.sh check|apply|revert|profile [OPTIONS]
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
built="${CARGO_TARGET_DIR:-$here/target}/release/ringtide"
if [ -x "$built" ]; then
    exec "$built" tune "$@"
elif command -v ringtide >/dev/null 2>&1; then
    exec ringtide tune "$@"
fi
echo "tune: no ringtide here: run 'make build' first" >&2
exit 2
