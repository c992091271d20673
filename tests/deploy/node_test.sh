#!/usr/bin/env bash
# Runs a script of this folder with node: node_test.sh FOLDER SCRIPT [ARGUMENT…]. Packages are
# installed below FOLDER the first time, as locked. Exit 77, saying why: node or npm is missing, or
# the packages cannot be fetched.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$1
script=$2
shift 2
skip() { echo "SKIPPED: $*"; exit 77; }

for program in node npm; do
  command -v "$program" >/dev/null || skip "$program is not installed (./fulgur test installs it)"
done
mkdir -p "$folder"
exec 9>"$folder/.lock"
flock 9
if ! cmp -s "$here/package-lock.json" "$folder/installed-package-lock.json"; then
  cp "$here/package.json" "$here/package-lock.json" "$folder/"
  npm ci --prefix "$folder" --ignore-scripts --no-audit --no-fund >"$folder/npm.log" 2>&1 ||
    skip "npm ci cannot fetch the packages: $(tail -n 1 "$folder/npm.log")"
  cp "$here/package-lock.json" "$folder/installed-package-lock.json"
fi
exec 9>&-
FULGUR_NODE_FOLDER=$folder exec node "$here/$script" "$@"
