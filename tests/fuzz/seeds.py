#!/usr/bin/env python3
"""Write what fuzzing begins with: a folder of good and nearly good inputs for each harness.

seeds.py FOLDER [fuzz_kernel_file]   with that program (of any build) its seed is made too
"""
import json
import os
import struct
import subprocess
import sys
import tempfile

FILES = b"\n====\n"
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

BASE = {"num_hidden_layers": 1, "hidden_size": 64, "vocab_size": 64, "intermediate_size": 64,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32}
EXPERTS = {"moe_intermediate_size": 64, "num_experts": 4, "num_experts_per_tok": 2}
LATENT = {"q_lora_rank": 32, "kv_lora_rank": 32, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32,
          "n_routed_experts": 4, "n_shared_experts": 1, "moe_intermediate_size": 64, "first_k_dense_replace": 1,
          "num_hidden_layers": 2, "num_nextn_predict_layers": 1, "moe_layer_freq": 1}
CONFIGS = [
    {"model_type": "qwen3", **BASE},
    {"model_type": "qwen2", **BASE, "tie_word_embeddings": True, "attention_bias": True},
    {"model_type": "llama", **BASE, "rope_parameters": {"rope_theta": 10000.0, "factor": 1}},
    {"model_type": "mistral", **BASE, "rms_norm_eps": 1e-5, "sliding_window": None},
    {"model_type": "mixtral", **BASE, "num_local_experts": 4},
    {"model_type": "qwen3_moe", **BASE, **EXPERTS, "decoder_sparse_step": 1, "mlp_only_layers": [0]},
    {"model_type": "qwen3_moe", **BASE, **EXPERTS, "norm_topk_prob": True},
    {"model_type": "deepseek_v3", **BASE, **LATENT},
    {"model_type": "kimi_k2", **BASE, **LATENT},
    {"model_type": "gpt_oss", **BASE, "num_local_experts": 4, "attention_bias": True},
]
NORM = {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}


def compact(value):
    return json.dumps(value, separators=(",", ":")).encode()


def shard(header, data):
    """The header alone, how many zeros follow it, and that both are to be made a file."""
    return struct.pack("<I", 2 * data) + (header if isinstance(header, bytes) else compact(header))


def whole(header, data):
    text = header if isinstance(header, bytes) else compact(header)
    return struct.pack("<I", 1) + struct.pack("<Q", len(text)) + text + data


def jsons():
    texts = [b"{}", b"[]", b"null", b"[1,2.5e3,-0,1e999,\"\\u00e9\\ud83e\\uddf6\"]", b"[" * 40 + b"]" * 40,
             b'{"a":{"b":[true,false,null]},"A":1}', b'{"a":1,"a":2}', b'"\xc3\xa9"', b"9007199254740993", b"[1,]",
             compact({str(i): i for i in range(12)}), b'{"1":1,', b'"\\ud800"', b" [0] \n", b"NaN", b"-Infinity"]
    for text in texts:
        yield b"\0" + text
        yield b"\1" + text


def tensors(*rows):
    """name, dtype, shape, bytes: one behind the other"""
    at, header = 0, {}
    for name, dtype, shape, size in rows:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    return header, at


def safetensors():
    yield shard(*tensors(("a", "F32", [2, 3], 24), ("b", "BF16", [4], 8), ("s", "U8", [], 1)))
    yield shard(*tensors(("empty", "F16", [0, 7], 0), ("b", "I64", [1, 1, 1, 1], 8)))
    header, size = tensors(("a", "F8_E4M3", [16], 16))
    yield whole({"__metadata__": {"format": "pt"}, **header}, bytes(size))
    yield shard({"a": NORM, "b": {**NORM, "data_offsets": [4, 12]}}, 12)
    yield shard({"a": {**NORM, "shape": [4294967296, 4294967296]}}, 8)
    yield shard({"a": {**NORM, "data_offsets": [8, 0]}}, 8)
    yield shard(b'{"a":{"dtype":"BF16","shape":[4],"data_offsets":[0,8]},"a":{"dtype":"BF16","shape":[4],'
                b'"data_offsets":[8,16]}}', 16)
    yield shard(b"{}   ", 0)
    yield struct.pack("<I", 1) + struct.pack("<Q", 2**63) + b"{}"


