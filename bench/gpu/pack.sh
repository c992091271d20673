#!/usr/bin/env bash
# Builds with CUDA here and packs what a machine with a GPU, but without this project's packages, needs
# to check and measure: test and bench programs, the kernels' library for bench.py, and the shared
# libraries they use (but for glibc's own). The source tree travels with it: models, goldens, scripts.
#   bench/gpu/pack.sh [FILE]      default build/gpu-pack.tar.gz; then, over there: bench/gpu/run.sh
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
file=${1:-$root/build/gpu-pack.tar.gz}
tests="kernels_cuda_test kernels_device_test device_exactness_test"
benches="fulgur-bench-slice fulgur-bench-engine"
command -v nvcc >/dev/null || export PATH=$PATH:/usr/local/cuda/bin
cmake --preset cuda -S "$root" >/dev/null
# shellcheck disable=SC2086
cmake --build "$root/build/cuda" --target $tests $benches fulgur_gpu_abi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/bin" "$folder/lib"
for program in $tests $benches; do cp "$root/build/cuda/bin/$program" "$folder/bin/"; done
cp "$root/build/cuda/lib/libfulgur_gpu_abi.so" "$folder/lib/"
strip --strip-debug "$folder"/bin/* "$folder"/lib/*
for program in "$folder"/bin/*; do
  ldd "$program" | awk '$3 ~ /^\// { print $3 }'
done | sort -u | while read -r library; do
  case $(basename "$library") in
    libc.so.* | libm.so.* | libpthread.so.* | libdl.so.* | librt.so.* | libresolv.so.* | ld-linux*) ;;
    *) cp -L "$library" "$folder/lib/" ;;
  esac
done
mkdir -p "$(dirname "$file")"
tar -C "$folder" -czf "$file" bin lib
du -h "$file"
