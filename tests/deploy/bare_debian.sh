#!/usr/bin/env bash
# The README's quick start as a stranger meets it: a Debian that holds nothing but debootstrap's minbase, the
# committed tree, root. Needs root, git, debootstrap and a mirror; a quarter of an hour on two cores, which is why it is no ctest.
#   bare_debian.sh [SUITE]             up, the README's request, status, down; SUITE: bookworm (default), trixie, ...
#   bare_debian.sh SUITE test [ARG]…   ./fulgur test ARG… instead, e.g. -L unit
set -euo pipefail
repository=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.." && pwd)
suite=${1:-bookworm}
shift || true
[[ $EUID -eq 0 ]] || { echo "needs root" >&2; exit 2; }
for program in debootstrap git unshare; do
  command -v "$program" >/dev/null || { echo "needs $program" >&2; exit 2; }
done

# Below /var/tmp: the build takes gigabytes, which /tmp in memory may not have.
system=$(mktemp -d /var/tmp/fulgur-bare.XXXXXX)
trap 'rm -rf --one-file-system "$system"' EXIT
debootstrap --variant=minbase "$suite" "$system" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" >"$system.log" ||
  { tail -3 "$system.log" >&2; exit 1; }
rm -f "$system.log"
cp --dereference /etc/resolv.conf "$system/etc/resolv.conf"
# A proxy or mirror that this machine's apt has to go through.
cp /etc/apt/apt.conf.d/*prox* "$system/etc/apt/apt.conf.d/" 2>/dev/null || true
mkdir "$system/fulgur"
git -C "$repository" archive HEAD | tar -x -C "$system/fulgur"

# What runs inside. Its arguments: none for the quick start, else those of ./fulgur.
cat >"$system/stranger.sh" <<'STRANGER'
set -euo pipefail
cd /fulgur
. /etc/os-release
echo "== $PRETTY_NAME, $(dpkg-query -f '.\n' -W | wc -l) packages, commit of $(stat -c %y README.md | cut -d. -f1)"
if [[ $# -gt 0 ]]; then
  exec ./fulgur "$@"
fi
begin=$SECONDS
./fulgur up --detach
echo "== up: $((SECONDS - begin)) s, packages and build included; $(g++ -dumpfullversion)"
request=$(sed -n '/^curl -N/,/[^\\]$/p' README.md)
answer=$(eval "${request/curl/curl -sS --fail-with-body}")
tail -n 3 <<<"$answer"
[[ $(tail -n 2 <<<"$answer") == *"[DONE]"* ]]
./fulgur status
./fulgur down
echo "== the quick start works: $PRETTY_NAME"
STRANGER

# Processes that a failure leaves behind end with the namespace.
unshare --mount --pid --fork --kill-child bash -euc '
  mount -t proc proc "$0/proc"
  mount --rbind /sys "$0/sys"
  mount --rbind /dev "$0/dev"
  exec chroot "$0" /usr/bin/env -i HOME=/root LANG=C.UTF-8 TERM=dumb \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    bash /stranger.sh "$@"' "$system" "$@"
