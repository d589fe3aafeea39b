#!/usr/bin/python3
"""What `weft quantize --format checkpoint` writes: each tensor as the formulas have it under the checkpoint's own name, an index
and files that agree, the source's configuration with what says how it is quantized; whole, or not there at all.

    quantized.py WEFT [--only TEXT]

tests/packages reads such folders with the packages that engines use. Exits 77 when NumPy is missing."""

import argparse
import json
import os
import shutil
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "support"), os.path.join(HERE, "..", "oracle")]
from command import Checks, Weft, demo, scratch, skip_unless  # noqa: E402

skip_unless(numpy=True)
import numpy as np  # noqa: E402
import checkpoint as oracle  # noqa: E402
import quantize  # noqa: E402
import scaled  # noqa: E402
import tensor_file  # noqa: E402

OK, CHECK_FAILED, USAGE, ENVIRONMENT, PLAN = range(5)
INDEX = "model.safetensors.index.json"
SHARD = 300_000  # bytes

# Parts of one layer in an engine: a scale that spans a layer is theirs together.
TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("w1", "w3"), ("q_a_proj", "kv_a_proj_with_mqa"))
KEPT = ("embed_tokens", "lm_head", "norm", "layernorm", "mlp.gate", "block_sparse_moe.gate", "kv_b_proj")

# scheme, profile, what its configuration says
SCHEMES = (
    ("bf16", "default", None),
    ("fp16", "default", None),
    ("fp32", "default", None),
    ("fp8-block", "ieee", "fp8"),
    ("fp8-block", "pow2", "fp8"),
    ("fp8-channel", "default", "float-quantized"),
    ("fp8-tensor", "default", "float-quantized"),
    ("int8-channel", "ct", "int-quantized"),
    ("int4-group-32", "ieee", "pack-quantized"),
    ("int4-group-64", "qat", "pack-quantized"),
    ("int4-group-128", "ct", "pack-quantized"),
    ("mxfp8", "default", "mxfp8-quantized"),
    ("mxfp4", "default", "mxfp4-pack-quantized"),
    ("nvfp4", "default", "nvfp4-pack-quantized"),
)
CASTS = {"fp16": ("F16", "float16"), "fp32": ("F32", "float32")}  # to another dtype than the source's: safetensors', transformers'
ON_EVERY_MODEL = ("bf16", "int4-group-32", "nvfp4")  # no scale; its own shape; a number for the parts of a layer
MODELS = ("qwen3-tied", "qwen2", "mixtral", "deepseek-v3", "phi3", "qwen3-moe")
ALL_SCHEMES_OF = "qwen3-moe"


# ---- What is expected ----


def module_of(name):
    return name.removesuffix(".weight")


def is_quantized(name, array):
    return array.ndim == 2 and name.endswith(".weight") and not module_of(name).endswith(KEPT)


def layer_of(name):
    """A name for all tensors of a layer."""
    prefix, _, part = module_of(name).rpartition(".")
    return (prefix, next((group for group in TOGETHER if part in group), part))


class Expected:
    """The tensors that a folder must hold, by way of the formulas."""

    def __init__(self, source, scheme, profile):
        self.config = json.load(open(os.path.join(source, "config.json")))
        self.scheme = oracle.Scheme(scheme, profile)
        self.source = {name: entry for name, entry in tensor_file.read(os.path.join(source, "model.safetensors")).items()
                       if not self.left_out(name)}
        self.quantized = [name for name, (_, array) in self.source.items() if self.scheme.grid and is_quantized(name, array)]
        self.amax = {}
        for name in self.quantized:
            found = quantize.amax_of([self.source[name][1]])
            self.amax[layer_of(name)] = max(found, self.amax.get(layer_of(name), found))

    def left_out(self, name):
        ahead = f"model.layers.{self.config['num_hidden_layers']}."
        return name.startswith(ahead) or (name == "lm_head.weight" and self.config.get("tie_word_embeddings"))

    @property
    def ignored(self):
        kept = {module_of(name) for name, (_, array) in self.source.items() if array.ndim == 2 and name not in self.quantized}
        return kept | {"lm_head"}

    def tensors(self):
        for name, (dtype, array) in self.source.items():
            if name not in self.quantized:
                dtype = CASTS.get(self.scheme.name, (dtype,))[0]
                yield name, dtype, quantize.cast(np.asarray(array), dtype)
                continue
            amax = self.amax[layer_of(name)]
            codes = self.scheme.quantize(np.asarray(array), amax if self.scheme.name in oracle.SPANNING else None)
            for _, tensor, kind, values in oracle.emit(self.scheme, 0, module_of(name) + ".", codes):
                yield from self.as_stored(module_of(name), tensor, kind, values, amax)

    def as_stored(self, module, tensor, kind, values, amax):
        """compressed-tensors packs nvfp4 under the name of packed weights, and stores what to divide by."""
        if self.scheme.name == "nvfp4" and tensor == module + ".weight":
            yield module + ".weight_packed", kind, values
        elif tensor.endswith("_scale_2"):
            divisor = np.float32(1) if amax == 0 else min(np.float32(2688) / amax, quantize.FLT_MAX)
            yield module + ".weight_global_scale", "F32", np.array([divisor], np.float32)
        else:
            yield tensor, kind, values


