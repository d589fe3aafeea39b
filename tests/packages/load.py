"""transformers loads what `weft quantize --format checkpoint` writes, as an engine does: by the folder alone. Its logits must be those of
a bf16 model that holds the dequantized weights.

    load.py WEFT

Uses the demo model, in schemes whose weights transformers can widen on a CPU. Exits 1 when a weight is not as it should be."""

import os
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "support"), os.path.join(HERE, "..", "oracle")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from transformers import AutoModelForCausalLM, CompressedTensorsConfig, FineGrainedFP8Config  # noqa: E402

from command import Checks, Weft, demo  # noqa: E402
import compare_packages  # noqa: E402
import tensor_file  # noqa: E402

SCHEMES = ("fp8-block", "fp8-channel", "fp8-tensor", "int8-channel", "int4-group-128", "mxfp4", "mxfp8", "nvfp4")
PROMPT = b"And God said unto Moses, "


def widened(scheme, folder):
    """{name: float32} of every tensor, by docs/formats.md."""
    stored = {}
    for file in os.listdir(folder):
        if file.endswith(".safetensors"):
            stored.update(tensor_file.read(os.path.join(folder, file)))
    modules = {}
    for name, (_, values) in stored.items():
        module, _, suffix = name.rpartition(".")
        modules.setdefault(module, {})[suffix] = np.asarray(values)
    for module, mine in modules.items():
        if "weight_scale" not in mine and "weight_scale_inv" not in mine:
            yield module + ".weight", compare_packages.as_f32(mine["weight"])
            continue
        packed = mine.get("weight_packed")
        rows, cols = (packed if packed is not None else mine["weight"]).shape
        codes = 1 if packed is None else 8 if scheme.startswith("int4") else 2
        yield module + ".weight", compare_packages.dequantized(scheme, mine, (rows, cols * codes))


def how_to_widen(scheme):
    """Weights in bf16, so that nothing depends on a kernel."""
    return FineGrainedFP8Config(dequantize=True) if scheme == "fp8-block" else CompressedTensorsConfig(dequantize=True)


def check_scheme(checks, weft, scheme, work):
    source, folder = demo("tiny-qwen3", "v3"), os.path.join(work, scheme)
    if not checks.code(weft("quantize", source, folder, "--scheme", scheme, "--format", "checkpoint", "--shard", "1MB"), 0, scheme):
        return
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, quantization_config=how_to_widen(scheme))
    plain = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    expected = dict(widened(scheme, folder))
    found = dict(loaded.named_parameters())
    for name, parameter in plain.named_parameters():
        values = torch.from_numpy(np.array(expected[name])).to(torch.bfloat16)
        checks.that(name in found and torch.equal(found[name].to(torch.bfloat16), values), f"{scheme}: {name}")
        parameter.data = values
    tokens = torch.tensor([list(PROMPT)])
    with torch.no_grad():
        same = torch.equal(loaded(tokens).logits, plain(tokens).logits)
    checks.that(same, f"{scheme}: logits")
    print(f"{scheme}: {len(expected)} tensors and the logits of {len(PROMPT)} tokens", flush=True)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    checks, weft = Checks(), Weft(sys.argv[1])
    with tempfile.TemporaryDirectory() as work:
        for scheme in SCHEMES:
            check_scheme(checks, weft, scheme, work)
    checks.end()


if __name__ == "__main__":
    main()
