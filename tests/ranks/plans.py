#!/usr/bin/python3
"""Plans of real models, from checkpoints of their exact shapes that take no disk.

    plans.py WEFT

Prints how long each took and in how much memory; asserts only what does not depend on the machine."""

import argparse
import json
import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from checkpoints import PUBLISHED, write_published  # noqa: E402
from command import Checks, Weft, scratch  # noqa: E402

MISFIT = 4
FIELDS = """model_type trainer rollout scheme profile hash trainer_ranks rollout_ranks tensors layers patterns rounds checkpoint_bytes
needed_bytes_total egress_bytes_total unique_bytes_total ingress_bytes_max egress_bytes_min egress_bytes_max kernel_bytes_max
staging_bytes least_budget_bytes routes sets communicators_max relay link_bytes_per_s nvlink_bytes_per_s hbm_bytes_per_s
ranks_per_node communicator_bytes amax_bytes node_bytes trainer_messages rollout_messages send_ms receive_ms pack_ms quantize_ms first_round_ms
copy_pause_ms limit predicted_ms""".split()


class Plans(Checks):
    def __init__(self, weft, folder):
        super().__init__()
        self.weft, self.folder = weft, folder

    def model(self, name):
        return write_published(name, os.path.join(self.folder, name))

    def plan(self, folder, trainer, rollout, scheme, *more):
        return self.weft("plan", folder, "--trainer", trainer, "--rollout", rollout, "--scheme", scheme, *more)

    def json(self, folder, *arguments):
        result = self.plan(folder, *arguments, "--json")
        if not self.code(result, 0, f"{os.path.basename(folder)} {' '.join(arguments)}"):
            return None
        return json.loads(result.out)

    def cost(self, folder, *arguments):
        """The plan for a person; print what it cost."""
        result = self.plan(folder, *arguments)
        what = f"{os.path.basename(folder)} {' '.join(arguments)}"
        if self.code(result, 0, what):
            planned = re.search(r"planned +(.*)", result.out)
            self.that(planned, f"{what}: says what planning cost", result)
            print(f"{what}: {planned.group(1)}; {result.seconds:.2f} s in all", flush=True)
        return result


def check_numbers(t, what, found, trainers, replicas, tp, checkpoint_bytes, tensors):
    """What must hold of any plan, against numbers that are known without it."""
    t.that(set(FIELDS) <= set(found), f"{what}: fields", sorted(found))
    t.that((found["trainer_ranks"], found["rollout_ranks"]) == (trainers, replicas * tp), f"{what}: ranks", found)
    t.that((found["tensors"], found["checkpoint_bytes"]) == (tensors, checkpoint_bytes), f"{what}: the whole checkpoint", found)
    t.that(found["egress_bytes_total"] == found["unique_bytes_total"], f"{what}: each slice leaves once", found)
    t.that(found["unique_bytes_total"] >= checkpoint_bytes, f"{what}: nothing is left out", found)
    low, high = found["egress_bytes_min"], found["egress_bytes_max"]
    t.that(low * trainers <= found["egress_bytes_total"] <= high * trainers, f"{what}: egress between least and most", found)
    t.that(found["ingress_bytes_max"] * replicas * tp >= found["needed_bytes_total"] >= replicas * checkpoint_bytes,
           f"{what}: ingress adds up", found)
    # Norms and the router go to every rank; the rest is cut.
    t.that(found["ingress_bytes_max"] <= checkpoint_bytes / tp * 1.02, f"{what}: a rank receives its part only", found)
    t.that(found["least_budget_bytes"] <= found["staging_bytes"] <= 256 << 20, f"{what}: staging within the budget", found)
    most = max(found["ingress_bytes_max"], found["egress_bytes_max"])
    slowest = max(found[stage + "_ms"] for stage in ("send", "receive", "pack", "quantize"))
    t.that(abs(max(found["send_ms"], found["receive_ms"]) - most / found["link_bytes_per_s"] * 1e3) < 0.01, f"{what}: time of the busiest link", found)
    t.that(found[found["limit"] + "_ms"] == slowest and abs(found["predicted_ms"] - slowest - found["first_round_ms"]) < 0.01,
           f"{what}: the longest stage and the first round", found)


