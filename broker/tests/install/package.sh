#!/bin/sh
# Installs, runs, removes and purges the package in a copy of this system that nobody else sees and
# that ends with this script: mount and process namespaces of its own, changes in memory only.
# Says "listening" lines of the broker on standard output; ends the broker at the end of its input.
# Usage: unshare --mount --pid --fork --kill-child package.sh PACKAGE SCRATCH_FOLDER
set -eu
package=$1
scratch=$2
exec 3<&0

mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$scratch"
mkdir "$scratch/upper" "$scratch/work" "$scratch/root"
mount -t overlay overlay \
    -o "lowerdir=/,upperdir=$scratch/upper,workdir=$scratch/work" "$scratch/root"
root=$scratch/root
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
cp "$package" "$root/package.deb"
# What this machine has of another installation is none of the package's.
rm -rf "$root/var/lib/ringtide" "$root/etc/ringtide"
echo isolated

inside() { chroot "$root" "$@"; }
state() { inside stat -c "%n %a %U:%G" "$@"; }

inside env DEBIAN_FRONTEND=noninteractive dpkg --install /package.deb >&2
state /usr/bin/ringtide /etc/ringtide/ringtide.toml /var/lib/ringtide

chroot "$root" setpriv --reuid ringtide --regid ringtide --clear-groups --no-new-privs \
    env RINGTIDE_LISTENERS_0_BIND=127.0.0.1:0 /usr/bin/ringtide run 2>&1 &
broker=$!
# A background process of a shell has no input of its own: this one is given ours.
{ cat >/dev/null; kill -TERM "$broker" 2>/dev/null; } <&3 &
code=0
wait "$broker" || code=$?
echo "ended with $code"

echo "# mine" >>"$root/etc/ringtide/ringtide.toml"
inside dpkg --remove ringtide >&2
state /etc/ringtide/ringtide.toml /var/lib/ringtide
inside test ! -e /usr/bin/ringtide && echo "program gone"
inside dpkg --purge ringtide >&2
inside test ! -e /etc/ringtide && inside test ! -e /var/lib/ringtide && echo "all gone"
