"""Drills of readers: linearizable reads never go back, and readers do not let files grow."""

import json
import os
import sqlite3
import subprocess
import time

from catalogue import drill
from cluster import Cluster
from damage import append, log_lines, stop_all
from disks import Disks
from trial import wait_until

VALUE_BYTES = 256 * 1024
HELD_S = 8.0
READERS = 8
MIB = 1024 * 1024
# Upper bounds of a learner's write-ahead log under readers, and of any log after a quiet minute.
WAL_BUSY_MAX = 20 * MIB
WAL_QUIET_MAX = 6 * MIB
FOREIGN_READER_S = 20


@drill(
    "read-in-turn", "reads in turn at two learners while a checkpoint hangs: never back", limit_round_s=120
)
def read_in_turn(trial):
    for number in range(trial.rounds):
        disks = Disks(trial)
        (disks.directory / "a1.held").unlink(missing_ok=True)
        with Cluster(trial, proposers=1, machines=True, disks=disks, name=f"round{number}") as cluster:
            cluster.start([name for name in cluster.names() if name != "l2"])
            hang_and_read(trial, cluster, disks)


def hang_and_read(trial, cluster, disks):
    network = cluster.network
    network["p1"].cut(network["a3"])
    disks.hold(["a1"], "/acceptor.db")
    writer = None
    written = 0
    while not disks.held("a1"):
        # The write during which the disk stops succeeds once the disk works again.
        writer = cluster.begin("put", "key", "-", "--timeout", "60s", stdin=subprocess.PIPE)
        writer.stdin.write(os.urandom(VALUE_BYTES))
        writer.stdin.close()
        wait_until(
            "a put succeeds, or the disk hangs",
            lambda: writer.poll() is not None or disks.held("a1"),
            pause_s=0.01,
        )
        written += 1
    if writer.poll() is not None:
        writer = cluster.begin("put", "key", "later", "--timeout", "60s")
    trial.say(f"the checkpoint of a1 hangs after {written} writes")
    voted = lambda name: cluster.metric(name, "paxos_acceptor_voted_to")
    wait_until("a1 is behind", lambda: voted("a2") > voted("a1"))
    network["l1"].cut(network["a2"])
    cluster["l2"].start()
    wait_until("the new learner learns", lambda: cluster.metric("l2", "paxos_learner_applied_to") > 0)
    network["l2"].cut(network["a3"])
    seen = []
    begun = time.monotonic()
    while time.monotonic() < begun + HELD_S:
        for learner in ("l2", "l1"):
            version = read_version(cluster, learner)
            if version:
                seen.append((learner, version))
    back = [(before, after) for before, after in zip(seen, seen[1:]) if after[1] < before[1]]
    answers = {learner: sum(1 for name, _ in seen if name == learner) for learner in ("l1", "l2")}
    trial.right(not back, f"{len(seen)} reads in turn ({answers}), {len(back)} went back: {back[:3]}")
    trial.right(answers["l1"] > 0, "the old learner answers while the checkpoint hangs")
    trial.right(writer.poll() is None, "the disk hung until now")
    disks.free(["a1"])
    network.heal()
    writer.wait(60)
    for learner in ("l2", "l1"):
        last = wait_until(f"{learner} answers", lambda: read_version(cluster, learner), 30)
        trial.right(
            all(last >= version for _, version in seen),
            f"{learner} reads {last} afterwards, nothing older than before",
        )


def read_version(cluster, learner):
    """The version that one learner answers with, as numbers; none when it does not answer in time."""
    result = cluster.paxos(
        "get", "key", "--output", "json", "--learners", cluster.url(learner), "--timeout", "500ms"
    )
    if result.code:
        return None
    version = json.loads(result.out)["version"]
    if isinstance(version, dict):
        return int(version.get("slot", 0)), int(version.get("offset", 0))
    return tuple(map(int, str(version).split(".")))


@drill(
    "log-end",
    "`paxos log` right after the leader is killed, and after a restart of everything: everything acknowledged",
    rounds=5,
    limit_round_s=60,
)
def log_end(trial):
    with Cluster(trial) as cluster:
        cluster.start()
        written = append(cluster, 0, 100)
        for number in range(trial.rounds):
            written += append(cluster, 1000 + number, 1)
            leader = cluster.leader()
            cluster[leader].kill()
            judge_log(trial, cluster, written, f"{number + 1}: right after the leader is killed")
            cluster[leader].start()
            cluster.settle()
            stop_all(cluster)
            for name in cluster.names():
                cluster[name].start()
            judge_log(trial, cluster, written, f"{number + 1}: right after a restart of everything")
            cluster.settle()


