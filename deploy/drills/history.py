"""Clients with unique values and linearizable reads, and what the history of their operations proves."""

import bisect
import json
import random
import subprocess
import threading
import time
from dataclasses import dataclass

CLIENTS = 4
# Registers that all clients write and read.
KEYS = 4
# Seconds between two operations on registers of a client, on average, and between two appends.
EVERY_S = 0.25
APPEND_EVERY_S = 0.04
# Seconds between two tenures.
TENURE_EVERY_S = 1.0
# The example program that records calls of the library, and judges the history by both checks of the tests.
RECORDER = "examples/record_history"
# Longest wait for the judgement.
JUDGED_BY_S = 300
# Longest wait of a read at one certain learner, which may be away.
READ_TIMEOUT = "2s"


@dataclass(frozen=True)
class Operation:
    """What one client did: an append, a put, or a read of a register."""

    kind: str
    key: str
    value: str
    begun: float
    ended: float
    # The version, as numbers; none when a read found no register.
    version: tuple


def version_of(text):
    """A version as numbers, from its text or its JSON."""
    if isinstance(text, dict):
        return int(text.get("slot", 0)), int(text.get("offset", 0))
    slot, _, offset = str(text).partition(".")
    return int(slot), int(offset)


class Clients:
    """Clients that append, put, read and hold tenures while the `with` block runs."""

    def __init__(self, cluster, timeout="60s"):
        self.cluster, self.timeout = cluster, timeout
        self.lock, self.ended = threading.Lock(), threading.Event()
        self.operations, self.tokens = [], []
        # Values of puts that were begun, with their keys; texts of commands that failed.
        self.begun, self.failed = {}, []
        # Outcomes of appends that are unknown or failed; reads at one learner without an answer.
        self.open_appends = self.unanswered = 0
        # When appends succeeded, ascending.
        self.moments = []
        works = [self._registers] * CLIENTS + [self._appends] * CLIENTS + [self._tenures]
        self.threads = [
            threading.Thread(target=work, args=(number,), daemon=True) for number, work in enumerate(works)
        ]
        # Beside the commands; none unless built.
        self.recorder, self.recorded = None, None

    def __enter__(self):
        program = self.cluster.binaries / RECORDER
        if program.exists():
            self.recorder = subprocess.Popen(
                [program, self.cluster.list, str(CLIENTS)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        if self.recorder:
            try:
                self.recorded = self.recorder.communicate("", JUDGED_BY_S)[0]
            except subprocess.TimeoutExpired:
                self.recorder.kill()
        for thread in self.threads:
            thread.join(120)

    def _fail(self, text):
        with self.lock:
            self.failed.append(text)

    def _registers(self, client):
        chance, number = random.Random(client), 0
        while not self.ended.wait(EVERY_S * (0.5 + chance.random())):
            number += 1
            key = f"shared-{chance.randrange(KEYS)}"
            try:
                if chance.random() < 0.5:
                    self._put(key, f"{client}-{number}")
                else:
                    self._get(key, chance.choice([None, *self.cluster.learners]))
            except Exception as error:  # A command that hangs counts as one that failed.
                self._fail(str(error))

    def _put(self, key, value):
        with self.lock:
            self.begun[value] = key
        begun = time.monotonic()
        result = self.cluster.paxos("put", key, value, "--output", "json", "--timeout", self.timeout)
        if result.code:
            return self._fail(f"put {key} {value}: {result}")
        self._note("put", key, value, begun, version_of(json.loads(result.out)["version"]))

    def _get(self, key, learner):
        at = ["--learners", self.cluster.url(learner), "--timeout", READ_TIMEOUT] if learner else []
        begun = time.monotonic()
        result = self.cluster.paxos("get", key, "--output", "json", *(at or ["--timeout", self.timeout]))
        if result.code == 1:
            self._note("get", key, None, begun, None)
        elif result.code == 0:
            found = json.loads(result.out)
            self._note("get", key, found["value"], begun, version_of(found["version"]))
        elif learner:
            with self.lock:
                self.unanswered += 1
        else:
            self._fail(f"get {key}: {result}")

    def _note(self, kind, key, value, begun, version):
        operation = Operation(kind, key, value, begun, time.monotonic(), version)
        with self.lock:
            self.operations.append(operation)

    def _appends(self, client):
        """Feeds lines to one `paxos propose --lines`, again and again if the command ends."""
        number = 0
        while not self.ended.is_set():
            child = self.cluster.begin(
                "propose", "--lines", "--output", "json", "--timeout", self.timeout,
                stdin=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            sent = []
            reader = threading.Thread(target=self._outcomes, args=(child, sent), daemon=True)
            reader.start()
            try:
                while not self.ended.wait(APPEND_EVERY_S) and child.poll() is None:
                    number += 1
                    text = f"append {client}-{number}"
                    sent.append((text, time.monotonic()))
                    child.stdin.write(f"{text}\n".encode())
                    child.stdin.flush()
                child.stdin.close()
            except OSError:
                pass
            reader.join(120)
            child.kill()
            child.wait()

    def _outcomes(self, child, sent):
        for number, line in enumerate(child.stdout):
            outcome, (text, begun) = json.loads(line), sent[number]
            if "version" in outcome:
                self._note("append", None, text, begun, version_of(outcome["version"]))
                with self.lock:
                    self.moments.append(time.monotonic())
            else:
                with self.lock:
                    self.open_appends += 1

    def _tenures(self, _):
        command = ["--", "sh", "-c", "echo $PAXOS_FENCING_TOKEN"]
        while not self.ended.wait(TENURE_EVERY_S):
            try:
                result = self.cluster.paxos("elect", "drill", "--as", "drill", "--timeout", "60s", *command)
            except Exception:
                continue
            # A tenure that ends early is no fault; a token is.
            if result.out.strip().isdigit():
                with self.lock:
                    self.tokens.append(int(result.out))

    def longest_silence(self, since, until):
        """Most seconds between two successes that follow each other, from one moment to another."""
        with self.lock:
            # Threads may note moments a little out of order.
            moments = sorted(self.moments)
        moments = moments[bisect.bisect_left(moments, since) : bisect.bisect_right(moments, until)]
        moments = [since, *moments, until]
        return max(after - before for before, after in zip(moments, moments[1:]))

    def judge(self, trial):
        """Judges what the history proves: nothing is stale, versions and tokens only grow, nothing failed."""
        with self.lock:
            operations, tokens = list(self.operations), list(self.tokens)
            failed, begun = list(self.failed), dict(self.begun)
        counts = {kind: sum(1 for one in operations if one.kind == kind) for kind in ("append", "put", "get")}
        trial.say(
            f"operations: {counts}, {self.open_appends} appends with an open outcome, "
            f"{self.unanswered} reads at one learner without an answer, {len(tokens)} tenures"
        )
        trial.right(not failed and all(counts.values()), f"{len(failed)} puts and reads failed")
        for text in failed[:5]:
            trial.say(f"    {text}")
        wrong = [*out_of_order(operations), *wrong_values(operations, begun)]
        trial.right(not wrong, f"the history of {len(operations)} operations is linearizable")
        for text in wrong[:10]:
            trial.say(f"    {text}")
        if self.recorder:
            trial.right(
                self.recorder.returncode == 0,
                f"the history of {CLIENTS} clients of the library is linearizable by both checks",
            )
            for line in (self.recorded or "no judgement").splitlines():
                trial.say(f"    {line[:500]}")
        else:
            trial.say(f"no library clients: {self.cluster.binaries / RECORDER} is not built")
        grows = all(before < after for before, after in zip(tokens, tokens[1:]))
        trial.right(tokens and grows, f"{len(tokens)} fencing tokens only grow: {tokens[:1]} to {tokens[-1:]}")

    def judge_log(self, trial, learner, since):
        """Judges that the log of a learner, from a slot on, has every acknowledged append, and each only once."""
        result = self.cluster.paxos(
            "log", "--from", since, "--learners", self.cluster.url(learner), "--timeout", "60s", patience_s=300
        )
        lines = result.out.splitlines()
        appended = [line.partition("  ")[2] for line in lines if "  append " in line]
        with self.lock:
            wanted = [one for one in self.operations if one.kind == "append"]
        found = set(lines)
        lost = [one for one in wanted if f"{one.version[0]}.{one.version[1]}  {one.value}" not in found]
        trial.right(
            result.code == 0 and not lost,
            f"the log of {learner} misses {len(lost)} of {len(wanted)} acknowledged appends: "
            f"{lost[:3] or ''}{'' if result.code == 0 else result}",
        )
        twice = len(appended) - len(set(appended))
        trial.right(not twice, f"{twice} of {len(appended)} appended values are in the log twice")

    def judge_registers(self, trial, learner):
        """Judges that each register has its last acknowledged value at a learner, or a later value."""
        last = {}
        for one in self.operations:
            if one.kind == "put" and one.version > last.get(one.key, (-1, 0)):
                last[one.key] = one.version
        for key, version in sorted(last.items()):
            at = ("--learners", self.cluster.url(learner), "--timeout", "30s")
            result = self.cluster.paxos("get", key, "--output", "json", *at)
            register = json.loads(result.out) if result.code == 0 else {}
            found = version_of(register["version"]) if register else None
            is_kept = found is not None and found >= version and self.begun.get(register["value"]) == key
            trial.right(is_kept, f"{key} at {learner} has version {found or result}, the last acknowledged is {version}")


def out_of_order(operations):
    """Pairs of operations whose versions contradict their order in time."""
    by_end = sorted((one for one in operations if one.version), key=lambda one: one.ended)
    ended, latest, latest_of = 0, None, {}
    wrong = []
    for one in sorted(operations, key=lambda one: one.begun):
        while ended < len(by_end) and by_end[ended].ended < one.begun:
            before = by_end[ended]
            ended += 1
            if latest is None or before.version > latest.version:
                latest = before
            known = latest_of.get(before.key)
            if before.key and (known is None or before.version > known.version):
                latest_of[before.key] = before
        if one.kind == "get":
            before = latest_of.get(one.key)
            is_right = before is None or one.version is not None and one.version >= before.version
        else:
            before = latest
            is_right = before is None or one.version > before.version
        if not is_right:
            wrong.append(f"{one} began after the end of {before}")
    return wrong


def wrong_values(operations, begun):
    """Values at wrong versions, or values that no client wrote."""
    places, wrong = {}, []
    writers = {}
    for one in operations:
        if one.kind != "get":
            other = writers.setdefault(one.version, one)
            if other is not one:
                wrong.append(f"{one} has the version of {other}")
        if one.key is None or one.version is None:
            continue
        if begun.get(one.value) != one.key:
            wrong.append(f"no client wrote the value of {one}")
        if places.setdefault(one.value, one.version) != one.version:
            wrong.append(f"{one}: the value had version {places[one.value]} elsewhere")
    return wrong
