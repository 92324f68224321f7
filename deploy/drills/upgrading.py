"""A drill of an upgrade: processes of the previous release and of this release together, and then a change of members, while
clients write."""

import copy
import time

from catalogue import drill
from changing import all_vote, begin_change, join, members, retire
from cluster import Cluster
from damage import append, log_lines
from trial import Skipped, wait_until
from trimming import Load, chosen_to, judge_digests, retaining, trimmed_to
from writer import Writer

LINES = 200
# Between two restarts: so long, the old and the new processes work together.
PAUSE_S = 3.0
TRIMMED_BY_S = 120


def with_commands(cluster, binaries):
    """The same cluster, for commands of other binaries."""
    other = copy.copy(cluster)
    other.binaries = binaries
    return other


def upgrade(trial, cluster, name, is_killed):
    """Ends a process of the previous release, and starts the process of this release on the same directory."""
    trial.say(f"{name} is upgraded, after {'SIGKILL' if is_killed else 'SIGTERM'}")
    if is_killed:
        cluster[name].kill()
    else:
        code = cluster[name].stop()
        trial.right(code == 0, f"{name} of the previous release stops: exit {code}")
    if name in cluster.acceptors:
        retaining(cluster, 1, [name])
    else:
        cluster.define(name)
    cluster[name].start()
    wait_until(f"{name} is ready", lambda: cluster.probe(name, "readyz") == 200, 60)
    time.sleep(PAUSE_S)


@drill(
    "upgrade",
    "a cluster of the previous release (--old) is upgraded process by process, and changes a member, while clients write",
    limit_round_s=600,
)
def upgrade_all(trial):
    if trial.old is None:
        raise Skipped("--old names no binaries of the previous release")
    for number in range(trial.rounds):
        with Cluster(trial, name=f"round{number}") as cluster:
            cluster.binaries = trial.old
            for name in cluster.names():
                cluster.define(name)
            cluster.start()
            before = append(cluster, 0, LINES)
            trial.right(len(before) == LINES, f"{len(before)} of {LINES} lines are acknowledged by the previous release")
            old, cluster.binaries = with_commands(cluster, trial.old), trial.binaries
            with Writer(old, workers=4, every_s=0.1, name="old") as old_writer:
                with Writer(cluster, workers=4, every_s=0.1, name="new") as new_writer:
                    new = roll(trial, cluster, old, before)
                    replace_first(trial, cluster, new)
                    for name in cluster.names():
                        trial.right(
                            str(trial.binaries) in cluster[name].command[0], f"{name} is of this release at the end"
                        )
            for writer in (old_writer, new_writer):
                writer.judge(trial)
                writer.judge_last(trial)
            judge_digests(trial, cluster, len(cluster.learners))
            cluster.all_run()


def roll(trial, cluster, old, before):
    """Upgrades the acceptors, the learners and the proposers, one at a time."""
    with Load(cluster, 240, "--in-flight", "8"):
        for place, name in enumerate(cluster.acceptors):
            upgrade(trial, cluster, name, is_killed=place % 2 == 1)
            for reader in (cluster, old):
                found = wait_until("a learner prints the log", lambda: log_lines(reader, "l1"), 60)
                if any(trimmed_to(cluster, acceptor) > 0 for acceptor in cluster.acceptors):
                    trial.say(f"{name}: the log is trimmed, and is not compared")
                    continue
                missing = [line for line in before if line not in set(found)]
                trial.right(not missing, f"{name}: the log misses {len(missing)} of {len(before)} lines: {missing[:3]}")
        for name in cluster.acceptors:
            # Acceptors trim beside a previous release that knows trims, and not beside an older one.
            trial.say(f"{name}, beside processes of the previous release, has trimmed below slot {trimmed_to(cluster, name)}")
        *others, last = cluster.learners + cluster.proposers
        for place, name in enumerate(others):
            upgrade(trial, cluster, name, is_killed=place % 2 == 1)
        new = refuse_change(trial, cluster, last)
        upgrade(trial, cluster, last, is_killed=True)
        trimmed = lambda: all(trimmed_to(cluster, name) > 0 for name in cluster.acceptors)
        wait_until("all acceptors trim after the upgrade", trimmed, TRIMMED_BY_S, 1)
        for name in cluster.acceptors:
            trial.say(f"{name} has trimmed below slot {trimmed_to(cluster, name)} of {chosen_to(cluster, name)}")
    return new


def refuse_change(trial, cluster, older):
    """A change of members beside one process of the previous release; returns the acceptor that was to join."""
    new = join(cluster, flags=("--retain-bytes", "1MiB"))
    # The acceptor stands outside, and no process has its address in a list.
    cluster.acceptors.remove(new)
    before = all_vote(cluster)
    change = begin_change(cluster, ("replace", "a1", "--with", cluster.url(new)), before)
    code = change.wait()
    trial.right(code == 1, f"beside {older} of the previous release a change is refused: {change}")
    found = all_vote(cluster)
    trial.right(found["era"] == before["era"], f"the era is still {found['era']}")
    return new


def replace_first(trial, cluster, new):
    """The first change of members; clients of the previous release know the earlier addresses alone."""
    cluster.acceptors.append(new)
    before = all_vote(cluster)
    change = begin_change(cluster, ("replace", "a1", "--with", cluster.url(new)), before)
    code = change.wait()
    wanted = sorted({*cluster.acceptors} - {"a1"})
    found = all_vote(cluster)
    trial.right(code == 0 and members(cluster, found) == wanted, f"era {found['era']}: {', '.join(wanted)}; {change}")
    cluster.relist(wanted)
    retire(trial, cluster, "a1")
    time.sleep(PAUSE_S)
