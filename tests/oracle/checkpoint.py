#!/usr/bin/python3
"""What every rollout rank must hold for a checkpoint, computed by itself.

    checkpoint.py MODEL_DIR ROLLOUT SCHEME PROFILE OUT_DIR [EXPERTS]

ROLLOUT is tp:T, tp:TxR (R replicas), either followed by ",ep". SCHEME is one of SCHEMES below, or a map
"SCHEME; GLOB=SCHEME[:PROFILE]; ..." whose last match decides what a layer gets. PROFILE is one
of its, or "default"; in a map it is for every entry that names none and has it. Writes OUT_DIR/rank{r}.safetensors, replica by replica, in kernel-format names; EXPERTS, such as
"routed_experts.", stands before the last name of the experts' parameters. Knows
Llama, Qwen2, Mistral, Qwen3 and Qwen3-MoE; Mixtral, DeepSeek-V3, Kimi-K2 and gpt-oss by architectures.py. Every scale is computed on whole tensors; ranks get slices of the result.
"""

import collections
import fnmatch
import functools
import json
import os
import re
import sys

import numpy as np

import quantize
import tensor_file

BLOCK = quantize.BLOCK
VOCAB_MULTIPLE = 64
ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "mixtral", "deepseek_v3", "kimi_k2", "phi3", "gpt_oss")


def fail(message):
    sys.exit(f"checkpoint.py: {message}")


# ---- The arguments ----


class Rollout:
    def __init__(self, text):
        match = re.fullmatch(r"tp:(\d+)(?:x(\d+))?(,ep)?", text)
        if not match:
            fail(f"rollout {text!r}: expected tp:T[xR][,ep]")
        self.tp, self.replicas = int(match[1]), int(match[2] or 1)
        self.ep = match[3] is not None


class Model:
    def __init__(self, folder):
        with open(os.path.join(folder, "config.json")) as file:
            self.config = json.load(file)
        if self.config["model_type"] not in ARCHITECTURES:
            fail(f"model_type {self.config['model_type']!r} is none of {', '.join(ARCHITECTURES)}")
        index = os.path.join(folder, "model.safetensors.index.json")
        files = {"model.safetensors"}
        if os.path.exists(index):
            with open(index) as file:
                files = set(json.load(file)["weight_map"].values())
        self.tensors = {}
        for file in sorted(files):
            self.tensors.update(tensor_file.read(os.path.join(folder, file)))
        self.used = set()
        self.heads = self.config["num_attention_heads"]
        self.kv_heads = self.config.get("num_key_value_heads") or self.heads
        self.head_dim = self.config.get("head_dim") or self.config["hidden_size"] // self.heads
        self.tied = self.config.get("tie_word_embeddings", False)
        self.schemes = None  # what casts tensors that are never quantized

    def __contains__(self, name):
        return name in self.tensors

    def take(self, name):
        """A tensor as the checkpoint has it: bf16 bits, float16 or float32."""
        if name not in self.tensors:
            fail(f"the checkpoint has no {name}")
        self.used.add(name)
        return np.asarray(self.tensors[name][1])

    def cast(self, layer, array, leaf="weight"):
        """Of a layer that is never quantized: its kernel-format dtype, and it in that."""
        scheme = self.schemes.kept().of(layer, [f"{layer}.{leaf}"])
        array = scheme.quantize(array)[0]
        return dtype_name(array), array

    def take_f32(self, name):
        """A tensor that stays in fp32."""
        self.used.add(name)
        return np.asarray(self.tensors[name][1], np.float32)

    def expert_name(self, prefix, part, expert):
        """Its tensor: one of its own, or the one that holds all."""
        stacked = f"{prefix}.{'down_proj' if part == 'down_proj' else 'gate_up_proj'}"
        return stacked if stacked in self else f"{prefix}.{expert}.{part}.weight"

    def take_expert(self, prefix, part, expert):
        """The [N, K] of one expert; where one tensor holds all, gate is above up."""
        name = self.expert_name(prefix, part, expert)
        if name.endswith(f".{expert}.{part}.weight"):
            return self.take(name)
        whole = self.take(name)[expert]
        half = len(whole) // 2
        return {"down_proj": whole, "gate_proj": whole[:half], "up_proj": whole[half:]}[part]

    def check_all_used(self):
        left = [n for n in self.tensors if n not in self.used and not n.endswith("rotary_emb.inv_freq")]
        if "num_nextn_predict_layers" in self.config:
            left = [name for name in left if not name.startswith(f"model.layers.{self.config['num_hidden_layers']}.")]
        if self.tied:
            left = [name for name in left if name != "lm_head.weight"]
        if left:
            fail(f"{len(left)} tensors have no place, the first is {min(left)}")


