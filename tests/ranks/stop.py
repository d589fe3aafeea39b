#!/usr/bin/python3
"""SIGTERM in every phase, to real processes: weft run, weft join and weft coordinator decide the version in hand or undo it, say so, and
end within their bound.

    stop.py WEFT [--all] [--only TEXT]          --all: every phase, and those that take their whole bound (30 s)"""

import argparse
import os
import re
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from service import CHECK_FAILED, OK, PEER, V1, V3, Process, Run, Session, grows, version_says  # noqa: E402
from command import Weft, scratch  # noqa: E402

GRACE, MARGIN, TOLERANCE = 10, 2, 3  # seconds: --grace, what is added to it, a busy machine


def ends(process, bound=GRACE + MARGIN):
    """Its exit code, None when it did not end within its bound."""
    return process.wait(bound + TOLERANCE)


# ---- weft run ----


class Job(Process):
    """mpirun weft run; its ranks by number."""

    def __init__(self, t, folder, name, ranks, *arguments):
        super().__init__(folder, name, ["mpirun", "-n", ranks, t.weft.path, "run", *arguments])
        self.ranks = ranks

    def pids(self):
        found = {}
        for pid in subprocess.run(["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, text=True).stdout.split():
            try:
                environment = open(f"/proc/{pid}/environ", "rb").read()
            except OSError:
                continue
            rank = re.search(rb"OMPI_COMM_WORLD_RANK=(\d+)", environment)
            if rank:
                found[int(rank.group(1))] = int(pid)
        return found

    def send_to(self, rank, number=signal.SIGTERM):
        os.kill(self.pids()[rank], number)


LAYOUT = ["--trainer", "fsdp:1", "--rollout", "tp:1x2", "--scheme", "fp8-block"]
PHASES = {
    # What the job is doing when it is asked to stop, the rank that is asked, what it says after.
    "a version on its way": (["--rate", "25MB/s", "--bucket", "256KiB", "--updates", "50", "--tokens", "1"], "on its way", 0),
    "between versions": (["--updates", "50", "--tokens", "1000000"], "version 1 is live", 2),
    "after the last version": (["--updates", "1", "--tokens", "100000000"], "version 1 is live", 1),
}


def check_run(t, folder):
    """One rank is signalled; the version in hand is decided, all ranks end well, and the table says how many there were."""
    for i, (phase, (more, text, rank)) in enumerate(list(PHASES.items())[:None if t.all else 1]):
        job = Job(t, folder, f"run{i}", 3, "--model", f"{V1},{V3}", *LAYOUT, *more)
        try:
            t.that(job.says(text), f"run, {phase}: it comes so far", job)
            job.send_to(rank)
            t.that(ends(job) == OK and "torn 0" in job.out and "0 failed" in job.out, f"run, {phase}: ends well", job)
            if "last" not in phase:
                t.that(re.search(r"stopped by a signal after \d+ of 50 versions", job.out), f"run, {phase}: says how far it came", job)
        finally:
            job.end()


def check_run_bound(t, folder):
    """A rank whose peer stands still cannot end in an orderly way: it ends all the same."""
    job = Job(t, folder, "bound", 3, "--model", f"{V1},{V3}", *LAYOUT, "--updates", "50", "--tokens", "1000000", "--grace", 0)
    try:
        t.that(job.says("version 1 is live"), "run, bound: it comes so far", job)
        job.send_to(1, signal.SIGSTOP)
        stopped = job.pids()[1]
        job.send_to(2)
        code = ends(job, MARGIN + 5)  # mpirun takes its time to end the others
        t.that(code not in (None, OK) and "did not end in an orderly way within 2 s" in job.err, "run: ends when its grace is over", job)
        t.that(grows(lambda: not os.path.exists(f"/proc/{stopped}"), 1, 10), "and nobody is left", job)
    finally:
        job.end()


# ---- weft join, weft coordinator ----


def session(t, folder):
    return Session(t.weft, folder, trainer="fsdp:1", rollout="tp:1", trainers=1, rollouts=1, tp=1, transport="zmq")


def check_join_transfer(t, folder):
    """A version is on its way, slowly: a rollout waits for it, leaves, and the trainer goes on; a trainer finishes it."""
    with session(t, folder) as s:
        coordinator = s.coordinator()
        rollout, trainer = s.join(1, "--verbose"), s.join(0, "--rate", "25MB/s", "--updates", 50)
        t.that(coordinator.says("version 2: IDLE -> TRANSFER", where="err"), "a version is on its way", s)
        rollout.send(signal.SIGTERM)
        t.that(ends(rollout) == OK and "left" in rollout.out and trainer.says("version 2: "), "a rollout leaves when the version in hand is decided", s)
        again = s.join(1)
        t.that(again.says("is live"), "another life of it serves", s)
        started = trainer.out.count("applied")
        t.that(coordinator.says(f"version {started + 1}: IDLE -> TRANSFER", where="err"), "the next one is on its way", s)
        trainer.send(signal.SIGTERM)
        t.that(ends(trainer) in (OK, CHECK_FAILED) and f"version {started + 1}: applied" in trainer.out, "a trainer ends when its version is decided", s)
        again.send(signal.SIGTERM)
        t.that(ends(again) == OK, "a rollout leaves when nothing is on its way", s)
        coordinator.send(signal.SIGTERM)
        t.that(ends(coordinator, 2) == OK, "the coordinator ends within 2 s", s)


def check_join_alone(t, folder):
    """Nobody answers any more: neither waits longer than its grace."""
    with session(t, folder) as s:
        coordinator = s.coordinator()
        rollout, trainer = s.join(1, "--grace", 1), s.join(0, "--rate", "25MB/s", "--updates", 50, "--grace", 1)
        t.that(version_says([rollout], 1) and coordinator.says("version 2: IDLE -> TRANSFER", where="err"), "a version is on its way", s)
        coordinator.end()
        for process in (rollout, trainer):
            process.send(signal.SIGTERM)
        codes = [ends(process, 1 + MARGIN) for process in (rollout, trainer)]
        t.that(codes[0] == PEER and codes[1] in (OK, CHECK_FAILED, PEER), "without a coordinator both end within their bound", f"{codes}\n{s}")


def check_join_early(t, folder):
    """Before a rank has joined there is nothing to leave."""
    with session(t, folder) as s:
        early = s.join(1, "--timeout", 60)
        time.sleep(0.3)
        early.send(signal.SIGTERM)
        t.that(ends(early, 2) == -signal.SIGTERM, "a rank that waits for a coordinator ends at once", s)


AT_LENGTH = ("run_bound", "join_alone")
CHECKS = {name[6:]: check for name, check in list(globals().items()) if name.startswith("check_")}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("weft")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    t = Run(Weft(arguments.weft))
    t.all = arguments.all
    for name, check in CHECKS.items():
        if arguments.only in name and (t.all or name not in AT_LENGTH):
            start = time.monotonic()
            with scratch("stop") as folder:
                check(t, folder)
            print(f"{name}: {time.monotonic() - start:.1f} s", flush=True)
    t.end()


if __name__ == "__main__":
    main()
