#!/usr/bin/env python3
"""Kill, stop, slow and starve real ranks at named places of an update, and measure what the others make of it.

    faults.py BUILD                          every row of the table
    faults.py BUILD --only kill              rows whose name matches; "kill leader armed"
    faults.py BUILD --short                  a few rows, for every change

Each row starts two trainers and two replicas of two ranks as processes of their own, over the ipc transport in host
memory. Version 1 serves. A thread comes to the place in version 2 that the row names and is held there; the
fault is done to the row's rank; the held thread goes on. Nothing is left to a sleep. Then

  know    every rank that lives learns of it by a call that returns: a trainer by weft_trainer_wait, a rank of the
          replica that is not whole by weft_rollout_step_begin. Other replicas serve on and have nothing to learn.
  next    a new process takes the place of the one that is gone, those that live open a session with it beside the one
          that serves, and the next version goes through it. No process that lives is started again.
  kept    whatever is served, at every step, is a version as `weft quantize` writes it, bit for bit; and what a rank
          holds that may not serve is one too.
  flat    descriptors and threads of those that live are afterwards what they were before.

The faults:

  kill, stop      SIGKILL; SIGSTOP, and SIGKILL before another takes its place
  return          SIGSTOP, and SIGCONT when all others have taken the rank for dead: it must find out that it is out (field
                  `fenced`), and goes on into the next session as the process it is. The coordinator loses nobody by it
  slow            stands still four fifths of the time: nobody is lost
  clock           the time of day is an hour later, then two hours earlier: nothing happens
  fds, memory     RLIMIT_NOFILE, RLIMIT_AS: nothing more to be had until the version is decided. The rank says so, or does without;
                  ZeroMQ may end the process for want of memory: then as kill
"""

import argparse
import resource
import signal
import sys
import time

import world as w

ROLES = {"coordinator": 0, "trainer": 1, "leader": 2, "rollout": 3}
WATCHER = 2  # a rollout's places, where a trainer is the one to fall

# Where a version is when the fault comes. In the first two nothing is published: ranks are about to meet.
PHASES = {
    "join": "join:2",
    "plan": "plan:2",
    "begin": "rank:RECEIVING",
    "quantize": "span:quantize:20",
    "prepared": "rank:PREPARED",
    "armed": "rank:ARMED",
    "committing": "rank:COMMITTED",
    "after": "rank:IDLE",
}
KNOW, NEXT = 2.0, 3.0  # seconds


SHORT = ("kill coordinator quantize", "kill rollout quantize", "kill leader armed", "kill trainer prepared", "kill trainer plan",
         "clock trainer begin", "fds leader join")


FAULTS = ("kill", "stop", "slow", "return", "clock", "fds", "memory")
LIMITS = {"fds": resource.RLIMIT_NOFILE, "memory": resource.RLIMIT_AS}


class Row:
    def __init__(self, fault, role, phase):
        self.fault, self.role, self.phase = fault, role, phase
        self.victim = ROLES[role]
        self.know = self.next = self.fenced = None
        self.became = ""  # what of the version, or of the process, under `fds` and `memory`
        self.seen = []

    @property
    def name(self):
        return f"{self.fault} {self.role} {self.phase}"


def rows():
    return [Row(fault, role, phase) for fault in FAULTS for role in ROLES for phase in PHASES]


