#!/usr/bin/env bash
# collect.sh PROGRAMS MODEL OUT: lays out what an image needs. OUT/opt/fulgur has stripped programs,
# the model and the entry point; OUT/packages lists the packages with the libraries they load.
set -euo pipefail
programs=$1 model=$2 out=$3
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

mkdir -p "$out/opt/fulgur/bin" "$out/opt/fulgur/models"
for service in router attention expert orchestrator; do
  strip -o "$out/opt/fulgur/bin/fulgur-$service" "$programs/fulgur-$service"
done
install -m 755 "$here/entrypoint.sh" "$out/opt/fulgur/bin/entrypoint"
cp -r "$model" "$out/opt/fulgur/models/"
cp "$here/../../LICENSE" "$out/opt/fulgur/"
cp "$here/../../services/orchestrator/ops/uplot/LICENSE" "$out/opt/fulgur/LICENSE.uplot"  # embedded in the page

# Libraries by their real path; dpkg knows some without the /usr that Debian merged.
ldd "$out"/opt/fulgur/bin/fulgur-* | awk '$3 ~ /^\// {print $3}' | sort -u | xargs -n1 readlink -f |
  while read -r library; do
    dpkg-query -S "$library" 2>/dev/null || dpkg-query -S "${library#/usr}"
  done | cut -d: -f1 | sort -u >"$out/packages"
