#!/usr/bin/python3
"""Bad input ends in one message and the right exit code, never in a crash, a hang or half a result.

    refusals.py WEFT [--only TEXT]

Exits 77 when mpirun is missing."""

import argparse
import copy
import json
import os
import re
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from checkpoints import FILE, Checkpoint  # noqa: E402
from command import Checks, Weft, demo, scratch, skip_unless  # noqa: E402

OK, CHECK_FAILED, USAGE, ENVIRONMENT, PLAN, PEER = range(6)
IO = ENVIRONMENT  # a file that cannot be read or written

V1, V3, MOE = demo("tiny-qwen3", "v1"), demo("tiny-qwen3", "v3"), demo("tiny-qwen3-moe", "v1")
Q = "model.layers.0.self_attn.q_proj.weight"
NORM = "model.norm.weight"
NAN, INF = 0x7FC0, 0xFF80
LAYOUTS = ["--trainer", "fsdp:2", "--rollout", "tp:2"]
SHORT = ["--tokens", "2", "--quiet"]

OPTIONS = {
    "plan": "trainer rollout scheme profile engine recipe budget bucket max-groups link nvlink hbm ranks-per-node explain json help",
    "quantize": "scheme profile engine rollout format shard recipe help",
    "verify": "help",
    "gen": "list config recipe set random seed help",
    "coordinator": "bind control-port keys trainers rollouts tp state wait transfer-timeout verbose help",
    "join": "coordinator keys key-name rank model trainer rollout scheme recipe profile engine transport memory host timeout updates first rate pause swap step until grace dump verbose help",
    "keygen": "out client help",
    "doctor": "help",
    "run": "model load trainer rollout scheme recipe profile engine swap transport shared-gpu memory workers ctas budget bucket max-groups rate updates tokens pace prompt "
           "eval eval-bytes dump json trace host keys key-name grace quiet verbose help",
}


# ---- Checkpoints with something wrong: what is done to a copy, the exit code, and words that the message must have ----


DAMAGES = {}


def damaged(code, *words, second=False):
    """A decorator: `make(checkpoint)` changes a copy; what it returns replaces what write() would put. `second`: also
    tried under mpirun, as the first version and as the one after a good one, where other pieces of code meet it."""

    def keep(make):
        DAMAGES[make.__name__] = (make, code, words, second)
        return make

    return keep


def header_text(checkpoint):
    return json.dumps(checkpoint.header, separators=(",", ":")).encode()


@damaged(CHECK_FAILED, FILE, "bytes", second=True)
def data_cut_off(checkpoint):
    del checkpoint.data[-1000:]


@damaged(CHECK_FAILED, FILE, "header")
def header_cut_off(checkpoint):
    checkpoint.data.clear()
    return {"header": header_text(checkpoint)[:100], "header_length": 5000}


@damaged(CHECK_FAILED, FILE)
def empty_file(checkpoint):
    checkpoint.data.clear()
    return {"header": b"", "header_length": 0}


@damaged(CHECK_FAILED, FILE, "100")
def header_oversized(checkpoint):
    return {"header_length": 1 << 62}


@damaged(CHECK_FAILED, FILE, "JSON")
def header_malformed(checkpoint):
    return {"header": header_text(checkpoint)[:-2]}


@damaged(CHECK_FAILED, FILE)
def header_of_another_kind(checkpoint):
    return {"header": b"[1, 2, 3]"}


@damaged(CHECK_FAILED, FILE, Q)
def field_of_another_kind(checkpoint):
    checkpoint.header[Q]["shape"] = "512x256"


@damaged(CHECK_FAILED, FILE, Q, "dtype")
def field_missing(checkpoint):
    del checkpoint.header[Q]["dtype"]


@damaged(CHECK_FAILED, FILE, "overlap")
def overlap(checkpoint):
    first, second = checkpoint.names()[:2]
    begin, end = checkpoint.header[second]["data_offsets"]
    checkpoint.header[second]["data_offsets"] = [begin - 2, end - 2]


