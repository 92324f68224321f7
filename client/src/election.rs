//! Elections: one of many candidates holds at a time, and carries a fencing token.
//!
//! `proto/paxos/v1/election.proto` says how it works, for other languages too.

mod campaign;
mod lease;
mod observe;
mod seat;
mod tenure;
#[cfg(test)]
mod tests;

use std::{fmt, time::Duration};

use bytes::Bytes;
use paxos_proto::v1;

use crate::{
    Client, Version,
    error::{Cause, SubscribeError, Unanswered},
    limits,
};
use seat::Register;

pub use lease::Lost;
pub use observe::Observation;
pub use tenure::{Mandate, Tenure};

/// Shortest and longest time to live.
const TTL: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(3_600));

/// One candidate in one election.
///
/// An election is a register: its key is the election's name. The candidate that wrote it last holds, renews it while
/// it lives, and the others take it over when it has not changed for the time to live, each by its own monotonic clock.
///
/// # What holding means
/// A [`Tenure`] tells that it is lost a tenth of the time to live *before* others may take over, counted from before the
/// last successful renewal was sent; so two that look at [`Mandate::check`] before whatever they do never both find that
/// they hold, as long as their clocks run equally fast within that tenth, and do not stand still. (`CLOCK_MONOTONIC`
/// goes on while a process is stopped with SIGSTOP, but not while its machine is suspended.)
///
/// # What the token protects
/// A holder that is paused *between* looking and acting acts late, and the next one may act already. Nothing that runs
/// in the holder can prevent that. Whatever is acted on can: when each request carries [`Mandate::token`], and the
/// store, queue or device remembers the highest token that it has seen and refuses lower ones, the late request is
/// refused. A store that does not look at tokens is not protected in that moment.
#[derive(Clone, Debug)]
pub struct Election {
    register: Register,
    candidacy: Candidacy,
}

/// What a candidate writes.
#[derive(Clone, Debug)]
pub(crate) struct Candidacy {
    candidate: Bytes,
    ttl: Duration,
}

impl Candidacy {
    /// The record to write: without a token in the write that acquires.
    fn holder(&self, token: Option<Token>) -> v1::Holder {
        v1::Holder {
            candidate: self.candidate.clone(),
            token: token.map(|Token(version)| version.into()),
            ttl_ms: u64::try_from(self.ttl.as_millis()).expect("an hour fits"),
        }
    }
}

impl Election {
    /// Stands as `candidate`, a name for people and observers, in the election called `name`. Nothing is sent yet.
    ///
    /// `ttl`, 500 milliseconds to an hour, is how long the others wait when the holder fails: a few times longer than
    /// a change of the cluster's leader takes, so that this does not end a tenure.
    ///
    /// # Errors
    /// [`ElectionError::Invalid`]: a limit is broken, which the text names.
    pub fn new(
        client: &Client,
        name: impl Into<Bytes>,
        candidate: impl Into<Bytes>,
        ttl: Duration,
    ) -> Result<Self, ElectionError> {
        let (name, candidate) = (name.into(), candidate.into());
        let invalid = |text| Err(ElectionError::Invalid(text));
        if let Err(limits::Broken(text)) = limits::check_key(&name) {
            return invalid(text);
        }
        if candidate.len() > limits::KEY_BYTES_MAX {
            return invalid(format!(
                "the candidate's name has {} bytes: at most {} are allowed",
                candidate.len(),
                limits::KEY_BYTES_MAX
            ));
        }
        if ttl < TTL.0 || ttl > TTL.1 {
            return invalid(format!("the time to live is {ttl:?}: it must be 500ms to 1h"));
        }
        Ok(Self {
            register: Register {
                client: client.clone(),
                name,
            },
            candidacy: Candidacy { candidate, ttl },
        })
    }

    /// Waits until this candidate holds.
    ///
    /// # Errors
    /// [`ElectionError::Unavailable`] when the cluster has not answered for `patience`; waiting for another holder to
    /// end takes as long as it takes.
    ///
    /// # Cancel safety
    /// Dropping the future ends the candidacy. If it was just about to win, nobody holds for up to the time to live.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub async fn campaign(&self, patience: Duration) -> Result<Tenure, ElectionError> {
        let won = campaign::run(&self.register, &self.candidacy, patience).await?;
        Ok(Tenure::start(self.register.clone(), self.candidacy.clone(), won))
    }

    /// Tells who holds now, and then each change: another holder, or nobody. Renewals are not told, and neither is that
    /// a holder's time is up before somebody takes over.
    ///
    /// It ends in [`ElectionError::Unavailable`] only when no learner has answered for `patience`.
    pub fn observe(&self, patience: Duration) -> Observation {
        Observation::start(self.register.clone(), patience)
    }
}

/// A fencing token: the version of the write that acquired. Higher than that of every holder before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(Version);

impl Token {
    /// The version of the write that acquired.
    pub fn version(self) -> Version {
        self.0
    }

    /// As one integer, in the same order: slot · 65,536 + offset. Slots from 2⁴⁸ on all give the largest.
    pub fn packed(self) -> u64 {
        self.0.packed().unwrap_or(u64::MAX)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.packed().fmt(formatter)
    }
}

/// Who holds, as the register has it. Its time may be up already: only the holder itself knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Its name.
    pub candidate: Bytes,
    /// Its fencing token.
    pub token: Token,
    /// Others take over when the register has not changed for so long.
    pub ttl: Duration,
}

impl Holding {
    /// Reads what the register holds since `version`.
    fn read(value: &[u8], version: Version) -> Result<Self, ElectionError> {
        let foreign = || ElectionError::NotAnElection { version };
        let holder: v1::Holder = prost::Message::decode(value).map_err(|_| foreign())?;
        let ttl = Duration::from_millis(holder.ttl_ms);
        if ttl < TTL.0 || ttl > TTL.1 {
            return Err(foreign());
        }
        let token = match holder.token {
            Some(token) => Version::try_from(token).map_err(|_| foreign())?,
            None => version,
        };
        Ok(Self {
            candidate: holder.candidate,
            token: Token(token),
            ttl,
        })
    }
}

/// An election cannot be taken part in, or observed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElectionError {
    /// A limit is broken, which the text names.
    #[error("{0}")]
    Invalid(String),
    /// The register of that name holds something else.
    #[error(
        "the register of that name holds no record of an election (it was written at version {version}): choose another \
         name, or delete the register if nobody needs it"
    )]
    NotAnElection {
        /// The command that wrote it.
        version: Version,
    },
    /// The cluster refused for good.
    #[error("refused: {0}")]
    Refused(Cause),
    /// The cluster has not answered for as long as the caller was ready to wait.
    #[error("the cluster does not answer: {0}")]
    Unavailable(Cause),
}

impl From<Unanswered> for ElectionError {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::Invalid(cause) => Self::Invalid(cause.to_string()),
            Unanswered::Refused(cause) => Self::Refused(cause),
            Unanswered::OutOfRange(cause) | Unanswered::Aborted(cause) | Unanswered::Unavailable(cause) => {
                Self::Unavailable(cause)
            }
        }
    }
}

impl From<SubscribeError> for ElectionError {
    fn from(error: SubscribeError) -> Self {
        match error {
            SubscribeError::Invalid(text) => Self::Invalid(text),
            SubscribeError::OutOfRange(cause) | SubscribeError::Unavailable(cause) => {
                Self::Unavailable(cause)
            }
        }
    }
}
