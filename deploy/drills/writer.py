"""A steady stream of puts by many short commands, and how long writes were away after a fault."""

import random
import threading
import time

# Many, so that new puts begin while earlier ones wait for a leader that is gone.
WORKERS = 48
# Seconds between the begins of two puts, on average, while each succeeds at once.
EVERY_S = 0.03


class Writer:
    """Runs `paxos put` again and again in the background while its `with` block runs."""

    def __init__(self, cluster, timeout="60s", workers=WORKERS, every_s=EVERY_S, name="writer"):
        self.cluster, self.timeout, self.pause_s = cluster, timeout, workers * every_s
        self.name = name
        self.lock = threading.Lock()
        self.ended = threading.Event()
        # Begin and end of each put that succeeded; texts of those that failed.
        self.good, self.bad = [], []
        # The last number that each worker wrote.
        self.last = {}
        self.threads = [
            threading.Thread(target=self._work, args=(number,), daemon=True) for number in range(workers)
        ]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        for thread in self.threads:
            thread.join(90)

    def _work(self, worker):
        chance = random.Random(worker)
        number, pause_s = 0, self.pause_s * chance.random()
        while not self.ended.wait(pause_s):
            number, pause_s = number + 1, self.pause_s * (0.5 + chance.random())
            begun = time.monotonic()
            try:
                result = self.cluster.put(f"{self.name}-{worker}", str(number), self.timeout)
            except Exception as error:  # A command that hangs counts as one that failed.
                with self.lock:
                    self.bad.append(str(error))
                continue
            with self.lock:
                if result.code == 0:
                    self.good.append((begun, time.monotonic()))
                    self.last[worker] = number
                else:
                    self.bad.append(str(result))

    def next_success(self, since, patience_s=30.0):
        """When the first put that began after a moment succeeded; none when none did within the patience from then."""
        while time.monotonic() < since + patience_s:
            with self.lock:
                ends = [ended for begun, ended in self.good if begun >= since]
            if ends:
                return min(ends)
            time.sleep(0.002)
        return None

    def longest_silence(self, since, until):
        """Most seconds between two successes that follow each other, from one moment to another."""
        with self.lock:
            moments = sorted(ended for _, ended in self.good if since <= ended <= until)
        moments = [since, *moments, until]
        return max(after - before for before, after in zip(moments, moments[1:]))

    def judge(self, trial):
        """Judges that no put failed."""
        with self.lock:
            good, bad = len(self.good), list(self.bad)
        trial.right(good > 0 and not bad, f"puts: {good} succeeded, {len(bad)} failed")
        for text in bad[:5]:
            trial.say(f"    {text}")

    def acknowledged(self):
        """The last number of each worker that was acknowledged by now."""
        with self.lock:
            return dict(self.last)

    def judge_last(self, trial, cluster=None, numbers=None):
        """Judges that each worker's last acknowledged number, or a later one, is still there.

        Or, of an earlier moment, these `numbers`; and in another cluster."""
        for worker, number in sorted((self.last if numbers is None else numbers).items()):
            result = (cluster or self.cluster).paxos("get", f"{self.name}-{worker}")
            found = result.out.strip()
            kept = result.code == 0 and found.isdigit() and int(found) >= number
            trial.right(kept, f"{self.name}-{worker} has {found or result}, the last acknowledged is {number}")
