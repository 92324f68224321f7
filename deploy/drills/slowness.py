"""Drills of slow disks and slow links: the cluster becomes slow, and no leader changes."""

import os

from catalogue import drill
from cluster import Cluster
from disks import Disks

LINK_RATES = ("16mbit", "10mbit")
DISK_DELAYS_MS = (250, 500, 1000)
HICCUPS_MS = (250, 400, 800, 3000)
IN_FLIGHT = (1, 64, 256, 1024)
VALUE_BYTES = (256, 256 * 1024)


def put_all(trial, cluster, what, values, timeout="60s"):
    """Puts values one after the other, and judges that each succeeds; returns the longest time in seconds."""
    results = [cluster.put("key", value, timeout) for value in values]
    failed = [result for result in results if result.code]
    longest = max(result.seconds for result in results)
    trial.right(
        not failed,
        f"{what}: {len(results) - len(failed)} of {len(results)} puts succeed, the longest after {longest:.2f} s",
    )
    for result in failed[:3]:
        trial.say(f"    {result}")
    return longest


def run_bench(trial, cluster, what, *arguments, patience_s=300.0):
    """Runs the benchmark, and judges that every proposal succeeds."""
    numbers, result = cluster.bench(*arguments, patience_s=patience_s)
    if numbers is None:
        trial.right(False, f"{what}: {result}")
        return
    lost = {name: int(numbers[name]) for name in ("outcome_unknown", "not_proposed", "refused")}
    good = numbers["proposals"]
    trial.right(
        result.code == 0 and not any(lost.values()),
        f"{what}: {good} proposals, {lost}, longest {numbers['latency_ms'].get('max')} ms",
    )


@drill(
    "slow-link", "acceptors behind slow links, large values and many of them: no campaign", limit_round_s=420
)
def slow_link(trial):
    for number in range(trial.rounds):
        for rate in LINK_RATES:
            with Cluster(trial, machines=True, name=f"round{number}-{rate}") as cluster:
                cluster.start()
                for name in cluster.acceptors:
                    cluster.network[name].slow(rate)
                mark = cluster.mark()
                put_all(trial, cluster, f"{rate}, 1,000,000 bytes", [os.urandom(1_000_000)])
                put_all(trial, cluster, f"{rate}, small puts afterwards", [b"small"] * 10)
                put_all(trial, cluster, f"{rate}, 300,000 bytes", [os.urandom(300_000)] * 3)
                run_bench(
                    trial,
                    cluster,
                    f"{rate}, bench of 4,096 bytes, 256 in flight",
                    "--value-bytes",
                    4096,
                    "--in-flight",
                    256,
                    "--duration",
                    "5s",
                )
                put_all(trial, cluster, f"{rate}, small puts after the bench", [b"small"] * 10)
                cluster.quiet(mark, rate)
                cluster.all_run()


@drill(
    "slow-disk",
    "the disks of all acceptors take 250, 500 and 1,000 ms: no campaign, and `status` says so",
    limit_round_s=240,
)
def slow_disk(trial):
    for number in range(trial.rounds):
        for ms in DISK_DELAYS_MS:
            disks = Disks(trial)
            with Cluster(trial, disks=disks, name=f"round{number}-{ms}") as cluster:
                cluster.start()
                mark = cluster.mark()
                disks.delay(cluster.acceptors, ms)
                put_all(trial, cluster, f"{ms} ms", [str(number) for number in range(6)])
                run_bench(trial, cluster, f"{ms} ms, 64 in flight", "--in-flight", 64, "--duration", "8s")
                judge_named(trial, cluster, ms, cluster.acceptors)
                cluster.quiet(mark, f"{ms} ms")
                cluster.all_run()
                disks.free(cluster.acceptors)


def judge_named(trial, cluster, ms, names):
    """Judges that `status` names slow disks with a time that is not below the delay."""
    findings = cluster.findings()
    for name in names:
        found = [finding for finding in findings if cluster.url(name) in finding and "disk" in finding]
        times = [int(word) for finding in found for word in finding.split() if word.isdigit()]
        trial.right(
            any(took >= ms for took in times),
            f"{ms} ms: `status` names the disk of {name} and its time: {found}",
        )


@drill(
    "stall", "all disks stall together now and then, at many loads and sizes: no campaign", limit_round_s=1800
)
def stall(trial):
    for number in range(trial.rounds):
        for ms in HICCUPS_MS:
            for value_bytes in VALUE_BYTES:
                for in_flight in IN_FLIGHT:
                    one_stall(trial, number, ms, value_bytes, in_flight)


def one_stall(trial, number, ms, value_bytes, in_flight):
    disks = Disks(trial)
    every_ms = 10_000 if ms > 1000 else 4_000
    what = f"{ms} ms of {every_ms // 1000} s, {in_flight} in flight, {value_bytes} bytes"
    with Cluster(
        trial, learners=1, disks=disks, name=f"round{number}-{ms}-{value_bytes}-{in_flight}"
    ) as cluster:
        cluster.start()
        mark = cluster.mark()
        disks.hiccup(cluster.acceptors, ms, every_ms)
        run_bench(
            trial, cluster, what, "--in-flight", in_flight, "--value-bytes", value_bytes, "--duration", "11s"
        )
        put_all(trial, cluster, what, ["after"])
        disks.free(cluster.acceptors)
        cluster.quiet(mark, what)
        cluster.all_run(what)
    for process in cluster.processes.values():
        remove_data(cluster.data(process.name))


def remove_data(directory):
    """Frees the space of large values before the next cluster starts."""
    if directory.is_dir():
        for file in directory.iterdir():
            file.unlink()
