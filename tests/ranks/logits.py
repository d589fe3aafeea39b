#!/usr/bin/python3
"""What the decoder answers on the weights of each scheme is what NumPy computes from the same files.

    logits.py WEFT DECODER_ANSWER [--full]

Logits of every byte of a sentence, and its bits per byte; Qwen3 and Qwen3-MoE; one rank, tensor and expert parallel ranks, all
against one dequantization of the whole. Each scheme meets one way of slicing unless --full: every profile with all of them."""

import argparse
import os
import sys

sys.path[:0] = [os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", folder) for folder in ("support", "oracle")]
from command import Checks, Weft, demo, run, scratch, skip_unless  # noqa: E402

skip_unless(numpy=True)
import checkpoint  # noqa: E402
import decode  # noqa: E402
import numpy as np  # noqa: E402

TEXT = b"And God said unto Moses, Come"
MODELS = {("tiny-qwen3", "v3"): ("tp:1", "tp:2", "tp:4"), ("tiny-qwen3-moe", "v1"): ("tp:1", "tp:2", "tp:2,ep")}
# float against float64, in whatever order ranks add up; ten times what is seen.
LOGITS, BITS = 1e-4, 1e-5


class Schemes(Checks):
    def __init__(self, weft, program, folder):
        super().__init__()
        self.weft, self.program, self.folder = weft, program, folder

    def files(self, model, scheme, profile, rollout):
        """Where the kernel-format files are, or None."""
        out = os.path.join(self.folder, f"{os.path.basename(os.path.dirname(model))} {scheme} {profile} {rollout}")
        options = [] if profile == "default" else ["--profile", profile]
        if not os.path.isdir(out):
            result = self.weft("quantize", model, out, "--scheme", scheme, *options, "--rollout", rollout)
            if not self.code(result, 0, f"quantize {scheme} {profile} {rollout}"):
                return None
        return out

    def expected(self, model, scheme, profile, rollout):
        """Logits and bits by NumPy. One rank holds all; vllm-pow2 has other codes where experts are split."""
        files = self.files(model, scheme, profile, "tp:1,ep" if rollout.endswith(",ep") else "tp:1")
        logits = decode.Decoder(model, files, scheme).logits(TEXT)
        return logits, decode.bits_per_byte(logits, TEXT)

    def answer(self, model, scheme, profile, rollout):
        files, out = self.files(model, scheme, profile, rollout), os.path.join(self.folder, "answer")
        result = run([self.program, model, files, rollout.removeprefix("tp:"), TEXT.decode(), out])
        if not self.code(result, 0, f"{scheme} {profile} {rollout}"):
            return None, None
        return np.fromfile(out, np.float32).reshape(len(TEXT), -1), float(result.out)

    def check(self, model, scheme, profile, rollout):
        what = f"{os.path.basename(os.path.dirname(model))}, {scheme} {profile}, {rollout}"
        expected, expected_bits = self.expected(model, scheme, profile, rollout)
        logits, bits = self.answer(model, scheme, profile, rollout)
        if logits is None:
            return
        off = np.abs(expected - logits).max()
        print(f"{what}: {bits:.4f} bits a byte, logits off by at most {off:.1e}", flush=True)
        self.that(off < LOGITS, f"{what}: the logits", off)
        self.that((expected.argmax(axis=1) == logits.argmax(axis=1)).all(), f"{what}: the likeliest byte")
        self.near(bits, expected_bits, BITS, f"{what}: the bits per byte")


def cases(full):
    for i, (scheme, (profiles, _)) in enumerate(checkpoint.SCHEMES.items()):
        for j, ((model, version), rollouts) in enumerate(MODELS.items()):
            for profile in profiles if full else profiles[:1]:
                for rollout in rollouts if full else [rollouts[(i + j) % len(rollouts)]]:
                    yield demo(model, version), scheme, profile, rollout


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weft")
    parser.add_argument("decoder_answer")
    parser.add_argument("--full", action="store_true")
    arguments = parser.parse_args()
    with scratch("schemes") as folder:
        t = Schemes(Weft(arguments.weft), os.path.abspath(arguments.decoder_answer), folder)
        for case in cases(arguments.full):
            t.check(*case)
        t.end()


main()
