#!/usr/bin/env python3
"""What users do today: one colocated refit of Qwen3-8B shapes, bf16 to fp8-block, trainer process to inference process
on one GPU, in PyTorch. The figure that weft's `ipc` transport is measured against. Needs PyTorch and nothing else.

    trainer process                                  inference process
    flatten parameters into a 512 MB bucket          (the bucket was opened through CUDA IPC)
    synchronize, send names and offsets  ----------> slice a view for each parameter; for each module torch.cat,
                                                     quantize 128x128 blocks, copy_ into the live weight and scale
    next bucket  <---------------------------------- synchronize, answer

Written from how these projects work, with no code of theirs:
  transport   verl's bucketed transfer to a colocated vLLM: one 512 MB bucket, copied into tensor by tensor, a device
              synchronization on both sides and an answer for each bucket; a tensor larger than the bucket is not
              copied but sent by a handle of its own. slime with SGLang sends one flattened tensor a bucket and waits
              in the same way.
  two halves  MoonshotAI's checkpoint-engine: two buckets in turn, the next is filled while the one before is loaded.
  loading     vLLM's layerwise reload: fused module in bf16, quantized, copied into the tensors that kernels read.
              verl's fp8 path quantizes each projection and copies it into its rows, which saves the concatenation.
  quantizing  DeepGEMM's per-block cast, which vLLM and SGLang share.

Three variants:
  eager       verl's transport, layerwise loading
  compiled    the same with torch.compile on the quantize function
  overlapped  compiled, two halves and quantized projection by projection: the best of all of them in one

Kinder than the projects: IPC handles are opened once, before the clock starts (there, in each refit); all parameters
are on the device in bf16 already (nothing is gathered from shards); no RPC layer is in between. Time is the trainer's
clock, from parameters ready to the last answer, with both processes synchronized. Each refit carries new weights;
after a variant's last one the live weights are compared with the same function run in one process (bitwise) and with
the bf16 source (error bound); before its first one they are cleared.
"""
import argparse
import ctypes
import gc
import json
import math
import os
import platform
import signal
import sys
import time
import traceback

os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no pool of compiler processes to leave behind
SKIPPED = 77
try:
    import torch
    import torch.multiprocessing as mp
except ImportError as missing:
    print(f"colocated_torch: skipped: {missing}", file=sys.stderr)
    sys.exit(SKIPPED)

BLOCK = 128
FP8 = torch.float8_e4m3fn
HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, HEAD_DIM = 4096, 12288, 32, 8, 128
ANSWER_SECONDS = 120  # compiling is within the first refit

# name -> (quantizer, buckets in flight, quantize projections apart)
VARIANTS = {
    "eager": ("eager", 1, False),
    "compiled": ("compiled", 1, False),
    "overlapped": ("compiled", 2, True),
}

# module -> its parts, in the order of their rows
FUSED = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attn.o_proj": ("self_attn.o_proj",),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.down_proj": ("mlp.down_proj",),
}

# ---- the model ----


def layer_shapes():
    attention = {
        "q_proj": (HEADS * HEAD_DIM, HIDDEN),
        "k_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
        "v_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
        "o_proj": (HIDDEN, HEADS * HEAD_DIM),
        "q_norm": (HEAD_DIM,),
        "k_norm": (HEAD_DIM,),
    }
    mlp = {"gate_proj": (INTERMEDIATE, HIDDEN), "up_proj": (INTERMEDIATE, HIDDEN), "down_proj": (HIDDEN, INTERMEDIATE)}
    shapes = {"input_layernorm": (HIDDEN,), "post_attention_layernorm": (HIDDEN,)}
    shapes.update({f"self_attn.{name}": shape for name, shape in attention.items()})
    shapes.update({f"mlp.{name}": shape for name, shape in mlp.items()})
    return shapes