@damaged(CHECK_FAILED, FILE)
def hole(checkpoint):
    checkpoint.data[0:0] = bytes(64)
    for entry in checkpoint.header.values():
        entry["data_offsets"] = [offset + 64 for offset in entry["data_offsets"]]


@damaged(CHECK_FAILED, FILE)
def bytes_left_over(checkpoint):
    checkpoint.data += bytes(64)


@damaged(CHECK_FAILED, FILE, Q, "overflow")
def shape_overflows(checkpoint):
    checkpoint.header[Q]["shape"] = [1 << 40, 1 << 40]


@damaged(USAGE, FILE, Q, "BF17")
def dtype_unknown(checkpoint):
    checkpoint.header[Q]["dtype"] = "BF17"


@damaged(CHECK_FAILED, Q, second=True)
def tensor_missing(checkpoint):
    checkpoint.remove(Q)


@damaged(CHECK_FAILED, Q, "shape", second=True)
def shape_wrong(checkpoint):
    checkpoint.header[Q]["shape"] = checkpoint.shape(Q)[::-1]


@damaged(USAGE, "model.layers.0.self_attn.surplus.weight", second=True)
def tensor_unknown(checkpoint):
    checkpoint.append("model.layers.0.self_attn.surplus.weight", "BF16", [4, 4])


@damaged(CHECK_FAILED, "config.json", "JSON", second=True)
def config_not_json(checkpoint):
    return {"config": '{"model_type": "qwen3",'}


@damaged(CHECK_FAILED, "config.json", "object")
def config_of_another_kind(checkpoint):
    return {"config": "[]"}


@damaged(USAGE, "gpt_neo", "qwen3_moe", second=True)
def model_type_unknown(checkpoint):
    checkpoint.config["model_type"] = "gpt_neo"


@damaged(CHECK_FAILED, "num_attention_heads")
def config_lacks_a_number(checkpoint):
    del checkpoint.config["num_attention_heads"]


@damaged(CHECK_FAILED, "num_attention_heads")
def config_with_zero_heads(checkpoint):
    checkpoint.config["num_attention_heads"] = 0


# ---- What every refusal must hold ----


class Refusals(Checks):
    def __init__(self, weft, folder):
        super().__init__()
        self.weft, self.folder = weft, folder
        self.good = Checkpoint(V3)

    def path(self, name):
        return os.path.join(self.folder, name)

    def refused(self, what, result, code, *words, lines=1):
        """The exit code; one message (`lines` of it), from one rank, that has the words."""
        if not self.code(result, code, what):
            return
        said = " ".join(result.messages)
        for word in words:
            self.that(word in said, f"{what}: the message names {word}", result)
        self.that(len(result.messages) == lines, f"{what}: said, and once", result)
        self.that("weft run: " not in result.out and "weft plan: " not in result.out, f"{what}: said on stderr", result)
        self.that(not re.search(r"signal|Sanitizer|runtime error|assert", result.err), f"{what}: no crash", result)

    def make(self, name, change=None, **replaced):
        """A copy of the good checkpoint, changed."""
        checkpoint = copy.deepcopy(self.good)
        replaced.update((change(checkpoint) if change else None) or {})
        return checkpoint.write(self.path(name), **replaced)


def check_damages(t):
    for name, (make, code, words, second) in DAMAGES.items():
        folder = t.make(name, make)
        out = t.path("out")
        t.refused(f"plan, {name}", t.weft("plan", folder, *LAYOUTS), code, *words)
        t.refused(f"quantize, {name}", t.weft("quantize", folder, out, "--scheme", "fp8-block", "--rollout", "tp:2"), code, *words)
        t.that(not os.path.exists(out), f"quantize, {name}: writes nothing")
        if second:
            t.refused(f"run, {name}", t.weft.ranks(4, "--model", folder, *LAYOUTS, *SHORT), code, *words)
            after = t.weft.ranks(4, "--model", f"{V1},{folder}", *LAYOUTS, *SHORT)
            t.refused(f"run, {name} after a good one", after, code, name)
        os.remove(os.path.join(folder, FILE))


