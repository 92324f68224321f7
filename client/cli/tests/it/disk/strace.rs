//! Faults of the disk under a running process, by `strace`.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

/// `strace`, attached to a process.
pub(crate) struct Strace(Child);

impl Strace {
    /// From now on, the `nth` sync of each thread fails; `None` where such a fault cannot be injected.
    pub(crate) fn fail_sync(process: u32, nth: u32) -> Option<Self> {
        Self::inject(process, &format!("error=EIO:when={nth}"))
    }

    /// From now on, each sync takes a minute.
    pub(crate) fn hang_syncs(process: u32) -> Option<Self> {
        Self::inject(process, "delay_enter=60000000")
    }

    fn inject(process: u32, fault: &str) -> Option<Self> {
        let inject = format!("inject=fsync,fdatasync:{fault}");
        let mut strace = Command::new("strace");
        strace.args([
            "-f",
            "-e",
            "trace=fsync,fdatasync",
            "-e",
            &inject,
            "-o",
            "/dev/null",
            "-p",
        ]);
        strace.arg(process.to_string());
        strace.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = match strace.spawn() {
            Ok(child) => child,
            Err(error) => {
                eprintln!("skipped: strace does not start: {error}");
                return None;
            }
        };
        let mut line = String::new();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        lines.read_line(&mut line).unwrap();
        if line.contains(" attached") {
            // Keeps the pipe empty; ends together with strace.
            std::thread::spawn(move || lines.lines().for_each(drop));
            return Some(Self(child));
        }
        eprintln!("skipped: strace cannot attach: {line}");
        child.wait().unwrap();
        None
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
