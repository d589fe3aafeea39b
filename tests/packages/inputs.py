"""Matrices of bf16 bits (uint16) to quantize: every value there is under chosen scales, and what is easily got wrong."""

import numpy as np

SIGN, MAGNITUDE, INF = 0x8000, 0x7FFF, 0x7F80
SEED = 20261126

# Largest magnitudes of a domain: powers of two and codes' own, the formats' ends, floors and their neighbours.
CHOSEN = (
    0x0001, 0x007F, 0x0080, 0x0100, 0x1234,  # subnormals, the least normal, tiny
    0x38D1, 0x38D2,  # either side of 1e-4
    0x3AFF, 0x3B00, 0x3B01,  # 2^-9: below it fp8-channel's floor rules
    0x3C23, 0x3CA4, 0x3D4D, 0x3DCD,  # as weights have
    0x3F80, 0x4060, 0x40C0, 0x40E0, 0x40F0,  # 1, 3.5, 6, 7, 7.5
    0x42FE, 0x42FF, 0x43DF, 0x43E0, 0x43E1,  # 127, 127.5, around 448
    0x4528, 0x7EAB, 0x7F7F,  # 2688, the largest
)


def finite():
    """All 65,280 finite bf16 values."""
    bits = np.arange(0x10000, dtype=np.uint32)
    return bits[(bits & MAGNITUDE) < INF].astype(np.uint16)


def below(amax):
    """All of them, those above `amax` replaced by zeros."""
    bits = finite()
    return np.where((bits & MAGNITUDE) <= amax, bits, 0).astype(np.uint16)


def sweep_in_groups(amax, size):
    """One row: groups of `size` that begin with `amax` and go on with every value, in turn."""
    values = below(amax)
    groups = -(-len(values) // (size - 1))
    row = np.zeros((groups, size), np.uint16)
    row[:, 0] = amax
    row[:, 1:] = np.resize(values, groups * (size - 1)).reshape(groups, size - 1)
    return row.reshape(1, -1)


def sweep_in_rows(amaxes):
    """A row for each amax: it, then every value; some zeros more to a multiple of 128."""
    rows = np.zeros((len(amaxes), 65408), np.uint16)
    for row, amax in zip(rows, amaxes):
        row[0] = amax
        row[1 : 1 + 65280] = below(amax)
    return rows


def sweep_in_blocks(amax):
    """Blocks of 128 x 128 that each begin with `amax`."""
    values = np.resize(below(amax), (4, 128 * 128))
    values[:, 0] = amax
    return np.concatenate(list(values.reshape(4, 128, 128)), axis=1)


def weights(rng, rows, cols):
    """As of a trained layer: normal, sigma 0.02."""
    return (rng.normal(0, 0.02, (rows, cols)).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def zeros(rng, rows, cols):
    return (rng.integers(0, 2, (rows, cols)) << 15).astype(np.uint16)


def subnormals(rng, rows, cols):
    return (rng.integers(0, 0x80, (rows, cols)) | rng.integers(0, 2, (rows, cols)) << 15).astype(np.uint16)


def any_finite(rng, rows, cols):
    bits = rng.integers(0, 0x10000, (rows, cols)).astype(np.uint16)
    return np.where((bits & INF) == INF, np.uint16(SIGN), bits)


def ragged(multiple):
    """Shapes: small, of one row, of one column where that can be; columns are a multiple of `multiple`."""
    rng = np.random.default_rng(SEED)
    whole = [weights(rng, 7, 3 * multiple if multiple > 1 else 300), weights(rng, 1, 5 * multiple), weights(rng, 129, multiple)]
    return whole + [make(rng, 5, 2 * max(multiple, 16)) for make in (zeros, subnormals, any_finite)]


def for_rows():
    return [sweep_in_rows(CHOSEN)] + ragged(1)


def for_groups(size):
    return [np.concatenate([sweep_in_groups(amax, size) for amax in CHOSEN])] + ragged(size)


def for_blocks():
    rng = np.random.default_rng(SEED)
    return [sweep_in_blocks(amax) for amax in CHOSEN] + [weights(rng, 200, 300), weights(rng, 1, 129)] + ragged(1)


def for_tensors(multiple):
    """A matrix for each amax, as one scale is for all of it."""
    width = 128 * multiple
    swept = [np.resize(np.concatenate([[amax], below(amax)]), (-(-65281 // width), width)).astype(np.uint16) for amax in CHOSEN]
    return swept + ragged(multiple)
