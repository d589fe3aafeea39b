#!/usr/bin/python3
"""Service mode with real processes, without mpirun: a coordinator, ranks that join it by address, what they serve against
`weft quantize`, who is let in and who is not, ranks that come late, leave and come back, a coordinator that does.

    service.py WEFT [--only TEXT] [--transport ipc|zmq]"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from command import Checks, Weft, demo, scratch  # noqa: E402

OK, CHECK_FAILED, USAGE, ENVIRONMENT, PLAN, PEER = range(6)
V1, V3 = demo("tiny-qwen3", "v1"), demo("tiny-qwen3", "v3")
PATIENCE = 40


def free_ports():
    """Two ports, one after the other, that nobody has at this moment."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


class Process:
    """One process whose output goes to files, so that it can be looked at while it runs."""

    def __init__(self, folder, name, command, environment=None):
        self.name = name
        self.out_path, self.err_path = (os.path.join(folder, f"{name}.{end}") for end in ("out", "err"))
        with open(self.out_path, "w") as out, open(self.err_path, "w") as err:
            self.process = subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                            env={**os.environ, **(environment or {})})

    @property
    def out(self):
        return open(self.out_path).read()

    @property
    def err(self):
        return open(self.err_path).read()

    def says(self, text, seconds=PATIENCE, where="out"):
        """Wait until it has said so."""
        end = time.monotonic() + seconds
        while text not in getattr(self, where):
            if time.monotonic() > end or (self.process.poll() is not None and text not in getattr(self, where)):
                return text in getattr(self, where)
            time.sleep(0.02)
        return True

    def wait(self, seconds=PATIENCE):
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def send(self, number):
        self.process.send_signal(number)

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def __str__(self):
        return f"--- {self.name}: exit {self.process.poll()}\n{self.out[-1500:]}{self.err[-2500:]}"


class Session:
    """A coordinator and its ranks, in a folder of their own."""

    transport = "ipc"

    def __init__(self, weft, folder, trainer="fsdp:2", rollout="tp:2", trainers=2, rollouts=2, tp=2, scheme="fp8-block", wait=30, transport=None):
        self.weft, self.folder = weft.path, folder
        self.transport = transport or self.transport
        self.layout = ["--trainer", trainer, "--rollout", rollout, "--scheme", scheme, "--memory", "host", "--transport", self.transport]
        self.scheme, self.rollout_layout = scheme, rollout
        self.topology = ["--trainers", trainers, "--rollouts", rollouts, "--tp", tp]
        self.keys = os.path.join(folder, "keys")
        self.state = os.path.join(folder, "state")
        self.port = free_ports()
        self.address = f"127.0.0.1:{self.port}"
        self.waits = wait
        self.processes = []
        subprocess.run([self.weft, "keygen", "--out", self.keys], check=True, stdout=subprocess.DEVNULL)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.end()

    def start(self, name, command, environment=None):
        process = Process(self.folder, f"{len(self.processes)}-{name}", [self.weft, *command], environment)
        self.processes.append(process)
        return process

    def coordinator(self, *more):
        process = self.start("coordinator", ["coordinator", "--bind", self.address, "--keys", self.keys, *self.topology,
                                             "--state", self.state, "--wait", self.waits, "--verbose", *more])
        process.says("weft coordinator: tcp://")
        return process

    def join(self, rank, *more, keys=None, models=(V1, V3), environment=None):
        where = [] if environment else ["--coordinator", self.address, "--keys", keys or self.keys, "--rank", rank]
        return self.start(f"rank{rank}", ["join", *where, "--model", ",".join(models), *self.layout, *more], environment)

    def dump(self, name):
        return os.path.join(self.folder, name)

    def expected(self, model):
        out = os.path.join(self.folder, "quantized-" + os.path.basename(model))
        if not os.path.exists(out):
            subprocess.run([self.weft, "quantize", model, out, "--rollout", self.rollout_layout, "--scheme", self.scheme],
                           check=True, stdout=subprocess.DEVNULL)
        return out

    def __str__(self):
        return "\n".join(map(str, self.processes))


def served(t, session, dump, model, what):
    result = t.weft("verify", dump, session.expected(model))
    t.that(result.code == OK and "equal" in result.out, f"{what}: the bytes of weft quantize", f"{result}\n{session}")