# ---- What is found ----


def check_files(checks, what, out):
    """The index and the files agree; each has as much as it may. -> the tensors"""
    index = json.load(open(os.path.join(out, INDEX)))
    files = sorted(set(index["weight_map"].values()))
    tensors, largest = {}, 0
    for file in files:
        held = tensor_file.read(os.path.join(out, file))
        checks.that(all(index["weight_map"].get(name) == file for name in held), f"{what}: the index places what {file} holds")
        tensors.update(held)
        modules = {name.rpartition(".")[0] for name in held}
        if len(modules) > 1:
            largest = max(largest, sum(array.nbytes for _, array in held.values()))
    checks.that(tensors.keys() == index["weight_map"].keys(), f"{what}: the index names what there is")
    checks.that(largest <= SHARD and len(files) > 1, f"{what}: files of at most {SHARD} bytes", f"{largest} in {len(files)} files")
    checks.that(index["metadata"]["total_size"] == sum(array.nbytes for _, array in tensors.values()), f"{what}: total_size")
    on_disk = {name for name in os.listdir(out) if name.endswith(".safetensors")}
    checks.that(on_disk == set(files), f"{what}: no other files", f"{on_disk ^ set(files)}")
    return tensors


def check_tensors(checks, what, expected, found):
    wanted = set()
    for name, dtype, array in expected.tensors():
        wanted.add(name)
        kind, values = found.get(name, (None, np.zeros(0)))
        same = kind == dtype and values.shape == array.shape and np.array_equal(np.ascontiguousarray(values).view(np.uint8),
                                                                                 np.ascontiguousarray(array).view(np.uint8))
        checks.that(same, f"{what}: {name}", f"found {kind} {values.shape}, expected {dtype} {array.shape}")
    checks.that(wanted == found.keys(), f"{what}: the names", f"{sorted(wanted ^ found.keys())[:5]}")


def check_config(checks, what, expected, out, says):
    config = json.load(open(os.path.join(out, "config.json")))
    how = config.pop("quantization_config", None)
    as_cast = {"torch_dtype": CASTS[expected.scheme.name][1]} if expected.scheme.name in CASTS else {}
    checks.that(config == {**expected.config, **as_cast}, f"{what}: the rest of config.json is the source's")
    if not says:
        checks.that(how is None, f"{what}: nothing says that it is quantized")
        return
    method = "fp8" if says == "fp8" else "compressed-tensors"
    ignored = how["modules_to_not_convert" if says == "fp8" else "ignore"]
    checks.that(how["quant_method"] == method, f"{what}: quant_method", how)
    checks.that(says in (how["quant_method"], how.get("format")), f"{what}: format", how)
    checks.that(set(ignored) == expected.ignored and len(ignored) == len(set(ignored)), f"{what}: what is ignored",
                f"{sorted(set(ignored) ^ expected.ignored)}")
    checks.that((how.get("scale_fmt") == "ue8m0") == (expected.scheme.profile == "pow2"), f"{what}: scale_fmt", how)


def check_model(checks, weft, source, model, schemes, work):
    recipe = ["--recipe", scaled.RECIPES[model]] if model in scaled.RECIPES else []
    for scheme, profile, says in schemes:
        what, out = f"{model} {scheme} {profile}", os.path.join(work, f"{model}-{scheme}-{profile}")
        chosen = [] if profile == "default" else ["--profile", profile]
        result = weft("quantize", source, out, "--scheme", scheme, "--format", "checkpoint", "--shard", SHARD, *chosen, *recipe)
        if checks.code(result, OK, what):
            expected = Expected(source, scheme, profile)
            check_tensors(checks, what, expected, check_files(checks, what, out))
            check_config(checks, what, expected, out, says)
        shutil.rmtree(out, ignore_errors=True)


# ---- What is refused, and what stays ----


def refused(checks, weft, work, what, code, words, source, *options, out="refused"):
    """It says why, and leaves nothing behind."""
    before = sorted(os.listdir(work))
    result = weft("quantize", source, os.path.join(work, out), "--format", "checkpoint", *options)
    checks.code(result, code, what)
    checks.that(all(word in result.err for word in words), f"{what}: the message", result)
    checks.that(sorted(os.listdir(work)) == before, f"{what}: nothing is left", f"{sorted(os.listdir(work))}")


def copy_with(source, folder, change):
    """A copy, its configuration and tensors changed in place."""
    tensors = tensor_file.read(os.path.join(source, "model.safetensors"))
    config = json.load(open(os.path.join(source, "config.json")))
    tensors = {name: (dtype, np.array(array)) for name, (dtype, array) in tensors.items()}
    change(config, tensors)
    os.makedirs(folder)
    tensor_file.write(os.path.join(folder, "model.safetensors"), tensors)
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump(config, file)
    return folder


