#!/usr/bin/env bash
# A kubectl that knows kustomize components (1.21), for the tests that render the manifests. Debian 12
# packages 1.20; Debian 13's needs only libc 2.34, so its package is fetched by apt (signatures checked,
# nothing installed, no root) and unpacked into the folder given.
#   fetch_kubectl.sh FOLDER        afterwards FOLDER/kubectl, unless the system's own will do
set -euo pipefail
folder=$1
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.." && pwd)

skip() { echo "SKIPPED: $*"; exit 77; }
renders() { "$1" kustomize "$root/deploy/k8s/overlays/cpu" >/dev/null 2>&1; }

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
if [[ -x $folder/kubectl ]] && renders "$folder/kubectl"; then exit 0; fi
if command -v kubectl >/dev/null && renders kubectl; then exit 0; fi

keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[[ -r $keyring ]] && command -v apt-get >/dev/null ||
  skip "no kubectl 1.21 or newer, and no Debian to fetch one from"
# The mirror this machine is set up to use.
mirror=$(apt-get indextargets --format '$(REPO_URI) $(COMPONENT) $(ORIGIN) $(CODENAME)' 'Created-By: Packages' |
  sed -n 's/^\([^ ]*\) main Debian [a-z]*$/\1/p' | head -1)
work=$(mktemp -d "$folder/apt.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{lists/partial,cache/archives/partial,unpacked}
echo "deb [signed-by=$keyring] ${mirror:-http://deb.debian.org/debian} trixie main" >"$work/sources.list"
options=(-q -o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=/dev/null
         -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache"
         -o Dir::State::status=/dev/null -o APT::Sandbox::User= -o Acquire::Languages=none)
{ apt-get "${options[@]}" update && cd "$work" && apt-get "${options[@]}" download kubectl; } \
  >"$folder/apt.log" 2>&1 ||
  skip "no kubectl 1.21 or newer, and Debian 13's did not come: $(grep -m1 '^E:' "$folder/apt.log" || true)"
dpkg-deb -x "$work"/kubectl_*.deb "$work/unpacked"
renders "$work/unpacked/usr/bin/kubectl" || skip "Debian 13's kubectl does not run here"
mv "$work/unpacked/usr/bin/kubectl" "$folder/kubectl"
"$folder/kubectl" version --client
