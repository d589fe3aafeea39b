#!/usr/bin/env python3
"""Corpora as one file each: inputs one after the other, each behind its length in 4 bytes, little-endian.

pack.py pack FOLDER PACK     all files of a folder, shortest first; those above --most bytes are left out
pack.py unpack PACK FOLDER   files named by what is in them
"""
import argparse
import hashlib
import os
import struct
import sys


def read(folder):
    inputs = set()
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            with open(path, "rb") as file:
                inputs.add(file.read())
    return sorted(inputs, key=lambda data: (len(data), data))


def pack(folder, path, most):
    inputs = read(folder)
    kept = [data for data in inputs if len(data) <= most]
    with open(path + ".new", "wb") as file:
        for data in kept:
            file.write(struct.pack("<I", len(data)) + data)
    os.replace(path + ".new", path)
    print(f"{path}: {len(kept)} inputs, {os.path.getsize(path)} bytes; {len(inputs) - len(kept)} too long")


def unpack(path, folder):
    os.makedirs(folder, exist_ok=True)
    with open(path, "rb") as file:
        data = file.read()
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        one = data[at + 4:at + 4 + length]
        if len(one) != length:
            sys.exit(f"{path}: an input of {length} bytes, {len(one)} are left")
        with open(os.path.join(folder, hashlib.sha1(one).hexdigest()), "wb") as file:
            file.write(one)
        at += 4 + length


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pack", "unpack"))
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--most", type=int, default=8192)
    options = parser.parse_args()
    if options.what == "pack":
        pack(options.source, options.target, options.most)
    else:
        unpack(options.source, options.target)


if __name__ == "__main__":
    main()