def check_directories(t):
    bare, fileless = t.make("bare"), t.make("fileless")
    os.remove(os.path.join(bare, "config.json"))
    os.remove(os.path.join(fileless, FILE))
    for name, folder, word in (("no directory", t.path("nowhere"), "nowhere"), ("no config.json", bare, "config.json"),
                               ("no safetensors", fileless, FILE), ("a file", os.path.join(V3, FILE), V3)):
        t.refused(f"plan, {name}", t.weft("plan", folder, *LAYOUTS), IO, word)
        t.refused(f"run, {name}", t.weft.ranks(4, "--model", folder, *LAYOUTS, *SHORT), IO, word)


# ---- NaN and Inf ----


def synced(t, what, expected, models, failed, *words, scheme="fp8-block", rollout="tp:2", lines=1):
    """Run over `models`, some of which must fail; what is served in the end is what quantize makes of `expected`."""
    dump, offline, table = t.path("dump"), t.path("offline"), t.path("table.json")
    result = t.weft.ranks(4, "--model", ",".join(models), "--trainer", "fsdp:2", "--rollout", rollout, "--scheme", scheme,
                          "--tokens", "2", "--quiet", "--dump", dump, "--json", table)
    t.refused(what, result, CHECK_FAILED, *words, lines=lines)
    if expected and t.that(os.path.exists(dump) and os.path.exists(table), f"{what}: the rollout went on", result):
        t.code(t.weft("quantize", expected, offline, "--scheme", scheme, "--rollout", rollout), OK, f"{what}, offline")
        t.code(t.weft("verify", dump, offline), OK, f"{what}: the good version serves on")
        with open(table) as file:
            found = json.load(file)
        t.that([v["failed"] for v in found["versions"]] == failed and found["torn_steps"] == 0 and
               found["failed_versions"] == sum(failed), f"{what}: the table says so", found)
    for folder in (dump, offline):
        for name in os.listdir(folder) if os.path.isdir(folder) else []:
            os.remove(os.path.join(folder, name))


def check_slow_replica(t):
    """A version is over before the second replica has decoded enough on the one before."""
    nan = t.make("slow", lambda c: c.poke(Q, 777, NAN))
    for swap in "flip", "layerwise":
        usual = ["--model", ",".join([V1, nan, V3]), "--trainer", "fsdp:1", "--rollout", "tp:1x2", "--scheme", "bf16", "--tokens",
                 "4", "--quiet", "--swap", swap]
        result = t.weft.mixed((2, usual), (1, [*usual, "--pace", "8"]), timeout=40)
        t.refused(f"NaN, a slow replica, {swap}", result, CHECK_FAILED, Q, "flat index 777")
        t.that("3 versions, 1 failed" in result.out, f"a slow replica, {swap}: goes on to the next version", result)


def check_nonfinite(t):
    nan = t.make("nan", lambda c: c.poke(Q, 777, NAN))
    # The second half of the rows is the second rank's.
    inf = t.make("inf", lambda c: c.poke(Q, 300 * 256 + 5, INF))
    norm = t.make("norm", lambda c: c.poke(NORM, 5, INF))
    synced(t, "NaN after a good version", V1, [V1, nan], [False, True], Q, "flat index 777", "nan")
    synced(t, "NaN in the first version", V3, [nan, V3], [True, False], Q, "flat index 777")
    synced(t, "NaN between two good ones", V3, [V1, nan, V3], [False, True, False], Q, "flat index 777")
    synced(t, "Inf on the second rank", V1, [V1, inf], [False, True], Q, f"flat index {300 * 256 + 5}")
    synced(t, "Inf in a norm, bf16", V1, [V1, norm], [False, True], NORM, "flat index 5", scheme="bf16")
    synced(t, "NaN, two replicas, fp8-channel", V1, [V1, nan], [False, True], Q, "flat index 777", scheme="fp8-channel",
           rollout="tp:1x2")
    synced(t, "nothing but NaN", None, [nan, nan], [True, True], Q, "flat index 777", lines=3)
    t.refused("quantize, NaN", t.weft("quantize", nan, t.path("out"), "--scheme", "fp8-block", "--rollout", "tp:2"),
              CHECK_FAILED, Q, "flat index 777")


