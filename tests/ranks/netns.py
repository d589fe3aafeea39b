#!/usr/bin/python3
"""Service mode between two hosts, which two network namespaces joined by a cable (veth) stand for: a coordinator and trainers on one,
rollouts on the other, weights over zmq. What is bound, what travels in clear, and what a broken cable does. Needs root and iproute2;
exit code 77 where there are none.

    netns.py WEFT [--cable]         --cable: the broken one too (5 s)"""

import argparse
import os
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from service import OK, PEER, V1, V3, Run, Session, grows, served, version_says  # noqa: E402
from command import Weft, scratch  # noqa: E402

NEAR, FAR = "10.213.77.1", "10.213.77.2"


class NoNamespaces(Exception):
    """The reason."""


def ip(*arguments, check=True):
    result = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if check and result.returncode:
        raise NoNamespaces(f"ip {' '.join(arguments)}: {result.stderr.strip()}")
    return result


class Hosts:
    """Two namespaces and the cable between them."""

    def __init__(self):
        self.near, self.far = (f"weft-{os.getpid()}-{end}" for end in ("a", "b"))

    def __enter__(self):
        try:
            for name in (self.near, self.far):
                ip("netns", "add", name)
            ip("-n", self.near, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", self.far)
            for name, address in ((self.near, NEAR), (self.far, FAR)):
                ip("-n", name, "addr", "add", f"{address}/24", "dev", "cable")
                ip("-n", name, "link", "set", "cable", "up")
                ip("-n", name, "link", "set", "lo", "up")
        except FileNotFoundError:
            raise NoNamespaces("there is no ip (iproute2)") from None
        except NoNamespaces:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for name in (self.near, self.far):
            ip("netns", "del", name, check=False)

    def set_cable(self, state):
        ip("-n", self.far, "link", "set", "cable", state)


class Session2(Session):
    """Commands run on a host."""

    transport = "zmq"

    def on(self, host, name, command):
        weft, self.weft = self.weft, None
        try:
            self.weft = "ip"
            return self.start(name, ["netns", "exec", host, weft, *command])
        finally:
            self.weft = weft

    def coordinator_on(self, host, address):
        self.address = f"{address}:7000"
        process = self.on(host, "coordinator", ["coordinator", "--bind", self.address, "--keys", self.keys, *self.topology,
                                                "--state", self.state, "--wait", self.waits, "--verbose"])
        process.says("weft coordinator: tcp://")
        return process

    def join_on(self, host, address, rank, *more, keys=None, models=(V1, V3)):
        return self.on(host, f"rank{rank}", ["join", "--coordinator", self.address, "--keys", keys or self.keys, "--rank", rank, "--host", address,
                                             "--model", ",".join(models), *self.layout, *more])


def listening(host):
    """The addresses that something listens on."""
    text = subprocess.run(["ip", "netns", "exec", host, "cat", "/proc/net/tcp", "/proc/net/tcp6"], capture_output=True, text=True).stdout
    rows = [line.split() for line in text.splitlines() if "local_address" not in line]
    hexes = [row[1].split(":")[0] for row in rows if row[3] == "0A"]
    return {".".join(str(byte) for byte in bytes.fromhex(word)[::-1]) if len(word) == 8 else word for word in hexes}


def check_hosts(t, hosts, folder):
    with Session2(t.weft, folder, trainer="fsdp:2", rollout="tp:2", trainers=2, rollouts=2, tp=2) as s:
        s.coordinator_on(hosts.near, NEAR)
        rollouts = [s.join_on(hosts.far, FAR, rank, "--until", 101, "--dump", s.dump("dump")) for rank in (2, 3)]
        trainers = [s.join_on(hosts.near, NEAR, rank, models=(V1,)) for rank in (0, 1)]
        if not t.that(version_says(rollouts, 1), "a version crosses from one host to the other", s):
            return
        t.that([process.wait() for process in trainers] == [OK, OK], "its trainers end", s)
        t.that(listening(hosts.far) == {FAR}, "ranks listen on the address they were given, and no other", listening(hosts.far))
        stranger = os.path.join(s.folder, "stranger")
        t.weft("keygen", "--out", stranger)
        lost = s.join_on(hosts.far, FAR, 0, "--timeout", 1, keys=stranger)
        again = [s.join_on(hosts.near, NEAR, rank, "--first", 101, models=(V3,)) for rank in (0, 1)]
        t.that(lost.wait(20) == PEER, "with other keys nobody gets in from another host", s)
        codes = [process.wait() for process in rollouts + again]
        if t.that(codes == [OK] * 4, "new trainers publish to the same rollouts", s):
            served(t, s, s.dump("dump"), V3, "over zmq, two hosts")


def check_cable(t, hosts, folder):
    """A cable that is out for longer than the silence allowed: what is beyond it is lost, and comes back as a new life."""
    with Session2(t.weft, folder, trainer="fsdp:1", rollout="tp:1x2", trainers=1, rollouts=2, tp=1, wait=2) as s:
        coordinator = s.coordinator_on(hosts.near, NEAR)
        trainer = s.join_on(hosts.near, NEAR, 0, "--updates", 100000, "--pause", 5)
        near, far = s.join_on(hosts.near, NEAR, 1), s.join_on(hosts.far, FAR, 2)
        t.that(version_says((near, far), 2), "versions reach both hosts", s)
        hosts.set_cable("down")
        t.that(coordinator.says("rank 2 was silent", 10, "err"), "a rank behind a broken cable counts as lost", s)
        applied = trainer.out.count("applied")
        t.that(grows(lambda: trainer.out.count("applied"), applied + 10), "the others go on", s)
        hosts.set_cable("up")
        t.that(far.wait(20) == PEER, "the rank hears that it is out, and ends", s)
        again = s.join_on(hosts.far, FAR, 2)
        t.that(again.says("is live", 20), "its next life serves", s)
        again.send(signal.SIGTERM)
        t.that(again.wait(10) == OK, "and leaves", s)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("weft")
    parser.add_argument("--cable", action="store_true")
    arguments = parser.parse_args()
    t = Run(Weft(arguments.weft))
    try:
        for case in (check_hosts, check_cable) if arguments.cable else (check_hosts,):
            start = time.monotonic()
            with Hosts() as hosts, scratch("netns") as folder:
                case(t, hosts, folder)
            print(f"{case.__name__}: {time.monotonic() - start:.1f} s", flush=True)
    except NoNamespaces as reason:
        print(f"skipped: no network namespaces here: {reason}")
        sys.exit(77)
    t.end()


if __name__ == "__main__":
    main()
