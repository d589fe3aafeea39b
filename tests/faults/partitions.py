#!/usr/bin/env python3
"""Cut ranks off from each other, each in a network namespace of its own, and heal the cut again.

    partitions.py BUILD                      every row of the table
    partitions.py BUILD --only "leader out"  rows whose name matches
    partitions.py BUILD --short              one row, for every change

Each rank is a process in a namespace with one address; this program is the router between them, in a namespace of its own that
ends with it. Reports and commands go over TCP, weights over the zmq transport; the supervisor's own sockets are not cut.
A cut drops packets, so that nobody's connection is closed: all that `out` of a rank, `in` to it, or `both`. Then

  know    as in faults.py: every rank on the other side learns of it by a call that returns
  self    the rank that is cut off learns of it too: its wait ends, or its status says cut off. Half a cut may leave it
          nothing to learn
  fenced  the cut is healed. A rollout rank that comes back is told within 2 s that it serves nothing any more, and from then on
          begins no step; a trainer's next version fails. Where the coordinator was cut off, the rollouts are told
  next    all open a session beside the one that was cut, and the next version goes through it. No process is started again.
  kept    as in faults.py

Needs the right to make network namespaces; says so and ends with 77 without it.
"""

import argparse
import os
import subprocess
import sys
import time

import faults
import world as w

SKIPPED = 77
INSIDE = "WEFT_FAULTS_INSIDE"  # set in the namespace
ROLES, DIRECTIONS, PHASES = faults.ROLES, ("both", "out", "in"), ("quantize", "armed", "after")
KNOW = {"both": 2.0, "out": 2.0, "in": 3.5}  # seconds; who hears nothing more is heard until it gives its connections up, 1.5 s
FENCED = 2.0
SHORT = ("cut leader both quantize",)


def enter_namespace():
    """Start this program again where it may make namespaces, and nobody else sees them."""
    if os.environ.get(INSIDE):
        return
    unshare = ["unshare", "--net", "--mount"] + ([] if os.geteuid() == 0 else ["--map-root-user"])
    probe = subprocess.run([*unshare, "sh", "-c", "mount -t tmpfs none /run && mkdir /run/netns && ip netns add one && "
                                                  "ip link add v0 type veth peer name eth0 netns one && ip rule add from 10.77.0.2 blackhole"],
                           stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False) if w.shutil.which("ip") else None
    if probe is None or probe.returncode:
        print("skipped: no network namespaces here: " + (probe.stderr.strip() if probe else "there is no ip command"))
        sys.exit(SKIPPED)
    os.environ[INSIDE] = "1"
    os.execvp(unshare[0], [*unshare, sys.executable, *sys.argv])


class Network:
    """Namespaces r0, r1 ... with the addresses 10.77.N.2, and this namespace as their router."""

    def __init__(self, count):
        subprocess.run("mount -t tmpfs none /run && mkdir /run/netns && ip link set lo up", shell=True, check=True)
        with open("/proc/sys/net/ipv4/ip_forward", "w", encoding="ascii") as file:
            file.write("1")
        for n in range(count):
            self.ip(f"netns add r{n}")
            self.ip(f"link add v{n} type veth peer name eth0 netns r{n}")
            self.ip(f"addr add 10.77.{n}.1/24 dev v{n}")
            self.ip(f"link set v{n} up")
            for line in ("link set lo up", "link set eth0 up", f"addr add {self.address(n)}/24 dev eth0",
                         f"route add default via 10.77.{n}.1"):
                self.ip(f"-n r{n} {line}")
        self.rules = []

    @staticmethod
    def ip(line):
        subprocess.run(["ip", *line.split()], check=True)

    @staticmethod
    def address(n):
        return f"10.77.{n}.2"

    def wrap(self, n):
        return ["nsenter", f"--net=/run/netns/r{n}", "env", f"WEFT_FAULTS_HOST={self.address(n)}"]

    def cut(self, n, direction):
        for way, name in (("from", "out"), ("to", "in")):
            if direction in ("both", name):
                self.rules.append(f"{way} {self.address(n)} blackhole")
                self.ip(f"rule add {self.rules[-1]}")

    def heal(self):
        while self.rules:
            self.ip(f"rule del {self.rules.pop()}")


class Row(faults.Row):
    def __init__(self, role, direction, phase):
        super().__init__("cut", role, phase)
        self.direction = direction
        self.alone = None

    @property
    def name(self):
        return f"cut {self.role} {self.direction} {self.phase}"