def grows(count, to, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while count() < to and time.monotonic() < end:
        time.sleep(0.02)
    return count() >= to


def version_says(rollouts, version, seconds=PATIENCE):
    return all(process.says(f"version {version} is live", seconds) for process in rollouts)


# ---- Syncs ----


def check_sync(t, folder):
    """By flags and by the environment; two versions, then all leave. Over zmq, where what follows is over ipc."""
    with Session(t.weft, folder, transport="zmq") as s:
        coordinator = s.coordinator()
        rollouts = [s.join(rank, "--until", 2, "--dump", s.dump("dump")) for rank in (2, 3)]
        environment = {"WEFT_COORDINATOR": s.address, "WEFT_KEYS": s.keys}
        trainers = [s.join(rank, environment={**environment, "WEFT_RANK": str(rank)}) for rank in (0, 1)]
        codes = [process.wait() for process in trainers + rollouts]
        if not t.that(codes == [OK] * 4, "trainers and rollouts end well", s):
            return
        t.that(all("version 2: applied" in trainer.out for trainer in trainers), "both versions are applied", s)
        served(t, s, s.dump("dump"), V3, "two trainers, two rollouts")
        t.that(coordinator.process.poll() is None, "the coordinator outlives both sides", s)
        coordinator.send(signal.SIGTERM)
        start = time.monotonic()
        t.that(coordinator.wait(5) == OK and time.monotonic() - start < 2, "the coordinator ends within 2 s of SIGTERM", s)
        t.that(os.stat(s.state).st_mode & 0o777 == 0o600, "the state file is private")


def check_zmq(t, folder):
    """Weights over TCP: a rank that is killed in the middle comes back, while another goes on."""
    with Session(t.weft, folder, trainer="fsdp:1", rollout="tp:1x2", trainers=1, rollouts=2, tp=1, transport="zmq") as s:
        coordinator = s.coordinator()
        rollouts = [s.join(rank) for rank in (1, 2)]
        trainer = s.join(0, "--updates", 100000)
        t.that(version_says(rollouts, 2), "two replicas over zmq", s)
        places = listening(rollouts[0])
        t.that(len(places) == 2 and all(address == "127.0.0.1" for address, _ in places), "a rank listens on loopback, for control and for weights", places)
        for _, port in places:
            told = talk(port, GREETING + b"NULL".ljust(20, b"\0") + bytes(32) + b"\x04\x05\x05READY")
            t.that(told is not None and len(told) <= 64, "who has no keys gets no further than ZeroMQ's greeting at a rank", told)
        rollouts[1].send(signal.SIGKILL)
        t.that(coordinator.says("rank 2 was silent", where="err"), "one of them is killed", s)
        again = s.join(2)
        t.that(again.says("incarnation 2") and again.says("is live"), "and comes back", s)
        live = rollouts[0].out.count("is live")
        t.that(grows(lambda: rollouts[0].out.count("is live"), live + 3), "the other goes on", s)
        again.send(signal.SIGTERM)
        t.that(again.wait(10) == OK and "left" in again.out, "it leaves on SIGTERM", s)


# ---- Ranks that come and go ----


def check_come_and_go(t, folder):
    """Two replicas, one of which comes late, is killed and comes back; then one leaves. The trainer goes on publishing."""
    with Session(t.weft, folder, trainer="fsdp:1", rollout="tp:1x2", trainers=1, rollouts=2, tp=1, wait=2) as s:
        coordinator = s.coordinator()
        trainer = s.join(0, "--updates", 100000, "--pause", 20)
        first = s.join(1)
        t.that(first.says("version 1 is live"), "the replica that is there gets versions", s)
        late = s.join(2)
        t.that(late.says("incarnation 2") and late.says("is live"), "a late replica is admitted", s)
        late.send(signal.SIGKILL)
        start = time.monotonic()
        t.that(coordinator.says("rank 2 was silent", where="err") and time.monotonic() - start < 2.5,
               "a dead rank is noticed within 2 s", s)
        applied = trainer.out.count("applied")
        time.sleep(0.5)
        t.that(trainer.out.count("applied") > applied and first.process.poll() is None, "the others go on", s)
        again = s.join(2)
        t.that(again.says("incarnation 3") and again.says("is live"), "the same rank comes back", s)
        first.send(signal.SIGTERM)
        start = time.monotonic()
        t.that(first.wait(10) == OK and "left" in first.out and time.monotonic() - start < 5, "a replica leaves on SIGTERM", s)
        applied = trainer.out.count("applied")
        time.sleep(0.5)
        t.that(trainer.out.count("applied") > applied, "and the others go on", s)
        trainer.send(signal.SIGTERM)
        t.that(trainer.wait(10) in (OK, CHECK_FAILED), "the trainer ends on SIGTERM", s)


def check_trainer_comes_back(t, folder):
    """The rollouts outlive their trainers, and serve what new ones publish."""
    with Session(t.weft, folder) as s:
        s.coordinator()
        rollouts = [s.join(rank, "--until", 101, "--dump", s.dump("dump")) for rank in (2, 3)]
        for rank in (0, 1):
            s.join(rank, models=(V1,))
        t.that(version_says(rollouts, 1), "the first trainers publish", s)
        trainers = [process for process in s.processes if "rank0" in process.name or "rank1" in process.name]
        t.that([process.wait() for process in trainers] == [OK, OK], "and end", s)
        again = [s.join(rank, "--first", 101, models=(V3,)) for rank in (0, 1)]
        codes = [process.wait() for process in rollouts + again]
        if t.that(codes == [OK] * 4, "new trainers publish to the same rollouts", s):
            served(t, s, s.dump("dump"), V3, "new trainers")


def check_coordinator_comes_back(t, folder):
    """Killed in the middle, it goes on with the same session in a higher term; also from where its ranks are left."""
    with Session(t.weft, folder, trainer="fsdp:1", rollout="tp:2", trainers=1, rollouts=2, tp=2) as s:
        coordinator = s.coordinator()
        rollouts = [s.join(rank) for rank in (1, 2)]
        trainer = s.join(0, "--updates", 100000, "--pause", 5)
        for round in range(3):
            applied = trainer.out.count("applied")
            t.that(trainer.says(f"version {applied + 20}: applied"), "versions go on", s)
            coordinator.send(signal.SIGKILL)
            coordinator.wait()
            serving = all(process.process.poll() is None for process in rollouts)
            coordinator = s.coordinator()
            t.that(serving and coordinator.says(f"term {round + 2}", where="err"), "a new coordinator has a higher term", s)
        applied = trainer.out.count("applied")
        t.that(trainer.says(f"version {applied + 20}: applied"), "versions go on after all", s)
        t.that("failed" not in trainer.out and all(process.process.poll() is None for process in rollouts), "nobody was lost", s)
        second = s.start("second", ["coordinator", "--bind", f"127.0.0.1:{free_ports()}", "--keys", s.keys, *s.topology, "--state", s.state])
        t.that(second.wait() == ENVIRONMENT and "in use" in second.err, "two coordinators cannot have one session", s)


def check_coordinator_stays_away(t, folder):
    """Longer than anybody may be silent: the trainer keeps the version that it has in hand, and its weights as they are."""
    with Session(t.weft, folder, trainer="fsdp:1", rollout="tp:1", trainers=1, rollouts=1, tp=1) as s:
        coordinator = s.coordinator()
        rollout, trainer = s.join(1), s.join(0, "--updates", 100000, "--pause", 20)
        t.that(trainer.says("version 3: applied"), "versions go on", s)
        coordinator.send(signal.SIGKILL)
        coordinator.wait()
        t.that(trainer.says("was last heard", where="err"), "the trainer says that the coordinator is silent", s)
        s.coordinator()
        applied = trainer.out.count("applied")
        t.that(trainer.says(f"version {applied + 20}: applied"), "and goes on with another one, from the version that it had", s)
        t.that("failed" not in trainer.out and rollout.process.poll() is None, "nobody was lost", s)


# ---- Strangers ----


def keys_of(t, s, name, server=None):
    """Another folder of keys; with the right coordinator's public key when `server`."""
    folder = os.path.join(s.folder, name)
    t.weft("keygen", "--out", folder)
    if server:
        shutil.copy(os.path.join(server, "server.pub"), folder)
    return folder


GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00"  # ZMTP 3.0: signature and version, then mechanism, as-server, filler


def talk(port, data, seconds=4.0):
    """Everything that a connection that says `data` is told until it is cut, or None when it is not cut."""
    told = b""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(seconds)
        try:
            for at in range(0, len(data), 65536):
                connection.sendall(data[at:at + 65536])
            while True:
                piece = connection.recv(65536)
                if not piece:
                    return told
                told += piece
        except socket.timeout:
            return None
        except OSError:
            return told


class Recorder(threading.Thread):
    """Passes one connection on to `port`, and keeps what the client said; the bit at byte `flip` of it is turned round."""

    def __init__(self, port, flip=None):
        super().__init__(daemon=True)
        self.flip = flip
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port, self.to, self.said = self.listener.getsockname()[1], port, b""
        self.start()

    def run(self):
        near, _ = self.listener.accept()
        self.listener.close()
        far = socket.create_connection(("127.0.0.1", self.to))
        back = threading.Thread(target=self.copy, args=(far, near, False), daemon=True)
        back.start()
        self.copy(near, far, True)

    def copy(self, source, target, keep):
        try:
            while piece := source.recv(65536):
                if keep:
                    at = len(self.said)
                    self.said += piece
                    if self.flip is not None and at <= self.flip < at + len(piece):
                        piece = bytearray(piece)
                        piece[self.flip - at] ^= 4
                target.sendall(piece)
        except OSError:
            pass
        for connection in (source, target):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


FLIPS = (300, 640)  # in the handshake, in what follows it


def heard(connection, seconds):
    """What a connection is told until it is cut, None when it is not."""
    told = b""
    connection.settimeout(seconds)
    try:
        while piece := connection.recv(4096):
            told += piece
    except socket.timeout:
        return None
    except OSError:
        pass
    return told


def secrets_of(s):
    words = [open(os.path.join(s.keys, f"{name}.key")).read().split()[1] for name in ("server", "client")]
    return words + [line.split()[1] for line in open(s.state) if line.startswith("token ")]


def listening(process):
    """[(address, port)] that a process listens on, IPv4."""
    inodes = set()
    for fd in os.listdir(f"/proc/{process.process.pid}/fd"):
        try:
            target = os.readlink(f"/proc/{process.process.pid}/fd/{fd}")
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    rows = [line.split() for line in open("/proc/net/tcp")][1:]
    found = [row[1].split(":") for row in rows if row[3] == "0A" and row[9] in inodes]
    return [(".".join(map(str, bytes.fromhex(address)[::-1])), int(port, 16)) for address, port in found]


def check_strangers(t, folder):
    """Who has no key on the list is told nothing, is logged, and does no harm; nor does what was recorded and is said again."""
    with Session(t.weft, folder) as s:
        coordinator = s.coordinator()
        before = open(s.state).read()
        silent = [socket.create_connection(("127.0.0.1", port)) for port in (s.port, s.port + 1)]
        wrong = s.join(0, "--timeout", 5, keys=keys_of(t, s, "stranger", s.keys))
        t.that(wrong.wait(20) == ENVIRONMENT and "refuses the key" in wrong.err, "a key that is not on the list is refused", s)
        t.that(coordinator.says("a key that is not on the list", where="err"), "and logged", s)
        flips = [Recorder(s.port, flip) for flip in FLIPS]
        changed = [s.start("changed", ["join", "--coordinator", f"127.0.0.1:{flip.port}", "--keys", s.keys, "--rank", 1, "--timeout", 2, "--model", V1, *s.layout])
                   for flip in flips]
        lost = s.join(0, "--timeout", 2, keys=keys_of(t, s, "elsewhere"))
        t.that(lost.wait(20) == PEER and "did not answer" in lost.err, "a coordinator with another key is not believed", s)
        for port, what in ((s.port, "the door"), (s.port + 1, "the control port")):
            for mechanism in (b"NULL", b"PLAIN"):
                told = talk(port, GREETING + mechanism.ljust(20, b"\0") + bytes(32) + b"\x04\x05\x05READY")
                t.that(told is not None and len(told) <= 64, f"{mechanism.decode()} gets no further than ZeroMQ's greeting at {what}", told)
            t.that(talk(port, os.urandom(1 << 20)) is not None, f"what is not ZeroMQ is cut at {what}")
            told = talk(port, GREETING + b"CURVE".ljust(20, b"\0") + bytes(32) + b"\x06" + b"\xff" * 8 + bytes(100))
            t.that(told is not None and len(told) <= 64, f"a handshake of 2^64 bytes is cut at {what}", told)
        t.that(coordinator.says("failed its handshake", where="err"), "connections without keys are logged", s)
        t.that([process.wait() for process in changed] == [PEER] * len(FLIPS), "a message that was changed on its way is no message", s)
        t.that(all(len(flip.said) > flip.flip for flip in flips), "and one was", [len(flip.said) for flip in flips])
        t.that(open(s.state).read() == before, "nobody has come in", s)
        for connection in silent:
            told = heard(connection, 8)
            t.that(told is not None and len(told) <= 64, "a connection that says nothing is cut", told)
        recorder = Recorder(s.port)
        first = s.start("recorded", ["join", "--coordinator", f"127.0.0.1:{recorder.port}", "--keys", s.keys, "--rank", 2, "--model", V1, *s.layout])
        t.that(first.says("incarnation 1") or coordinator.says("rank 2 has come", where="err"), "a rank joins through a proxy", s)
        first.end()
        before = open(s.state).read()
        said = recorder.said
        t.that(len(said) > 400 and b"client" not in said, "what it said is recorded, and unreadable")
        for _ in range(3):
            t.that(talk(s.port, said) is not None, "what was said once and is said again is cut")
        t.that(open(s.state).read() == before, "and admits nobody", s)
        other = s.start("misfit", ["join", "--coordinator", s.address, "--keys", s.keys, "--rank", 0, "--model", V1,
                                   *[{"fp8-block": "bf16"}.get(word, word) for word in s.layout]])
        t.that(other.wait() == CHECK_FAILED and "must be the same on all ranks" in other.err, "another plan is refused", s)
        rollouts = [s.join(rank, "--until", 2) for rank in (3, 2)]
        t.that(all(process.says("incarnation 2") for process in rollouts), "ranks of a replica agree on which life it is", s)
        trainers = [s.join(rank) for rank in (0, 1)]
        t.that([process.wait() for process in trainers + rollouts] == [OK] * 4, "the session goes its way", s)
        said = "".join(process.out + process.err + " ".join(map(str, process.process.args)) for process in s.processes)
        found = [word for word in secrets_of(s) if word in said]
        t.that(len(secrets_of(s)) == 3 and "incarnation" in said and not found, "no secret stands in a log or a command line", s)


def check_keys(t, folder):
    """What is refused before anything is bound or connected."""
    with Session(t.weft, folder) as s:
        secret = {name: os.path.join(s.keys, f"{name}.key") for name in ("server", "client")}
        base = ["coordinator", "--bind", s.address, "--keys", s.keys, *s.topology]
        for name, command in (("server", base), ("client", ["join", "--coordinator", s.address, "--keys", s.keys, "--rank", 0, "--model", V1, *s.layout])):
            os.chmod(secret[name], 0o644)
            result = t.weft(*command)
            t.that(result.code == ENVIRONMENT and "chmod 600" in result.err, f"{name}.key that others can read", result)
            os.chmod(secret[name], 0o600)
        for address, word in (("0.0.0.0:7000", "every interface"), ("*:7000", "no address"), ("127.0.0.1", "ADDRESS:PORT"), ("127.0.0.1:99999", "no address"),
                              ("localhost:7000", "no address")):
            result = t.weft("coordinator", "--bind", address, "--keys", s.keys, *s.topology)
            t.that(result.code == USAGE and word in result.err, f"--bind {address}", result)
        for more, code, word in ((["--tp", 3], USAGE, "whole engines"), (["--trainers", 2000], USAGE, "1024"), (["--keys", folder], ENVIRONMENT, "server.key"),
                                 (["--wait", 0], USAGE, "--wait"), (["--state", "/nowhere/state"], ENVIRONMENT, "/nowhere")):
            result = t.weft(*base, *more)
            t.that(result.code == code and word in result.err, f"coordinator {more}", result)
        for text, code, word in (("", CHECK_FAILED, "no whole state file"), ("weft coordinator state 1\ntopology 2 1 2\n", CHECK_FAILED, "no whole state file")):
            with open(s.state, "w") as file:
                file.write(text)
            os.chmod(s.state, 0o600)
            result = t.weft(*base, "--state", s.state)
            t.that(result.code == code and word in result.err, "a state file that was cut", result)
        os.chmod(s.state, 0o644)
        result = t.weft(*base, "--state", s.state)
        t.that(result.code == ENVIRONMENT and "holds a secret" in result.err, "a state file that others can read", result)
        join = ["join", "--model", V1, *s.layout]
        for environment, word in (({}, "WEFT_COORDINATOR"), ({"WEFT_COORDINATOR": s.address}, "WEFT_KEYS"), ({"WEFT_COORDINATOR": s.address, "WEFT_KEYS": s.keys}, "WEFT_RANK"),
                                  ({"WEFT_COORDINATOR": s.address, "WEFT_KEYS": s.keys, "WEFT_RANK": "-1"}, "not a rank"),
                                  ({"WEFT_COORDINATOR": s.address, "WEFT_KEYS": s.keys, "WEFT_RANK": "4"}, "of 4 ranks")):
            process = s.start("join", join, environment)
            t.that(process.wait() == USAGE and word in process.err, f"join with {sorted(environment)}", process)


# ---- The examples ----

EXAMPLES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "launch", "examples")


