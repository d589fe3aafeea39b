"""What the packages make of a matrix: {suffix of the stored name: array}. Inputs are bf16 bits, on the CPU.

`scale_of` gives what the package is handed where only its codes are compared. No zero points are handed to it: what is symmetric
has none, and adding one of 0 would take the sign of a -0."""

import numpy as np
import torch
from compressed_tensors.compressors.mx_utils import compress_mx_scale
from compressed_tensors.compressors.nvfp4.helpers import pack_fp4_to_uint8
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import quantize
from compressed_tensors.quantization.quant_scheme import MXFP4A16, NVFP4A16
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam


def bf16(bits):
    return torch.from_numpy(np.ascontiguousarray(bits).view(np.int16)).view(torch.bfloat16)


def array(tensor):
    """As NumPy has it: e4m3 as its bytes, bf16 as its bits."""
    if tensor.dtype in (torch.float8_e4m3fn, torch.float8_e8m0fnu):
        return tensor.view(torch.uint8).numpy()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()


def args(**more):
    return QuantizationArgs(symmetric=True, dynamic=False, **more)


CHANNEL_FP8 = args(num_bits=8, type="float", strategy="channel")
TENSOR_FP8 = args(num_bits=8, type="float", strategy="tensor")
CHANNEL_INT8 = args(num_bits=8, type="int", strategy="channel")
MXFP4, NVFP4 = MXFP4A16["weights"], NVFP4A16["weights"]


def group_int4(size):
    return args(num_bits=4, type="int", strategy="group", group_size=size)


def minmax(x, size=None):
    """Of rows, or of groups of `size`."""
    view = x if size is None else x.unflatten(-1, (-1, size))
    return torch.amin(view, -1, keepdim=size is None), torch.amax(view, -1, keepdim=size is None)


# ---- compressed-tensors ----


def fp8_channel(bits):
    x = bf16(bits).float()
    scale, _ = calculate_qparams(*minmax(x), CHANNEL_FP8)
    return {"weight": array(quantize(x, scale, None, CHANNEL_FP8, dtype=torch.float8_e4m3fn)), "weight_scale": array(scale)}


def fp8_tensor(bits):
    x = bf16(bits).float()
    scale, _ = calculate_qparams(x.min(), x.max(), TENSOR_FP8)
    return {"weight": array(quantize(x, scale, None, TENSOR_FP8, dtype=torch.float8_e4m3fn)), "weight_scale": array(scale)}


def int8_ct(bits):
    """All of it in bf16, as the weights are. The scale is widened: weft stores fp32."""
    x = bf16(bits)
    scale, _ = calculate_qparams(*minmax(x), CHANNEL_INT8)
    return {"weight": array(quantize(x, scale, None, CHANNEL_INT8, dtype=torch.int8)), "weight_scale": array(scale.float())}


def int8_given(bits, scale_of):
    x, scale = bf16(bits).float(), torch.from_numpy(scale_of(bits))
    return {"weight": array(quantize(x, scale, None, CHANNEL_INT8, dtype=torch.int8))}


def int4_result(codes, scale, bits):
    return {"weight_packed": array(pack_to_int32(codes, 4)), "weight_scale": array(scale.to(torch.bfloat16)),
            "weight_shape": np.array(bits.shape, np.int64)}


def int4_ct(size):
    def make(bits):
        x = bf16(bits)
        scale, _ = calculate_qparams(*minmax(x, size), group_int4(size))
        return int4_result(quantize(x, scale, None, group_int4(size), dtype=torch.int8), scale, bits)

    return make


def int4_rounded_scale(size):
    """The scale computed in fp32, rounded to bf16, and handed back. What rounds to 0 is 1, as weft has it."""

    def make(bits):
        x = bf16(bits).float()
        low, high = minmax(x, size)
        scale, _ = calculate_qparams(low, high, group_int4(size))
        scale = torch.where((low == 0) & (high == 0), 0.0, scale).to(torch.bfloat16).float()
        scale = torch.where(scale == 0, 1.0, scale)
        return int4_result(quantize(x, scale, None, group_int4(size), dtype=torch.int8), scale, bits)

    return make


def int4_given(size, scale_of):
    """`scale_of` is not rounded; what is stored of it is."""

    def make(bits):
        x, scale = bf16(bits).float(), torch.from_numpy(scale_of(bits, size))
        return int4_result(quantize(x, scale, None, group_int4(size), dtype=torch.int8), scale, bits)

    return make


def mxfp4(bits):
    x = bf16(bits)
    scale, _ = calculate_qparams(*minmax(x, 32), MXFP4)
    codes = quantize(x, scale, None, MXFP4)
    return {"weight_packed": array(pack_fp4_to_uint8(codes)), "weight_scale": array(compress_mx_scale(scale, torch.uint8))}


def nvfp4(bits):
    x = bf16(bits).float()
    divisor = generate_gparam(x.min(), x.max())
    scale, _ = calculate_qparams(*minmax(x, 16), NVFP4, global_scale=divisor)
    codes = quantize(x, scale, None, NVFP4, global_scale=divisor)
    return {"weight_packed": array(pack_fp4_to_uint8(codes)), "weight_scale": array(scale.to(torch.float8_e4m3fn)),
            "weight_global_scale": array(divisor)}


# ---- torchao ----


def torchao_mx(element, mode):
    from torchao.prototype.mx_formats.mx_tensor import ScaleCalculationMode, to_mx

    def make(bits):
        scale, codes = to_mx(bf16(bits), element, 32, ScaleCalculationMode(mode))
        name = "weight" if codes.dtype == torch.float8_e4m3fn else "weight_packed"
        return {name: array(codes), "weight_scale": array(scale)}

    return make


# ---- fp8-block: DeepGEMM's recipe in torch; transformers ----


def blocks(bits):
    x = bf16(bits).float()
    rows, cols = x.shape
    x = torch.nn.functional.pad(x, (0, -cols % 128, 0, -rows % 128))
    return x.unflatten(1, (-1, 128)).unflatten(0, (-1, 128))  # [block rows, 128, block columns, 128]


def fp8_block(pow2):
    def make(bits):
        x = blocks(bits)
        scale = x.abs().amax((1, 3), keepdim=True).clamp(1e-4) / 448.0
        if pow2:
            scale = torch.pow(2.0, torch.ceil(torch.log2(scale)))
        codes = (x * (1.0 / scale)).to(torch.float8_e4m3fn).view(torch.uint8).flatten(2).flatten(0, 1)
        return {"weight": array(codes[: bits.shape[0], : bits.shape[1]].contiguous()), "weight_scale_inv": array(scale[:, 0, :, 0].contiguous())}

    return make
