"""Structure-scaled copies of real architectures: every kind of tensor, with hidden size, experts and blocks cut down, and random
values."""

import json
import os

import numpy as np

HIDDEN = 256


def decoder(model_type, **more):
    return {"model_type": model_type, "num_hidden_layers": 2, "hidden_size": HIDDEN, "intermediate_size": 512,
            "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 300,
            "tie_word_embeddings": False, **more}


def latent(model_type, dense, heads, experts):
    config = decoder(model_type, num_attention_heads=heads, q_lora_rank=128, kv_lora_rank=64, qk_nope_head_dim=96,
                     qk_rope_head_dim=32, v_head_dim=64, first_k_dense_replace=dense, n_routed_experts=experts,
                     n_shared_experts=2, moe_intermediate_size=256, num_nextn_predict_layers=1)
    config.pop("head_dim")
    return config


# What weft knows by a user's recipe only, and the file.
RECIPES = {"phi3": os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "docs", "examples", "phi3.recipe.json")}

CONFIGS = {
    "llama": decoder("llama"),
    "mistral": decoder("mistral"),
    "qwen2": decoder("qwen2"),
    "qwen3": decoder("qwen3"),
    "qwen3-tied": decoder("qwen3", tie_word_embeddings=True),
    "qwen3-moe": decoder("qwen3_moe", num_experts=6, num_experts_per_tok=2, moe_intermediate_size=256),
    "qwen3-moe-stacked": decoder("qwen3_moe", num_experts=5, num_experts_per_tok=2, moe_intermediate_size=256),
    "mixtral": decoder("mixtral", num_local_experts=4),
    "deepseek-v3": latent("deepseek_v3", 1, 8, 6),
    "kimi-k2": latent("kimi_k2", 1, 4, 7),
    "phi3": decoder("phi3", head_dim=32),
    "gpt-oss": decoder("gpt_oss", num_local_experts=5, intermediate_size=256),
}


def gated(prefix, width, names=("gate_proj", "up_proj", "down_proj")):
    yield f"{prefix}.{names[0]}.weight", (width, HIDDEN)
    yield f"{prefix}.{names[1]}.weight", (width, HIDDEN)
    yield f"{prefix}.{names[2]}.weight", (HIDDEN, width)


def grouped(c, prefix, biases, norms):
    head = c["head_dim"]
    sizes = {"q_proj": c["num_attention_heads"] * head, "k_proj": c["num_key_value_heads"] * head,
             "v_proj": c["num_key_value_heads"] * head}
    for part, rows in sizes.items():
        yield f"{prefix}.{part}.weight", (rows, HIDDEN)
        if biases:
            yield f"{prefix}.{part}.bias", (rows,)
    yield f"{prefix}.o_proj.weight", (HIDDEN, sizes["q_proj"])
    for norm in ("q_norm", "k_norm") if norms else ():
        yield f"{prefix}.{norm}.weight", (head,)


def latent_attention(c, prefix):
    heads, rope, rank = c["num_attention_heads"], c["qk_rope_head_dim"], c["kv_lora_rank"]
    yield prefix + ".q_a_proj.weight", (c["q_lora_rank"], HIDDEN)
    yield prefix + ".q_a_layernorm.weight", (c["q_lora_rank"],)
    yield prefix + ".q_b_proj.weight", (heads * (c["qk_nope_head_dim"] + rope), c["q_lora_rank"])
    yield prefix + ".kv_a_proj_with_mqa.weight", (rank + rope, HIDDEN)
    yield prefix + ".kv_a_layernorm.weight", (rank,)
    yield prefix + ".kv_b_proj.weight", (heads * (c["qk_nope_head_dim"] + c["v_head_dim"]), rank)
    yield prefix + ".o_proj.weight", (HIDDEN, heads * c["v_head_dim"])


def latent_mlp(c, prefix, layer):
    width = c["moe_intermediate_size"]
    if layer < c["first_k_dense_replace"]:
        yield from gated(prefix, c["intermediate_size"])
        return
    yield prefix + ".gate.weight", (c["n_routed_experts"], HIDDEN)
    yield prefix + ".gate.e_score_correction_bias", (c["n_routed_experts"],)
    yield from gated(prefix + ".shared_experts", c["n_shared_experts"] * width)
    for expert in range(c["n_routed_experts"]):
        yield from gated(f"{prefix}.experts.{expert}", width)