def commands_of(document):
    """(command, arguments) of every container of a Kubernetes document."""
    if isinstance(document, list):
        return [found for item in document for found in commands_of(item)]
    if not isinstance(document, dict):
        return []
    own = [document["command"] + document.get("args", [])] if "image" in document and "command" in document else []
    return own + [found for value in document.values() for found in commands_of(value)]


def weft_options(words):
    """[(command, option)] of the weft command lines among the words."""
    found, command = [], None
    for word, following in zip(words, words[1:] + [""]):
        if word == "weft":
            command = following
        elif command and word.startswith("--"):
            found.append((command, word[2:]))
    return found


def check_examples(t, folder):
    """They parse, and every option of weft that they use there is. The script of the Slurm example runs, with an srun that starts
    processes here."""
    options = {command: t.weft(command, "--help").out for command in ("run", "coordinator", "join", "keygen")}
    script = os.path.join(EXAMPLES, "service.sbatch")
    t.that(subprocess.run(["bash", "-n", script]).returncode == 0, "service.sbatch parses")
    lines = open(script).read().replace('"', " ").replace("\\\n", " ").replace("plan=(", "weft join ").splitlines()
    used = [found for line in lines for found in weft_options(line.split())]
    try:
        import yaml
        for name in ("mpijob.yaml", "service.yaml"):
            found = commands_of(list(yaml.safe_load_all(open(os.path.join(EXAMPLES, name)))))
            t.that(len(found) >= 1, f"{name} has containers with commands")
            for words in found:
                used += weft_options(" ".join(map(str, words)).split())
    except ImportError:
        print("PyYAML is missing: the YAML examples are not parsed")
    t.that(len(used) > 10, "the examples use weft", used)
    for command, option in used:
        t.that(f"--{option} " in options.get(command, ""), f"weft {command} has --{option}")
    run_script(t, folder, script)


