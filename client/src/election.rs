//! Elections: one of many candidates holds at a time, with a fencing token.
//!
//! `proto/paxos/v1/election.proto` describes the method, for other languages too.

mod campaign;
mod lease;
mod observe;
mod seat;
mod tenure;
#[cfg(test)]
mod tests;

use std::{pin::pin, time::Duration};

use bytes::Bytes;
use paxos_common::wire::election::TTL_MS;
use paxos_proto::v1;

use crate::{
    Client, KEY_BYTES_MAX, Updates, Version,
    error::{Cause, SubscribeError, Unanswered},
    give_up::GiveUpSwitch,
    limits,
};
use lease::Lost;
use seat::ElectionRegister;

pub use tenure::Tenure;

/// Shortest and longest time to live.
const TTL: (Duration, Duration) = (
    Duration::from_millis(*TTL_MS.start()),
    Duration::from_millis(*TTL_MS.end()),
);

/// A candidate in an election.
///
/// An election is a register; the name of the election is the key of the register. The candidate of the last write
/// holds, and renews the register while alive. When the register has not changed for the time to live, other candidates
/// take over, each by its own monotonic clock.
///
/// # What holding means
/// A [`Tenure`] reports its loss a tenth of the time to live *before* other candidates may take over. The time counts
/// from before the last successful renewal was sent. So two candidates that use [`Tenure::check`] before each action
/// never both find that they hold. This is guaranteed while both clocks run equally fast, within that tenth, and
/// neither stands still. (`CLOCK_MONOTONIC` runs on while a process is stopped with SIGSTOP, but not while the machine
/// is suspended.)
///
/// # What the fencing token protects
/// A holder that is paused *between* the check and the action acts late, when the next holder may act already. No code
/// in the holder can prevent this. The target of the action can: each request carries the fencing token, and the store,
/// queue or device remembers the highest token seen and refuses lower tokens. Then the late request is refused. A store
/// without this check of tokens is not protected at that moment.
///
/// The token is the [`Version`] of the acquiring write: the same for the whole tenure, and higher than the token of
/// every earlier holder. [`Version::packed`] is the same token as an integer. As text, tokens do not sort.
#[derive(Clone, Debug)]
pub struct Election {
    register: ElectionRegister,
    candidacy: Candidacy,
}

/// The content of a candidate's writes.
#[derive(Clone, Debug)]
pub(crate) struct Candidacy {
    candidate: Bytes,
    ttl: Duration,
}

impl Candidacy {
    /// The record to write; the acquiring write has no token.
    fn record(&self, token: Option<Version>) -> v1::Holder {
        v1::Holder {
            candidate: self.candidate.clone(),
            token: token.map(v1::Version::from),
            ttl_ms: u64::try_from(self.ttl.as_millis()).expect("an hour fits"),
        }
    }
}

impl Election {
    /// Stands as `candidate` in the election `name`. The candidate's name is for people and observers. Nothing is sent
    /// yet.
    ///
    /// `ttl`, 500 milliseconds to an hour, is how long the other candidates wait when the holder fails. Choose a few
    /// times the duration of a change of the cluster's leader, so that a change of the leader does not end a tenure.
    ///
    /// # Errors
    /// [`ElectionError::Invalid`]: a limit is broken; the text names the limit.
    pub fn new(
        client: &Client,
        name: impl Into<Bytes>,
        candidate: impl Into<Bytes>,
        ttl: Duration,
    ) -> Result<Self, ElectionError> {
        let (name, candidate) = (name.into(), candidate.into());
        let invalid = |text| Err(ElectionError::Invalid(text));
        if let Err(limits::LimitExceeded(text)) = limits::check_key(&name) {
            return invalid(text);
        }
        if candidate.len() > KEY_BYTES_MAX {
            return invalid(format!(
                "the candidate's name has {} bytes: at most {} are allowed",
                candidate.len(),
                KEY_BYTES_MAX
            ));
        }
        if ttl < TTL.0 || ttl > TTL.1 {
            return invalid(format!("the time to live is {ttl:?}: give 500ms to 1h"));
        }
        Ok(Self {
            register: ElectionRegister {
                client: client.clone(),
                name,
            },
            candidacy: Candidacy { candidate, ttl },
        })
    }

