"""Drills of data that is damaged, old, or grown: no acknowledged write is lost, and the cluster goes on."""

import random
import shutil
import sqlite3
import subprocess
import time

from catalogue import drill
from cluster import Cluster
from quiet import measure_idle
from trial import GaveUp, wait_until

RUN_ROWS = (2_000, 130_000)
REFUSED_STARTS = 50
REPAIR_SLOTS = 465
REPAIR_MAX_S = 10.0
# Writes to all acceptors, and then to the first two alone.
WRITES = (300, 120)
ALONE_S = 4.0
# Of SQLite's write-ahead log.
WAL_HEADER_BYTES, FRAME_HEADER_BYTES = 32, 24
EXIT_DISK = 74
EXIT_FAULT = 70


def append(cluster, first, count):
    """Appends lines one after the other; returns those that were acknowledged."""
    lines = [f"line {number}" for number in range(first, first + count)]
    result = cluster.paxos(
        "propose", "--lines", "--in-flight", 1, input="".join(f"{line}\n" for line in lines).encode()
    )
    answers = result.out.splitlines()
    return [line for line, answer in zip(lines, answers) if answer[:1].isdigit()]


def log_lines(cluster, learner, timeout="20s"):
    """Values of the log that a learner prints; none when it does not answer."""
    result = cluster.paxos("log", "--learners", cluster.url(learner), "--timeout", timeout)
    if result.code:
        return None
    return [line.partition("  ")[2] for line in result.out.splitlines()]


@drill(
    "put-back",
    "an acceptor is started on an old copy by mistake; then its right disk is put back: counted again",
    limit_round_s=120,
)
def put_back(trial):
    for number in range(trial.rounds):
        with Cluster(trial, proposers=1, learners=1, name=f"round{number}") as cluster:
            cluster.start()
            cluster["a1"].stop()
            copy, right, wrong = (cluster.directory / name for name in ("copy", "right", "wrong"))
            shutil.copytree(cluster.data("a1"), copy)
            cluster["a1"].start()
            for value in range(5):
                trial.right(cluster.put("key", f"value {value}").code == 0, f"put {value} of five")
            wait_until(
                "the acceptor catches up", lambda: cluster.metric("a1", "paxos_acceptor_chosen_to") >= 5, 20
            )
            cluster["a1"].stop()
            cluster.data("a1").rename(right)
            copy.rename(cluster.data("a1"))
            cluster["a1"].start()
            time.sleep(4)
            refused = [
                line
                for line in cluster["p1"].text().splitlines()
                if "older copy" in line or "lost its disk" in line or "refused" in line
            ]
            trial.right(
                bool(refused),
                f"the old copy is refused: {refused[-1][:250] if refused else 'nothing in the log'}",
            )
            cluster["a1"].stop()
            cluster.data("a1").rename(wrong)
            right.rename(cluster.data("a1"))
            for name in ("p1", "l1"):
                cluster[name].stop()
            for name in ("a1", "p1", "l1"):
                cluster[name].start()
            back = cluster.put("key", "the right disk is back", "15s")
            trial.right(back.code == 0, f"the right disk is back: {back}")
            time.sleep(1)
            cluster["a2"].kill()
            alone = cluster.put("key", "without a2", "15s")
            trial.right(alone.code == 0, f"a1 and a3 alone: {alone}")


