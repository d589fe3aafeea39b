"""A transformer on kernel-format weights, in NumPy: what a decoder must answer.

An oracle: dequantized as docs/numerics.md says an element is to be read, from the names and shapes it says they are
stored under, and multiplied in float64. Qwen3 and Qwen3-MoE, one rank that holds everything. Slow and plain on purpose."""

import json
import os

import numpy as np

import quantize
import tensor_file

E2M1_VALUES = np.concatenate([quantize.E2M1_MAGNITUDES, -quantize.E2M1_MAGNITUDES])


def nibbles(packed):
    """uint8 [..., n] -> codes [..., 2n], the low one first."""
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)


def int4_codes(words):
    """int32 [..., n] -> values [..., 8n]: element i in bits 4 i, plus 8."""
    shifted = words.view(np.uint32)[..., None] >> (4 * np.arange(8, dtype=np.uint32)) & 15
    return shifted.reshape(*words.shape[:-1], -1).astype(np.int64) - 8


def power(exponents):
    return np.ldexp(1.0, exponents.astype(int) - 127)


def spread(scales, codes, rows, cols):
    """Each scale over its block of `rows` by `cols`, cut to the codes' shape."""
    wide = np.repeat(np.repeat(scales.astype(np.float64), rows, axis=-2), cols, axis=-1)
    return wide[..., : codes.shape[-2], : codes.shape[-1]]


class Weights:
    """The tensors of rank0.safetensors; `scheme` is how linear layers and experts are stored."""

    def __init__(self, path, scheme):
        self.tensors, self.scheme = tensor_file.read(path), scheme

    def array(self, name):
        return np.asarray(self.tensors[name][1])

    def plain(self, name):
        dtype, array = self.tensors[name]
        assert dtype in ("BF16", "F16", "F32"), (name, dtype)
        array = np.asarray(array)
        return (quantize.bf16_to_f32(array) if dtype == "BF16" else array).astype(np.float64)

    def whole(self, name):
        """One scale for all, of experts each: [1] or [E], to multiply with [N, K] or [E, N, K]."""
        scale = self.array(name).astype(np.float64)
        return scale[:, None, None] if len(scale) > 1 else scale[0]

    def matrix(self, name):
        """float64 [N, K] or [E, N, K]."""
        scheme = self.scheme
        if scheme in ("bf16", "fp16", "fp32"):
            return self.plain(name)
        if scheme == "mxfp4":
            codes = E2M1_VALUES[nibbles(self.array(name + "_packed"))]
            return codes * spread(power(self.array(name + "_scale")), codes, 1, 32)
        if scheme.startswith("int4-group-"):
            codes, scales = int4_codes(self.array(name + "_packed")), self.plain(name + "_scale")
            assert (self.array(name + "_shape") == codes.shape[-2:]).all(), name
            return codes * spread(scales, codes, 1, int(scheme.rsplit("-", 1)[1]))
        if scheme == "nvfp4":
            codes, scales = E2M1_VALUES[nibbles(self.array(name))], quantize.E4M3_VALUES[self.array(name + "_scale")]
            return codes * spread(scales, codes, 1, 16) * self.whole(name + "_scale_2")
        if scheme == "int8-channel":
            return self.array(name).astype(np.float64) * self.array(name + "_scale")
        codes = quantize.E4M3_VALUES[self.array(name)].astype(np.float64)
        if scheme == "fp8-block":
            return codes * spread(self.array(name + "_scale_inv"), codes, 128, 128)
        if scheme == "fp8-channel":
            return codes * self.array(name + "_scale")
        if scheme == "fp8-tensor":
            return codes * self.whole(name + "_scale")
        assert scheme == "mxfp8", scheme
        return codes * spread(power(self.array(name + "_scale")), codes, 1, 32)


def norm(x, weight, eps):
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * weight


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def swiglu(wide):
    gate, up = np.split(wide, 2, axis=-1)
    return gate / (1 + np.exp(-gate)) * up


class Decoder:
    def __init__(self, model_dir, files_dir, scheme):
        with open(os.path.join(model_dir, "config.json")) as file:
            c = self.config = json.load(file)
        self.weights = Weights(os.path.join(files_dir, "rank0.safetensors"), scheme)
        self.heads, self.kv_heads, self.dim = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        self.eps, self.theta = c["rms_norm_eps"], c["rope_parameters"]["rope_theta"]

    def rotate(self, x):
        """[tokens, heads, dim]: pairs (i, i + dim/2) by the angle of the token's position."""
        half = self.dim // 2
        angles = np.arange(len(x))[:, None] * self.theta ** (-np.arange(half) / half)
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        low, high = x[..., :half], x[..., half:]
        return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)

    def attention(self, prefix, x):
        w, tokens = self.weights, len(x)
        qkv = (x @ w.matrix(prefix + "qkv_proj.weight").T).reshape(tokens, -1, self.dim)
        q, k, v = np.split(qkv, [self.heads, self.heads + self.kv_heads], axis=1)
        q = self.rotate(norm(q, w.plain(prefix + "q_norm.weight"), self.eps))
        k = self.rotate(norm(k, w.plain(prefix + "k_norm.weight"), self.eps))
        k, v = (np.repeat(a, self.heads // self.kv_heads, axis=1) for a in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(self.dim)
        scores[:, np.triu(np.ones((tokens, tokens), bool), 1)] = -np.inf
        seen = np.einsum("hqk,khd->qhd", softmax(scores), v).reshape(tokens, -1)
        return seen @ w.matrix(prefix + "o_proj.weight").T

    def dense(self, prefix, x):
        w = self.weights
        return swiglu(x @ w.matrix(prefix + "gate_up_proj.weight").T) @ w.matrix(prefix + "down_proj.weight").T

    def sparse(self, prefix, x):
        w, active = self.weights, self.config["num_experts_per_tok"]
        shares = softmax(x @ w.plain(prefix + "gate.weight").T)
        shares[shares < np.sort(shares, axis=-1)[:, [-active]]] = 0
        if self.config["norm_topk_prob"]:
            shares /= shares.sum(axis=-1, keepdims=True)
        w13, w2 = w.matrix(prefix + "experts.w13_weight"), w.matrix(prefix + "experts.w2_weight")
        return sum(shares[:, [e]] * (swiglu(x @ w13[e].T) @ w2[e].T) for e in range(len(w13)))

    def logits(self, text):
        """float64 [bytes, vocab]: what follows each byte."""
        w = self.weights
        x = w.plain("model.embed_tokens.weight")[list(text)]
        for i in range(self.config["num_hidden_layers"]):
            prefix = f"model.layers.{i}."
            x = x + self.attention(prefix + "self_attn.", norm(x, w.plain(prefix + "input_layernorm.weight"), self.eps))
            mlp = self.sparse if prefix + "mlp.gate.weight" in w.tensors else self.dense
            x = x + mlp(prefix + "mlp.", norm(x, w.plain(prefix + "post_attention_layernorm.weight"), self.eps))
        x = norm(x, w.plain("model.norm.weight"), self.eps)
        return (x @ w.plain("lm_head.weight").T)[:, : self.config["vocab_size"]]


def bits_per_byte(logits, text):
    """Of all bytes but the first."""
    return -np.log2(softmax(logits[:-1])[np.arange(len(text) - 1), list(text[1:])]).mean()
