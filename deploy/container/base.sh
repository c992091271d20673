#!/usr/bin/env bash
# base.sh NAME [SUITE [MIRROR]]: a Debian base image from packages alone, where no registry of images
# can be reached (root, debootstrap, buildah). As small as debian:bookworm-slim, by the same means:
# nothing but required packages and apt, neither documentation nor translations.
set -euo pipefail
name=$1 suite=${2:-bookworm} mirror=${3:-http://deb.debian.org/debian}
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

debootstrap --variant=minbase "$suite" "$root" "$mirror" >&2
# Packages that are installed later leave the same out.
cat >"$root/etc/dpkg/dpkg.cfg.d/slim" <<'END'
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/info/*
path-exclude /usr/share/locale/*
path-exclude /usr/share/man/*
END
find "$root/usr/share/doc" ! -type d ! -name copyright -delete
rm -rf "$root"/usr/share/{info,locale,man}/* "$root"/var/{cache/apt,lib/apt/lists,log}/*
mkdir -p "$root/var/lib/apt/lists/partial" "$root/var/cache/apt/archives/partial"
[[ $suite == sid ]] || cat >"$root/etc/apt/sources.list" <<END
deb $mirror $suite main
deb $mirror $suite-updates main
deb ${mirror}-security $suite-security main
END
container=$(buildah from scratch)
buildah add --quiet "$container" "$root" / >/dev/null
buildah config --cmd /bin/bash --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
buildah commit --quiet --rm "$container" "$name"
