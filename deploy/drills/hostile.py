"""Drills of hostile peers: the leader stays, and after its death another leads within the stated bound."""

import re
import threading
import time

from catalogue import drill
from cluster import Cluster
from stranger import STREAMS_A_CONNECTION, Stranger, framed, message
from trial import wait_until
from writer import Writer

PROTOCOL_VERSION = 1
ROLE_PROPOSER = 2
ALIVE_INTERVAL_MS = 50
ROUND_MAX = 2**63 - 1
STREAMS = 200
REPORTERS = 24
REPORT_BYTES = 10_000
ATTACK_S = 5
# Most seconds from the leader's death to the next success: a proposer challenges a leader without progress after 5 s.
SUCCESS_MAX_S = 8.0


class Attack:
    """Threads that disturb all acceptors until the attack ends."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.ended = threading.Event()
        self.strangers, self.threads = [], []
        self.sent = 0
        text = cluster.status()[0]
        cluster_id, round, proposer = re.search(
            r"cluster ([0-9a-f]{32}).* at ballot (\d+)\.([0-9a-f]+)", text
        ).groups()
        self.caller = message({1: PROTOCOL_VERSION, 2: bytes.fromhex(cluster_id)})
        self.ballot = message({1: int(round), 2: int(proposer, 16)})

    def stranger(self, name):
        stranger = Stranger(self.cluster.host(name), self.cluster.port(name))
        self.strangers.append(stranger)
        return stranger

    def heartbeat(self):
        """An empty Accept at the leader's ballot."""
        return framed(
            message({1: self.caller, 2: self.ballot, 6: "http://127.0.0.1:9", 11: ALIVE_INTERVAL_MS})
        )

    def single_bytes(self):
        """A stream at the leader's ballot, and then a message without an end, byte by byte."""
        for name in self.cluster.acceptors:
            stranger = self.stranger(name)
            stream = stranger.call("Acceptor/Accept")
            stranger.send(stream, self.heartbeat() + framed(bytes(1_000_000))[:5])
            self._repeat(lambda stranger=stranger, stream=stream: stranger.send(stream, b"\x0a"), 0.02)

    def many_streams(self):
        """Hundreds of streams at the leader's ballot that stay open."""
        for name in self.cluster.acceptors:
            for begin in range(0, STREAMS, STREAMS_A_CONNECTION):
                stranger = self.stranger(name)
                for _ in range(begin, min(STREAMS, begin + STREAMS_A_CONNECTION)):
                    stranger.send(stranger.call("Acceptor/Accept"), self.heartbeat())
                    self.sent += 1

    def highest_prepare(self):
        """Prepares at the highest round, again and again."""
        ballot = message({1: ROUND_MAX, 2: 7})
        request = framed(message({1: self.caller, 2: ballot, 4: "http://127.0.0.1:9"}))
        for name in self.cluster.acceptors:
            stranger = self.stranger(name)
            self._repeat(
                lambda stranger=stranger: stranger.send(
                    stranger.call("Acceptor/Prepare"), request, last=True
                ),
                0.05,
            )

    def reports(self):
        """Reports of strangers that say they are proposers, as fast as they can be sent."""
        for number in range(REPORTERS):
            stranger = self.stranger(self.cluster.acceptors[number % 3])
            stream = stranger.call("Acceptor/Attach")
            progress = message({1: 1, 2: self.ballot, 3: 1 << 40})
            report = {
                1: self.caller,
                2: ROLE_PROPOSER,
                3: 1000 + number,
                4: f"http://127.0.0.1:{10_000 + number}",
                6: progress,
            }
            octets = framed(message(report | {5: "x" * REPORT_BYTES}))
            small = framed(message(report | {5: "0"}))
            parts = octets if number % 2 else small
            self._repeat(
                lambda stranger=stranger, stream=stream, parts=parts: stranger.send(stream, parts), 0.002
            )

    def _repeat(self, send, pause_s):
        def work():
            while not self.ended.wait(pause_s):
                try:
                    send()
                except OSError:
                    return
                self.sent += 1

        thread = threading.Thread(target=work, daemon=True)
        self.threads.append(thread)
        thread.start()

    def end(self):
        self.ended.set()
        for stranger in self.strangers:
            stranger.close()
        for thread in self.threads:
            thread.join(5)


@drill(
    "hostile",
    "peers that send single bytes, hold many streams, prepare at the highest round, flood reports",
    limit_round_s=300,
)
def hostile(trial):
    kinds = {
        "single bytes": Attack.single_bytes,
        f"{STREAMS} streams at each acceptor": Attack.many_streams,
        "prepares at round 2^63 - 1": Attack.highest_prepare,
        f"{REPORTERS} streams of reports": Attack.reports,
    }
    for number in range(trial.rounds):
        for place, (what, kind) in enumerate(kinds.items()):
            with Cluster(trial, learners=1, name=f"round{number}-{place}") as cluster:
                cluster.start()
                suffer(trial, cluster, what, kind)


def suffer(trial, cluster, what, kind):
    """The leader stays under the attack; after its death another proposer leads, still under the attack."""
    mark = cluster.mark()
    attack = Attack(cluster)
    with Writer(cluster, timeout="60s", every_s=0.04) as writer:
        time.sleep(1)
        kind(attack)
        begun = time.monotonic()
        time.sleep(ATTACK_S)
        silence = writer.longest_silence(begun, time.monotonic())
        still = sum(1 for stranger in attack.strangers if stranger.open)
        trial.say(
            f"{what}: {attack.sent} sent, {still} of {len(attack.strangers)} connections open, longest time without a success {silence:.2f} s"
        )
        cluster.quiet(mark, what)
        leader = cluster.leader()
        cluster[leader].kill()
        killed = time.monotonic()
        success = writer.next_success(killed, 60)
        seconds = success - killed if success else float("inf")
        trial.right(
            seconds <= SUCCESS_MAX_S,
            f"{what}: next success {seconds:.2f} s after the leader's death, at most {SUCCESS_MAX_S:.0f} s",
        )
        for line in cluster.campaigns(mark):
            trial.say(f"    {line[:300]}")
        attack.end()
        time.sleep(1)
    writer.judge(trial)
    cluster[leader].start()
    wait_until(f"{leader} is ready", lambda: cluster.probe(leader, "readyz") == 200)
    cluster.all_run(what)
