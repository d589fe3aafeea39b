#!/usr/bin/env python3
"""A session in service mode whose coordinator is cut off from all ranks, or has no room for its state.

    services.py BUILD [--only TEXT]

  cut both|out|in   the coordinator in a network namespace, a trainer and a replica of two ranks in another; no packet passes, or none
                    that way, for longer than a rank may be silent. Then they pass again
  disk              the state file is on a file system that is full when a rank joins: the coordinator says so and ends, the
                    others serve, the file is what it was. With room again, another coordinator goes on

  know    until a rank says that the coordinator is silent; until the coordinator has ended
  next    from then, or from the healing, until a version is applied
  lost    how many ranks had to be started again

Needs the right to make namespaces; says so and ends with 77 without it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time

import faults
import partitions
import world as w

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "ranks"))
import service  # noqa: E402

SILENCE = 4.0  # seconds: dead_after_us of weft coordinator is 1.5


class Session(service.Session):
    """One trainer and one replica of two, whoever is in which namespace."""

    def __init__(self, weft, folder, network=None):
        super().__init__(weft, folder, trainer="fsdp:1", rollout="tp:2", trainers=1, rollouts=2, tp=2)
        self.network = network
        if network:
            self.address = f"{network.address(0)}:{self.port}"

    def start(self, name, command, environment=None):
        if self.network:
            n = 0 if name == "coordinator" else 1
            command = [*self.network.wrap(n), self.weft, *command] + ([] if n == 0 else ["--host", self.network.address(1)])
            weft, self.weft = self.weft, command[0]
            try:
                return super().start(name, command[1:], environment)
            finally:
                self.weft = weft
        return super().start(name, command, environment)

    def begin(self):
        self.first = self.coordinator()
        self.rollouts = [self.join(rank) for rank in (1, 2)]
        self.trainer = self.join(0, "--updates", 100000, "--pause", 20)
        self.next_version()

    def next_version(self, seconds=10.0):
        """Until a version that was not begun yet is applied."""
        start = time.monotonic()
        version = self.trainer.out.count("applied") + 2
        if not self.trainer.says(f"version {version}: applied", seconds):
            raise w.Failed(f"version {version} is not applied within {seconds} s: {self}")
        return time.monotonic() - start

    def ended(self):
        return sum(process.process.poll() is not None for process in (*self.rollouts, self.trainer))


def cut(session, network, direction):
    session.begin()
    start = time.monotonic()
    network.cut(0, direction)
    if not session.trainer.says("was last heard", 10, where="err"):
        raise w.Failed(f"nobody notices: {session}")
    know = time.monotonic() - start
    while time.monotonic() - start < SILENCE:  # this long is the fault
        time.sleep(0.05)
    if session.ended():
        raise w.Failed(f"{session.ended()} ranks have ended: {session}")
    network.heal()
    return know, session.next_version(), session.ended()


def disk(session, folder):
    session.begin()
    state = open(session.state, encoding="ascii").read()
    with open(os.path.join(folder, "filler"), "wb", buffering=0) as filler:
        try:
            while filler.write(b"x" * 4096):
                pass
        except OSError:
            pass
    start = time.monotonic()
    again = session.join(0, "--timeout", 5)  # another life of the trainer: it has to be written down
    code = session.first.wait(10)
    know = time.monotonic() - start
    if code != service.ENVIRONMENT or "cannot be written: No space left on device" not in session.first.err:
        raise w.Failed(f"the coordinator, without room for its state: exit {code}: {session}")
    if open(session.state, encoding="ascii").read() != state:
        raise w.Failed("the state file has changed")
    again.wait()
    if session.ended():
        raise w.Failed(f"{session.ended()} ranks have ended: {session}")
    os.unlink(os.path.join(folder, "filler"))
    start = time.monotonic()
    session.coordinator()
    session.next_version()
    return know, time.monotonic() - start, session.ended()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build")
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    partitions.enter_namespace()
    network = partitions.Network(2)
    weft = service.Weft(f"{options.build}/launch/weft/weft")
    failures = 0
    for name in ("cut both", "cut out", "cut in", "disk"):
        if options.only not in name:
            continue
        why = know = following = lost = None
        with tempfile.TemporaryDirectory(prefix="weft-faults-") as folder:
            if name == "disk":
                subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], check=True)
            with tempfile.TemporaryDirectory(prefix="weft-faults-") as other:
                session = Session(weft, other, None if name == "disk" else network)
                session.state = os.path.join(folder, "state")
                try:
                    with session:
                        know, following, lost = disk(session, folder) if name == "disk" else cut(session, network, name.split()[1])
                except w.Failed as failed:
                    why = str(failed)
                network.heal()
            if name == "disk":
                subprocess.run(["umount", folder], check=True)
        failures += why is not None
        print(f"{'ok    ' if why is None else 'FAILED'} {name:<8} know {faults.seconds(know):>6} s  next {faults.seconds(following):>6} s  lost {lost}"
              + (f"  {why}" if why else ""), flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
