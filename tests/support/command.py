"""What the tests of the weft command share: run it, with or without mpirun, and note what was not as expected."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass

SKIPPED = 77
DEMO = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "launch", "demo"))


def demo(model, version):
    return os.path.join(DEMO, model, version)


def has_gpu():
    return bool(shutil.which("nvidia-smi")) and subprocess.run(["nvidia-smi", "-L"], capture_output=True).returncode == 0


def needs_gpu(transport, options):
    """Whether `weft run` with this transport and these options does."""
    return transport == "nccl" or "--memory cuda" in options


def skip_unless(numpy=False, mpirun=False, gpu=False):
    if numpy:
        try:
            import numpy  # noqa: F401
        except ImportError:
            print("skipped: NumPy is missing")
            sys.exit(SKIPPED)
    if mpirun and not shutil.which("mpirun"):
        print("skipped: mpirun is missing")
        sys.exit(SKIPPED)
    if gpu and not has_gpu():
        print("skipped: there is no GPU")
        sys.exit(SKIPPED)


@contextmanager
def scratch(name):
    folder = tempfile.mkdtemp(prefix=f"weft-{name}-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Result:
    command: list
    code: int  # None: it did not end in time
    out: str
    err: str
    seconds: float

    @property
    def messages(self):
        """What weft itself says on stderr: mpirun adds pages of its own."""
        return [line for line in self.err.splitlines() if line.startswith("weft")]

    def __str__(self):
        how = "did not end in time" if self.code is None else f"exit {self.code}"
        return f"{how} after {self.seconds:.1f} s: {' '.join(self.command)}\n{self.out[-2000:]}{self.err[-3000:]}"


def run(command, timeout=60):
    """Run `command`; one that does not end in time is stopped with all that it started."""
    start = time.monotonic()
    # Files, not pipes: a rank that outlives mpirun would hold a pipe open.
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            code = None
            stop(process)
        out.seek(0)
        err.seek(0)
        return Result(command, code, out.read(), err.read(), time.monotonic() - start)


def stop(process):
    """SIGTERM first: mpirun then takes its ranks along."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Weft:
    def __init__(self, path):
        self.path = os.path.abspath(path)

    def __call__(self, *arguments, timeout=60):
        return run([self.path, *map(str, arguments)], timeout)

    def ranks(self, count, *arguments, timeout=90):
        """`weft run` under mpirun."""
        return self.mixed((count, arguments), timeout=timeout)

    def mixed(self, *groups, timeout=90):
        """One job of several groups (count, arguments), each with a command line of its own."""
        command = ["mpirun"]
        for i, (count, arguments) in enumerate(groups):
            command += ([":"] if i else []) + ["-n", str(count), self.path, "run", *map(str, arguments)]
        return run(command, timeout)


class Checks:
    """Counts what was checked, prints what failed."""

    def __init__(self):
        self.count = 0
        self.failures = []

    def that(self, holds, what, detail=""):
        self.count += 1
        if not holds:
            self.failures.append(what)
            print(f"FAIL {what}\n{detail}\n", flush=True)
        return bool(holds)

    def near(self, found, expected, tolerance, what):
        ok = found is not None and abs(found - expected) <= tolerance
        return self.that(ok, what, f"found {found}, expected {expected} within {tolerance}")

    def code(self, result, expected, what):
        return self.that(result.code == expected, f"{what}: exit {expected}", result)

    def end(self):
        print(f"{self.count} checks, {len(self.failures)} failures")
        sys.exit(1 if self.failures or not self.count else 0)