# ---- Schemes ----


# name: profiles (the first is the default), elements that a scale is for (None: all of a row, or all rows)
SCHEMES = {
    "bf16": (("default",), None),
    "fp16": (("default",), None),
    "fp32": (("default",), None),
    "fp8-block": (quantize.BLOCK_PROFILES, (BLOCK, BLOCK)),
    "fp8-channel": (("default",), (1, None)),
    "int8-channel": (quantize.INT8_PROFILES, (1, None)),
    "mxfp8": (("default",), (1, 32)),
    "mxfp4": (("default",), (1, 32)),
    "int4-group-32": (quantize.INT4_PROFILES, (1, 32)),
    "int4-group-64": (quantize.INT4_PROFILES, (1, 64)),
    "int4-group-128": (quantize.INT4_PROFILES, (1, 128)),
    "fp8-tensor": (("default",), (None, None)),
    "nvfp4": (quantize.NVFP4_PROFILES, (1, quantize.NVFP4_GROUP)),
}
CASTS = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}
SPANNING = {"fp8-tensor": quantize.quantize_fp8_tensor, "nvfp4": quantize.quantize_nvfp4}  # whose amax is of a whole layer
Scales = collections.namedtuple("Scales", "grid whole")  # either may be None
INT4 = ("int4-group-32", "int4-group-64", "int4-group-128")
QUANTIZE = {
    "fp8-block": quantize.quantize_fp8_block,
    "fp8-channel": lambda w, _: quantize.quantize_fp8_channel(w),
    "int8-channel": quantize.quantize_int8_channel,
    "mxfp8": quantize.quantize_mxfp8,
    "mxfp4": quantize.quantize_mxfp4,
    **{name: functools.partial(quantize.quantize_int4_group, size=SCHEMES[name][1][1]) for name in INT4},
}
CODES = {"mxfp4": 2, "nvfp4": 2, **dict.fromkeys(INT4, 8)}  # that share an item
WEIGHT_NAMES = dict.fromkeys(("mxfp4", *INT4), "weight_packed")
DTYPES = {"fp8-block": ("F8_E4M3", "F32"), "fp8-channel": ("F8_E4M3", "F32"), "int8-channel": ("I8", "F32"),
          "mxfp8": ("F8_E4M3", "U8"), "mxfp4": ("U8", "U8"),
          **dict.fromkeys(INT4, ("I32", "BF16")),
          "fp8-tensor": ("F8_E4M3", None), "nvfp4": ("U8", "F8_E4M3")}
WHOLE_NAMES = {"fp8-tensor": "weight_scale", "nvfp4": "weight_scale_2"}


class Schemes:
    """What each layer gets; the entries as (glob, Scheme), the default's glob being *."""

    def __init__(self, text, profile):
        first, *others = [entry.strip() for entry in text.split(";")]
        name, _, arrange = first.partition("@")
        self.entries = [("*", Scheme(name, profile, arrange))]
        for entry in others:
            glob, chosen = entry.split("=")
            chosen, _, arrange = chosen.partition("@")
            name, _, its = chosen.partition(":")
            its = its or (profile if profile in SCHEMES[name.strip()][0] else "default")
            self.entries.append((glob.strip(), Scheme(name.strip(), its.strip(), arrange)))
        for _, scheme in self.entries:
            scheme.keeps_f16 = self.entries[0][1].name not in CASTS

    def by_name(self, *names):
        """The number of the last entry that matches one of the names, each also without "model." and without its leaf."""
        bare = lambda name: name.removesuffix(".weight").removesuffix(".bias")
        forms = {form for name in names for full in (name, bare(name)) for form in (full, full.removeprefix("model."))}
        return max(i for i, (glob, _) in enumerate(self.entries) if any(fnmatch.fnmatchcase(form, glob) for form in forms))

    def of(self, layer, tensors):
        """Of a layer of that kernel-format name, made of these tensors."""
        found = {self.by_name(layer, layer + ".weight", tensor) for tensor in tensors}
        chosen = {(self.entries[i][1].name, self.entries[i][1].profile, self.entries[i][1].arrange) for i in found}
        if len(chosen) != 1:
            fail(f"{layer}: its parts get {chosen}")
        return self.entries[found.pop()][1]

    def kept(self):
        """For layers that are never quantized."""
        return Kept(self)


