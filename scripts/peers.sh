#!/bin/sh
# Measures every row in alternation with each peer that is installed, one after another; each leaves
# a record in perf/results.
# Usage: scripts/peers.sh FOLDER_OF_PROGRAMS [OPTIONS OF ringtide-perf bench]
set -eu
cd "$(dirname "$0")/.."
programs=${1:?usage: scripts/peers.sh FOLDER_OF_PROGRAMS [OPTIONS]}
shift

measured=0
for peer in mosquitto nats-server rumqttd; do
    program=$(PATH=$PATH:/usr/sbin:$HOME/.cargo/bin command -v "$peer" || true)
    if [ -z "$program" ]; then
        echo "peers: no $peer here: left out"
        continue
    fi
    echo "peers: in alternation with $program"
    "$programs/ringtide-perf" bench --broker "$programs/ringtide" --against "$program" "$@"
    measured=$((measured + 1))
done
[ "$measured" -gt 0 ] || { echo "peers: none is installed: scripts/ensure.sh peers" >&2; exit 1; }
