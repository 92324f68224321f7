"""A drill of the copy of a long log to a joiner: what the copy costs the clients."""

import json
import statistics
import time

from catalogue import drill
from changing import all_vote, begin_change, join, members, needs_changes, repeat_until_made, retire
from cluster import Cluster
from trial import Skipped
from trimming import MIB, chosen_to, judge_digests, size

LOG_MIB = 1024
# One measurement, in seconds.
SLICE_S = 3
# Least slices of a round without a copy, and of all rounds beside a copy.
QUIET_SLICES = 4
COPYING_SLICES_MIN = 3
# Least throughput beside a copy, as a part of that without, and greatest p99, as a multiple.
THROUGHPUT_MIN = 0.9
P99_MAX = 2.0
# Copies of the log on the disk: three acceptors, two learners, a joiner, and the removed one before its end. The log grows
# while it is copied.
COPIES = 16
# The copy rests while commands are under way.
COPIED_BY_S = 900


def fill(trial, cluster):
    """Appends until the log of an acceptor has 1 GiB."""
    begun = time.monotonic()
    while size(cluster.data("a1")) < LOG_MIB * MIB:
        numbers, result = cluster.bench("--value-bytes", "16384", "--in-flight", "64", "--duration", "10s")
        if numbers is None or result.code:
            raise Skipped(f"the log cannot be filled: {result}")
    trial.say(
        f"the log has {size(cluster.data('a1')) / MIB:.0f} MiB in {chosen_to(cluster, 'a1')} slots after "
        f"{time.monotonic() - begun:.0f} s"
    )


def slice_of(cluster):
    """One measurement: begin, end, commands a second, and p99 in milliseconds."""
    begun = time.monotonic()
    numbers, result = cluster.bench("--in-flight", "64", "--duration", f"{SLICE_S}s")
    if numbers is None or result.code:
        raise RuntimeError(f"the bench fails: {result}")
    return begun, time.monotonic(), numbers["per_second"], numbers["latency_ms"]["p99"]


def copy_once(trial, cluster, quiet, copying):
    """Measures without a copy, then beside the copy to a new acceptor that replaces a member."""
    quiet += [slice_of(cluster) for _ in range(QUIET_SLICES)]
    before = all_vote(cluster)
    present = members(cluster, before)
    name, new = present[0], join(cluster, flags=("--retain-bytes", "all"))
    wanted = sorted({*present, new} - {name})
    change = begin_change(cluster, ["replace", name, "--with", cluster.url(new)], before, timeout="60s")
    slices = []
    while change.child.poll() is None:
        slices.append(slice_of(cluster))
    change.wait(COPIED_BY_S)
    repeat_until_made(trial, cluster, change, wanted)
    moments = dict(change.stages)
    copied_at = moments.get("deciding", change.ended)
    inside = [one for one in slices if one[1] <= copied_at]
    copying += inside
    copied = size(cluster.data(new)) / MIB
    seconds = copied_at - change.begun
    trial.right(change.code == 0, f"{change}")
    trial.say(f"{new} has {copied:.0f} MiB after {seconds:.1f} s, {copied / seconds:.0f} MiB/s; {len(inside)} slices inside")
    cluster.relist(wanted)
    retire(trial, cluster, name)


@drill(
    "members-copy",
    "compares throughput and p99 beside the copy of 1 GiB of log to a joiner, in alternating rounds",
    limit_s=420,
    limit_round_s=1_200,
)
def members_copy(trial):
    free = free_mib(trial.directory)
    if free < COPIES * LOG_MIB:
        raise Skipped(f"{trial.directory} has {free} MiB of free space, and the drill needs {COPIES * LOG_MIB} MiB: --dir")
    with Cluster(trial) as cluster:
        for name in cluster.acceptors:
            cluster.define(name, flags=("--retain-bytes", "all"))
        cluster.start()
        needs_changes(cluster)
        fill(trial, cluster)
        quiet, copying = [], []
        for _ in range(trial.rounds):
            copy_once(trial, cluster, quiet, copying)
        if trial.right(
            len(copying) >= COPYING_SLICES_MIN,
            f"{len(copying)} measurements of {SLICE_S} s fit into the copies, at least {COPYING_SLICES_MIN}",
        ):
            judge_costs(trial, quiet, copying)
        judge_digests(trial, cluster, 2)
        cluster.all_run()


def judge_costs(trial, quiet, copying):
    for what, slices in (("without a copy", quiet), ("beside a copy", copying)):
        rates, p99s = ([round(one[column], 1) for one in slices] for column in (2, 3))
        trial.say(f"{what}: {json.dumps(rates)} a second, p99 {json.dumps(p99s)} ms")
    (rate, p99), (rate_copying, p99_copying) = (
        [statistics.median(one[column] for one in slices) for column in (2, 3)] for slices in (quiet, copying)
    )
    trial.right(
        rate_copying >= THROUGHPUT_MIN * rate,
        f"throughput beside a copy {rate_copying / rate:.2f} of that without, at least {THROUGHPUT_MIN}",
    )
    trial.right(
        p99_copying <= P99_MAX * p99, f"p99 beside a copy {p99_copying / p99:.2f} of that without, at most {P99_MAX}"
    )


def free_mib(directory):
    import os

    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize // MIB
