#!/usr/bin/python3
"""weft gen: exact shapes, numbers that follow the seed; and every model plans where it should, or is refused with what fits.

    gen.py WEFT"""

import argparse
import json
import os
import re
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))

from checkpoints import PUBLISHED, shapes  # noqa: E402
from command import Checks, Weft, scratch  # noqa: E402

# A sensible layout of each, and one that cuts where nothing may be cut, where there is one.
LAYOUTS = {
    "qwen3-0.6b": ("fsdp:2", "tp:2", "fp8-block", None),
    "qwen3-8b": ("fsdp:4", "tp:4x2", "fp8-block", "tp:3"),
    "qwen2.5-7b": ("fsdp:4", "tp:4", "fp8-channel", "tp:8"),
    "llama-3-8b": ("tp:2,dp:2", "tp:8", "fp8-block", "tp:3"),
    "llama-3-70b": ("fsdp:64", "tp:8x4", "fp8-block", "tp:3"),
    "mixtral-8x7b": ("fsdp:8", "tp:4", "fp8-block", "tp:3"),
    "qwen3-30b-a3b": ("ep:4,fsdp:2", "tp:4,ep", "fp8-block", "tp:4"),
    "qwen3-235b-a22b": ("pp:2,ep:8", "tp:4x2", "fp8-block", "tp:8"),
    "deepseek-v3": ("tp:8,pp:8,ep:4", "tp:16x8,ep", "fp8-block", "tp:32"),
    "kimi-k2": ("fsdp:256", "tp:16x8,ep", "fp8-block", "tp:32"),
    "gpt-oss-20b": ("fsdp:8", "tp:2x2,ep", "fp8-block", "tp:2"),
    "gpt-oss-120b": ("ep:4,fsdp:4", "tp:8", "bf16", "tp:7"),
}


def header(folder):
    with open(os.path.join(folder, "model.safetensors"), "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return {name: (entry["dtype"], entry["shape"]) for name, entry in json.loads(file.read(length)).items()}


def check_models(t, weft, folder):
    listed = weft("gen", "--list").out.split()
    t.that(listed == list(LAYOUTS), "the models that are listed", listed)
    for name in listed:
        out = os.path.join(folder, name)
        t.code(weft("gen", name, out), 0, f"gen {name}")
        taken = os.stat(os.path.join(out, "model.safetensors")).st_blocks * 512
        t.that(taken < 32 << 20, f"{name}: takes no disk beyond its header", taken)
        trainer, rollout, scheme, misfit = LAYOUTS[name]
        planned = weft("plan", out, "--trainer", trainer, "--rollout", rollout, "--scheme", scheme, "--json")
        t.code(planned, 0, f"{name}: {trainer} to {rollout} {scheme}")
        if misfit:
            refused = weft("plan", out, "--trainer", trainer, "--rollout", misfit, "--scheme", scheme)
            t.code(refused, 4, f"{name}: {misfit} {scheme}")
            t.that(re.search(r"these fit: .*tp:\d", refused.err), f"{name}: {misfit}: says what fits", refused)


def check_shapes(t, folder):
    for name in ("llama-3-70b", "qwen3-30b-a3b", "qwen3-235b-a22b"):
        expected = {tensor: ("BF16", list(shape)) for tensor, shape in shapes(PUBLISHED[name])}
        t.that(header(os.path.join(folder, name)) == expected, f"{name}: names, dtypes and shapes")
    tied = header(os.path.join(folder, "qwen3-0.6b"))
    t.that(tied["lm_head.weight"] == tied["model.embed_tokens.weight"], "a tied model that ships its head", tied["lm_head.weight"])
    latent = header(os.path.join(folder, "deepseek-v3"))
    t.that(latent["model.layers.3.mlp.gate.e_score_correction_bias"] == ("F32", [256]), "what stays in fp32")
    stacked = header(os.path.join(folder, "gpt-oss-20b"))
    t.that(stacked["model.layers.23.mlp.experts.gate_up_proj"] == ("BF16", [32, 2880, 5760]), "experts in one tensor")


def check_numbers(t, weft, folder):
    small = "num_hidden_layers=1,hidden_size=256,intermediate_size=256,vocab_size=300"
    folders = []
    for seed in (1, 1, 2):
        folders.append(os.path.join(folder, f"random{len(folders)}"))
        t.code(weft("gen", "llama-3-8b", folders[-1], "--set", small, "--random", "--seed", seed), 0, f"seed {seed}")
    t.code(weft("verify", folders[0], folders[1]), 0, "the same seed")
    t.code(weft("verify", folders[0], folders[2]), 1, "another seed")
    with open(os.path.join(folders[0], "config.json")) as file:
        t.that(json.load(file)["hidden_size"] == 256, "the configuration says what was set")
    data = open(os.path.join(folders[0], "model.safetensors"), "rb").read()[-2 * 10000:]
    values = [struct.unpack("<f", b"\0\0" + data[i:i + 2])[0] for i in range(0, len(data), 2)]
    t.near(sum(values) / len(values), 0, 0.002, "the mean of numbers")
    t.near((sum(value * value for value in values) / len(values)) ** 0.5, 0.02, 0.002, "their deviation")
    out = os.path.join(folder, "again")
    t.code(weft("gen", "--config", os.path.join(folders[0], "config.json"), out, "--random", "--seed", "1"), 0, "by configuration")
    t.code(weft("verify", folders[0], out), 0, "by configuration: the same")


def check_refusals(t, weft, folder):
    for arguments, code, text in ((["nope", folder], 2, "weft gen --list"), ([], 2, "NAME and OUT"), (["qwen3-8b"], 2, "NAME and OUT"),
                                  (["qwen3-8b", "/proc/none/out"], 3, "/proc/none"),
                                  (["qwen3-8b", folder, "--set", "x"], 2, "KEY=VALUE"), (["qwen3-8b", folder, "--set", "x=}"], 2, "JSON"),
                                  (["qwen3-8b", folder, "--set", 'model_type="other"'], 2, "no recipe"),
                                  (["qwen3-8b", folder, "--set", "hidden_size=0"], 1, "hidden_size"),
                                  (["qwen3-30b-a3b", folder, "--set", "num_experts=2000000000"], 1, "experts"),
                                  (["--config", "/nonexistent", folder], 3, "/nonexistent"), (["a", "b", "--config", "c"], 2, "OUT alone")):
        result = weft("gen", *arguments)
        t.code(result, code, f"gen {arguments}")
        t.that(text in result.err, f"gen {arguments}: says {text}", result)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weft")
    weft = Weft(parser.parse_args().weft)
    with scratch("gen") as folder:
        t = Checks()
        check_models(t, weft, folder)
        check_shapes(t, folder)
        check_numbers(t, weft, folder)
        check_refusals(t, weft, os.path.join(folder, "refused"))
        t.end()


main()
