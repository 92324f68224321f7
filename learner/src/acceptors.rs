//! The acceptors as this learner sees them: addresses, reachability and faults.

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use paxos_common::{
    paxos::{
        forming::FormReport,
        identity::{AcceptorUuid, ClusterId, RunNumber},
        witness::{Run, WentBack, Witnesses},
    },
    peer::{self, Address, Backoff, MessageLimits as _, connect_lazy},
    wire::{self, Malformed},
};
use paxos_proto::v1::{self as pb, acceptor_client::AcceptorClient};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout},
};
use tonic::{Status, transport::Channel};

/// Longest wait for the answer to a call, or for a stream to open.
pub(crate) const CALL_DEADLINE: Duration = Duration::from_secs(2);

/// Longest wait for a turn to identify an acceptor: a turn takes two successive calls.
const TURN_DEADLINE: Duration = CALL_DEADLINE.saturating_mul(2);

/// First wait between attempts: short, because a restarting acceptor is back within a second.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// The longest wait between attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// Length of silence after which an acceptor needs a person.
const SILENT_LONG: Duration = Duration::from_secs(30);

/// The waits between attempts to reach an acceptor.
pub(crate) fn backoff() -> Backoff {
    Backoff::new(BACKOFF_MIN, BACKOFF_MAX)
}

/// Why an acceptor's answers cannot be used now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// Waiting helps.
    #[error("no answer within {CALL_DEADLINE:?}")]
    Deadline,
    /// Waiting helps.
    #[error("{}", peer::reason(.0))]
    Call(#[from] Status),
    /// The stream ended: the acceptor stops, or lets a slow reader start over.
    #[error("the acceptor ended the stream")]
    Ended,
    /// Waiting helps: a proposer completes the forming.
    #[error("the acceptor has stored the configuration but is not formed yet")]
    Forming,
    /// The acceptor must never be counted.
    #[error(
        "the acceptor is blank, but the cluster is formed: the acceptor has lost its disk, and cannot rejoin as a \
         blank acceptor"
    )]
    Blank,
    /// The acceptor must never be counted.
    #[error("the acceptor belongs to cluster {found}, not to {expected}")]
    OtherCluster { found: ClusterId, expected: ClusterId },
    /// The acceptor must never be counted.
    #[error("acceptor {0} answers at this address, but is no member of the cluster")]
    Stranger(AcceptorUuid),
    /// The acceptor must never be counted.
    #[error(
        "acceptor {found} answers at this address, but acceptor {expected} answered when the stream opened"
    )]
    Changed {
        found: AcceptorUuid,
        expected: AcceptorUuid,
    },
    /// Waiting helps, unless the acceptor shows the same runs again: a restart may have followed the last showing.
    #[error("the acceptor must show its runs again")]
    Suspected,
    /// Waiting helps.
    #[error(
        "the acceptor's run is new, and only {told} of the {needed} required other acceptors report their tables"
    )]
    Unwitnessed { told: usize, needed: usize },
    /// The acceptor must never be counted.
    #[error(transparent)]
    WentBack(WentBack),
    /// The acceptor does not speak the protocol.
    #[error("the acceptor sent an invalid message: {0}")]
    Malformed(#[from] Malformed),
}

impl Fault {
    fn is_refusal(&self) -> bool {
        match self {
            Self::Deadline
            | Self::Call(_)
            | Self::Ended
            | Self::Forming
            | Self::Suspected
            | Self::Unwitnessed { .. } => false,
            Self::Blank
            | Self::OtherCluster { .. }
            | Self::Stranger(_)
            | Self::Changed { .. }
            | Self::WentBack(_)
            | Self::Malformed(_) => true,
        }
    }
}

/// An acceptor's introduction.
#[derive(Debug)]
pub(crate) struct Introduction {
    pub(crate) report: FormReport,
    /// The present run.
    pub(crate) run: RunNumber,
    /// All runs of the acceptor, the present run last.
    pub(crate) runs: Vec<Run>,
    pub(crate) remembers: Witnesses,
}

/// The acceptor's last logged standing. Each change is logged once, no matter how many tasks notice the change.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    Unheard,
    Answering,
    /// Since this time.
    Silent(Instant),
    SilentLong,
    Refused(String),
}

/// An address of the list.
#[derive(Debug)]
pub(crate) struct Acceptor {
    address: Address,
    client: AcceptorClient<Channel>,
    standing: Mutex<Standing>,
    /// The operator's name for the acceptor, for traces; unset before the first answer.
    name: OnceLock<String>,
    /// Held by the task that has the acceptor identified.
    turn: Semaphore,
}

