#!/usr/bin/env bash
# The M1-shaped slice as a mesh: the attention shard on the first GPU, experts on others, by every
# carrier and with 1, 2 and 3 micro-batches in flight; both roles on one GPU beside it; workers killed
# in mid-run. Every configuration must give the same tokens. For machines with 2 GPUs or more.
#   bench/gpu/mesh.sh [--out DIR] [--devices 0,1[,...]] [--batches 32,128,256] [--micro-batches 1,2,3]
#                     [--carriers peer,nccl,none] [--steps N] [--vocab N] [--only PART[,PART]]
#                     parts: mesh one kill
#   bench/gpu/mesh.sh --bundle DIR     only builds: DIR gets the program and the libraries it needs,
#                                      for a machine without our packages
#   bench/gpu/mesh.sh --rehearse PROGRAM   all parts, tiny, on host memory and the emulated backend
# FULGUR_GPU_BUNDLE: such a DIR to run from instead of building. Results: rows.jsonl, machine.txt and
# logs.tar.gz in --out or $OUT, and a table. Every run has its own time limit. Multicast stays off
# (NCCL_NVLS_ENABLE=0).
set -uo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
out=${OUT:-$root/build/gpu-mesh} devices=0,1 batches=32,128,256 micro=1,2,3 carriers=peer,nccl,none
steps=100 vocab=8192 only=mesh,one,kill bundle= rehearse=
while [ $# -gt 0 ]; do
  case $1 in
    --out) out=$2; shift 2 ;;
    --devices) devices=$2; shift 2 ;;
    --batches) batches=$2; shift 2 ;;
    --micro-batches) micro=$2; shift 2 ;;
    --carriers) carriers=$2; shift 2 ;;
    --steps) steps=$2; shift 2 ;;
    --vocab) vocab=$2; shift 2 ;;
    --only) only=$2; shift 2 ;;
    --bundle) bundle=$2; shift 2 ;;
    --rehearse) rehearse=$2; shift 2 ;;
    *) echo "what is $1? see the head of $0" >&2; exit 2 ;;
  esac
done

program=fulgur-bench-gpu-mesh
build() {
  cmake --preset cuda -S "$root" >/dev/null && cmake --build "$root/build/cuda" --target $program
}

if [ -n "$bundle" ]; then
  build || exit 1
  mkdir -p "$bundle/lib"
  cp "$root/build/cuda/bin/$program" "$bundle/"
  strip --strip-debug "$bundle/$program"
  # Not the C and C++ libraries: the other machine's are as new or newer.
  ldd "$bundle/$program" | awk '$3 ~ /^\// {print $3}' |
    grep -Ev '/(libc|libm|libdl|librt|libresolv|libpthread|libstdc\+\+|libgcc_s)\.so' |
    xargs -I{} cp -L {} "$bundle/lib/"
  du -sh "$bundle"
  exit 0
fi

export NCCL_NVLS_ENABLE=0
sizes=(--steps "$steps" --vocab "$vocab") layers=(--lightning 3) kill_batches=64
if [ -n "$rehearse" ]; then
  bin=$rehearse out=$(mktemp -d) devices=-1,-2 batches=8 micro=1,3 carriers=peer,none kill_batches=8
  sizes=(--tiny --steps 6 --warm-up 3 --prompt 5 --vocab 520) layers=(--lightning 1)
  trap 'rm -rf "$out"' EXIT
elif [ -n "${FULGUR_GPU_BUNDLE:-}" ]; then
  bin=$FULGUR_GPU_BUNDLE/$program
  export LD_LIBRARY_PATH=$(cd "$FULGUR_GPU_BUNDLE" && pwd)/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
else
  build || exit 1
  bin=$root/build/cuda/bin/$program
fi
# NCCL may live in the system, in CUDA's folder or in a Python package.
for dir in /usr/local/cuda/lib64 /usr/local/cuda/lib \
  $(python3 -c 'import nvidia.nccl as n; print(list(n.__path__)[0] + "/lib")' 2>/dev/null); do
  [ -e "$dir/libnccl.so.2" ] && export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$dir