def check_llama(t):
    folder, size, tensors = t.model("llama-3-70b")
    arguments = (folder, "fsdp:64", "tp:8x4", "fp8-block")
    t.cost(*arguments)
    once, again = t.json(*arguments), t.json(*arguments)
    if not once:
        return
    t.that(once == again, "llama-3-70b: two runs agree, hash included")
    check_numbers(t, "llama-3-70b", once, 64, 4, 8, size, tensors)
    t.that(t.json(folder, "fsdp:64", "tp:8x4", "bf16")["hash"] != once["hash"], "another scheme has another hash")
    t.that(t.json(*arguments, "--profile", "vllm")["hash"] != once["hash"], "another profile has another hash")
    t.that(t.json(*arguments, "--link", "100GB/s")["hash"] == once["hash"], "the link's speed is no part of the hash")
    one = t.json(folder, "fsdp:64", "tp:8", "fp8-block")
    t.that(one["egress_bytes_total"] == once["egress_bytes_total"], "replicas do not add to what leaves the trainers", (one, once))
    t.that(once["needed_bytes_total"] == 4 * one["needed_bytes_total"], "four replicas need four times", (one, once))


def check_one_copy(t):
    """One rank on each side: everything once."""
    folder, size, tensors = t.model("llama-3-70b")
    found = t.json(folder, "fsdp:1", "tp:1", "bf16")
    same = {found[name] for name in FIELDS if name.startswith(("needed", "egress", "unique", "ingress", "checkpoint", "kernel"))}
    t.that(same == {size} and found["tensors"] == tensors, "one to one in bf16: every number is the checkpoint's size", found)


def check_least_budget(t):
    """What the plan names as the least works, and a byte less is refused with the same number."""
    for trainer, rollout, scheme in (("fsdp:8", "tp:2", "fp8-block"), ("tp:2,dp:4", "tp:4", "fp8-channel"), ("pp:4,ep:2", "tp:4,ep", "bf16")):
        folder, _, _ = t.model("qwen3-30b-a3b")
        what = f"least budget, {trainer} to {rollout}, {scheme}"
        least = t.json(folder, trainer, rollout, scheme)["least_budget_bytes"]
        at_least = t.json(folder, trainer, rollout, scheme, "--budget", str(least))
        t.that(at_least and at_least["staging_bytes"] <= least, f"{what}: is kept", at_least)
        result = t.plan(folder, trainer, rollout, scheme, "--budget", least - 1)
        t.code(result, MISFIT, f"{what}: a byte less")
        t.that(f"{least} bytes" in result.err, f"{what}: is named", result)


def check_explain(t):
    folder, _, _ = t.model("qwen3-30b-a3b")
    layer = "model.layers.0.mlp.experts.w2"
    result = t.plan(folder, "fsdp:8", "tp:2,ep", "fp8-block", "--explain", layer)
    t.code(result, 0, "explain")
    t.that(layer + "_weight" in result.out and "experts 0 to 127" in result.out and "rows 0 to 2047" in result.out
           and "trainers 0 to 7, 256 rows each" in result.out, "explain: all experts alike, eight shards of 256 rows", result)
    wrong = t.plan(folder, "fsdp:8", "tp:2,ep", "fp8-block", "--explain", layer.replace("experts", "expert"))
    t.code(wrong, 2, "explain: a layer that is not there")
    t.that(layer in wrong.err, "explain: the nearest name", wrong)


