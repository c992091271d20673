#!/usr/bin/env python3
"""What telemetry costs a running mesh: pairs of answers, one with it and one without.

    bench/telemetry/paired.py [--rounds 8] [--pairs 100] [--tokens 200] [--programs build/release/bin]

A round is a mesh of its own (router, shard, two workers, orchestrator; the bundled model) that answers the
same greedy prompt again and again. SIGUSR1 to its processes leaves out, or takes up again, the clock
readings, tallies and observations that only metrics need (common/telemetry/hot_path.hpp), so that the two
answers of a pair come from the same processes, a moment apart, in an order drawn anew. Prints the median
ratio of all pairs for wall time and its 95 % interval (order statistics), and for CPU time of all services
the ratio of the sums.
"""
import argparse
import json
import os
import random
import signal
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


def ask(port, tokens):
    body = {"prompt": "Once upon a time there was", "max_tokens": tokens, "temperature": 0,
            "ignore_eos": True}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions",
                                     json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)["choices"][0]["text"]


class Mesh:
    def __init__(self, args):
        self.port = args.port
        self.fulgur = os.path.join(args.programs, "fulgur")
        environment = dict(os.environ, FULGUR_HOT_PATH_TELEMETRY="switch")
        with tempfile.TemporaryFile("w+") as log:
            started = subprocess.run([self.fulgur, "up", "--detach", "--port", str(self.port)],
                                     env=environment, cwd=ROOT, stdout=log, stderr=log)
            if started.returncode != 0:
                log.seek(0)
                raise RuntimeError(log.read())
        status = json.loads(subprocess.check_output(
            [self.fulgur, "status", "--port", str(self.port), "--json"], cwd=ROOT))
        self.pids = [service["pid"] for service in status["services"]]
        # The orchestrator has no hot path, and would end.
        self.switched = [service["pid"] for service in status["services"]
                         if service["kind"] != "orchestrator"]
        self.telemetry = True

    def switch(self, telemetry):
        if telemetry != self.telemetry:
            for pid in self.switched:
                os.kill(pid, signal.SIGUSR1)
        self.telemetry = telemetry

    def __enter__(self):
        return self

    def __exit__(self, *_):
        subprocess.run([self.fulgur, "down", "--port", str(self.port)], cwd=ROOT, check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def measure(mesh, tokens):
    """(wall seconds, CPU seconds, text) of one answer."""
    cpu, wall = cpu_seconds(mesh.pids), time.monotonic()
    text = ask(mesh.port, tokens)
    return time.monotonic() - wall, cpu_seconds(mesh.pids) - cpu, text


def round_of(args, order, walls, cpu):
    """Adds wall(with) / wall(without) of each pair to `walls`, CPU seconds to `cpu`."""
    with Mesh(args) as mesh:
        measure(mesh, 4 * args.tokens)  # warm-up
        for _ in range(args.pairs):
            got = {}
            for telemetry in order.sample((True, False), 2):
                mesh.switch(telemetry)
                got[telemetry] = measure(mesh, args.tokens)
                cpu[telemetry] += got[telemetry][1]
            assert got[True][2] == got[False][2], "telemetry changed a token"
            walls.append(got[True][0] / got[False][0])


def interval(values):
    """Median and the order statistics that hold it with 95 %."""
    values = sorted(values)
    reach = int(0.98 * len(values) ** 0.5 + 0.5)
    low = max(0, len(values) // 2 - reach)
    high = min(len(values) - 1, (len(values) - 1) // 2 + reach)
    return statistics.median(values), values[low], values[high]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--port", type=int, default=18350)
    parser.add_argument("--programs", default=os.path.join(ROOT, "build/release/bin"))
    args = parser.parse_args()
    order = random.Random(1)
    walls, cpu = [], {True: 0.0, False: 0.0}
    for number in range(args.rounds):
        round_of(args, order, walls, cpu)
        print(f"round {number + 1}: wall {statistics.median(walls[-args.pairs:]):.4f}", flush=True)
    middle, low, high = interval(walls)
    print(f"wall time, with over without: {middle:.4f} (95 %: {low:.4f} to {high:.4f})")
    print(f"CPU time of all services: {cpu[True] / cpu[False]:.4f} ({cpu[True]:.1f} / {cpu[False]:.1f} s)")


if __name__ == "__main__":
    main()
