#!/usr/bin/python3
"""Plans of real models against those that tests/ranks/golden_plans.json keeps: a change of the planner that changes what travels, or in which order,
shows here, and must be meant.

    golden.py WEFT [--write]

--write keeps what is found now: for a change that is meant, together with PLAN_FORMAT in src/plan/plan_hash.c."""

import argparse
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "support"))
from command import Checks, Weft, scratch  # noqa: E402

GOLDEN = os.path.join(HERE, "golden_plans.json")
FIELDS = ["hash", "patterns", "rounds", "checkpoint_bytes", "needed_bytes_total", "egress_bytes_total", "unique_bytes_total",
          "ingress_bytes_max", "egress_bytes_max", "kernel_bytes_max", "staging_bytes", "least_budget_bytes"]
PLANS = [("qwen3-0.6b", "fsdp:1", "tp:1", "bf16"), ("qwen3-0.6b", "fsdp:2", "tp:2", "fp8-block"),
         ("qwen3-8b", "fsdp:8", "tp:4x2", "fp8-block"), ("qwen3-8b", "tp:2,pp:2", "tp:2", "fp8-channel"),
         ("llama-3-70b", "fsdp:64", "tp:8x4", "fp8-channel"), ("mixtral-8x7b", "ep:4,dp:2", "tp:4", "fp8-block"),
         ("qwen3-30b-a3b", "fsdp:8", "tp:4,ep", "fp8-block"), ("qwen3-235b-a22b", "tp:4,pp:4,dp:2", "tp:4,ep", "bf16"),
         ("gpt-oss-120b", "fsdp:16", "tp:2", "bf16"), ("deepseek-v3", "fsdp:256", "tp:16x8,ep", "fp8-block"),
         ("kimi-k2", "ep:32,pp:8", "tp:16x8,ep", "fp8-block"),
         ("qwen3-30b-a3b", "fsdp:8", "tp:4,ep", "fp8-block; *.experts.*=nvfp4; layers.0.*=bf16")]


def find(t, folder):
    """-> {what: fields}"""
    found = {}
    for name, trainer, rollout, scheme in PLANS:
        model, what = os.path.join(folder, name), f"{name} {trainer} {rollout} {scheme}"
        if not os.path.isdir(model):
            t.code(t.weft("gen", name, model), 0, f"gen {name}")
        result = t.weft("plan", model, "--trainer", trainer, "--rollout", rollout, "--scheme", scheme, "--json", timeout=120)
        if t.code(result, 0, what):
            plan = json.loads(result.out)
            found[what] = {field: plan[field] for field in FIELDS}
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weft")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    t = Checks()
    t.weft = Weft(arguments.weft)
    with scratch("golden") as folder:
        found = find(t, folder)
    if arguments.write:
        with open(GOLDEN, "w") as file:
            json.dump(found, file, indent=1)
            file.write("\n")
    with open(GOLDEN) as file:
        kept = json.load(file)
    t.that(set(kept) == set(found), "the same plans", (sorted(kept), sorted(found)))
    for what in found:
        changed = {field: (kept[what][field], value) for field, value in found[what].items() if kept.get(what, {}).get(field) != value}
        t.that(not changed, f"{what}: as kept", changed)
    t.end()


main()
