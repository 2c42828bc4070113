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

# What openssl says of a connection, which it ends a second after the handshake: the tickets have
# come by then.
handshake() {
    { sleep 1; } | openssl s_client -connect "$host:$port" -CAfile "$ca" -verify_return_error \
        -servername broker.example -verify_hostname broker.example "$@" >"$dir/said" 2>&1 ||
        fail "openssl s_client $*"
}

said() { grep -q "$1" "$dir/said" || fail "nothing said of $1"; }

for version in 1_2 1_3; do
    handshake "-tls$version" -alpn mqtt -sess_out "$dir/session$version"
    said "Verify return code: 0 (ok)"
    said "ALPN protocol: mqtt"
    said "^New, TLSv1"
    handshake "-tls$version" -sess_in "$dir/session$version"
    said "^Reused, TLSv1"
done
if openssl s_client -connect "$host:$port" -alpn http/1.1 </dev/null >"$dir/said" 2>&1; then
    fail "another protocol was taken"
fi
said "no application protocol"
