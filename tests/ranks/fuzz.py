#!/usr/bin/python3
"""Made-up models, layouts, budgets, schemes and transports: what rollout ranks serve after a sync must be what `weft quantize` writes,
and that what tests/oracle computes.

    fuzz.py WEFT [--syncs N] [--seed N] [--seconds N]

Sizes of each of the architectures in tests/support/scaled.py are drawn anew, then the rest. What does not fit must be refused by the plan, with
exit 4 and what would fit. The least budget that the plan names must do, and one byte less be refused. Exits 77 when NumPy or mpirun is missing."""

import argparse
import itertools
import json
import os
import random
import re
import shutil
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "support"), os.path.join(HERE, "..", "oracle")]

from command import Checks, Weft, run, scratch, skip_unless  # noqa: E402

skip_unless(numpy=True, mpirun=True)

import scaled  # noqa: E402
import tensor_file  # noqa: E402

ORACLE = os.path.join(HERE, "..", "oracle")
MISFIT = 4
SCHEMES = [("bf16", "default"), ("fp8-channel", "default")] * 3 + [("fp8-block", p) for p in ("ieee", "vllm", "pow2", "vllm-pow2")]
MAPPED = ["bf16", "fp8-channel", "fp8-block", "fp8-block:vllm", "fp8-tensor", "nvfp4:modelopt", "mxfp8", "int4-group-32:ct", "int8-channel"]
LAYERS = ["layers.0.*", "*.o_proj", "*.self_attn.*", "*.[0-9]*", "*proj*", "lm_head"]  # each model has some
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


def draw_map(r, scheme):
    """Entries behind the default; those that are for lm_head can say bf16 alone."""
    globs = r.sample(LAYERS, r.randint(1, 3))
    return "; ".join([scheme] + [f"{glob}={'bf16' if glob == 'lm_head' else r.choice(MAPPED)}" for glob in globs])


def draw_config(r, name):
    """Another size of everything that may have one. Heads times their size need not be the hidden size, but for phi3."""
    config = dict(scaled.CONFIGS[name])
    keys = r.choice([1, 2, 4, 4, 8, 8])
    config["num_hidden_layers"] = r.randint(1, 3)
    config["vocab_size"] = r.choice([128, 257, 300, 384, 512])
    config["intermediate_size"] = r.choice([128, 256, 384, 512])
    if "head_dim" in config and name != "phi3":
        config.update(num_key_value_heads=keys, num_attention_heads=keys * r.choice([1, 2, 3]), head_dim=r.choice([32, 64, 128]))
    if "q_lora_rank" in config:
        config.update(num_attention_heads=r.choice([2, 4, 8]), first_k_dense_replace=r.randint(0, config["num_hidden_layers"] - 1))
    for key in EXPERTS:
        if key in config:
            config[key] = r.randint(2, 9)
    if "moe_intermediate_size" in config:
        config["moe_intermediate_size"] = r.choice([128, 256, 384])
    return config


def draw_trainer(r, experts):
    axes = ["fsdp", "tp", "pp", "dp"] + (["ep"] if experts else [])
    while True:
        chosen = [(axis, r.choice([1, 2, 2, 3, 4])) for axis in r.sample(axes, r.choice([1, 1, 2, 3]))]
        ranks = 1
        for _, size in chosen:
            ranks *= size
        if ranks <= 5:
            return ",".join(f"{axis}:{size}" for axis, size in chosen), ranks


def cuts(r, extent, most):
    """Where a dimension is cut: from 1 to `most` runs. -> [(offset, extent)]"""
    at = sorted(r.sample(range(1, extent), min(r.randint(1, most), extent) - 1)) if extent > 1 else []
    return [(begin, end - begin) for begin, end in zip([0, *at], [*at, extent])]


def draw_boxes(r, shapes, ranks):
    """Every tensor cut at random, every piece on one rank or more; experts of a layer cut alike, held anywhere."""
    boxes, kinds = {}, {}
    for name, shape in shapes:
        kind = re.sub(r"experts\.\d+\.", "experts.", name)
        if kind not in kinds:
            while True:  # a rank has one box of a tensor
                kinds[kind] = [cuts(r, extent, 3) for extent in shape]
                if len(shape) == 3 or ("experts" in kind and "bias" in kind and len(shape) == 2):
                    kinds[kind] = [cuts(r, shape[0], ranks)] + [[(0, extent)] for extent in shape[1:]]
                pieces = list(itertools.product(*kinds[kind]))
                if len(pieces) <= ranks:
                    break
        pieces = list(itertools.product(*kinds[kind]))
        holders = r.sample(range(ranks), r.randint(len(pieces), ranks))
        boxes[name] = [{"rank": rank, "offset": [o for o, _ in piece], "extent": [e for _, e in piece]}
                       for rank, piece in zip(holders, itertools.cycle(pieces))]
    return {"ranks": ranks, "boxes": boxes}


def draw_rollout(r, experts):
    tp, replicas = r.choice([(1, 1), (1, 3), (2, 1), (2, 1), (2, 2), (2, 2), (3, 1), (4, 1)])
    layout = f"tp:{tp}" + (f"x{replicas}" if replicas > 1 else "") + (",ep" if experts and r.random() < 0.5 else "")
    return layout, tp * replicas


