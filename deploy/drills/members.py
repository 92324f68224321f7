"""Drills of changes of members: every acceptor replaced under load, with leaders killed in each change."""

import random
import time

from catalogue import drill
from changing import (
    all_vote,
    begin_change,
    join,
    look,
    lose,
    members,
    needs_changes,
    repeat_until_made,
    retire,
)
from cluster import Cluster
from history import Clients
from trial import median, summary, wait_until
from trimming import add_learner, chosen_to, first_read, judge_digests, write_registers

# Upper bound of the median of the longest silences of clients around a change without faults, in milliseconds.
GAP_MS_MAX = 300
# Silences count from the begin of a change to this many seconds after its end.
AFTER_S = 1.0
# Longest delay from a stage to the kill of the leader.
KILL_DELAY_S = 0.02
# The leader is killed at these stages in turn; *asked*: before the first stage is printed.
KILLED_AT = ("deciding", "copying", "switching", "asked", "deciding")
# Bytes of the log before the first change, so that a copy takes some time.
FILLING = ("--value-bytes", "4096", "--in-flight", "16", "--duration", "5s")


class LeaderKill:
    """Kills the leader once, at a stage of a change or a moment after the begin of the change."""

    def __init__(self, cluster, stage, chance):
        self.cluster, self.stage = cluster, stage
        self.leader = cluster.leader()
        self.delay_s = chance.uniform(0, KILL_DELAY_S)
        self.is_done = False

    def on_stage(self, stage):
        if stage == self.stage:
            time.sleep(self.delay_s)
            self.kill()

    def kill(self):
        if not self.is_done:
            self.is_done = True
            self.cluster[self.leader].kill()

    def finish(self):
        """Starts the killed leader again; a leader that was not killed, because no such stage was seen, stays."""
        if self.is_done:
            self.cluster[self.leader].start()
        return f"{self.leader} killed at {self.stage}" if self.is_done else f"no stage {self.stage}: no kill"


