#!/bin/sh
# Installs or removes the broker: program, configuration, data directory, systemd unit, and as root
# its user. In the sources it is called by make; in an unpacked archive it stands beside its files.
# Usage: [PREFIX=/usr/local] [DESTDIR=] scripts/install.sh install|uninstall [PROGRAM CONFIG UNIT]
set -eu

PREFIX=${PREFIX:-/usr/local}
DESTDIR=${DESTDIR:-}
USER_NAME=ringtide
CONFIG_DIR=$DESTDIR/etc/ringtide
DATA_DIR=$DESTDIR/var/lib/ringtide
UNIT_DIR=$DESTDIR$PREFIX/lib/systemd/system

say() { echo "install: $*"; }
fail() { echo "install: $*" >&2; exit 1; }

# Into this system, not into a folder that will be packed.
for_real() { [ -z "$DESTDIR" ] && [ "$(id -u)" = 0 ]; }

add_user() {
    getent passwd "$USER_NAME" >/dev/null && return 0
    command -v useradd >/dev/null || fail "no useradd here: add a system user $USER_NAME first"
    nologin=$(command -v nologin || echo /usr/sbin/nologin)
    useradd --system --user-group --no-create-home --home-dir /var/lib/ringtide \
        --shell "$nologin" "$USER_NAME"
    say "added the system user $USER_NAME"
}

put() {
    for file in "$program" "$config" "$unit"; do
        [ -f "$file" ] || fail "$file is missing: run 'make build' first"
    done
    install -D -m 755 "$program" "$DESTDIR$PREFIX/bin/ringtide"
    if [ -e "$CONFIG_DIR/ringtide.toml" ]; then
        say "kept $CONFIG_DIR/ringtide.toml as it is"
    else
        install -D -m 644 "$config" "$CONFIG_DIR/ringtide.toml"
    fi
    install -d "$UNIT_DIR"
    sed "s|^ExecStart=/usr/bin/|ExecStart=$PREFIX/bin/|" "$unit" >"$UNIT_DIR/ringtide.service"
    chmod 644 "$UNIT_DIR/ringtide.service"
    install -d -m 700 "$DATA_DIR"
    if for_real; then
        add_user
        chown "$USER_NAME:$USER_NAME" "$DATA_DIR"
    fi
    say "installed into $DESTDIR$PREFIX; start with:" \
        "systemctl daemon-reload && systemctl enable --now ringtide"
}

remove() {
    if for_real && [ -d /run/systemd/system ]; then
        systemctl disable --now ringtide >/dev/null 2>&1 || true
    fi
    rm -f "$DESTDIR$PREFIX/bin/ringtide" "$UNIT_DIR/ringtide.service"
    if for_real && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
    say "removed; kept are $CONFIG_DIR, $DATA_DIR and the user $USER_NAME"
}

here=$(cd "$(dirname "$0")" && pwd)
program=${2:-$here/ringtide}
config=${3:-$here/ringtide.toml}
unit=${4:-$here/ringtide.service}
case "${1:-}" in
install) put ;;
uninstall) remove ;;
*) fail "usage: install.sh install|uninstall [PROGRAM CONFIG UNIT]" ;;
esac
