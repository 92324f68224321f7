//! Failure: the error that ends a process, with an exit code.

use std::{fmt, process};

use super::signals::EndSignal;

/// Why a process ended, for scripts and supervisors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Stopped on request.
    Clean = 0,
    /// The client's command was carried out and the answer is no: condition failed, lost, no such key.
    No = 1,
    /// The command line or environment is invalid.
    Usage = 2,
    /// No answer, or no answer before the deadline.
    Unavailable = 69,
    /// An internal fault: a panic, a broken invariant.
    Internal = 70,
    /// The disk failed: not writable, a failed commit, a damaged state record; a client's standard output is full.
    Storage = 74,
    /// Refused to run: a foreign directory, a lock of another process, a foreign cluster, differing lists.
    Refused = 78,
    /// The command to run under an election cannot be executed; as in shells.
    NotExecutable = 126,
    /// The command to run under an election was not found; as in shells.
    NotFound = 127,
    /// A client's command was ended by SIGHUP: 128 + 1.
    HungUp = 129,
    /// A client's command was ended by SIGINT: 128 + 2.
    Interrupted = 130,
    /// A client's command was ended by SIGTERM: 128 + 15.
    Terminated = 143,
}

impl From<Exit> for process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error that ends the process, with an exit code.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub code: Exit,
    /// The error; the whole chain is printed on a single line.
    pub source: anyhow::Error,
}

impl Failure {
    /// A failure with the exit code `code`.
    pub fn new(code: Exit, source: impl Into<anyhow::Error>) -> Self {
        let source = source.into();
        Self { code, source }
    }

    /// Invalid flags: exit 2.
    pub fn usage(text: impl fmt::Display) -> Self {
        Self::new(Exit::Usage, anyhow::anyhow!("{text}"))
    }

    /// No answer: exit 69.
    pub fn unavailable(source: impl Into<anyhow::Error>) -> Self {
        Self::new(Exit::Unavailable, source)
    }

    /// An internal fault: exit 70.
    pub fn internal(source: impl Into<anyhow::Error>) -> Self {
        Self::new(Exit::Internal, source)
    }

    /// The disk failed: exit 74.
    pub fn storage(source: impl Into<anyhow::Error>) -> Self {
        Self::new(Exit::Storage, source)
    }

    /// This process must not run here, or not with the given peers: exit 78.
    pub fn refused(source: impl Into<anyhow::Error>) -> Self {
        Self::new(Exit::Refused, source)
    }

    /// The reader of standard output has closed the pipe, as `head` does: the process ends with 0 and prints nothing,
    /// unless another failure, such as the answer no, needs its own code.
    pub fn unread() -> Self {
        Self::new(Exit::Clean, anyhow::anyhow!("standard output is closed"))
    }

    /// A signal ended a client's command early: exit 128 + the signal's number. `left` describes possible effects of
    /// the command.
    pub fn ended_by(signal: EndSignal, left: &str) -> Self {
        let code = match signal {
            EndSignal::HangUp => Exit::HungUp,
            EndSignal::Interrupt => Exit::Interrupted,
            EndSignal::Terminate => Exit::Terminated,
        };
        Self::new(code, anyhow::anyhow!("ended by {signal}{left}"))
    }

    /// Adds the failed step to the text of the failure; verb first, as in “open store”.
    #[must_use]
    pub fn context(self, text: impl fmt::Display + Send + Sync + 'static) -> Self {
        Self {
            code: self.code,
            source: self.source.context(text),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = String::new();
        for cause in self.source.chain() {
            let text = cause.to_string();
            // Some errors end with the text of the cause.
            if shown.ends_with(&text) {
                continue;
            }
            if !shown.is_empty() {
                shown += ": ";
            }
            shown += &text;
        }
        formatter.write_str(&shown)
    }
}

impl std::error::Error for Failure {}

impl From<anyhow::Error> for Failure {
    fn from(source: anyhow::Error) -> Self {
        Self::internal(source)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn failure_prints_its_whole_chain_on_one_line() {
        let failure = Failure::storage(anyhow::anyhow!("disk full")).context("commit votes");
        assert_eq!(failure.to_string(), "commit votes: disk full");
        assert_eq!(failure.code, Exit::Storage);
    }

    #[test]
    fn cause_whose_text_its_error_repeats_is_printed_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("error returned from database: {0}")]
        struct Repeats(#[source] io::Error);
        let failure = Failure::storage(Repeats(io::Error::other("file is not a database")));
        assert_eq!(
            failure.context("open store").to_string(),
            "open store: error returned from database: file is not a database"
        );
    }

    #[test]
    fn unmarked_error_is_an_internal_fault() {
        assert_eq!(Failure::from(anyhow::anyhow!("odd")).code, Exit::Internal);
    }
}
