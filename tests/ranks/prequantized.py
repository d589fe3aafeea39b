#!/usr/bin/python3
"""Checkpoints that are quantized already, as input: kernel-format files made of them are those made of the checkpoint they
were made of, byte for byte; a sync and a load of them too; and what does not fit is refused.

    prequantized.py WEFT [--only TEXT]
    prequantized.py WEFT --transport NAME [--options WORDS]      the syncs and loads alone, over it

Exits 77 when NumPy or mpirun is missing."""

import argparse
import json
import os
import shutil
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "support"), os.path.join(HERE, "..", "oracle")]
from command import Checks, Weft, demo, needs_gpu, scratch, skip_unless  # noqa: E402

skip_unless(numpy=True, mpirun=True)
import numpy as np  # noqa: E402
import checkpoint as oracle  # noqa: E402
import quantized  # noqa: E402
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


def check_casts(checks, weft, work):
    """What is not quantized there is cast as the map says."""
    source, scheme = demo("tiny-qwen3", "v1"), "fp8-block; lm_head=fp32; layers.0.*norm*=fp16"
    stored, direct, moved = (os.path.join(work, name) for name in ("cast-stored", "cast-direct", "cast-moved"))
    checks.code(weft("quantize", source, stored, "--scheme", "fp8-block", "--format", "checkpoint"), OK, "casts")
    for folder, out in ((source, direct), (stored, moved)):
        checks.code(weft("quantize", folder, out, "--scheme", scheme, "--rollout", "tp:2"), OK, f"casts, from {folder}")
    checks.that(files(direct) == files(moved), "casts beside what is moved: byte for byte", weft("verify", direct, moved))


# ---- as ModelOpt writes them ----


MODELOPT = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"], "producer": {"name": "modelopt"},
            "kv_cache_scheme": {"dynamic": False, "num_bits": 8, "type": "float"},
            "config_groups": {"group_0": {"weights": {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16},
                                          "input_activations": {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16}}}}


def modelopt_tensors(source):
    """-> the configuration, and tensors such as ModelOpt's: numbers of no dimension, scales of activations and of the KV cache among
    them."""
    expected, tensors = quantized.Expected(source, "nvfp4", "modelopt"), {}
    one = np.array(1.5, np.float32)
    for name, (dtype, array) in expected.source.items():
        if name not in expected.quantized:
            tensors[name] = (dtype, np.asarray(array))
            continue
        module = quantized.module_of(name)
        codes = expected.scheme.quantize(np.asarray(array), expected.amax[quantized.layer_of(name)])
        for _, tensor, kind, values in oracle.emit(expected.scheme, 0, module + ".", codes):
            tensors[tensor] = (kind, values.reshape(()) if tensor.endswith("_2") else values)
        tensors[module + ".input_scale"] = ("F32", one)
        for part, scale in (("k_proj", "k_scale"), ("v_proj", "v_scale")):
            if module.endswith(part):
                tensors[f"{module}.{scale}"] = ("F32", one)
    return expected.config, tensors


def modelopt_folder(folder, config, tensors, how):
    os.makedirs(folder)
    tensor_file.write(os.path.join(folder, "model.safetensors"), tensors)
    with open(os.path.join(folder, "config.json"), "w") as text:
        json.dump({**config, "quantization_config": how}, text)
    return folder


def check_modelopt(checks, weft, work):
    source = scaled.write("qwen3-moe", os.path.join(work, "modelopt-source"), 7, tensor_file)
    config, tensors = modelopt_tensors(source)
    stored = modelopt_folder(os.path.join(work, "modelopt"), config, tensors, MODELOPT)
    how = ["--profile", "modelopt", "--rollout"]
    for layout in LAYOUTS:
        direct, moved = os.path.join(work, "m-direct"), os.path.join(work, "m-moved")
        checks.code(weft("quantize", source, direct, "--scheme", "nvfp4", *how, layout), OK, f"modelopt {layout}")
        checks.code(weft("quantize", stored, moved, *how, layout), OK, f"modelopt {layout}")
        checks.that(files(direct) == files(moved), f"modelopt {layout}: byte for byte", weft("verify", direct, moved))
        if layout == "tp:2":
            options = ["--model", stored, "--profile", "modelopt", "--trainer", "fsdp:2", "--rollout", layout, "--tokens", 0, "--quiet"]
            dump = os.path.join(work, "m-dump")
            checks.code(weft.ranks(4, *options, "--dump", dump), OK, "modelopt: sync")
            checks.code(weft("verify", direct, dump), OK, "modelopt: sync, byte for byte")
        for folder in (direct, moved):
            shutil.rmtree(folder, ignore_errors=True)
    experts = "model.layers.1.mlp.experts.2."
    for what, says, has, code, words in (
            ("another algorithm", {**MODELOPT, "quant_algo": "MIXED_PRECISION"}, {}, CHECK_FAILED, ["MIXED_PRECISION", "NVFP4"]),
            ("another group", {**MODELOPT, "config_groups": {"group_0": {"weights": {"group_size": 32}}}}, {}, CHECK_FAILED, ["32", "16"]),
            ("two groups", {**MODELOPT, "config_groups": {"group_0": {}, "group_1": {}}}, {}, CHECK_FAILED, ["2 groups"]),
            ("no number", MODELOPT, {Q + ".weight_scale_2": None}, CHECK_FAILED, [Q + ".weight_scale_2", "not in the checkpoint"]),
            ("two numbers", MODELOPT, {experts + "up_proj.weight_scale_2": ("F32", np.array(3, np.float32))}, PLAN,
             [experts + "up_proj.weight_scale_2", "differ"])):
        changed_tensors = {name: entry for name, entry in {**tensors, **has}.items() if entry}
        bad = modelopt_folder(os.path.join(work, "m-bad"), config, changed_tensors, says)
        result = weft("quantize", bad, os.path.join(work, "out"), "--rollout", "tp:1")
        checks.code(result, code, f"modelopt, {what}")
        checks.that(all(word in result.err for word in words), f"modelopt, {what}: {words}", result)
        shutil.rmtree(bad)


