#!/usr/bin/env bash
# Rounds by turns on a machine that drifts: one process with AMX, a mesh of 1 shard and 2 workers, one
# process without AMX; README's table are medians over them.
#   bench/engine/rounds.sh MODEL_DIR [ROUNDS=5] [PORT=8410]
# Without prefix caches: with one, a prompt that ends on a multiple of 64 tokens takes one more pass,
# which leaves its state for others (the last line of each round is one process with a cache).
set -euo pipefail
model=$1
rounds=${2:-5}
port=${3:-8410}
bin=$(cd "$(dirname "$0")/../.." && pwd)/build/release/bin
"$bin/fulgur" up --model "$model" --detach --no-demo --port "$port" --prefix-cache-bytes 0
trap '"$bin/fulgur" down --port "$port"' EXIT
# bench TITLE DECODE CACHE_BYTES OPTIONS...
bench() {
  echo "== $1"
  "$bin/fulgur-bench-engine" --model "$model" --threads 2 --decode "$2" --prefill 512,4096 \
    --steps 32 --repeats 1 --seed "$((round + 1))" --prefix-cache-bytes "$3" "${@:4}"
}
for ((round = 0; round < rounds; ++round)); do
  bench "one process, AMX" 1,8,32 0 --isa amx
  bench mesh 1,8,32 0 --mesh "$port"
  bench "one process, AVX" 1,8,32 0 --isa avx
  bench "one process, AMX, prefix cache" 0 268435456 --isa amx
done