@drill(
    "frozen-leader",
    "a leader is frozen while another leads; then it reaches only an acceptor that started on an old copy",
    limit_round_s=120,
)
def frozen_leader(trial):
    for number in range(trial.rounds):
        with Cluster(trial, learners=1, machines=True, name=f"round{number}") as cluster:
            cluster.start()
            net, old = cluster.network, cluster.leader()
            new = next(name for name in cluster.proposers if name != old)
            for value in range(3):
                trial.right(cluster.put("key", f"value {value}").code == 0, f"put {value} of three")

            # The copy holds all that the old leader heard of the third acceptor.
            net[old].cut(net["a3"])
            cluster["a3"].stop()
            copy, right = cluster.directory / "copy", cluster.directory / "right"
            shutil.copytree(cluster.data("a3"), copy)
            cluster["a3"].start()

            # One acceptor votes for the frozen leader's value.
            net[old].cut(net["a2"])
            voted = cluster.metric("a1", "paxos_acceptor_voted_to")
            late = cluster.begin(
                "propose", "of the old leader", "--proposers", cluster.url(old), "--timeout", "40s"
            )
            wait_until("a1 votes", lambda: cluster.metric("a1", "paxos_acceptor_voted_to") > voted, 2)
            cluster[old].pause()
            net[old].cut(net["a1"], net[new], net["l1"])

            # The others choose another value in the same slot, and the first acceptor learns of it.
            net[new].cut(net["a1"])
            wait_until("the other leads", lambda: cluster.metric(new, "paxos_proposer_leading") == 1, 20)
            chosen = cluster.paxos("propose", "of the new leader", "--proposers", cluster.url(new))
            trial.right(chosen.code == 0, f"the new leader: {chosen}")
            net[new].heal()
            settled = cluster.paxos("propose", "settled", "--proposers", cluster.url(new))
            trial.right(settled.code == 0, f"with all acceptors: {settled}")
            slot = int(chosen.out.partition(".")[0])
            wait_until("a1 learns", lambda: cluster.metric("a1", "paxos_acceptor_chosen_to") > slot, 20)
            time.sleep(2)  # A leader passes on at most once a second what it heard of acceptors.
            passed_on = cluster.paxos("propose", "passed on", "--proposers", cluster.url(new))
            trial.right(passed_on.code == 0, f"the others remember more than the copy holds: {passed_on}")

            # The third acceptor starts on the copy, and is all that the old leader reaches.
            cluster["a3"].stop()
            cluster.data("a3").rename(right)
            copy.rename(cluster.data("a3"))
            net[new].cut(net["a3"])
            net[old].join(net["a3"])
            cluster["a3"].start()
            late.kill()
            cluster[old].resume()
            wait_until("the old leader answers", lambda: cluster.probe(old, "livez") == 200, 10)
            counted = 0
            end = time.monotonic() + 5
            while time.monotonic() < end:
                counted = max(counted, cluster.metric(old, "paxos_proposer_chosen_to"))
                time.sleep(0.05)
            trial.right(
                counted <= slot,
                f"the old leader counts no vote of the old copy: to it all below {counted:.0f} is chosen, "
                f"and it proposed another value in slot {slot}",
            )
            net.heal()
            wait_until("the others refuse the copy", lambda: "older copy" in cluster[new].text(), 30)
            values = log_lines(cluster, "l1") or []
            trial.right("of the new leader" in values, "what was acknowledged is in the log")
            cluster.all_run()


class Stopped:
    """A stopped cluster whose last writes are on the first two acceptors alone, and a copy of its files."""

    def __init__(self, trial, cluster):
        self.trial, self.cluster = trial, cluster
        cluster.start()
        self.acknowledged = append(cluster, 0, WRITES[0])
        cluster["a3"].kill()
        self.acknowledged += append(cluster, WRITES[0], WRITES[1])
        self.kill_all()
        self.copies = cluster.directory / "copies"
        for name in cluster.acceptors:
            shutil.copytree(cluster.data(name), self.copies / name)
        trial.say(f"{len(self.acknowledged)} of {sum(WRITES)} lines are acknowledged")

    def kill_all(self):
        for name in self.cluster.names():
            if self.cluster[name].runs():
                self.cluster[name].kill()

    def restore(self):
        """Everything as it was when all was killed; the learner is new."""
        for name in self.cluster.names():
            shutil.rmtree(self.cluster.data(name), ignore_errors=True)
        for name in self.cluster.acceptors:
            shutil.copytree(self.copies / name, self.cluster.data(name))


def live_bytes(content):
    """Length of the part of a write-ahead log that counts: SQLite writes over old frames from the beginning."""
    page, salts = int.from_bytes(content[8:12], "big"), content[16:24]
    end = WAL_HEADER_BYTES
    while content[end + 8 : end + 16] == salts:
        end += FRAME_HEADER_BYTES + page
    return min(end, len(content))


