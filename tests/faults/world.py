"""Ranks as real processes under a supervisor that lets them meet, holds them, and does to them what a scenario says.

    world = World(program, weft, trainer="fsdp:2", rollout="tp:2x2", scheme="fp8-block")
    world.open(1)                              all ranks join session 1
    world.publish(1)                           until every rollout serves it, bit for bit
    world.hold(2, "rank:PREPARED")             the next thread of rank 2 that comes there stops, until release(2)
    world.kill(2); world.start(2); world.open(2)
    world.close()

Every report of a rank carries the time at which it was written (CLOCK_MONOTONIC, one clock for all processes), so
what is measured is not how busy this supervisor is. A rollout reports what it serves as a checksum over all live
weights; it is compared with that of what `weft quantize` writes offline, at once, whatever a scenario waits for.
"""

import json
import os
import resource
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
import zlib

PATIENCE = 30.0  # seconds: longer than anything may take
CHANNEL, RELEASE, MEETING = 3, 4, 5


class Failed(Exception):
    pass


def read_tensors(path):
    with open(path, "rb") as file:
        data = file.read()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + length])
    return {name: data[8 + length + t["data_offsets"][0]:8 + length + t["data_offsets"][1]]
            for name, t in header.items() if name != "__metadata__"}


class Expected:
    """What each TP rank must serve of an odd and of an even version, by `weft quantize`."""

    def __init__(self, weft, models, rollout, scheme):
        self.tensors = []
        self.checksums = {}
        for model in models:
            out = tempfile.mkdtemp(prefix="weft-faults-")
            try:
                subprocess.run([weft, "quantize", model, out, "--scheme", scheme, "--rollout", rollout], check=True,
                               stdout=subprocess.DEVNULL, timeout=60)
                files = sorted(name for name in os.listdir(out) if name.startswith("rank"))
                self.tensors.append([read_tensors(os.path.join(out, name)) for name in files])
            finally:
                shutil.rmtree(out)

    def learn(self, names):
        """The order in which a checksum goes over the tensors."""
        for odd, ranks in zip((1, 0), self.tensors):
            for t, tensors in enumerate(ranks):
                crc = 0
                for name in names:
                    crc = zlib.crc32(tensors[name], crc)
                self.checksums[odd, t] = crc

    def checksum(self, version, tp_rank):
        return self.checksums[version % 2, tp_rank]