class Replacing:
    """One pass of changes, and what they cost."""

    def __init__(self, trial, cluster, clients, chance):
        self.trial, self.cluster, self.clients, self.chance = trial, cluster, clients, chance
        # Longest silence of clients around each change, in milliseconds, without and with faults.
        self.gaps = {False: [], True: []}
        # Shown by the command: from the end of the old era to the end of the change.
        self.waits = []
        self.changes = self.kills = 0

    def change(self, is_faulty, wanted, *arguments, is_whole=True):
        """Makes one change; with faults, the leader is killed in its middle. Judges what stands afterwards."""
        trial, cluster = self.trial, self.cluster
        before = all_vote(cluster) if is_whole else wait_until("`paxos member list` answers", lambda: look(cluster))
        kill = LeaderKill(cluster, KILLED_AT[self.changes % len(KILLED_AT)], self.chance) if is_faulty else None
        self.changes += 1
        begun = time.monotonic()
        change = begin_change(cluster, arguments, before, on_stage=kill.on_stage if kill else lambda stage: None)
        if kill and kill.stage == "asked":
            time.sleep(2 * kill.delay_s)
            kill.kill()
        change.wait()
        runs = repeat_until_made(trial, cluster, change, wanted)
        ended = time.monotonic()
        time.sleep(AFTER_S)
        gap = 1000 * self.clients.longest_silence(begun, ended + AFTER_S)
        self.gaps[is_faulty].append(gap)
        moments = dict(change.stages)
        if not is_faulty and "deciding" in moments and "done" in moments:
            self.waits.append(1000 * (moments["done"] - moments["deciding"]))
        how = ""
        if kill:
            self.kills += kill.is_done
            how = f"; {kill.finish()}"
        trial.right(len(runs) == 1, f"{change}{how}; longest silence {gap:.0f} ms; runs {len(runs)}")
        for run in runs[1:]:
            trial.say(f"    again: {run}")
        found = all_vote(cluster)
        trial.right(
            int(found["era"]) == int(before["era"]) + 1 and members(cluster, found) == wanted,
            f"era {found['era']} has the members {', '.join(wanted)}",
        )
        cluster.relist(wanted)

    def present(self):
        return members(self.cluster, all_vote(self.cluster))

    def replace_each(self, is_faulty):
        """Replaces each member by a new acceptor; the removed one is stopped."""
        for name in self.present():
            new = join(self.cluster)
            wanted = sorted({*self.present(), new} - {name})
            self.change(is_faulty, wanted, "replace", name, "--with", self.cluster.url(new))
            retire(self.trial, self.cluster, name)

    def lose_one(self, is_faulty):
        """A member loses its disk; a blank acceptor at the same address takes its place."""
        wanted = self.present()
        name = self.chance.choice(wanted)
        lose(self.cluster, name)
        remedy = f"paxos member replace {name}"
        listed = lambda: remedy in self.cluster.paxos("member", "list").out
        wait_until(f"`paxos member list` says: {remedy}", listed, 30, 0.2)
        self.change(is_faulty, wanted, "replace", name, is_whole=False)

    def grow(self, is_faulty):
        """Three to five in one change."""
        before, new = self.present(), [join(self.cluster), join(self.cluster)]
        self.change(is_faulty, sorted([*before, *new]), "add", *map(self.cluster.url, new))

    def shrink(self, is_faulty):
        """Five to three in one change; the removed acceptors are stopped."""
        before = self.present()
        removed = self.chance.sample(before, 2)
        self.change(is_faulty, sorted({*before} - {*removed}), "remove", *removed)
        for name in removed:
            retire(self.trial, self.cluster, name)

    def judge(self):
        trial = self.trial
        for is_faulty, gaps in self.gaps.items():
            trial.say(f"longest silences of clients {'with' if is_faulty else 'without'} faults: {summary(gaps)}")
        trial.say(f"from the first vote of a new member to the new era, as the command shows: {summary(self.waits)}")
        calm = median(self.gaps[False])
        trial.right(
            calm <= GAP_MS_MAX, f"without faults the median of the silences is {calm:.0f} ms, at most {GAP_MS_MAX} ms"
        )
        # A stage that lasts less than the command's way to the drill may be missed.
        trial.right(
            2 * self.kills >= len(self.gaps[True]), f"leaders were killed in {self.kills} of {len(self.gaps[True])} changes"
        )


def settled_silence(trial, clients):
    """The longest silence without a change, for comparison."""
    begun = time.monotonic()
    time.sleep(5)
    silence = 1000 * clients.longest_silence(begun, time.monotonic())
    trial.say(f"longest silence in 5 s without a change: {silence:.0f} ms")


def judge_everything(trial, cluster, clients, since):
    """Judges what is kept after all changes: at every learner, and at a new learner."""
    cluster.settle()
    clients.judge(trial)
    add_learner(cluster, free_learner(cluster))
    new = cluster.learners[-1]
    first_read(trial, cluster, new, registers=True)
    for learner in cluster.learners:
        clients.judge_registers(trial, learner)
    clients.judge_log(trial, new, since)
    judge_digests(trial, cluster, len(cluster.learners))
    cluster.all_run()


def free_learner(cluster):
    return next(name for name in (f"l{number}" for number in range(1, 100)) if name not in cluster.processes)


@drill(
    "members-replaced",
    "every acceptor is replaced, disks are lost, three become five and three again; leaders are killed in the changes",
    limit_s=180,
    limit_round_s=420,
)
def members_replaced(trial):
    chance = random.Random(trial.rounds)
    with Cluster(trial, proposers=3) as cluster:
        cluster.start()
        needs_changes(cluster)
        write_registers(trial, cluster)
        cluster.bench(*FILLING)
        since = chosen_to(cluster, "a1")
        with Clients(cluster) as clients:
            settled_silence(trial, clients)
            replacing = Replacing(trial, cluster, clients, chance)
            for _ in range(trial.rounds):
                for is_faulty in (False, True):
                    replacing.replace_each(is_faulty)
                    replacing.lose_one(is_faulty)
                    replacing.grow(is_faulty)
                    replacing.shrink(is_faulty)
        replacing.judge()
        judge_everything(trial, cluster, clients, since)
