"""Compare what `weft quantize --format checkpoint` writes with what the packages make of the same matrices, and what they make of
its folders with what weft says its numbers stand for. Prints the table of docs/formats.md.

    compare_packages.py WEFT [--only TEXT] [--write-golden FILE]

--write-golden keeps the packages' answers on smaller inputs for tests/unit/kernels/test_golden.c. Exits 1 when a byte differs for
which no reason is given here."""

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "oracle")]

import numpy as np  # noqa: E402
import torch  # noqa: E402

import golden  # noqa: E402
import inputs  # noqa: E402
import oracles  # noqa: E402
import tensor_file  # noqa: E402

CT, AO, TF, TORCH = "compressed-tensors", "torchao", "transformers", "torch"
INT4 = (32, 64, 128)


# ---- A made-up model of one matrix a layer ----


def write_model(folder, matrices):
    os.makedirs(folder)
    layers = [{"layer": f"m{i}", "quantize": True, "parts": [{"tensor": f"m{i}", "split": "none", "shape": [str(n) for n in matrix.shape]}]}
              for i, matrix in enumerate(matrices)]
    tensor_file.write(os.path.join(folder, "model.safetensors"), {f"m{i}.weight": ("BF16", m) for i, m in enumerate(matrices)})
    for name, content in (("config.json", {"model_type": "sweep", "num_hidden_layers": 1}),
                          ("sweep.recipe.json", {"model_type": "sweep", "layers": layers})):
        with open(os.path.join(folder, name), "w") as file:
            json.dump(content, file)


def run_weft(weft, work, matrices, scheme, profile):
    """-> the folder, [{suffix: array}] for each matrix"""
    source, out = os.path.join(work, "source"), os.path.join(work, "out")
    write_model(source, matrices)
    command = [weft, "quantize", source, out, "--scheme", scheme, "--format", "checkpoint", "--recipe", source + "/sweep.recipe.json"]
    subprocess.run(command + ([] if profile == "default" else ["--profile", profile]), check=True, stdout=subprocess.DEVNULL)
    tensors = {}
    for name in os.listdir(out):
        if name.endswith(".safetensors"):
            tensors.update(tensor_file.read(os.path.join(out, name)))
    found = [{} for _ in matrices]
    for name, (_, values) in tensors.items():
        layer, _, suffix = name.partition(".")
        found[int(layer[1:])][suffix] = np.asarray(values)
    return out, found


# ---- Why bytes may differ: a mask over an array of what weft stored, True where they may ----


