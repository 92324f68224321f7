"""Clusters of etcd and of paxos on this machine, with fresh data each, and the load generator's measurements of them."""

import json
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

START_MAX = 30  # seconds


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def without_settings():
    """The environment without settings of paxos."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PAXOS_")}


def urls(ports, scheme="http"):
    return [f"{scheme}://127.0.0.1:{port}" for port in ports]


class Cluster:
    """Processes of a system, ended and removed at the end."""

    def __init__(self, options, binaries=None):
        self.options = options
        self.binaries = Path(binaries or options.bin)
        self.directory = Path(tempfile.mkdtemp(prefix="paxos-compare-", dir=options.dir))
        self.processes = {}

    def __enter__(self):
        try:
            self.start()
            self.wait()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_):
        self.end()

    def spawn(self, name, *command, environment=None):
        """Starts a process without the settings of the caller's environment, and with these variables."""
        with open(self.directory / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=without_settings() | (environment or {})
            )

    def end(self):
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def pids(self, names=None):
        return ",".join(str(self.processes[name].pid) for name in names or self.processes)

    def load(self, *arguments, system=None, addresses=None):
        command = [self.options.compare, *arguments, "--system", system or self.system]
        command += ["--addresses", ",".join(addresses or self.addresses)]
        if self.learners:
            command += ["--learners", ",".join(self.learners)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return json.loads(done.stdout) if done.stdout else None

    def wait(self):
        """Waits for a leader, and for the first write and read."""
        self.until_it_works(lambda: self.load("wait"))
        for operation in ("put", "get"):
            run = ("run", "--operation", operation, "--warm-up", "0", "--seconds", "1", "--in-flight", "1")
            self.until_it_works(lambda run=run: self.load(*run))

    @staticmethod
    def until_it_works(load):
        ends = time.monotonic() + START_MAX
        while True:
            try:
                return load()
            except RuntimeError:
                if time.monotonic() > ends:
                    raise
                time.sleep(0.2)

    def measure(self, operation, in_flight, *arguments, seconds=None, **load):
        """Rate, latencies in milliseconds, and for each process CPU microseconds an operation and resident MiB."""
        measured = self.load(
            "run", "--operation", operation, "--in-flight", str(in_flight), "--processes", self.pids(),
            "--seconds", str(seconds or self.options.seconds), *arguments, **load,
        )  # fmt: skip
        if measured["errors"]:
            print(f"{self.name}: {measured['errors']} errors, the last: {measured['last_error']}", file=sys.stderr)
        processes = dict(zip(self.processes, measured["processes"]))
        return {
            "rate": measured["per_second"],
            "operations": measured["operations"],
            "p50": measured["p50_us"] / 1e3,
            "p99": measured["p99_us"] / 1e3,
            "cpu": sum(process["cpu_us"] for process in processes.values()),
            "cpu of": {name: process["cpu_us"] for name, process in processes.items()},
            "client cpu": measured["client_cpu_us"],
            "resident": {name: process["resident_kib"] / 1024 for name, process in processes.items()},
        }

    def failover(self, kill="KILL"):
        """Milliseconds from this signal to the leader until the next success."""
        found = self.load("failover", "--in-flight", "8", "--signal", kill, "--processes", self.pids(self.writers))
        return found["gap_ms"]


class Etcd(Cluster):
    name = system = "etcd"
    learners = ()
    writers = ("m0", "m1", "m2")

    def start(self):
        ports = free_ports(6)
        self.addresses = urls(ports[:3])
        peers = urls(ports[3:])
        members = ",".join(f"{name}={peer}" for name, peer in zip(self.writers, peers))
        for name, client, peer in zip(self.writers, self.addresses, peers):
            self.spawn(
                name, self.options.etcd, "--name", name, "--data-dir", str(self.directory / name),
                "--listen-client-urls", client, "--advertise-client-urls", client,
                "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                "--initial-cluster", members, "--initial-cluster-state", "new",
                "--quota-backend-bytes", str(8 << 30),
            )  # fmt: skip


class Paxos(Cluster):
    name = system = "paxos"
    writers = ("p0", "p1")

    def __init__(self, options, binaries=None, state=None):
        """`state`: the limit of the state's size, instead of the default."""
        super().__init__(options, binaries)
        self.state = ("--state-bytes-max", state) if state else ()

    def start(self):
        self.ports = free_ports(6)
        self.acceptors = urls(self.ports[:3])
        for number, port in enumerate(self.ports[:3]):
            data = str(self.directory / f"a{number}")
            self.spawn_role("acceptor", f"a{number}", port, "--id", f"a{number}", "--data-dir", data)
        for name in self.writers:
            self.start_proposer(name)
        self.start_learner("l0", self.ports[5])
        self.addresses, self.learners = urls(self.ports[3:5]), urls(self.ports[5:])

    def spawn_role(self, role, name, port, *flags):
        listen = ("--listen", f"127.0.0.1:{port}", "--metrics-listen", "off")
        self.spawn(name, str(self.binaries / role), *listen, *flags)

    def start_proposer(self, name):
        port = self.ports[3 + self.writers.index(name)]
        self.spawn_role("proposer", name, port, "--acceptors", ",".join(self.acceptors), *self.state)

    def revive(self):
        """Waits for the end of the signalled proposer, starts it again, and gives it time to attach to the acceptors."""
        ends = time.monotonic() + START_MAX
        while not (ended := [name for name in self.writers if self.processes[name].poll() is not None]):
            if time.monotonic() > ends:
                raise RuntimeError(f"no proposer has ended {START_MAX} s after the signal")
            time.sleep(0.01)
        for name in ended:
            self.start_proposer(name)
        self.until_it_works(lambda: self.load("wait"))
        time.sleep(1)

    def start_learner(self, name, port):
        data = str(self.directory / name)
        self.spawn_role("learner", name, port, "--acceptors", ",".join(self.acceptors), "--data-dir", data)

    def stop_learner(self, name):
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        process.wait()

    def seconds_to_first_read(self, name, port):
        """Starts a learner, and measures the time until it answers a linearizable read."""
        begun = time.monotonic()
        self.start_learner(name, port)
        address = urls([port])[0]
        while time.monotonic() < begun + 300:
            read = [str(self.binaries / "paxos"), "get", "no such key", "--learners", address, "--timeout", "1s"]
            done = subprocess.run(read, capture_output=True)
            if done.returncode == 1:  # Read, and the key holds no value.
                return time.monotonic() - begun
            time.sleep(0.02)
        raise RuntimeError(f"{name} answered no read within 300 s")


def machine():
    cpu = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} × {cpu}, {memory:.0f} GiB, Linux {platform.release()}, one machine for servers and load"


def shown(numbers, digits=0):
    middle = statistics.median(numbers)
    return f"{middle:,.{digits}f} ({min(numbers):,.{digits}f}–{max(numbers):,.{digits}f})"


def missing(directory, names):
    """What to print when a binary is missing there; `None` when all are there."""
    for name in names:
        if not (Path(directory) / name).exists():
            return f"no {name} in {directory}: build it with cargo build --release --workspace --bins"
    return None
