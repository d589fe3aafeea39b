#!/usr/bin/python3
"""What rollouts decode with weights that weft brought them is what transformers computes from the checkpoint.

    decoder.py WEFT [--full]

Bits per byte of the held text against launch/demo/oracle.json, over TP, schemes and a swap. Where the whole text would
take long, a prefix is compared between layouts; --full scores the whole text everywhere. Exits 77 when mpirun is missing."""

import argparse
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from command import DEMO, Checks, Weft, demo, scratch, skip_unless  # noqa: E402

EVAL = os.path.join(DEMO, "eval.txt")
PREFIX = 4096
# Rounding: bf16 weights with float arithmetic, sums in another order than the oracle's.
SAME_BITS = 0.002
# What 8-bit weights may cost, and 4-bit ones.
QUANTIZED_BITS = 0.02
FOUR_BITS = 0.12
RANKS = {"tp:1": 1, "tp:2": 2, "tp:4": 4, "tp:2,ep": 2, "tp:1x2": 2}


class Decoder(Checks):
    def __init__(self, weft, folder, prefix):
        super().__init__()
        self.weft, self.folder, self.prefix = weft, folder, prefix
        with open(os.path.join(DEMO, "oracle.json")) as file:
            self.models = json.load(file)["models"]

    def oracle(self, name):
        return self.models[name]["bits_per_byte_fp32_math_on_bf16_weights"]

    def bits(self, checkpoints, rollout, scheme, *more, whole=False):
        """Bits per byte on each version; None for a run that failed."""
        table = os.path.join(self.folder, "table.json")
        what = f"{' '.join(os.path.relpath(path, DEMO) for path in checkpoints)} {rollout} {scheme} {' '.join(more)}".strip()
        limit = [] if whole or not self.prefix else ["--eval-bytes", self.prefix]
        result = self.weft.ranks(1 + RANKS[rollout], "--model", ",".join(checkpoints), "--trainer", "fsdp:1", "--rollout", rollout,
                                 "--scheme", scheme, "--tokens", "2", "--quiet", "--eval", EVAL, "--json", table, *limit, *more,
                                 timeout=300)
        if not self.code(result, 0, what):
            return [None] * len(checkpoints)
        with open(table) as file:
            found = [version["bits_per_byte"] for version in json.load(file)["versions"]]
        print(f"{what}: {' '.join(f'{bits:.4f}' for bits in found)} bits a byte in {result.seconds:.1f} s", flush=True)
        self.that(all(bits is not None for bits in found), f"{what}: every version is scored", result)
        return found


def check_oracle(t):
    """The whole text, so that the number is the oracle's."""
    v3, moe = demo("tiny-qwen3", "v3"), demo("tiny-qwen3-moe", "v1")
    [dense] = t.bits([v3], "tp:2", "bf16", whole=True)
    t.near(dense, t.oracle("tiny-qwen3-v3"), SAME_BITS, "v3, bf16, tp:2: the oracle's bits")
    [experts] = t.bits([moe], "tp:2", "bf16", whole=True)
    t.near(experts, t.oracle("tiny-qwen3-moe-v1"), SAME_BITS, "moe, bf16, tp:2: the oracle's bits")
    [experts] = t.bits([moe], "tp:2", "bf16")
    [quantized] = t.bits([moe], "tp:2,ep", "fp8-block")
    t.near(quantized, experts, QUANTIZED_BITS, "moe, fp8-block, tp:2,ep: near bf16")


def check_layouts(t):
    """The same bits at any TP, close to them with any scheme, and a better checkpoint is better."""
    v1, v3 = demo("tiny-qwen3", "v1"), demo("tiny-qwen3", "v3")
    early, late = t.bits([v1, v3], "tp:1", "bf16")
    if None in (early, late):
        return
    t.that(late < early - 1, "v3 predicts the text better than v1 by far", (early, late))
    for rollout in ("tp:2", "tp:4"):
        t.near(t.bits([v3], rollout, "bf16")[0], late, SAME_BITS, f"bf16 at {rollout} as at tp:1")
    for scheme, rollout, more in (("fp8-block", "tp:4", ()), ("fp8-block", "tp:2", ("--profile", "pow2")), ("fp8-channel", "tp:2", ())):
        t.near(t.bits([v3], rollout, scheme, *more)[0], late, QUANTIZED_BITS, f"{scheme} {' '.join(more)} at {rollout} near bf16")
    t.near(t.bits([v3], "tp:2", "int4-group-128")[0], late, FOUR_BITS, "int4-group-128 at tp:2 not far from bf16")


def check_sync(t):
    """Syncing changes nothing but the version: the same checkpoint twice scores the same, to the last digit."""
    v1, v3 = demo("tiny-qwen3", "v1"), demo("tiny-qwen3", "v3")
    for swap in ("flip", "copy"):
        once, again = t.bits([v3, v3], "tp:2", "fp8-block", "--swap", swap)
        t.that(once is not None and once == again, f"the same before and after a sync to the same weights, {swap}", (once, again))
        first, _, third = t.bits([v3, v1, v3], "tp:2", "fp8-block", "--swap", swap)
        t.that(first is not None and first == third == once, f"back at v3 after v1, {swap}", (first, third, once))
    first, _, third = t.bits([v3, v1, v3], "tp:2", "nvfp4", "--eval-bytes", "1024")
    t.that(first is not None and first == third, "back at v3 after v1, in 4 bits", (first, third))
    replica = t.bits([v3], "tp:1x2", "bf16")[0]
    t.near(replica, t.bits([v3], "tp:1", "bf16")[0] or 0, 0, "a replica more changes nothing")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weft")
    parser.add_argument("--full", action="store_true")
    arguments = parser.parse_args()
    skip_unless(mpirun=True)
    with scratch("decoder") as folder:
        t = Decoder(Weft(arguments.weft), folder, 0 if arguments.full else PREFIX)
        check_oracle(t)
        check_layouts(t)
        check_sync(t)
        t.end()


main()
