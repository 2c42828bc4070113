#!/bin/sh
# openssl's client: both versions, the certificate for the name that is asked for, ALPN, and a
# session that is resumed.
# Usage: openssl.sh HOST PORT CA_FILE
set -eu
host=$1 port=$2 ca=$3
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

fail() {
    echo "FAILED: $*"
    cat "$dir/said"
    exit 1
}

# A connection that goes on until what comes on the input has ended; keeps what openssl says.
handshake() {
    openssl s_client -connect "$host:$port" -CAfile "$ca" -verify_return_error \
        -servername broker.example -verify_hostname broker.example "$@" >"$dir/said" 2>&1 ||
        fail "openssl s_client $*"
}

said() { grep -q "$1" "$dir/said" || fail "nothing said of $1"; }

# Until a file has something in it: with TLS 1.3 the ticket comes after the handshake.
until_there() {
    turns=0
    until [ -s "$1" ] || [ "$turns" -eq 1200 ]; do
        turns=$((turns + 1))
        sleep 0.05
    done
}

for version in 1_2 1_3; do
    session=$dir/session$version
    until_there "$session" | handshake "-tls$version" -alpn mqtt -sess_out "$session"
    said "Verify return code: 0 (ok)"
    said "ALPN protocol: mqtt"
    said "^New, TLSv1"
    handshake "-tls$version" -sess_in "$session" </dev/null
    said "^Reused, TLSv1"
done
if openssl s_client -connect "$host:$port" -alpn http/1.1 </dev/null >"$dir/said" 2>&1; then
    fail "another protocol was taken"
fi
said "no application protocol"