def damages():
    """Endless damages of a write-ahead log: each changes the file, and returns what it did."""

    def flip(path):
        share, bit = random.uniform(0.90, 0.98), random.randrange(8)
        content = bytearray(path.read_bytes())
        content[int(live_bytes(content) * share)] ^= 1 << bit
        path.write_bytes(content)
        return f"bit {bit} flips at {100 * share:.2f} % of the log"

    def cut(path):
        share = random.uniform(0.5, 0.98)
        content = path.read_bytes()
        path.write_bytes(content[: int(live_bytes(content) * share)])
        return f"the log ends at {100 * share:.2f} % of its length"

    def remove(path):
        path.unlink()
        return "the log is gone"

    while True:
        yield from (flip, flip, flip, cut, flip, flip, flip, remove, flip, flip, flip, cut)


@drill(
    "torn-log",
    "one acceptor's write-ahead log is damaged while everything is down: no acknowledged write is lost",
    rounds=12,
    limit_s=120,
    limit_round_s=60,
)
def torn_log(trial):
    with Cluster(trial, learners=1) as cluster:
        stopped = Stopped(trial, cluster)
        for number, damage in zip(range(trial.rounds), damages()):
            stopped.restore()
            what = f"{number + 1}: {damage(cluster.data('a1') / 'acceptor.db-wal')}"
            try:
                torn(trial, stopped, what)
            except GaveUp as reason:
                trial.right(False, f"{what}: {reason}")
            stopped.kill_all()


def torn(trial, stopped, what):
    """Starts everything but a2, and a2 later: everything acknowledged is there, or a1 ends with a clear text."""
    cluster, wanted = stopped.cluster, stopped.acknowledged
    for name in ("a1", "a3", "p1", "p2", "l1"):
        cluster[name].start()
    time.sleep(ALONE_S)
    if cluster["a1"].runs():
        found = log_lines(cluster, "l1", "2s")
        missing = "no answer" if found is None else len(set(wanted) - set(found))
        trial.right(missing in ("no answer", 0), f"{what}: a1 runs; without a2 the learner misses {missing}")
    else:
        line = cluster.last_line("a1")
        clear = cluster["a1"].child.returncode == EXIT_DISK and "acceptor.db" in line
        trial.right(clear, f"{what}: a1 ends with {cluster['a1'].child.returncode}: {line[:300]}")
    cluster["a2"].start()
    wait_until("a put succeeds with a2", lambda: cluster.put("after", "after", "5s").code == 0, 30)
    found = wait_until("the learner answers with a2", lambda: log_lines(cluster, "l1"), 30)
    missing = [line for line in wanted if line not in set(found)]
    trial.right(not missing, f"{what}: with a2 the log misses {len(missing)} of {len(wanted)}: {missing[:5]}")
    order = [line for line in found if line in set(wanted)]
    trial.right(order == wanted or bool(missing), f"{what}: the log has them in their order, each once")
    ended = [name for name in ("a2", "a3", "p1", "p2", "l1") if not cluster[name].runs()]
    trial.right(not ended, f"{what}: all others run; ended: {', '.join(ended) or 'none'}")


@drill(
    "repair",
    "many rows are damaged, each on one acceptor: repaired soon; one on all: a named end",
    limit_round_s=180,
)
def repair(trial):
    for number in range(trial.rounds):
        with Cluster(trial, name=f"round{number}") as cluster:
            cluster.start()
            written = append(cluster, 0, REPAIR_SLOTS)
            trial.say(f"{len(written)} lines written")
            stop_all(cluster)
            for place, name in enumerate(cluster.acceptors):
                damage_rows(cluster, name, f"slot % 3 = {place}")
            shutil.rmtree(cluster.data("l1"))
            begun = time.monotonic()
            for name in cluster.names():
                cluster[name].start()
            everything = lambda: set(written) <= set(log_lines(cluster, "l1", "1s") or [])
            wait_until("the new learner prints everything written", everything, 90)
            served = time.monotonic() - begun
            damaged = lambda: sum(
                cluster.metric(name, "paxos_acceptor_damaged_rows") for name in cluster.acceptors
            )
            wait_until(
                "no row is damaged",
                lambda: all(cluster.metrics(name) for name in cluster.acceptors) and damaged() == 0,
                90,
            )
            seconds = time.monotonic() - begun
            trial.right(
                seconds <= REPAIR_MAX_S,
                f"a new learner serves after {served:.2f} s, all rows are sound after {seconds:.2f} s, at most {REPAIR_MAX_S:.0f} s",
            )
            cluster.all_run("rows damaged on one acceptor each")
            beyond_repair(trial, cluster)


