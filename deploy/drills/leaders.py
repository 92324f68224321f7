"""Drills of a lost leader: killed, stopped, cut off, on quiet disks and while all disks stand still."""

import random
import subprocess
import threading
import time

from catalogue import drill
from cluster import Cluster
from disks import Disks
from trial import median, summary, wait_until
from writer import Writer

# Upper bounds of the median time from the fault to the next success, in milliseconds: what the releases before the
# leader's streams were watched by the acceptors needed.
MEDIAN_MS_MAX = {"kill": 387, "stop": 421, "cut": 544}
# How long all disks stand still, and when the leader is lost meanwhile.
STALL_S = 1.0
FAULT_AFTER_S = (0.05, 0.6)
# Share of the faults that may cost more than one change of leader.
MORE_CHANGES_SHARE_MAX = 0.1


def lose(cluster, kind, leader):
    if kind == "kill":
        cluster[leader].kill()
    elif kind == "stop":
        cluster[leader].pause()
    else:
        cluster.network[leader].cut()


def bring_back(cluster, kind, leader):
    if kind == "kill":
        cluster[leader].start()
    elif kind == "stop":
        cluster[leader].resume()
    else:
        cluster.network[leader].heal()


def one_fault(trial, cluster, writer, kind, stalled):
    """Takes the leader away once. Returns the seconds from the fault, and from the end of the stall, to the next
    success, and the numbers of campaigns and of changes of leader."""
    leader, mark = cluster.leader(), cluster.mark()
    freed = None
    if stalled:
        cluster.disks.hold(cluster.acceptors)
        begun = time.monotonic()
        time.sleep(random.uniform(*FAULT_AFTER_S))
    lost = time.monotonic()
    lose(cluster, kind, leader)
    if stalled:
        time.sleep(max(0.0, begun + STALL_S - time.monotonic()))
        freed = time.monotonic()
        cluster.disks.free(cluster.acceptors)
    success = writer.next_success(lost)
    time.sleep(0.5)
    bring_back(cluster, kind, leader)
    time.sleep(1.0)
    wait_until(f"{leader} is ready again", lambda: cluster.probe(leader, "readyz") == 200, 30)
    campaigns, reigns = cluster.campaigns(mark), cluster.reigns(mark)
    if len(reigns) > 1 or success is None:
        for line in campaigns + reigns:
            trial.say(f"    {line[:300]}")
    if success is None:
        return None, None, len(campaigns), len(reigns)
    return success - lost, success - (freed or lost), len(campaigns), len(reigns)


def take_leaders(trial, kind, stalled):
    disks = Disks(trial) if stalled else None
    with Cluster(trial, proposers=3, learners=1, machines=kind == "cut", disks=disks) as cluster:
        cluster.start()
        from_fault, from_stall, campaigned, changes = [], [], [], []
        with Writer(cluster) as writer:
            time.sleep(1)
            for number in range(trial.rounds):
                seconds, after, campaigns, reigns = one_fault(trial, cluster, writer, kind, stalled)
                campaigned.append(campaigns)
                changes.append(reigns)
                if trial.right(
                    seconds is not None,
                    f"{number + 1}: {describe(seconds, after, stalled)}, {campaigns} campaigns, {reigns} changes",
                ):
                    from_fault.append(1000 * seconds)
                    from_stall.append(1000 * after)
        trial.say(f"from the fault to the next success: {summary(from_fault)}")
        if stalled:
            trial.say(f"from the end of the stall to the next success: {summary(from_stall)}")
        judged = median(from_stall) if from_stall else float("inf")
        trial.right(
            judged <= MEDIAN_MS_MAX[kind], f"median {judged:.0f} ms, at most {MEDIAN_MS_MAX[kind]} ms"
        )
        many = sum(1 for reigns in changes if reigns > 1)
        trial.right(
            many <= MORE_CHANGES_SHARE_MAX * len(changes),
            f"more than one change of leader at {many} of {len(changes)} faults",
        )
        trial.say(
            f"one campaign at {campaigned.count(1)}, none at {campaigned.count(0)} of {len(campaigned)} faults"
        )
        writer.judge(trial)
        cluster.all_run()


