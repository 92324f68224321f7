"""Drills of disks that are full, stuck or locked by another process: the others go on, and `status` names the disk."""

import os
import sqlite3
import subprocess
import time

from catalogue import drill
from cluster import Cluster
from disks import Disks
from network import command
from slowness import run_bench
from trial import wait_until
from writer import Writer

DISK_MIB = 160
LOCKED_S = 10
STUCK_S = 40
CHALLENGE_MAX_S = 15


def named(trial, cluster, name, what):
    """Judges that `status` has a finding about an acceptor."""
    findings = cluster.findings()
    found = [finding for finding in findings if cluster.url(name) in finding]
    trial.right(bool(found), f"{what}: `status` names {name}: {found or findings}")


def not_healthy(trial, cluster, what):
    text, code = cluster.status()
    healthy = "\nhealthy" in text
    trial.right(not healthy, f"{what}: `status` does not say healthy (exit {code})")
    if healthy:
        trial.say("    " + text.strip().splitlines()[-1])


@drill(
    "full-disk", "one acceptor's disk is full, then two: named, and going on by themselves", limit_round_s=150
)
def full_disk(trial):
    for number in range(trial.rounds):
        with Cluster(trial, name=f"round{number}") as cluster:
            for name in ("a1", "a2"):
                cluster.data(name).mkdir(mode=0o700)
                command(
                    "mount",
                    "-t",
                    "tmpfs",
                    "-o",
                    f"size={DISK_MIB}m,mode=700",
                    "disk",
                    str(cluster.data(name)),
                )
            try:
                full_disks(trial, cluster)
            finally:
                for name in ("a1", "a2"):
                    cluster[name].kill()
                    subprocess.run(["umount", "--lazy", str(cluster.data(name))], check=False)


def fill(cluster, name):
    """Leaves 8 MiB of space."""
    with open(cluster.data(name) / "filling", "wb") as file:
        block = bytes(1024 * 1024)
        while space(cluster, name) > 8 * 1024 * 1024:
            file.write(block)
            file.flush()


def space(cluster, name):
    found = os.statvfs(cluster.data(name))
    return found.f_bavail * found.f_frsize


def full_disks(trial, cluster):
    cluster.start()
    mark = cluster.mark()
    fill(cluster, "a1")
    run_bench(trial, cluster, "one disk is full", "--in-flight", 16, "--duration", "5s")
    named(trial, cluster, "a1", "one disk is full")
    cluster.quiet(mark, "one disk is full")
    fill(cluster, "a2")
    time.sleep(3)
    named(trial, cluster, "a2", "two disks are full")
    text, code = cluster.status()
    trial.right(code == 69, f"two disks are full: `status` exits {code}, right is 69")
    first = cluster.put("full", "yes", "3s")
    trial.right(first.code == 69, f"two disks are full: a put does not succeed: {first}")
    (cluster.data("a1") / "filling").unlink()
    freed = time.monotonic()
    wait_until("a put succeeds after space is free", lambda: cluster.put("full", "no", "2s").code == 0, 30)
    trial.say(f"a put succeeds {time.monotonic() - freed:.1f} s after space is free")
    (cluster.data("a2") / "filling").unlink()
    # Slow commits of the last minute remain a finding on a busy machine.
    wait_until(
        "`status` names no full disk",
        lambda: not any("space" in finding for finding in cluster.findings()),
        30,
    )
    cluster.quiet(mark, "full disks, and space again")
    cluster.all_run()


@drill(
    "stuck-disk",
    "one acceptor's disk is stuck permanently: no campaign, nothing fails, and `status` names the disk",
    limit_round_s=120,
)
def stuck_disk(trial):
    for number in range(trial.rounds):
        disks = Disks(trial)
        with Cluster(trial, disks=disks, name=f"round{number}") as cluster:
            cluster.start()
            mark = cluster.mark()
            disks.hold(["a1"])
            run_bench(trial, cluster, "one disk is stuck", "--in-flight", 64, "--duration", "20s")
            named(trial, cluster, "a1", "one disk is stuck")
            not_healthy(trial, cluster, "one disk is stuck")
            cluster.quiet(mark, "one disk is stuck")
            cluster.all_run("one disk is stuck")


@drill(
    "stuck-quorum",
    "a quorum's disks are stuck for a time; then a leader reaches only stuck disks: replaced once",
    limit_round_s=240,
)
def stuck_quorum(trial):
    for number in range(trial.rounds):
        disks = Disks(trial)
        with Cluster(trial, acceptors=5, disks=disks, name=f"round{number}-all") as cluster:
            cluster.start()
            stuck_majority(trial, cluster, disks)
            disks.free(cluster.acceptors)
        with Cluster(trial, acceptors=5, disks=disks, machines=True, name=f"round{number}-leader") as cluster:
            cluster.start()
            stuck_leader(trial, cluster, disks)
            disks.free(cluster.acceptors)


