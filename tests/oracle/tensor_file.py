"""Just enough safetensors for the oracle: an 8-byte header length, a JSON header, the bytes."""

import json
import struct

import numpy as np

DTYPES = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32, "F8_E4M3": np.uint8, "I8": np.int8, "U8": np.uint8,
          "I32": np.int32, "I64": np.int64}


def read(path):
    """-> {name: (dtype string, array)}; BF16 and F8_E4M3 as their bits."""
    with open(path, "rb") as file:
        (header_bytes,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(header_bytes))
    data = np.memmap(path, np.uint8, "r", offset=8 + header_bytes)
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        array = data[begin:end].view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
        tensors[name] = (entry["dtype"], array)
    return tensors


def write(path, tensors):
    """Write {name: (dtype string, array)} in byte order of name."""
    header, offset = {}, 0
    names = sorted(tensors, key=lambda name: name.encode())
    for name in names:
        dtype, array = tensors[name]
        assert array.dtype == DTYPES[dtype], (name, dtype, array.dtype)
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            file.write(np.ascontiguousarray(tensors[name][1]).tobytes())