def describe(seconds, after, stalled):
    if seconds is None:
        return "no success"
    text = f"next success {1000 * seconds:.0f} ms after the fault"
    return text + (f", {1000 * after:.0f} ms after the end of the stall" if stalled else "")


def register():
    words = {
        "kill": "the leader is killed (SIGKILL)",
        "stop": "the leader stands still (SIGSTOP)",
        "cut": "the leader is cut off",
    }
    for kind, what in words.items():
        for stalled in (False, True):
            name = f"{kind}-stalled" if stalled else kind
            summary_text = (
                f"{what}{' while all disks stand still for 1 s' if stalled else ''}, again and again"
            )
            action = lambda trial, kind=kind, stalled=stalled: take_leaders(trial, kind, stalled)
            drill(name, summary_text, rounds=10, limit_round_s=40)(action)


register()


@drill("silent-leader", "leader and one standby stand still for 10 s: clients move on within a second")
def silent_leader(trial):
    for number in range(trial.rounds):
        with Cluster(trial, proposers=3, learners=1, name=f"round{number}") as cluster:
            cluster.start()
            leader = cluster.leader()
            standby = next(name for name in cluster.proposers if name != leader)
            feed_lines(trial, cluster, leader, standby)
            cluster.all_run()


def feed_lines(trial, cluster, leader, standby):
    """Feeds lines to `propose --lines` while two proposers stand still, and looks for silence."""
    child = cluster.begin(
        "propose", "--lines", "--timeout", "10s", stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    moments, ended = [], threading.Event()

    def feed():
        number = 0
        while not ended.wait(0.01):
            number += 1
            try:
                child.stdin.write(f"line {number}\n".encode())
                child.stdin.flush()
            except OSError:
                return
        child.stdin.close()

    def read():
        for line in child.stdout:
            moments.append((time.monotonic(), line.decode()))

    threads = [threading.Thread(target=work, daemon=True) for work in (feed, read)]
    for thread in threads:
        thread.start()
    time.sleep(1.5)
    trial.right(len(moments) > 50, f"{len(moments)} lines are answered before the fault")
    stopped = time.monotonic()
    for name in (leader, standby):
        cluster[name].pause()
    put = cluster.put("after", "the stop", "10s")
    put_after = time.monotonic() - stopped
    time.sleep(max(0.0, stopped + 10 - time.monotonic()))
    for name in (leader, standby):
        cluster[name].resume()
    resumed = time.monotonic()
    time.sleep(1.5)
    ended.set()
    child.wait(20)
    for thread in threads:
        thread.join(5)
    paused = [stopped, *[moment for moment, _ in moments if stopped < moment < resumed], resumed]
    silence = max(after - before for before, after in zip(paused, paused[1:]))
    versions = sum(1 for _, line in moments if line[:1].isdigit())
    trial.say(f"{len(moments)} lines answered, {versions} of them with a version")
    trial.right(silence <= 1.0, f"longest silence {silence:.2f} s, at most 1 s")
    trial.right(
        put.code == 0 and put_after <= 1.0, f"a put begun at the stop: {put_after:.2f} s, at most 1 s; {put}"
    )


@drill("tenure", "the leader stands still for 12 s: a tenure of 5 s goes on", rounds=1)
def tenure(trial):
    for number in range(trial.rounds):
        with Cluster(trial, learners=1, name=f"round{number}") as cluster:
            cluster.start()
            elect = cluster.begin("elect", "job", "--ttl", "5s", stderr=subprocess.STDOUT)
            try:
                holder = lambda: b"job" if cluster.get("job", "l1").code == 0 else None
                wait_until("the election is held", holder)
                time.sleep(1)
                leader = cluster.leader()
                cluster[leader].pause()
                begun = time.monotonic()
                while time.monotonic() < begun + 12 and elect.poll() is None:
                    time.sleep(0.05)
                held = elect.poll() is None
                trial.right(held, f"the tenure holds {time.monotonic() - begun:.1f} s after the stop")
                cluster[leader].resume()
            finally:
                elect.terminate()
                trial.say(
                    "elect: " + elect.communicate(timeout=20)[0].decode().strip().replace("\n", " | ")[:300]
                )
            cluster.all_run()
