"""Drills of logs that are trimmed: bounded disks, roles that were away, kills at random moments, slow readers."""

import json
import random
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from catalogue import drill
from cluster import Cluster
from trial import wait_until
from writer import Writer

MIB = 1 << 20
RETAIN_MIB = 4
# Beside steps of log and snapshots: the write-ahead log, and what is written during an upload.
BESIDE_MIB = 128
# Longest restart of a learner, for which acceptors keep the log: short, so that kills and trims happen often.
RESTART_MAX_S = 1
READ_BY_S = 10
# Registers of which a new learner must show all or nothing.
REGISTERS = 200
# In each such round, a learner loses its directory, and is killed again while it installs a snapshot.
EMPTIED_EACH = 5
LIFTED_BY_S = 45
# In the text of `paxos status`.
NOT_READY = " is not ready: "


def retaining(cluster, mebibytes, names=None):
    """Lets acceptors keep this much of the log, all unless named; to be called before their start."""
    for name in names or cluster.acceptors:
        flags = ["--retain-bytes", f"{mebibytes}MiB", "--restart-max", f"{RESTART_MAX_S}s"]
        cluster.define(name, flags=flags)


def size(path):
    """Bytes of the files of a directory, which may change meanwhile."""
    total = 0
    for file in path.iterdir() if path.is_dir() else ():
        try:
            total += file.stat().st_size
        except FileNotFoundError:
            pass
    return total


