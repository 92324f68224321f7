"""Drills of broken connections: proposers that cannot reach each other, one-way cuts, resets of all connections."""

import time

from catalogue import drill
from cluster import Cluster
from network import reset_connections
from trial import summary, wait_until
from writer import Writer

NO_ROAD_S = 40
ONE_WAY_S = 6
# Longest time without a successful put while a cut costs the leader its quorum.
SILENCE_MAX_S = 5.0


@drill(
    "no-road",
    "proposers that cannot reach each other, or reach too few acceptors: no campaign",
    limit_round_s=200,
)
def no_road(trial):
    for number in range(trial.rounds):
        with Cluster(trial, machines=True, name=f"round{number}-bridge") as cluster:
            cluster.start()
            leader = cluster.leader()
            other = next(name for name in cluster.proposers if name != leader)
            network = cluster.network
            watch(
                trial,
                cluster,
                "the proposers share one acceptor, and do not reach each other",
                lambda: (
                    network[leader].cut(network[other], network["a3"]),
                    network[other].cut(network["a1"]),
                ),
            )
        with Cluster(trial, machines=True, name=f"round{number}-single") as cluster:
            cluster.start()
            leader = cluster.leader()
            other = next(name for name in cluster.proposers if name != leader)
            network = cluster.network
            watch(
                trial,
                cluster,
                "the standby reaches a single acceptor, and not the leader",
                lambda: (network[other].cut(network[leader], network["a1"], network["a2"]),),
            )


def watch(trial, cluster, what, cut):
    """Cuts roads, writes for a while at the leader, and judges that no proposer campaigns."""
    mark = cluster.mark()
    cut()
    begun = time.monotonic()
    with Writer(cluster, timeout="10s", workers=8, every_s=0.1) as writer:
        time.sleep(NO_ROAD_S)
        silence = writer.longest_silence(begun, time.monotonic())
    trial.say(f"{what}: longest time without a success {silence:.2f} s")
    writer.judge(trial)
    cluster.quiet(mark, f"{what}, {NO_ROAD_S} s")
    cluster.all_run(what)


def one_way_cuts(network, leader, standby):
    """Name of each cut, whether the leader loses a quorum, the machine with the rule, direction, and the others."""
    acceptors = [network[name] for name in ("a1", "a2", "a3")]
    for what, chosen, loses in (
        ("one acceptor", acceptors[:1], False),
        ("two acceptors", acceptors[:2], True),
        ("all acceptors", acceptors, True),
    ):
        yield f"leader to {what}", loses, lambda chosen=chosen: network[leader].drop_to(*chosen)
        yield f"{what} to the leader", loses, lambda chosen=chosen: network[leader].drop_from(*chosen)
    yield "standby to all acceptors", False, lambda: network[standby].drop_to(*acceptors)
    yield "all acceptors to the standby", False, lambda: network[standby].drop_from(*acceptors)


@drill(
    "one-way",
    "one-way cuts between proposers and acceptors: at most one campaign, and only where a quorum is lost",
    limit_round_s=240,
)
def one_way(trial):
    for number in range(trial.rounds):
        for place in range(8):
            with Cluster(trial, machines=True, learners=1, name=f"round{number}-{place}") as cluster:
                cluster.start()
                leader = cluster.leader()
                standby = next(name for name in cluster.proposers if name != leader)
                what, loses, cut = list(one_way_cuts(cluster.network, leader, standby))[place]
                mark = cluster.mark()
                with Writer(cluster, timeout="30s") as writer:
                    time.sleep(1)
                    begun = time.monotonic()
                    cut()
                    time.sleep(ONE_WAY_S)
                    silence = writer.longest_silence(begun, time.monotonic())
                    campaigns = cluster.campaigns(mark)
                    cluster.network.heal()
                    time.sleep(2)
                    later = cluster.campaigns(mark)[len(campaigns) :]
                most = 1 if loses else 0
                trial.right(
                    len(campaigns) <= most and silence <= SILENCE_MAX_S,
                    f"{what}: {len(campaigns)} campaigns, at most {most}; longest time without a success {silence:.2f} s",
                )
                trial.right(not later, f"{what}: {len(later)} campaigns after the cut is healed")
                for line in [*campaigns, *later]:
                    trial.say(f"    {line[:300]}")
                writer.judge(trial)
                cluster.all_run(what)


@drill("reset", "all connections of the leader are reset at once: no campaign", rounds=10, limit_round_s=20)
def reset(trial):
    with Cluster(trial, proposers=3, learners=1) as cluster:
        cluster.start()
        times = []
        with Writer(cluster) as writer:
            time.sleep(1)
            for number in range(trial.rounds):
                leader, mark = cluster.leader(), cluster.mark()
                begun = time.monotonic()
                connections = reset_connections(cluster[leader].child.pid)
                success = writer.next_success(begun)
                time.sleep(1)
                found = cluster.campaigns(mark)
                if success is not None:
                    times.append(1000 * (success - begun))
                trial.right(
                    success is not None and connections > 0 and not found,
                    f"{number + 1}: {connections} connections reset, next success after {times[-1] if times else 0:.0f} ms, {len(found)} campaigns",
                )
                for line in found:
                    trial.say(f"    {line[:300]}")
                wait_until(f"{leader} is ready", lambda: cluster.probe(leader, "readyz") == 200)
        trial.say(f"from the reset to the next success: {summary(times)}")
        trial.right(bool(times) and max(times) <= 1000, "every time is at most 1,000 ms")
        writer.judge(trial)
        cluster.all_run()