class Rank:
    """One process, and all that it has said."""

    def __init__(self, world, rank, environment):
        self.world, self.rank = world, rank
        self.reports = []   # (seconds, kind, rest)
        self.doomed = False  # it may end as it likes
        self.slowed = False  # it stands still now and then, and its calls with it
        self.gathering = None
        self.buffers = {CHANNEL: b"", MEETING: b""}
        ours, theirs = zip(*(socket.socketpair() for _ in range(2)))
        reading, self.writing = os.pipe()
        arguments = [*world.wrap(rank), world.program, str(rank), world.trainer, world.rollout, world.scheme, *world.models]

        def arrange():
            saved = [os.dup2(fd, 50 + i) for i, fd in enumerate((theirs[0].fileno(), reading, theirs[1].fileno()))]
            for i, fd in enumerate(saved):
                os.dup2(fd, CHANNEL + i)
                os.close(fd)

        self.process = subprocess.Popen(arguments, close_fds=False, preexec_fn=arrange, pass_fds=(),
                                        stdin=subprocess.DEVNULL, env={**os.environ, **world.environment, **environment})
        for end in theirs:
            end.close()
        os.close(reading)
        self.channel, self.meeting = ours
        for end in ours:
            end.setblocking(True)
        world.selector.register(self.channel, selectors.EVENT_READ, (self, CHANNEL))
        world.selector.register(self.meeting, selectors.EVENT_READ, (self, MEETING))

    @property
    def pid(self):
        return self.process.pid

    def tell(self, line):
        self.channel.sendall(line.encode() + b"\n")

    def forget(self):
        if self.world.verbose and self.process.returncode not in (None, 0):
            print(f"# rank {self.rank} ended with {self.process.returncode}")
        shards = f"/dev/shm/weft-faults-{self.pid}"
        if os.path.exists(shards):
            os.unlink(shards)
        for end in (self.channel, self.meeting):
            try:
                self.world.selector.unregister(end)
            except (KeyError, ValueError):
                pass
            end.close()
        if self.writing is not None:
            os.close(self.writing)
        self.writing = None

    def resources(self):
        """Descriptors, threads, and resident bytes."""
        with open(f"/proc/{self.pid}/status", encoding="ascii") as file:
            status = dict(line.split(":", 1) for line in file.read().splitlines())
        return (len(os.listdir(f"/proc/{self.pid}/fd")), int(status["Threads"]),
                int(status["VmRSS"].split()[0]) * 1024)

    def ports(self):
        """The TCP ports that it listens on."""
        with open(f"/proc/{self.pid}/net/tcp", encoding="ascii") as file:
            lines = [line.split() for line in file.read().splitlines()[1:]]
        sockets = {os.readlink(entry.path) for entry in os.scandir(f"/proc/{self.pid}/fd") if os.path.lexists(entry.path)}
        return sorted(int(line[1].split(":")[1], 16) for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in sockets)

    def used(self, which):
        """The least limit at which nothing new is to be had; what is free inside its own memory stays so."""
        if which == resource.RLIMIT_NOFILE:
            taken = {int(name) for name in os.listdir(f"/proc/{self.pid}/fd")}
            return next(number for number in range(len(taken) + 1) if number not in taken)
        with open(f"/proc/{self.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * resource.getpagesize()

    def limit(self, which, value):
        """Lower a limit of the process, or give it back (None)."""
        _, hard = resource.prlimit(self.pid, which)
        resource.prlimit(self.pid, which, (hard if value is None else value, hard))

    def poke(self, offset, data):
        """Write into a trainer's shards behind its back."""
        with open(f"/dev/shm/weft-faults-{self.pid}", "r+b") as file:
            file.seek(offset)
            file.write(data)


class World:
    def __init__(self, program, expected, models, trainer, rollout, scheme, environment=None, verbose=False, wrap=lambda rank: []):
        self.program, self.expected, self.models = program, expected, models
        self.trainer, self.rollout, self.scheme = trainer, rollout, scheme
        self.verbose = verbose
        self.wrap = wrap  # what a rank's command line begins with, such as nsenter
        self.pace = tempfile.NamedTemporaryFile(prefix="weft-faults-pace-", dir="/dev/shm")
        self.pace.truncate(64 * 8)
        self.environment = {"WEFT_FAULTS_PACE": self.pace.name, **(environment or {})}
        self.num_trainers = int(trainer.split(":")[1])
        self.tp, self.replicas = (int(x) for x in (rollout.split(":")[1] + "x1").split("x")[:2])
        self.num_ranks = self.num_trainers + self.tp * self.replicas
        self.selector = selectors.DefaultSelector()
        self.ranks, self.before = {}, []
        self.version = 0
        self.gathers = {}   # (epoch, label) -> {rank: hex}
        self.closed_epochs = set()
        self.faults = []
        self.counts_late, self.late = False, []  # calls beyond their deadlines: counted, or a fault each
        self.changed = set()  # versions whose bytes a scenario has changed behind everybody's back
        self.start = time.monotonic()
        for rank in range(self.num_ranks):
            self.launch(rank)

    # ---- who is who ----

    def rollouts(self):
        return range(self.num_trainers, self.num_ranks)

    def trainers(self):
        return range(self.num_trainers)

    def replica(self, rank):
        return (rank - self.num_trainers) // self.tp

    def tp_rank(self, rank):
        return (rank - self.num_trainers) % self.tp

    # ---- processes ----

    def launch(self, rank, environment=None):
        if rank in self.ranks:
            self.before.append(self.ranks[rank])
        self.ranks[rank] = Rank(self, rank, environment or {})

    def signal(self, rank, number):
        os.kill(self.ranks[rank].pid, number)
        deadline = time.monotonic() + PATIENCE
        while number == signal.SIGSTOP and not self.stands(rank) and time.monotonic() < deadline:
            pass

    def stands(self, rank):
        """Whether all threads have stopped: the signal is only on its way when kill returns."""
        tasks = f"/proc/{self.ranks[rank].pid}/task"
        states = []
        for task in os.listdir(tasks):
            with open(f"{tasks}/{task}/stat", encoding="ascii") as file:
                states.append(file.read().rsplit(")", 1)[1].split()[0])
        return all(state == "T" for state in states)

    def kill(self, rank):
        """Returns when the kernel has taken the process apart."""
        self.ranks[rank].doomed = True
        self.ranks[rank].process.kill()
        self.ranks[rank].process.wait(PATIENCE)
        self.drain()
        self.ranks[rank].forget()
        self.give_up_gathers(rank)
        return time.monotonic()

    def release(self, rank):
        if self.ranks[rank].writing is not None:
            os.write(self.ranks[rank].writing, b".")

    # ---- listening ----

    def listen(self, timeout):
        for key, _ in self.selector.select(timeout):
            rank, which = key.data
            try:
                got = key.fileobj.recv(1 << 20)
            except ConnectionError:
                got = b""
            if not got:
                self.selector.unregister(key.fileobj)
                continue
            *lines, rank.buffers[which] = (rank.buffers[which] + got).split(b"\n")
            for line in lines:
                if which == CHANNEL:
                    self.hear(rank, line.decode(errors="replace"))
                else:
                    self.gather(rank, line.decode())
        self.check_gathers()

    def listen_for(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.listen(max(0.0, end - time.monotonic()))

    def drain(self):
        for _ in range(100):
            before = sum(len(r.reports) for r in self.ranks.values())
            self.listen(0)
            if before == sum(len(r.reports) for r in self.ranks.values()):
                return

    def hear(self, rank, line):
        stamp, kind, *rest = line.split(" ", 2)
        report = (int(stamp) * 1e-6, kind, rest[0] if rest else "")
        rank.reports.append(report)
        if self.verbose and kind != "tensor":
            print(f"# {report[0] - self.start:8.3f} rank {rank.rank} {kind} {report[2]}", flush=True)
        if kind == "serves":
            self.check_served(rank, report[2])
        elif kind == "step":
            self.check_kept(rank, report[2])
        elif kind == "late" and self.counts_late:
            self.late += [] if rank.slowed else [f"rank {rank.rank}: {report[2]}"]
        elif kind == "failed" or (kind == "late" and not rank.slowed):
            self.faults.append(f"rank {rank.rank}: {kind} {report[2]}")
        elif kind == "tensor":
            self.note_tensor(rank)

    def note_tensor(self, rank):
        names = [rest for _, kind, rest in rank.reports if kind == "tensor"]
        if len(names) == len(self.expected.tensors[0][0]):
            self.expected.learn(names)

    def check_served(self, rank, text):
        _, version, crc = text.split()[:3]
        if self.expected.checksums and int(version) not in self.changed and int(crc, 16) != self.expected.checksum(int(version), self.tp_rank(rank.rank)):
            self.faults.append(f"rank {rank.rank} serves {crc} as version {version}, which is not that version")

    def check_kept(self, rank, text):
        """A rank that serves nothing any more has whole weights. (One that stands at its limit may swap at any moment:
        outside of a step they are nobody's to read.)"""
        status, crc = text.split()[:2]
        kept = {self.expected.checksum(v, self.tp_rank(rank.rank)) for v in (0, 1)} if self.expected.checksums else None
        if status == "ERR_PEER_LOST" and kept and int(crc, 16) not in kept:
            self.faults.append(f"rank {rank.rank}, {status}: its weights are {crc}, no version's")

    def wait(self, condition, what, timeout=PATIENCE):
        """Until condition() is true; returns it."""
        deadline = time.monotonic() + timeout
        while True:
            value = condition()
            if value:
                return value
            left = deadline - time.monotonic()
            if left <= 0:
                raise Failed(f"{what}: not within {timeout} s")
            self.listen(min(left, 0.05))
            self.faults += [f"rank {r.rank} has ended with {r.process.returncode}" for r in self.ranks.values()
                            if r.process.poll() and not r.doomed]
            if self.faults:
                raise Failed("; ".join(self.faults))

    def find(self, rank, kind, start="", after=0.0):
        """The first such report, or None."""
        for report in self.ranks[rank].reports:
            if report[1] == kind and report[2].startswith(start) and report[0] >= after:
                return report
        return None

    # ---- meetings ----

    def gather(self, rank, line):
        epoch, label, data = line.split(" ", 2)
        rank.gathering = (int(epoch), label)
        self.gathers.setdefault((int(epoch), label), {})[rank.rank] = (data, time.monotonic())

    def answer(self, rank, text):
        self.ranks[rank].gathering = None
        try:
            self.ranks[rank].meeting.sendall(text.encode() + b"\n")
        except OSError:
            pass

    def check_gathers(self):
        for key in list(self.gathers):
            mine = self.gathers[key]
            if len(mine) == self.num_ranks:
                del self.gathers[key]
                for rank in mine:
                    self.answer(rank, "all " + "".join(mine[r][0] for r in range(self.num_ranks)))
                continue
            missing = [r for r in range(self.num_ranks) if r not in mine]
            old = key[1].startswith("leave")
            for rank in list(mine):
                limit = 0.0 if old and key[0] in self.closed_epochs else 1.5
                if time.monotonic() - mine[rank][1] >= limit:
                    del mine[rank]
                    self.answer(rank, f"late: rank {missing[0]} has not come within {limit:.1f} s")
            if not mine:
                del self.gathers[key]

    def give_up_gathers(self, lost):
        """Whoever waits for a rank that has ended is told so, as an MPI or a store would."""
        for key in list(self.gathers):
            mine = self.gathers.pop(key)
            for rank in mine:
                if rank != lost:
                    self.answer(rank, f"lost: rank {lost} has ended")

    # ---- what all do ----

    def begin_open(self, epoch):
        self.epoch = epoch
        for rank in self.ranks.values():
            rank.tell(f"open {epoch}")

    def open(self, epoch):
        self.closed_epochs.update(range(1, epoch))
        self.begin_open(epoch)
        for rank in range(self.num_ranks):
            self.wait(lambda r=rank: self.find(r, "opened", str(epoch)), f"rank {rank} opens session {epoch}")

    def begin_publish(self, timeout=10.0, ranks=None):
        self.version += 1
        for rank in self.trainers() if ranks is None else ranks:
            self.ranks[rank].tell(f"publish {self.version} {int(timeout * 1e6)}")

    def serving(self, rank, epoch, version, after=0.0):
        return self.find(rank, "serves", f"{epoch} {version} ", after)

    def publish(self):
        """Returns when the last rollout began to serve it."""
        self.begin_publish()
        times = [self.wait(lambda r=rank: self.serving(r, self.epoch, self.version),
                           f"rank {rank} serves version {self.version}")[0] for rank in self.rollouts()]
        for rank in self.trainers():
            outcome = self.wait(lambda r=rank: self.find(r, "outcome", f"{self.version} "), f"trainer {rank}")
            if outcome[2].split()[1] != "OK":
                raise Failed(f"trainer {rank}: version {outcome[2]}")
        return max(times)

    def hold(self, rank, place):
        self.ranks[rank].tell(f"hold {place}")
        self.wait(lambda: self.find(rank, "holds"), f"rank {rank} holds")

    def reached(self, rank, place):
        return self.wait(lambda: self.find(rank, "reached", place), f"rank {rank} reaches {place}")

    def close(self):
        """All end by themselves, and well."""
        for rank in self.ranks.values():
            rank.tell("quit")
        for rank in self.ranks.values():
            self.wait(lambda r=rank: r.process.poll() is not None, f"rank {rank.rank} ends")
        self.drain()
        codes = {rank.rank: rank.process.returncode for rank in self.ranks.values() if rank.process.returncode}
        if codes or self.faults:
            raise Failed(f"exit codes {codes}; {'; '.join(self.faults)}")

    def abandon(self):
        for rank in [*self.ranks.values(), *self.before]:
            if rank.process.poll() is None:
                rank.process.kill()
                rank.process.wait(PATIENCE)
            rank.forget()
        self.pace.close()
        self.selector.close()
