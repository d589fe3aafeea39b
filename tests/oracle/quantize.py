"""The quantization schemes of docs/numerics.md, restated in NumPy.

An oracle: written from the page and not from the C code, with other means. An e4m3 code is found by searching a
table of all its values, an exponent by frexp, a maximum by comparing numbers. Slow and plain on purpose.

Weights are [N, K]. bf16 is given as uint16, its bits; float16 and float32 arrays are taken as they are, float32
being rounded to bf16 first.
"""

import numpy as np

BLOCK = 128
LARGEST = np.float32(448)
BLOCK_FLOOR = np.float32(1e-4)
CHANNEL_FLOOR = np.float32(1) / np.float32(448 * 512)
BLOCK_PROFILES = ("ieee", "vllm", "pow2", "vllm-pow2")


# ---- Elements ----


def bf16_to_f32(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def cast_bf16(x):
    """float32 (or float16) to bf16 bits: nearest, ties to even, NaN to 0x7FFF."""
    x = np.asarray(x).astype(np.float32)
    bits = x.view(np.uint32).astype(np.uint64)
    low, kept = bits & 0xFFFF, bits >> 16
    up = (low > 0x8000) | ((low == 0x8000) & (kept % 2 == 1))
    return np.where(np.isnan(x), 0x7FFF, kept + up).astype(np.uint16)


def cast_f16(x):
    """float32 to fp16 bits, NaN to 0x7FFF. NumPy's own conversion rounds to nearest even and keeps subnormals."""
    x = np.asarray(x, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        bits = x.astype(np.float16).view(np.uint16)
    return np.where(np.isnan(x), 0x7FFF, bits).astype(np.uint16)


def cast_f32(w):
    """bf16 bits, float16 or float32 to float32, exactly; a NaN keeps its bits."""
    if w.dtype == np.uint16:
        return bf16_to_f32(w)
    if w.dtype == np.float32:
        return w
    bits = w.view(np.uint16).astype(np.uint32)
    nan = (bits & 0x8000) << 16 | 0x7F800000 | (bits & 0x3FF) << 13
    with np.errstate(invalid="ignore"):
        return np.where(np.isnan(w), nan, w.astype(np.float32).view(np.uint32)).astype(np.uint32).view(np.float32)


def cast(w, dtype):
    """The weights as "BF16", "F16" or "F32": as they are where they are that, else rounded once."""
    if {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}[dtype] == w.dtype:
        return w
    x = cast_f32(w)
    return x if dtype == "F32" else cast_bf16(x) if dtype == "BF16" else cast_f16(x).view(np.float16)


def as_f32(w):
    """What every scheme starts from: the weights as float32, exactly."""
    if w.dtype == np.uint16:
        return bf16_to_f32(w)
    if w.dtype == np.float16:
        return w.astype(np.float32)
    if w.dtype == np.float32:
        return bf16_to_f32(cast_bf16(w))
    raise TypeError(f"weights of {w.dtype}")


def _e4m3_value(code):
    exponent, mantissa = code >> 3 & 15, code & 7
    return mantissa * 2.0**-9 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7)


E4M3_MAGNITUDES = np.array([_e4m3_value(code) for code in range(127)])  # float64; code 127 is NaN
E4M3_TIES = (E4M3_MAGNITUDES[:-1] + E4M3_MAGNITUDES[1:]) / 2
E4M3_VALUES = np.concatenate([E4M3_MAGNITUDES, [np.nan], -E4M3_MAGNITUDES, [np.nan]]).astype(np.float32)


def e4m3(x):
    """float32 to e4m3 codes: nearest, ties to even, saturating, -0 kept, NaN to 0x7F."""
    magnitude = np.abs(x.astype(np.float64))
    code = np.searchsorted(E4M3_TIES, magnitude, side="left")
    tie = E4M3_TIES[np.minimum(code, len(E4M3_TIES) - 1)] == magnitude
    code = np.where(tie & (code % 2 == 1) & (code < len(E4M3_TIES)), code + 1, code)
    code = np.where(np.isnan(x), 0x7F, code | np.where(np.signbit(x), 0x80, 0))
    return code.astype(np.uint8)


# ---- fp8-block ----


def power_of_two_above(v):
    """The least power of two that is not below v."""
    mantissa, exponent = np.frexp(np.float64(v))
    return np.float32(np.ldexp(1.0, int(exponent) - (1 if mantissa == 0.5 else 0)))


def finite_amax(x):
    magnitude = np.abs(x[np.isfinite(x)])
    return np.float32(magnitude.max()) if magnitude.size else np.float32(0)


def _block(x, profile):
    """Codes and scale of one block of float32."""
    if profile == "vllm-pow2":
        codes, scale = _block(x, "vllm")
        return _block(E4M3_VALUES[codes] * scale, "pow2")
    amax = np.maximum(finite_amax(x), BLOCK_FLOOR)
    if profile == "vllm":
        scale = amax * (np.float32(1) / LARGEST)
    else:
        scale = amax / LARGEST
    if profile == "pow2":
        scale = power_of_two_above(scale)
    with np.errstate(invalid="ignore"):  # a NaN that was allowed
        return e4m3(x * (np.float32(1) / scale)), scale


def quantize_fp8_block(w, profile="ieee"):
    """-> codes uint8 [N, K], scales float32 [ceil(N/128), ceil(K/128)]."""
    if profile not in BLOCK_PROFILES:
        raise ValueError(f"profile {profile!r} is none of {', '.join(BLOCK_PROFILES)}")
    x = as_f32(w)
    rows, cols = x.shape
    codes = np.zeros((rows, cols), np.uint8)
    scales = np.zeros((-(-rows // BLOCK), -(-cols // BLOCK)), np.float32)
    for i, row in enumerate(range(0, rows, BLOCK)):
        for j, col in enumerate(range(0, cols, BLOCK)):
            place = np.s_[row : row + BLOCK, col : col + BLOCK]
            codes[place], scales[i, j] = _block(x[place], profile)
    return codes, scales


# ---- fp8-channel ----


def quantize_fp8_channel(w, row_amax=None):
    """-> codes uint8 [N, K], scales float32 [N, 1]. `row_amax` float32 [N]: of the whole rows, where w is a part."""
    x = as_f32(w)
    if row_amax is None:
        row_amax = np.where(np.isfinite(x), np.abs(x), np.float32(0)).max(axis=1, initial=0)
    scales = np.maximum(row_amax / LARGEST, CHANNEL_FLOOR).astype(np.float32)[:, None]
    with np.errstate(invalid="ignore"):
        return e4m3(x / scales), scales


# ---- int8-channel ----

INT8_PROFILES = ("ieee", "vllm", "ct")
CT_ZERO_SCALE = np.float32(2**-7)


def round_bf16(x):
    """float32 to the nearest bf16, as float32."""
    return bf16_to_f32(cast_bf16(x))


def integers(quotient, low, high):
    """float32 to integers: nearest, ties to even (which is how NumPy rounds), clamped, NaN to 0."""
    return np.nan_to_num(np.clip(np.round(quotient.astype(np.float64)), low, high), nan=0).astype(np.int8)


def row_maxima(x):
    return np.where(np.isfinite(x), np.abs(x), np.float32(0)).max(axis=-1, initial=0).astype(np.float32)


def quantize_int8_channel(w, profile="ieee", row_amax=None):
    """-> codes int8 [N, K], scales float32 [N, 1]."""
    if profile not in INT8_PROFILES:
        raise ValueError(f"profile {profile!r} is none of {', '.join(INT8_PROFILES)}")
    x = as_f32(w)
    amax = row_maxima(x) if row_amax is None else row_amax
    if profile == "ieee":
        scales, zero = amax / np.float32(127), np.float32(1)
    elif profile == "vllm":
        scales, zero = round_bf16(amax * (np.float32(1) / np.float32(127))), np.float32(1)
    else:
        scales, zero = round_bf16(amax / np.float32(127.5)), CT_ZERO_SCALE
    scales = np.where(scales == 0, zero, scales).astype(np.float32)[:, None]
    with np.errstate(invalid="ignore", over="ignore"):
        quotient = x / scales
        if profile != "ieee":
            quotient = np.where(np.isfinite(quotient), round_bf16(quotient), quotient)
    return integers(quotient, -128 if profile == "ct" else -127, 127), scales


# ---- mxfp8, mxfp4 ----

E2M1_MAGNITUDES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
MX_GROUP = 32


def e2m1(x):
    """float32 to e2m1 codes: the nearest, of two the even one, saturating, -0 kept, NaN to 0."""
    magnitude = np.minimum(np.abs(np.nan_to_num(x.astype(np.float64), nan=0.0, posinf=6.0, neginf=-6.0)), 6.0)
    distance = np.abs(magnitude[..., None] - E2M1_MAGNITUDES)
    nearest = distance == distance.min(axis=-1, keepdims=True)
    even = nearest & (np.arange(8) % 2 == 0)
    code = np.where(even.any(axis=-1), even.argmax(axis=-1), nearest.argmax(axis=-1))
    return np.where(np.isnan(x), 0, code | np.where(np.signbit(x), 8, 0)).astype(np.uint8)


def pack_nibbles(codes):
    """The code of the even column low."""
    return codes[:, 0::2] | codes[:, 1::2] << 4


def in_groups(x, size):
    rows, cols = x.shape
    if cols % size:
        raise ValueError(f"{cols} columns are not whole groups of {size}")
    return x.reshape(rows, cols // size, size)


def mx_exponent_up(v):
    """The least E >= 0 with v <= 2^(E - 127), except that fp32 has no E of 0 for normal numbers: a subnormal above
    2^-127 is rounded to E = 1."""
    if v == 0:
        return 0
    mantissa, exponent = np.frexp(np.float64(v))
    return min(max(int(exponent) - (1 if mantissa == 0.5 else 0) + 127, 0), 254)


def mx_exponent_nearest(amax):
    """Of amax as 1.m x 2^e, e; one more when m is at least .75; two less, as 6 is 1.5 x 2^2."""
    if amax == 0:
        return 0
    mantissa, exponent = np.frexp(np.float64(amax))
    if exponent - 1 < -126:  # a subnormal: its field is 0, and 0x200000 of 2^23 never carries unless it is near the top
        return max((1 if float(amax) / 2**-126 >= 0.75 else 0) - 2, 0)
    return max(int(exponent) - 1 + 127 + (1 if mantissa >= 0.875 else 0) - 2, 0)


def _quantize_mx(w, exponent_of):
    x = in_groups(as_f32(w), MX_GROUP)
    exponents = np.array([[exponent_of(v) for v in row] for row in row_maxima(x)], dtype=np.uint8).reshape(x.shape[:2])
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = x.astype(np.float64) * np.ldexp(1.0, 127 - exponents.astype(int))[..., None]
    return scaled.astype(np.float32).reshape(w.shape), exponents


def quantize_mxfp8(w, profile="default"):
    """-> codes uint8 [N, K], exponents uint8 [N, K/32]."""
    scaled, exponents = _quantize_mx(w, lambda amax: mx_exponent_up(np.float32(amax) / LARGEST))
    return e4m3(scaled), exponents


def quantize_mxfp4(w, profile="default"):
    """-> packed uint8 [N, K/2], exponents uint8 [N, K/32]."""
    scaled, exponents = _quantize_mx(w, mx_exponent_nearest)
    return pack_nibbles(e2m1(scaled)), exponents


# ---- int4-group ----

INT4_PROFILES = ("ieee", "ct", "qat")


def quantize_int4_group(w, profile="ieee", size=128):
    """-> words int32 [N, K/8], scales uint16 (bf16) [N, K/size]."""
    if profile not in INT4_PROFILES:
        raise ValueError(f"profile {profile!r} is none of {', '.join(INT4_PROFILES)}")
    x = in_groups(as_f32(w), size)
    amax = row_maxima(x)
    if profile == "qat":
        scales = np.maximum(amax * (np.float32(1) / np.float32(7)), np.float32(1e-5))
    else:
        scales = round_bf16(amax / np.float32(7.5))
        scales = np.where(scales == 0, CT_ZERO_SCALE if profile == "ct" else np.float32(1), scales)
    with np.errstate(invalid="ignore", over="ignore"):
        quotient = x / scales[..., None].astype(np.float32)
        if profile == "ct":
            quotient = np.where(np.isfinite(quotient), round_bf16(quotient), quotient)
    codes = (integers(quotient, -8, 7).astype(np.int64) + 8).reshape(len(w), -1, 8)
    words = (codes << 4 * np.arange(8)).sum(axis=2).astype(np.uint32).view(np.int32)
    return words, cast_bf16(scales.astype(np.float32))


# ---- how scales lie, each of one matrix ----


def pad_scales(grid, rows, cols):
    """Zeros below and to the right, up to multiples."""
    return np.pad(grid, ((0, -grid.shape[0] % rows), (0, -grid.shape[1] % cols)))


def arrange_128x4(grid):
    """-> the same shape, padded, in pieces of 128 x 4 of which the rows r, r + 32, r + 64, r + 96 lie together."""
    padded = pad_scales(grid, 128, 4)
    pieces = padded.reshape(padded.shape[0] // 128, 4, 32, padded.shape[1] // 4, 4)
    return np.ascontiguousarray(pieces.transpose(0, 3, 2, 1, 4)).reshape(padded.shape)


def arrange_deepgemm(grid, rows):
    """float32 powers of two -> int32 [blocks / 4, rows], the exponents of four blocks in each, little-endian, for every row."""
    exponents = (np.repeat(grid, BLOCK, axis=0)[:rows].view(np.uint32) >> 23).astype(np.uint8)
    words = np.ascontiguousarray(pad_scales(exponents, 1, 4)).view("<i4")
    return np.ascontiguousarray(pad_scales(words.T, 1, 4))


def arrange_marlin_scales(grid):
    """[N, groups] -> [groups, N], of which 64 columns (32 where there is one group) are in the order of a thread's."""
    places = np.arange(64 if grid.shape[1] > 1 else 32)
    if grid.shape[1] > 1:
        order = 8 * (places % 8) + places // 8
    else:
        order = 2 * (places // 8) + 8 * (places % 8 // 2) + places % 2
    return np.ascontiguousarray(grid.T.reshape(grid.shape[1], -1, len(order))[:, :, order]).reshape(grid.T.shape)


def marlin_extent(rows, cols, group):
    """What Marlin pads a matrix to: tiles of 64 x 128 or 128 x 64 in whole groups, the fewer elements, then the lesser sum, then the first."""
    up = lambda extent, of: -(-extent // of) * of
    tiles = [(up(rows, n), up(cols, int(np.lcm(k, group)))) for n, k in ((64, 128), (128, 64))]
    return min(tiles, key=lambda of: (of[0] * of[1], sum(of)))


def pad_to(array, rows, cols):
    return np.pad(array, ((0, rows - array.shape[0]), (0, cols - array.shape[1])))


def marlin_unsigned(codes):
    """int8 as the value + 128."""
    return (codes.astype(np.int16) + 128).astype(np.uint8) if codes.dtype == np.int8 else codes


def arrange_marlin_bytes(codes):
    """A byte each, [N, K] -> int32 [K/16, 4N]: n is (tile, warp, half, r), k is (tile, half, pair, which), each axis of one of them."""
    rows, cols = codes.shape
    axes = codes.reshape(rows // 64, 4, 2, 8, cols // 16, 2, 4, 2)
    return np.ascontiguousarray(axes.transpose(4, 0, 3, 6, 1, 2, 7, 5)).reshape(cols // 16, rows * 16).view("<i4")


def marlin_scales(scales, fp8):
    """float32 -> bf16 bits, those of e4m3 codes times 2^120, which bf16 may not hold."""
    stored = cast_bf16(scales)
    if not fp8:
        return stored
    with np.errstate(over="ignore"):
        return cast_bf16(bf16_to_f32(stored) * np.float32(2.0**120))


def arrange_marlin_codes(words):
    """int32 [N, K/8] of eight codes along K -> int32 [K/16, 2N]: tiles of 16 x 64, a word of a thread of four warps each."""
    if words.dtype != np.int32:
        return arrange_marlin_bytes(words)
    codes = (words[..., None].view(np.uint32) >> (4 * np.arange(8, dtype=np.uint32)) & 15).reshape(len(words), -1)
    rows, cols = codes.shape
    out = np.empty((cols // 16, rows // 64, 32, 4), np.uint32)
    for thread in range(32):
        for warp in range(4):
            n = warp * 16 + thread // 4 + np.arange(rows // 64) * 64
            k = (2 * (thread % 4) + np.arange(cols // 16) * 16)[:, None]
            v = [codes[n + 8 * (i // 4), k + (0, 1, 8, 9)[i % 4]] for i in range(8)]
            out[:, :, thread, warp] = sum(v[i].astype(np.uint32) << np.uint32(4 * place) for place, i in enumerate((0, 2, 4, 6, 1, 3, 5, 7)))
    return out.reshape(cols // 16, rows * 2).view(np.int32)


ARRANGE = {
    "plain": lambda grid, rows: grid,
    "padded": lambda grid, rows: pad_scales(grid, 1, 4),
    "deepgemm": arrange_deepgemm,
    "128x4": lambda grid, rows: arrange_128x4(grid),
    "marlin": lambda grid, rows: arrange_marlin_scales(grid),
}
ARRANGE_CODES = {"marlin": arrange_marlin_codes}  # of the others they stay as they are


# ---- fp8-tensor, nvfp4: `amax` is that of all tensors that share the scale ----

FLT_MAX = np.finfo(np.float32).max
NVFP4_PROFILES = ("default", "modelopt")
NVFP4_GROUP = 16


def amax_of(tensors):
    return max(finite_amax(as_f32(w)) for w in tensors)


def quantize_fp8_tensor(w, profile="default", amax=None):
    """-> codes uint8 [N, K], scale float32."""
    x = as_f32(w)
    amax = np.float32(amax_of([w]) if amax is None else amax)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        scale = amax / LARGEST
        if not np.isfinite(np.float32(1) / scale):
            scale = np.float32(1)
        return e4m3(x * (np.float32(1) / scale)), np.float32(scale)


def quantize_nvfp4(w, profile="default", amax=None):
    """-> packed uint8 [N, K/2], scales uint8 (e4m3) [N, K/16], the multiplier of the whole tensor float32."""
    if profile not in NVFP4_PROFILES:
        raise ValueError(f"profile {profile!r} is none of {', '.join(NVFP4_PROFILES)}")
    x = in_groups(as_f32(w), NVFP4_GROUP)
    amax = np.float32(amax_of([w]) if amax is None else amax)
    group_amax = row_maxima(x)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        if profile == "modelopt":
            multiplier = np.float32(1) if amax == 0 else amax / np.float32(2688)
            quotient = group_amax / (np.float32(6) * multiplier)
            scales = e4m3(np.where(quotient == 0, np.float32(1), np.clip(quotient, np.float32(2**-9), LARGEST)))
            divisor = (E4M3_VALUES[scales] * multiplier)[..., None]
            zeros = np.where(np.isfinite(x), np.copysign(np.float32(0), x), x)
            codes = e2m1(np.where(divisor == 0, zeros, x / divisor))
        else:
            s = np.float32(1) if amax == 0 else min(np.float32(2688) / amax, FLT_MAX)
            multiplier = np.float32(1) / s
            scales = e4m3(group_amax * (s * (np.float32(1) / np.float32(6))))
            factor = np.minimum(np.float32(1) / (E4M3_VALUES[scales] * multiplier), FLT_MAX)
            codes = e2m1(x * factor[..., None].astype(np.float32))
    return pack_nibbles(codes.reshape(w.shape)), scales, np.float32(multiplier)