# ---- over a transport, and from disk ----


def check_ranks(checks, weft, work, transport):
    """trainer, its ranks, rollout, its ranks"""
    dense, experts = demo("tiny-qwen3", "v1"), demo("tiny-qwen3-moe", "v1")
    syncs = ((dense, "fp8-block", "fsdp:3", 3, "tp:2", 2, []), (dense, "int4-group-64", "tp:2", 2, "tp:1", 1, ["--max-groups", 0]),
             (experts, "nvfp4", "ep:2", 2, "tp:2", 2, []), (experts, "fp8-tensor", "fsdp:2", 2, "tp:2,ep", 2, ["--swap", "copy"]),
             (experts, "int8-channel", "tp:2", 2, "tp:2", 2, ["--swap", "layerwise"]))
    for i, (source, scheme, trainer, trainers, rollout, rollouts, more) in enumerate(syncs):
        stored, direct, what = os.path.join(work, f"c{i}"), os.path.join(work, f"k{i}"), f"{scheme} {trainer} to {rollout}"
        checks.code(weft("quantize", source, stored, "--scheme", scheme, "--format", "checkpoint"), OK, what)
        checks.code(weft("quantize", source, direct, "--scheme", scheme, "--rollout", rollout), OK, what)
        layouts = ["--trainer", trainer, "--rollout", rollout, "--tokens", 2, "--quiet", *transport]
        runs = (("sync", stored, [], ["--model", stored]),
                ("load, a session of the same", stored, ["--updates", 0], ["--load", stored, "--model", stored]),
                ("load, a session that quantizes", source, ["--updates", 0], ["--load", stored, "--model", source, "--scheme", scheme]),
                ("load of high precision", source, ["--updates", 0], ["--load", source, "--model", stored, "--scheme", scheme]))
        for name, _, ends, options in runs[: 4 if i < 3 else 1]:
            dump = os.path.join(work, f"d{i}-{name.split()[-1]}")
            checks.code(weft.ranks(trainers + rollouts, *options, *layouts, *ends, *more, "--dump", dump), OK, f"{what}: {name}")
            checks.code(weft("verify", direct, dump), OK, f"{what}: {name}, byte for byte")
            shutil.rmtree(dump, ignore_errors=True)


# ---- what is refused ----


def changed(folder, work, name, change):
    """A copy of a checkpoint of one file, its configuration and tensors changed in place."""
    (file,) = (f for f in os.listdir(folder) if f.endswith(".safetensors"))
    tensors = {key: (dtype, np.array(array)) for key, (dtype, array) in tensor_file.read(os.path.join(folder, file)).items()}
    config = json.load(open(os.path.join(folder, "config.json")))
    change(config["quantization_config"], tensors)
    out = os.path.join(work, name)
    os.makedirs(out)
    tensor_file.write(os.path.join(out, "model.safetensors"), tensors)
    with open(os.path.join(out, "config.json"), "w") as text:
        json.dump(config, text)
    return out


Q, O = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.o_proj"


def drop(name):
    return lambda config, tensors: tensors.pop(name)


def put(name, dtype, array):
    return lambda config, tensors: tensors.__setitem__(name, (dtype, array))


def say(**fields):
    return lambda config, tensors: config.update(fields)


def of_group(**fields):
    return lambda config, tensors: config["config_groups"]["group_0"]["weights"].update(fields)


def scale_of(name, value):
    def change(config, tensors):
        dtype, array = tensors[name]
        array.reshape(-1)[0] = value
    return change


