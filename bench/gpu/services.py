"""The real services on GPUs: python3 services.py --bin DIR [--gpus 0,1] [--model DIR]

`fulgur up` with the bundled model, first on the CPU, then with --backend cuda, shards and workers on the
given GPUs in turn. The same requests (greedy and sampled, with log-probabilities) must get the same
answers from both, to the last digit, while workers are killed with SIGKILL on the GPUs, and none may
ask for GPU or pinned memory between its start and the end of the first round. Exit 1 if not.
"""
import argparse
import concurrent.futures
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request

PORT = 8123
MODEL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../models/fulgur-tiny")
PROMPTS = ["Once upon a time", "The little dog", "A girl named Lily went to the park and",
           "Tom and his mother", "There was a big red ball", "One day, it rained"]


def requests_of(count, has_text):
    for i in range(count):
        ids = [(i * 31 + at * at) % 2000 + 3 for at in range(5 + i * 7 % 150)]
        yield {"prompt": PROMPTS[i % len(PROMPTS)] if has_text else ids, "max_tokens": 48 + i % 3 * 24,
               "temperature": 0 if i % 3 == 0 else 0.8, "seed": i, "logprobs": 1 if i % 2 else None,
               "top_p": 0.95 if i % 4 == 2 else 1, "top_k": 40 if i % 5 < 2 else 0,
               "return_token_ids": True}


def ask(body):
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}/v1/completions",
                                     json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as response:
        choice = json.load(response)["choices"][0]
    said = choice["text"] or choice.get("token_ids")
    return said, choice["finish_reason"], (choice.get("logprobs") or {}).get("token_logprobs")


class Mesh:
    def __init__(self, program, model, *flags):
        self.program = program
        self.run("up", "--detach", "--no-demo", "--port", str(PORT), "--model", model, *flags)

    def run(self, *arguments):
        done = subprocess.run([self.program, *arguments], capture_output=True, text=True, timeout=180)
        if done.returncode:
            raise SystemExit(f"fulgur {arguments[0]}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def services(self):
        return json.loads(self.run("status", "--json", "--port", str(PORT)))["services"]

    def allocations(self):
        """By member, how often it has asked for GPU or pinned memory since it started."""
        counts = {}
        for line in self.run("status", "--port", str(PORT)).splitlines():
            words = line.split()
            if not words or words[0] not in ("attention", "expert"):
                continue
            with urllib.request.urlopen(f"http://{words[-1]}/metrics", timeout=10) as response:
                for metric in response.read().decode().splitlines():
                    if metric.startswith("fulgur_gpu_allocations_total"):
                        counts[words[1]] = float(metric.split()[-1])
        return counts

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.run("down", "--port", str(PORT))


def answers(bodies, meanwhile=None):
    begin = time.time()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(ask, body) for body in bodies]
        killed = meanwhile(futures) if meanwhile else 0
        results = [future.result() for future in futures]
    return results, time.time() - begin, killed


def kill_workers(mesh, kills):
    """Kills a worker whenever some more answers have come, and it is the next one's turn."""
    def run(futures):
        done = 0
        for n in range(kills):
            while sum(future.done() for future in futures) < (n + 1) * len(futures) // (kills + 2):
                time.sleep(0.002)
            workers = [s for s in mesh.services() if s["name"].startswith("expert-") and s.get("pid")]
            os.kill(workers[n % len(workers)]["pid"], signal.SIGKILL)
            done += 1
        return done
    return run


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True)
    parser.add_argument("--gpus", default="0")
    parser.add_argument("--requests", type=int, default=96)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--model", help="another checkpoint, which may have no tokenizer; its answers are "
                        "compared with those of one GPU and one worker")
    args = parser.parse_args()
    program = os.path.join(args.bin, "fulgur")
    bodies = list(requests_of(args.requests, not args.model))
    gpus = args.gpus.split(",")
    # The portable kernels have the bits of every instruction set but AMX.
    plain = ["--backend", "cuda", "--gpus", gpus[0], "--experts", "1"] if args.model else ["--isa", "avx"]
    model = args.model or MODEL
    with Mesh(program, model, *plain) as mesh:
        expected, seconds, _ = answers(bodies)
    first = "one worker" if args.model else "the CPU"
    print(f"{first}: {len(expected)} answers in {seconds:.1f} s")
    with Mesh(program, model, "--backend", "cuda", "--gpus", *gpus) as mesh:
        time.sleep(1)  # totals are exported twice a second
        before = mesh.allocations()
        got, seconds, _ = answers(bodies)
        print(f"cuda on GPUs {args.gpus}: {len(got)} answers in {seconds:.1f} s, "
              f"{sum(a == b for a, b in zip(got, expected))} as {first}'s")
        time.sleep(1)
        after = mesh.allocations()
        print(f"requests for memory, before and after: {before} {after}")
        hurt, seconds, killed = answers(bodies, kill_workers(mesh, args.kills))
        print(f"with {killed} workers killed: {len(hurt)} answers in {seconds:.1f} s, "
              f"{sum(a == b for a, b in zip(hurt, expected))} as {first}'s")
        for service in mesh.services():
            print("  ", json.dumps(service)[:200])
    return 0 if got == expected and hurt == expected and before == after else 1


if __name__ == "__main__":
    sys.exit(main())
