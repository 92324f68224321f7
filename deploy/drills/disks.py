"""Disks of acceptors that a drill can slow down and stop, by a library that is loaded into the processes."""

import os
import shutil
import subprocess
from pathlib import Path

from trial import Skipped


class Disks:
    """One control file for each acceptor; `disk.c` says what stands in it."""

    def __init__(self, trial):
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            raise Skipped("this machine has no C compiler (`cc` or `gcc`)")
        self.directory = trial.directory / "disks"
        self.directory.mkdir(exist_ok=True)
        self.library = self.directory / "disk.so"
        source = Path(__file__).parent / "disk.c"
        words = [compiler, "-O1", "-Wall", "-shared", "-fPIC", "-o", str(self.library), str(source), "-ldl"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise Skipped(f"`{' '.join(words)}` failed here: {done.stderr.strip()}")

    def environment(self, name):
        return {"LD_PRELOAD": str(self.library), "DRILL_DISK": str(self.directory / name)}

    def _write(self, names, line):
        for name in names:
            # Renamed into place, so that no process reads half a line.
            new = self.directory / f"{name}.new"
            new.write_text(line + "\n")
            os.replace(new, self.directory / name)

    def delay(self, names, ms):
        """Each sync takes this much longer."""
        self._write(names, f"delay {ms}")

    def hiccup(self, names, ms, every_ms):
        """Syncs that begin in the first part of each period wait for the end of that part."""
        self._write(names, f"hiccup {ms} {every_ms}")

    def hold(self, names, end=""):
        """Syncs wait, of all files or of those whose path ends so, until `free`."""
        self._write(names, f"hold {end}")

    def free(self, names):
        """The disks work again."""
        self._write(names, "")

    def held(self, name):
        """Whether a sync was held since the start of the trial."""
        return (self.directory / f"{name}.held").exists()
