#!/usr/bin/env bash
# Builds (or takes) the CUDA kernels, checks each against float64 and times it beside its peers.
#   bench/gpu/run.sh [--only rows,dense,lightning,softmax,experts] [--no-time] [--no-peers] [--json FILE]
# FULGUR_GPU_LIBRARY: a libfulgur_gpu_abi.so built elsewhere (no nvcc needed here then).
# FLA: a checkout of flash-linear-attention for the lightning peers; without it they are left out.
# Each group runs in a process of its own under a time limit, so that a hang costs one group only.
set -uo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
library=${FULGUR_GPU_LIBRARY:-}
if [ -z "$library" ]; then
  cmake --preset cuda -S "$root" >/dev/null && cmake --build "$root/build/cuda" --target fulgur_gpu_abi || exit 1
  library=$root/build/cuda/lib/libfulgur_gpu_abi.so
fi
[ -n "${FLA:-}" ] && export PYTHONPATH=$FLA${PYTHONPATH:+:$PYTHONPATH}
export PYTHONUNBUFFERED=1 TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-/tmp/fulgur-triton}

groups="rows,dense lightning softmax experts"
options=()
json=
while [ $# -gt 0 ]; do
  case $1 in
    --only) groups=$2; shift 2 ;;
    --json) json=$2; shift 2 ;;
    *) options+=("$1"); shift ;;
  esac
done
failed=0
for group in $groups; do
  timeout "${FULGUR_GPU_LIMIT_S:-150}" python3 "$root/bench/gpu/bench.py" --library "$library" \
    --only "$group" ${json:+--json "${json%.json}-${group%%,*}.json"} "${options[@]}"
  status=$?
  [ $status -eq 124 ] && echo "group $group ran past its limit"
  [ $status -ne 0 ] && failed=1
done
exit $failed