def stuck_majority(trial, cluster, disks):
    stuck = ["a1", "a2", "a3"]
    mark = cluster.mark()
    with Writer(cluster, timeout="90s", every_s=0.05) as writer:
        time.sleep(1)
        disks.hold(stuck)
        held = time.monotonic()
        time.sleep(STUCK_S)
        for name in stuck:
            named(trial, cluster, name, f"3 of 5 disks are stuck for {STUCK_S} s")
        disks.free(stuck)
        freed = time.monotonic()
        success = writer.next_success(held, STUCK_S + 30)
        if trial.right(success is not None, "a put that waited succeeds"):
            trial.say(f"a put succeeds {1000 * (success - freed):.0f} ms after the disks work again")
        time.sleep(1)
    writer.judge(trial)
    cluster.quiet(mark, f"3 of 5 disks are stuck for {STUCK_S} s")
    cluster.all_run()


def stuck_leader(trial, cluster, disks):
    """The leader reaches three acceptors, two of which are stuck; the standby reaches all."""
    leader, network = cluster.leader(), cluster.network
    mark = cluster.mark()
    with Writer(cluster, timeout="60s") as writer:
        time.sleep(1)
        begun = time.monotonic()
        disks.hold(["a1", "a2"])
        network[leader].cut(network["a4"], network["a5"])
        success = writer.next_success(begun, 40)
        time.sleep(2)
        campaigns = cluster.campaigns(mark)
        seconds = success - begun if success else float("inf")
        trial.right(
            seconds <= CHALLENGE_MAX_S,
            f"a leader that reaches only stuck disks: next success after {seconds:.2f} s, at most {CHALLENGE_MAX_S} s",
        )
        trial.right(len(campaigns) == 1, f"one campaign replaces that leader: {len(campaigns)}")
        for line in campaigns:
            trial.say(f"    {line[:300]}")
        disks.free(["a1", "a2"])
        network.heal()
        time.sleep(3)
    writer.judge(trial)
    trial.right(
        len(cluster.campaigns(mark)) == len(campaigns), "no campaign follows when everything works again"
    )
    cluster.all_run()


class Lock:
    """Another process's write lock on a database, while the `with` block runs."""

    def __init__(self, cluster, name):
        role = "acceptor.db" if name.startswith("a") else "learner.db"
        found = list(cluster.data(name).glob("*.db"))
        path = cluster.data(name) / role if (cluster.data(name) / role).exists() else found[0]
        self.database = sqlite3.connect(path, isolation_level=None, timeout=30)

    def __enter__(self):
        self.database.execute("begin immediate")
        return self

    def __exit__(self, *_):
        self.database.execute("rollback")
        self.database.close()


@drill(
    "foreign-lock",
    "another process locks the file of a role for 10 s: the role stands aside, and `status` says so",
    limit_round_s=150,
)
def foreign_lock(trial):
    for number in range(trial.rounds):
        with Cluster(trial, name=f"round{number}") as cluster:
            cluster.start()
            mark = cluster.mark()
            one_lock(trial, cluster)
            cluster.quiet(mark, "one acceptor is locked")
            two_locks(trial, cluster)
            learner_lock(trial, cluster)
            cluster.all_run()


def says_lock(trial, cluster, name):
    lines = [line for line in cluster[name].text().splitlines() if "lock" in line and ".db" in line]
    trial.right(
        bool(lines), f"the log of {name} names the locked file: {lines[-1][:250] if lines else 'nothing'}"
    )


def one_lock(trial, cluster):
    with Lock(cluster, "a1"), Writer(cluster, timeout="20s", workers=8, every_s=0.06) as writer:
        time.sleep(LOCKED_S - 2)
        not_healthy(trial, cluster, "one acceptor is locked")
        named(trial, cluster, "a1", "one acceptor is locked")
        time.sleep(2)
    writer.judge(trial)
    says_lock(trial, cluster, "a1")
    cluster.all_run("one acceptor was locked")


def two_locks(trial, cluster):
    with Writer(cluster, timeout="30s", workers=8, every_s=0.06) as writer:
        with Lock(cluster, "a1"), Lock(cluster, "a2"):
            time.sleep(LOCKED_S - 2)
            text, code = cluster.status()
            trial.right(
                "\nhealthy" not in text,
                f"two acceptors are locked: `status` does not say healthy (exit {code})",
            )
            for name in ("a1", "a2"):
                named(trial, cluster, name, "two acceptors are locked")
            time.sleep(2)
        freed = time.monotonic()
        success = writer.next_success(freed)
        trial.right(
            success is not None and success - freed <= 10,
            f"puts go on {success - freed if success else 99:.2f} s after the locks end",
        )
    writer.judge(trial)
    cluster.all_run("two acceptors were locked")


def learner_lock(trial, cluster):
    with Lock(cluster, "l1"), Writer(cluster, timeout="20s", workers=8, every_s=0.06) as writer:
        time.sleep(LOCKED_S)
        cluster.all_run("a learner is locked")
    writer.judge(trial)
    wait_until("the learner answers again", lambda: cluster.get("settled", "l1").code == 0, 30)