# ---- Ranks that do not agree ----


def check_disagreement(t):
    """Every rank must end, whichever of them stands out and by what."""
    common = ["--model", V1, *LAYOUTS, *SHORT]
    nowhere = ["--model", t.path("nowhere"), *LAYOUTS, *SHORT]
    t.refused("another scheme", t.weft.mixed((3, common), (1, common + ["--scheme", "fp8-block"])), CHECK_FAILED, "plan")
    t.refused("another budget", t.weft.mixed((1, common), (3, common + ["--budget", "1MiB"])), CHECK_FAILED, "plan")
    t.refused("a rank without the checkpoint", t.weft.mixed((3, common), (1, nowhere), timeout=20), IO, "nowhere")
    t.refused("rank 0 without the checkpoint", t.weft.mixed((1, nowhere), (3, common), timeout=20), IO, "nowhere")
    t.refused("a rank with a wrong option", t.weft.mixed((3, common), (1, common + ["--nonsense"]), timeout=20), USAGE, "--nonsense")
    t.refused("a rank with another layout", t.weft.mixed((3, common), (1, common + ["--rollout", "tp:1"]), timeout=20), USAGE)


def check_process_count(t):
    for count in (1, 3, 5):
        t.refused(f"{count} processes for 4", t.weft.ranks(count, "--model", V1, *LAYOUTS), USAGE, "mpirun -n 4")


# ---- Plans that cannot be ----


def check_misfit(t):
    arguments = ["--rollout", "tp:4", "--scheme", "fp8-block"]
    planned = t.weft("plan", MOE, "--trainer", "fsdp:1", *arguments)
    t.refused("plan, experts cut inside a block", planned, PLAN, "experts", "64", "tp:1, tp:2", "fp8-channel")
    t.refused("quantize, experts cut inside a block", t.weft("quantize", MOE, t.path("out"), *arguments), PLAN, "tp:1, tp:2")
    t.refused("run, experts cut inside a block", t.weft.ranks(5, "--model", MOE, "--trainer", "fsdp:1", *arguments), PLAN, "tp:1, tp:2")
    for layout, scheme in re.findall(r"(tp:\d+(?:,ep)?)(?=,|;|$)|(?:use (fp8-\w+))", " ".join(planned.messages).split("these fit:")[-1]):
        rollout, scheme = layout or "tp:4", scheme or "fp8-block"
        t.code(t.weft("plan", MOE, "--trainer", "fsdp:1", "--rollout", rollout, "--scheme", scheme), OK, f"{rollout} {scheme} fits, as said")
    of = ["--trainer", "fsdp:1", "--rollout", "tp:1", "--scheme"]
    t.refused("a router that would be quantized", t.weft("plan", MOE, *of, "bf16; *.mlp.gate=fp8-block"), PLAN, "model.layers.0.mlp.gate", "never quantized")
    t.refused("a head that would be quantized", t.weft("quantize", V1, t.path("out"), *of[2:], "bf16; lm_head=fp8-channel"), PLAN, "lm_head", "never quantized")
    t.refused("norms that would be quantized", t.weft.ranks(2, "--model", V1, *of, "bf16; *norm*=fp8-channel"), PLAN, "norm", "never quantized")
    t.refused("parts of one layer that differ", t.weft("plan", V1, *of, "bf16; *.q_proj=fp8-block"), PLAN, "model.layers.0.self_attn.qkv_proj", "q_proj", "k_proj")
    t.refused("experts of one layer that differ", t.weft("plan", MOE, *of, "bf16; *.experts.1.*=fp8-block"), PLAN, "experts.w13", "experts.0.", "experts.1.")
    t.refused("one scheme of a map cut inside a block", t.weft("plan", MOE, "--trainer", "fsdp:1", "--rollout", "tp:4", "--scheme", "fp8-channel; *.w2=fp8-block"), PLAN,
              "tp:4 with fp8-block", "experts.w2", "fp8-channel instead of fp8-block")
    t.refused("heads that do not divide", t.weft("plan", V1, "--trainer", "fsdp:1", "--rollout", "tp:3"), PLAN, "tp:1, tp:2, tp:4")
    t.refused("trainer rows that do not divide", t.weft("plan", V1, "--trainer", "tp:3", "--rollout", "tp:1"), PLAN, "fsdp:N")