def beyond_repair(trial, cluster):
    """Damages one row on all acceptors: proposers end with 70 and name the slot."""
    stop_all(cluster)
    slot = REPAIR_SLOTS // 2
    for name in cluster.acceptors:
        damage_rows(cluster, name, f"slot = {slot}")
    for name in cluster.names():
        cluster[name].start()
    for name in cluster.proposers:
        try:
            code = cluster[name].child.wait(40)
        except subprocess.TimeoutExpired:
            code = "no end"
        text = cluster.last_line(name)
        trial.right(
            code == EXIT_FAULT and str(slot) in text,
            f"slot {slot} is damaged on all: {name} ends with {code}: {text[:300]}",
        )
    text, code = cluster.status()
    trial.right(code != 0, f"slot {slot} is damaged on all: `status` exits {code}")
    running = [name for name in cluster.acceptors if cluster[name].runs()]
    trial.right(len(running) == 3, f"slot {slot} is damaged on all: acceptors that run: {running}")


def stop_all(cluster):
    for name in [*cluster.proposers, *cluster.learners, *cluster.acceptors]:
        cluster[name].stop()


def damage_rows(cluster, name, where):
    database = sqlite3.connect(cluster.data(name) / "acceptor.db")
    with database:
        database.execute(f"update vote set checksum = checksum - 1 where {where}")
    database.close()


@drill(
    "runs",
    "an acceptor has 2,000 and 130,000 runs behind it: the cluster stays idle and takes writes",
    seconds=20,
    limit_s=120,
    limit_round_s=200,
)
def runs(trial):
    for number in range(trial.rounds):
        for rows in RUN_ROWS:
            with Cluster(trial, name=f"round{number}-{rows}") as cluster:
                cluster.start()
                cluster["a3"].stop()
                refused_starts(trial, cluster)
                add_runs(cluster, rows)
                cluster["a3"].start()
                wait_until("a3 answers", lambda: cluster.probe("a3", "readyz") == 200, 60)
                put = cluster.put("key", "value", "10s")
                trial.right(put.code == 0, f"{rows} runs: {put}")
                cluster["a2"].kill()
                put = cluster.put("key", "with a3", "10s")
                trial.right(put.code == 0, f"{rows} runs, a1 and a3 alone: {put}")
                cluster["a2"].start()
                wait_until("a2 answers", lambda: cluster.probe("a2", "readyz") == 200, 60)
                time.sleep(5)
                measure_idle(trial, cluster, trial.seconds)
                trial.say(f"{rows} runs: {count_runs(cluster)} rows are kept")
                cluster.all_run(f"{rows} runs")


def count_runs(cluster):
    database = sqlite3.connect(f"file:{cluster.data('a3')}/acceptor.db?mode=ro", uri=True)
    (count,) = database.execute("select count(*) from run").fetchone()
    database.close()
    return count


def refused_starts(trial, cluster):
    """Starts that are refused, because the port of the metrics is taken, leave no run."""
    before = count_runs(cluster)
    taken = f"127.0.0.1:{cluster.port('a1') + 1000}"
    command = [
        word if not word.endswith(f":{cluster.port('a3') + 1000}") else taken
        for word in cluster["a3"].command
    ]
    codes = {
        subprocess.run(command, env=cluster["a3"].environment, capture_output=True, timeout=30).returncode
        for _ in range(REFUSED_STARTS)
    }
    after = count_runs(cluster)
    trial.right(
        0 not in codes and after == before,
        f"{REFUSED_STARTS} refused starts (exit {codes}) leave {after - before} runs",
    )


def add_runs(cluster, rows):
    database = sqlite3.connect(cluster.data("a3") / "acceptor.db")
    with database:
        (lowest,) = database.execute("select min(position) from run").fetchone()
        older = ((lowest - 1 - place, random.getrandbits(63)) for place in range(rows))
        database.executemany("insert into run values (?, ?, 0)", older)
    database.close()
