"""One run of a drill: what the drill prints, and what counts as right or wrong."""

import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from typing import Callable

EXIT_WRONG = 1
EXIT_SKIPPED = 77


class Skipped(Exception):
    """This machine lacks what the drill needs."""


class TooLate(Exception):
    """The drill took longer than its limit."""


class GaveUp(Exception):
    """The drill cannot go on, because what the drill waited for did not happen."""


@dataclass(frozen=True)
class Drill:
    """A fault, and the judgement of what happens."""

    name: str
    summary: str
    action: Callable
    rounds: int
    seconds: int
    # Upper bound of a whole run: of its start and end, and of each round.
    limit_s: float
    limit_round_s: float


@dataclass
class Trial:
    """What a drill works with."""

    binaries: object
    directory: object
    rounds: int
    seconds: int
    # The binaries of the previous release, if given.
    old: object = None
    wrong: int = 0

    def say(self, text):
        """Prints a line with the time since the trial began."""
        try:
            print(f"{time.monotonic() - self.begun:7.1f} s  {text}", flush=True)
        except BrokenPipeError:
            # A judgement that no process reads.
            os._exit(EXIT_WRONG)

    def right(self, condition, text):
        """Judges one expectation; returns whether it holds."""
        if not condition:
            self.wrong += 1
        self.say(f"{'right' if condition else 'WRONG'}: {text}")
        return bool(condition)

    def __post_init__(self):
        self.begun = time.monotonic()


def load():
    """The load average of the last minute, as text."""
    return f"{os.getloadavg()[0]:.1f}"


def summary(values, unit="ms"):
    """Median, 90th percentile and maximum as text."""
    if not values:
        return "no values"
    ordered = sorted(values)
    at = lambda share: ordered[min(len(ordered) - 1, int(len(ordered) * share))]
    return f"median {at(0.5):.0f} {unit}, p90 {at(0.9):.0f} {unit}, max {ordered[-1]:.0f} {unit} of {len(ordered)}"


def median(values):
    """The middle of some values."""
    return sorted(values)[len(values) // 2]


def wait_until(what, condition, patience_s=30.0, pause_s=0.05):
    """Waits for a condition, and returns its first true value."""
    until = time.monotonic() + patience_s
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > until:
            raise GaveUp(f"not within {patience_s:.0f} s: {what}")
        time.sleep(pause_s)


def _too_late(*_):
    raise TooLate()


def run_trial(drill, binaries, directory, rounds, seconds, old=None):
    """Runs a drill, and returns the exit code."""
    rounds = rounds or drill.rounds
    trial = Trial(binaries, directory, rounds, seconds or drill.seconds, old)
    limit_s = drill.limit_s + rounds * (drill.limit_round_s + (trial.seconds if drill.seconds else 0))
    signal.signal(signal.SIGALRM, _too_late)
    signal.alarm(int(limit_s) + 1)
    trial.say(f"{drill.name}: {drill.summary}")
    trial.say(f"{os.cpu_count()} processors, load {load()}, rounds {rounds}, at most {limit_s:.0f} s")
    try:
        drill.action(trial)
    except Skipped as reason:
        trial.say(f"skipped: {reason}")
        return EXIT_SKIPPED
    except TooLate:
        trial.right(False, f"the drill ends within {limit_s:.0f} s")
    except GaveUp as reason:
        trial.right(False, str(reason))
    except Exception:
        traceback.print_exc(file=sys.stdout)
        trial.right(False, "the drill itself runs")
    finally:
        signal.alarm(0)
    trial.say(f"{drill.name}: {f'{trial.wrong} WRONG' if trial.wrong else 'all right'}, load {load()}")
    return EXIT_WRONG if trial.wrong else 0