class Play:
    """One row, from start to end."""

    def __init__(self, row, world):
        self.row, self.world = row, world
        self.joining = row.phase in ("join", "plan")
        self.watcher = row.victim if self.joining or row.victim >= world.num_trainers else WATCHER

    def living(self):
        return [r for r in range(self.world.num_ranks) if r != self.row.victim or self.row.fault in ("slow", "clock")]

    def trainers(self):
        return [r for r in self.world.trainers() if r in self.living()]

    def rollouts(self):
        return [r for r in self.world.rollouts() if r in self.living()]

    def bereaved(self):
        """Ranks of a replica that has lost one."""
        victim = self.row.victim
        if victim < self.world.num_trainers:
            return []
        return [r for r in self.rollouts() if self.world.replica(r) == self.world.replica(victim)]

    # ---- the fault ----

    def reach_phase(self):
        world = self.world
        world.hold(self.watcher, PHASES[self.row.phase])
        if self.joining:
            world.begin_open(2)
        else:
            world.begin_publish()
        world.reached(self.watcher, PHASES[self.row.phase])

    def strike(self):
        world, victim = self.world, self.row.victim
        self.time = time.monotonic()
        if self.row.fault == "kill":
            world.kill(victim)
        elif self.row.fault == "stop":
            world.ranks[victim].doomed = True
            world.signal(victim, signal.SIGSTOP)
        elif self.row.fault == "return":
            world.ranks[victim].slowed = True
            world.signal(victim, signal.SIGSTOP)
        elif self.row.fault == "clock":
            world.signal(victim, signal.SIGUSR1)
        elif self.row.fault in LIMITS:
            world.ranks[victim].doomed = True
            world.ranks[victim].limit(LIMITS[self.row.fault], world.ranks[victim].used(LIMITS[self.row.fault]))
        world.release(self.watcher)

    # ---- who knows ----

    def learn(self, rank, kind, accept, what):
        world = self.world

        def find():
            for report in world.ranks[rank].reports:
                if report[0] >= self.time and report[1] == kind and accept(report[2]):
                    return report
            return None
        report = world.wait(find, f"rank {rank} {what}", 15)
        self.row.seen.append(f"rank {rank} {report[0] - self.time:.3f} {report[1]} {report[2]}")
        return report

    def know_join(self):
        for rank in self.living():
            self.learn(rank, "unopened", lambda text: True, "knows that it cannot join")

    def know_trainer(self, rank):
        """The version in hand fails, or has gone through: then the next one fails."""
        version = self.world.version
        report = self.learn(rank, "outcome", lambda text: text.startswith(f"{version} "), f"ends version {version}")
        return report[2].split()[1] != "OK"

    def know_update(self):
        world = self.world
        ignorant = [r for r in self.trainers() if not self.know_trainer(r)]
        if ignorant:
            world.begin_publish(ranks=self.trainers())
            for rank in self.trainers():
                if not self.know_trainer(rank):
                    raise w.Failed(f"trainer {rank} does not know")
        for rank in self.bereaved():
            self.learn(rank, "step", lambda text: text.startswith("ERR_PEER_LOST"), "knows")
        for rank in self.rollouts():
            if rank not in self.bereaved():
                self.learn_rest(rank)

    def learn_rest(self, rank):
        """A replica that is whole serves something whole. Its status says that nothing more will come, where nobody is
        left who could say anything; else that the version is in hand no more."""
        world, alone = self.world, self.row.victim == 0

        def find():
            last = [r for r in world.ranks[rank].reports if r[1] == "phase"][-1]
            return last if last[2].endswith("cut off") or (not alone and last[2].split()[1] == "idle") else None
        report = world.wait(find, f"rank {rank} is cut off" if alone else f"rank {rank} is idle", 15)
        self.row.seen.append(f"rank {rank} {report[0] - self.time:.3f} {report[1]} {report[2]}")

    def know(self):
        if self.joining:
            self.know_join()
        else:
            self.know_update()
        self.known = max([self.time] + [float(text.split()[2]) + self.time for text in self.row.seen])
        self.row.know = self.known - self.time

    # ---- the next version ----

    def go_on(self):
        world, row = self.world, self.row
        start = time.monotonic()
        if row.fault == "stop":
            world.kill(row.victim)
        world.launch(row.victim)
        self.open_next(start, self.living())

    def open_next(self, start, ranks):
        world = self.world
        world.open(3)
        self.row.next = world.publish() - start
        for rank in ranks:
            world.wait(lambda r=rank: world.find(r, "closed", "1 "), f"rank {rank} closes session 1")

    # ---- who comes back ----

    def is_fence(self, report):
        return report[0] >= self.time and report[1] == "step" and report[2].startswith("ERR_PEER_LOST")

    def hears(self, rank):
        """Whether it has not said that it is cut off, or then that it is so no more."""
        said = [text for when, _, text in self.world.ranks[rank].reports if when >= self.time]
        cut = [n for n, text in enumerate(said) if "was last heard" in text]
        return not cut or any(text.endswith("heard again") for text in said[cut[0]:])

    def learn_fence(self, rank):
        """A rollout begins no step any more; a trainer's version, in hand or next, does not go through."""
        world = self.world
        if rank >= world.num_trainers:
            found = world.wait(lambda: next(filter(self.is_fence, world.ranks[rank].reports), None), f"rank {rank} is fenced", 15)
        else:
            world.wait(lambda: self.hears(rank), f"trainer {rank} hears the coordinator again", 15)
            world.begin_publish(ranks=[rank])
            found = world.wait(lambda: world.find(rank, "outcome", f"{world.version} "), f"trainer {rank} is fenced", 15)
            if found[2].split()[1] != "ERR_PEER_LOST" or "was last heard" in found[2]:
                raise w.Failed(f"trainer {rank} is not fenced: {found[2]}")
        self.row.seen.append(f"fenced: rank {rank} {found[0] - self.time:.3f} {found[1]} {found[2]}")
        return found[0]

    def check_silence(self):
        """Nobody serves in a session that has told it not to."""
        for rank, process in self.world.ranks.items():
            fences = [report[0] for report in process.reports if self.is_fence(report)]
            if fences and any(r[1] == "serves" and r[2].startswith("1 ") and r[0] > fences[0] for r in process.reports):
                raise w.Failed(f"rank {rank} serves again after it was fenced")

    def come_back(self):
        world, victim = self.world, self.row.victim
        start = time.monotonic()
        world.signal(victim, signal.SIGCONT)
        if self.joining:
            self.learn(victim, "unopened", lambda text: True, "knows that it came too late")
        elif victim != 0:
            self.row.fenced = self.learn_fence(victim) - start
            self.check_silence()
        else:
            self.hear_again()
            self.row.next = world.publish() - start
            return
        self.open_next(time.monotonic(), range(world.num_ranks))

    def hear_again(self):
        """The coordinator knows that it stood still, and has lost nobody: those who were cut off are so no more, the version in
        hand is decided, and the session goes on."""
        world, version = self.world, self.world.version

        def settled(rank):
            last = [r for r in world.ranks[rank].reports if r[1] == "phase"][-1][2]
            return not last.endswith("cut off") and last.split()[1] == "idle"
        report = world.wait(lambda: world.find(0, "outcome", f"{version} "), f"version {version} is decided", 15)
        self.row.became = report[2].split()[1]
        for rank in world.rollouts():
            world.wait(lambda r=rank: settled(r), f"rank {rank} hears the coordinator again", 15)

    # ---- nothing more to be had ----

    def starve(self):
        """The version goes through or fails; when there is plenty again, the next one does, here or in another session."""
        world, row = self.world, self.row
        victim = world.ranks[row.victim]
        kind, start = ("unopened", "") if self.joining else ("outcome", f"{world.version} ")

        def over(rank):
            if self.joining and world.find(rank, "opened", "2"):
                return True
            return world.find(rank, kind, start, self.time)
        for rank in range(world.num_ranks) if self.joining else world.trainers():
            world.wait(lambda r=rank: over(r) or (r == row.victim and victim.process.poll() is not None), f"rank {rank} ends", 15)
        row.know = time.monotonic() - self.time
        row.became = self.what_became(kind, start)
        if victim.process.poll() is None:
            victim.limit(LIMITS[row.fault], None)
            victim.doomed = False
        start = time.monotonic()
        if row.became == "OK" and not self.joining:
            row.next = world.publish() - start
        else:
            if victim.process.poll() is not None:
                world.kill(row.victim)
                world.launch(row.victim)
            self.open_next(start, [r for r in range(world.num_ranks) if world.ranks[r].pid == self.before[r][3]])

    def what_became(self, kind, start):
        world, row = self.world, self.row
        if world.ranks[row.victim].process.poll() is not None:
            return f"ended by {signal.Signals(-world.ranks[row.victim].process.returncode).name}"
        found = [report[2].split()[1] for rank in range(world.num_ranks) for report in world.ranks[rank].reports
                 if report[1] == kind and report[2].startswith(start) and report[0] >= self.time]
        bad = sorted({status for status in found if status != "OK"}, key=lambda status: status == "ERR_PEER_LOST")
        return bad[0] if bad else "OK"

    # ---- the time of day ----

    def jump_back(self):
        world, row = self.world, self.row
        world.signal(row.victim, signal.SIGUSR2)
        if self.joining:
            for rank in range(world.num_ranks):
                world.wait(lambda r=rank: world.find(r, "opened", "2"), f"rank {rank} opens session 2")
        else:
            for rank in world.rollouts():
                world.wait(lambda r=rank: world.serving(r, 1, world.version), f"rank {rank} serves version {world.version}")
            for rank in world.trainers():
                world.wait(lambda r=rank: world.find(r, "outcome", f"{world.version} OK"), f"trainer {rank}: version {world.version}")
        row.next = time.monotonic() - self.time
        if self.joining:
            world.publish()
        else:
            self.open_next(time.monotonic(), range(world.num_ranks))
        world.wait(lambda: world.find(row.victim, "clock", "-3600"), f"the clock of rank {row.victim} jumps")

    def slow(self):
        """Runs a fifth of the time, in slices; all goes well."""
        world, row = self.world, self.row
        deadline = time.monotonic() + w.PATIENCE
        world.ranks[row.victim].slowed = True

        def done():
            if self.joining:
                return all(world.find(r, "opened", "2") for r in range(world.num_ranks))
            return all(world.serving(r, world.epoch, world.version) for r in world.rollouts()) and \
                all(world.find(r, "outcome", f"{world.version} OK") for r in world.trainers())
        while not done() and not world.faults:
            if time.monotonic() > deadline:
                raise w.Failed("a slow rank is not waited for")
            world.signal(row.victim, signal.SIGSTOP)
            world.listen_for(0.08)
            world.signal(row.victim, signal.SIGCONT)
            world.listen_for(0.02)
        row.know = None
        row.next = time.monotonic() - self.time
        if self.joining:
            world.publish()
        else:
            world.open(3)
            world.publish()
        for rank in range(world.num_ranks):
            world.wait(lambda r=rank: world.find(r, "closed", "1 "), f"rank {rank} closes session 1")

    def check_flat(self):
        for rank, (descriptors, threads, _, pid) in self.before.items():
            process = self.world.ranks[rank]
            if process.pid == pid and process.resources()[:2] != (descriptors, threads):
                raise w.Failed("rank {}: {} descriptors and {} threads, before {} and {}".format(rank, *process.resources()[:2],
                                                                                                 descriptors, threads))

    def run(self):
        world = self.world
        world.open(1)
        world.publish()
        self.before = {r: (*world.ranks[r].resources(), world.ranks[r].pid) for r in range(world.num_ranks)}
        self.reach_phase()
        self.strike()
        if self.row.fault == "slow":
            self.slow()
        elif self.row.fault == "clock":
            self.jump_back()
        elif self.row.fault in LIMITS:
            self.starve()
        else:
            self.know()
            self.come_back() if self.row.fault == "return" else self.go_on()
        self.check_flat()
        world.close()


