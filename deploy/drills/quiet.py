"""Drills without a fault: what an idle cluster costs, and whether a busy one keeps its leader."""

import time

from catalogue import drill
from cluster import Cluster
from network import loopback_bytes

IDLE_CPU_PERCENT_MAX = 2.0
IDLE_BYTES_A_SECOND_MAX = 100_000
# A wake-up costs an idle process more than the work, and the number does not depend on other processes. The leader's
# heartbeats are 80 a second: one at the leader, and one at each acceptor, 20 times.
IDLE_WAKE_UPS_A_SECOND_MAX = 160


def measure_idle(trial, cluster, seconds):
    """Processor time and loopback traffic of an idle cluster, printed and judged."""
    ticks = lambda: {name: cluster[name].cpu_seconds() for name in cluster.names()}
    scheduled = lambda: sum(cluster[name].scheduled_seconds() for name in cluster.names())
    waits = lambda: {name: cluster[name].waits() for name in cluster.names()}
    before, scheduled_before, waits_before = ticks(), scheduled(), waits()
    bytes_before, begun = loopback_bytes(), time.monotonic()
    time.sleep(seconds)
    elapsed = time.monotonic() - begun
    traffic = (loopback_bytes() - bytes_before) / elapsed
    woken = {name: (after - waits_before[name]) / elapsed for name, after in waits().items()}
    used = {name: after - before[name] for name, after in ticks().items()}
    exact = 100 * (scheduled() - scheduled_before) / elapsed
    each = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in used.items())
    percent = 100 * sum(used.values()) / elapsed
    trial.say(
        f"processor time in {elapsed:.0f} s: {each}; by the scheduler's clock {exact:.1f} % of a core in all"
    )
    each = ", ".join(f"{name} {count:.0f}" for name, count in woken.items())
    trial.right(
        sum(woken.values()) <= IDLE_WAKE_UPS_A_SECOND_MAX,
        f"{sum(woken.values()):.0f} wake-ups a second ({each}), at most {IDLE_WAKE_UPS_A_SECOND_MAX}",
    )
    trial.right(
        percent <= IDLE_CPU_PERCENT_MAX, f"{percent:.1f} % of a core in all, at most {IDLE_CPU_PERCENT_MAX} %"
    )
    trial.right(
        traffic <= IDLE_BYTES_A_SECOND_MAX,
        f"{traffic / 1000:.1f} kB a second over loopback, at most {IDLE_BYTES_A_SECOND_MAX / 1000:.0f} kB",
    )


@drill("idle", "processor time and traffic of seven processes without a client", seconds=20)
def idle(trial):
    for number in range(trial.rounds):
        with Cluster(trial, name=f"round{number}") as cluster:
            cluster.start()
            time.sleep(3)
            measure_idle(trial, cluster, trial.seconds)
            cluster.all_run()


@drill("calm", "64 proposals in flight for a time: no change of leader", seconds=60, limit_round_s=90)
def calm(trial):
    for number in range(trial.rounds):
        with Cluster(trial, proposers=3, name=f"round{number}") as cluster:
            cluster.start()
            mark = cluster.mark()
            numbers, result = cluster.bench(
                "--in-flight", 64, "--duration", f"{trial.seconds}s", patience_s=trial.seconds + 90
            )
            if trial.right(
                numbers is not None and result.code == 0, f"the bench ends well: exit {result.code}"
            ):
                trial.say(
                    f"{numbers['proposals']} proposals, {numbers['per_second']:.0f} a second, {numbers['latency_ms']}"
                )
                lost = {name: numbers[name] for name in ("outcome_unknown", "not_proposed", "refused")}
                trial.right(not any(map(int, lost.values())), f"every proposal succeeds: {lost}")
            cluster.quiet(mark, "while 64 proposals are in flight")
            cluster.all_run()
