"""A cluster of real processes, and the commands of its users."""

import json
import os
import re
import signal
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from network import Network
from trial import GaveUp, wait_until

ACCEPTOR_PORT = 7001
PROPOSER_PORT = 7101
LEARNER_PORT = 7201
# Metrics and probes are served at the port of the role plus this number, as the roles do by default.
METRICS_OFFSET = 1000
ROLES = {"a": "acceptor", "p": "proposer", "l": "learner"}

# The line of its end begins with "the campaign".
CAMPAIGN = re.compile(r": campaign at ballot ")
LEADING = re.compile(r"\bleading\b.*\bballot=(\d+)\.")


@dataclass
class Result:
    """What a command printed, and how it ended."""

    code: int
    out: str
    error: str
    seconds: float

    def __str__(self):
        text = (self.out + self.error).strip().replace("\n", " | ")
        return f"exit {self.code} after {self.seconds:.2f} s: {text[:300]}"


class Process:
    """One role as a process, started again and again on the same directory."""

    def __init__(self, name, command, environment, log):
        self.name, self.command, self.environment, self.log = name, command, environment, log
        self.child = None

    def start(self, stderr=None):
        """Starts the process. Its log is appended to a file unless `stderr` is given."""
        with open(self.log, "ab") as log:
            self.child = subprocess.Popen(
                self.command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=stderr or log
            )

    def set(self, flag, value):
        """Changes the value of a flag, from the next start on."""
        self.command[self.command.index(flag) + 1] = value

    def signal(self, number):
        self.child.send_signal(number)

    def kill(self):
        """Kills the process, and waits for its end."""
        self.child.kill()
        self.child.wait()

    def stop(self, patience_s=15.0):
        """Asks the process to stop, and returns its exit code; None when the process had to be killed."""
        self.child.terminate()
        try:
            return self.child.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def pause(self):
        self.signal(signal.SIGSTOP)

    def resume(self):
        self.signal(signal.SIGCONT)

    def runs(self):
        return self.child is not None and self.child.poll() is None

    def text(self, start=0):
        """The log from a byte on."""
        with open(self.log, "rb") as log:
            log.seek(start)
            return log.read().decode(errors="replace")

    def cpu_seconds(self):
        """Processor time used so far: user and system."""
        fields = Path(f"/proc/{self.child.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def scheduled_seconds(self):
        """The same by the scheduler's clock, of the threads that run now: exact, also for short bursts."""
        threads = Path(f"/proc/{self.child.pid}/task").glob("*/schedstat")
        return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9

    def queued_seconds(self):
        """Time that the threads that run now were ready to run and waited for a processor."""
        threads = Path(f"/proc/{self.child.pid}/task").glob("*/schedstat")
        return sum(int(thread.read_text().split()[1]) for thread in threads) / 1e9

    def waits(self):
        """How often the threads that run now have waited so far: about the number of wake-ups, whatever the load."""
        text = "".join(path.read_text() for path in Path(f"/proc/{self.child.pid}/task").glob("*/status"))
        return sum(int(count) for count in re.findall(r"^voluntary_ctxt_switches:\s*(\d+)$", text, re.MULTILINE))


class Cluster:
    """Acceptors, proposers and learners; ends its processes at the end of a `with` block."""

    def __init__(
        self, trial, acceptors=3, proposers=2, learners=2, machines=False, disks=None, name="cluster", first=1
    ):
        """With `machines` each role has a network namespace and an address of its own.

        `disks` can disturb the disks of the acceptors. Names and ports begin at `first`: a second cluster beside the first
        has others.
        """
        self.trial = trial
        # The binaries of roles and commands that start from now on.
        self.binaries = trial.binaries
        self.directory = trial.directory / name
        self.directory.mkdir()
        self.network = Network() if machines else None
        self.disks = disks
        self.acceptors = [f"a{number}" for number in range(first, first + acceptors)]
        self.proposers = [f"p{number}" for number in range(first, first + proposers)]
        self.learners = [f"l{number}" for number in range(first, first + learners)]
        self.processes = {}
        Network.loopback_up()
        for name in self.names():
            if self.network:
                self.network.add(name)
        # The same list, for processes that read it again and again.
        self.list = self.directory / "acceptors"
        self.name_acceptors(self.acceptors)
        for name in self.names():
            self.define(name)

    def names(self):
        return self.acceptors + self.proposers + self.learners

    def host(self, name):
        return self.network.machines[name].address if self.network else "127.0.0.1"

    def port(self, name):
        first = {"a": ACCEPTOR_PORT, "p": PROPOSER_PORT, "l": LEARNER_PORT}[name[0]]
        return first + int(name[1:]) - 1

    def url(self, name):
        return f"http://{self.host(name)}:{self.port(name)}"

    def data(self, name):
        return self.directory / name

    def define(self, name, flags=(), environment=None):
        """Defines the process of a role, which is not started yet."""
        role = ROLES[name[0]]
        address = f"{self.host(name)}:{self.port(name)}"
        metrics = f"{self.host(name)}:{self.port(name) + METRICS_OFFSET}"
        command = [str(self.binaries / role), "--listen", address, "--metrics-listen", metrics]
        if role == "acceptor":
            command += ["--id", name]
        else:
            command += ["--acceptors", self.urls]
        if role != "proposer":
            command += ["--data-dir", str(self.data(name))]
        if self.network:
            command = self.network.machines[name].prefix() + command
        # Machines of a drill have addresses of their own, and no certificates.
        variables = clean_environment() | {"PAXOS_INSECURE": "true"} | (environment or {})
        if self.disks and role == "acceptor":
            variables |= self.disks.environment(name)
        process = Process(name, command + list(flags), variables, self.directory / f"{name}.log")
        process.log.touch()
        self.processes[name] = process
        return process

    def add(self, name, flags=()):
        """Defines one role more, and returns its process."""
        {"a": self.acceptors, "p": self.proposers, "l": self.learners}[name[0]].append(name)
        if self.network and name not in self.network.machines:
            self.network.add(name)
        return self.define(name, flags)

    def relist(self, acceptors):
        """The acceptors that commands get from now on, and proposers and learners from their next start on."""
        self.name_acceptors(acceptors)
        for name in self.proposers + self.learners:
            self[name].set("--acceptors", self.urls)

    def name_acceptors(self, acceptors):
        """The acceptors that commands get from now on."""
        self.urls = ",".join(map(self.url, acceptors))
        written = self.list.with_suffix(".new")
        written.write_text(self.urls)
        written.replace(self.list)

    def __getitem__(self, name):
        return self.processes[name]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes.values():
            if process.runs():
                process.kill()
        if self.network:
            self.network.close()

    def start(self, names=None):
        """Starts processes, all unless named, and waits until the cluster takes a write and reads the value back."""
        for name in names or self.names():
            self[name].start()
        self.settle()

    def settle(self):
        """Waits until the cluster takes a write, every learner answers reads, and every running proposer is ready."""
        wait_until("a put succeeds", lambda: self.put("settled", "yes", timeout="5s").code == 0, 60)
        for learner in filter(lambda name: self[name].runs(), self.learners):
            wait_until(f"{learner} answers", lambda: self.get("settled", learner).code == 0, 60)
        for proposer in filter(lambda name: self[name].runs(), self.proposers):
            wait_until(f"{proposer} is ready", lambda: self.probe(proposer, "readyz") == 200, 60)

    def environment(self):
        return clean_environment() | {"PAXOS_ACCEPTORS": self.urls}

    def begin(self, *arguments, **options):
        """Starts `paxos` with these arguments, as a process whose output is read later."""
        options = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        } | options
        variables = self.environment() | options.pop("variables", {})
        command = [str(self.binaries / "paxos"), *map(str, arguments)]
        return subprocess.Popen(command, env=variables, **options)

    def paxos(self, *arguments, input=None, patience_s=120.0, variables=None):
        """Runs `paxos` with these arguments."""
        begun = time.monotonic()
        stdin = subprocess.PIPE if input is not None else subprocess.DEVNULL
        child = self.begin(*arguments, stdin=stdin, variables=variables or {})
        try:
            out, error = child.communicate(input, timeout=patience_s)
        except subprocess.TimeoutExpired as error:
            child.kill()
            child.communicate()
            raise GaveUp(
                f"`paxos {' '.join(map(str, arguments))[:80]}` did not end within {patience_s:.0f} s"
            ) from error
        seconds = time.monotonic() - begun
        return Result(child.returncode, out.decode(errors="replace"), error.decode(errors="replace"), seconds)

    def put(self, key, value, timeout="10s"):
        if isinstance(value, bytes):
            return self.paxos("put", key, "-", "--timeout", timeout, input=value)
        return self.paxos("put", key, value, "--timeout", timeout)

    def get(self, key, learner, timeout="5s"):
        """A linearizable read at one learner."""
        return self.paxos("get", key, "--learners", self.url(learner), "--timeout", timeout)

    def bench(self, *arguments, timeout="60s", patience_s=300.0):
        """Runs the benchmark, and returns its numbers and the command's result."""
        result = self.paxos(
            "bench", "--output", "json", "--timeout", timeout, *arguments, patience_s=patience_s
        )
        try:
            return json.loads(result.out), result
        except ValueError:
            return None, result

    def status(self):
        """The text of `paxos status`, and its exit code."""
        result = self.paxos("status")
        return result.out + result.error, result.code

    def findings(self):
        """Problems that `paxos status` finds."""
        try:
            report = json.loads(self.paxos("status", "--output", "json").out)
        except ValueError:
            return []
        return [finding["problem"] for finding in report["findings"]]

    def metrics(self, name):
        """All samples of a role's metrics, as a dictionary of name with labels to value."""
        samples = {}
        for line in self.fetch(name, "metrics")[1].splitlines():
            if line and not line.startswith("#"):
                sample, _, value = line.rpartition(" ")
                samples[sample] = float(value)
        return samples

    def metric(self, name, prefix):
        """Sum of the samples of a role whose names begin so."""
        return sum(value for sample, value in self.metrics(name).items() if sample.startswith(prefix))

    def probe(self, name, page, patience_s=2.0):
        """The HTTP status of a probe; 0 when there is no answer."""
        return self.fetch(name, page, patience_s)[0]

    def fetch(self, name, page, patience_s=2.0):
        url = f"http://{self.host(name)}:{self.port(name) + METRICS_OFFSET}/{page}"
        try:
            with urllib.request.urlopen(url, timeout=patience_s) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, ""
        except OSError:
            return 0, ""

    def leader(self):
        """The name of the proposer that leads, by its own metrics."""

        def leading():
            running = [name for name in self.proposers if self[name].runs()]
            return next((name for name in running if self.metric(name, "paxos_proposer_leading") == 1), None)

        return wait_until("a proposer leads", leading)

    def mark(self):
        """The present ends of the proposers' logs, for `campaigns` and `reigns`."""
        return {name: self[name].log.stat().st_size for name in self.proposers}

    def campaigns(self, mark):
        """Lines of campaigns since a mark: the proposer and what its log says."""
        return self._found(mark, CAMPAIGN.search)

    def reigns(self, mark):
        """Lines of proposers that began to lead since a mark."""
        return self._found(mark, LEADING.search)

    def _found(self, mark, is_wanted):
        found = []
        for name, start in mark.items():
            lines = self[name].text(start).splitlines()
            found += [f"{name} {line.strip()}" for line in lines if is_wanted(line)]
        return found

    def quiet(self, mark, what):
        """Judges that no proposer campaigned since a mark."""
        found = self.campaigns(mark)
        self.trial.right(not found, f"{what}: no campaign, found {len(found)}")
        for line in found[:10]:
            self.trial.say(f"    {line[:400]}")
        return not found

    def all_run(self, what="every process runs"):
        ended = [name for name in self.names() if not self[name].runs()]
        self.trial.right(not ended, f"{what}; ended: {', '.join(ended) or 'none'}")
        for name in ended:
            self.trial.say(f"    {name}: {self.last_line(name)[:400]}")

    def last_line(self, name):
        lines = self[name].text().strip().splitlines()
        return lines[-1] if lines else "(no log)"


def clean_environment():
    """The environment without settings that would reach the processes by accident."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PAXOS_", "OTEL_")) and name != "RUST_LOG"
    }
