#!/usr/bin/env python3
"""Strangers connect to every port of a session, and it goes on.

    connections.py BUILD                     every row of the table
    connections.py BUILD --only "random"     rows whose name matches
    connections.py BUILD --short             rows that are over at once, for every change

Ports: `ranks`, the control port and the zmq transport's of six ranks; `door`, both ports of a coordinator in service mode. The strangers:

  idle      connect and say nothing
  random    bytes of no protocol
  greeting  ZeroMQ's greeting with CURVE, then bytes of no protocol
  half      the same, and half a frame that never ends
  trickle   ZeroMQ's greeting, a byte at a time
  flood     idle ones, more than rank 0, or the coordinator, may have descriptors (RLIMIT_NOFILE lowered)

Meanwhile versions are published, one after the other. Then

  cut       every stranger's connection is ended by the one it connected to, having heard no more than ZeroMQ's greeting
  slowest   the longest that a version took
  flat      descriptors and threads are afterwards what they were before
"""

import argparse
import os
import random
import resource
import sys
import tempfile
import time

import faults
import world as w

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "ranks"))
import service  # noqa: E402

GREETING = service.GREETING + b"CURVE".ljust(20, b"\0") + bytes(32)
STRANGERS = {"idle": 50, "random": 20, "greeting": 20, "half": 20, "trickle": 20, "flood": 200}  # to each port, but flood: to the first
SPARE = 20  # descriptors that a flooded rank may have beside those it has
CUT = 8.0   # seconds: a handshake may take 5, and is looked at now and then
SHORT = ("ranks random",)
SEED = 1


class Stranger:
    """One connection, which never blocks."""

    def __init__(self, port, kind, numbers):
        self.socket = w.socket.create_connection(("127.0.0.1", port))
        self.socket.setblocking(False)
        noise = numbers.randbytes(8192)
        self.told, self.over = b"", False
        self.rest = {"random": noise, "greeting": GREETING + noise, "half": GREETING + b"\x06\0\0\0\0\0\0\0\xc8\x05HELLO" + noise[:100]}.get(kind, b"")
        self.drops = GREETING if kind == "trickle" else b""

    def act(self, drip):
        """Say what it has to say, a byte where it trickles; hear."""
        if drip:
            self.rest, self.drops = self.rest + self.drops[:1], self.drops[1:]
        try:
            if self.rest:
                self.rest = self.rest[self.socket.send(self.rest):]
            piece = self.socket.recv(65536)
            self.told += piece
            self.over |= not piece
        except BlockingIOError:
            pass
        except OSError:
            self.over = True

    def close(self):
        self.socket.close()


def make_crowd(ports, kind):
    numbers = random.Random(SEED)
    return [Stranger(port, kind, numbers) for port in (ports[:1] if kind == "flood" else ports) for _ in range(STRANGERS[kind])]


def check_crowd(crowd):
    chatty = [s for s in crowd if len(s.told) > 64]
    if chatty:
        raise w.Failed(f"a stranger was told {len(chatty[0].told)} bytes: {chatty[0].told[:100]!r}")


class Result:
    cut = slowest = None


def entertain(crowd, publish, result):
    """Versions go through while the strangers do what they do."""
    start = dripped = time.monotonic()
    result.slowest = 0.0
    while not all(stranger.over for stranger in crowd):
        if time.monotonic() - start > CUT:
            raise w.Failed(f"{sum(not s.over for s in crowd)} of {len(crowd)} strangers are not cut within {CUT} s")
        drip = time.monotonic() - dripped >= 0.25
        dripped = time.monotonic() if drip else dripped
        for stranger in crowd:
            if not stranger.over:
                stranger.act(drip)
        began = time.monotonic()
        publish()
        result.slowest = max(result.slowest, time.monotonic() - began)
    result.cut = time.monotonic() - start
    check_crowd(crowd)


def outlast(crowd, publish, result):
    """Those that find no descriptor are not taken in, and so are not cut: they go by themselves, when some versions have
    gone through beside them."""
    result.slowest = 0.0
    for _ in range(20):
        began = time.monotonic()
        publish()
        result.slowest = max(result.slowest, time.monotonic() - began)
    check_crowd(crowd)


# ---- the ports of ranks ----


def wait_flat(world, before):
    """ZeroMQ's own thread ends a connection some time after the peer has."""
    def flat():
        return all(world.ranks[r].resources()[:2] == before[r] for r in before)
    try:
        world.wait(flat, "descriptors and threads are what they were", 10)
    except w.Failed as failed:
        now = {r: world.ranks[r].resources()[:2] for r in before}
        raise w.Failed(f"{failed}: {now}, before {before}") from failed


