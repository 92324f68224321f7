//! The events of a run, in lines for people. Lines are formatted only if a reader wants the transcript.

use std::{collections::VecDeque, fmt};

/// The lines of a run.
pub struct Transcript {
    keep: usize,
    lines: VecDeque<String>,
}

impl Transcript {
    /// A transcript without a reader: keeps no lines.
    pub fn off() -> Self {
        Self::last(0)
    }

    /// Keeps the last `keep` lines.
    pub fn last(keep: usize) -> Self {
        Self {
            keep,
            lines: VecDeque::new(),
        }
    }

    /// Adds a line, at a simulated time in microseconds.
    pub fn line(&mut self, now: u64, line: impl FnOnce() -> String) {
        if self.keep == 0 {
            return;
        }
        if self.lines.len() == self.keep {
            self.lines.pop_front();
        }
        self.lines
            .push_back(format!("{:>6}.{:03} ms  {}", now / 1_000, now % 1_000, line()));
    }
}

impl fmt::Display for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}