# scheme, what is changed, exit code, words of the message
BAD = (
    ("fp8-block", drop(Q + ".weight_scale_inv"), CHECK_FAILED, [Q + ".weight_scale_inv", "not in the checkpoint", "fp8-block"]),
    ("fp8-block", drop(Q + ".weight"), CHECK_FAILED, [Q + ".weight", "not in the checkpoint"]),
    ("fp8-block", put(O + ".weight_scale_inv", "F32", np.ones((1, 2), np.float32)), CHECK_FAILED, [O, "[1, 2]", "expected [2, 4]"]),
    ("fp8-block", put(O + ".weight_scale_inv", "I32", np.ones((2, 4), np.int32)), CHECK_FAILED, [O, "I32", "expected F32"]),
    ("fp8-block", scale_of(O + ".weight_scale_inv", np.inf), CHECK_FAILED, [O + ".weight_scale_inv", "NaN or Inf", "index 0"]),
    ("fp8-block", put(Q + ".extra", "F32", np.ones(1, np.float32)), USAGE, [Q + ".extra", "not known"]),
    ("fp8-block", say(weight_block_size=[64, 128]), CHECK_FAILED, ["weight_block_size", "[128, 128]"]),
    ("fp8-block", say(activation_scheme="static"), CHECK_FAILED, ["activation_scheme", "static"]),
    ("fp8-block", say(quant_method="gptq"), CHECK_FAILED, ["gptq", "compressed-tensors"]),
    ("fp8-channel", of_group(strategy="block"), CHECK_FAILED, ["strategy \"block\"", "float-quantized channel (fp8-channel)"]),
    ("fp8-channel", of_group(symmetric=False), CHECK_FAILED, ["asymmetrically"]),
    ("fp8-channel", lambda c, t: c["config_groups"].update(group_1={}), CHECK_FAILED, ["2 groups"]),
    ("int4-group-64", of_group(group_size=128), CHECK_FAILED, ["weight_scale", "expected"]),
    ("int4-group-64", put(Q + ".weight_shape", "I64", np.array([7, 256])), CHECK_FAILED, [Q + ".weight_shape", "7 x 256"]),
    ("int4-group-64", drop(Q + ".weight_shape"), CHECK_FAILED, [Q + ".weight_shape", "not in the checkpoint"]),
    ("fp8-tensor", scale_of(Q.replace("q_proj", "k_proj") + ".weight_scale", 3), PLAN, ["q_proj.weight_scale", "k_proj.weight_scale", "differ"]),
    ("nvfp4", scale_of(Q.replace("q_proj", "v_proj") + ".weight_global_scale", 3), PLAN, ["v_proj.weight_global_scale", "differ"]),
)


def check_refusals(checks, weft, work):
    stored, v1 = {}, demo("tiny-qwen3", "v1")
    for scheme in sorted({row[0] for row in BAD}):
        stored[scheme] = os.path.join(work, "good-" + scheme)
        checks.code(weft("quantize", v1, stored[scheme], "--scheme", scheme, "--format", "checkpoint"), OK, scheme)
    for i, (scheme, change, code, words) in enumerate(BAD):
        bad = changed(stored[scheme], work, f"bad{i}", change)
        result = weft("quantize", bad, os.path.join(work, "out"), "--rollout", "tp:1")
        checks.code(result, code, f"{scheme} {i}")
        checks.that(all(word in result.err for word in words), f"{scheme}: {words}", result)
        shutil.rmtree(bad)
    same = changed(stored["fp8-block"], work, "same", lambda config, tensors: None)
    checks.code(weft("quantize", same, os.path.join(work, "same-out"), "--rollout", "tp:1"), OK, "nothing changed")
    plan = ["plan", stored["fp8-block"], "--trainer", "fsdp:1", "--rollout", "tp:1"]
    for options, code, words in (
            (["--scheme", "int4-group-128"], PLAN, ["quantized as fp8-block", "int4-group-128 is asked for"]),
            (["--scheme", "fp8-block; *.o_proj=bf16"], PLAN, ["o_proj", "quantized as fp8-block", "bf16 is asked for"]),
            (["--scheme", "fp8-block:pow2@deepgemm"], PLAN, ["plain", "deepgemm"]),
            (["--rollout", "tp:8"], PLAN, ["does not fit"]),
            (["--trainer", "tp:8"], PLAN, ["trainer tp:8 does not fit"])):
        result = weft(*plan, *options)
        checks.code(result, code, f"plan {options}")
        checks.that(all(word in result.err for word in words), f"plan {options}", result)
    result = weft("quantize", stored["fp8-block"], os.path.join(work, "twice"), "--format", "checkpoint")
    checks.code(result, CHECK_FAILED, "a checkpoint of one")
    checks.that("quantization_config" in result.err, "a checkpoint of one: the message", result)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("weft")
    arguments.add_argument("--only", default="", metavar="TEXT", help="models whose name holds TEXT")
    arguments.add_argument("--transport", metavar="NAME")
    arguments.add_argument("--options", default="", metavar="WORDS", help="of weft run, too")
    options = arguments.parse_args()
    skip_unless(gpu=needs_gpu(options.transport, options.options))
    checks, weft = Checks(), Weft(options.weft)
    transport = ["--transport", options.transport or "mpi", *options.options.split()]
    with scratch("prequantized") as work:
        if options.transport is None:
            check_models(checks, weft, work, options.only)
        if not options.only:
            check_casts(checks, weft, work)
            check_modelopt(checks, weft, work)
            check_ranks(checks, weft, work, transport)
        if not options.only and options.transport is None:
            check_refusals(checks, weft, work)
    checks.end()


if __name__ == "__main__":
    main()