def at_ranks(kind, options, expected, models, result):
    world = w.World(f"{options.build}/tests/faults/faults_rank", expected, models, "fsdp:2", "tp:2x2", "fp8-block",
                    environment={"WEFT_FAULTS_TRANSPORT": "zmq", "WEFT_FAULTS_JOIN_US": "5000000",
                                 "WEFT_FAULTS_COMMIT_US": "8000000"}, verbose=options.verbose)
    crowd = []
    try:
        world.open(1)
        world.publish()
        ports = [port for rank in world.ranks.values() for port in rank.ports()]
        if len(ports) != 2 * world.num_ranks:
            raise w.Failed(f"{world.num_ranks} ranks listen on {len(ports)} ports")
        before = {r: world.ranks[r].resources()[:2] for r in range(world.num_ranks)}
        if kind == "flood":
            most = world.ranks[0].used(resource.RLIMIT_NOFILE) + SPARE
            world.ranks[0].limit(resource.RLIMIT_NOFILE, most)
        crowd = make_crowd(ports, kind)
        if kind == "flood":
            outlast(crowd, world.publish, result)
            if world.ranks[0].used(resource.RLIMIT_NOFILE) < most:
                raise w.Failed("descriptors did not run out")
        else:
            entertain(crowd, world.publish, result)
        for stranger in crowd:
            stranger.close()
        world.ranks[0].limit(resource.RLIMIT_NOFILE, None)
        wait_flat(world, before)
        world.open(2)
        world.publish()
        world.close()
    finally:
        for stranger in crowd:
            stranger.close()
        world.abandon()


# ---- the door ----


def at_door(kind, options, result):
    crowd = []
    with tempfile.TemporaryDirectory(prefix="weft-faults-") as folder:
        tools = service.Weft(f"{options.build}/launch/weft/weft")
        with service.Session(tools, folder, trainer="fsdp:1", rollout="tp:1", trainers=1, rollouts=1, tp=1) as s:
            coordinator = s.coordinator()
            rollout, trainer = s.join(1), s.join(0, "--updates", 100000, "--pause", 5)
            if not rollout.says("version 1 is live"):
                raise w.Failed(f"no version goes through: {s}")
            before = descriptors(coordinator)
            ports = [s.port, s.port + 1]
            if kind == "flood":
                _, hard = resource.prlimit(coordinator.process.pid, resource.RLIMIT_NOFILE)
                resource.prlimit(coordinator.process.pid, resource.RLIMIT_NOFILE, (before + SPARE, hard))

            def publish():
                """Until the next version that the trainer has begun after this is applied."""
                version = trainer.out.count("applied") + 2
                if not trainer.says(f"version {version}: applied", 10):
                    raise w.Failed(f"version {version} is not applied: {s}")
            crowd = make_crowd(ports, kind)
            try:
                if kind == "flood":
                    outlast(crowd, publish, result)
                    if descriptors(coordinator) < before + SPARE:
                        raise w.Failed("descriptors did not run out")
                else:
                    entertain(crowd, publish, result)
            finally:
                for stranger in crowd:
                    stranger.close()
            end = time.monotonic() + 10
            while descriptors(coordinator) != before:
                if time.monotonic() > end:
                    raise w.Failed(f"the coordinator has {descriptors(coordinator)} descriptors, before {before}")
                time.sleep(0.01)
            publish()


def descriptors(process):
    return len(os.listdir(f"/proc/{process.process.pid}/fd"))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build")
    parser.add_argument("--only", default="")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    source = os.path.dirname(os.path.abspath(__file__)) + "/../../launch/demo/tiny-qwen3/"
    models = [source + "v1", source + "v3"]
    expected = w.Expected(f"{options.build}/launch/weft/weft", models, "tp:2x2", "fp8-block")
    table = [(port, kind) for port in ("ranks", "door") for kind in STRANGERS]
    table = [row for row in table if all(word in row for word in options.only.split())]
    if options.short:
        table = [row for row in table if " ".join(row) in SHORT]
    failures = 0
    for port, kind in table:
        result, why = Result(), None
        try:
            at_ranks(kind, options, expected, models, result) if port == "ranks" else at_door(kind, options, result)
        except w.Failed as failed:
            why = str(failed)
        failures += why is not None
        print(f"{'ok    ' if why is None else 'FAILED'} {port} {kind:<10} cut {faults.seconds(result.cut):>6} s  slowest "
              f"{faults.seconds(result.slowest):>6} s" + (f"  {why}" if why else ""), flush=True)
    print(f"{len(table) - failures} of {len(table)} rows")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
