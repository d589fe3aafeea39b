#!/usr/bin/python3
"""Sync over real ranks, compared three ways: what each rank serves after the last version, what `weft quantize` writes, and
what tests/oracle computes in NumPy must be the same bytes.

    matrix.py WEFT [--full | --take N] [--only TEXT] [--keep DIR] [--jobs N] [--transport NAME [--options TEXT]]

Without --full every value of every column appears, and every pair of trainer and rollout; with it, every combination.
--take spreads N syncs over that list; --jobs runs N at once. --options go to `weft run`, such as "--shared-gpu".
Exits 77 when NumPy or mpirun is missing, or a GPU that the transport needs."""

import argparse
import concurrent.futures
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading

LIMIT_S = 150  # longer than the deadlines of `weft run`

HERE = os.path.dirname(os.path.abspath(__file__))
DEMO = os.path.join(HERE, "..", "..", "launch", "demo")
ORACLE = os.path.join(HERE, "..", "oracle")
sys.path.insert(0, os.path.join(HERE, "..", "support"))
from command import needs_gpu, skip_unless  # noqa: E402

TRAINERS = {"fsdp:1": 1, "fsdp:2": 2, "fsdp:3": 3, "fsdp:4": 4, "fsdp:5": 5, "tp:2": 2, "tp:2,dp:2": 4, "pp:2": 2,
            "tp:2,pp:2": 4}
EXPERT_TRAINERS = {"ep:2": 2, "pp:2,ep:2": 4}  # of models with experts
SCHEMES = [("bf16", "default"), ("fp8-block", "ieee"), ("fp8-block", "vllm"), ("fp8-block", "pow2"),
           ("fp8-block", "vllm-pow2"), ("fp8-channel", "default"), ("int8-channel", "ieee"), ("int8-channel", "vllm"), ("int8-channel", "ct"),
           ("mxfp8", "default"), ("mxfp4", "default"), ("int4-group-32", "ct"),
           ("int4-group-64", "qat"), ("int4-group-128", "ieee"),
           ("fp8-tensor", "default"), ("nvfp4", "default"), ("nvfp4", "modelopt")]
MODELS = {
    "tiny-qwen3": (["v1", "v3"], {"tp:1": 1, "tp:2": 2, "tp:4": 4, "tp:2x2": 4}),
    "tiny-qwen3-moe": (["v1"], {"tp:2": 2, "tp:2,ep": 2}),
}
# Numbers of trainer and rollout ranks that must appear whatever is chosen: 1+1, 2+2, 4+2, 2+4, 3+2, 5+4.
ALWAYS = [("fsdp:1", "tp:1"), ("fsdp:2", "tp:2"), ("fsdp:4", "tp:2"), ("fsdp:2", "tp:4"), ("fsdp:3", "tp:2"),
          ("fsdp:5", "tp:4"), ("fsdp:5", "tp:2x2")]


def all_cases(full):
    for model, (_, rollouts) in MODELS.items():
        trainers = list(TRAINERS) + (list(EXPERT_TRAINERS) if "moe" in model else [])
        pairs = list(itertools.product(trainers, rollouts))
        if full:
            for (trainer, rollout), scheme, relay, swap in itertools.product(pairs, SCHEMES, (False, True), ("flip",)):
                yield model, trainer, rollout, scheme, relay, swap
            continue
        chosen = pairs + [pair for pair in ALWAYS if pair[1] in rollouts]
        others = list(itertools.product(SCHEMES, (False, True), ("flip", "copy", "layerwise")))
        others = itertools.cycle(random.Random(1).sample(others, len(others)))
        for trainer, rollout in chosen:
            yield (model, trainer, rollout, *next(others))


