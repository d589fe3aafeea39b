#!/usr/bin/python3
"""Maps of schemes over real ranks: what is served after a sync, what `weft quantize` writes and what tests/oracle computes are the same
bytes; kernel-format files of an equal map load, of another they do not; ranks whose maps differ are refused.

    schemes.py WEFT [--transport NAME] [--options TEXT]

Exits 77 when NumPy or mpirun is missing, or a GPU that the transport needs."""

import argparse
import json
import os
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ORACLE = os.path.join(HERE, "..", "oracle")
sys.path.insert(0, os.path.join(HERE, "..", "support"))
from command import DEMO, Checks, Weft, demo, needs_gpu, scratch, skip_unless  # noqa: E402

OK, CHECK_FAILED = 0, 1
DENSE, EXPERTS = "tiny-qwen3", "tiny-qwen3-moe"
LEAST = "least"

# model, trainer, its ranks, rollout, its ranks, map, profile, its kernel-format dtypes, further options
SYNCS = (
    (EXPERTS, "fsdp:2", 2, "tp:2", 2, "fp8-block; *.experts.*=nvfp4; layers.0.*=bf16; lm_head=bf16", "vllm", "BF16 F8_E4M3 F32 U8", []),
    (EXPERTS, "ep:2", 2, "tp:2,ep", 2, "fp16; *.w13=fp8-tensor; *.w2=int8-channel:ct; *.o_proj=fp8-channel; *.[qkv]_proj=int4-group-32; "
     "layers.1.*=mxfp8", "default", "F16 BF16 F8_E4M3 F32 I32 I64 I8 U8", ["--budget", LEAST]),
    (DENSE, "tp:2", 2, "tp:2x2", 4, "fp8-channel; *.o_proj=int8-channel; *.down_proj=mxfp4; layers.0.*=bf16; layers.1.mlp.*=nvfp4:modelopt", "default",
     "BF16 F8_E4M3 F32 I8 U8", ["--swap", "copy", "--max-groups", "0"]),
    (EXPERTS, "fsdp:1", 1, "tp:2", 2, "fp8-block; layers.0.mlp.*=fp8-channel", "vllm-pow2", "BF16 F8_E4M3 F32", ["--engine", "vllm-hopper"]),
    (EXPERTS, "fsdp:2", 2, "tp:2", 2, "fp8-block@deepgemm; *.experts.*=nvfp4@128x4; *.o_proj=mxfp8@128x4; layers.0.*_proj=fp8-block:ieee@padded", "pow2",
     "BF16 F8_E4M3 F32 I32 U8", ["--swap", "copy"]),
    (EXPERTS, "tp:2", 2, "tp:2", 2, "int4-group-128@marlin; *.experts.*=int4-group-64:ct@marlin; *.o_proj=int4-group-32:qat@marlin; lm_head=bf16",
     "default", "BF16 I32 I64", []),
    (EXPERTS, "fsdp:2", 2, "tp:2", 2, "fp8-block@marlin; *.w13=fp8-tensor@marlin; *.w2=fp8-channel@marlin; *.o_proj=int8-channel:ct@marlin; "
     "layers.0.*_proj=fp8-tensor@marlin", "vllm-pow2", "BF16 I32", ["--swap", "copy"]),
    (DENSE, "fsdp:3", 3, "tp:1", 1, "fp8-block; *.down_proj=fp8-channel; layers.1.*=fp16; layers.2.*norm*=fp32; lm_head=fp32", "pow2",
     "BF16 F16 F8_E4M3 F32",
     ["--swap", "layerwise", "--eval", os.path.join(DEMO, "eval.txt"), "--eval-bytes", "1KiB"]),
)


class Test(Checks):
    def __init__(self, weft, folder, transport):
        super().__init__()
        self.weft, self.folder, self.transport, self.made = weft, folder, transport, 0

    def path(self, name):
        self.made += 1
        return os.path.join(self.folder, f"{name}-{self.made}")

    def python(self, script, *arguments):
        ran = subprocess.run([sys.executable, os.path.join(ORACLE, script), *arguments], capture_output=True, text=True, timeout=100)
        self.that(ran.returncode == 0, f"{script} {' '.join(arguments)}", ran.stdout + ran.stderr)

    def quantize(self, checkpoint, rollout, scheme, *how):
        out = self.path("quantized")
        self.code(self.weft("quantize", checkpoint, out, "--rollout", rollout, "--scheme", scheme, *how), OK, f"quantize {scheme}")
        return out

    def sync(self, ranks, checkpoints, *options, code=OK):
        dump, table = self.path("dump"), self.path("table")
        result = self.weft.ranks(ranks, "--model", checkpoints, "--tokens", 3, "--quiet", "--dump", dump, "--json", table, *options, *self.transport)
        self.code(result, code, f"run {' '.join(map(str, options))}")
        return result, json.load(open(table)) if os.path.exists(table) else {}, dump


def profile_option(profile):
    return [] if profile == "default" else ["--profile", profile]


