#!/usr/bin/env python3
"""Updates without a pause under random faults, for as long as is asked for; a line a minute, a table last.

    soak.py BUILD [--minutes M] [--seed S] [--verbose]      SIGTERM ends it early

Two trainers and two replicas of two ranks, processes of their own, over ipc in host memory. Between runs of updates that all must
go through, something happens to a random rank at a random place or moment of a version:

    kill     kill -9; its place is taken by a new process, and all that live open the next session with it
    stop     SIGSTOP, until the others know; then the same
    join     kill -9 while a session is being opened
    pause    SIGSTOP for less than a second; nobody is lost, the version goes through
    slow     stands still four fifths of the time for one version
    clock    the time of day jumps, forward and back
    nan      a trainer's weights have one; the version is refused, the next one is not
    two      a version is published while another is on its way

Trainer 1 and replica 1 are never killed: they live through every session, and their memory, descriptors, threads and mappings
must not grow. Every step is compared with what `weft quantize` writes, every call with its deadline.

Exit status: 0, or 1 where a step was torn, somebody hung, or something grew. Who knew later than within 2 s, calls that returned
late, and who was lost though it only paused, are counted: on a machine with other work, that happens."""

import argparse
import os
import random
import resource
import signal
import sys
import time
from collections import Counter

import world as w

NEVER_KILLED = (1, 4, 5)
MORTAL = (0, 2, 3)
WATCHER = 2
PLACES = ("rank:RECEIVING", "rank:PREPARED", "rank:ARMED", "rank:COMMITTED", "rank:IDLE")
KINDS = {"kill": 30, "stop": 8, "join": 8, "pause": 20, "slow": 6, "clock": 6, "nan": 10, "two": 12}
KNOW, NEXT = 2.0, 3.0  # seconds
NAN = b"\xff\x7f"  # bf16
SETTLED = 0.1  # of the time, before memory is looked at
KIB_A_SESSION = 1.0  # that anonymous memory may grow by: a page in four sessions


