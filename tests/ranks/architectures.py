#!/usr/bin/python3
"""A scaled copy of every architecture through the whole path: what rollout ranks serve after a sync, what `weft quantize`
writes, and what tests/oracle computes in NumPy must be the same bytes.

    architectures.py WEFT [--only TEXT | --take N] [--seed N] [--jobs N] [--transport NAME] [--options TEXT]

--take spreads N syncs over the list; --jobs runs N at once. Exits 77 when NumPy or mpirun is missing, or a GPU that the transport needs."""

import argparse
import concurrent.futures
import itertools
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "support"), os.path.join(HERE, "..", "oracle")]

from command import needs_gpu, scratch, skip_unless  # noqa: E402

skip_unless(numpy=True, mpirun=True)

import scaled  # noqa: E402
import tensor_file  # noqa: E402
from matrix import ORACLE, run  # noqa: E402

ROLLOUTS = {"tp:1": 1, "tp:2": 2, "tp:4": 4}
EXPERT_ROLLOUTS = {"tp:2,ep": 2, "tp:4,ep": 4}
TRAINERS = {"fsdp:1": 1, "fsdp:3": 3, "tp:2": 2, "pp:2": 2}
EXPERT_TRAINERS = {"ep:2": 2, "ep:2,fsdp:2": 4}
SCHEMES = ["bf16", "fp8-channel", "fp8-block", "fp8-tensor"]


def has_experts(name):
    return any("expert" in key for key in scaled.CONFIGS[name])


def fits(name, trainer, rollout, scheme):
    if name.endswith("stacked") and trainer.startswith("tp"):
        return False  # tp would cut gate and up of one tensor apart
    if name == "phi3" and (trainer.startswith("tp") or scheme == "fp8-block" and rollout != "tp:1"):
        return False  # the same; and keys are a block of 128 in all
    return scheme != "fp8-block" or int(rollout[3]) <= 2  # four ranks would cut a block of 128


def cases(name, turn):
    """Every trainer and every rollout once, schemes in turn."""
    trainers = {**TRAINERS, **(EXPERT_TRAINERS if has_experts(name) else {})}
    rollouts = {**ROLLOUTS, **(EXPERT_ROLLOUTS if has_experts(name) else {})}
    schemes = itertools.cycle(SCHEMES[turn % len(SCHEMES):] + SCHEMES[:turn % len(SCHEMES)])
    pairs = list(itertools.zip_longest(trainers, rollouts))
    for trainer, rollout in pairs:
        trainer, rollout = trainer or next(iter(trainers)), rollout or "tp:2"
        scheme = next(schemes)
        while not fits(name, trainer, rollout, scheme):
            if scheme == "bf16":
                trainer = "fsdp:3"
            scheme = "bf16"
        yield trainer, rollout, scheme, trainers[trainer] + rollouts[rollout]


class Architectures:
    def __init__(self, arguments, folder):
        self.weft, self.folder, self.arguments = arguments.weft, folder, arguments
        self.failures = 0

    def check(self, what, command):
        code, output = run(command, os.environ)
        if code:
            self.failures += 1
            print(f"\n{what}: exit {code}: {' '.join(command)}\n{output}", flush=True)
        return code == 0

    def expected(self, what, model, rollout, scheme, work, recipe):
        """The offline files, checked against the oracle; None when they differ."""
        offline, oracle = os.path.join(work, "offline"), os.path.join(work, "oracle")
        os.makedirs(offline)
        same = (self.check(what, [self.weft, "quantize", model, offline, "--rollout", rollout, "--scheme", scheme] + recipe)
                and self.check(what, [sys.executable, os.path.join(ORACLE, "checkpoint.py"), model, rollout, scheme, "default", oracle])
                and self.check(what, [sys.executable, os.path.join(ORACLE, "compare.py"), oracle, offline]))
        return offline if same else None

    def sync(self, number, name, trainer, rollout, scheme, ranks):
        what = f"{name} {trainer} -> {rollout} {scheme}"
        recipe = ["--recipe", scaled.RECIPES[name]] if name in scaled.RECIPES else []
        work = os.path.join(self.folder, what.replace(" ", "_").replace(",", "_"))
        seed = self.arguments.seed + number
        old, new = (scaled.write(name, os.path.join(work, version), seed * 2 + i, tensor_file) for i, version in enumerate(("v1", "v2")))
        offline = self.expected(what, new, rollout, scheme, work, recipe)
        if not offline:
            return
        dump = os.path.join(work, "dump")
        command = ["mpirun", "-n", str(ranks), self.weft, "run", "--model", f"{old},{new}", "--trainer", trainer, "--rollout", rollout,
                   "--scheme", scheme, "--budget", "4MiB", "--tokens", "2", "--quiet", "--dump", dump,
                   "--transport", self.arguments.transport, *self.arguments.options.split(), *recipe]
        if self.check(what, command) and self.check(what, [self.weft, "verify", dump, offline]):
            print(f"ok  {what}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weft")
    parser.add_argument("--only", default="")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--take", type=int)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--transport", default="mpi")
    parser.add_argument("--options", default="")
    arguments = parser.parse_args()
    skip_unless(gpu=needs_gpu(arguments.transport, arguments.options))
    chosen = [(name, *case) for turn, name in enumerate(scaled.CONFIGS) for case in cases(name, turn)]
    chosen = [case for case in chosen if arguments.only in " ".join(map(str, case))]
    if arguments.take and arguments.take < len(chosen):
        chosen = [chosen[i * len(chosen) // arguments.take] for i in range(arguments.take)]
    with scratch("architectures") as folder, concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        test = Architectures(arguments, folder)
        list(pool.map(lambda item: test.sync(item[0], *item[1]), enumerate(chosen)))
    print(f"{len(chosen)} syncs, {test.failures} failures, seed {arguments.seed}")
    sys.exit(1 if test.failures or not chosen else 0)


if __name__ == "__main__":
    main()
