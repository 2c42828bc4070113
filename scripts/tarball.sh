#!/bin/sh
# Packs the static program that `make static` built into an archive that installs itself.
# Usage: scripts/tarball.sh TARGET_FOLDER
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
target=$(cd "${1:?usage: scripts/tarball.sh TARGET_FOLDER}" && pwd)
version=$("$target/static/ringtide" version | cut -d' ' -f2)
name=ringtide-$version-$(uname -m)
folder=$target/static/$name

rm -rf "$folder"
mkdir -p "$folder"
cp "$target/static/ringtide" "$here/scripts/install.sh" "$here/broker/ringtide.toml" \
    "$here/packaging/ringtide.service" "$here/packaging/container/seccomp.json" \
    "$here/LICENSE" "$folder/"
cp "$here/packaging/tarball.md" "$folder/README.md"
strip --strip-debug "$folder/ringtide"
# The same sources give the same archive, whoever packs them.
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@${SOURCE_DATE_EPOCH:-0}" \
    -C "$target/static" -cf - "$name" | gzip -n >"$target/$name.tar.gz"
rm -rf "$folder"
echo "$target/$name.tar.gz"