def judge_log(trial, cluster, written, what):
    """Judges that the first answer of `paxos log` has everything acknowledged."""
    found = wait_until("`paxos log` answers", lambda: log_lines(cluster, "l1", "5s"), 60)
    missing = [line for line in written if line not in set(found)]
    trial.right(
        not missing,
        f"{what}: `paxos log` misses {len(missing)} of {len(written)} acknowledged lines: {missing[:3]}",
    )


def wal_bytes(cluster, name):
    """Length of a role's write-ahead log."""
    return sum(file.stat().st_size for file in cluster.data(name).glob("*.db-wal"))


@drill(
    "readers",
    "eight readers of the log, and a foreign reader of a file: write-ahead logs stay small or shrink",
    seconds=15,
    limit_s=60,
    limit_round_s=240,
)
def readers(trial):
    for number in range(trial.rounds):
        with Cluster(trial, name=f"round{number}") as cluster:
            cluster.start()
            read_much(trial, cluster)
            read_from_outside(trial, cluster)
            code = cluster["l1"].stop()
            trial.right(
                code == 0 and wal_bytes(cluster, "l1") <= MIB,
                f"after a clean stop (exit {code}) the learner's log has {wal_bytes(cluster, 'l1')} bytes",
            )


def read_much(trial, cluster):
    """Eight loops of `paxos log` at one learner, under load."""
    binary, url = cluster.trial.binaries / "paxos", cluster.url("l1")
    loop = f"while :; do '{binary}' log --learners {url} >/dev/null 2>&1; done"
    loops = [
        subprocess.Popen(["sh", "-c", loop], env=cluster.environment(), start_new_session=True)
        for _ in range(READERS)
    ]
    bench = cluster.begin(
        "bench", "--value-bytes", 1024, "--duration", f"{trial.seconds}s", "--timeout", "60s"
    )
    longest = {"l1": 0, "l2": 0}
    while bench.poll() is None:
        for name in longest:
            longest[name] = max(longest[name], wal_bytes(cluster, name))
        time.sleep(0.1)
    trial.say(bench.communicate()[0].decode().strip().replace("\n", " | "))
    for loop in loops:
        os.killpg(loop.pid, 9)
        loop.wait()
    for name, length in longest.items():
        trial.right(
            length <= WAL_BUSY_MAX,
            f"the log of {name} had at most {length / MIB:.1f} MiB under {READERS} readers, right is {WAL_BUSY_MAX / MIB:.0f} MiB at most",
        )
    shrinks(trial, cluster, "l1")


def read_from_outside(trial, cluster):
    """Another process reads an acceptor's file for a time."""
    database = sqlite3.connect(
        f"file:{cluster.data('a1')}/acceptor.db?mode=ro", uri=True, isolation_level=None
    )
    database.execute("begin")
    database.execute("select count(*) from vote").fetchone()
    numbers, result = cluster.bench("--value-bytes", 1024, "--duration", f"{FOREIGN_READER_S}s")
    trial.right(
        result.code == 0,
        f"bench while another process reads a file: exit {result.code}, {numbers and numbers['proposals']} proposals",
    )
    trial.say(
        f"the log of a1 has {wal_bytes(cluster, 'a1') / MIB:.1f} MiB while another process reads its file"
    )
    database.execute("rollback")
    database.close()
    shrinks(trial, cluster, "a1")
    cluster.all_run()


def shrinks(trial, cluster, name):
    begun = time.monotonic()
    before = wal_bytes(cluster, name)
    while wal_bytes(cluster, name) > WAL_QUIET_MAX and time.monotonic() < begun + 60:
        time.sleep(0.5)
    after = wal_bytes(cluster, name)
    seconds = time.monotonic() - begun
    trial.right(
        after <= WAL_QUIET_MAX,
        f"idle: the log of {name} goes from {before / MIB:.1f} to {after / MIB:.1f} MiB within {seconds:.0f} s, right is {WAL_QUIET_MAX / MIB:.0f} MiB at most within 60 s",
    )
