"""Drills of standard error that is not read or cannot be written: nothing stops, and exit codes stay right."""

import os
import time

from catalogue import drill
from cluster import Cluster
from slowness import run_bench

STOP_MAX_S = 5.0


@drill(
    "stalled-log",
    "no process reads the logs of the roles, at level trace: they go on, and stop when asked",
    seconds=15,
    limit_round_s=90,
)
def stalled_log(trial):
    for number in range(trial.rounds):
        with Cluster(trial, name=f"round{number}") as cluster:
            ends = []
            for name in cluster.names():
                process = cluster.define(name, environment={"RUST_LOG": "trace"})
                reader, writer = os.pipe()
                ends.append(reader)
                process.start(stderr=writer)
                os.close(writer)
            cluster.settle()
            run_bench(
                trial,
                cluster,
                "logs that no process reads",
                "--in-flight",
                64,
                "--duration",
                f"{trial.seconds}s",
            )
            alive = {name: cluster.probe(name, "livez") for name in cluster.names()}
            trial.right(set(alive.values()) == {200}, f"/livez: {alive}")
            cluster.all_run("logs that no process reads")
            for name in cluster.names()[::-1]:
                begun = time.monotonic()
                code = cluster[name].stop()
                seconds = time.monotonic() - begun
                trial.right(
                    code == 0 and seconds <= STOP_MAX_S, f"{name} stops with {code} after {seconds:.2f} s"
                )
            for reader in ends:
                os.close(reader)


def commands(cluster):
    """Command lines and their exit codes."""
    proposer = f"{cluster.host('p1')}:{cluster.port('p1')}"
    return [
        (["put", "key", "x"], 0),
        (["put", "there", "x", "--if-absent"], 1),
        (["get", "there"], 0),
        (["get", "absent"], 1),
        (["get", "--prefix", ""], 0),
        (["delete", "key"], 0),
        (["decide", "once", "me"], 0),
        (["decide", "once", "other"], 1),
        (["propose", "x"], 0),
        (["log"], 0),
        (["log", "--from", "99999"], 1),
        (["status"], 0),
        (["bench", "--duration", "50ms"], 0),
        (["elect", "job", "--ttl", "1h", "--", "sh", "-c", "exit 3"], 3),
        (["elect", "job", "--", "/no/such"], 127),
        (["elect", "job", "--", "/"], 126),
        (["get"], 2),
        (["--help"], 0),
        (["healthcheck", proposer], 0),
        (["healthcheck", "127.0.0.1:1"], 69),
    ]


@drill(
    "unwritable-stderr",
    "commands whose standard error is a full disk or a closed pipe end with their documented codes",
    limit_round_s=120,
)
def unwritable_stderr(trial):
    for number in range(trial.rounds):
        with Cluster(trial, learners=1, name=f"round{number}") as cluster:
            cluster.start()
            cluster.put("there", "x")
            lines = commands(cluster)
            reader, closed = os.pipe()
            os.close(reader)
            full = os.open("/dev/full", os.O_WRONLY)
            for what, error in (("a full disk", full), ("a closed pipe", closed)):
                wrong = []
                for place, (words, expected) in enumerate(lines):
                    words = [f"{word}-{error}" if word == "once" else word for word in words]
                    child = cluster.begin(*words, stderr=error)
                    child.communicate(timeout=60)
                    if child.returncode != expected:
                        wrong.append(f"`paxos {' '.join(words)}`: {child.returncode} instead of {expected}")
                trial.right(
                    not wrong,
                    f"standard error is {what}: {len(lines) - len(wrong)} of {len(lines)} commands end right",
                )
                for text in wrong:
                    trial.say(f"    {text}")
            os.close(full)
            os.close(closed)
            cluster.all_run()
