#!/bin/sh
# A foreign suite: the MQTT 5 tests that come with the source package of gmqtt, a Python client.
# Left out: TLS, which this broker does not speak yet; the assigned client id, because this
# client makes one up by itself and so never asks for one.
# Usage: gmqtt_suite.sh HOST PORT PYTHON
set -eu
host=$1 port=$2 python=$3
requirements=$(cd "$(dirname "$0")" && pwd)/requirements.txt
version=$(sed -n 's/^gmqtt==//p' "$requirements")
suite=$(dirname "$python")/../gmqtt-$version
if [ ! -f "$suite/tests/test_mqtt5.py" ]; then
    echo "getting the tests of gmqtt $version"
    new=$(mktemp -d "$suite.XXXXXX")
    trap 'rm -rf "$new"' EXIT
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps \
        --no-binary :all: --dest "$new" "gmqtt==$version"
    tar -xzf "$new/gmqtt-$version.tar.gz" -C "$new" --strip-components=1 "gmqtt-$version/tests"
    rm -rf "$suite"
    mv "$new" "$suite"
fi
cd "$suite"
HOST=$host PORT=$port TOKEN= exec "$python" -m pytest -q -n 8 -p no:cacheprovider \
    tests/test_mqtt5.py --deselect tests/test_mqtt5.py::test_basic_ssl \
    --deselect tests/test_mqtt5.py::test_assigned_clientid
