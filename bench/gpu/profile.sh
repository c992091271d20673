#!/usr/bin/env bash
# Time by kernel of one program's run, under Nsight Compute (which runs kernels one at a time):
#   bench/gpu/profile.sh PROGRAM ARGUMENTS...
# e.g. bench/gpu/profile.sh build/cuda/bin/fulgur-bench-slice --decode 128 --steps 1 --hybrid-only
# Kernels that make weights (fill) are left out. Columns: kernel, calls, total and median microseconds.
set -uo pipefail
log=$(mktemp)
trap 'rm -f "$log"' EXIT
ncu --metrics gpu__time_duration.sum --clock-control none --csv --log-file "$log" "$@" >/dev/null ||
  { tail -3 "$log"; exit 1; }
python3 - "$log" <<'PYTHON'
import collections, csv, re, sys
lines = [line for line in open(sys.argv[1]) if line.startswith('"')]
times = collections.defaultdict(list)
for row in csv.DictReader(lines):
    name = re.sub(r"\(.*", "", row["Kernel Name"].replace("(anonymous namespace)", ""))
    unit = {"ns": 1e-3, "us": 1, "ms": 1e3, "nsecond": 1e-3, "usecond": 1, "msecond": 1e3}
    times[name, row["Grid Size"]].append(float(row["Metric Value"].replace(",", "")) * unit[row["Metric Unit"]])
for (name, grid), values in sorted(times.items(), key=lambda item: -sum(item[1])):
    if "fill_kernel" in name and "prefill" not in name:
        continue
    print(f"{name[-70:]:70s} {grid:>18s} {len(values):6d} {sum(values):12.0f} "
          f"{sorted(values)[len(values) // 2]:10.1f}")
PYTHON
