#!/usr/bin/python3
"""What each scheme costs: bits per byte of launch/demo/eval.txt, which the demo models were not trained on.

    bits.py WEFT [--schemes A,B] [--rollout tp:1] [--bytes 61440] [--jobs 1]

`weft run` syncs a checkpoint in a scheme and a profile, and the rollout scores the text on the
weights it serves. Prints the table of docs/benchmarks.md; a quarter of an hour on a core. Exits 1 when an 8-bit
scheme costs more than 0.03 bits a byte."""

import argparse
import concurrent.futures
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from command import DEMO, Weft, demo, scratch  # noqa: E402

MODELS = {"tiny-qwen3 v3": demo("tiny-qwen3", "v3"), "tiny-qwen3-moe v1": demo("tiny-qwen3-moe", "v1")}
# scheme: bits a weight, of which scales are a part; profiles, of which the first is the default
SCHEMES = {"bf16": (16, ["default"]), "fp16": (16, ["default"]), "fp32": (32, ["default"]), "fp8-block": (8, ["ieee", "vllm", "pow2", "vllm-pow2"]), "fp8-channel": (8, ["default"]),
           "fp8-tensor": (8, ["default"]), "int8-channel": (8, ["ieee", "vllm", "ct"]), "mxfp8": (8.25, ["default"]),
           "int4-group-32": (4.5, ["ieee", "ct", "qat"]), "int4-group-64": (4.25, ["ieee", "ct", "qat"]),
           "int4-group-128": (4.125, ["ieee", "ct", "qat"]), "nvfp4": (4.5, ["default", "modelopt"]), "mxfp4": (4.25, ["default"])}
ALLOWED = 0.03


def score(weft, folder, model, scheme, profile, options):
    table = os.path.join(folder, f"{os.path.basename(os.path.dirname(model))}-{scheme}-{profile}.json")
    ranks = 1 + int(options.rollout.split(",")[0].removeprefix("tp:"))
    result = weft.ranks(ranks, "--model", model, "--trainer", "fsdp:1", "--rollout", options.rollout, "--scheme", scheme,
                        *([] if profile == "default" else ["--profile", profile]), "--tokens", "1", "--quiet", "--workers", "0",
                        "--eval", os.path.join(DEMO, "eval.txt"), "--eval-bytes", options.bytes, "--json", table, timeout=900)
    if result.code != 0:
        sys.exit(f"bits.py: {result}")
    with open(table) as file:
        return json.load(file)["versions"][0]["bits_per_byte"]


def rows(names):
    unknown = set(names) - set(SCHEMES)
    if unknown:
        sys.exit(f"bits.py: --schemes {', '.join(sorted(unknown))}: expected some of {', '.join(SCHEMES)}")
    return [(name, profile) for name in SCHEMES if name in names or name == "bf16" for profile in SCHEMES[name][1]]


def cell(bits, base):
    return f"{bits:.4f} | {bits - base:+.4f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weft")
    parser.add_argument("--schemes", default=",".join(SCHEMES))
    parser.add_argument("--rollout", default="tp:1")
    parser.add_argument("--bytes", type=int, default=61440)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    weft, table = Weft(options.weft), rows(options.schemes.split(","))
    os.environ["OMPI_MCA_hwloc_base_binding_policy"] = "none"  # jobs beside each other, each with the cores it finds
    with scratch("bits") as folder, concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        found = {(scheme, profile): [pool.submit(score, weft, folder, model, scheme, profile, options) for model in MODELS.values()]
                 for scheme, profile in table}
        base = [bits.result() for bits in found["bf16", "default"]]
        print(f"| scheme | profile | bits a weight | {' | over bf16 | '.join(MODELS)} | over bf16 |\n|{'---|' * (3 + 2 * len(MODELS))}")
        costly = []
        for scheme, profile in table:
            scores = [bits.result() for bits in found[scheme, profile]]
            width = SCHEMES[scheme][0]
            print(f"| {scheme} | {profile} | {width:g} | {' | '.join(map(cell, scores, base))} |", flush=True)
            if 8 <= width < 16 and max(map(lambda bits, bf16: bits - bf16, scores, base)) > ALLOWED:
                costly.append(f"{scheme} {profile}")
    if costly:
        sys.exit(f"bits.py: more than {ALLOWED} bits a byte over bf16: {', '.join(costly)}")


main()
