#!/usr/bin/python3
"""Checkpoints that are quantized already, as input: kernel-format files made of them are those made of the checkpoint they
were made of, byte for byte; a sync and a load of them too; and what does not fit is refused.

    prequantized.py WEFT [--only TEXT] [--no-syncs]

Exits 77 when NumPy or mpirun is missing."""

import argparse
import json
import os
import shutil
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "support"), os.path.join(HERE, "..", "oracle")]
from command import Checks, Weft, demo, scratch, skip_unless  # noqa: E402

skip_unless(numpy=True, mpirun=True)
import numpy as np  # noqa: E402
import scaled  # noqa: E402
import tensor_file  # noqa: E402

OK, CHECK_FAILED, USAGE, ENVIRONMENT, PLAN = range(5)

# scheme, profile; ranks that each can have on the model are found out
SCHEMES = (("fp8-block", "ieee"), ("fp8-block", "pow2"), ("fp8-channel", None), ("fp8-tensor", None), ("int8-channel", "ct"),
           ("int4-group-32", "ieee"), ("int4-group-64", "qat"), ("int4-group-128", "ct"), ("mxfp8", None), ("mxfp4", None),
           ("nvfp4", None))
ON_EVERY_MODEL = ("fp8-block", "int4-group-32", "nvfp4")
MODELS = ("qwen3-tied", "qwen2", "mixtral", "deepseek-v3", "phi3", "qwen3-moe")
ALL_SCHEMES_OF = "qwen3-moe"
LAYOUTS = ("tp:1", "tp:2", "tp:4", "tp:2,ep")


def chosen(scheme, profile):
    return ["--scheme", scheme] + (["--profile", profile] if profile else [])


def files(folder):
    return {name: open(os.path.join(folder, name), "rb").read() for name in sorted(os.listdir(folder))}


def check_scheme(checks, weft, source, model, scheme, profile, work):
    """-> how many layouts there were"""
    recipe = ["--recipe", scaled.RECIPES[model]] if model in scaled.RECIPES else []
    how, what = chosen(scheme, profile), f"{model} {scheme}"
    stored = os.path.join(work, "stored")
    if not checks.code(weft("quantize", source, stored, *how, "--format", "checkpoint", *recipe), OK, what):
        return 0
    compared = 0
    for layout in LAYOUTS:
        direct, moved = os.path.join(work, "direct"), os.path.join(work, "moved")
        first = weft("quantize", source, direct, *how, "--rollout", layout, *recipe)
        then = weft("quantize", stored, moved, *how[2:], "--rollout", layout, *recipe)
        checks.that(first.code == then.code, f"{what} {layout}: both fit or none", then)
        if first.code == OK and then.code == OK:
            a, b = files(direct), files(moved)
            checks.that(a == b, f"{what} {layout}: byte for byte", weft("verify", direct, moved))
            compared += 1
        for folder in (direct, moved):
            shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(stored)
    return compared


def check_models(checks, weft, work, only):
    for seed, model in enumerate(MODELS):
        if only not in model:
            continue
        source = scaled.write(model, os.path.join(work, model), seed, tensor_file)
        for scheme, profile in SCHEMES:
            if model == ALL_SCHEMES_OF or scheme in ON_EVERY_MODEL:
                found = check_scheme(checks, weft, source, model, scheme, profile, work)
                checks.that(found > 0, f"{model} {scheme}: some layouts fit")


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("weft")
    arguments.add_argument("--only", default="", metavar="TEXT", help="models whose name holds TEXT")
    options = arguments.parse_args()
    checks, weft = Checks(), Weft(options.weft)
    with scratch("prequantized") as work:
        check_models(checks, weft, work, options.only)
    checks.end()


if __name__ == "__main__":
    main()