class Fuzz(Checks):
    def __init__(self, arguments, folder):
        super().__init__()
        self.weft, self.folder = Weft(arguments.weft), folder
        self.syncs = self.refusals = 0

    def draw(self, seed):
        """Models and options of one run."""
        r = random.Random(seed)
        self.r = r
        self.name = r.choice(list(scaled.CONFIGS))
        self.config = draw_config(r, self.name)
        experts = any(key in self.config for key in EXPERTS)
        self.trainer, trainers = draw_trainer(r, experts)
        self.boxes = r.random() < 0.3
        if self.boxes:
            self.trainer, trainers = "boxes:" + os.path.join(self.folder, "boxes.json"), r.randint(1, 4)
            self.write_boxes(trainers)
        self.rollout, rollouts = draw_rollout(r, experts)
        self.ranks = trainers + rollouts
        self.scheme, self.profile = r.choice(SCHEMES)
        self.scheme = draw_map(r, self.scheme) if r.random() < 0.3 else self.scheme
        self.recipe = ["--recipe", scaled.RECIPES[self.name]] if self.name in scaled.RECIPES else []
        self.what = f"seed {seed}: {self.name} {self.trainer} -> {self.rollout} {self.scheme} {self.profile}"

    def write_boxes(self, trainers):
        kept, scaled.CONFIGS[self.name] = scaled.CONFIGS[self.name], self.config
        with open(self.trainer[len("boxes:"):], "w") as file:
            json.dump(draw_boxes(self.r, list(scaled.shapes(self.name)), trainers), file)
        scaled.CONFIGS[self.name] = kept

    def kind(self):
        return ["--scheme", self.scheme, *self.recipe] + (["--profile", self.profile] if self.profile != "default" else [])

    def write(self, version, seed):
        kept, scaled.CONFIGS[self.name] = scaled.CONFIGS[self.name], self.config
        path = scaled.write(self.name, os.path.join(self.folder, version), seed, tensor_file)
        scaled.CONFIGS[self.name] = kept
        return path

    def plan(self, model, *more):
        return self.weft("plan", model, "--trainer", self.trainer, "--rollout", self.rollout, *self.kind(), *more)

    def budget(self, model, options):
        """One that will do: the least, somewhat more, or the default. None when the model does not fit at all."""
        result = self.plan(model, *options, "--json")
        if result.code == MISFIT:
            self.refusals += 1
            self.that(len(result.messages) == 1 and len(result.messages[0]) > 80, f"{self.what}: refused with what would fit", result)
            return None
        if not self.code(result, 0, f"{self.what}: plan"):
            return None
        least = json.loads(result.out)["least_budget_bytes"]
        less = self.plan(model, *options, "--budget", least - 1)
        self.code(less, MISFIT, f"{self.what}: a byte less than {least}")
        return self.r.choice([["--budget", str(least)], ["--budget", str(least * 3 // 2)], []])

    def expected(self, model, work):
        offline = os.path.join(work, "offline")
        os.makedirs(offline)
        result = self.weft("quantize", model, offline, "--rollout", self.rollout, *self.kind())
        if not self.code(result, 0, f"{self.what}: quantize"):
            return None
        if self.r.random() < 0.3:
            oracle = os.path.join(work, "oracle")
            made = run([sys.executable, os.path.join(ORACLE, "checkpoint.py"), model, self.rollout, self.scheme, self.profile, oracle])
            self.code(made, 0, f"{self.what}: oracle")
            self.code(run([sys.executable, os.path.join(ORACLE, "compare.py"), oracle, offline]), 0, f"{self.what}: oracle and quantize")
        return offline

    def sync(self, seed):
        self.draw(seed)
        work = os.path.join(self.folder, "work")
        shutil.rmtree(work, ignore_errors=True)
        old, new = self.write("v1", seed * 2), self.write("v2", seed * 2 + 1)
        options = ["--bucket", self.r.choice(["4KiB", "60000", "1MiB"])] + (["--max-groups", "0"] if self.r.random() < 0.4 else [])
        budget = self.budget(new, options)
        if budget is None:
            return
        offline, dump, table = self.expected(new, work), os.path.join(work, "dump"), os.path.join(work, "table.json")
        transport = self.r.choice([["mpi"], ["mpi"], ["zmq"], ["ipc", "--memory", "host"]])
        run_options = [*options, *budget, "--swap", self.r.choice(["flip", "copy", "layerwise"]), "--transport", *transport]
        result = self.weft.ranks(self.ranks, "--model", f"{old},{new}", "--trainer", self.trainer, "--rollout", self.rollout, *self.kind(),
                                 *run_options, "--tokens", 2, "--quiet", "--dump", dump, "--json", table, timeout=150)
        if not offline or not self.code(result, 0, f"{self.what} {' '.join(run_options)}"):
            return
        self.code(self.weft("verify", dump, offline), 0, f"{self.what} {' '.join(run_options)}: bytes")
        with open(table) as file:
            found = json.load(file)
        self.that(found["torn_steps"] == 0 and found["received_bytes"] == found["needed_bytes"], f"{self.what}: torn or too much", found)
        self.syncs += 1


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weft")
    parser.add_argument("--syncs", type=int, default=25)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1e9, help="begin none after so many")
    arguments = parser.parse_args()
    start, seed = time.monotonic(), arguments.seed
    with scratch("fuzz") as folder:
        t = Fuzz(arguments, folder)
        while t.syncs < arguments.syncs and time.monotonic() - start < arguments.seconds:
            t.sync(seed)
            seed += 1
        print(f"seeds {arguments.seed} to {seed - 1}: {t.syncs} syncs, {t.refusals} plans refused")
    t.end()


if __name__ == "__main__":
    main()