def model_tensors(config):
    """The tensors of a dense qwen3 of that configuration."""
    h, m, v = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    q = config["num_attention_heads"] * config["head_dim"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    head = config["head_dim"]
    rows = [("model.embed_tokens", [v, h]), ("model.norm", [h]), ("lm_head", [v, h])]
    for block in range(config["num_hidden_layers"]):
        rows += [(f"model.layers.{block}.{name}", shape) for name, shape in (
            ("input_layernorm", [h]), ("post_attention_layernorm", [h]), ("self_attn.q_proj", [q, h]),
            ("self_attn.k_proj", [kv, h]), ("self_attn.v_proj", [kv, h]), ("self_attn.q_norm", [head]),
            ("self_attn.k_norm", [head]), ("self_attn.o_proj", [h, q]), ("mlp.gate_proj", [m, h]),
            ("mlp.up_proj", [m, h]), ("mlp.down_proj", [h, m]))]
    made = []
    for name, shape in rows:
        size = 2
        for extent in shape:
            size *= extent
        made.append((name + ".weight", "BF16", shape, size))
    return made


def checkpoints():
    small = {"model_type": "qwen3", "num_hidden_layers": 1, "hidden_size": 8, "vocab_size": 8, "intermediate_size": 8,
             "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4}
    rows = model_tensors(small)
    yield FILES.join((compact(small), b"", shard(*tensors(*rows))))
    first, second = rows[:7], rows[7:]
    index = {"metadata": {"total_size": 1}, "weight_map": {
        **{row[0]: "1.safetensors" for row in first}, **{row[0]: "2.safetensors" for row in second}}}
    yield FILES.join((compact(small), compact(index), b"", shard(*tensors(*first)), shard(*tensors(*second))))
    yield FILES.join((b'{"model_type":"x"}', compact({"weight_map": {"a": "1.safetensors"}}), b"", shard({"a": NORM}, 8)))
    yield FILES.join((b"{}", compact({"weight_map": {"a": "../1.safetensors"}}), b"", shard({"a": NORM}, 8)))


def configs():
    for number, config in enumerate(CONFIGS):
        yield bytes([number]) + compact(config)
    yield b"\0" + compact({"model_type": "qwen3", **BASE, "num_hidden_layers": 2147483647})
    yield b"\0" + compact({"model_type": "qwen3", **BASE, "hidden_size": 1e999, "head_dim": -1})


RECIPE = {"model_type": "mine", "ignore": ["*.inv_freq"], "experts": "num_experts", "layers": [
    {"layer": "embed", "parts": [{"tensor": "embed", "split": "vocab", "shape": ["8", "hidden"]}]},
    {"layer": "l.{L}.qkv", "quantize": True, "parts": [
        {"tensor": "l.{L}.q", "split": "heads", "shape": ["heads * 2", "hidden"], "together": "2"},
        {"tensor": "l.{L}.k", "split": "kv_heads", "shape": ["heads", "hidden"], "together": "2"}]},
    {"layer": "l.{L}.w13", "experts": True, "quantize": True, "from": "1", "parts": [
        {"tensor": "l.{L}.e.{E}.up", "split": "rows", "shape": ["hidden", "hidden"]}]},
    {"layer": "l.{L}.w2", "experts": True, "stacked": True, "transposed": True, "until": "1", "optional": True, "parts": [
        {"tensor": "l.{L}.down", "split": "cols", "shape": ["hidden", "hidden"]}]},
    {"layer": "norm", "leaf": "bias", "suffix": "_b", "keep_f32": True, "parts": [
        {"tensor": "norm", "split": "none", "shape": ["hidden"]}]},
    {"layer": "head", "tied_to": "embed", "parts": [{"tensor": "head", "split": "vocab", "shape": ["8", "hidden"]}]}]}


def recipes():
    config = {"model_type": "mine", "num_hidden_layers": 2, "hidden": 8, "heads": 4, "num_experts": 2}
    lines = ["embed.weight 8 8", "norm_b 8", "head.weight 8 8", "l.0.down.weight 2 8 8", "l.1.e.0.up.weight 8 8",
             "l.1.e.1.up.weight 8 8", "x.inv_freq 4"]
    lines += [f"l.{block}.{name}.weight {rows} 8" for block in (0, 1) for name, rows in (("q", 8), ("k", 4))]
    yield FILES.join((compact(RECIPE), compact(config), "\n".join(lines).encode()))
    with open(os.path.join(ROOT, "docs/examples/phi3.recipe.json"), "rb") as file:
        yield FILES.join((compact(json.load(file)), compact({"model_type": "phi3", **BASE})))
    for expression in (b"num_attention_heads * head_dim + 64", b"hidden / 2 / 2", b"2147483647 * 1 + 0", b"a.b*2",
                       b" 8 ", b"4294967296", b"1 / 0", b"hidden * hidden * hidden * hidden"):
        yield b"=" + expression + FILES + compact({"num_attention_heads": 2, "head_dim": 32, "hidden": 65536, "a": {"b": 3}})
    few = {"model_type": "mine", "blocks": "2147483647", "layers": [
        {"layer": "l.{L}", "optional": True, "parts": [{"tensor": "l.{L}", "split": "none", "shape": ["8"]}]}]}
    yield FILES.join((compact(few), b'{"model_type":"mine"}', b"x 8"))


def layouts():
    for text in (b"fsdp:2", b"tp:2,pp:2", b"ep:4,dp:2,fsdp:8", b"fsdp:65536", b"fsdp:65536,tp:65536", b"tp:0", b"dp:1,dp:1"):
        yield b"\0" + text
    for text in (b"tp:2", b"tp:8x2,ep", b"tp:65536x1", b"tp:65536x65536", b"tp:4x", b"tp:99999999999999999999"):
        yield b"\1" + text


def boxes():
    rows = model_tensors({**BASE})
    cut = {}
    for name, _, shape, _ in rows:
        half = shape[0] // 2
        cut[name] = [{"rank": rank, "offset": [rank * half] + [0] * (len(shape) - 1), "extent": [half] + shape[1:]}
                     for rank in (0, 1)]
    yield compact({"ranks": 2, "boxes": cut})
    yield compact({"ranks": 1, "boxes": {name: [{"rank": 0, "offset": [0] * len(shape), "extent": shape}]
                                         for name, _, shape, _ in rows}})
    yield compact({"ranks": 3, "boxes": {"model.norm.weight": [{"rank": 2, "offset": [2**40], "extent": [2**53 - 1]}]}})
    yield compact({"ranks": 65536, "boxes": {}})


SCHEMES = (b"bf16", b"fp16", b"fp32", b"fp8-block", b"fp8-channel", b"int8-channel", b"mxfp8", b"mxfp4", b"int4-group-32", b"int4-group-64",
           b"int4-group-128", b"fp8-tensor", b"nvfp4")
PROFILES = (b"", b"default", b"ieee", b"vllm", b"pow2", b"vllm-pow2", b"ct", b"qat", b"modelopt")


MAPS = (b"fp8-block; *.experts.*=nvfp4:modelopt@128x4; layers.0.*=bf16; lm_head=fp32", b"fp8-block:pow2@deepgemm; *.o_proj=fp8-block:ieee@padded",
        b"int4-group-128@marlin; *.experts.*=int4-group-64:ct@marlin; layers.?.*norm*=fp16", b"fp16;*.[qkv]_proj=mxfp8@128x4 ;model.norm=bf16",
        b"fp32; *=fp8-channel; model.layers.1.mlp.experts.1.up_proj=fp8-channel", b"fp8-block@plain; *.w2=int8-channel:ct@plain; *.w13=fp8-tensor")
ENGINES = (b"", b"vllm-hopper", b"vllm-blackwell", b"sglang")


def schemes():
    for number, scheme in enumerate(SCHEMES):
        yield scheme + b"\n" + PROFILES[number % len(PROFILES)]
    for number, text in enumerate(MAPS):
        yield b"\n".join((text, PROFILES[number % len(PROFILES)], ENGINES[number % len(ENGINES)]))
        yield text + b"\n\n"


def plans():
    pairs = ((b"fsdp:2", b"tp:2"), (b"tp:2,pp:1", b"tp:2x2"), (b"fsdp:3", b"tp:1x3"), (b"ep:2,dp:2", b"tp:2,ep"),
             (b"fsdp:1", b"tp:1"), (b"dp:2,fsdp:2", b"tp:4"))
    for number, config in enumerate(CONFIGS):
        trainer, rollout = pairs[number % len(pairs)]
        scheme = SCHEMES[number % len(SCHEMES)]
        yield FILES.join((compact(config), trainer, rollout, scheme, b"", b"", b"", b"", b"model.layers.0.*"))
        yield FILES.join((compact(config), b"fsdp:2", b"tp:2", SCHEMES[(number + 5) % len(SCHEMES)], b"", b"100000",
                          b"4096", b"0", b"*"))
        yield FILES.join((compact(config), b"fsdp:2", b"tp:1", MAPS[number % len(MAPS)].replace(b"layers.1", b"layers.0"), b"", b"",
                          b"", b"", b"*"))


def messages():
    """In the order of FIELDS in src/control/message.c."""
    def encode(kind, role, state=0, subset=b"", text=b""):
        fields = struct.pack("<BBBBIIIIIQQQQQQQQQQQIIQQQQQB", kind, role, state, 0, 1, 0, 1, 0, 0, 1, 1, 2, 1, 1, 0, 1,
                             1 << 40 | 3, 5, 9, 0, 4, 0, 1, 2, 1, 0, 1, 0)
        body = fields + bytes([len(subset)]) + subset + bytes([len(text)]) + text
        return struct.pack("<IHH", 0x74666577, 3, len(body) + 8) + body
    roles = {0: 3, 1: 3, 8: 2}
    for kind in range(15):
        yield encode(kind, roles.get(kind, 1), 0, b"model.norm,lm_*" if kind % 3 == 0 else b"", b"why" if kind % 2 else b"")


def introductions():
    one = struct.pack("<QQ", 1, 2) + b"t" * 32 + b"tcp://127.0.0.1:4711".ljust(128, b"\0") + struct.pack("<I", 0) + bytes(4)
    yield b"\0" + one + one
    yield b"\1" + one + b"x" * 64 + one
    yield b"\0" + one[:48] + b"x" * 128 + one[176:]


def zmq_frames():
    """Operations of three chunks, of one, of none, and credits; in fuzz_zmq_frame's bytes: how to send it, payload, header."""
    chunk = 262144

    def frame(sequence, operation, total, offset, kind=1, source=2, target=1, how=0, parts=2):
        length = 0 if kind == 2 else min(chunk, total - offset)
        header = b"wefz" + struct.pack("<I", kind) + b"g" * 16 + struct.pack("<IIQQIIQQQQ", source, target, sequence, operation, 5, length,
                                                                              total, offset, 0, 0)
        return struct.pack("<BBI", how, parts, length) + header

    yield frame(0, 0, 600000, 0) + frame(1, 0, 600000, chunk) + frame(2, 0, 600000, 2 * chunk) + frame(3, 1, 40, 0)
    yield frame(0, 0, 0, 0) + frame(1, 1, chunk, 0) + frame(1, 1, chunk, 0) + frame(0, 0, 0, 0, source=0)
    yield frame(0, 0, 0, 0, kind=2, parts=1) + frame(9, 0, 0, 0, kind=2, parts=1) + frame(8, 0, 0, 0, kind=2, parts=1)
    yield frame(0, 0, 40, 0, how=1) + frame(0, 0, 40, 0, target=0) + frame(0, 0, 40, 0, parts=3) + frame(7, 0, 40, 0)


def mailboxes():
    good = lambda rank: bytes([rank])
    text = struct.pack("<H", 5) + b"hello"
    for lanes in (0, 1):
        # three parts from a peer's identity: identity (2), frame (1), text (0)
        yield bytes([lanes, 0]) + struct.pack("<H", 3 | 2 << 3 | 1 << 5) + b"\2" + good(2) + text
        yield bytes([lanes, 1]) + struct.pack("<H", 2 | 1 << 3) + good(0) + text
        yield bytes([lanes, 2]) + struct.pack("<H", 2) + text + text
        yield bytes([lanes, 3, 1]) + good(2) + text + bytes([3, 1]) + good(3) + text
        yield bytes([lanes, 4]) + b"tcp://127.0.0.1:1\n\2" + bytes([5, 2]) + text + bytes([5, 1]) + text


def machines():
    """Versions that go well, are loaded, stopped, superseded, over a subset, with steps between; in fuzz_machines' operations."""
    well, steps = bytes([9, 7]), bytes([8, 0, 0])
    publish, load, later = bytes([7, 0, 0, 0]), bytes([7, 1, 0, 0]), bytes([7, 2, 0, 0])
    subset, fail, lose = bytes([7, 0, 0, 6]), bytes([6, 2, 0xc2]), bytes([2, 0])
    for topology in (0, 0x01, 0x2b, 0x12, 0xff):
        begin = bytes([topology, 1])
        yield begin + well + publish + well + steps + well + steps + publish + well + steps * 3 + well
        yield begin + well + load + well + steps + well + publish + bytes([9, 0]) + fail + well + publish + well
        yield begin + well + publish + bytes([9, 1]) + later + well + subset + well + steps + lose * 3 + well
        yield begin + well + publish + bytes([9, 1, 0, 0xff, 0xff]) + well + bytes([4, 3, 0, 2, 3]) + well
    yield bytes([0, 0]) + bytes([5] + [1] * 22) * 4 + well


def patterns():
    for text in (b"*", b"model.layers.*.mlp.*", b"model.norm,lm_head*", b"[a-m]*", b"*" * 60 + b"b", b"[!]", b"\\", b"a,,b",
                 b"model.layers.0.self_attn.qkv_proj.weight", b"?" * 199):
        yield text


def options():
    for lines in ((b"DIR", b"--bytes", b"64MiB"), (b"--count=12", b"--rate", b"50GB/s", b"A", b"B"), (b"4096x12288", b"-h"),
                  (b"1.5G", b"1e18", b"0x10", b"nan", b"inf", b" 7", b"-18446744073709551615", b"18446744073709551616"),
                  (b"--flag", b"--text", b"x", b"--", b"--bytes"), (b"--bytes=1e400",), (b"5/s/s", b"1KB/s", b"0/s")):
        yield b"\n".join(lines)


def kernel_file(program):
    with tempfile.TemporaryDirectory() as folder:
        empty = os.path.join(folder, "empty")
        open(empty, "wb").close()
        subprocess.run([program, empty], check=True, env={**os.environ, "WEFT_FUZZ_WRITE_SEED": folder},
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with open(os.path.join(folder, "rank0.safetensors"), "rb") as file:
            data = file.read()
    (length,) = struct.unpack_from("<Q", data)
    yield struct.pack("<I", 2 * (len(data) - 8 - length)) + data[8:8 + length]


HARNESSES = {"json": jsons, "safetensors": safetensors, "checkpoint": checkpoints, "config": configs, "recipe": recipes,
             "layout": layouts, "boxes": boxes, "scheme": schemes, "plan": plans, "message": messages,
             "introduction": introductions, "mailbox": mailboxes, "machines": machines, "patterns": patterns,
             "options": options, "zmq_frame": zmq_frames}


def write(folder, name, inputs):
    os.makedirs(os.path.join(folder, name), exist_ok=True)
    for number, data in enumerate(inputs):
        with open(os.path.join(folder, name, f"seed-{number:02}"), "wb") as file:
            file.write(data)


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    for name, make in HARNESSES.items():
        write(sys.argv[1], name, make())
    if len(sys.argv) == 3:
        write(sys.argv[1], "kernel_file", kernel_file(sys.argv[2]))


if __name__ == "__main__":
    main()
