"""torch's NCCL for the same round trips as fulgur-bench-gpu-transport: rank 0 sends tokens x 6144
bfloat16, rank 1 answers with twice as many. Each side waits for its own stream, as an engine that reads
the answer has to."""
import argparse
import json
import os
import time

os.environ.setdefault("NCCL_NVLS_ENABLE", "0")
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

HIDDEN = 6144


def exchange(rank, out, back):
    if rank == 0:
        dist.send(out, 1)
        dist.recv(back, 1)
    else:
        dist.recv(out, 0)
        dist.send(back, 0)
    torch.cuda.synchronize()


def measure(rank, tokens, rounds):
    out = torch.full((tokens, HIDDEN), float(rank), dtype=torch.bfloat16, device="cuda")
    back = torch.full((2 * tokens, HIDDEN), 2.0 * rank, dtype=torch.bfloat16, device="cuda")
    size = 3 * tokens * HIDDEN * 2
    rounds = max(20, min(rounds, (16 << 30) // size))
    times = []
    dist.barrier()
    for at in range(rounds + 20):
        begin = time.perf_counter()
        exchange(rank, out, back)
        if at >= 20:
            times.append((time.perf_counter() - begin) * 1e6)
    right = bool((back == 2).all()) if rank == 0 else bool((out == 0).all())
    times.sort()
    p50 = times[len(times) // 2]
    return {"name": "torch_nccl", "what": "round_trip", "tokens": tokens, "bytes": size, "p50_us": p50,
            "p99_us": times[len(times) * 99 // 100], "gb_per_s": size / p50 / 1e3,
            "error": "" if right else "damaged"}


def run(rank, tokens, rounds, path):
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", rank=rank, world_size=2)
    rows = [measure(rank, count, rounds) for count in tokens]
    if rank == 0:
        for row in rows:
            print(f"{row['name']:<18} {row['tokens']:>6} {row['p50_us']:>10.1f} {row['p99_us']:>10.1f} "
                  f"{row['gb_per_s']:>8.1f} {row['error']}")
        with open(path, "w") as file:
            json.dump(rows, file, indent=1)
    dist.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", default="1,16,128,1024,8192")
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--json", default="torch.json")
    given = parser.parse_args()
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29517")
    sizes = [int(count) for count in given.tokens.split(",")]
    mp.spawn(run, args=(sizes, given.rounds, given.json), nprocs=2)