FAKE_SRUN = """#!/bin/bash
count=1
while [[ $1 == --* ]]; do [[ $1 == --ntasks=* ]] && count=${1#*=}; shift; done
pids=()
trap 'kill "${pids[@]}" 2>/dev/null' EXIT TERM
for ((i = 0; i < count; i++)); do SLURM_PROCID=$i "$@" & pids+=($!); done
code=0
for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
exit $code
"""


def run_script(t, folder, script):
    """Its port is replaced by a free one."""
    with open(os.path.join(folder, "srun"), "w") as file:
        file.write(FAKE_SRUN)
    os.chmod(file.name, 0o755)
    os.symlink(t.weft.path, os.path.join(folder, "weft"))
    text = open(script).read().replace("127.0.0.1:7000", f"127.0.0.1:{free_ports()}").replace("--scheme fp8-block", "--scheme fp8-block --memory host")
    with open(os.path.join(folder, "script"), "w") as file:
        file.write(text)
    with open(os.path.join(folder, "out"), "w") as out:
        process = subprocess.Popen(["bash", file.name], stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
                                   env={**os.environ, "PATH": folder + ":" + os.environ["PATH"], "MODEL": f"{V1},{V3}", "SLURM_JOB_ID": "1",
                                        "WEFT_RUN": os.path.join(folder, "run")})
    try:
        code = process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        code = None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    text = open(out.name).read()
    t.that(code == 0 and text.count("version 2: applied") == 2, "the Slurm example publishes two versions", text[-3000:])


CHECKS = {name[6:]: check for name, check in list(globals().items()) if name.startswith("check_")}


class Run(Checks):
    def __init__(self, weft):
        super().__init__()
        self.weft = weft


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("weft")
    parser.add_argument("--only", default="")
    parser.add_argument("--transport", default="ipc", choices=["ipc", "zmq"])
    arguments = parser.parse_args()
    Session.transport = arguments.transport
    t = Run(Weft(arguments.weft))
    for name, check in CHECKS.items():
        if arguments.only in name:
            start = time.monotonic()
            with scratch("service") as folder:
                check(t, folder)
            print(f"{name}: {time.monotonic() - start:.1f} s", flush=True)
    t.end()


if __name__ == "__main__":
    main()
