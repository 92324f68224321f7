"""A network of machines: namespaces behind one bridge, whose links can be cut, slowed and reset."""

import ctypes
import os
import shutil
import socket
import struct
import subprocess
from pathlib import Path

from trial import Skipped, wait_until

BRIDGE = "bridge0"
SUBNET = "10.77.0"
# Delay that a full queue of a slow link adds, as a home router's.
QUEUE = "300ms"
SYS_PIDFD_GETFD = 438


def command(*words):
    """Runs a command that must succeed."""
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
    if done.returncode:
        raise Skipped(f"`{' '.join(words)}` failed here: {done.stderr.strip()}")


class Machine:
    """A network namespace with one address."""

    def __init__(self, name, number):
        self.name, self.port = name, f"port{number}"
        self.address = f"{SUBNET}.{number + 10}"
        self.holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        own = os.readlink("/proc/self/ns/net")
        self.space = f"/proc/{self.holder.pid}/ns/net"
        wait_until("a namespace", lambda: os.readlink(self.space) != own, pause_s=0.002)
        pid = str(self.holder.pid)
        command("ip", "link", "add", self.port, "type", "veth", "peer", "name", "eth0", "netns", pid)
        command("ip", "link", "set", self.port, "master", BRIDGE, "up")
        self.run("ip", "link", "set", "lo", "up")
        self.run("ip", "addr", "add", f"{self.address}/24", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")

    def prefix(self):
        """What runs a command in this namespace."""
        return ["nsenter", f"--net={self.space}"]

    def run(self, *words):
        command(*self.prefix(), *words)

    def drop_from(self, *others):
        """Loses all packets from other machines; from all without names."""
        self._drop("INPUT", "-s", others)

    def drop_to(self, *others):
        """Loses all packets to other machines; to all without names."""
        self._drop("OUTPUT", "-d", others)

    def join(self, *others):
        """Takes back what `cut` did with these machines."""
        self._drop("INPUT", "-s", others, change="-D")
        self._drop("OUTPUT", "-d", others, change="-D")

    def _drop(self, chain, side, others, change="-A"):
        sides = [[side, other.address] for other in others] or [
            ["!", "-i" if chain == "INPUT" else "-o", "lo"]
        ]
        for which in sides:
            self.run("iptables", "-w", change, chain, *which, "-j", "DROP")

    def cut(self, *others):
        """Loses all packets to and from other machines; of all without names."""
        self.drop_to(*others)
        self.drop_from(*others)

    def heal(self):
        """Takes back all that `cut`, `drop_from` and `drop_to` did."""
        self.run("iptables", "-w", "-F")

    def slow(self, rate):
        """Limits both directions of the link, for example to `16mbit`."""
        shape = ["root", "tbf", "rate", rate, "burst", "32kb", "latency", QUEUE]
        self.run("tc", "qdisc", "replace", "dev", "eth0", *shape)
        command("tc", "qdisc", "replace", "dev", self.port, *shape)


class Network:
    """Machines by name."""

    def __init__(self):
        for tool in ("ip", "tc", "iptables", "nsenter"):
            if shutil.which(tool) is None:
                raise Skipped(f"this machine has no `{tool}` (iproute2, iptables, util-linux)")
        self.machines = {}
        command("ip", "link", "add", BRIDGE, "type", "bridge")
        command("ip", "addr", "add", f"{SUBNET}.1/24", "dev", BRIDGE)
        command("ip", "link", "set", BRIDGE, "up")

    def add(self, name):
        self.machines[name] = Machine(name, len(self.machines) + 1)

    def __getitem__(self, name):
        return self.machines[name]

    def heal(self):
        for machine in self.machines.values():
            machine.heal()

    def close(self):
        for machine in self.machines.values():
            machine.holder.kill()
            machine.holder.wait()
        command("ip", "link", "del", BRIDGE)
        # The kernel removes the ports of a namespace a moment after its last process, or this does.
        for machine in self.machines.values():
            subprocess.run(["ip", "link", "del", machine.port], capture_output=True)

    @staticmethod
    def loopback_up():
        command("ip", "link", "set", "lo", "up")


def loopback_bytes():
    """Bytes sent over the loopback interface of this namespace so far."""
    line = next(
        line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:")
    )
    return int(line.partition(":")[2].split()[8])


def reset_connections(pid):
    """Resets every established TCP connection of a process, on both ends at once; returns their number."""
    libc = ctypes.CDLL(None, use_errno=True)
    process = os.pidfd_open(pid)
    reset = 0
    try:
        for number in os.listdir(f"/proc/{pid}/fd"):
            try:
                if not os.readlink(f"/proc/{pid}/fd/{number}").startswith("socket:"):
                    continue
            except OSError:
                continue
            copy = libc.syscall(SYS_PIDFD_GETFD, process, int(number), 0)
            if copy < 0:
                continue
            with socket.socket(fileno=copy) as connection:
                if connection.type != socket.SOCK_STREAM or connection.family == socket.AF_UNIX:
                    continue
                try:
                    connection.getpeername()
                except OSError:
                    continue
                # A connect to no address dissolves the association, by a reset.
                nothing = struct.pack("H14x", socket.AF_UNSPEC)
                reset += libc.connect(connection.fileno(), nothing, len(nothing)) == 0
    finally:
        os.close(process)
    return reset
