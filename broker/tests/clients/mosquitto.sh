#!/bin/sh
# mosquitto_pub and mosquitto_sub through the broker: every version and QoS, retained messages,
# wills, shared subscriptions, sessions that wait, large payloads, request and response.
# Usage: mosquitto.sh HOST PORT [CA_FILE]; with a file the clients use TLS.
set -eu
host=$1 port=$2 ca=${3:-}
dir=$(mktemp -d)
run="m$$"
# All end by themselves, or at the end of this script: only for what never comes.
wait_s=200
started=""

finish() {
    status=$?
    for pid in $started; do kill "$pid" 2>/dev/null || true; done
    [ "$status" -eq 0 ] || tail -n 4 "$dir"/*.all
    rm -rf "$dir"
}
trap finish EXIT

fail() {
    echo "FAILED: $*"
    exit 1
}

publish() { mosquitto_pub -h "$host" -p "$port" ${ca:+--cafile "$ca"} "$@"; }

# Starts a subscriber, line by line (stdbuf), that writes its messages to $dir/NAME; returns when
# its SUBACK has come.
subscriber() {
    name=$1
    shift
    stdbuf -oL mosquitto_sub -h "$host" -p "$port" ${ca:+--cafile "$ca"} -W "$wait_s" \
        -d "$@" >"$dir/$name.all" 2>&1 &
    pid=$!
    started="$started $pid"
    until grep -qs "^Subscribed" "$dir/$name.all"; do
        # One that has got all that it waits for may have ended since the last look.
        kill -0 "$pid" 2>/dev/null || grep -qs "^Subscribed" "$dir/$name.all" ||
            fail "$name ended before its SUBACK"
        sleep 0.05
    done
}

# The messages of a subscriber without the client's own remarks.
messages() { grep -v -E "^(Client |Subscribed)" "$dir/$1.all" || true; }

# Waits until a subscriber has its messages.
expect() {
    name=$1 count=$2
    turns=0
    while [ "$(messages "$name" | wc -l)" -lt "$count" ]; do
        turns=$((turns + 1))
        [ "$turns" -lt 1200 ] || fail "$name has not got $count messages"
        sleep 0.05
    done
    [ "$(messages "$name" | wc -l)" -eq "$count" ] || fail "$name got more than $count messages"
}

every_version_and_qos() {
    for version in mqttv31 mqttv311 mqttv5; do
        for qos in 0 1 2; do
            name="$version-$qos"
            subscriber "$name" -V "$version" -q "$qos" -t "$run/$name/+" -C 2
            publish -V "$version" -q "$qos" -t "$run/$name/a" -m "one of $name"
            # Two publishers, and with QoS 0 the first ends before its message has gone anywhere:
            # their order holds only if the second waits.
            expect "$name" 1
            publish -V mqttv5 -q "$qos" -t "$run/$name/b" -m "two of $name"
            expect "$name" 2
            [ "$(messages "$name")" = "$(printf 'one of %s\ntwo of %s' "$name" "$name")" ] ||
                fail "$name got the wrong messages"
        done
    done
}

retained() {
    for version in mqttv31 mqttv311 mqttv5; do
        publish -V "$version" -q 1 -r -t "$run/kept/$version" -m "kept $version"
    done
    subscriber kept -t "$run/kept/#" -q 1 -C 3 -F '%r %p'
    expect kept 3
    [ "$(messages kept | grep -c '^1 kept')" -eq 3 ] || fail "the retain flag is missing"
    for version in mqttv31 mqttv311 mqttv5; do
        publish -q 1 -r -n -t "$run/kept/$version"
    done
    subscriber cleared -t "$run/kept/#" -q 1 -C 1
    publish -q 1 -t "$run/kept/live" -m live
    expect cleared 1
    [ "$(messages cleared)" = live ] || fail "a deleted retained message came"
}

wills() {
    subscriber watcher -t "$run/will" -q 1 -C 3
    for version in mqttv31 mqttv311 mqttv5; do
        subscriber "dies-$version" -V "$version" -t "$run/other" \
            --will-topic "$run/will" --will-payload "will $version" --will-qos 1
        kill -9 "$pid"
    done
    expect watcher 3
}

shared() {
    for member in 1 2 3; do
        subscriber "member$member" -V mqttv5 -t "\$share/group/$run/share/+" -q 1
    done
    seq 60 | publish -q 1 -t "$run/share/numbers" -l
    turns=0
    while [ "$(cat "$dir"/member?.all | grep -c '^[0-9]')" -lt 60 ]; do
        turns=$((turns + 1))
        [ "$turns" -lt 1200 ] || fail "a shared group has not got 60 messages"
        sleep 0.05
    done
    distinct=$(cat "$dir"/member?.all | grep '^[0-9]' | sort -n | uniq | wc -l)
    [ "$distinct" -eq 60 ] || fail "a shared group got $distinct distinct messages of 60"
    for member in 1 2 3; do
        messages "member$member" | grep -q . || fail "member$member got nothing"
    done
}

sessions() {
    for version in mqttv311 mqttv5; do
        # -E: ends after SUBACK; the session stays.
        set -- -V "$version" -c -i "$run-$version" -q 2 -t "$run/session/$version"
        [ "$version" = mqttv311 ] || set -- "$@" -x 600
        mosquitto_sub -h "$host" -p "$port" ${ca:+--cafile "$ca"} -W "$wait_s" -E "$@"
        # One publisher, whose order is kept.
        printf 'waiting 1\nwaiting 2\nwaiting 3\n' | publish -q 2 -t "$run/session/$version" -l
        got=$(mosquitto_sub -h "$host" -p "$port" ${ca:+--cafile "$ca"} -W "$wait_s" -C 3 "$@")
        [ "$got" = "$(printf 'waiting 1\nwaiting 2\nwaiting 3')" ] ||
            fail "a waiting session got: $got"
    done
}

large() {
    head -c 1000000 /dev/urandom >"$dir/large"
    mosquitto_sub -h "$host" -p "$port" ${ca:+--cafile "$ca"} -W "$wait_s" -q 1 \
        -t "$run/large" -C 1 -N >"$dir/large.got" &
    got=$!
    started="$started $got"
    # Retained, so that it does not matter which of the two is there first.
    publish -q 1 -r -t "$run/large" -f "$dir/large"
    wait "$got" || fail "the large message did not come"
    publish -q 1 -r -n -t "$run/large"
    cmp "$dir/large" "$dir/large.got" || fail "the large message was changed"
    rm -f "$dir/large" "$dir/large.got"
}

requests() {
    subscriber asked -V mqttv5 -t "$run/request" -C 1 -F '%p %R %D'
    publish -V mqttv5 -t "$run/request" -m question -q 1 \
        -D publish response-topic "$run/answer" -D publish correlation-data c1 \
        -D publish content-type text/plain -D publish user-property k v
    expect asked 1
    messages asked | grep -q "^question $run/answer" || fail "the response topic is missing"
}

for part in every_version_and_qos retained wills shared sessions large requests; do
    echo "$part"
    "$part"
done
