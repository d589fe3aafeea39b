#!/usr/bin/env python3
"""What a version itself can have wrong, with real processes: each scene publishes something that must not be served, or not by
all, and then something that must.

    versions.py BUILD [--only TEXT]      TEXT: "changed", or several: "changed,plan"

  queued    a second version is published while the first is on its way: both go through, one after the other
  apart     two trainers publish different versions: the lower is refused at once, the other waits for its second trainer
  missing   one trainer publishes and the other does not: refused when its deadline is over, naming it
  nan       a trainer's weights hold a NaN: refused by tensor and index
  changed   bits of a trainer's weights flip when one replica has read some, and the other nothing: no two replicas serve other
            bytes under one number. (What all replicas have read alike is not noticed: ipc digests nothing at its source.)
  plan      a rank comes with another plan: no session, and all know
"""

import argparse
import os
import sys
import time

import faults
import world as w

TIMEOUT = 10.0  # transfer_timeout_us of rank.c
NAN, FLIPPED = b"\xc0\x7f", b"\x3d\x3d"  # BF16, little-endian


def outcome(world, rank, version):
    report = world.wait(lambda: world.find(rank, "outcome", f"{version} "), f"trainer {rank}: version {version}")
    return report[2].split(" ", 2)[1:] + [report[0]]


def expect(world, rank, version, status, text=""):
    found, why, when = outcome(world, rank, version)
    if found != status or text not in why:
        raise w.Failed(f"trainer {rank}: version {version}: {found} {why}, expected {status} {text}")
    return when


def serves(world, ranks, version):
    return [world.wait(lambda r=rank: world.serving(r, 1, version), f"rank {rank} serves version {version}")[0] for rank in ranks]


def latest(world, rank):
    """The version that it served last."""
    return int([report for report in world.ranks[rank].reports if report[1] == "serves"][-1][2].split()[1])


def served_as(world, rank, version):
    """The checksums of what it served under that number."""
    return {report[2].split()[2] for report in world.ranks[rank].reports if report[1] == "serves" and report[2].startswith(f"1 {version} ")}


def queued(world):
    world.hold(2, "rank:PREPARED")
    for rank in world.trainers():
        world.ranks[rank].tell(f"queue 2 4 {int(TIMEOUT * 1e6)}")
    world.reached(2, "rank:PREPARED")
    start = time.monotonic()
    for rank in world.trainers():
        world.wait(lambda r=rank: world.find(r, "publishes", "4"), f"trainer {rank} publishes 4")
    world.release(2)
    for version in (2, 4):
        for rank in world.trainers():
            expect(world, rank, version, "OK")
    serves(world, world.rollouts(), 4)
    world.version = 4
    return time.monotonic() - start


def apart(world):
    start = time.monotonic()
    world.ranks[0].tell(f"publish 2 {int(TIMEOUT * 1e6)}")
    world.ranks[1].tell(f"publish 3 {int(TIMEOUT * 1e6)}")
    known = expect(world, 0, 2, "ERR_VERSION_ORDER", "trainer 1 published version 3 and left 2 out")
    world.ranks[0].tell(f"publish 3 {int(TIMEOUT * 1e6)}")
    for rank in world.trainers():
        expect(world, rank, 3, "OK")
    serves(world, world.rollouts(), 3)
    world.version = 3
    return known - start


def missing(world):
    start = time.monotonic()
    world.ranks[0].tell(f"publish 2 {int((TIMEOUT + 5) * 1e6)}")
    known = expect(world, 0, 2, "ERR_TIMEOUT", "for want of: trainer 1")
    world.version = 2
    return known - start


def nan(world):
    world.hold(0, "publish:2")
    world.begin_publish()
    world.reached(0, "publish:2")
    world.ranks[0].poke(2 * 12345, NAN)
    start = time.monotonic()
    world.release(0)
    return max(expect(world, rank, 2, "ERR_NONFINITE", "at flat index 12345") for rank in world.trainers()) - start


def changed(world):
    """Replica 1 is held before it reads, and then a rank of replica 0 when it has read a little."""
    for rank in (4, 5):
        world.hold(rank, "rank:RECEIVING")
    world.hold(2, "span:quantize:20")
    world.changed.add(2)
    world.begin_publish()
    for rank in (4, 5):
        world.reached(rank, "rank:RECEIVING")
    world.reached(2, "span:quantize:20")
    for rank in world.trainers():
        for at in range(512, os.path.getsize(f"/dev/shm/weft-faults-{world.ranks[rank].pid}") - 4096, 4096):
            world.ranks[rank].poke(at, FLIPPED)
    start = time.monotonic()
    for rank in (2, 4, 5):
        world.release(rank)
    known = max(expect(world, rank, 2, "ERR_DIGEST") for rank in world.trainers())
    served = {rank: served_as(world, rank, 2) for rank in world.rollouts()}
    if any(served[a] and served[b] and served[a] != served[b] for a, b in ((2, 4), (3, 5))):
        raise w.Failed(f"replicas serve different bytes: {served}")
    if all(served.values()):
        raise w.Failed("both replicas serve what was changed under them")
    return known - start


def plan(world):
    """Beside session 1, which serves on."""
    scheme, world.scheme = world.scheme, "fp8-channel"
    world.kill(3)
    world.launch(3)
    world.scheme = scheme
    start = time.monotonic()
    world.begin_open(2)
    times = []
    for rank in range(world.num_ranks):
        report = world.wait(lambda r=rank: world.find(r, "unopened", "2 "), f"rank {rank} knows")
        if report[2].split()[1] != "ERR_PLAN_MISMATCH":
            raise w.Failed(f"rank {rank}: {report[2]}")
        times.append(report[0])
    if [latest(world, rank) for rank in (4, 5)] != [1, 1]:
        raise w.Failed("the other replica does not serve on")
    world.kill(3)
    world.launch(3)
    world.open(3)
    return max(times) - start


SCENES = {scene.__name__: scene for scene in (queued, apart, missing, nan, changed, plan)}


def play(scene, options, expected, models):
    world = w.World(f"{options.build}/tests/faults/faults_rank", expected, models, "fsdp:2", "tp:2x2", "fp8-block", verbose=options.verbose)
    try:
        world.open(1)
        world.publish()
        known = scene(world)
        start = time.monotonic()
        following = world.publish() - start
        world.close()
        return known, following, None
    except w.Failed as failed:
        return None, None, str(failed)
    finally:
        world.abandon()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build")
    parser.add_argument("--only", default="")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    source = os.path.dirname(os.path.abspath(__file__)) + "/../../launch/demo/tiny-qwen3/"
    models = [source + "v1", source + "v3"]
    expected = w.Expected(f"{options.build}/launch/weft/weft", models, "tp:2x2", "fp8-block")
    failures = 0
    for name, scene in SCENES.items():
        if not any(text in name for text in options.only.split(",")):
            continue
        known, following, why = play(scene, options, expected, models)
        failures += why is not None
        print(f"{'ok    ' if why is None else 'FAILED'} {name:<8} know {faults.seconds(known):>6} s  next {faults.seconds(following):>6} s"
              + (f"  {why}" if why else ""), flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