def check_budget(t):
    for layouts in (["--trainer", "fsdp:2", "--rollout", "tp:2"], ["--trainer", "tp:2,dp:2", "--rollout", "tp:1x2"]):
        for scheme in ("bf16", "fp8-block", "fp8-channel"):
            what = f"{' '.join(layouts[1::2])} {scheme}"
            plan = ["plan", V1, *layouts, "--scheme", scheme, "--budget"]
            refused = t.weft(*plan, "1KiB")
            t.refused(f"budget of 1 KiB, {what}", refused, PLAN, "least")
            least = int(re.search(r"least that works is (\d+)", refused.err).group(1))
            t.code(t.weft(*plan, least), OK, f"the least budget works, {what}")
            t.refused(f"a byte less, {what}", t.weft(*plan, least - 1), PLAN, str(least))
    least = re.search(r"least that works is (\d+)", t.weft("plan", V1, *LAYOUTS, "--budget", "1").err).group(1)
    t.code(t.weft.ranks(4, "--model", V1, *LAYOUTS, *SHORT, "--budget", least), OK, "run at the least budget")


# ---- Usage ----


def check_help(t):
    for arguments in ((), ("nonsense",)):
        result = t.weft(*arguments)
        t.code(result, USAGE, f"weft {' '.join(arguments)}")
        t.that(not result.out and "usage: weft COMMAND" in result.err, "usage on stderr", result)
    for flag in ("--help", "-h", "help"):
        result = t.weft(flag)
        t.code(result, OK, f"weft {flag}")
        t.that(not result.err and all(f"\n  {name} " in result.out for name in OPTIONS), f"weft {flag} lists the commands", result)
    version = t.weft("--version")
    t.that(version.code == OK and re.fullmatch(r"weft \d+\.\d+\.\d+\n", version.out), "weft --version", version)
    for command, names in OPTIONS.items():
        result = t.weft(command, "--help")
        t.code(result, OK, f"weft {command} --help")
        listed = re.findall(r"^  --([\w-]+)", result.out, re.M)
        t.that(listed == names.split() and not result.err, f"weft {command} --help names every option", result)
    helped = t.weft.ranks(3, "--help")
    t.that(helped.code == OK and helped.out.count("usage: weft run") == 1, "run --help is shown once", helped)


