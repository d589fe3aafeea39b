#!/usr/bin/python3
"""Compare two folders of safetensors files byte for byte.

    compare.py A B

Names, dtypes, shapes and bytes must agree. Prints one line for each tensor that differs, with its first difference,
and exits 1 when there is any.
"""

import os
import sys

import numpy as np

import tensor_file

MAX_LINES = 20


def first_difference(a, b):
    """A sentence, or None."""
    (a_dtype, a_array), (b_dtype, b_array) = a, b
    if a_dtype != b_dtype or a_array.shape != b_array.shape:
        return f"{a_dtype} {list(a_array.shape)} against {b_dtype} {list(b_array.shape)}"
    a_bytes, b_bytes = (np.ascontiguousarray(x).reshape(-1).view(np.uint8) for x in (a_array, b_array))
    wrong = np.flatnonzero(a_bytes != b_bytes)
    if not len(wrong):
        return None
    size = a_array.dtype.itemsize
    flat = int(wrong[0]) // size
    place = [int(i) for i in np.unravel_index(flat, a_array.shape)]
    a_hex, b_hex = (x[flat * size : (flat + 1) * size][::-1].tobytes().hex() for x in (a_bytes, b_bytes))
    return f"first at {place} (flat {flat}): 0x{a_hex} against 0x{b_hex}; {len(wrong)} of {len(a_bytes)} bytes differ"


def compare_file(name, a, b):
    for missing, there in ((a, b), (b, a)):
        for tensor in sorted(there.keys() - missing.keys()):
            yield f"{name}: {tensor}: only in {'B' if missing is a else 'A'}"
    for tensor in sorted(a.keys() & b.keys()):
        difference = first_difference(a[tensor], b[tensor])
        if difference:
            yield f"{name}: {tensor}: {difference}"


def compare(a, b):
    """-> (lines, tensors compared)"""
    names = [{n for n in os.listdir(folder) if n.endswith(".safetensors")} for folder in (a, b)]
    lines = [f"{name}: only in {'A' if name in names[0] else 'B'}" for name in sorted(names[0] ^ names[1])]
    count = 0
    for name in sorted(names[0] & names[1]):
        tensors = [tensor_file.read(os.path.join(folder, name)) for folder in (a, b)]
        count += len(tensors[0].keys() & tensors[1].keys())
        lines += compare_file(name, *tensors)
    return lines, count


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    lines, count = compare(*sys.argv[1:])
    for line in lines[:MAX_LINES]:
        print(line)
    if len(lines) > MAX_LINES:
        print(f"... and {len(lines) - MAX_LINES} more")
    if lines or not count:
        print(f"{len(lines)} differences over {count} tensors")
        sys.exit(1)
    print(f"{count} tensors agree")


if __name__ == "__main__":
    main()