def run(row, options, expected, models):
    # Ranks of a replica decode at their own pace here, and after seconds may be far apart: a commit then takes long.
    environment = {"WEFT_FAULTS_COMMIT_US": "8000000"} if row.fault == "return" else {}
    world = w.World(f"{options.build}/tests/faults/faults_rank", expected, models, "fsdp:2", "tp:2x2", "fp8-block",
                    environment=environment, verbose=options.verbose)
    try:
        Play(row, world).run()
        late = row.know is not None and row.know > KNOW or row.fenced is not None and row.fenced > KNOW
        slow = row.fault != "slow" and row.next > NEXT
        return f"known after {max(row.know, row.fenced or 0):.2f} s, at most {KNOW}" if late else \
            f"next version after {row.next:.2f} s, at most {NEXT}" if slow else None
    except w.Failed as failed:
        return str(failed)
    finally:
        world.abandon()


def seconds(value):
    return "-" if value is None else f"{value:.2f}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build")
    parser.add_argument("--only", default="")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    source = w.os.path.dirname(w.os.path.abspath(__file__)) + "/../../launch/demo/tiny-qwen3/"
    models = [source + "v1", source + "v3"]
    expected = w.Expected(f"{options.build}/launch/weft/weft", models, "tp:2x2", "fp8-block")
    table = [row for row in rows() if all(word in row.name.split() for word in options.only.split())]
    if options.short:
        table = [row for row in table if row.name in SHORT]
    failures = 0
    for row in table:
        why = run(row, options, expected, models)
        failures += why is not None
        print(f"{'ok    ' if why is None else 'FAILED'} {row.name:<28} know {seconds(row.know):>6} s  next {seconds(row.next):>6} s"
              + (f"  fenced {row.fenced:.2f} s" if row.fenced is not None else "") + (f"  {row.became}" if row.became else "")
              + (f"  {why}" if why else ""), flush=True)
        if why:
            for line in row.seen:
                print("       ", line)
    print(f"{len(table) - failures} of {len(table)} rows")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
