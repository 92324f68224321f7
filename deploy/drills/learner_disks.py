"""A drill of a learner whose disk is full: while it writes, at its start, and while it installs a snapshot."""

import subprocess
import time

from catalogue import drill
from cluster import Cluster
from disks_fail import fill, space
from network import command
from trial import wait_until
from trimming import MIB, READ_BY_S, Load, first_read, judge_digests, retaining, trimmed_to
from writer import Writer

DISK_MIB = 256
FULL = "no space is left on the disk"
INSTALL_FULL = "too little space on the disk"


def wait_for_log(cluster, name, start, text, patience_s=60):
    wait_until(f"the log of {name} says: {text}", lambda: text in cluster[name].text(start), patience_s, 0.2)


def log_end(cluster, name):
    return cluster[name].log.stat().st_size


def free(cluster, name):
    (cluster.data(name) / "filling").unlink()


def full_while_writing(trial, cluster):
    """The learner refuses reads, and says why; the other learner and all writes go on."""
    start = log_end(cluster, "l1")
    with Load(cluster, 120):
        fill(cluster, "l1")
        wait_for_log(cluster, "l1", start, FULL, 90)
    trial.say(f"l1 has {space(cluster, 'l1') / MIB:.1f} MiB free")
    trial.right(cluster.probe("l1", "readyz") == 503, "a learner with a full disk is not ready")
    findings = [finding for finding in cluster.findings() if cluster.url("l1") in finding]
    trial.right(any("space" in finding for finding in findings), f"`status` names the disk of l1: {findings}")
    other = cluster.get("settled", "l2")
    trial.right(other.code == 0, f"the other learner answers: {other}")


def full_at_start(trial, cluster):
    """A learner that is killed with a full disk waits at its start, or serves, and then has the same state."""
    cluster["l1"].kill()
    cluster["l1"].start()
    time.sleep(5)
    trial.right(cluster["l1"].runs(), "a learner that starts on a full disk does not end")
    free(cluster, "l1")
    freed = time.monotonic()
    wait_until("l1 answers", lambda: cluster.get("settled", "l1").code == 0, 60)
    trial.say(f"l1 answers {time.monotonic() - freed:.1f} s after space is free")
    judge_digests(trial, cluster, 2)


def full_while_installing(trial, cluster):
    """A new learner without space for a snapshot says so, shows no state, and goes on by itself when there is space."""
    cluster["l1"].stop()
    for path in cluster.data("l1").iterdir():
        path.unlink()
    # Registers that make a snapshot larger than the space left.
    for number in range(24):
        wait_until("a put of 1 MiB succeeds", lambda: cluster.put(f"large-{number}", bytes(MIB)).code == 0, 30)
    before = max(trimmed_to(cluster, name) for name in cluster.acceptors)
    with Load(cluster, 120):
        wait_until(
            "all acceptors trim",
            lambda: min(trimmed_to(cluster, name) for name in cluster.acceptors) > before,
            90,
            1,
        )
    fill(cluster, "l1")
    start = log_end(cluster, "l1")
    cluster["l1"].start()
    wait_for_log(cluster, "l1", start, INSTALL_FULL)
    refused = cluster.get("settled", "l1", timeout="1s")
    trial.right(refused.code not in (0, 1), f"no read shows the state of a learner that installs: {refused}")
    trial.right(cluster["l1"].runs(), "a learner that cannot install does not end")
    left = sorted(path.name for path in cluster.data("l1").iterdir())
    trial.say(f"files of l1: {', '.join(left)}")
    free(cluster, "l1")
    first_read(trial, cluster, "l1", 2 * READ_BY_S)
    judge_digests(trial, cluster, 2)


@drill(
    "full-learner",
    "a learner's disk is full: while it writes, at its start, and while it installs a snapshot",
    limit_s=60,
    limit_round_s=420,
)
def full_learner(trial):
    for number in range(trial.rounds):
        with Cluster(trial, name=f"round{number}") as cluster:
            retaining(cluster, 4)
            data = cluster.data("l1")
            data.mkdir(mode=0o700)
            command("mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m,mode=700", "disk", str(data))
            try:
                cluster.start()
                mark = cluster.mark()
                with Writer(cluster, workers=4, every_s=0.2) as writer:
                    full_while_writing(trial, cluster)
                    full_at_start(trial, cluster)
                    full_while_installing(trial, cluster)
                writer.judge(trial)
                writer.judge_last(trial)
                cluster.quiet(mark, "a learner's disk is full")
                cluster.all_run()
            finally:
                cluster["l1"].kill()
                subprocess.run(["umount", "--lazy", str(data)], check=False)