def dtypes(folder):
    """The kernel-format dtypes of a rank's file."""
    with open(os.path.join(folder, "rank0.safetensors"), "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {tensor["dtype"] for name, tensor in header.items() if name != "__metadata__"}


def least_budget(t, checkpoint, trainer, rollout, scheme):
    result = t.weft("plan", checkpoint, "--trainer", trainer, "--rollout", rollout, "--scheme", scheme, "--json")
    return json.loads(result.out)["least_budget_bytes"]


def check_syncs(t):
    for model, trainer, trainers, rollout, rollouts, scheme, profile, expected, more in SYNCS:
        last = demo(model, "v3" if model == DENSE else "v1")
        how = more if "--engine" in more else profile_option(profile)
        offline, oracle = t.quantize(last, rollout, scheme, *how), t.path("oracle")
        t.python("checkpoint.py", last, rollout, scheme, profile, oracle, *(["routed_experts."] if how is more else []))
        t.python("compare.py", oracle, offline)
        t.that(dtypes(offline) == set(expected.split()), f"{scheme}: every scheme is there", dtypes(offline))
        more = [least_budget(t, last, trainer, rollout, scheme) if option == LEAST else option for option in more]
        result, table, dump = t.sync(trainers + rollouts, last, "--trainer", trainer, "--rollout", rollout, "--scheme", scheme,
                                     *(more if how is more else [*how, *more]))
        t.code(t.weft("verify", dump, offline), OK, f"{scheme}: what is served")
        t.that(table and not table["torn_steps"] and table["received_bytes"] == table["needed_bytes"] and table["scheme"].startswith(scheme.split(";")[0]),
               f"{scheme}: what is needed is received once, and the table names the map", table)
        if "--eval" in more:
            t.that(table and 0 < table["versions"][0]["bits_per_byte"] < 2, f"{scheme}: the decoder reads it", table)


# No matrix of it is whole tiles of Marlin's.
ODD = ("hidden_size=352,intermediate_size=448,num_attention_heads=3,num_key_value_heads=1,head_dim=64,num_hidden_layers=3,vocab_size=256,"
       "max_position_embeddings=64")
PADDED = ("fp8-channel@marlin; *.o_proj=int8-channel@marlin; *.down_proj=int4-group-32@marlin; layers.1.*=fp8-tensor@marlin; "
          "layers.2.*.o_proj=fp8-block@marlin; layers.2.*.down_proj=int4-group-64:qat@marlin")


def check_padding(t):
    """What an engine would pad is padded, with zeros that no update writes over."""
    odd, oracle = t.path("odd"), t.path("oracle")
    os.environ["MALLOC_PERTURB_"] = "165"  # memory that is not zero by itself
    t.code(t.weft("gen", "qwen3-8b", odd, "--set", ODD, "--random"), OK, "gen")
    offline = t.quantize(odd, "tp:1", PADDED)
    t.python("checkpoint.py", odd, "tp:1", PADDED, "default", oracle)
    t.python("compare.py", oracle, offline)
    _, _, dump = t.sync(2, odd, "--trainer", "fsdp:1", "--rollout", "tp:1", "--scheme", PADDED)
    t.code(t.weft("verify", dump, offline), OK, f"{PADDED}: what is served")
    del os.environ["MALLOC_PERTURB_"]


def check_load(t):
    """Maps are compared by what layers get, not by their words."""
    options = ["--trainer", "fsdp:1", "--rollout", "tp:2", "--updates", "0", "--scheme", "fp8-block; layers.0.*=bf16"]
    for scheme, fits in (("fp8-block;*.layers.0.*=bf16; lm_head=bf16", True), ("fp8-block; layers.1.*=bf16", False)):
        offline = t.quantize(demo(DENSE, "v1"), "tp:2", scheme)
        result, table, dump = t.sync(3, demo(DENSE, "v1"), *options, "--load", offline, code=OK if fits else CHECK_FAILED)
        if fits:
            t.code(t.weft("verify", dump, offline), OK, f"loaded, of {scheme}")
        else:
            t.that("expected fp8-block; layers.0.*=bf16" in result.err and scheme in result.err, f"{scheme} is not loaded", result)
    named = t.quantize(demo(EXPERTS, "v1"), "tp:2", "bf16", "--engine", "vllm-hopper")
    result, _, _ = t.sync(3, demo(EXPERTS, "v1"), "--trainer", "fsdp:1", "--rollout", "tp:2", "--updates", "0", "--load", named, code=CHECK_FAILED)
    t.that("its experts is routed_experts., expected none" in result.err, "names of another engine are not loaded", result)


def check_disagreement(t):
    common = ["--model", demo(DENSE, "v1"), "--trainer", "fsdp:2", "--rollout", "tp:2", "--tokens", "2", "--quiet", *t.transport, "--scheme"]
    maps = ["fp8-block; layers.0.*=bf16", "fp8-block; layers.1.*=bf16"]
    result = t.weft.mixed((3, common + maps[:1]), (1, common + maps[1:]))
    t.code(result, CHECK_FAILED, "another map")
    t.that(len(result.messages) == 1 and "plan" in result.messages[0], "another map: one rank says so", result)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weft")
    parser.add_argument("--transport", default="mpi")
    parser.add_argument("--options", default="")
    arguments = parser.parse_args()
    skip_unless(numpy=True, mpirun=True)
    skip_unless(gpu=needs_gpu(arguments.transport, arguments.options))
    with scratch("schemes") as folder:
        t = Test(Weft(arguments.weft), folder, ["--transport", arguments.transport, *arguments.options.split()])
        check_syncs(t)
        check_padding(t)
        check_load(t)
        check_disagreement(t)
    t.end()


main()