def check_usage(t):
    plan = ["plan", V1, *LAYOUTS]
    run = ["--model", V1, *LAYOUTS, *SHORT]
    for arguments, word in (
        (plan + ["--scheme", "fp9"], "fp8-block"), (plan + ["--scheme", "fp8-block", "--profile", "exact"], "vllm-pow2"),
        (plan + ["--profile", "vllm"], "profile"), (plan + ["--scheme", "fp8-block;"], "entry 2"), (plan + ["--scheme", "lm_head=bf16"], "fp8-block; lm_head=bf16"),
        (plan + ["--scheme", "bf16; lm_head"], "layers=scheme"), (plan + ["--scheme", "bf16; *.o_proj=fp9"], "fp8-block, fp8-channel"),
        (plan + ["--scheme", "bf16; *.experts.*=nvfp4"], "*.experts.*=nvfp4 matches no layer"), (plan + ["--engine", "vllm"], "vllm-hopper, vllm-blackwell, sglang"),
        (plan + ["--scheme", "bf16; *.o_proj=fp8-block:exact"], "vllm-pow2"), (plan + ["--scheme", "bf16; *.o_proj=fp8-block", "--profile", "ct"], "none has it of bf16, fp8-block"), (["plan", V1, "--trainer", "fsdp:0", "--rollout", "tp:1"], "fsdp"),
        (["plan", V1, "--trainer", "fsdp", "--rollout", "tp:1"], "fsdp"), (["plan", V1, "--trainer", "zz:2", "--rollout", "tp:1"], "zz"),
        (["plan", V1, "--trainer", "fsdp:2", "--rollout", "fsdp:2"], "tp:"), (["plan", V1, "--trainer", "fsdp:2", "--rollout", "tp:2x0"], "tp:2x0"),
        (["plan", V1, "--trainer", "fsdp:99999999999", "--rollout", "tp:2"], "fsdp"), (["plan", V1, "--trainer", "fsdp:2"], "--rollout"),
        (["plan", "--trainer", "fsdp:2", "--rollout", "tp:2"], "DIR"), (plan + ["more"], "more"), (plan + ["--nonsense"], "--nonsense"),
        (plan + ["-xy"], "-x"), (plan + ["--json=3"], "--json"), (plan + ["--budget"], "--budget"), (plan + ["--budget", "many"], "many"),
        (plan + ["--budget", "-1"], "-1"), (plan + ["--budget", "0"], "--budget"), (plan + ["--bucket", "0"], "--bucket"),
        (plan + ["--link", "0"], "--link"), (plan + ["--max-groups", "1.5"], "1.5"), (["quantize", V1, "--scheme", "bf16"], "OUT"),
        (plan + ["--scheme", "fp8-block@128x4"], "they can as plain, padded, marlin"), (plan + ["--scheme", "fp8-block:ieee@deepgemm"], "profile ieee"),
        (plan + ["--scheme", "bf16; *.o_proj=int4-group-32@"], "plain, marlin"), (plan + ["--scheme", "mxfp8@128"], "plain, 128x4"),
        (["quantize", V1, t.path("out"), "--rollout", "tp:1"], "--scheme"), (["verify", V1], "missing argument"),
    ):
        t.refused(" ".join(arguments).replace(V1, "V1"), t.weft(*arguments), USAGE, word)
    for more, word in (
        (["--swap", "swop"], "flip"), (["--transport", "pigeon"], "mpi"), (["--memory", "disk"], "cuda or host"), (["--scheme", "fp9"], "fp8-block"), (["--rollout", "tp"], "tp:"),
        (["--tokens"], "--tokens"), (["--tokens", "-3"], "-3"), (["--rate", "fast"], "fast"), (["--pace", "0"], "--pace"),
        (["--nonsense"], "--nonsense"), (["more"], "more"), (["--model", ","], "--model"),
    ):
        t.refused(f"run {' '.join(more)}", t.weft.ranks(4, *run, *more), USAGE, word)
    t.refused("run without layouts", t.weft.ranks(2, "--model", V1), USAGE, "--trainer")
    t.refused("run without mpirun", t.weft("run", *run), USAGE, "mpirun -n 4")


# ---- Files that are written and compared ----


def check_unwritable(t):
    """Found before the work, not after it, and what was done before is not lost."""
    taken = t.path("taken")
    open(taken, "w").close()
    run = ["--model", V1, *LAYOUTS, *SHORT]
    for option, path in (("--dump", taken), ("--dump", "/proc/weft"), ("--json", "/proc/weft"), ("--trace", "/proc/weft")):
        result = t.weft.ranks(4, *run, option, path)
        t.refused(f"run {option} {os.path.basename(path)}", result, IO, path)
        t.that("#version" not in result.out, f"run {option} {os.path.basename(path)}: found before the work", result)
    for option in ("--json", "--trace"):
        t.refused(f"run {option} on a disk that is full", t.weft.ranks(4, *run, option, "/dev/full"), IO, "/dev/full cannot be written whole: No space")
    t.refused("quantize onto a file", t.weft("quantize", V1, taken, "--scheme", "bf16", "--rollout", "tp:1"), IO, taken)
    for text in (t.path("none.txt"), taken):
        t.refused(f"run --eval {os.path.basename(text)}", t.weft.ranks(4, *run, "--eval", text), IO, text)


