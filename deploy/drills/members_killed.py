"""A drill of random changes of members, while members, joiners, proposers, learners and the command are disturbed."""

import random
import re
import signal
import threading
import time

from catalogue import drill
from changing import (
    all_vote,
    begin_change,
    free_name,
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
from members import FILLING, judge_everything
from trial import summary, wait_until
from trimming import chosen_to, write_registers

MEMBERS_MIN, MEMBERS_MAX = 3, 5
# Acceptors that exist at the same time, with the directories of removed ones.
ACCEPTORS_MAX = 9
# Faults of a change, when they begin after the begin of the change, and how long they last, in seconds.
FAULTS_MAX = 3
BEGINS_BY_S = 0.8
LASTS_S = (0.05, 1.5)
# A put succeeds within this time after each change.
SUCCESS_BY_S = 10


class Fault:
    """One process is killed, stopped or cut off for a moment, in a thread of its own."""

    def __init__(self, cluster, name, kind, begin_s, last_s, change=None):
        """`name`: a role; none for the command of `change`."""
        self.cluster, self.name, self.kind, self.change = cluster, name, kind, change
        self.begin_s, self.last_s = begin_s, last_s
        self.text = ""
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def _work(self):
        try:
            self._disturb()
        except Exception as error:
            self.text = f"the fault failed: {error}"

    def _disturb(self):
        begun = time.monotonic()
        time.sleep(self.begin_s)
        stage = self.change.stage() if self.change else ""
        target = self.cluster[self.name] if self.name else self.change
        if self.name is None and target.child.poll() is not None:
            self.text = "the command had ended"
            return
        if self.kind == "kill":
            target.child.kill()
        elif self.kind == "stop":
            target.child.send_signal(signal.SIGSTOP)
        else:
            self.cluster.network[self.name].cut()
        self.text = f"{self.kind} {self.name or 'command'} {1000 * (time.monotonic() - begun):.0f} ms ({stage})"
        time.sleep(self.last_s)
        if self.kind == "stop":
            target.child.send_signal(signal.SIGCONT)
        elif self.kind == "cut":
            self.cluster.network[self.name].heal()
        elif self.name:
            target.child.wait()
            target.start()

    def finish(self):
        self.thread.join(30)


class Random:
    """Random changes of a cluster that serves clients."""

    def __init__(self, trial, cluster, clients, chance):
        self.trial, self.cluster, self.clients, self.chance = trial, cluster, clients, chance
        # Removed acceptors whose directories are kept.
        self.kept = []
        self.kinds, self.codes, self.refusals, self.faults = {}, {}, {}, {}
        self.silences = []

    def joiner(self):
        """An acceptor outside: one that was removed, with its directory, or a blank one."""
        if self.kept and self.chance.random() < 0.5:
            name = self.kept.pop(self.chance.randrange(len(self.kept)))
            return join(self.cluster, name)
        return join(self.cluster, free_name(self.cluster, self.kept))

    def plan(self, present, quorums):
        """A change: its kind, arguments, the members afterwards, the joiners, and the removed."""
        url, chance, count = self.cluster.url, self.chance, len(present)
        kinds = ["replace", "replace", "lose"]
        # With three members, other quorums than majorities let no member fail.
        if count > MEMBERS_MIN:
            kinds.append("quorums")
        if count + 1 <= MEMBERS_MAX:
            kinds.append("add")
        if count + 2 <= MEMBERS_MAX:
            kinds.append("add two")
        if count - 1 >= MEMBERS_MIN:
            kinds.append("remove")
        if count - 2 >= MEMBERS_MIN:
            kinds.append("remove two")
        kind = chance.choice(kinds)
        if kind == "replace":
            name, new = chance.choice(present), self.joiner()
            return kind, ["replace", name, "--with", url(new)], {*present, new} - {name}, [new], [name]
        if kind == "lose":
            name = chance.choice(present)
            lose(self.cluster, name)
            wait_until(f"{name} is seen as lost", lambda: self.is_lost(name), 60, 0.2)
            return kind, ["replace", name], {*present}, [name], []
        if kind == "quorums":
            sizes = [(first, count + 1 - first) for first in range(2, count)]
            phase1, phase2 = chance.choice([size for size in sizes if size != quorums])
            return kind, ["quorums", "--phase1", phase1, "--phase2", phase2], {*present}, [], []
        if kind.startswith("add"):
            new = [self.joiner() for _ in range(2 if kind == "add two" else 1)]
            return kind, ["add", *map(url, new)], {*present, *new}, new, []
        removed = chance.sample(present, 2 if kind == "remove two" else 1)
        return kind, ["remove", *removed], {*present} - {*removed}, [], removed

    def is_lost(self, name):
        found = look(self.cluster)
        url = self.cluster.url(name)
        return found and any(one["address"] == url and one["state"] == "lost its disk" for one in found["members"])

    def targets(self, present, joiners):
        """Names of roles that are disturbed, one of a random class each time; none for the command."""
        classes = [present, joiners or present, self.cluster.proposers, self.cluster.learners, [None]]
        targets = []
        for _ in range(self.chance.randint(1, FAULTS_MAX)):
            name = self.chance.choice(self.chance.choice(classes))
            if name not in targets:
                targets.append(name)
        return targets

    def one(self, number):
        """One change with its faults; afterwards the members are as wanted."""
        trial, cluster, chance = self.trial, self.cluster, self.chance
        found = all_vote(cluster)
        present, quorums = members(cluster, found), (int(found["phase1"]), int(found["phase2"]))
        kind, arguments, wanted, joiners, removed = self.plan(present, quorums)
        wanted = sorted(wanted)
        before = wait_until("`paxos member list` answers", lambda: look(cluster), 30, 0.1)
        targets = self.targets(present, joiners)
        begun = time.monotonic()
        change = begin_change(cluster, arguments, before)
        faults = []
        for name in targets:
            how = chance.choice(["kill", "stop", "cut"] if name else ["kill", "stop"])
            begin_s = chance.uniform(0, BEGINS_BY_S) * chance.random()
            faults.append(Fault(cluster, name, how, begin_s, chance.uniform(*LASTS_S), change))
        change.wait()
        for fault in faults:
            fault.finish()
        self.count(kind, change, faults)
        if change.code == 1:
            now = wait_until("`paxos member list` answers", lambda: look(cluster), 60, 0.2)
            trial.right(
                members(cluster, now) == sorted(present) and now["era"] == before["era"],
                f"{number}: refused means that nothing has changed: era {before['era']}, then {now['era']}; {change}",
            )
        runs = repeat_until_made(trial, cluster, change, wanted)
        after = all_vote(cluster)
        gap = self.clients.longest_silence(begun, time.monotonic())
        self.silences.append(1000 * gap)
        texts = ", ".join(fault.text for fault in faults)
        trial.right(
            "failed" not in texts
            and int(after["era"]) == int(before["era"]) + 1
            and members(cluster, after) == wanted,
            f"{number}: {kind}, era {before['era']} to {after['era']}, {len(wanted)} members; [{texts}]; "
            f"exits {[run.code for run in runs]}; last {runs[-1]}; silence {1000 * gap:.0f} ms",
        )
        cluster.relist(wanted)
        for name in removed:
            is_kept = len(cluster.acceptors) + len(self.kept) < ACCEPTORS_MAX and chance.random() < 0.5
            retire(trial, cluster, name, is_kept)
            if is_kept:
                self.kept.append(name)
        wait_until("a put succeeds", lambda: cluster.put("settled", "yes", timeout="5s").code == 0, SUCCESS_BY_S)

    def count(self, kind, change, faults):
        for counts, key in ((self.kinds, kind), (self.codes, change.code), *((self.faults, one.kind) for one in faults)):
            counts[key] = counts.get(key, 0) + 1
        if change.code in (1, 69):
            text = re.sub(r"\d[\d.:/]*|[0-9a-f]{8}", "N", change.error)
            self.refusals[text] = self.refusals.get(text, 0) + 1

    def judge(self):
        trial = self.trial
        trial.say(f"changes: {self.kinds}; faults: {self.faults}; exit codes of the disturbed runs: {self.codes}")
        for text, count in sorted(self.refusals.items(), key=lambda one: -one[1]):
            trial.say(f"    {count}: {text[:300]}")
        trial.say(f"longest silences of clients from the begin of a change to its end: {summary(self.silences)}")
        known = {0, 1, 69, -signal.SIGKILL}
        trial.right({*self.codes} <= known, f"the command ends with {sorted(self.codes)} alone, of {sorted(known)}")


@drill(
    "members-killed",
    "random changes of members, while members, joiners, proposers, learners and the command are killed, stopped, cut off",
    rounds=200,
    limit_s=240,
    limit_round_s=20,
)
def members_killed(trial):
    chance = random.Random(trial.rounds)
    with Cluster(trial, proposers=3, machines=True) as cluster:
        cluster.start()
        needs_changes(cluster)
        write_registers(trial, cluster)
        cluster.bench(*FILLING)
        since = chosen_to(cluster, "a1")
        with Clients(cluster) as clients:
            changes = Random(trial, cluster, clients, chance)
            for number in range(1, trial.rounds + 1):
                changes.one(number)
        changes.judge()
        judge_everything(trial, cluster, clients, since)