def rows():
    return [Row(role, direction, phase) for role in ROLES for direction in DIRECTIONS for phase in PHASES]


class Play(faults.Play):
    """One row. Who is cut off lives, and is looked at by itself."""

    def __init__(self, row, world, network):
        super().__init__(row, world)
        self.network = network

    def strike(self):
        self.time = time.monotonic()
        self.network.cut(self.row.victim, self.row.direction)
        self.world.release(self.watcher)

    def is_trainer(self):
        return self.row.victim < self.world.num_trainers

    def note(self, field, report):
        self.row.seen.append(f"{field}: rank {self.row.victim} {report[0] - self.time:.3f} {report[1]} {report[2]}")
        return report[0]

    # ---- the one who is cut off ----

    def know_itself(self):
        """Its wait ends badly, or its status says so. Where it still hears the coordinator, or is it, it may be told
        what everybody is told."""
        world, victim = self.world, self.row.victim

        def find():
            for report in world.ranks[victim].reports:
                told = report[1] == "outcome" and report[2].split()[1] != "OK"
                alone = report[1] == "phase" and report[2].endswith("cut off")
                if report[0] >= self.time and (told or alone or self.is_fence(report)):
                    return report
            return None
        if self.is_trainer() and not self.ended_badly():
            world.begin_publish(ranks=[victim])
        self.row.alone = self.note("self", world.wait(find, f"rank {victim} knows by itself", 15)) - self.time

    def ended_badly(self):
        """The version in hand has ended for it, and not well."""
        world, victim = self.world, self.row.victim
        report = self.learn(victim, "outcome", lambda text: True, "ends a version")
        return report[2].split()[1] != "OK"

    # ---- healed ----

    def heal(self):
        healed = time.monotonic()
        self.network.heal()
        victim = self.row.victim
        times = [self.learn_fence(rank) for rank in (self.world.rollouts() if victim == 0 else [victim])]
        self.row.fenced = max(0.0, max(times) - healed)

    def run(self):
        world = self.world
        world.open(1)
        world.publish()
        self.before = {r: (*world.ranks[r].resources(), world.ranks[r].pid) for r in range(world.num_ranks)}
        self.reach_phase()
        self.strike()
        self.know()
        self.know_itself()
        self.heal()
        self.check_silence()
        self.open_next(time.monotonic(), range(world.num_ranks))
        self.check_flat()
        world.close()


def run(row, options, expected, models, network):
    environment = {"WEFT_FAULTS_TRANSPORT": "zmq", "WEFT_FAULTS_JOIN_US": "5000000"}
    world = w.World(f"{options.build}/tests/faults/faults_rank", expected, models, "fsdp:2", "tp:2x2", "fp8-block",
                    environment=environment, verbose=options.verbose, wrap=network.wrap)
    try:
        Play(row, world, network).run()
        for value, most, what in ((row.know, KNOW[row.direction], "known"), (row.alone, 2 * KNOW[row.direction], "known by itself"),
                                  (row.fenced, FENCED, "fenced"), (row.next, faults.NEXT, "next version")):
            if value > most:
                return f"{what} after {value:.2f} s, at most {most}"
        return None
    except w.Failed as failed:
        return str(failed)
    finally:
        network.heal()
        world.abandon()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build")
    parser.add_argument("--only", default="")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    enter_namespace()
    source = os.path.dirname(os.path.abspath(__file__)) + "/../../launch/demo/tiny-qwen3/"
    models = [source + "v1", source + "v3"]
    expected = w.Expected(f"{options.build}/launch/weft/weft", models, "tp:2x2", "fp8-block")
    table = [row for row in rows() if all(word in row.name.split() for word in options.only.split())]
    if options.short:
        table = [row for row in table if row.name in SHORT]
    network = Network(6)
    failures = 0
    for row in table:
        why = run(row, options, expected, models, network)
        failures += why is not None
        fields = "  ".join(f"{name} {faults.seconds(value):>5} s" for name, value in (
            ("know", row.know), ("self", row.alone), ("fenced", row.fenced), ("next", row.next)))
        print(f"{'ok    ' if why is None else 'FAILED'} {row.name:<32} {fields}" + (f"  {why}" if why else ""), flush=True)
        if why:
            for line in row.seen:
                print("       ", line)
    print(f"{len(table) - failures} of {len(table)} rows")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