def check_verify(t):
    same, other, fewer = t.make("same"), t.make("other", lambda c: c.poke(Q, 777, 0x1234)), t.make("fewer", lambda c: c.remove(Q))
    reshaped = t.make("reshaped", lambda c: c.header[Q].update(shape=[256, 512]))
    equal = t.weft("verify", V3, same)
    t.that(equal.code == OK and "equal" in equal.out and not equal.err, "verify, equal directories", equal)
    equal = t.weft("verify", os.path.join(V3, FILE), os.path.join(same, FILE))
    t.that(equal.code == OK and "equal" in equal.out, "verify, equal files", equal)
    for name, folder, words in (("another byte", other, (Q, "element 777", "1554")), ("a tensor fewer", fewer, (Q, "only in the first")),
                                ("another shape", reshaped, (Q, "[512, 256]", "[256, 512]"))):
        result = t.weft("verify", V3, folder)
        t.that(result.code == CHECK_FAILED and all(word in result.out for word in words) and "DIFFERENT" in result.out,
               f"verify, {name}", result)
    swapped = t.weft("verify", fewer, V3)
    t.that(swapped.code == CHECK_FAILED and "only in the second" in swapped.out, "verify, a tensor more", swapped)
    cut = t.make("cut", DAMAGES["data_cut_off"][0])
    t.refused("verify, a truncated file", t.weft("verify", V3, cut), CHECK_FAILED, "cut")
    for name, a, b, word in (("a missing directory", V3, t.path("none"), "none"), ("a missing file", t.path("none"), os.path.join(V3, FILE), "none"),
                             ("a directory and a file", V3, os.path.join(V3, FILE), V3), ("no safetensors in it", t.folder, V3, t.folder)):
        t.refused(f"verify, {name}", t.weft("verify", a, b), IO, word)


FIELDS = {"trainer", "rollout", "scheme", "profile", "swap", "steps", "torn_steps", "failed_versions", "sent_bytes", "received_bytes",
          "needed_bytes", "staging_bytes", "rss_growth_bytes", "versions"}
VERSION_FIELDS = {"version", "failed", "payload_bytes", "needed_bytes", "wire_bytes", "receive_us", "quantize_us", "update_us", "swap_us",
                  "pause_us", "tokens_during", "at_step", "bits_per_byte"}


def check_json(t):
    table, trace = t.path("table.json"), t.path("trace.json")
    result = t.weft.ranks(4, "--model", f"{V1},{V3}", *LAYOUTS, *SHORT, "--json", table, "--trace", trace)
    t.code(result, OK, "a run that succeeds")
    t.that(not result.messages, "a run that succeeds says nothing on stderr", result)
    with open(table) as file:
        found = json.load(file)
    t.that(FIELDS <= set(found), "fields of --json", found)
    t.that(len(found["versions"]) == 2 and all(VERSION_FIELDS <= set(v) for v in found["versions"]), "fields of a version", found)
    t.that(found["steps"] >= 4 and found["torn_steps"] == found["failed_versions"] == 0, "no step torn, no version failed", found)
    t.that(found["received_bytes"] == found["needed_bytes"] == sum(v["payload_bytes"] for v in found["versions"]), "each byte needed came once", found)
    with open(trace) as file:
        events = json.load(file)["traceEvents"]
    t.that({event["pid"] for event in events} == set(range(4)), "a timeline of every rank", events[:8])
    t.that(all(event["dur"] >= 0 for event in events if event["ph"] == "X"), "spans end after they begin")


GROUPS = [check_help, check_usage, check_json, check_verify, check_misfit, check_budget, check_process_count, check_disagreement,
          check_unwritable, check_directories, check_nonfinite, check_slow_replica, check_damages]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weft")
    parser.add_argument("--only", default="", help="groups whose name has this in it")
    arguments = parser.parse_args()
    skip_unless(mpirun=True)
    with scratch("refusals") as folder:
        t = Refusals(Weft(arguments.weft), folder)
        for group in GROUPS:
            if arguments.only in group.__name__:
                before = t.count, len(t.failures)
                group(t)
                print(f"{group.__name__}: {t.count - before[0]} checks, {len(t.failures) - before[1]} failures", flush=True)
        t.end()


main()