    /// Waits until this candidate holds.
    ///
    /// # Errors
    /// [`ElectionError::Unavailable`] when the cluster has not answered for the client's timeout. The wait for the
    /// end of another holder's tenure has no limit.
    ///
    /// # Cancel safety
    /// Dropping the future ends the candidacy. If the candidate was about to win, there may be no holder for up to the
    /// time to live. [`campaign_until`](Self::campaign_until) ends the candidacy without this gap.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub async fn campaign(&self) -> Result<Tenure, ElectionError> {
        loop {
            if let Some(tenure) = self.campaign_until(std::future::pending()).await? {
                return Ok(tenure);
            }
        }
    }

    /// As [`campaign`](Self::campaign), until `stop` is ready: `None`. No write of this candidate is in effect then, and
    /// none takes effect later: an unsent write is withdrawn, and the outcome of a sent write is waited for. If this
    /// write wins, the candidate holds, and should [resign](Tenure::resign): no time to live must pass before another
    /// candidate may hold.
    ///
    /// # Errors
    /// As [`campaign`](Self::campaign); [`ElectionError::OutcomeUnknown`] when `stop` is ready and the outcome of a
    /// write stays unknown.
    ///
    /// # Cancel safety
    /// As [`campaign`](Self::campaign).
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub async fn campaign_until(
        &self,
        stop: impl Future<Output = ()>,
    ) -> Result<Option<Tenure>, ElectionError> {
        let timeout = self.register.client.timeout();
        let (switch, given_up) = GiveUpSwitch::new();
        let register = ElectionRegister {
            client: self.register.client.with_give_up(given_up.clone()),
            name: self.register.name.clone(),
        };
        let mut campaign = pin!(campaign::run(
            &register,
            &self.candidacy,
            timeout,
            given_up.wait()
        ));
        let won = tokio::select! {
            won = &mut campaign => won?,
            // Not cancelled by this arm: polled again.
            () = stop => {
                switch.give_up();
                campaign.await?
            }
        };
        Ok(won.map(|won| Tenure::start(self.register.clone(), self.candidacy.clone(), won)))
    }

    /// Observes the election: the present holder first, and then each change, to another holder or to none. Renewals
    /// are not reported, and neither is the end of a holder's time before another candidate takes over.
    ///
    /// The updates end in [`ElectionError::Unavailable`] only when no learner has answered for the client's timeout.
    pub fn observe(&self) -> Updates<Option<Holder>, ElectionError> {
        observe::start(self.register.clone(), self.register.client.timeout())
    }
}

/// The holder, according to the register. The holder's time may be up already: only the holder knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The name of the candidate.
    pub candidate: Bytes,
    /// The fencing token.
    pub token: Version,
    /// Other candidates take over when the register has not changed for this long.
    pub ttl: Duration,
}

impl Holder {
    /// Reads the content of the register, written at `version`.
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
            token,
            ttl,
        })
    }
}

/// Taking part in an election is not possible, or a tenure is over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ElectionError {
    /// A limit is broken; the text names the limit.
    #[error("{0}")]
    Invalid(String),
    /// The register of that name holds no record of an election.
    #[error(
        "the register of that name holds no record of an election (it was written at version {version}): choose another \
         name, or delete the register if no client needs the register"
    )]
    NotAnElection {
        /// The version of the last write.
        version: Version,
    },
    /// The cluster refused permanently.
    #[error("refused: {0}")]
    Refused(Cause),
    /// The cluster has not answered within the client's timeout.
    #[error("the cluster does not answer: {0}")]
    Unavailable(Cause),
    /// The candidate has left, and the outcome of a write is unknown. If the write took effect, or takes effect later,
    /// other candidates take over after the time to live.
    #[error("the outcome of the candidate's last write is unknown: {0}")]
    OutcomeUnknown(Cause),
    /// The tenure is over: no renewal succeeded in time. Another candidate may hold soon, or holds already.
    #[error("the time to live passed without a successful renewal")]
    Lapsed,
    /// The tenure is over: another candidate has taken over, or a client wrote or deleted the register.
    #[error("another candidate took over, or the register was changed")]
    Overtaken,
    /// The tenure is over: the holder resigned, or dropped the tenure.
    #[error("resigned")]
    Resigned,
}

impl From<Lost> for ElectionError {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::Lapsed => Self::Lapsed,
            Lost::Overtaken => Self::Overtaken,
            Lost::Resigned => Self::Resigned,
        }
    }
}

impl From<Unanswered> for ElectionError {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::Invalid(cause) => Self::Invalid(cause.to_string()),
            Unanswered::Refused(cause) => Self::Refused(cause),
            unanswered @ (Unanswered::OutOfRange(_)
            | Unanswered::Trimmed(_)
            | Unanswered::Aborted(_)
            | Unanswered::Unavailable(_)) => Self::Unavailable(unanswered.into_cause()),
        }
    }
}

impl From<SubscribeError> for ElectionError {
    fn from(error: SubscribeError) -> Self {
        match error {
            SubscribeError::Invalid(text) => Self::Invalid(text),
            SubscribeError::Refused(cause) => Self::Refused(cause),
            SubscribeError::OutOfRange(cause)
            | SubscribeError::Trimmed { cause, .. }
            | SubscribeError::Unavailable(cause) => Self::Unavailable(cause),
        }
    }
}
