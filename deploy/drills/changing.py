"""Changes of members: the command, its stages, and what stands afterwards."""

import json
import shutil
import threading
import time

from trial import GaveUp, Skipped, wait_until

STAGES = ("copying", "deciding", "switching", "done")
# Upper bound of a change with its repetitions.
CHANGED_BY_S = 90


class Change:
    """One run of `paxos member` in the background; the stages are seen as the command prints them."""

    def __init__(self, cluster, *arguments, on_stage=lambda stage: None, timeout="30s"):
        self.arguments, self.on_stage = [str(argument) for argument in arguments], on_stage
        # The kinds of the stages with their moments, each kind once, in order.
        self.stages, self.error, self.done = [], "", None
        self.begun, self.ended = time.monotonic(), None
        self.child = cluster.begin("member", *self.arguments, "--output", "json", "--timeout", timeout)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        for line in self.child.stdout:
            try:
                stage = json.loads(line)
            except ValueError:
                continue
            kind = next((kind for kind in STAGES if kind in stage), "unknown")
            if kind not in [seen for seen, _ in self.stages]:
                self.stages.append((kind, time.monotonic()))
                self.on_stage(kind)
            if kind == "done":
                self.done = stage["done"]
        self.error = self.child.stderr.read().decode(errors="replace").strip()

    def wait(self, patience_s=120):
        """Waits for the end, and returns the exit code."""
        try:
            code = self.child.wait(patience_s)
        except Exception as error:
            self.child.kill()
            raise GaveUp(f"`paxos member {' '.join(self.arguments)}` did not end within {patience_s} s") from error
        self.ended = time.monotonic()
        self.thread.join(5)
        return code

    @property
    def code(self):
        return self.child.returncode

    def stage(self):
        """The last stage seen."""
        return self.stages[-1][0] if self.stages else "asked"

    def __str__(self):
        stages = ", ".join(f"{kind} {1000 * (moment - self.begun):.0f} ms" for kind, moment in self.stages)
        return f"member {' '.join(self.arguments)}: exit {self.code}; {stages or 'no stage'}{'; ' if self.error else ''}{self.error[:300]}"


def needs_changes(cluster):
    """Skips a drill of binaries that cannot change members: they refuse a change that changes nothing for another reason."""
    result = cluster.paxos("member", "quorums", "--timeout", "5s")
    if "release" in result.error:
        raise Skipped(f"these binaries change no members: {result}")


def look(cluster):
    """What `paxos member list` prints, as JSON; none without an answer."""
    result = cluster.paxos("member", "list", "--output", "json", "--timeout", "5s")
    return json.loads(result.out) if result.code == 0 else None


def members(cluster, found=None):
    """The names of the members, by their addresses; none without an answer."""
    found = found or look(cluster)
    if found is None:
        return None
    names = {cluster.url(name): name for name in cluster.processes if name[0] == "a"}
    return sorted(names.get(member["address"], member["address"]) for member in found["members"])


def all_vote(cluster, patience_s=60):
    """Waits until every member votes in the latest era, and returns the list."""

    def voting():
        found = look(cluster)
        if found and all(one["state"] == "votes" and one["era"] == found["era"] for one in found["members"]):
            return found
        return None

    return wait_until("every member votes in the latest era", voting, patience_s, 0.2)


def free_name(cluster, other_than=()):
    """The name of an acceptor that does not exist."""
    used = {*cluster.acceptors, *other_than}
    return next(name for name in (f"a{number}" for number in range(1, 100)) if name not in used)


def join(cluster, name=None, flags=()):
    """Starts a blank acceptor outside, and waits until its page answers."""
    name = name or free_name(cluster)
    cluster.add(name, flags).start()
    wait_until(f"{name} answers", lambda: cluster.probe(name, "livez") == 200, 30)
    return name


def retire(trial, cluster, name, is_kept=False):
    """Stops a removed acceptor; its directory is removed, unless kept."""
    code = cluster[name].stop()
    trial.right(code == 0, f"the removed {name} stops: exit {code}")
    cluster.acceptors.remove(name)
    if not is_kept:
        shutil.rmtree(cluster.data(name))


def lose(cluster, name):
    """A member loses its disk: killed, its directory removed, started blank at the same address."""
    cluster[name].kill()
    shutil.rmtree(cluster.data(name))
    cluster[name].start()
    wait_until(f"{name} answers", lambda: cluster.probe(name, "livez") == 200, 30)


def repeat_until_made(trial, cluster, change, wanted):
    """Repeats a change that did not end well, without faults, until the members are as wanted. Returns the runs."""
    runs, until = [change], time.monotonic() + CHANGED_BY_S
    while True:
        run = runs[-1]
        found = wait_until("`paxos member list` answers", lambda: look(cluster), 60, 0.2)
        if run.code == 0:
            if members(cluster, found) != wanted:
                trial.right(False, f"done means made: {members(cluster, found)}, wanted {wanted}; {run}")
            return runs
        # A killed run, or one with an open outcome, may have made the change.
        if is_made(change, cluster, found, wanted):
            return runs
        if time.monotonic() > until:
            raise GaveUp(f"within {CHANGED_BY_S} s the change is made; {found['members']}; {run}")
        time.sleep(0.3)
        runs.append(Change(cluster, *change.arguments))
        runs[-1].wait()


def is_made(change, cluster, found, wanted):
    """Whether the members are as wanted, by another era than before the change."""
    return members(cluster, found) == wanted and int(found["era"]) > change.era_before


def begin_change(cluster, arguments, before, on_stage=lambda stage: None, timeout="30s"):
    """Begins a change at a cluster with these members before, as `look` returns them."""
    change = Change(cluster, *arguments, on_stage=on_stage, timeout=timeout)
    change.era_before = int(before["era"])
    return change
