#!/bin/sh
# Installs what this machine lacks for one task, and says so. Silent where nothing is missing.
# Usage: scripts/ensure.sh run|lint|test|deb|bench|peer|peers|instructions|fuzz|miri
# Debian packages come by apt-get (with sudo unless root); Python and npm packages stay in the tree.
set -eu
cd "$(dirname "$0")/.."

RUST_MIN=1.95
packages=""

say() { echo "ensure: $*"; }
fail() { echo "ensure: $*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ]; }

# want COMMAND PACKAGE...: if the command is missing, its packages will be installed.
want() {
    command=$1
    shift
    have "$command" || packages="$packages $*"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        fail "not root and no sudo; run as root: $*"
    fi
}

may_install() {
    [ "$(id -u)" = 0 ] || have sudo ||
        fail "missing:$1, and no sudo here; as root: apt-get update && apt-get install$1"
}

install_packages() {
    [ -n "$packages" ] || return 0
    have apt-get || fail "please install what provides:$packages (no apt-get here)"
    may_install "$packages"
    say "installing Debian packages:$packages"
    as_root apt-get update -q >/dev/null || say "apt-get update failed; trying with the old lists"
    # shellcheck disable=SC2086
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends $packages >/dev/null ||
        fail "apt-get could not install:$packages"
    packages=""
}

rust() {
    if ! have cargo && [ -x "$HOME/.cargo/bin/cargo" ]; then
        fail "cargo is in $HOME/.cargo/bin, which is not in PATH; run: . \"$HOME/.cargo/env\""
    fi
    have cargo || fail "Rust is missing; install Rust $RUST_MIN or newer (rustup.rs)"
    found=$(rustc --version | cut -d' ' -f2)
    lowest=$(printf '%s\n%s\n' "$RUST_MIN" "$found" | sort -V | head -n 1)
    [ "$lowest" = "$RUST_MIN" ] || fail "Rust $found is too old; install $RUST_MIN or newer"
}

# component NAME COMMAND: a part of the Rust toolchain.
component() {
    cargo "$2" --version >/dev/null 2>&1 && return 0
    have rustup || fail "cargo $2 is missing; install the Rust component $1"
    say "installing the Rust component $1"
    rustup component add "$1"
}

# What a build needs: a C compiler for the allocator and liburing, git for glommio's build script.
build() {
    rust
    want cc build-essential
    want git git
    install_packages
}

# paho-mqtt and gmqtt in .venv, by the versions of the clients' folder.
python_client() {
    wanted=broker/tests/clients/requirements.txt
    stamp=.venv/.ringtide-stamp
    if [ -f "$stamp" ] && { [ ! -f "$wanted" ] || cmp -s "$stamp" "$wanted"; }; then
        return 0
    fi
    say "installing the Python clients from PyPI into .venv"
    [ -x .venv/bin/python ] || python3 -m venv .venv
    if [ -f "$wanted" ]; then
        .venv/bin/python -m pip install -q --disable-pip-version-check -r "$wanted"
        cp "$wanted" "$stamp"
    else
        .venv/bin/python -m pip install -q --disable-pip-version-check "paho-mqtt>=2,<3"
        : >"$stamp"
    fi
}

# mqtt in the clients' folder, by its lock file.
node_client() {
    folder=broker/tests/clients
    [ -f "$folder/package.json" ] || return 0
    stamp=$folder/node_modules/.ringtide-stamp
    [ -f "$stamp" ] && cmp -s "$stamp" "$folder/package.json" && return 0
    say "installing mqtt from npm into $folder/node_modules"
    if [ -f "$folder/package-lock.json" ]; then how=ci; else how=install; fi
    (cd "$folder" && npm "$how" --silent --no-audit --no-fund)
    cp "$folder/package.json" "$stamp"
}

real_clients() {
    want mosquitto_pub mosquitto-clients
    want openssl openssl
    # The shell's own kill does not count: the tests start the program.
    [ -x /bin/kill ] || [ -x /usr/bin/kill ] || packages="$packages procps"
    want prlimit util-linux
    want strace strace
    python3 -c 'import ensurepip, venv' >/dev/null 2>&1 || packages="$packages python3 python3-venv"
    want node nodejs
    want npm npm
    install_packages
    python_client
    node_client
}

# Brokers to compare with. Installing one must not start it: it would take port 1883.
peer() {
    missing=""
    for name in "$@"; do have "$name" || missing="$missing $name"; done
    [ -n "$missing" ] || return 0
    may_install "$missing"
    guard=/usr/sbin/policy-rc.d
    if [ ! -e "$guard" ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$guard" >/dev/null
        as_root chmod 755 "$guard"
        # shellcheck disable=SC2064
        trap "as_root rm -f $guard" EXIT
    fi
    packages=$missing
    install_packages
    for name in $missing; do
        if have systemctl; then as_root systemctl disable "$name" >/dev/null 2>&1 || true; fi
    done
}

# tool COMMAND CRATE: a cargo subcommand.
tool() {
    have "$1" && return 0
    say "installing $2 with cargo"
    cargo install --locked "$2"
}

# A nightly Rust, by what it says it is: the name can be a link to another toolchain.
has_nightly() { rustc +nightly --version 2>/dev/null | grep -q nightly; }

nightly() {
    has_nightly && return 0
    have rustup || return 1
    say "installing the nightly toolchain"
    rustup toolchain install nightly --profile minimal >/dev/null 2>&1 && has_nightly
}

miri() {
    nightly || fail "miri needs a nightly Rust; try: rustup toolchain install nightly"
    cargo +nightly miri --version >/dev/null 2>&1 && return 0
    say "installing the Rust components miri and rust-src of the nightly toolchain"
    rustup +nightly component add miri rust-src >/dev/null 2>&1 ||
        fail "could not install miri; try: rustup +nightly component add miri rust-src"
}

case "${1:-}" in
run | bench) build ;;
lint) build && component rustfmt fmt && component clippy clippy ;;
test) build && component rustfmt fmt && component clippy clippy && real_clients ;;
deb) build && tool cargo-deb cargo-deb ;;
peer) peer mosquitto ;;
peers)
    build
    peer mosquitto nats-server
    tool rumqttd rumqttd || say "rumqttd could not be installed: it is left out"
    ;;
instructions)
    want valgrind valgrind
    build
    ;;
fuzz)
    build
    nightly || say "no nightly Rust to be had"
    tool cargo-fuzz cargo-fuzz
    ;;
miri) build && miri ;;
*) fail "usage: scripts/ensure.sh run|lint|test|deb|bench|peer|peers|instructions|fuzz|miri" ;;
esac