def memory_of(pid):
    """Anonymous memory and mappings."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        status = dict(line.split(":", 1) for line in file.read().splitlines())
    with open(f"/proc/{pid}/maps", encoding="ascii") as file:
        return int(status["RssAnon"].split()[0]), sum(1 for _ in file)


class Soak:
    def __init__(self, world, seed):
        self.world, self.random = world, random.Random(seed)
        world.counts_late = True
        self.updates = self.sessions = 0
        self.epoch = 0  # the last one asked for
        self.serves = 0  # the one that versions come by
        self.done = Counter()
        self.know, self.next = [], []
        self.lost_alive = 0
        self.over = False  # SIGTERM ends it early, and well
        self.samples = {rank: [] for rank in NEVER_KILLED}  # (seconds, sessions, descriptors, threads, KiB, mappings)

    # ---- versions and sessions ----

    def begin(self):
        """What was said before is of no interest any more."""
        self.world.drain()
        for process in self.world.ranks.values():
            del process.reports[:]
            process.slowed = False

    def update(self):
        self.world.publish()
        self.updates += 1

    def reopen(self):
        world, start = self.world, time.monotonic()
        self.epoch += 1
        pids = {rank: process.pid for rank, process in world.ranks.items()}
        there = [rank for rank in range(world.num_ranks) if self.pids.get(rank) == pids[rank]] if self.serves else []
        world.open(self.epoch)
        self.update()
        self.next.append(time.monotonic() - start)
        for rank in there:
            world.wait(lambda r=rank: world.find(r, "closed", f"{self.serves} "), f"rank {rank} closes session {self.serves}")
        self.serves, self.pids = self.epoch, pids
        self.sessions += 1

    def outcome(self, rank, version):
        world = self.world
        return world.wait(lambda: world.find(rank, "outcome", f"{version} "), f"trainer {rank} ends version {version}")

    def settle(self):
        """The version in hand goes through for all, or a session is opened anew."""
        world, version = self.world, self.world.version
        ends = [self.outcome(rank, version)[2].split()[1] for rank in world.trainers()]
        if all(end == "OK" for end in ends):
            for rank in world.rollouts():
                world.wait(lambda r=rank: world.serving(r, world.epoch, version), f"rank {rank} serves version {version}")
            self.updates += 1
        else:
            self.lost_alive += 1
            self.reopen()

    # ---- where and when ----

    def strike(self, victim, do):
        """A version is on its way, and `do` happens; returns when that was."""
        world = self.world
        watcher = victim if victim >= world.num_trainers else WATCHER
        place = self.random.choice(PLACES + (None,) * 3)
        if place is None:
            world.begin_publish()
            world.listen_for(self.random.uniform(0, 0.15))
            return do(victim)
        world.hold(watcher, place)
        world.begin_publish()
        world.reached(watcher, place)
        struck = do(victim)
        world.release(watcher)
        return struck

    # ---- what happens ----

    def end_of(self, rank, version, struck):
        """When a trainer knew, or None: the version went through."""
        found = self.outcome(rank, version)
        return None if found[2].split()[1] == "OK" else found[0] - struck

    def learn(self, victim, struck):
        world = self.world
        trainers = [rank for rank in world.trainers() if rank != victim]
        known = [self.end_of(rank, world.version, struck) for rank in trainers]
        if None in known:
            world.begin_publish(ranks=trainers)
            again = [self.end_of(rank, world.version, struck) for rank in trainers]
            if None in again:
                raise w.Failed("a version goes through without a rank")
            known = [first or second for first, second in zip(known, again)]
        for rank in world.rollouts():
            if rank != victim and victim >= world.num_trainers and world.replica(rank) == world.replica(victim):
                found = world.wait(lambda r=rank: world.find(r, "step", "ERR_PEER_LOST"), f"rank {rank} knows")
                known.append(found[0] - struck)
        self.know.append(max(known))

    def replace(self, victim):
        self.world.launch(victim)
        self.reopen()

    def kill(self):
        victim = self.random.choice(MORTAL)
        self.learn(victim, self.strike(victim, self.world.kill))
        self.replace(victim)

    def halt(self, victim):
        self.world.ranks[victim].doomed = True
        self.world.signal(victim, signal.SIGSTOP)
        return time.monotonic()

    def stop(self):
        victim = self.random.choice(MORTAL)
        self.learn(victim, self.strike(victim, self.halt))
        self.world.kill(victim)
        self.replace(victim)

    def join(self):
        world, victim, place = self.world, self.random.choice(MORTAL), self.random.choice(("join:2", "plan:2"))
        self.epoch += 1
        world.hold(victim, place)
        world.begin_open(self.epoch)
        world.reached(victim, place)
        struck = world.kill(victim)
        known = [world.wait(lambda r=rank: world.find(r, "unopened", f"{self.epoch} "), f"rank {rank} knows that it cannot join")
                 for rank in range(world.num_ranks) if rank != victim]
        self.know.append(max(report[0] for report in known) - struck)
        self.replace(victim)

    def pause(self):
        world, victim = self.world, self.random.randrange(self.world.num_ranks)
        world.ranks[victim].slowed = True
        self.strike(victim, lambda rank: world.signal(rank, signal.SIGSTOP))
        world.listen_for(self.random.uniform(0.02, 0.8))
        world.signal(victim, signal.SIGCONT)
        self.settle()

    def slow(self):
        world, victim = self.world, self.random.randrange(self.world.num_ranks)
        world.ranks[victim].slowed = True
        world.begin_publish()
        while not all(world.find(rank, "outcome", f"{world.version} ") for rank in world.trainers()):
            world.signal(victim, signal.SIGSTOP)
            world.listen_for(0.08)
            world.signal(victim, signal.SIGCONT)
            world.listen_for(0.02)
        self.settle()

    def clock(self):
        victim = self.random.randrange(self.world.num_ranks)
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1):
            self.world.signal(victim, number)
            self.update()

    def nan(self):
        world, victim = self.world, self.random.choice(list(self.world.trainers()))
        world.hold(victim, f"publish:{world.version + 1}")
        world.begin_publish()
        world.reached(victim, f"publish:{world.version}")
        world.ranks[victim].poke(0, NAN)
        world.release(victim)
        for rank in world.trainers():
            if self.outcome(rank, world.version)[2].split()[1] == "OK":
                raise w.Failed(f"version {world.version} has a NaN and goes through")
        self.update()

    def two(self):
        world, first = self.world, self.world.version + 1
        world.version = first + 2  # of the same weights
        for rank in world.trainers():
            world.ranks[rank].tell(f"queue {first} {world.version} 10000000")
        self.settle()

    # ---- all ----

    def sample(self, now):
        for rank, samples in self.samples.items():
            process = self.world.ranks[rank]
            samples.append((now, self.sessions, *process.resources()[:2], *memory_of(process.pid)))

    def cycle(self, now):
        self.begin()
        for _ in range(self.random.randint(2, 12)):
            self.update()
        self.sample(now)
        self.begin()
        kind = self.random.choices(list(KINDS), list(KINDS.values()))[0]
        getattr(self, kind)()
        self.done[kind] += 1

    def run(self, seconds):
        self.pids = {}
        self.reopen()
        self.next.clear()
        start, minute = time.monotonic(), 1
        while (now := time.monotonic() - start) < seconds and not self.over:
            self.cycle(now)
            if now >= minute * 60:
                print(f"{minute:3} min {self.updates:7} updates {self.sessions:5} sessions  {self.anonymous()} KiB"
                      f"  load {os.getloadavg()[0]:.1f}", flush=True)
                minute = int(now // 60) + 1
        self.begin()
        self.update()
        self.sample(now)
        self.world.close()

    def end(self, *_):
        self.over = True

    def anonymous(self):
        return " ".join(f"{samples[-1][4]}" for samples in self.samples.values())

    # ---- what came of it ----

    def growth(self, samples):
        """KiB a session of anonymous memory, by least squares, once settled."""
        late = [s for s in samples if s[0] >= samples[-1][0] * SETTLED]
        xs, ys = [s[1] for s in late], [s[4] for s in late]
        mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
        spread = sum((x - mean_x) ** 2 for x in xs)
        return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys)) / spread if spread else 0.0

    def grown(self, long):
        """What is not flat. Memory needs sessions enough to tell growth from noise."""
        for rank, samples in self.samples.items():
            for index, what in ((2, "descriptors"), (3, "threads")):
                if len({s[index] for s in samples}) > 1:
                    yield f"rank {rank}: {what} {sorted(Counter(s[index] for s in samples).items())}"
            if long and samples[-1][5] > max(s[5] for s in samples[: len(samples) // 4 + 1]):
                yield f"rank {rank}: {samples[-1][5]} mappings"
            if long and self.growth(samples) > KIB_A_SESSION:
                yield f"rank {rank}: {self.growth(samples):.2f} KiB of memory more each session"

    def table(self, seconds):
        print(f"\n{self.updates} updates, {self.sessions} sessions, {sum(self.done.values())} faults in {seconds / 60:.1f} minutes")
        print(" ".join(f"{kind} {count}" for kind, count in sorted(self.done.items())))
        for what, times, limit in (("know", self.know, KNOW), ("next", self.next, NEXT)):
            if times:
                ordered = sorted(times)
                late = sum(t > limit for t in times)
                print(f"{what}: P50 {ordered[len(times) // 2]:.2f} s, P99 {ordered[len(times) * 99 // 100]:.2f} s, most {ordered[-1]:.2f} s, "
                      f"{late} of {len(times)} later than {limit:.0f} s")
        print(f"versions that failed though nobody was killed: {self.lost_alive}; calls later than their deadlines: {len(self.world.late)}")
        print("\n".join(f"    {late}" for late in self.world.late[:10]))
        print("rank  descriptors  threads  mappings  anonymous KiB, first and last  growth, KiB a session")
        for rank, samples in self.samples.items():
            first, last = samples[len(samples) // 10], samples[-1]
            print(f"{rank:4}  {last[2]:11}  {last[3]:7}  {first[5]:3} to {last[5]:3}  {first[4]:14} {last[4]:14}  {self.growth(samples):12.3f}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    source = os.path.dirname(os.path.abspath(__file__)) + "/../../launch/demo/tiny-qwen3/"
    models = [source + "v1", source + "v3"]
    expected = w.Expected(f"{options.build}/launch/weft/weft", models, "tp:2x2", "fp8-block")
    # Ranks of a replica decode at their own pace here: one that has paused is many steps behind, and a commit waits for it. A C
    # library that gives every thread an arena of its own lets memory grow for an hour, and says nothing about what is kept.
    world = w.World(f"{options.build}/tests/faults/faults_rank", expected, models, "fsdp:2", "tp:2x2", "fp8-block",
                    environment={"WEFT_FAULTS_COMMIT_US": "8000000", "MALLOC_ARENA_MAX": "1"}, verbose=options.verbose)
    soak, wrong = Soak(world, options.seed), []
    signal.signal(signal.SIGTERM, soak.end)
    start = time.monotonic()
    try:
        soak.run(options.minutes * 60)
    except w.Failed as failed:
        wrong.append(f"after {time.monotonic() - start:.1f} s, {soak.updates} updates: {failed}")
    finally:
        world.abandon()
    soak.table(time.monotonic() - start)
    wrong += soak.grown(soak.sessions >= 100)
    for line in wrong:
        print("WRONG", line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