def check_refusals(checks, weft, work):
    v1 = demo("tiny-qwen3", "v1")
    fp8 = ("--scheme", "fp8-block")
    last = "model.layers.4.mlp.down_proj.weight"  # when most is written

    def put_nan(config, tensors):
        tensors[last][1][3, 5] = 0x7FC0

    def put_large(config, tensors):
        tensors[last][1][3, 5] = 0xC780  # -65536

    def say_quantized(config, tensors):
        config["quantization_config"] = {"quant_method": "fp8"}

    nan = copy_with(v1, os.path.join(work, "nan"), put_nan)
    large = copy_with(v1, os.path.join(work, "large"), put_large)
    again = copy_with(v1, os.path.join(work, "again"), say_quantized)
    models = {name: scaled.write(name, os.path.join(work, name), 3, tensor_file) for name in ("gpt-oss", "qwen3-moe-stacked")}
    os.mkdir(os.path.join(work, "there"))
    refused(checks, weft, work, "a NaN", CHECK_FAILED, [last, "NaN"], nan, *fp8)
    refused(checks, weft, work, "what fp16 cannot hold", CHECK_FAILED, [last, "too large for fp16", "index 3077"], large, "--scheme", "fp16")
    refused(checks, weft, work, "an empty folder in its place", ENVIRONMENT, ["there", "exists"], v1, *fp8, out="there")
    refused(checks, weft, work, "no folder to be in", ENVIRONMENT, ["none/out"], v1, *fp8, out="none/out")
    refused(checks, weft, work, "quantized already", CHECK_FAILED, ["quantization_config"], again, *fp8)
    refused(checks, weft, work, "ranks", USAGE, ["whole"], v1, *fp8, "--rollout", "tp:2")
    refused(checks, weft, work, "modelopt", USAGE, ["divisor"], v1, "--scheme", "nvfp4", "--profile", "modelopt")
    refused(checks, weft, work, "transposed experts", PLAN, ["gate_up_proj", "transposed"], models["gpt-oss"], *fp8)
    refused(checks, weft, work, "experts in one tensor", PLAN, ["gate_up_proj", "by name"], models["qwen3-moe-stacked"], *fp8)
    refused(checks, weft, work, "another format", USAGE, ["kernel or checkpoint"], v1, *fp8, "--format", "gguf")
    result = weft("quantize", v1, os.path.join(work, "k"), *fp8, "--rollout", "tp:1", "--shard", "1MB")
    checks.code(result, USAGE, "--shard of kernel files")


def check_companions(checks, weft, work):
    """What engines read beside weights is copied, links followed; what they would read instead of the weights is not."""
    source, out = os.path.join(work, "companions"), os.path.join(work, "companions-out")
    shutil.copytree(demo("tiny-qwen3", "v1"), source)
    texts = {"tokenizer.json": '{"a": "\\u00e9"}', "merges.txt": "a b\n", "chat_template.jinja": "{{ x }}", "empty.txt": ""}
    others = {"pytorch_model.bin": "w", "old.safetensors": "w", "pytorch_model.bin.index.json": "{}", ".hidden": "h"}
    for name, text in {**texts, **others}.items():
        with open(os.path.join(source, name), "w") as file:
            file.write(text)
    os.mkdir(os.path.join(source, "runs"))
    os.symlink("merges.txt", os.path.join(source, "linked.txt"))
    result = weft("quantize", source, out + "/", "--scheme", "bf16", "--format", "checkpoint")
    if not checks.code(result, OK, "companions"):
        return
    for name, text in {**texts, "linked.txt": texts["merges.txt"]}.items():
        path = os.path.join(out, name)
        checks.that(os.path.isfile(path) and open(path).read() == text and not os.path.islink(path), f"companions: {name}")
    listed = {name for name in os.listdir(out) if not name.startswith("model")}
    standing = {name for name in os.listdir(demo("tiny-qwen3", "v1")) if not name.startswith("model")}
    checks.that(listed == {*texts, "linked.txt", *standing}, "companions: no other", f"{listed}")
    checks.that(os.stat(out).st_mode & 0o777 == 0o777 & ~current_umask(), "companions: who may read the folder")


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("weft")
    arguments.add_argument("--only", default="", metavar="TEXT", help="models whose name holds TEXT")
    options = arguments.parse_args()
    checks, weft = Checks(), Weft(options.weft)
    with scratch("quantized") as work:
        for seed, model in enumerate(MODELS):
            if options.only not in model:
                continue
            source = scaled.write(model, os.path.join(work, model), seed, tensor_file)
            schemes = SCHEMES if model == ALL_SCHEMES_OF else [row for row in SCHEMES if row[0] in ON_EVERY_MODEL]
            check_model(checks, weft, source, model, schemes, work)
        if not options.only:
            check_companions(checks, weft, work)
            check_refusals(checks, weft, work)
    checks.end()


if __name__ == "__main__":
    main()
