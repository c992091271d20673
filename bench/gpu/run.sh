#!/usr/bin/env bash
# Everything that needs a GPU, in one call: the test programs (portable kernels against the reference
# bit for bit, fast kernels against it within tolerances, engine and goldens against the CPU), the
# M1-shaped slice, each kernel checked against float64 and timed beside its peers, the engine.
#   bench/gpu/run.sh [--only "tests slice exact rows,dense draw lightning softmax experts fp8 engine"]
#                    [--no-time] [--no-peers] [--json FILE]
# What exact mode costs: `exact` times products, experts and softmax decode with fixed and with free
# sums by turns, `slice` the whole slice (--sums fixed|free, four runs); both print lines "exact mode".
# Takes programs from build/gpu-pack.tar.gz (bench/gpu/pack.sh) where that exists; else builds them.
# FULGUR_GPU_LIBRARY: a libfulgur_gpu_abi.so built elsewhere, for the kernel groups alone.
# FLA: a checkout of flash-linear-attention for the lightning peers; without it they are left out.
# Each group runs in a process of its own under a time limit, so that a hang costs one group only.
# With --json FILE.json the groups write FILE-GROUP.json; tests write FILE-TEST.txt.
set -uo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
limit=${FULGUR_GPU_LIMIT_S:-150}
groups="tests slice exact rows,dense draw lightning softmax experts fp8 engine"
options=()
json=
while [ $# -gt 0 ]; do
  case $1 in
    --only) groups=$2; shift 2 ;;
    --json) json=$2; shift 2 ;;
    *) options+=("$1"); shift ;;
  esac
done

programs=$root/build/cuda/bin
library=${FULGUR_GPU_LIBRARY:-}
libraries=
if [ -z "$library" ] && [ -f "$root/build/gpu-pack.tar.gz" ]; then
  pack=$(mktemp -d)
  trap 'rm -rf "$pack"' EXIT
  tar -C "$pack" -xzf "$root/build/gpu-pack.tar.gz" || exit 1
  programs=$pack/bin
  libraries=$pack/lib
  library=$pack/lib/libfulgur_gpu_abi.so
elif [ -z "$library" ]; then
  targets="fulgur_gpu_abi"
  case " $groups " in *" tests "*) targets+=" kernels_device_test kernels_cuda_test device_exactness_test" ;; esac
  case " $groups " in *" slice "*) targets+=" fulgur-bench-slice" ;; esac
  case " $groups " in *" engine "*) targets+=" fulgur-bench-engine" ;; esac
  # shellcheck disable=SC2086
  cmake --preset cuda -S "$root" >/dev/null &&
    cmake --build "$root/build/cuda" --target $targets || exit 1
  library=$root/build/cuda/lib/libfulgur_gpu_abi.so
fi
[ -n "${FLA:-}" ] && export PYTHONPATH=$FLA${PYTHONPATH:+:$PYTHONPATH}
export PYTHONUNBUFFERED=1 TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-/tmp/fulgur-triton}
export FULGUR_SOURCE_DIR=$root FULGUR_GPU_REQUIRED=1

failed=0
# settle GROUP STATUS: says what went wrong and remembers it.
settle() {
  [ "$2" -eq 124 ] && echo "group $1 ran past its limit of $limit s"
  [ "$2" -ne 0 ] && failed=1 && echo "group $1 FAILED"
}
# program NAME ARGUMENTS...: one of ours, with the libraries it was packed with.
program() {
  local name=$1
  shift
  LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} timeout "$limit" "$programs/$name" "$@"
}
# The slice with fixed and with free sums, by turns.
slice_by_turns() {
  local status=0
  for sums in fixed free free fixed; do
    program fulgur-bench-slice --sums $sums --hybrid-only --decode 1,16,64,128 --prefill 2048,8192 \
      --chunk 8192 --contexts 1024 || status=$?
  done
  return $status
}
into() { if [ -n "$json" ]; then tee "${json%.json}-$1"; else cat; fi; }

for group in $groups; do
  echo "== $group"
  case $group in
    tests)
      for name in kernels_device_test kernels_cuda_test device_exactness_test; do
        program "$name" --gtest_brief=1 2>&1 | into "$name.txt"
        settle "$name" "${PIPESTATUS[0]}"
      done
      ;;
    slice)
      program fulgur-bench-slice | into slice.json
      settle slice "${PIPESTATUS[0]}"
      slice_by_turns | into slice-sums.json | python3 "$root/bench/gpu/slice_cost.py"
      settle "slice by turns" $((PIPESTATUS[0] | PIPESTATUS[2]))
      ;;
    engine)
      program fulgur-bench-engine --model "$root/models/fulgur-tiny" --backend cuda --decode 1,8,32 \
        --prefill 512,2048 --repeats 3 --json | into engine.json
      settle engine "${PIPESTATUS[0]}"
      ;;
    *)
      timeout "$limit" python3 "$root/bench/gpu/bench.py" --library "$library" --only "$group" \
        ${json:+--json "${json%.json}-${group%%,*}.json"} "${options[@]}"
      settle "$group" $?
      ;;
  esac
done
[ $failed -eq 0 ] && echo "all groups passed"
exit $failed