def gpt_oss(c, prefix):
    experts, width, heads = c["num_local_experts"], c["intermediate_size"], c["num_attention_heads"]
    yield from grouped(c, prefix + ".self_attn", True, False)
    yield prefix + ".self_attn.o_proj.bias", (HIDDEN,)
    yield prefix + ".self_attn.sinks", (heads,)
    yield prefix + ".mlp.router.weight", (experts, HIDDEN)
    yield prefix + ".mlp.router.bias", (experts,)
    yield prefix + ".mlp.experts.gate_up_proj", (experts, HIDDEN, 2 * width)
    yield prefix + ".mlp.experts.gate_up_proj_bias", (experts, 2 * width)
    yield prefix + ".mlp.experts.down_proj", (experts, width, HIDDEN)
    yield prefix + ".mlp.experts.down_proj_bias", (experts, HIDDEN)


def phi3(c, prefix):
    """Fused in the checkpoint; heads of hidden_size / num_attention_heads."""
    keys = c["num_key_value_heads"] * HIDDEN // c["num_attention_heads"]
    yield prefix + ".self_attn.qkv_proj.weight", (HIDDEN + 2 * keys, HIDDEN)
    yield prefix + ".self_attn.o_proj.weight", (HIDDEN, HIDDEN)
    yield prefix + ".mlp.gate_up_proj.weight", (2 * c["intermediate_size"], HIDDEN)
    yield prefix + ".mlp.down_proj.weight", (HIDDEN, c["intermediate_size"])


def qwen_experts(c, prefix, stacked):
    experts, width = c["num_experts"], c["moe_intermediate_size"]
    yield prefix + ".gate.weight", (experts, HIDDEN)
    if stacked:
        yield prefix + ".experts.gate_up_proj", (experts, 2 * width, HIDDEN)
        yield prefix + ".experts.down_proj", (experts, HIDDEN, width)
        return
    for expert in range(experts):
        yield from gated(f"{prefix}.experts.{expert}", width)


def mixtral_experts(c, prefix):
    yield prefix + ".gate.weight", (c["num_local_experts"], HIDDEN)
    for expert in range(c["num_local_experts"]):
        yield from gated(f"{prefix}.experts.{expert}", c["intermediate_size"], ("w1", "w3", "w2"))


def block(name, c, layer):
    prefix, kind = f"model.layers.{layer}", c["model_type"]
    yield prefix + ".input_layernorm.weight", (HIDDEN,)
    yield prefix + ".post_attention_layernorm.weight", (HIDDEN,)
    if kind in ("deepseek_v3", "kimi_k2"):
        yield from latent_attention(c, prefix + ".self_attn")
        yield from latent_mlp(c, prefix + ".mlp", layer)
        return
    if kind in ("gpt_oss", "phi3"):
        yield from (gpt_oss if kind == "gpt_oss" else phi3)(c, prefix)
        return
    yield from grouped(c, prefix + ".self_attn", kind == "qwen2", kind.startswith("qwen3"))
    if kind == "qwen3_moe":
        yield from qwen_experts(c, prefix + ".mlp", name.endswith("stacked"))
    elif kind == "mixtral":
        yield from mixtral_experts(c, prefix + ".block_sparse_moe")
    else:
        yield from gated(prefix + ".mlp", c["intermediate_size"])


def shapes(name):
    c = CONFIGS[name]
    yield "model.embed_tokens.weight", (c["vocab_size"], HIDDEN)
    for layer in range(c["num_hidden_layers"]):
        yield from block(name, c, layer)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (c["vocab_size"], HIDDEN)  # a tied model may ship it all the same
    if "num_nextn_predict_layers" in c:
        yield f"model.layers.{c['num_hidden_layers']}.enorm.weight", (HIDDEN,)


def write(name, folder, seed, tensor_file):
    """A checkpoint with random values. -> folder"""
    random = np.random.default_rng(seed)
    tensors = {}
    for tensor, shape in shapes(name):
        values = (random.standard_normal(shape) * random.choice([0.02, 1.0])).astype(np.float32)
        kept = tensor.endswith("e_score_correction_bias")
        tensors[tensor] = ("F32", values) if kept else ("BF16", (values.view(np.uint32) >> 16).astype(np.uint16))
    os.makedirs(folder, exist_ok=True)
    tensor_file.write(os.path.join(folder, "model.safetensors"), tensors)
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump(CONFIGS[name], file)
    return folder
