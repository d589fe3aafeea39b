#!/usr/bin/python3
"""Rollouts that start from disk: `weft run --load` of a checkpoint and of what `weft quantize` wrote serves the same bytes;
trainers follow; and of a directory that cannot be loaded all is said, nothing served, and the next version goes through.

    load.py WEFT [--transport NAME] [--options TEXT]

Exits 77 when mpirun is missing, or a GPU that the transport needs."""

import argparse
import json
import os
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from command import Checks, Weft, demo, needs_gpu, scratch, skip_unless  # noqa: E402

OK, CHECK_FAILED, IO = 0, 1, 3
DENSE, EXPERTS = "tiny-qwen3", "tiny-qwen3-moe"

# model, trainer, its ranks, rollout, its ranks, scheme, further options
SYNCS = (
    (DENSE, "fsdp:2", 2, "tp:2", 2, "fp8-block", []),
    (DENSE, "fsdp:1", 1, "tp:2x2", 4, "fp8-channel", ["--swap", "copy"]),
    (DENSE, "fsdp:1", 1, "tp:1", 1, "bf16", ["--max-groups", "0"]),
    (EXPERTS, "fsdp:1", 1, "tp:2,ep", 2, "fp8-block", ["--profile", "vllm"]),
    (EXPERTS, "ep:2", 2, "tp:2", 2, "fp8-channel", []),
)


class Test(Checks):
    def __init__(self, weft, folder, transport):
        super().__init__()
        self.weft, self.folder, self.transport, self.made = weft, folder, transport, 0

    def path(self, name):
        self.made += 1
        return os.path.join(self.folder, f"{name}-{self.made}")

    def quantize(self, checkpoint, rollout, scheme, more=()):
        out = self.path("quantized")
        profile = list(more[more.index("--profile"):][:2]) if "--profile" in more else []
        self.code(self.weft("quantize", checkpoint, out, "--rollout", rollout, "--scheme", scheme, *profile), OK, "quantize")
        return out

    def run_load(self, ranks, load, checkpoints, *options, code=OK):
        """The job's result, the lines of its table, and what is served at the end."""
        dump, table = self.path("dump"), self.path("table")
        result = self.weft.ranks(ranks, "--load", load, "--model", checkpoints, "--tokens", 3, "--quiet", "--dump", dump,
                                 "--json", table, *options, *self.transport)
        self.code(result, code, f"run --load {os.path.basename(load)} {' '.join(map(str, options))}")
        versions = json.load(open(table))["versions"] if result.code in (OK, CHECK_FAILED) and os.path.exists(table) else []
        return result, versions, dump

    def same(self, dump, expected, what):
        self.code(self.weft("verify", dump, expected), OK, what)


def check_formats(t):
    for model, trainer, trainers, rollout, rollouts, scheme, more in SYNCS:
        first = demo(model, "v1")
        offline = t.quantize(first, rollout, scheme, more)
        options = ["--trainer", trainer, "--rollout", rollout, "--scheme", scheme, *more]
        for what, load in (("checkpoint", first), ("kernel files", offline)):
            result, versions, dump = t.run_load(trainers + rollouts, load, first, "--updates", 0, *options)
            t.same(dump, offline, f"{' '.join(options)}: loaded from {what}")
            t.that([(v["loaded"], v["failed"], v["payload_bytes"]) for v in versions] == [(True, False, 0)],
                   f"{what}: one version, loaded, nothing received", versions)
            t.that("from disk" in result.out and "nan" not in result.out, f"{what}: the table says so", result)


def check_followed(t):
    """Trainers publish from version 2 on, and files of one replica serve two."""
    options = ["--trainer", "fsdp:2", "--rollout", "tp:2x2", "--scheme", "fp8-block"]
    last = t.quantize(demo(DENSE, "v3"), "tp:2x2", "fp8-block")
    for load in (demo(DENSE, "v1"), t.quantize(demo(DENSE, "v1"), "tp:2", "fp8-block")):
        _, versions, dump = t.run_load(6, load, ",".join(demo(DENSE, v) for v in ("v1", "v3")), *options)
        t.that([(v["version"], v["loaded"], v["failed"]) for v in versions] ==
               [(1, True, False), (2, False, False), (3, False, False)], "loaded, then published twice", versions)
        t.that(all(v["at_step"] for v in versions), "each has a first step", versions)
        t.same(dump, last, "what was published last is served")


def check_refused(t):
    options = ["--trainer", "fsdp:1", "--rollout", "tp:2", "--scheme", "fp8-block"]
    served = t.quantize(demo(DENSE, "v3"), "tp:2", "fp8-block")
    empty, cut = t.path("empty"), t.path("cut")
    os.mkdir(empty)
    shutil.copytree(demo(DENSE, "v1"), cut)
    os.truncate(os.path.join(cut, "model.safetensors"), os.path.getsize(os.path.join(cut, "model.safetensors")) - 1000)
    one_less = t.quantize(demo(DENSE, "v1"), "tp:2", "fp8-block")
    os.remove(os.path.join(one_less, "rank1.safetensors"))
    for load, words in (
        (empty, ("neither a checkpoint",)),
        (cut, ("model.safetensors", "do not lie within")),
        (demo(EXPERTS, "v1"), ("model_type", "qwen3_moe")),
        (t.quantize(demo(DENSE, "v1"), "tp:2", "fp8-channel"), ("scheme is fp8-channel, expected fp8-block",)),
        (t.quantize(demo(DENSE, "v1"), "tp:2", "fp8-block", ["--profile", "pow2"]), ("profile is pow2, expected ieee",)),
        (t.quantize(demo(DENSE, "v1"), "tp:4", "fp8-block"), ("rollout is tp:4, expected tp:2",)),
        (t.quantize(demo(DENSE, "v1"), "tp:1", "fp8-block"), ("rollout is tp:1, expected tp:2",)),
        (one_less, ("tp_rank is 0, expected 1",)),
    ):
        result, versions, dump = t.run_load(3, load, demo(DENSE, "v3"), *options, code=CHECK_FAILED)
        t.that(all(word in " ".join(result.messages) for word in words), f"{words} is said", result)
        t.that([v["failed"] for v in versions] == [True, False], "the load failed, the next version did not", versions)
        t.same(dump, served, "the next version is served")
    result = t.weft.ranks(3, "--load", t.path("nowhere"), "--model", demo(DENSE, "v3"), *options, *t.transport)
    t.code(result, IO, "no such directory")
    t.that(len(result.messages) == 1 and "nowhere" in result.messages[0], "no such directory: one rank says so", result)
    result = t.weft.ranks(3, "--load", empty, "--model", demo(DENSE, "v3"), *options, *t.transport, "--updates", 0, "--quiet")
    t.code(result, CHECK_FAILED, "nothing to serve at all")
    t.that("no version could be applied" in result.err, "nothing to serve at all: said", result)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weft")
    parser.add_argument("--transport", default="mpi")
    parser.add_argument("--options", default="")
    arguments = parser.parse_args()
    skip_unless(mpirun=True)
    skip_unless(gpu=needs_gpu(arguments.transport, arguments.options))
    with scratch("load") as folder:
        t = Test(Weft(arguments.weft), folder, ["--transport", arguments.transport, *arguments.options.split()])
        check_formats(t)
        check_followed(t)
        check_refused(t)
    t.end()


main()
