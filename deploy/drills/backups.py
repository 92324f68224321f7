"""A drill of backups and restores: everything is killed at random moments, and nothing acknowledged is lost."""

import random
import time

from catalogue import drill
from cluster import Cluster
from trial import wait_until
from trimming import Load, judge_digests, retaining
from writer import Writer

# Longest time from the begin of a command to its kill.
KILLED_BY_S = 1.5
# Kills of `paxos restore` in a round, each with the kill of an acceptor.
RESTORES_KILLED = 3
# First number of the roles of a restored cluster: the cluster before runs beside it.
RESTORED_FIRST = 11


def token(trial, cluster):
    """The fencing token of a short tenure; none when there is no tenure."""
    result = cluster.paxos(
        "elect", "job", "--as", "drill", "--timeout", "60s", "--", "sh", "-c", "echo $PAXOS_FENCING_TOKEN"
    )
    text = result.out.strip()
    if trial.right(result.code == 0 and text.isdigit(), f"a tenure gives a fencing token: {result}"):
        return int(text)
    return None


def kill_one(cluster, chance, names):
    """Kills a role, and starts it again after a moment."""
    name = chance.choice(names)
    cluster[name].kill()
    time.sleep(chance.uniform(0, 0.5))
    cluster[name].start()
    return name


def killed(cluster, chance, *arguments):
    """Begins a command, kills it at a random moment, and returns its exit code: negative after the kill."""
    child = cluster.begin(*arguments)
    time.sleep(chance.uniform(0, KILLED_BY_S))
    child.kill()
    child.communicate()
    return child.returncode


def back_up(trial, cluster, chance, file):
    """Kills a role and the first backup; then makes a backup."""
    code = killed(cluster, chance, "backup", file, "--timeout", "60s")
    if file.exists():
        checked = cluster.paxos("backup", "--check", file)
        trial.right(checked.code == 0, f"a killed backup (exit {code}) leaves a whole file or none: {checked}")
    child = cluster.begin("backup", file, "--timeout", "90s")
    name = kill_one(cluster, chance, cluster.names())
    out, error = child.communicate(timeout=120)
    text = (out + error).decode(errors="replace").strip()[-300:]
    trial.right(child.returncode == 0, f"a backup beside the kill of {name}: exit {child.returncode}: {text}")
    if name in cluster.acceptors:
        wait_until(f"{name} is ready", lambda: cluster.probe(name, "readyz") == 200, 30)
    return child.returncode == 0


def restore(trial, cluster, chance, file):
    """Restores into blank acceptors, while the command and acceptors are killed."""
    arguments = ("restore", file, "--acceptors", cluster.urls, "--timeout", "60s")
    codes = []
    for _ in range(RESTORES_KILLED):
        codes.append(killed(cluster, chance, *arguments))
        kill_one(cluster, chance, cluster.acceptors)
    result = cluster.paxos(*arguments)
    trial.right(result.code == 0, f"the restore, repeated after exits {codes}, is finished: {result}")
    again = cluster.paxos(*arguments)
    trial.right(again.code == 0, f"once more, nothing is left to do: {again}")


def serve(trial, cluster, chance, writer, numbers):
    """Starts the restored cluster, and judges what it holds, while its roles are killed."""
    cluster.start(cluster.proposers + cluster.learners)
    writer.judge_last(trial, cluster, numbers)
    for name in cluster.names():
        kill_one(cluster, chance, [name])
        if name in cluster.acceptors:
            wait_until(f"{name} is ready", lambda: cluster.probe(name, "readyz") == 200, 30)
    cluster.settle()
    writer.judge_last(trial, cluster, numbers)
    judge_digests(trial, cluster, len(cluster.learners))


@drill(
    "backup-killed",
    "roles, backups and restores are killed; each backup is restored into a new cluster",
    rounds=10,
    limit_s=180,
    limit_round_s=120,
)
def backup_killed(trial):
    chance = random.Random(trial.rounds)
    with Cluster(trial, name="before") as cluster:
        retaining(cluster, 1)
        cluster.start()
        tokens = []
        with Load(cluster, 120 * trial.rounds), Writer(cluster, workers=4, every_s=0.2) as writer:
            for number in range(trial.rounds):
                time.sleep(chance.uniform(0.5, 2))
                before = token(trial, cluster)
                # Everything acknowledged before the backup begins.
                numbers = writer.acknowledged()
                file = trial.directory / f"backup-{number}.pxs"
                if not back_up(trial, cluster, chance, file):
                    continue
                with Cluster(trial, name=f"restored{number}", first=RESTORED_FIRST) as restored:
                    retaining(restored, 1)
                    for name in restored.acceptors:
                        restored[name].start()
                    restore(trial, restored, chance, file)
                    serve(trial, restored, chance, writer, numbers)
                    after = token(trial, restored)
                    restored.all_run(f"restored cluster {number}")
                if before is not None and after is not None:
                    trial.right(before < after, f"the token grows by the restore: from {before} to {after}")
                    tokens.append(after)
                file.unlink()
        trial.right(tokens == sorted(set(tokens)), f"the tokens of the restored clusters only grow: {tokens}")
        writer.judge(trial)
        writer.judge_last(trial)
        judge_digests(trial, cluster, len(cluster.learners))
        cluster.all_run()