def check_speeds(t):
    folder, _, _ = t.model("qwen3-30b-a3b")
    arguments = (folder, "fsdp:4", "tp:4", "bf16")
    slow, near = t.json(*arguments), t.json(*arguments, "--ranks-per-node", "8", "--nvlink", "500GB/s")
    t.that(near["node_bytes"] == near["egress_bytes_total"] and slow["node_bytes"] == 0, "one node: all stays in it", (slow, near))
    t.that(abs(near["send_ms"] * 10 - slow["send_ms"]) < 0.1, "one node: at the speed of the node", (slow, near))
    for option, value in (("--hbm", "fast"), ("--link", "-1GB/s"), ("--nvlink", "0"), ("--ranks-per-node", "x")):
        t.code(t.plan(*arguments, option, value), 2, f"{option} {value}")


def check_scale(t):
    """A trillion parameters between 384 ranks; what it costs is printed."""
    folder, size, tensors = t.model("trillion")
    arguments = (folder, "tp:8,pp:8,dp:4", "tp:16x8,ep", "fp8-block")
    t.cost(*arguments)
    found = t.json(*arguments)
    t.that(found and (found["tensors"], found["checkpoint_bytes"]) == (tensors, size), "trillion: the whole checkpoint", found)
    t.that(found and found["egress_bytes_total"] == found["unique_bytes_total"], "trillion: each slice leaves once", found)


def offered(result):
    """(rollout, scheme) of what a refusal says would fit."""
    text = " ".join(result.messages)
    for rollout in re.findall(r"tp:\d+(?:,ep)?(?![\w:])", text.split("these fit:")[-1]):
        yield rollout, "fp8-block"
    if "use fp8-channel" in text:
        yield re.search(r"rollout (\S+) with", text).group(1), "fp8-channel"


def check_misfit(t, name, trainer, rollout, *expected):
    folder, size, tensors = t.model(name)
    result = t.plan(folder, trainer, rollout, "fp8-block")
    if not t.code(result, MISFIT, f"{name} {rollout}"):
        return
    t.that(len(result.messages) == 1 and not result.out, f"{name} {rollout}: one message", result)
    t.that(all(word in result.err for word in ("experts", "128", *expected)), f"{name} {rollout}: says where and why", result)
    fitting = list(offered(result))
    t.that(len(fitting) > 2 and any(layout.endswith(",ep") for layout, _ in fitting), f"{name} {rollout}: says what fits", result)
    t.that((rollout, "fp8-block") not in fitting, f"{name} {rollout}: does not offer what it refused", fitting)
    for layout, scheme in fitting:
        t.code(t.plan(folder, trainer, layout, scheme), 0, f"{name}: {layout} {scheme} plans, as said")
    for tp in range(1, 17):
        fits = t.plan(folder, trainer, f"tp:{tp}", "fp8-block").code == 0
        t.that(fits == ((f"tp:{tp}", "fp8-block") in fitting), f"{name}: tp:{tp} is offered exactly when it plans")
    layout = max((layout for layout, scheme in fitting if scheme == "fp8-block" and "ep" not in layout), key=lambda layout: int(layout[3:]))
    arguments = (folder, trainer, layout + "x2", "fp8-block")
    t.cost(*arguments)
    check_numbers(t, f"{name} {layout}x2", t.json(*arguments), int(trainer[5:]), 2, int(layout[3:]), size, tensors)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weft")
    arguments = parser.parse_args()
    with scratch("plans") as folder:
        t = Plans(Weft(arguments.weft), folder)
        check_llama(t)
        check_one_copy(t)
        check_least_budget(t)
        check_explain(t)
        check_speeds(t)
        check_misfit(t, "qwen3-30b-a3b", "fsdp:8", "tp:4", "192", "leave 192")
        check_misfit(t, "qwen3-235b-a22b", "fsdp:32", "tp:8", "192", "leave 192")
        check_scale(t)
        for name in PUBLISHED:
            print(f"{name}: {os.path.getsize(os.path.join(folder, name, 'model.safetensors')) / 1e9:.1f} GB, "
                  f"{os.stat(os.path.join(folder, name, 'model.safetensors')).st_blocks * 512 / 1e6:.1f} MB on disk", flush=True)
        t.end()


main()