done
mkdir -p "$out"
logs=$(mktemp -d)
: >"$out/rows.jsonl"
[ -z "$rehearse" ] && { nvidia-smi; nvidia-smi topo -m; } >"$out/machine.txt" 2>&1
failed=0
step() {  # step NAME SECONDS FLAGS...: the rows get the run's name
  local name=$1 limit=$2 status
  shift 2
  timeout -k 5 "$limit" "$bin" "$@" >"$logs/$name.out" 2>"$logs/$name.log"
  status=$?
  sed "s/^{/{\"run\":\"$name\",/" "$logs/$name.out" >>"$out/rows.jsonl"
  echo "== $name: $(wc -l <"$logs/$name.out") rows"
  [ $status -eq 0 ] && return
  failed=1
  echo "$name: exit $status"
  tail -5 "$logs/$name.log"
}
wanted() { case ",$only," in *",$1,"*) ;; *) return 1 ;; esac; }

first=${devices%%,*} second=$(echo "$devices" | cut -d, -f2)
if wanted mesh; then
  for n in ${micro//,/ }; do
    for carrier in ${carriers//,/ }; do
      step "$carrier-$n" 90 --devices="$devices" --carrier "$carrier" --micro-batches "$n" \
        --batches "$batches" "${sizes[@]}" "${layers[@]}"
    done
  done
fi
if wanted one; then  # both roles on one GPU: in one process, and in two
  for n in ${micro//,/ }; do
    step "one-process-$n" 90 --devices="$first" --micro-batches "$n" --batches "$batches" \
      "${sizes[@]}" "${layers[@]}"
  done
  step one-gpu 90 --devices="$first,$first" --micro-batches 2 --batches "$batches" \
    "${sizes[@]}" "${layers[@]}"
fi
if wanted kill; then  # two workers hold every expert of half the slice; one dies
  for carrier in ${carriers//,/ }; do
    two=(--devices="$first,$second,$second" --carrier "$carrier" --micro-batches 2 --replicas 2
         --batches "$kill_batches" "${sizes[@]}" --lightning 1 --softmax 1)
    step "unhurt-$carrier" 60 "${two[@]}"
    step "killed-$carrier" 60 "${two[@]}" --kill
  done
fi

python3 - "$out/rows.jsonl" <<'PYTHON' || failed=1
import json, sys
rows = [json.loads(line) for line in open(sys.argv[1])]
print(f"{'run':<16}{'batch':>6}{'ms/step':>9}{'tok/s':>9}{'/GPU':>9}  layer ms: "
      f"{'attend':>8}{'disp':>7}{'expert':>8}{'wait':>8}{'trip':>8}  idle: {'shard':>6}{'worker':>7}")
tokens, wrong = {}, []
for r in rows:
    part, idle = r['layer_ms'], r['bubble_share']
    print(f"{r['run']:<16}{r['batch']:>6}{r['ms_per_step']:>9.3f}{r['tokens_per_s']:>9.0f}"
          f"{r['tokens_per_s_per_gpu']:>9.0f}            {part['attention']:>8.3f}{part['dispatch']:>7.3f}"
          f"{part['expert']:>8.3f}{part['combine_wait']:>8.3f}{part['round_trip_each']:>8.3f}"
          f"        {idle['shard']:>6.2f}{idle['worker']:>7.2f}"
          + (f"  longest gap {r['longest_gap_ms']:.1f} ms, {r['workers_lost']} lost, {r['retries']} asked again"
             if r['kind'] == 'mesh_kill' else ''))
    used = r['carriers_used']
    if r['carrier'] in ('peer', 'nccl') and used != [r['carrier']]:
        wrong.append(f"{r['run']}: {r['carrier']} was wanted, {used} used")
    if r['kind'] == 'mesh_kill' and r['workers_lost'] != 1:
        wrong.append(f"{r['run']}: {r['workers_lost']} workers were lost")
    for key, value in ((('all', r['batch']), r['checksum']), (('first', 0), r['checksum_first'])):
        if key[0] == 'first' and r['batch'] < 8: continue
        seen = tokens.setdefault((r['layers'], r['vocab'], r['numerics'], *key), value)
        if seen != value: wrong.append(f"{r['run']} batch {r['batch']}: other tokens ({key[0]})")
for line in wrong: print(line)
print('every configuration gave the same tokens' if rows and not wrong else 'NOT as it should be')
sys.exit(bool(wrong) or not rows)
PYTHON
tar -C "$logs" -czf "$out/logs.tar.gz" . && rm -rf "$logs"
exit $failed
