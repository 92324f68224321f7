"""Drills of long logs: how much disk ten million commands take with default flags, what trims and uploads cost."""

import os
import statistics

from catalogue import drill
from cluster import Cluster
from trimming import BESIDE_MIB, MIB, Sizes, add_learner, chosen_to, first_read, judge_digests, trimmed_to, write_registers

COMMANDS = 10_000_000
# The default of `acceptor --retain-bytes`.
RETAIN_MIB = 256
# Bytes of the log for a command of the benchmark, and how many seconds of writes arrive during an upload and a sweep.
COMMAND_BYTES = 280
RECENT_S = 15
# Registers of 1 MiB each, for snapshots of some size.
REGISTERS = 200
# Registers of the benchmark for new learners.
MANY_REGISTERS = 1_000_000
# One run of the benchmark, in seconds.
RUN_S = 60
# Least throughput with trims, as a part of that without trims: with snapshots of a small state, and with two
# snapshots of 200 MiB that arrive at every acceptor within 45 seconds.
THROUGHPUT_MIN = 0.95
THROUGHPUT_MIN_UPLOADS = 0.8
# Greatest p99 with trims, as a multiple of that without trims.
P99_MAX = 1.5


@drill("long-log", "appends ten million commands with default flags, then adds a learner", limit_s=1_500)
def long_log(trial):
    with Cluster(trial) as cluster:
        cluster.start()
        write_registers(trial, cluster)
        proposals = 0
        fastest = 0
        with Sizes(cluster) as sizes:
            while proposals < COMMANDS:
                numbers, result = cluster.bench("--in-flight", "256", "--duration", f"{RUN_S}s", patience_s=RUN_S + 90)
                if not trial.right(numbers is not None and result.code == 0, f"the bench ends well: exit {result.code}"):
                    return
                proposals += int(numbers["proposals"])
                fastest = max(fastest, numbers["per_second"])
                trial.say(
                    f"{numbers['proposals']} proposals, {numbers['per_second']:.0f} a second, {numbers['latency_ms']}"
                )
        trial.say(f"{proposals} commands in {chosen_to(cluster, 'a1')} slots")
        for name in cluster.acceptors:
            trial.right(trimmed_to(cluster, name) > 0, f"{name} has trimmed below slot {trimmed_to(cluster, name)}")
        # Two steps of log, a third after the start, recent writes, and snapshots of a small state.
        recent = fastest * COMMAND_BYTES * RECENT_S / MIB
        sizes.judge(trial, 3 * RETAIN_MIB + recent + BESIDE_MIB)
        add_learner(cluster, "l3")
        first_read(trial, cluster, "l3", registers=True)
        judge_digests(trial, cluster, 3)
        cluster.all_run()


@drill(
    "new-learner",
    "writes a million registers, then adds learners with empty directories, one after another",
    rounds=3,
    limit_s=900,
)
def new_learner(trial):
    with Cluster(trial) as cluster:
        cluster.start()
        arguments = ("--reads", "1", "--registers", str(MANY_REGISTERS), "--in-flight", "256", "--duration", "1s")
        numbers, result = cluster.bench(*arguments, patience_s=840)
        if not trial.right(numbers is not None and result.code == 0, f"the registers are written: exit {result.code}"):
            return
        trial.say(f"{chosen_to(cluster, 'a1')} slots; a1 has trimmed below slot {trimmed_to(cluster, 'a1')}")
        for number in range(trial.rounds):
            name = f"l{3 + number}"
            add_learner(cluster, name)
            first_read(trial, cluster, name)
            process = cluster[name]
            used, queued = process.scheduled_seconds(), process.queued_seconds()
            trial.say(f"{name} used {used:.1f} s of processor time, and waited {queued:.1f} s for a processor")
            for line in process.text().splitlines():
                if "installed a snapshot" in line or " learning " in line:
                    trial.say(f"    {line[:160]}")
            judge_digests(trial, cluster, 3)
            process.stop()
            cluster.learners.remove(name)
        cluster.all_run()


@drill(
    "trims-cost",
    "compares throughput and p99 with trims and without, in alternating rounds",
    rounds=3,
    seconds=30,
    limit_s=60,
    limit_round_s=150,
)
def trims_cost(trial):
    compare_costs(trial, retain="16MiB", registers=0, throughput_min=THROUGHPUT_MIN)


@drill(
    "uploads-cost",
    "the same with 200 MiB of registers, so that large snapshots are uploaded and installed beside votes",
    rounds=3,
    seconds=45,
    limit_s=60,
    limit_round_s=400,
)
def uploads_cost(trial):
    compare_costs(trial, retain="64MiB", registers=REGISTERS, throughput_min=THROUGHPUT_MIN_UPLOADS)


def compare_costs(trial, retain, registers, throughput_min):
    """Measures clusters that trim and clusters that keep the whole log, in turns, with this many registers of 1 MiB."""
    measured = {"trims": [], "whole log": []}
    for number in range(trial.rounds):
        for name, flags in (
            ("trims", ["--retain-bytes", retain, "--restart-max", "1s"]),
            ("whole log", ["--retain-bytes", "all"]),
        ):
            with Cluster(trial, name=f"{number}-{flags[1]}") as cluster:
                for acceptor in cluster.acceptors:
                    cluster.define(acceptor, flags=flags)
                cluster.start()
                for register in range(registers):
                    cluster.paxos("put", f"register {register}", "-", input=os.urandom(MIB))
                kept = int(cluster.metric("a1", "paxos_acceptor_snapshots_kept_total"))
                numbers, result = cluster.bench("--duration", f"{trial.seconds}s", patience_s=trial.seconds + 90)
                if not trial.right(numbers is not None and result.code == 0, f"the bench ends well: exit {result.code}"):
                    return
                kept = int(cluster.metric("a1", "paxos_acceptor_snapshots_kept_total")) - kept
                measured[name].append((numbers["per_second"], numbers["latency_ms"]["p99"]))
                trial.say(
                    f"{name}: {numbers['per_second']:.0f} a second, p99 {numbers['latency_ms']['p99']} ms, "
                    f"{kept} snapshots kept by a1"
                )
                if name == "trims":
                    trial.right(kept > 1, f"a1 kept {kept} snapshots meanwhile")
                    add_learner(cluster, "l3")
                    first_read(trial, cluster, "l3")
                    judge_digests(trial, cluster, 3)
    rate, p99 = (
        [statistics.median(run[column] for run in measured[name]) for name in ("trims", "whole log")] for column in (0, 1)
    )
    trial.right(
        rate[0] >= throughput_min * rate[1],
        f"throughput with trims {rate[0] / rate[1]:.2f} of that without, at least {throughput_min}",
    )
    trial.right(p99[0] <= P99_MAX * p99[1], f"p99 with trims {p99[0] / p99[1]:.2f} of that without, at most {P99_MAX}")
