"""Checks and times the CUDA kernels: python3 bench.py --library SO [--only NAMES] [--json FILE].

First every kernel is compared with float64 and exact mode with itself (checks.py); a failed check is
printed and makes the exit status 1. Then the cases run beside their peers (cases.py).
"""
import argparse
import json
import sys
import time

import torch

import cases
import checks
import exact
import free_checks
import library
import softmax_checks
import timing


def print_table(rows, bandwidth, rate):
    """Percent of the bound: the larger of bytes / copy bandwidth and flops / product rate."""
    print(f"\n{'kernel':20s} {'shape':14s} {'who':24s} {'ms':>9s} {'TB/s':>6s} {'TFLOP/s':>8s} "
          f"{'bound ms':>9s} {'%':>5s}")
    table = []
    for kernel, shape, who, ms, moved, flops in rows:
        peak = rate * 2 if "fp8" in kernel else rate
        bound = max(moved / bandwidth, flops / peak) * 1e3
        entry = dict(kernel=kernel, shape=shape, who=who, ms=ms, tb_s=moved / ms * 1e-9,
                     tflop_s=flops / ms * 1e-9, bound_ms=bound, percent=100 * bound / ms)
        table.append(entry)
        print(f"{kernel:20s} {shape:14s} {who:24s} {ms:9.4f} {entry['tb_s']:6.2f} "
              f"{entry['tflop_s']:8.1f} {bound:9.4f} {entry['percent']:5.0f}")
    return table


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--library", required=True)
    parser.add_argument("--only", default="rows,dense,draw,lightning,softmax,experts,fp8,exact")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--json")
    parser.add_argument("--no-time", action="store_true")
    parser.add_argument("--no-peers", action="store_true")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device: nothing checked, nothing timed")
        return 0
    only = args.only.split(",")
    cases.with_peers = not args.no_peers
    torch.manual_seed(args.seed)
    torch.backends.cuda.matmul.allow_tf32 = False
    lib = library.Library(args.library)
    report, rows = checks.Report(), []
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, seed {args.seed}")
    bandwidth, rate = timing.copy_bandwidth(), timing.product_rate()
    print(f"copy {bandwidth * 1e-12:.2f} TB/s, 8192^3 bf16 product {rate * 1e-12:.0f} TFLOP/s")

    def stage(name, function, *arguments):
        begin = time.time()
        try:
            function(*arguments)
            torch.cuda.synchronize()
        except Exception as error:  # noqa: BLE001 - one kernel's failure must not hide the others
            report.add(name, False, f"{type(error).__name__}: {str(error)[:300]}")
        print(f"-- {name}: {time.time() - begin:.1f} s", flush=True)

    timed = not args.no_time
    if "rows" in only:
        stage("rows", checks.check_rows, lib, report)
        stage("rotary", softmax_checks.check_rotary, lib, report)
        if timed:
            stage("rows, timed", cases.row_cases, lib, rows)
    if "dense" in only:
        stage("dense", checks.check_dense, lib, report)
        if timed:
            stage("dense, timed", cases.dense_cases, lib, rows)
    if "draw" in only:
        stage("draws", checks.check_draws, lib, report)
        if timed:
            stage("draws, timed", cases.draw_cases, lib, rows)
    if "lightning" in only:
        stage("lightning", checks.check_lightning, lib, report)
        if timed:
            stage("lightning prefill, timed", cases.lightning_prefill_cases, lib, rows)
            stage("lightning decode, timed", cases.lightning_decode_cases, lib, rows)
    if "softmax" in only:
        stage("softmax", softmax_checks.check_softmax, lib, report)
        stage("softmax prefill", softmax_checks.check_softmax_prefill, lib, report)
        if timed:
            stage("softmax prefill, timed", cases.softmax_prefill_cases, lib, rows)
            stage("softmax, timed", cases.softmax_cases, lib, rows)
    if "experts" in only:
        stage("plan", checks.check_plan, lib, report)
        stage("products", checks.check_products, lib, report)
        weights = checks.expert_weights(32, 6144, 9216)
        layer = library.ExpertLayer(lib, *weights, 2, 16384)
        stage("experts", checks.check_experts, lib, layer, weights, report)
        if timed:
            stage("experts, timed", cases.experts_cases, lib, layer, weights, rows)
    if "fp8" in only:
        stage("fp8 quantisers", checks.check_quantizers, lib, report)
        stage("fp8 products", checks.check_products_fp8, lib, report)
        weights = checks.expert_weights(32, 6144, 9216)
        layer = library.ExpertLayer(lib, *weights, 2, 16384, fp8=True)
        stage("fp8 experts", checks.check_experts_fp8, lib, layer, weights, report)
        if timed:
            plain = library.ExpertLayer(lib, *weights, 2, 16384)
            stage("fp8 experts, timed", cases.fp8_cases, lib, plain, layer, rows)
    if "exact" in only:
        stage("free sums: products", free_checks.check_free, lib, report)
        stage("free sums: softmax", softmax_checks.check_softmax_free, lib, report)
        weights = checks.expert_weights(32, 6144, 9216)
        layer = library.ExpertLayer(lib, *weights, 2, 4096)
        stage("free sums: experts", free_checks.check_free_experts, lib, layer, weights, report)
        if timed:
            stage("fixed and free: experts", exact.expert_cases, lib, layer, rows)
            del layer, weights
            stage("fixed and free: products", exact.product_cases, lib, rows)
            stage("fixed and free: softmax", exact.softmax_cases, lib, rows)
    table = print_table(rows, bandwidth, rate)
    failed = [name for name, passed, _ in report.rows if not passed]
    print(f"\nchecks: {len(report.rows) - len(failed)} passed, {len(failed)} failed")
    for name, passed, text in report.rows:
        if not passed:
            print(f"FAIL {name}: {text}")
    if args.json:
        with open(args.json, "w") as file:
            json.dump(dict(device=torch.cuda.get_device_name(), copy_tb_s=bandwidth * 1e-12,
                           product_tflop_s=rate * 1e-12, seed=args.seed, rows=table,
                           checks=report.rows), file, indent=1)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
