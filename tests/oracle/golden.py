#!/usr/bin/python3
"""Write the golden vectors that tests/unit/kernels/test_golden.c checks.

    golden.py tests/unit/kernels/golden/kernels.bin

Little-endian. A text header of 256 bytes, the number of cases as uint32, then each case:

    kernel, profile, dtype, out dtype   16 bytes of text each, padded with NUL
    rows, cols, nonfinite row, column   uint32 each; 0xFFFFFFFF where every element is finite
    input, output, scales, the scale of the whole beside them: uint32 bytes, then the bytes, each
"""

import functools
import struct
import sys

import numpy as np

import quantize

SEED = 20240229
HEADER_BYTES = 256
FINITE = 0xFFFFFFFF


# ---- Inputs, as uint16 (bf16), float16 or float32 ----


def weights(rng, rows, cols):
    return quantize.cast_bf16(rng.normal(0, 0.02, (rows, cols)))


def any_finite(rng, rows, cols):
    """Every exponent: most of a block vanishes beside its largest."""
    bits = rng.integers(0, 0x10000, (rows, cols)).astype(np.uint16)
    return np.where((bits & 0x7F80) == 0x7F80, np.uint16(0x8000), bits)


def tiny(rng, rows, cols):
    """Below the floors: subnormals, zeros of both signs, and a few around 1e-4."""
    bits = rng.integers(0, 0x180, (rows, cols)).astype(np.uint16)
    bits[:, ::7] = quantize.cast_bf16(rng.uniform(0, 1e-4, bits[:, ::7].shape))
    return bits | (rng.integers(0, 2, (rows, cols)) << 15).astype(np.uint16)


def zeros(rng, rows, cols):
    return (rng.integers(0, 2, (rows, cols)) << 15).astype(np.uint16)


def ties(rng, rows, cols):
    """Largest 448, so that a scale is 1 and every value meets its tie."""
    values = np.concatenate([quantize.E4M3_TIES, quantize.E4M3_MAGNITUDES])
    values = np.concatenate([values, -values])
    x = np.resize(values, rows * cols).reshape(rows, cols)
    x[:, -1] = 448
    return quantize.cast_bf16(x)


def with_nonfinite(rng, rows, cols):
    w = weights(rng, rows, cols)
    for bits in (0x7F80, 0xFF80, 0x7FC0, 0xFFC1, 0x7F81):
        w[rng.integers(1, rows), rng.integers(0, cols)] = bits
    return w


def half(rng, rows, cols):
    w = rng.normal(0, 0.02, (rows, cols)).astype(np.float16)
    w[:, ::11] = rng.integers(0, 0x400, w[:, ::11].shape).astype(np.uint16).view(np.float16)
    return w


def single(rng, rows, cols):
    """Between two bf16, a third of them exactly halfway."""
    bits = rng.normal(0, 0.02, (rows, cols)).astype(np.float32).view(np.uint32)
    bits[:, ::3] = (bits[:, ::3] & 0xFFFF0000) | 0x8000
    return bits.view(np.float32)


INPUTS = (
    (weights, 6, 300),
    (any_finite, 6, 140),
    (tiny, 6, 130),
    (zeros, 4, 128),
    (ties, 8, 128),
    (with_nonfinite, 4, 200),
    (half, 6, 150),
    (single, 5, 150),
    (weights, 4, 256),
    (any_finite, 4, 384),
    (tiny, 4, 256),
    (with_nonfinite, 4, 256),
    (half, 4, 256),
    (single, 3, 128),
)


# ---- Cases ----


# Kernels of groups: name, out dtype, function, profile, elements of a group.
GROUPED = (
    ("mxfp8", "F8_E4M3", quantize.quantize_mxfp8, "default", 32),
    ("mxfp4", "U8", quantize.quantize_mxfp4, "default", 32),
    *(
        (f"int4-group-{size}", "I32", functools.partial(quantize.quantize_int4_group, size=size), profile, size)
        for size in (32, 64, 128)
        for profile in quantize.INT4_PROFILES
    ),
)


def dtype_name(w):
    return {"uint16": "BF16", "float16": "F16", "float32": "F32"}[w.dtype.name]


def results(w):
    """Every kernel over one input: (kernel, profile, out dtype, output, scales)."""
    for profile in quantize.BLOCK_PROFILES:
        yield "fp8-block", profile, "F8_E4M3", *quantize.quantize_fp8_block(w, profile)
    yield "fp8-channel", "default", "F8_E4M3", *quantize.quantize_fp8_channel(w)
    for profile in quantize.INT8_PROFILES:
        yield "int8-channel", profile, "I8", *quantize.quantize_int8_channel(w, profile)
    for kernel, out_dtype, function, profile, group in GROUPED:
        if w.shape[1] % group == 0:
            yield kernel, profile, out_dtype, *function(w, profile)
    codes, scale = quantize.quantize_fp8_tensor(w)
    yield "fp8-tensor", "default", "F8_E4M3", codes, np.array([scale])
    for profile in quantize.NVFP4_PROFILES:
        if w.shape[1] % quantize.NVFP4_GROUP == 0:
            codes, scales, multiplier = quantize.quantize_nvfp4(w, profile)
            yield "nvfp4", profile, "U8", codes, scales, np.array([multiplier])
    for out_dtype in ("BF16", "F16", "F32"):
        yield "cast", "default", out_dtype, quantize.cast(w, out_dtype), np.zeros(0, np.float32)


def first_nonfinite(x):
    places = np.argwhere(~np.isfinite(x))
    return [int(i) for i in places[0]] if len(places) else [FINITE, FINITE]


def case(w, kernel, profile, out_dtype, output, scales, whole=np.zeros(0, np.float32)):
    names = (kernel, profile, dtype_name(w), out_dtype)
    yield b"".join(name.encode().ljust(16, b"\0") for name in names)
    looked_at = quantize.cast_f32(output) if kernel == "cast" else quantize.as_f32(w)
    yield struct.pack("<4I", *w.shape, *first_nonfinite(looked_at))
    for array in (w, output, scales, whole):
        yield struct.pack("<I", array.nbytes) + np.ascontiguousarray(array).tobytes()


def write(path, header, cases):
    """`header` says who made it, of what."""
    with open(path, "wb") as file:
        file.write(header.encode().ljust(HEADER_BYTES))
        file.write(struct.pack("<I", len(cases)) + b"".join(cases))


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    rng = np.random.default_rng(SEED)
    cases = []
    for make, rows, cols in INPUTS:
        w = make(rng, rows, cols)
        cases += [b"".join(case(w, *result)) for result in results(w)]
    write(sys.argv[1], f"weft golden vectors, version 2\ntests/oracle/golden.py, NumPy {np.__version__}, seed {SEED}, host CPU\n", cases)


if __name__ == "__main__":
    main()