class Sizes:
    """Measures the directories of acceptors and learners each second while its `with` block runs."""

    def __init__(self, cluster):
        self.cluster, self.ended = cluster, threading.Event()
        self.seen = {name: [] for name in cluster.acceptors + cluster.learners}
        self.thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()

    def _work(self):
        while not self.ended.wait(1):
            for name, sizes in self.seen.items():
                sizes.append(size(self.cluster.data(name)) / MIB)

    def judge(self, trial, bound_mib):
        for name, sizes in self.seen.items():
            every = max(1, len(sizes) // 12)
            curve = " ".join(f"{mebibytes:.0f}" for mebibytes in sizes[::every])
            trial.right(
                max(sizes) <= bound_mib,
                f"{name}: at most {max(sizes):.0f} MiB, bound {bound_mib:.0f} MiB; over time: {curve}",
            )


class Load:
    """Appends by `paxos bench` in the background while its `with` block runs."""

    def __init__(self, cluster, seconds, *arguments):
        self.cluster, self.seconds = cluster, seconds
        self.child = None
        self.arguments = arguments

    def __enter__(self):
        arguments = ["bench", "--output", "json", "--duration", f"{self.seconds}s", *self.arguments]
        self.child = self.cluster.begin(*arguments, "--timeout", "60s")
        return self

    def __exit__(self, *_):
        if self.child.poll() is None:
            self.child.terminate()
        self.child.communicate()


def trimmed_to(cluster, name):
    return int(cluster.metric(name, "paxos_acceptor_trimmed_to"))


def chosen_to(cluster, name):
    return int(cluster.metric(name, "paxos_acceptor_chosen_to"))


def judge_digests(trial, cluster, learners):
    """Judges that all learners are ready and have the same digests, and that nothing is broken.

    Learners that are not ready have equal digests too, at slots that both have passed."""
    wanted = f"digests of {learners} learners are equal"
    begun = time.monotonic()

    def equal():
        text, code = cluster.status()
        return code == 0 and wanted in text and NOT_READY not in text and text

    try:
        wait_until(f"all are ready, and `status` says: {wanted}", equal, 60, 1)
        took = time.monotonic() - begun
        trial.right(True, f"all are ready after {took:.0f} s, and the {wanted}")
    except Exception:
        text, code = cluster.status()
        trial.right(False, f"all are ready, and the {wanted}; exit {code}")
        for line in text.strip().splitlines()[-6:]:
            trial.say(f"    {line}")


def add_learner(cluster, name):
    """A learner with an empty directory, started now."""
    cluster.add(name).start()


def write_registers(trial, cluster):
    """Writes the registers that `first_read` reads."""
    put = lambda number: cluster.put(f"register-{number}", f"value {number}").code == 0
    with ThreadPoolExecutor(8) as pool:
        written = sum(pool.map(put, range(REGISTERS)))
    trial.right(written == REGISTERS, f"{written} of {REGISTERS} registers are written")


def judge_registers(trial, cluster, name):
    """Judges that a learner shows all registers of `write_registers`."""
    result = cluster.paxos("get", "--prefix", "register-", "--learners", cluster.url(name))
    found = len(result.out.splitlines())
    error = result.error.strip()[:300]
    trial.right(
        found == REGISTERS,
        f"{name} shows {found} of {REGISTERS} registers: exit {result.code} after {result.seconds:.2f} s {error}",
    )


def first_read(trial, cluster, name, read_by_s=READ_BY_S, registers=False):
    """Reads at a new learner from the first moment on; judges that no read shows partial state.

    `registers`: reads those of `write_registers`, another one each time."""
    begun, refused = time.monotonic(), 0
    while time.monotonic() < begun + 60:
        number = random.randrange(REGISTERS)
        key, value = (f"register-{number}", f"value {number}") if registers else ("settled", "yes")
        result = cluster.get(key, name, timeout="300ms")
        if result.code == 0:
            took = time.monotonic() - begun
            trial.right(result.out.strip() == value, f"the first read at {name}: {result}")
            trial.right(
                took <= read_by_s, f"{took:.1f} s after its start, at most {read_by_s} s; {refused} reads were refused"
            )
            if registers:
                judge_registers(trial, cluster, name)
            return
        if result.code == 1:
            trial.right(False, f"no read at {name} finds a key absent: {result}")
        refused += 1
        time.sleep(0.05)
    trial.right(False, f"{name} answers a read within 60 s")


@drill(
    "trims",
    "appends for a time while acceptors keep 4 MiB of the log; then a new learner",
    seconds=60,
    limit_s=300,
)
def trims(trial):
    with Cluster(trial) as cluster:
        retaining(cluster, RETAIN_MIB)
        cluster.start()
        write_registers(trial, cluster)
        with Sizes(cluster) as sizes, Writer(cluster, workers=4, every_s=0.5) as writer:
            numbers, result = cluster.bench(
                "--duration", f"{trial.seconds}s", patience_s=trial.seconds + 90
            )
            if trial.right(numbers is not None and result.code == 0, f"the bench ends well: exit {result.code}"):
                trial.say(
                    f"{numbers['proposals']} proposals, {numbers['per_second']:.0f} a second, {numbers['latency_ms']}"
                )
        writer.judge(trial)
        for name in cluster.acceptors:
            to, end = trimmed_to(cluster, name), chosen_to(cluster, name)
            trial.right(to > 0, f"{name} has trimmed below slot {to} of {end}")
        snapshot = max(cluster.metric(name, "paxos_acceptor_snapshot_size_bytes") for name in cluster.acceptors)
        step = max(RETAIN_MIB, snapshot / MIB)
        sizes.judge(trial, 4 * step + 3 * snapshot / MIB + BESIDE_MIB)
        add_learner(cluster, "l3")
        first_read(trial, cluster, "l3", registers=True)
        judge_digests(trial, cluster, 3)
        cluster.all_run()


@drill("left-behind", "an acceptor and a learner are stopped while the others trim past them", seconds=20, limit_s=300)
def left_behind(trial):
    with Cluster(trial) as cluster:
        retaining(cluster, 1)
        cluster.start()
        cluster["a3"].stop()
        cluster["l2"].stop()
        behind = chosen_to(cluster, "a1")
        with Load(cluster, trial.seconds + 60):
            wait_until(
                "the other acceptors trim past the stopped acceptor",
                lambda: min(trimmed_to(cluster, name) for name in ("a1", "a2")) > behind + 1_000,
                trial.seconds + 50,
                1,
            )
        trial.say(f"stopped at slot {behind}; trimmed to {trimmed_to(cluster, 'a1')}, {trimmed_to(cluster, 'a2')}")
        begun = time.monotonic()
        cluster["a3"].start()
        cluster["l2"].start()
        # The acceptor that was away has its whole log, so the learner waits 10 s for the slots before it installs.
        first_read(trial, cluster, "l2", 2 * READ_BY_S)
        with Writer(cluster, workers=4) as writer:
            wait_until(
                "the acceptor is lifted", lambda: chosen_to(cluster, "a3") + 200 >= chosen_to(cluster, "a1"), LIFTED_BY_S
            )
            took = time.monotonic() - begun
            trial.right(took <= LIFTED_BY_S, f"a3 is lifted and repaired {took:.1f} s after its start")
            cluster["a1"].kill()
            time.sleep(3)
        writer.judge(trial)
        cluster["a1"].start()
        judge_digests(trial, cluster, 2)
        cluster.all_run()


def empty(cluster, name):
    """Empties the directory of a learner that does not run: the next start installs a snapshot."""
    shutil.rmtree(cluster.data(name))


@drill(
    "trims-killed",
    "random roles are killed while acceptors keep 1 MiB of the log; learners lose their directories",
    rounds=200,
    limit_s=240,
    limit_round_s=6,
)
def trims_killed(trial):
    chance = random.Random(trial.rounds)
    with Cluster(trial) as cluster:
        retaining(cluster, 1)
        cluster.start()
        write_registers(trial, cluster)
        kills = dict.fromkeys(cluster.names(), 0)
        installing = 0
        with Load(cluster, 8 * trial.rounds + 60), Writer(cluster, workers=4, every_s=0.2) as writer:
            for number in range(trial.rounds):
                time.sleep(chance.uniform(0.05, 1.5))
                is_emptied = number % EMPTIED_EACH == EMPTIED_EACH - 1
                name = chance.choice(cluster.learners if is_emptied else cluster.names())
                cluster[name].kill()
                kills[name] += 1
                time.sleep(chance.uniform(0, 0.5))
                if is_emptied:
                    empty(cluster, name)
                    mark = cluster[name].log.stat().st_size
                    cluster[name].start()
                    time.sleep(chance.uniform(0, 1))
                    cluster[name].kill()
                    kills[name] += 1
                    installing += "the learner installs a snapshot" in cluster[name].text(mark)
                cluster[name].start()
                # One acceptor at a time.
                if name in cluster.acceptors:
                    wait_until(f"{name} is ready", lambda: cluster.probe(name, "readyz") == 200, 30)
        trial.say(f"kills: {kills}; {installing} of them after a learner began to install a snapshot")
        writer.judge(trial)
        writer.judge_last(trial)
        for name in cluster.acceptors:
            to, end = trimmed_to(cluster, name), chosen_to(cluster, name)
            trial.right(to > 0, f"{name} has trimmed below slot {to} of {end}")
        judge_digests(trial, cluster, 2)
        for name in cluster.learners:
            judge_registers(trial, cluster, name)
        cluster.all_run()


@drill("slow-subscriber", "a subscriber reads slowly while the log is trimmed", seconds=30, limit_s=240)
def slow_subscriber(trial):
    with Cluster(trial) as cluster:
        retaining(cluster, 1)
        cluster.start()
        child = cluster.begin("log", "--from", "0", "--follow", "--all", "--output", "json", "--timeout", "10s")
        slots = []
        with Load(cluster, trial.seconds):
            until = time.monotonic() + trial.seconds
            while time.monotonic() < until:
                slots.append(slot_of(child.stdout.readline()))
                time.sleep(0.002)
        # The rest, as fast as it comes, until an error or silence.
        reader = threading.Thread(target=lambda: slots.extend(map(slot_of, child.stdout)), daemon=True)
        reader.start()
        reader.join(20)
        ended = child.poll()
        child.terminate()
        reader.join(5)
        error = child.stderr.read().decode(errors="replace").strip()
        slots = [slot for slot in slots if slot is not None]
        gaps = [(one, following) for one, following in zip(slots, slots[1:]) if following != one + 1]
        trial.say(f"{len(slots)} entries up to slot {slots[-1] if slots else 'none'}; ended: {ended}; {error[:300]}")
        to = max(trimmed_to(cluster, name) for name in cluster.acceptors)
        trial.right(to > 0, f"meanwhile the acceptors have trimmed below slot {to}")
        trial.right(not gaps, f"every slot once, in order: {gaps[:3] or 'no gap'}")
        said = "are not kept any more" in error
        complete = slots and slots[-1] + 1 >= chosen_to(cluster, "a1") - 1
        trial.right(bool(complete) or (said and ended is not None), "every record, or one error that names the range")


def slot_of(line):
    """The slot of a line of `paxos log --output json`."""
    try:
        return int(json.loads(line)["slot"])
    except (ValueError, KeyError, TypeError):
        return None
