#!/usr/bin/python3
"""Many updates in a row: no step on two versions, no version lost, memory flat.

    soak.py WEFT [UPDATES] [--scheme S [--profile P]]

150 updates unless told; in the schemes of its cases, or all of them in this one. Exits 77 when mpirun is missing."""

import argparse
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from command import Checks, Weft, demo, scratch, skip_unless  # noqa: E402

MODELS = ",".join(demo("tiny-qwen3", version) for version in ("v1", "v3"))
CASES = [("tp:2", "flip", "fp8-block", ()), ("tp:1x2", "flip", "int4-group-128", ()), ("tp:2", "layerwise", "fp8-block", ()),
         ("tp:1x2", "copy", "bf16", ("--max-groups", "0", "--budget", "1MiB"))]


def growth_limit(updates):
    """Since a tenth of the updates. MPI touches its shared memory bit by bit, up to 10 to 15 MiB in the first few hundred."""
    return (2 if updates >= 1000 else 24) << 20


def check(t, weft, folder, updates, rollout, swap, scheme, more):
    table = os.path.join(folder, "table.json")
    what = f"{rollout} {swap} {scheme} {' '.join(more)}".strip()
    result = weft.ranks(4, "--model", MODELS, "--trainer", "fsdp:2", "--rollout", rollout, "--swap", swap, "--scheme", scheme,
                        "--updates", updates, "--tokens", "1", "--quiet", "--json", table, *more, timeout=60 + updates)
    if not t.code(result, 0, what):
        return
    with open(table) as file:
        found = json.load(file)
    versions = found["versions"]
    print(f"{what}: {len(versions)} updates, {found['steps']} steps in {result.seconds:.1f} s, "
          f"memory {found['rss_growth_bytes'] / (1 << 20):+.1f} MiB", flush=True)
    t.that(not result.messages, f"{what}: nothing to warn of", result)
    t.that([v["version"] for v in versions] == list(range(1, updates + 1)), f"{what}: every version", versions[:3])
    t.that(found["torn_steps"] == 0, f"{what}: no step torn", found["torn_steps"])
    t.that(found["failed_versions"] == 0 and not any(v["failed"] for v in versions), f"{what}: no version failed")
    t.that(all(v["payload_bytes"] == v["needed_bytes"] > 0 for v in versions), f"{what}: received what was needed, every time")
    # Of a replica that ran no step on a version, on a busy machine, nothing is counted; replicas take the same.
    most = max(v["payload_bytes"] for v in versions)
    t.that(all(v["payload_bytes"] and most % v["payload_bytes"] == 0 for v in versions), f"{what}: the same bytes every time")
    t.that(found["received_bytes"] == sum(v["payload_bytes"] for v in versions), f"{what}: the sum of it")
    steps = [v["at_step"] for v in versions]
    t.that(all(a < b for a, b in zip(steps, steps[1:])), f"{what}: a later step for each version", steps)
    # One step at least is decoded on each.
    t.that(found["steps"] >= steps[-1], f"{what}: the last version is used", (found["steps"], steps[-1]))
    t.that(found["rss_growth_bytes"] < growth_limit(updates), f"{what}: memory is flat", found["rss_growth_bytes"])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weft")
    parser.add_argument("updates", type=int, nargs="?", default=150)
    parser.add_argument("--scheme", help="of every case")
    parser.add_argument("--profile", help="of --scheme")
    arguments = parser.parse_args()
    if arguments.profile and not arguments.scheme:
        parser.error("--profile needs a --scheme")
    skip_unless(mpirun=True)
    with scratch("soak") as folder:
        t = Checks()
        profile = ("--profile", arguments.profile) if arguments.profile else ()
        for rollout, swap, scheme, more in CASES:
            check(t, Weft(arguments.weft), folder, arguments.updates, rollout, swap, arguments.scheme or scheme, more + profile)
        t.end()


main()
