"""What checkpoint.py knows of the architectures that are not like Llama; see there."""

import numpy as np

from checkpoint import dense_mlp, emit, even, expert_range, experts, kv_rows, linear, plain, qkv_bias, vocabulary
from checkpoint import attention as grouped_attention


def frame(model, rollout, schemes, block):
    yield from vocabulary(model, rollout, "model.embed_tokens.weight")
    for layer in range(model.config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        yield from plain(model, rollout, prefix + ".input_layernorm.weight")
        yield from plain(model, rollout, prefix + ".post_attention_layernorm.weight")
        yield from block(model, rollout, schemes, prefix, layer)
    yield from plain(model, rollout, "model.norm.weight")
    yield from vocabulary(model, rollout, "lm_head.weight")


# ---- Mixtral ----


def mixtral_block(model, rollout, schemes, prefix, _):
    yield from grouped_attention(model, rollout, schemes, prefix + ".self_attn")
    yield from experts(model, rollout, schemes, prefix + ".block_sparse_moe", (("w13", ["w1", "w3"]), ("w2", ["w2"])))


# ---- DeepSeek-V3, Kimi-K2 ----


def whole(_, shape, __):
    return (0, shape[0]), (0, shape[1])


def latent_attention(model, rollout, schemes, prefix):
    """Multi-head latent attention: both low-rank projections side by side and whole on each rank."""

    def head_cut(part, shape, rank):
        return even(shape[0], rollout.tp, rank, part), (0, shape[1])

    def o_cut(part, shape, rank):
        return (0, shape[0]), even(shape[1], rollout.tp, rank, part)

    if model.heads % rollout.tp:
        raise SystemExit(f"{model.heads} heads, {rollout.tp} ranks")
    yield from linear(model, rollout, schemes, prefix + ".fused_qkv_a_proj", ["q_a_proj", "kv_a_proj_with_mqa"], whole)
    yield from plain(model, rollout, prefix + ".q_a_layernorm.weight")
    yield from linear(model, rollout, schemes, prefix + ".q_b_proj", ["q_b_proj"], head_cut)
    yield from plain(model, rollout, prefix + ".kv_a_layernorm.weight")
    yield from linear(model, rollout, schemes.kept(), prefix + ".kv_b_proj", ["kv_b_proj"], head_cut)
    yield from linear(model, rollout, schemes, prefix + ".o_proj", ["o_proj"], o_cut)


def deepseek_block(model, rollout, schemes, prefix, layer):
    yield from latent_attention(model, rollout, schemes, prefix + ".self_attn")
    if layer < model.config["first_k_dense_replace"]:
        yield from dense_mlp(model, rollout, schemes, prefix + ".mlp")
        return
    bias = prefix + ".mlp.gate.e_score_correction_bias"
    values = model.take_f32(bias)
    for rank in range(rollout.tp):
        yield rank, bias, "F32", values
    yield from dense_mlp(model, rollout, schemes, prefix + ".mlp.shared_experts")
    yield from experts(model, rollout, schemes, prefix + ".mlp")


# ---- Phi-3 ----


def phi3_block(model, rollout, schemes, prefix, _):
    """The checkpoint's fused tensors, cut part by part."""
    head = model.config["hidden_size"] // model.heads
    queries, keys = model.heads * head, model.kv_heads * head
    width = model.config["intermediate_size"]
    for name, sizes in (("self_attn.qkv_proj", [queries, keys, keys]), ("mlp.gate_up_proj", [width, width])):
        parts = np.split(model.take(f"{prefix}.{name}.weight"), np.cumsum(sizes)[:-1])
        mine = schemes.of(f"{prefix}.{name}", [f"{prefix}.{name}.weight"]).for_linear(sum(sizes) // rollout.tp, parts[0].shape[1])
        wholes = mine.quantize_parts([np.ascontiguousarray(part) for part in parts])
        for rank in range(rollout.tp):
            held = [mine.slice(whole, even(len(whole[0]), rollout.tp, rank, name), (0, parts[0].shape[1]), name) for whole in wholes]
            yield from emit(mine, rank, f"{prefix}.{name}.", mine.fuse(held, name))
    for name in ("self_attn.o_proj", "mlp.down_proj"):

        def cut(_, shape, rank, name=name):
            return (0, shape[0]), even(shape[1], rollout.tp, rank, name)

        yield from linear(model, rollout, schemes, f"{prefix}.{name}", [name.split(".")[1]], cut)


# ---- gpt-oss ----


def gpt_oss_attention(model, rollout, schemes, source, name):
    def qkv_cut(part, shape, rank):
        if part != "q_proj":
            return kv_rows(model, rollout.tp, rank, part), (0, shape[1])
        begin, end = even(model.heads, rollout.tp, rank, part)
        return (begin * model.head_dim, end * model.head_dim), (0, shape[1])

    def o_cut(part, shape, rank):
        return (0, shape[0]), even(shape[1], rollout.tp, rank, part)

    for layer, parts, cut in (("qkv_proj", ["q_proj", "k_proj", "v_proj"], qkv_cut), ("o_proj", ["o_proj"], o_cut)):
        yield from linear(model, rollout, schemes, f"{source}.{layer}", parts, cut, called=f"{name}.{layer}")
    yield from qkv_bias(model, rollout, source, name, qkv_cut)
    bias, sinks = model.take(source + ".o_proj.bias"), model.take(source + ".sinks")
    for rank in range(rollout.tp):
        begin, end = even(len(sinks), rollout.tp, rank, "sinks")
        yield rank, name + ".o_proj.bias", *model.cast(name + ".o_proj", bias, "bias")
        yield rank, name + ".sinks", *model.cast(name, sinks[begin:end], "sinks")


def gpt_oss_matrices(model, rollout, schemes, prefix, stack, tensor):
    """[E, K, N] in the checkpoint, [E, N, K] in the engine; rows of w13 and columns of w2 are cut."""
    stored = model.take(f"{prefix}.{tensor}")
    scheme = schemes.of(f"{prefix}.{stack}", [f"{prefix}.{tensor}"]).for_experts(rollout)
    wholes = [scheme.quantize(np.ascontiguousarray(expert.T)) for expert in stored]
    for rank in range(rollout.tp):
        begin, end = expert_range(len(stored), rollout.tp, rank) if rollout.ep else (0, len(stored))
        held = []
        for expert in range(begin, end):
            rows, cols = (0, stored.shape[2]), (0, stored.shape[1])
            if not rollout.ep and stack == "w13":
                rows = even(rows[1], rollout.tp, rank, tensor)
            elif not rollout.ep:
                cols = even(cols[1], rollout.tp, rank, tensor)
            held.append(scheme.slice(wholes[expert], rows, cols, f"{tensor}, rank {rank}"))
        yield from emit(scheme, rank, f"{prefix}.{stack}_", scheme.stack(held))


def gpt_oss_biases(model, rollout, prefix):
    """The second is added after the reduction over ranks, so only the first rank has it."""
    first, second = model.take(prefix + ".gate_up_proj_bias"), model.take(prefix + ".down_proj_bias")
    for rank in range(rollout.tp):
        begin, end = expert_range(len(first), rollout.tp, rank) if rollout.ep else (0, len(first))
        left, right = (0, first.shape[1]) if rollout.ep else even(first.shape[1], rollout.tp, rank, "w13_bias")
        yield rank, prefix + ".w13_bias", *model.cast(prefix, first[begin:end, left:right], "w13_bias")
        mine = second[begin:end] if rollout.ep or rank == 0 else np.zeros_like(second)
        yield rank, prefix + ".w2_bias", *model.cast(prefix, mine, "w2_bias")


def gpt_oss_block(model, rollout, schemes, prefix, _):
    yield from gpt_oss_attention(model, rollout, schemes, prefix + ".self_attn", prefix + ".attn")
    yield from plain(model, rollout, prefix + ".mlp.router.weight")
    yield from plain(model, rollout, prefix + ".mlp.router.bias")
    for stack, tensor in (("w13", "gate_up_proj"), ("w2", "down_proj")):
        yield from gpt_oss_matrices(model, rollout, schemes, prefix + ".mlp.experts", stack, tensor)
    yield from gpt_oss_biases(model, rollout, prefix + ".mlp.experts")


OUTPUTS = {
    "mixtral": lambda *arguments: frame(*arguments, mixtral_block),
    "deepseek_v3": lambda *arguments: frame(*arguments, deepseek_block),
    "kimi_k2": lambda *arguments: frame(*arguments, deepseek_block),
    "phi3": lambda *arguments: frame(*arguments, phi3_block),
    "gpt_oss": lambda *arguments: frame(*arguments, gpt_oss_block),
}
