#!/usr/bin/env python3
"""What telemetry costs a running mesh: pairs of runs, one with it and one without.

    bench/telemetry/paired.py [--pairs 20] [--tokens 600] [--streams 1] [--programs build/release/bin]

Each run is a mesh of its own (router, shard, two workers, orchestrator; the bundled model, /metrics
scraped by nobody) that answers the same greedy prompts; FULGUR_HOT_PATH_TELEMETRY=off leaves out
the clock readings, tallies and observations that only metrics need (common/telemetry/hot_path.hpp).
The order within a pair alternates, so that drift of the machine cancels. Prints for wall time and
for CPU time of all services the median of the pairs' ratios and its 95 % interval (order statistics).
"""
import argparse
import concurrent.futures
import json
import os
import random
import statistics
import subprocess
import tempfile
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pids):
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def ask(port, stream, tokens):
    body = {"prompt": f"Stream {stream}: count slowly from one.", "max_tokens": tokens,
            "temperature": 0, "ignore_eos": True}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions",
                                     json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)["choices"][0]["text"]


class Mesh:
    def __init__(self, args, port, telemetry):
        self.port = port
        self.fulgur = os.path.join(args.programs, "fulgur")
        environment = dict(os.environ)
        if not telemetry:
            environment["FULGUR_HOT_PATH_TELEMETRY"] = "off"
        with tempfile.TemporaryFile("w+") as log:
            started = subprocess.run([self.fulgur, "up", "--detach", "--port", str(port)],
                                     env=environment, cwd=ROOT, stdout=log, stderr=log)
            if started.returncode != 0:
                log.seek(0)
                raise RuntimeError(log.read())
        status = json.loads(subprocess.check_output(
            [self.fulgur, "status", "--port", str(port), "--json"], cwd=ROOT))
        self.pids = [service["pid"] for service in status["services"]]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        subprocess.run([self.fulgur, "down", "--port", str(self.port)], cwd=ROOT, check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def run(args, port, telemetry):
    """(wall seconds, CPU seconds, texts) of one mesh's answers, after a warm-up."""
    with Mesh(args, port, telemetry) as mesh, \
            concurrent.futures.ThreadPoolExecutor(args.streams) as pool:
        list(pool.map(lambda n: ask(port, n, 100), range(args.streams)))
        cpu, wall = cpu_seconds(mesh.pids), time.monotonic()
        texts = list(pool.map(lambda n: ask(port, n, args.tokens), range(args.streams)))
        return time.monotonic() - wall, cpu_seconds(mesh.pids) - cpu, texts


def interval(values):
    """Median and the order statistics that hold it with 95 %."""
    values = sorted(values)
    reach = int(0.98 * len(values) ** 0.5 + 0.5)
    low = max(0, len(values) // 2 - reach)
    high = min(len(values) - 1, (len(values) - 1) // 2 + reach)
    return statistics.median(values), values[low], values[high]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=600)
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--port", type=int, default=18350)
    parser.add_argument("--programs", default=os.path.join(ROOT, "build/release/bin"))
    args = parser.parse_args()
    order = random.Random(1)
    walls, cpus = [], []
    for pair in range(args.pairs):
        got = {}
        for telemetry in order.sample((True, False), 2):
            got[telemetry] = run(args, args.port, telemetry)
        assert got[True][2] == got[False][2], "telemetry changed a token"
        walls.append(got[True][0] / got[False][0])
        cpus.append(got[True][1] / got[False][1])
        print(f"pair {pair + 1}: wall {got[True][0]:.3f} / {got[False][0]:.3f} s, "
              f"cpu {got[True][1]:.2f} / {got[False][1]:.2f} s", flush=True)
    for name, ratios in (("wall time", walls), ("CPU time", cpus)):
        middle, low, high = interval(ratios)
        print(f"{name}, with over without: {middle:.4f} (95 %: {low:.4f} to {high:.4f})")


if __name__ == "__main__":
    main()
