"""Checkpoints to test with: copies of a real one with something wrong in them, and exact shapes of large models.

A safetensors file is 8 bytes of header length, a JSON header, and the tensors' bytes one after the other."""

import json
import math
import os
import struct

BYTES = {"BF16": 2, "F16": 2, "F32": 4}
FILE = "model.safetensors"


class Checkpoint:
    """One safetensors file and its configuration, to be changed and written elsewhere."""

    def __init__(self, folder):
        with open(os.path.join(folder, "config.json")) as file:
            self.config = json.load(file)
        with open(os.path.join(folder, FILE), "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            self.header = json.loads(file.read(length))
            self.data = bytearray(file.read())
        self.header.pop("__metadata__", None)

    def names(self):
        return sorted(self.header, key=lambda name: self.header[name]["data_offsets"])

    def shape(self, name):
        return self.header[name]["shape"]

    def poke(self, name, index, bits):
        """Write the 16-bit element `index` of a tensor."""
        struct.pack_into("<H", self.data, self.header[name]["data_offsets"][0] + 2 * index, bits)

    def remove(self, name):
        """Take a tensor out, bytes included, so that the file stays well formed."""
        begin, end = self.header.pop(name)["data_offsets"]
        del self.data[begin:end]
        for entry in self.header.values():
            if entry["data_offsets"][0] >= end:
                entry["data_offsets"] = [offset - (end - begin) for offset in entry["data_offsets"]]

    def append(self, name, dtype, shape):
        begin = len(self.data)
        self.data += bytes(BYTES[dtype] * math.prod(shape))
        self.header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, len(self.data)]}

    def write(self, folder, header=None, header_length=None, config=None):
        """Write it; `header`, `header_length` and `config` replace what would stand there. -> folder"""
        os.makedirs(folder, exist_ok=True)
        text = pad(json.dumps(self.header, separators=(",", ":")).encode()) if header is None else header
        with open(os.path.join(folder, FILE), "wb") as file:
            file.write(struct.pack("<Q", len(text) if header_length is None else header_length) + text)
            file.write(self.data)
        with open(os.path.join(folder, "config.json"), "w") as file:
            file.write(json.dumps(self.config) if config is None else config)
        return folder


def pad(text):
    return text + b" " * (-len(text) % 8)


# ---- Exact shapes of published models; the bytes are a hole, which takes no disk ----


def attention(c, qk_norm):
    hidden, head = c["hidden_size"], c["head_dim"]
    queries, keys = c["num_attention_heads"] * head, c["num_key_value_heads"] * head
    yield "self_attn.q_proj", [queries, hidden]
    yield "self_attn.k_proj", [keys, hidden]
    yield "self_attn.v_proj", [keys, hidden]
    yield "self_attn.o_proj", [hidden, queries]
    if qk_norm:
        yield "self_attn.q_norm", [head]
        yield "self_attn.k_norm", [head]


def gated(prefix, hidden, width):
    yield prefix + ".gate_proj", [width, hidden]
    yield prefix + ".up_proj", [width, hidden]
    yield prefix + ".down_proj", [hidden, width]


def block(c):
    hidden = c["hidden_size"]
    yield "input_layernorm", [hidden]
    yield "post_attention_layernorm", [hidden]
    yield from attention(c, c["model_type"] != "llama")
    if "num_experts" not in c:
        yield from gated("mlp", hidden, c["intermediate_size"])
        return
    yield "mlp.gate", [c["num_experts"], hidden]
    for expert in range(c["num_experts"]):
        yield from gated(f"mlp.experts.{expert}", hidden, c["moe_intermediate_size"])


def shapes(c):
    """(name, shape) of every tensor of a configuration."""
    yield "model.embed_tokens.weight", [c["vocab_size"], c["hidden_size"]]
    for layer in range(c["num_hidden_layers"]):
        for name, shape in block(c):
            yield f"model.layers.{layer}.{name}.weight", shape
    yield "model.norm.weight", [c["hidden_size"]]
    if not c["tie_word_embeddings"]:
        yield "lm_head.weight", [c["vocab_size"], c["hidden_size"]]


def config(model_type, layers, hidden, width, heads, kv_heads, vocabulary, **more):
    return {
        "model_type": model_type,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 128,
        "vocab_size": vocabulary,
        "tie_word_embeddings": False,
        **more,
    }


PUBLISHED = {
    "llama-3-70b": config("llama", 80, 8192, 28672, 64, 8, 128256),
    "qwen3-30b-a3b": config("qwen3_moe", 48, 2048, 6144, 32, 4, 151936, num_experts=128, moe_intermediate_size=768,
                            num_experts_per_tok=8),
    "qwen3-235b-a22b": config("qwen3_moe", 94, 4096, 12288, 64, 4, 151936, num_experts=128, moe_intermediate_size=1536,
                              num_experts_per_tok=8),
    # No published model: the size of the largest there are, a trillion parameters in 384 experts.
    "trillion": config("qwen3_moe", 61, 7168, 18432, 128, 8, 163840, num_experts=384, moe_intermediate_size=2048,
                       num_experts_per_tok=8),
}


def write_published(name, folder):
    """-> (folder, bytes of all tensors, number of tensors)"""
    header, offset = {}, 0
    for tensor, shape in shapes(PUBLISHED[name]):
        end = offset + 2 * math.prod(shape)
        header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = pad(json.dumps(header, separators=(",", ":")).encode())
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, FILE), "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump(PUBLISHED[name], file)
    return folder, offset, len(header)