def model_shapes(layers, vocab):
    """name -> shape, in checkpoint order, without the suffix `.weight`."""
    shapes = {"model.embed_tokens": (vocab, HIDDEN)}
    for i in range(layers):
        shapes.update({f"model.layers.{i}.{name}": shape for name, shape in layer_shapes().items()})
    shapes["model.norm"] = (HIDDEN,)
    shapes["lm_head"] = (vocab, HIDDEN)
    return shapes


def model_modules(layers):
    """module -> names of its parts."""
    return {
        f"model.layers.{i}.{module}": [f"model.layers.{i}.{part}" for part in parts]
        for i in range(layers)
        for module, parts in FUSED.items()
    }


class Source:
    """The trainer's weights of any version, made again wherever they are needed."""

    def __init__(self, shapes, device):
        self.index = {name: i for i, name in enumerate(shapes)}
        self.generator = torch.Generator(device=device)

    def fill(self, name, version, tensor):
        self.generator.manual_seed(version * 1_000_003 + self.index[name])
        return tensor.normal_(0.0, 0.02, generator=self.generator)


def quantize(x):
    """bf16 [N, K] -> e4m3 [N, K], fp32 scale [N/128, K/128]."""
    n, k = x.shape
    blocks = x.view(n // BLOCK, BLOCK, k // BLOCK, BLOCK)
    amax = blocks.abs().float().amax(dim=(1, 3), keepdim=True).clamp(1e-4)
    scale = amax / 448.0
    codes = (blocks * (1.0 / scale)).to(FP8)
    return codes.view(n, k), scale.view(n // BLOCK, k // BLOCK)


def synchronize(device):
    if device == "cuda":
        torch.cuda.synchronize()


# ---- the inference process ----


class Rollout:
    def __init__(self, options):
        self.device = options.device
        self.shapes = model_shapes(options.layers, options.vocab)
        self.modules = model_modules(options.layers)
        self.source = Source(self.shapes, self.device)
        self.quantizers = {"eager": quantize, "compiled": torch.compile(quantize, dynamic=False, fullgraph=True)}
        self.place = {}  # part -> module, first row
        self.live = {}  # module -> (weight, scale); other names -> tensor
        self.windows = {}  # what the trainer shares
        self.pending = {}  # module -> parts seen, of modules that a bucket's end cuts
        self.make_live()

    def make_live(self):
        for module, parts in self.modules.items():
            rows = 0
            for part in parts:
                self.place[part] = (module, rows)
                rows += self.shapes[part][0]
            columns = self.shapes[parts[0]][1]
            weight = torch.empty(rows, columns, dtype=FP8, device=self.device)
            scale = torch.empty(rows // BLOCK, columns // BLOCK, dtype=torch.float32, device=self.device)
            self.live[module] = (weight, scale)
        for name, shape in self.shapes.items():
            if name not in self.place:
                self.live[name] = torch.empty(shape, dtype=torch.bfloat16, device=self.device)

    def open_windows(self, windows):
        self.windows = windows

    def begin(self, variant):
        quantizer, _, self.apart = VARIANTS[variant]
        self.quantize = self.quantizers[quantizer]
        for kept in self.live.values():
            for tensor in kept if isinstance(kept, tuple) else (kept,):
                tensor.view(torch.uint8).zero_()

    def load_bucket(self, items):
        for name, shape, window, offset in items:
            flat = self.windows[window].view(-1)[offset : offset + math.prod(shape)]
            self.load(name, flat.view(shape))
        for parts in self.pending.values():  # the bucket is about to be written again
            for part in parts:
                parts[part] = parts[part].clone()
        synchronize(self.device)

    def load(self, name, tensor):
        if name not in self.place:
            self.live[name].copy_(tensor)
        elif self.apart:
            self.load_rows(name, tensor)
        else:
            self.load_part(name, tensor)

    def load_rows(self, name, tensor):
        module, row = self.place[name]
        weight, scale = self.live[module]
        codes, code_scale = self.quantize(tensor)
        weight[row : row + tensor.shape[0]].copy_(codes)
        scale[row // BLOCK : (row + tensor.shape[0]) // BLOCK].copy_(code_scale)

    def load_part(self, name, tensor):
        module, _ = self.place[name]
        parts = self.pending.setdefault(module, {})
        parts[name] = tensor
        if len(parts) < len(self.modules[module]):
            return
        del self.pending[module]
        weight, scale = self.live[module]
        codes, code_scale = self.quantize(self.fuse(parts, module))
        weight.copy_(codes)
        scale.copy_(code_scale)

    def fuse(self, parts, module):
        names = self.modules[module]
        return torch.cat([parts[name] for name in names]) if len(names) > 1 else parts[names[0]]

    # -- checking --

    def regenerate(self, name, version):
        tensor = torch.empty(self.shapes[name], dtype=torch.bfloat16, device=self.device)
        return self.source.fill(name, version, tensor)

    def expect(self, parts, module):
        if not self.apart:
            return self.quantize(self.fuse(parts, module))
        codes, scales = zip(*(self.quantize(parts[name]) for name in self.modules[module]))
        return torch.cat([c.view(torch.uint8) for c in codes]).view(FP8), torch.cat(scales)

    def check(self, version):
        """How many elements of the live weights are not what `version` makes of them."""
        wrong = 0
        for name in self.live:
            if name in self.modules:
                wrong += self.check_module(name, version)
            else:
                source = self.regenerate(name, version)
                wrong += int((self.live[name].view(torch.int16) != source.view(torch.int16)).sum())
        return wrong

    def check_module(self, module, version):
        parts = {name: self.regenerate(name, version) for name in self.modules[module]}
        weight, scale = self.live[module]
        codes, code_scale = self.expect(parts, module)
        differ = (weight.view(torch.uint8) != codes.view(torch.uint8)).sum()
        differ += (scale.view(torch.int32) != code_scale.view(torch.int32)).sum()
        return int(differ + outside_bound(weight, scale, self.fuse(parts, module)))


def outside_bound(weight, scale, source):
    """Elements further from the source than half a step of e4m3 (relative 2^-4, subnormal 2^-10), with 0.1 % for the
    rounding of the scale; NaN counts."""
    blocks = (scale.shape[0], BLOCK, scale.shape[1], BLOCK)
    scale = scale.view(blocks[0], 1, blocks[2], 1)
    source = source.view(blocks).float()
    error = (weight.float().view(blocks) * scale - source).abs()
    bound = torch.maximum(source.abs() / 16, scale / 1024) * 1.001
    return (~(error <= bound)).sum()


def die_with_parent():
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def rollout_main(pipe, options):
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the trainer ends this process
    torch.set_grad_enabled(False)
    try:
        serve(pipe, options)
    except (EOFError, BrokenPipeError):
        pass  # the trainer is gone
    except Exception:
        pipe.send(("error", traceback.format_exc()))


def serve(pipe, options):
    import torch._dynamo.config

    torch._dynamo.config.recompile_limit = 64  # one entry a shape
    rollout = Rollout(options)
    pipe.send(("ok", None))
    while True:
        verb, argument = pipe.recv()
        if verb == "close":
            break
        pipe.send(("ok", getattr(rollout, verb)(argument)))
        del argument
    # Views and shared memory go before the trainer frees what they show.
    del rollout
    gc.collect()
    if options.device == "cuda":
        torch.cuda.ipc_collect()
    pipe.send(("ok", None))


# ---- the trainer process ----


def plan_buckets(shapes, bucket_elems):
    """Lists of (name, shape, direct, offset): whole tensors in order; what does not fit a bucket travels alone."""
    buckets, bucket, used = [], [], 0
    for name, shape in shapes.items():
        elems = math.prod(shape)
        if bucket and used + elems > bucket_elems:
            buckets.append(bucket)
            bucket, used = [], 0
        if elems > bucket_elems:
            buckets.append([(name, shape, True, 0)])
            continue
        bucket.append((name, shape, False, used))
        used += elems
    return buckets + ([bucket] if bucket else [])


class Trainer:
    def __init__(self, pipe, options):
        self.pipe, self.device = pipe, options.device
        self.shapes = model_shapes(options.layers, options.vocab)
        self.source = Source(self.shapes, self.device)
        self.params = {
            name: torch.empty(shape, dtype=torch.bfloat16, device=self.device) for name, shape in self.shapes.items()
        }
        bucket_elems = options.bucket_mb * 2**20 // 2
        self.buckets = plan_buckets(self.shapes, bucket_elems)
        self.halves = [torch.empty(bucket_elems, dtype=torch.bfloat16, device=self.device) for _ in range(2)]
        self.direct = [items[0][0] for items in self.buckets if items[0][2]]
        self.version = 0

    def receive(self):
        if not self.pipe.poll(ANSWER_SECONDS):
            raise RuntimeError(f"the inference process did not answer within {ANSWER_SECONDS} s")
        verdict, payload = self.pipe.recv()
        if verdict != "ok":
            raise RuntimeError(f"the inference process failed:\n{payload}")
        return payload

    def call(self, verb, argument=None):
        self.pipe.send((verb, argument))
        return self.receive()

    def share(self):
        """torch.multiprocessing sends a tensor as its IPC handle (on a CPU: as a file descriptor of shared memory)."""
        windows = {i: half for i, half in enumerate(self.halves)}
        windows.update({name: self.params[name] for name in self.direct})
        self.call("open_windows", windows)

    def step(self):
        """New weights, as after an optimizer step."""
        self.version += 1
        for name, tensor in self.params.items():
            self.source.fill(name, self.version, tensor)
        synchronize(self.device)

    def flatten(self, items, half):
        for name, shape, direct, offset in items:
            if not direct:
                self.halves[half][offset : offset + math.prod(shape)].view(shape).copy_(self.params[name])

    def describe(self, items, half):
        return [(name, shape, name if direct else half, offset) for name, shape, direct, offset in items]

    def refit(self, in_flight):
        """Seconds. With two halves, a half is written again only after the bucket that followed it was sent, which
        waits for its answer."""
        start = time.perf_counter()
        unanswered = 0
        for number, items in enumerate(self.buckets):
            half = number % in_flight
            self.flatten(items, half)
            synchronize(self.device)
            if unanswered:
                self.receive()
                unanswered -= 1
            self.pipe.send(("load_bucket", self.describe(items, half)))
            unanswered += 1
            if in_flight == 1:
                self.receive()
                unanswered -= 1
        for _ in range(unanswered):
            self.receive()
        return time.perf_counter() - start

    def measure(self, variant, refits):
        _, in_flight, _ = VARIANTS[variant]
        self.call("begin", variant)
        seconds = []
        for _ in range(refits + 1):  # the first one warms up: it compiles and grows the allocators
            self.step()
            seconds.append(self.refit(in_flight))
        return seconds[1:], self.call("check", self.version)

    def close(self):
        self.call("close")


# ---- the report ----


def percentile(values, p):
    return sorted(values)[max(math.ceil(p * len(values)) - 1, 0)]


def header(options, trainer):
    bf16_bytes = 2 * sum(math.prod(shape) for shape in trainer.shapes.values())
    device = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or "cpu"
    return {
        "bench": "colocated_torch",
        "device": device,
        "torch": torch.__version__,
        "cuda": torch.version.cuda if options.device == "cuda" else None,
        "python": platform.python_version(),
        "model": f"Qwen3-8B shapes, {options.layers} layers, vocabulary {options.vocab}",
        "bf16_bytes": bf16_bytes,
        "bucket_mb": options.bucket_mb,
        "messages": len(trainer.buckets),
        "sent_by_own_handle": trainer.direct,
    }


def print_header(head):
    versions = f"torch {head['torch']}, python {head['python']}" + (f", CUDA {head['cuda']}" if head["cuda"] else "")
    print(f"# {head['bench']}: device {head['device']}; {versions}")
    print(f"# {head['model']}, {head['bf16_bytes'] / 1e9:.2f} GB bf16 to fp8-block 128x128")
    direct = ", ".join(head["sent_by_own_handle"]) or "none"
    print(f"# buckets of {head['bucket_mb']} MiB, {head['messages']} messages; sent by a handle of their own: {direct}")
    print(f"# {'name':12} {'refits':>6} {'P50 ms':>10} {'P99 ms':>10} {'GB/s bf16':>10} {'#wrong':>8}")


def row(name, seconds, wrong, bf16_bytes):
    p50 = percentile(seconds, 0.50)
    return {
        "name": name,
        "refits": len(seconds),
        "p50_ms": p50 * 1e3,
        "p99_ms": percentile(seconds, 0.99) * 1e3,
        "gb_per_s_bf16": bf16_bytes / p50 / 1e9,
        "wrong": wrong,
    }


def print_row(r):
    figures = f"{r['p50_ms']:10.2f} {r['p99_ms']:10.2f} {r['gb_per_s_bf16']:10.1f} {r['wrong']:8}"
    print(f"  {r['name']:12} {r['refits']:6} {figures}", flush=True)


def bench(pipe, options):
    trainer = Trainer(pipe, options)
    trainer.receive()  # it is up
    trainer.share()
    head = header(options, trainer)
    print_header(head)
    rows = []
    for variant in options.variants:
        seconds, wrong = trainer.measure(variant, options.refits)
        rows.append(row(variant, seconds, wrong, head["bf16_bytes"]))
        print_row(rows[-1])
    trainer.close()
    return {**head, "rows": rows}


def run(options):
    """The inference process ends with this one, whatever happens."""
    context = mp.get_context("spawn")
    mine, theirs = context.Pipe()
    child = context.Process(target=rollout_main, args=(theirs, options), daemon=True)
    child.start()
    theirs.close()  # so that its death is an end of file here
    try:
        report = bench(mine, options)
        child.join(20)
        return report
    except (EOFError, ConnectionError):
        child.join(5)
        raise RuntimeError(f"the inference process is gone, exit code {child.exitcode}") from None
    finally:
        mine.close()
        if child.is_alive():
            child.kill()
        child.join()


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--refits", type=positive, default=5, help="timed ones of each variant (default 5)")
    parser.add_argument("--layers", type=positive, default=36, help="transformer blocks (default 36)")
    parser.add_argument("--vocab", type=positive, default=151936, help="rows of the embedding (default 151936)")
    parser.add_argument("--bucket-mb", type=positive, default=512, help="MiB (default 512)")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="some of %(default)s")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: the same path, for tests")
    parser.add_argument("--json", metavar="FILE", help="write the report there too")
    options = parser.parse_args()
    options.variants = options.variants.split(",")
    unknown = [name for name in options.variants if name not in VARIANTS]
    if unknown:
        parser.error(f"variant {unknown[0]!r} is none of {', '.join(VARIANTS)}")
    return options


def main():
    options = parse_options()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("colocated_torch: skipped: no CUDA device (--device cpu runs the same path, slowly)", file=sys.stderr)
        return SKIPPED
    torch.set_grad_enabled(False)
    try:
        report = run(options)
    except RuntimeError as failure:
        print(f"colocated_torch: {failure}", file=sys.stderr)
        return 1
    if options.json:
        with open(options.json, "w") as out:
            json.dump(report, out, indent=2)
            out.write("\n")
    return 1 if any(r["wrong"] for r in report["rows"]) else 0


if __name__ == "__main__":
    sys.exit(main())
