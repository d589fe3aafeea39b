#!/usr/bin/python3
"""Every benchmark of `weft bench` runs on small shapes in host memory, finds nothing wrong, and writes JSON that says so.

    bench.py WEFT

How fast anything is, is not looked at. Exits 77 when mpirun is missing."""

import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from command import Checks, run, scratch, skip_unless  # noqa: E402

OK, USAGE, ENVIRONMENT, MISFIT = 0, 2, 3, 4
TINY = ["--shape", "tiny", "--trainer", "fsdp:1", "--rollout", "tp:1"]
IPC = ["--transport", "ipc", "--memory", "host"]


class Bench:
    def __init__(self, weft, folder):
        self.weft, self.folder = os.path.abspath(weft), folder
        self.checks = Checks()

    def __call__(self, *arguments, ranks=0):
        mpirun = ["mpirun", "-n", str(ranks)] if ranks else []
        return run([*mpirun, self.weft, "bench", *arguments], 60)

    def table(self, *arguments, ranks=0):
        """Run with --json: what the file says, and nothing of it wrong."""
        what = "bench " + " ".join(arguments)
        path = os.path.join(self.folder, "rows.json")
        result = self(*arguments, "--json", path, ranks=ranks)
        if not self.checks.code(result, OK, what):
            return {}
        with open(path) as file:
            found = json.load(file)
        os.remove(path)
        tables = [rows for rows in found.values() if isinstance(rows, list)]
        self.checks.that(found["bench"] == arguments[0] and tables, f"{what}: JSON names it and has rows", found)
        wrong = [row["wrong"] for rows in tables for row in rows if row.get("wrong") is not None]
        self.checks.that(wrong and not any(wrong), f"{what}: #wrong is 0", found)
        lines = [line for line in result.out.splitlines() if not line.startswith("#")]
        self.checks.that(len(lines) == sum(map(len, tables)), f"{what}: as many lines as rows", result)
        return found

    def refused(self, code, word, *arguments, ranks=0):
        what = "bench " + " ".join(arguments)
        result = self(*arguments, ranks=ranks)
        self.checks.code(result, code, what)
        said = [line for line in result.messages if word in line]
        self.checks.that(len(said) == 1 and not result.out, f"{what}: one sentence with \"{word}\"", result)


def alone(bench):
    found = bench.table("quantize", "--memory", "host", "--shapes", "256x512,100x300", "--samples", "2", "--bytes", "2MiB",
                        "--schemes", "bf16,fp8-block:vllm,fp8-channel")
    bench.checks.that([row["scheme"] for row in found.get("rows", [])] == ["bf16", "fp8-block", "fp8-channel"] * 2,
                      "quantize: a row a scheme and shape", found)
    groups = ["int8-channel", "mxfp8", "mxfp4", "int4-group-32", "int4-group-64", "int4-group-128"]
    found = bench.table("quantize", "--memory", "host", "--shapes", "256x512", "--samples", "2", "--bytes", "2MiB", "--schemes",
                        ",".join(groups))
    bench.checks.that([row["scheme"] for row in found.get("rows", [])] == groups, "quantize: schemes of groups", found)
    found = bench.table("swap", "--memory", "host", "--sizes", "64KiB,1MiB", "--samples", "3")
    bench.checks.that([row["mode"] for row in found.get("rows", [])] == ["flip"] * 2 + ["copy"] * 2, "swap: all rows", found)


def together(bench):
    found = bench.table("broadcast", "--transport", "mpi", "--sizes", "1KiB,1MiB", "--samples", "2", "--shape", "tiny", "--trainer",
                        "fsdp:2", "--rollout", "tp:2", ranks=4)
    bench.checks.that([row["what"] for row in found.get("rows", [])] == ["size", "size", "plan"], "broadcast: all rows", found)
    found = bench.table("sync", *TINY, "--transport", "mpi", "--updates", "3", ranks=2)
    bench.checks.that([row["what"] for row in found.get("updates", [])] == ["update", "prepare", "bare"], "sync: beside bare", found)
    found = bench.table("sync", *TINY, *IPC, "--updates", "3", "--decode", "parked", "--swap", "copy", "--scheme", "int4-group-64", ranks=2)
    bench.checks.that([row["what"] for row in found.get("updates", [])] == ["update", "prepare", "floor"], "sync: beside floor",
                      found)
    bench.table("sync", "--shape", "tiny", "--trainer", "tp:2", "--rollout", "tp:2", "--scheme", "fp8-channel", *IPC, "--updates",
                "2", ranks=4)
    found = bench.table("sync", *TINY, *IPC, "--updates", "2", "--decode", "flat", "--rate", "50MB/s", ranks=2)
    bench.checks.that([row["phase"] for row in found.get("decode", [])] == ["no update", "throttled", "unthrottled"],
                      "sync: decoding through updates", found)


def refusals(bench):
    for name in ("quantize", "swap", "broadcast", "sync"):
        result = bench(name, "--help")
        bench.checks.that(result.code == OK and f"weft bench {name}" in result.out, f"bench {name} --help", result)
    bench.refused(USAGE, "unknown benchmark", "everything")
    bench.refused(USAGE, "ROWSxCOLS", "quantize", "--shapes", "12x")
    bench.refused(USAGE, "scheme", "quantize", "--schemes", "fp9")
    bench.refused(MISFIT, "groups", "quantize", "--memory", "host", "--schemes", "mxfp4", "--shapes", "64x100")
    bench.refused(USAGE, "swap mode", "swap", "--modes", "turn")
    bench.refused(USAGE, "--sizes", "swap", "--sizes", "1KiB,3")
    bench.refused(ENVIRONMENT, "cannot be written", "swap", "--json", os.path.join(bench.folder, "no", "rows.json"))
    bench.refused(USAGE, "mpirun", "broadcast", ranks=1)
    bench.refused(USAGE, "ipc moves nothing", "broadcast", "--transport", "ipc", ranks=2)
    bench.refused(USAGE, "--trainer", "sync", ranks=2)
    bench.refused(USAGE, "--shape", "sync", *TINY[2:], "--shape", "tiny,depth=3", ranks=2)
    bench.refused(USAGE, "mpirun -n 2", "sync", *TINY, ranks=3)
    bench.refused(USAGE, "--decode", "sync", *TINY, "--decode", "fast", ranks=2)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    skip_unless(mpirun=True)
    with scratch("bench") as folder:
        bench = Bench(sys.argv[1], folder)
        alone(bench)
        together(bench)
        refusals(bench)
    bench.checks.end()


main()