def run(command, environment):
    """Exit status and output; 124 after LIMIT_S. mpirun is asked to end, so that it ends its ranks."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    try:
        output, _ = process.communicate(timeout=LIMIT_S)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        process.terminate()
        output, _ = process.communicate()
        return 124, f"{output}\nstill running after {LIMIT_S} s"


class Matrix:
    def __init__(self, weft, folder, environment, options):
        self.weft, self.folder, self.environment, self.options = weft, folder, environment, options
        self.expected = {}
        self.failures = []
        self.lock = threading.Lock()  # of `expected` as a whole; then one of each key

    def check(self, what, command):
        code, output = run(command, self.environment)
        if code != 0:
            self.fail(f"{what}: exit {code}: {' '.join(command)}\n{output}")
        return code == 0

    def fail(self, text):
        """Said at once: a run that is cut short must not take its reasons with it."""
        self.failures.append(text)
        print(f"\n{text}", flush=True)

    def expect(self, model, rollout, scheme, profile):
        """The offline files, checked against the oracle once for each rollout, scheme and profile."""
        key = (model, rollout, scheme, profile)
        with self.lock:
            entry = self.expected.setdefault(key, {"lock": threading.Lock(), "path": None})
        with entry["lock"]:
            entry["path"] = entry["path"] or self.make_expected(*key)
        return entry["path"]

    def make_expected(self, model, rollout, scheme, profile):
        name = "-".join((model, rollout, scheme, profile)).replace(",", "_").replace(":", "")
        offline, oracle = (os.path.join(self.folder, kind, name) for kind in ("offline", "oracle"))
        checkpoint = os.path.join(DEMO, model, MODELS[model][0][-1])
        for path in (offline, oracle):
            os.makedirs(path)
        arguments = ["--scheme", scheme] + (["--profile", profile] if profile != "default" else [])
        what = f"{model} {rollout} {scheme} {profile} offline"
        self.check(what, [self.weft, "quantize", checkpoint, offline, "--rollout", rollout] + arguments)
        self.check(what, [sys.executable, os.path.join(ORACLE, "checkpoint.py"), checkpoint, rollout, scheme, profile, oracle])
        self.check(what, [sys.executable, os.path.join(ORACLE, "compare.py"), oracle, offline])
        return offline

    def sync(self, model, trainer, rollout, scheme, profile, relay, swap):
        versions, rollouts = MODELS[model]
        what = f"{model} {trainer} -> {rollout} {scheme} {profile} {'relay' if relay else 'direct'} {swap}"
        offline = self.expect(model, rollout, scheme, profile)
        work = tempfile.mkdtemp(dir=self.folder)
        dump, table = os.path.join(work, "dump"), os.path.join(work, "table.json")
        command = ["mpirun", "-n", str({**TRAINERS, **EXPERT_TRAINERS}[trainer] + rollouts[rollout]), self.weft, "run",
                   "--model", ",".join(os.path.join(DEMO, model, v) for v in versions),
                   "--trainer", trainer, "--rollout", rollout, "--scheme", scheme, "--swap", swap,
                   "--max-groups", "0" if relay else "1000", "--tokens", "3", "--quiet", "--dump", dump, "--json", table]
        command += self.options + (["--profile", profile] if profile != "default" else [])
        if not self.check(what, command) or not self.check(what, [self.weft, "verify", dump, offline]):
            return what
        with open(table) as file:
            found = json.load(file)
        if found["torn_steps"] or found["received_bytes"] != found["needed_bytes"]:
            self.fail(f"{what}: torn {found['torn_steps']}, received {found['received_bytes']}, needed {found['needed_bytes']}")
        shutil.rmtree(work, ignore_errors=True)
        return what


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weft")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--keep")
    parser.add_argument("--take", type=int)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--transport", default="mpi")
    parser.add_argument("--options", default="")
    arguments = parser.parse_args()
    skip_unless(numpy=True, mpirun=True)
    skip_unless(gpu=needs_gpu(arguments.transport, arguments.options))
    folder = arguments.keep or tempfile.mkdtemp(prefix="weft-matrix-")
    matrix = Matrix(arguments.weft, folder, dict(os.environ), ["--transport", arguments.transport] + arguments.options.split())
    count = 0
    cases = [case for case in all_cases(arguments.full)
             if arguments.only in f"{case[0]} {case[1]} {case[2]} {case[3][0]} {case[3][1]}"]
    if arguments.take and arguments.take < len(cases):
        cases = [cases[i * len(cases) // arguments.take] for i in range(arguments.take)]
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        for what in pool.map(lambda case: matrix.sync(case[0], case[1], case[2], *case[3], *case[4:]), cases):
            count += 1
            failed = any(failure.startswith(what) for failure in matrix.failures)
            print(f"{'FAIL' if failed else 'ok  '} {what}", flush=True)
    if not arguments.keep:
        shutil.rmtree(folder)
    print(f"{count} syncs, {len(matrix.expected)} expected sets, {len(matrix.failures)} failures")
    return 1 if matrix.failures or not count else 0


if __name__ == "__main__":
    sys.exit(main())
