"""What exact mode costs the slice: reads fulgur-bench-slice's lines of several runs with --sums fixed
and --sums free, in any order, from standard input; prints medians over the runs and the cost."""
import collections
import json
import statistics
import sys


def main():
    times = collections.defaultdict(lambda: collections.defaultdict(list))
    sums = None
    for line in sys.stdin:
        row = json.loads(line)
        if row["kind"] == "slice":
            sums = row["sums"]
        elif row["kind"] == "decode":
            times[f"decode B={row['batch']}"][sums].append(row["ms"])
        elif row["kind"] == "prefill":
            times[f"prefill {row['tokens']} in {row['chunk']}"][sums].append(row["ms"])
    for case, by_sums in times.items():
        if len(by_sums) < 2:
            print(f"exact mode, slice: {case}: only one of fixed and free")
            continue
        fixed, free = (statistics.median(by_sums[name]) for name in ("fixed", "free"))
        print(f"exact mode, slice: {case:24s} fixed {fixed:8.3f} ms, free {free:8.3f} ms, "
              f"cost {100 * (fixed / free - 1):+6.1f} %")
    return 0 if times else 1


if __name__ == "__main__":
    sys.exit(main())