impl Acceptor {
    /// Connects at the first call.
    pub(crate) fn new(address: Address) -> Arc<Self> {
        let client = AcceptorClient::new(connect_lazy(&address)).with_message_limits();
        let standing = Mutex::new(Standing::Unheard);
        Arc::new(Self {
            address,
            client,
            standing,
            name: OnceLock::new(),
            turn: Semaphore::new(1),
        })
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// The operator's name for the acceptor.
    pub(crate) fn name(&self) -> Option<&str> {
        self.name.get().map(String::as_str)
    }

    pub(crate) fn client(&self) -> AcceptorClient<Channel> {
        self.client.clone()
    }

    /// Asks how far the acceptor is in forming, and changes nothing there.
    pub(crate) async fn ask(&self) -> Result<Introduction, Fault> {
        let request = pb::FormRequest {
            caller: Some(wire::caller(None)),
            step: None,
        };
        let answer = within_deadline(self.client().form(request)).await?.into_inner();
        self.name.get_or_init(|| answer.id.clone());
        let stamp = wire::read_stamp(answer.stamp.as_ref())?;
        let runs = answer
            .stamp
            .as_ref()
            .map_or_else(Vec::new, |stamp| wire::runs(&stamp.runs));
        if runs.last().map(|present| present.run) != Some(stamp.run) {
            return Err(Malformed::Missing("the present run").into());
        }
        let remembers = wire::read_witnesses(&answer.witnesses)?;
        let membership = wire::membership(answer.membership(), answer.configuration)?;
        Ok(Introduction {
            report: FormReport {
                acceptor: stamp.acceptor,
                address: Arc::from(self.address.as_str()),
                membership,
            },
            run: stamp.run,
            runs,
            remembers,
        })
    }

    /// Waits for a turn to have the acceptor identified. The turn lasts until the permit is dropped.
    ///
    /// # Cancel safety
    /// Safe: a caller that stops waiting gets no turn.
    pub(crate) async fn turn(&self) -> Result<SemaphorePermit<'_>, Fault> {
        let turn = timeout(TURN_DEADLINE, self.turn.acquire()).await;
        Ok(turn
            .map_err(|_| Fault::Deadline)?
            .expect("this semaphore is never closed"))
    }

    /// The acceptor answered. A refused acceptor stays refused: an opened call is no proof yet.
    pub(crate) fn answered(&self) {
        let refused = matches!(*self.standing(), Standing::Refused(_));
        if !refused {
            self.proved();
        }
    }

    /// The acceptor answered as the expected member.
    pub(crate) fn proved(&self) {
        if let Some(Standing::Silent(_) | Standing::SilentLong | Standing::Refused(_)) =
            self.change(Standing::Answering)
        {
            tracing::info!(address = %self.address, "acceptor answers again");
        }
    }

    /// The acceptor did not answer correctly. Logged once for each kind of trouble, until the acceptor answers again.
    pub(crate) fn failed(&self, fault: &Fault) {
        tracing::debug!(address = %self.address, %fault, "acceptor failed");
        if fault.is_refusal() {
            if self.change(Standing::Refused(fault.to_string())).is_some() {
                tracing::error!(address = %self.address, %fault, "acceptor refused: its votes are not counted");
            }
            return;
        }
        let mut standing = self.standing();
        match *standing {
            Standing::Silent(since) if since.elapsed() >= SILENT_LONG => {
                *standing = Standing::SilentLong;
                tracing::warn!(address = %self.address, %fault, "acceptor not connected for {SILENT_LONG:?}; trying again");
            }
            Standing::Silent(_) | Standing::SilentLong => {}
            Standing::Unheard | Standing::Answering | Standing::Refused(_) => {
                *standing = Standing::Silent(Instant::now());
                tracing::info!(address = %self.address, %fault, "acceptor not connected; trying again");
            }
        }
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the standing; returns the previous standing, if different.
    fn change(&self, standing: Standing) -> Option<Standing> {
        let mut held = self.standing();
        (*held != standing).then(|| std::mem::replace(&mut *held, standing))
    }
}

/// Awaits a call, or the opening of a stream, for [`CALL_DEADLINE`] at most.
pub(crate) async fn within_deadline<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Fault> {
    match timeout(CALL_DEADLINE, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Fault::Deadline),
    }
}