def as_f32(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def magnitude(bits):
    return bits & inputs.MAGNITUDE


def spread(groups, shape):
    """From groups along the columns to an array of `shape`: its scales themselves, or its codes, as many to an item as may be."""
    return groups if groups.shape == shape else np.repeat(groups, shape[1] // groups.shape[1], axis=1)


def below_the_floor(bits, mine, suffix, shape):
    return np.broadcast_to(magnitude(bits).max(axis=1, keepdims=True) < 0x3B00, shape)


def without_inverse(bits, mine, suffix, shape):
    return np.broadcast_to(as_f32(magnitude(bits).max()) < 1.32e-36, shape)


def minus_zeros(bits, mine, suffix, shape):
    """Or what becomes one when it is divided: in bf16, whose least number is 2^-133."""
    if suffix != "weight_packed":
        return np.zeros(shape, bool)
    exponents = np.repeat(mine["weight_scale"].astype(int), 32, axis=1)
    gone = np.ldexp(as_f32(magnitude(bits)).astype(np.float64), 127 - exponents) <= 2.0**-134
    either = gone & (bits >= inputs.SIGN)
    return either[:, 0::2] | either[:, 1::2]


def rounds_to_inf(bits, mine, suffix, shape):
    return spread(magnitude(bits).reshape(len(bits), -1, 32).max(axis=2) >= 0x7F60, shape)


def least_exponent(bits, mine, suffix, shape):
    return spread(mine["weight_scale"] == 0, shape)


def scale_of_zero(bits, mine, suffix, shape):
    if suffix == "weight_global_scale":
        return np.zeros(shape, bool)
    return spread(mine["weight_scale"] == 0, shape)


def divisor_overflows(bits, mine, suffix, shape):
    return np.full(shape, mine["weight_global_scale"][0] == np.finfo(np.float32).max)


def anywhere(bits, mine, suffix, shape):
    return np.ones(shape, bool)


# ---- Scales for codes that are given one, by the page ----


def int8_ieee_scale(bits):
    amax = as_f32(magnitude(bits).max(axis=1, keepdims=True))
    scale = amax / np.float32(127)
    return np.where(scale == 0, np.float32(1), scale).astype(np.float32)


def int4_qat_scale(bits, size):
    amax = as_f32(magnitude(bits).reshape(len(bits), -1, size).max(axis=2))
    return np.maximum(amax * (np.float32(1) / np.float32(7)), np.float32(1e-5))


# ---- The cases ----


class Case:
    """scheme and profile; matrices; oracle(bits) -> arrays; where these may differ, and why: (mask, text) in turn."""

    def __init__(self, scheme, profile, make_inputs, package, what, oracle, reasons=(), golden=False):
        self.scheme, self.profile, self.make_inputs, self.package, self.what = scheme, profile, make_inputs, package, what
        self.oracle, self.reasons, self.golden = oracle, reasons, golden


def groups(size):
    return lambda: inputs.for_groups(size)


LEAST = (least_exponent, "E = 0: torchao divides by a larger scale than the one it stores")
CASES = [
    Case("fp8-channel", "default", inputs.for_rows, CT, "calculate_qparams, quantize; fp32", oracles.fp8_channel,
         [(below_the_floor, "rows of amax below 2^-9, where weft's least scale rules")], golden=True),
    Case("fp8-tensor", "default", lambda: inputs.for_tensors(1), CT, "the same", oracles.fp8_tensor,
         [(without_inverse, "1/s is Inf, or zeros: weft's s is 1"), (anywhere, "it divides by s, weft multiplies by 1/s")]),
    Case("int8-channel", "ieee", inputs.for_rows, CT, "quantize with weft's scale; fp32",
         lambda bits: oracles.int8_given(bits, int8_ieee_scale)),
    Case("int8-channel", "ct", inputs.for_rows, CT, "calculate_qparams, quantize; bf16", oracles.int8_ct, golden=True),
    *(Case(f"int4-group-{size}", "ieee", groups(size), CT, "the same with the scale rounded to bf16, pack_to_int32; fp32",
           oracles.int4_rounded_scale(size), golden=True) for size in INT4),
    *(Case(f"int4-group-{size}", "ct", groups(size), CT, "calculate_qparams, quantize, pack_to_int32; bf16",
           oracles.int4_ct(size), golden=True) for size in INT4),
    *(Case(f"int4-group-{size}", "qat", groups(size), CT, "quantize with weft's scale, pack_to_int32; fp32",
           oracles.int4_given(size, int4_qat_scale)) for size in INT4),
    Case("mxfp4", "default", groups(32), CT, "calculate_qparams, quantize, pack_fp4_to_uint8; bf16", oracles.mxfp4,
         [(minus_zeros, "-0, and what divides to it, loses its sign there"), (rounds_to_inf, "amax of 1.75 x 2^127 and more, which it rounds to Inf")]),
    Case("mxfp4", "default", groups(32), AO, "to_mx, EVEN", oracles.torchao_mx(torch.float4_e2m1fn_x2, "even"), [LEAST], golden=True),
    Case("mxfp8", "default", groups(32), AO, "to_mx, RCEIL", oracles.torchao_mx(torch.float8_e4m3fn, "rceil"), [LEAST], golden=True),
    Case("nvfp4", "default", lambda: inputs.for_tensors(16), CT, "generate_gparam, calculate_qparams, quantize; fp32", oracles.nvfp4,
         [(divisor_overflows, "S would be Inf: weft's is the largest fp32, its is 1"),
          (scale_of_zero, "a scale that rounds to 0, for which it stores 0.125"), (anywhere, "another order of operations")]),
    Case("fp8-block", "ieee", inputs.for_blocks, TORCH, "DeepGEMM's recipe restated", oracles.fp8_block(False), golden=True),
    Case("fp8-block", "pow2", inputs.for_blocks, TORCH, "the same, scales rounded up to powers of two", oracles.fp8_block(True),
         golden=True),
]


def version(package):
    return f"{package} {importlib.metadata.version(package)}"


def differing(found, expected):
    """Bytes that differ, item for item."""
    width = found.dtype.itemsize
    same_shape = found.shape == expected.shape and width == expected.dtype.itemsize
    if not same_shape:
        raise SystemExit(f"compare_packages.py: found {found.dtype} {found.shape}, expected {expected.dtype} {expected.shape}")
    pair = [np.ascontiguousarray(a).view(np.uint8).reshape(*a.shape, width) for a in (found, expected)]
    return (pair[0] != pair[1]).sum(axis=-1)


def compare_case(case, matrices, found):
    """-> bytes compared, bytes that differ for each reason, and for none"""
    compared = wrong = 0
    explained = [0] * len(case.reasons)
    for bits, mine in zip(matrices, found):
        for suffix, expected in case.oracle(bits).items():
            differ = differing(mine[suffix], expected)
            compared += mine[suffix].nbytes
            for i, (mask, _) in enumerate(case.reasons):
                here = mask(bits, mine, suffix, differ.shape)
                explained[i] += int(differ[here].sum())
                differ = np.where(here, 0, differ)
            wrong += int(differ.sum())
    return compared, explained, wrong


# ---- What packages make of the folder ----


def dequantized(scheme, mine, shape):
    """What docs/formats.md says the stored numbers stand for, in the type the package computes in -> float32."""
    if "weight_packed" in mine and scheme.startswith("int4"):
        words = mine["weight_packed"].view(np.uint32)
        q = ((words[..., None] >> np.uint32(4) * np.arange(8, dtype=np.uint32) & 15).astype(np.float32) - 8).reshape(shape)
        return round_bf16(in_groups(q, as_f32(mine["weight_scale"])))
    if "weight_packed" in mine:
        nibbles = np.stack([mine["weight_packed"] & 15, mine["weight_packed"] >> 4], axis=-1).reshape(shape)
        q = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)[nibbles & 7] * np.where(nibbles & 8, np.float32(-1), np.float32(1))
        if scheme == "mxfp4":
            return round_bf16(in_groups(q, powers(mine["weight_scale"])))
        return round_bf16(in_groups(q, e4m3(mine["weight_scale"]) / mine["weight_global_scale"][0]))
    q = mine["weight"].view(np.int8).astype(np.float32) if scheme.startswith("int8") else e4m3(mine["weight"])
    if scheme == "mxfp8":
        return round_bf16(in_groups(q, powers(mine["weight_scale"])))
    if scheme == "fp8-block":
        scale = mine["weight_scale_inv"]
        return q * scale.repeat(128, 0).repeat(128, 1)[: shape[0], : shape[1]]
    return q * mine["weight_scale"]


def e4m3(codes):
    return torch.from_numpy(np.array(codes)).view(torch.float8_e4m3fn).float().numpy()


def powers(exponents):
    return np.ldexp(1.0, exponents.astype(np.int32) - 127).astype(np.float32)


def in_groups(q, scale):
    return (q.reshape(len(q), scale.shape[1], -1) * scale[..., None]).reshape(q.shape).astype(np.float32)


def round_bf16(x):
    return torch.from_numpy(x).to(torch.bfloat16).float().numpy()


def read_folder(folder):
    from safetensors.torch import load_file

    tensors = {}
    for name in sorted(os.listdir(folder)):
        if name.endswith(".safetensors"):
            tensors.update(load_file(os.path.join(folder, name)))
    return tensors


def by_package(scheme, folder):
    """{module: float32} as the package reads the folder by its config.json alone."""
    if scheme == "fp8-block":
        from compressed_tensors.entrypoints.convert.converters import FP8BlockDequantizer

        converter = FP8BlockDequantizer.from_pretrained(folder, dtype=torch.float32)
    else:
        from compressed_tensors.entrypoints.convert.converters import CompressedTensorsDequantizer

        converter = CompressedTensorsDequantizer(folder, dtype=torch.float32)
    values = converter.validate(read_folder(folder))
    return {name.removesuffix(".weight"): value.numpy() for name, value in values.items()}


def compare_values(scheme, folder, matrices, found):
    """-> values compared, values that differ"""
    values = by_package(scheme, folder)
    compared = different = 0
    for i, (bits, mine) in enumerate(zip(matrices, found)):
        expected = dequantized(scheme, mine, bits.shape)
        differ = (values[f"m{i}"].view(np.uint32) != expected.view(np.uint32))
        compared += differ.size
        different += int(differ.sum())
    return compared, different


# ---- Golden vectors: the packages' answers, in the format of tests/oracle/golden.py ----


def small_inputs(case):
    """A 64th of some sweeps, and the shapes, cut to the 128 rows that a kernel takes; without what may differ."""
    multiple = {"int4-group-64": 64, "int4-group-128": 128, "int8-channel": 1, "fp8-channel": 1, "fp8-block": 1}.get(case.scheme, 32)
    rng = np.random.default_rng(inputs.SEED)
    swept = []
    for amax in inputs.CHOSEN[::3]:
        values = np.resize(inputs.below(amax)[rng.integers(0, 64) :: 64], (4 * 256 // 32, 32))
        values[:, 0] = amax
        swept.append(values.reshape(4, 256))
    return [bits[:128] for bits in swept + inputs.ragged(multiple) if not may_differ(case, bits[:128])]


def may_differ(case, bits):
    """Whether any reason is met: a row below the floor, or a group with E = 0."""
    low = {below_the_floor: 0x3B00, least_exponent: 0x0500}
    size = 32 if case.reasons == [LEAST] else bits.shape[1]
    least = magnitude(bits).reshape(len(bits), -1, size).max(axis=2).min()
    return any(least < low[mask] for mask, _ in case.reasons)


OUT_DTYPES = {"int8-channel": "I8", "mxfp4": "U8", "mxfp8": "F8_E4M3", "fp8-block": "F8_E4M3", "fp8-channel": "F8_E4M3"}


def golden_cases():
    for case in CASES:
        if not case.golden:
            continue
        for bits in small_inputs(case):
            made = case.oracle(bits)
            codes = made["weight_packed" if "weight_packed" in made else "weight"]
            scale = made["weight_scale_inv" if "weight_scale_inv" in made else "weight_scale"]
            yield b"".join(golden.case(bits, case.scheme, case.profile, OUT_DTYPES.get(case.scheme, "I32"), codes, scale))


def write_golden(path):
    versions = ", ".join(version(package) for package in (CT, AO, TORCH))
    golden.write(path, f"weft golden vectors of packages\ntests/packages/compare_packages.py\n{versions}\nCPU: {cpu_name()}\n", list(golden_cases()))


# ---- All of it ----


def cpu_name():
    with open("/proc/cpuinfo") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("weft")
    arguments.add_argument("--only", default="", metavar="TEXT", help="schemes whose name holds TEXT")
    arguments.add_argument("--write-golden", metavar="FILE")
    options = arguments.parse_args()
    np.seterr(over="ignore")  # the largest codes times the largest scales
    print(f"Python {platform.python_version()}, NumPy {np.__version__}, {cpu_name()}\n")
    print("| scheme | profile | oracle | of it | bytes compared | bytes different | why |\n|---|---|---|---|---|---|---|")
    wrong = compared_in_all = 0
    for case in CASES:
        if options.only not in case.scheme:
            continue
        matrices = case.make_inputs()
        with tempfile.TemporaryDirectory() as work:
            folder, found = run_weft(options.weft, work, matrices, case.scheme, case.profile)
            compared, explained, bad = compare_case(case, matrices, found)
            values, unequal = compare_values(case.scheme, folder, matrices, found)
        why = "; ".join(f"{count:,}: {text}" for count, (_, text) in zip(explained, case.reasons) if count)
        different = sum(explained) + bad
        print(f"| {case.scheme} | {case.profile} | {version(case.package)} | {case.what} | {compared:,} | {different:,} | {why} |")
        print(f"| {case.scheme} | {case.profile} | {version(CT)} | dequantizing the folder, values | {values:,} | {unequal:,} | |", flush=True)
        wrong += bad + unequal
        compared_in_all += compared
    if options.write_golden:
        write_golden(options.write_golden)
    print(f"\n{compared_in_all:,} bytes compared, {wrong:,} wrong")
    sys.exit(1 if wrong or not compared_in_all else 0)


if __name__ == "__main__":
    main()