class Kept:
    """What casts such layers: the entry that matches last, if that is a cast; else the default, if that is one; else bf16."""

    def __init__(self, schemes):
        self.schemes = schemes
        self.fallback = Scheme("bf16", "default")
        self.fallback.keeps_f16 = True

    def of(self, layer, tensors):
        own, default = (self.schemes.entries[i][1] for i in (self.schemes.by_name(layer, *tensors), 0))
        return own if own.name in CASTS else default if default.name in CASTS else self.fallback


class Scheme:
    """Quantizes whole tensors; `slice` then cuts codes and scales alike."""

    def __init__(self, name, profile, arrange=""):
        if name not in SCHEMES:
            fail(f"scheme {name!r} is none of {', '.join(SCHEMES)}")
        self.name = name
        profiles, self.grid = SCHEMES[name]
        self.profile = profiles[0] if profile == "default" else profile
        if self.profile not in profiles:
            fail(f"profile {profile!r} is none of {', '.join(profiles)}")
        self.arrange = arrange.strip() or "plain"
        self.keeps_f16 = False

    def of(self, layer, tensors):
        """A scheme alone is for every layer."""
        return self

    def for_experts(self, rollout):
        """vLLM requantizes its linear layers to powers of two, but not experts under tensor parallelism."""
        return self.first_pass() if self.profile == "vllm-pow2" and not rollout.ep else self

    def for_linear(self, rows, cols):
        """vLLM does so where DeepGEMM takes a rank's layer: whole tiles of 64 by 128."""
        return self.first_pass() if self.profile == "vllm-pow2" and (rows % 64 or cols % 128) else self

    def first_pass(self):
        """What vllm-pow2 requantizes: no powers of two, so their exponents alone do not do."""
        return Scheme(self.name, "vllm", "plain" if self.arrange == "deepgemm" else self.arrange)

    def padded(self, scales, codes):
        """Marlin pads a matrix, and its scales along; of experts it takes none that would be."""
        if self.arrange != "marlin":
            return scales, codes
        codes, each = quantize.marlin_unsigned(codes), CODES.get(self.name, 1)
        group = self.grid[1] or 1
        if codes.ndim == 3:
            return scales, codes
        rows, cols = quantize.marlin_extent(len(codes), codes.shape[1] * each, group)
        groups = cols // group if self.grid[1] else 1
        return Scales(quantize.pad_to(scales.grid, rows, groups), None), quantize.pad_to(codes, rows, cols // each)

    def of_rows(self, scales, codes):
        """Marlin has a scale of bf16 for every row, whatever it is for."""
        grid, rows = scales.grid, codes.shape[-2]
        if self.arrange != "marlin" or self.name in INT4:
            return scales
        if grid is None:
            grid = np.repeat(np.reshape(scales.whole, codes.shape[:-2] + (1, 1)), rows, axis=-2)
        if self.name == "fp8-block":
            grid = np.repeat(grid, quantize.BLOCK, axis=-2)[..., :rows, :]
        return Scales(quantize.marlin_scales(grid, self.name.startswith("fp8")), None)

    def arranged(self, grid, codes):
        """The scales of a matrix, or of a stack of them, as they lie, and their type."""
        one = lambda scales: quantize.ARRANGE[self.arrange](scales, codes.shape[-2])
        dtype = {"deepgemm": "I32", "marlin": "BF16"}.get(self.arrange, DTYPES[self.name][1])
        return dtype, np.stack([one(scales) for scales in grid]) if grid.ndim == 3 else one(grid)

    def arranged_codes(self, codes):
        """The codes likewise."""
        one = quantize.ARRANGE_CODES.get(self.arrange, lambda codes: codes)
        dtype = "I32" if self.arrange == "marlin" else DTYPES[self.name][0]
        return dtype, np.stack([one(expert) for expert in codes]) if codes.ndim == 3 else one(codes)

    @property
    def scale_name(self):
        return "weight_scale_inv" if self.name == "fp8-block" else "weight_scale"

    def quantize(self, w, amax=None):
        if self.name in CASTS:
            keeps = self.name == "bf16" and self.keeps_f16 and w.dtype == np.float16
            return w if keeps else quantize.cast(w, CASTS[self.name]), None
        if self.name not in SPANNING:
            codes, grid = QUANTIZE[self.name](w, self.profile)
            return codes, Scales(grid, None)
        codes, *grid, whole = SPANNING[self.name](w, self.profile, amax)
        return codes, Scales(grid[0] if grid else None, whole)

    def quantize_parts(self, parts):
        """Those of one layer."""
        amax = quantize.amax_of(parts) if self.name in SPANNING else None
        return [self.quantize(part, amax) for part in parts]

    def slice(self, quantized, rows, cols, what):
        """`rows` and `cols` are (begin, end)."""
        codes, scales = quantized
        shared = CODES.get(self.name, 1)
        part = codes[rows[0] : rows[1], cols[0] // shared : cols[1] // shared]
        if not self.grid:
            return part, None
        cut = []
        for (begin, end), extent, each in zip((rows, cols), (len(codes), codes.shape[1] * shared), self.grid):
            if each is None:
                cut.append(slice(None))
                continue
            if begin % each or (end % each and end != extent):
                fail(f"{what}: a cut at {begin}..{end} of {extent} falls inside a block of {each}")
            cut.append(slice(begin // each, -(-end // each)))
        return part, Scales(None if scales.grid is None else scales.grid[cut[0], cut[1]], scales.whole)

    def fuse(self, parts, what):
        """Lay the slices of one rank below each other."""
        if self.grid and self.grid[0] and any(len(codes) % self.grid[0] for codes, _ in parts[:-1]):
            fail(f"{what}: a part ends inside a block of {self.grid[0]}")
        codes = np.concatenate([codes for codes, _ in parts])
        if not self.grid:
            return codes, None
        grids = [scales.grid for _, scales in parts]
        return codes, Scales(None if grids[0] is None else np.concatenate(grids), parts[0][1].whole)

    def stack(self, held):
        """Experts on top of each other."""
        codes = np.stack([codes for codes, _ in held])
        if not self.grid:
            return codes, None
        grids, wholes = zip(*(scales for _, scales in held))
        return codes, Scales(None if grids[0] is None else np.stack(grids), None if wholes[0] is None else np.stack(wholes))


# ---- Cuts ----


def even(extent, tp, rank, what):
    if extent % tp:
        fail(f"{what}: {extent} does not divide by {tp}")
    return rank * (extent // tp), (rank + 1) * (extent // tp)


def kv_rows(model, tp, rank, what):
    """Whole KV heads; each is held by tp/heads ranks when there are more ranks than heads."""
    if tp <= model.kv_heads:
        begin, end = even(model.kv_heads, tp, rank, what)
    else:
        if tp % model.kv_heads:
            fail(f"{what}: {tp} ranks cannot share {model.kv_heads} KV heads evenly")
        begin = rank // (tp // model.kv_heads)
        end = begin + 1
    return begin * model.head_dim, end * model.head_dim


def expert_range(num_experts, tp, rank):
    """The first E mod ep ranks hold one more."""
    each, more = divmod(num_experts, tp)
    begin = rank * each + min(rank, more)
    return begin, begin + each + (rank < more)


def vocabulary_rows(w, tp, rank):
    padded = -(-len(w) // VOCAB_MULTIPLE) * VOCAB_MULTIPLE
    padded = -(-padded // tp) * tp
    full = np.zeros((padded, w.shape[1]), w.dtype)
    full[: len(w)] = w
    begin, end = even(padded, tp, rank, "vocabulary")
    return full[begin:end]


# ---- Layers: each yields (rank, name, dtype, array) for the ranks of one replica ----


def dtype_name(array):
    return {"uint16": "BF16", "float16": "F16", "float32": "F32"}[array.dtype.name]


def emit(scheme, rank, base, quantized):
    codes, scales = quantized
    if not scheme.grid:
        yield rank, base + "weight", dtype_name(codes), codes
        return
    shape = np.array([codes.shape[-2], codes.shape[-1] * CODES.get(scheme.name, 1)], np.int64)
    scales, codes = scheme.padded(scheme.of_rows(scales, codes), codes)
    yield rank, base + WEIGHT_NAMES.get(scheme.name, "weight"), *scheme.arranged_codes(codes)
    if scales.grid is not None:
        yield rank, base + scheme.scale_name, *scheme.arranged(scales.grid, codes)
    if scales.whole is not None:
        yield rank, base + WHOLE_NAMES[scheme.name], "F32", np.atleast_1d(scales.whole)
    if scheme.name in INT4:
        yield rank, base + "weight_shape", "I64", np.tile(shape, (len(codes), 1)) if codes.ndim == 3 else shape


def plain(model, rollout, name):
    layer, _, leaf = name.rpartition(".")
    dtype, w = model.cast(layer, model.take(name), leaf)
    for rank in range(rollout.tp):
        yield rank, name, dtype, w


def vocabulary(model, rollout, name, source=None):
    dtype, w = model.cast(name.removesuffix(".weight"), model.take(source or name))
    for rank in range(rollout.tp):
        yield rank, name, dtype, vocabulary_rows(w, rollout.tp, rank)


def linear(model, rollout, schemes, layer, part_names, cut, called=None):
    """A layer made of `part_names` below each other; cut(part, shape, rank) -> (rows, cols). `called`: the layer's name in an engine."""
    prefix = layer.rsplit(".", 1)[0]
    names = [f"{prefix}.{part}.weight" for part in part_names]
    sources = [model.take(name) for name in names]
    scheme = schemes.of(called or layer, names)
    cuts = [cut(part, source.shape, 0) for part, source in zip(part_names, sources)]
    scheme = scheme.for_linear(sum(end - begin for (begin, end), _ in cuts), cuts[0][1][1] - cuts[0][1][0])
    wholes = scheme.quantize_parts(sources)
    for rank in range(rollout.tp):
        parts = [
            scheme.slice(whole, *cut(part, source.shape, rank), f"{layer}, {part}, rank {rank}")
            for part, whole, source in zip(part_names, wholes, sources)
        ]
        yield from emit(scheme, rank, (called or layer) + ".", scheme.fuse(parts, layer))


def attention(model, rollout, schemes, prefix):
    def qkv_cut(part, shape, rank):
        if part == "q_proj":
            begin, end = even(model.heads, rollout.tp, rank, prefix + ".q_proj")
            return (begin * model.head_dim, end * model.head_dim), (0, shape[1])
        return kv_rows(model, rollout.tp, rank, f"{prefix}.{part}"), (0, shape[1])

    def o_cut(part, shape, rank):
        return (0, shape[0]), even(shape[1], rollout.tp, rank, prefix + ".o_proj")

    yield from linear(model, rollout, schemes, prefix + ".qkv_proj", ["q_proj", "k_proj", "v_proj"], qkv_cut)
    if f"{prefix}.q_proj.bias" in model:
        yield from qkv_bias(model, rollout, prefix, prefix, qkv_cut)
    yield from linear(model, rollout, schemes, prefix + ".o_proj", ["o_proj"], o_cut)
    for norm in ("q_norm", "k_norm"):
        if f"{prefix}.{norm}.weight" in model:
            yield from plain(model, rollout, f"{prefix}.{norm}.weight")


def qkv_bias(model, rollout, prefix, kernel_prefix, qkv_cut):
    wholes = {part: model.take(f"{prefix}.{part}.bias") for part in ("q_proj", "k_proj", "v_proj")}
    for rank in range(rollout.tp):
        parts = []
        for part, whole in wholes.items():
            (begin, end), _ = qkv_cut(part, (len(whole), 1), rank)
            parts.append(whole[begin:end])
        yield rank, kernel_prefix + ".qkv_proj.bias", *model.cast(kernel_prefix + ".qkv_proj", np.concatenate(parts), "bias")


def dense_mlp(model, rollout, schemes, prefix):
    def up_cut(part, shape, rank):
        return even(shape[0], rollout.tp, rank, f"{prefix}.{part}"), (0, shape[1])

    def down_cut(part, shape, rank):
        return (0, shape[0]), even(shape[1], rollout.tp, rank, f"{prefix}.{part}")

    yield from linear(model, rollout, schemes, prefix + ".gate_up_proj", ["gate_proj", "up_proj"], up_cut)
    yield from linear(model, rollout, schemes, prefix + ".down_proj", ["down_proj"], down_cut)


def expert_slice(rollout, scheme, expert, stack, rank, what):
    """One expert's w13 or w2 on one rank."""
    parts = []
    for part, whole in expert.items():
        rows, cols = (0, len(whole[0])), (0, whole[0].shape[1] * CODES.get(scheme.name, 1))
        if not rollout.ep and stack == "w2":
            cols = even(cols[1], rollout.tp, rank, what)
        elif not rollout.ep:
            rows = even(rows[1], rollout.tp, rank, what)
        parts.append(scheme.slice(whole, rows, cols, f"{what}, {part}, rank {rank}"))
    return scheme.fuse(parts, what)


def experts(model, rollout, schemes, prefix, stacks=(("w13", ["gate_proj", "up_proj"]), ("w2", ["down_proj"]))):
    num_experts = next(model.config[key] for key in ("num_experts", "n_routed_experts", "num_local_experts") if key in model.config)
    yield from plain(model, rollout, prefix + ".gate.weight")
    for stack, part_names in stacks:
        base = f"{prefix}.experts.{stack}_"
        names = [model.expert_name(prefix + ".experts", part, e) for part in part_names for e in range(num_experts)]
        scheme = schemes.of(f"{prefix}.experts.{stack}", names).for_experts(rollout)
        wholes = [
            dict(zip(part_names, scheme.quantize_parts([model.take_expert(prefix + ".experts", part, e) for part in part_names])))
            for e in range(num_experts)
        ]
        for rank in range(rollout.tp):
            begin, end = expert_range(num_experts, rollout.tp, rank) if rollout.ep else (0, num_experts)
            held = [expert_slice(rollout, scheme, wholes[e], stack, rank, base + str(e)) for e in range(begin, end)]
            yield from emit(scheme, rank, base, scheme.stack(held))


def is_sparse(model, layer):
    """Whether a Qwen3-MoE block has experts."""
    if model.config["model_type"] != "qwen3_moe" or layer in model.config.get("mlp_only_layers", []):
        return False
    return (layer + 1) % model.config.get("decoder_sparse_step", 1) == 0


def outputs(model, rollout, schemes):
    import architectures

    if model.config["model_type"] in architectures.OUTPUTS:
        yield from architectures.OUTPUTS[model.config["model_type"]](model, rollout, schemes)
        return
    yield from vocabulary(model, rollout, "model.embed_tokens.weight")
    for layer in range(model.config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        yield from plain(model, rollout, prefix + ".input_layernorm.weight")
        yield from attention(model, rollout, schemes, prefix + ".self_attn")
        yield from plain(model, rollout, prefix + ".post_attention_layernorm.weight")
        if is_sparse(model, layer):
            yield from experts(model, rollout, schemes, prefix + ".mlp")
        else:
            yield from dense_mlp(model, rollout, schemes, prefix + ".mlp")
    yield from plain(model, rollout, "model.norm.weight")
    yield from vocabulary(model, rollout, "lm_head.weight", "model.embed_tokens.weight" if model.tied else None)


def main():
    if len(sys.argv) not in (6, 7):
        sys.exit(__doc__)
    folder, rollout, scheme, profile, out, *prefix = sys.argv[1:]
    model, rollout, schemes = Model(folder), Rollout(rollout), Schemes(scheme, profile)
    model.schemes = schemes
    ranks = [{} for _ in range(rollout.tp)]
    for rank, name, dtype, array in outputs(model, rollout, schemes):
        name = name.replace(".experts.", ".experts." + "".join(prefix))
        ranks[rank][name] = (dtype, array)
    model.check_all_used()
    os.makedirs(out, exist_ok=True)
    for replica in range(rollout.replicas):
        for rank, tensors in enumerate(ranks):
            tensor_file.write(os.path.join(out, f"rank{replica * rollout.tp + rank}.safetensors"), tensors)


if __name__ == "__main__":
    main()
