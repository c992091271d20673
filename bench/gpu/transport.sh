#!/usr/bin/env bash
# Activations between GPUs: builds, checks every byte, kills workers and measures, beside bare copies and
# torch's NCCL in the same run. For machines with 2 GPUs or more.
#   bench/gpu/transport.sh [--out DIR] [--gpus N] [--tokens 1,16,...] [--rounds N] [--kills N]
#                          [--nccl-blocks 4,16,32] [--no-torch]
#   bench/gpu/transport.sh --bundle DIR     only builds: DIR gets the program and the libraries it
#                                           needs, for a machine without our packages
# FULGUR_GPU_BUNDLE: such a DIR to run from instead of building. Results: summary.json, machine.txt and
# runs.tar.gz (each run and its log) in --out or $OUT, and a table. Every step has its own time limit.
# Multicast stays off (NCCL_NVLS_ENABLE=0).
set -uo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
out=${OUT:-$root/build/gpu-transport} gpus= tokens=1,16,128,1024,8192 rounds=1000 kills=5
blocks=16 torch=1 bundle=
while [ $# -gt 0 ]; do
  case $1 in
    --out) out=$2; shift 2 ;;
    --gpus) gpus=$2; shift 2 ;;
    --tokens) tokens=$2; shift 2 ;;
    --rounds) rounds=$2; shift 2 ;;
    --kills) kills=$2; shift 2 ;;
    --nccl-blocks) blocks=$2; shift 2 ;;
    --no-torch) torch=; shift ;;
    --bundle) bundle=$2; shift 2 ;;
    *) echo "what is $1? see the head of $0" >&2; exit 2 ;;
  esac
done

program=fulgur-bench-gpu-transport
build() {
  cmake --preset cuda -S "$root" >/dev/null && cmake --build "$root/build/cuda" --target $program
}

if [ -n "$bundle" ]; then
  build || exit 1
  mkdir -p "$bundle/lib"
  cp "$root/build/cuda/bin/$program" "$bundle/"
  # Not the C and C++ libraries: the other machine's are as new or newer.
  ldd "$bundle/$program" | awk '$3 ~ /^\// {print $3}' |
    grep -Ev '/(libc|libm|libdl|librt|libresolv|libpthread|libstdc\+\+|libgcc_s)\.so' |
    xargs -I{} cp -L {} "$bundle/lib/"
  du -sh "$bundle"
  exit 0
fi

libraries=${LD_LIBRARY_PATH:-}
if [ -n "${FULGUR_GPU_BUNDLE:-}" ]; then
  bin=$FULGUR_GPU_BUNDLE/$program
  export LD_LIBRARY_PATH=$(cd "$FULGUR_GPU_BUNDLE" && pwd)/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
else
  build || exit 1
  bin=$root/build/cuda/bin/$program
fi
export NCCL_NVLS_ENABLE=0
# NCCL may live in the system, in CUDA's folder or in a Python package.
for dir in /usr/local/cuda/lib64 /usr/local/cuda/lib \
  $(python3 -c 'import nvidia.nccl as n; print(list(n.__path__)[0] + "/lib")' 2>/dev/null); do
  [ -e "$dir/libnccl.so.2" ] && export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$dir
done
mkdir -p "$out"
runs=$(mktemp -d)
count=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU')
gpus=${gpus:-$count}
if [ "$gpus" -lt 2 ] || [ "$gpus" -gt "$count" ]; then
  echo "this machine has $count GPUs; two are needed, $gpus were asked for" >&2
  exit 2
fi
{ nvidia-smi; nvidia-smi topo -m; } >"$out/machine.txt" 2>&1
failed=0
step() {  # step NAME SECONDS COMMAND...
  local name=$1 limit=$2
  shift 2
  echo "== $name"
  timeout -k 5 "$limit" "$@" 2>"$runs/$name.log"
  local status=$?
  [ $status -eq 0 ] && return
  failed=1
  echo "$name: exit $status"
  tail -5 "$runs/$name.log"
}

pair=0,1 all=$(seq -s, 0 $((gpus - 1)))
step raw 60 "$bin" --raw --devices $pair --tokens "$tokens" --json "$runs/raw.json"
step peer 120 "$bin" --carriers peer --devices $pair --tokens "$tokens" --rounds "$rounds" \
  --kills "$kills" --json "$runs/peer.json"
for n in ${blocks//,/ }; do
  step "nccl-$n" 120 "$bin" --carriers nccl --nccl-blocks "$n" --devices $pair --tokens "$tokens" \
    --rounds "$rounds" --kills "$kills" --json "$runs/nccl-$n.json"
done
step staged 120 "$bin" --carriers none --devices $pair --tokens "$tokens" --rounds "$rounds" \
  --kills 0 --json "$runs/staged.json"
[ -n "$torch" ] && step torch 90 env LD_LIBRARY_PATH="$libraries" \
  python3 "$root/bench/gpu/transport_torch.py" --tokens "$tokens" --rounds "$rounds" \
  --json "$runs/torch.json"
if [ "$gpus" -gt 2 ]; then
  small=$(echo "$tokens" | tr , '\n' | awk '$1 <= 1024' | paste -sd,)
  for carrier in peer nccl; do
    step "$carrier-all" 120 "$bin" --carriers $carrier --devices "$all" --tokens "${small:-1}" \
      --rounds "$rounds" --kills "$kills" --json "$runs/$carrier-all.json"
  done
fi

# Beside each other, what the goals are about: round trips, and one way as a share of a bare copy.
python3 - "$runs" "$out" <<'EOF'
import glob, json, os, sys
rows = [(os.path.basename(f)[:-5], r) for f in sorted(glob.glob(sys.argv[1] + '/*.json'))
        for r in json.load(open(f))]
bare = {r['tokens']: r['gb_per_s'] for _, r in rows if r['name'] == 'peer_copy_one_way'}
summary = []
for run, r in rows:
    entry = dict(r, run=run)
    if r['what'] == 'one_way' and bare.get(r['tokens']):
        entry['share_of_bare_copy'] = round(r['gb_per_s'] / bare[r['tokens']], 3)
    summary.append(entry)
json.dump(summary, open(sys.argv[2] + '/summary.json', 'w'), indent=1)
print(f"{'run':<12}{'what':<12}{'tokens':>7}{'p50 us':>11}{'p99 us':>11}{'GB/s':>9}{'of bare':>9}")
for e in summary:
    share = e.get('share_of_bare_copy', '')
    print(f"{e['run']:<12}{e['what']:<12}{e['tokens']:>7}{e['p50_us']:>11.1f}{e['p99_us']:>11.1f}"
          f"{e['gb_per_s']:>9.1f}{share!s:>9} {e['error']}")
errors = [e for e in summary if e['error']]
print('every byte was right, every death was seen' if summary and not errors
      else f'{len(errors)} of {len(summary)} rows failed')
EOF
tar -C "$runs" -czf "$out/runs.tar.gz" . && rm -rf "$runs"
exit $failed
