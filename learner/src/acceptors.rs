//! The acceptors as this learner sees them: addresses, reachability and faults.

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use paxos_common::{
    paxos::{
        forming::FormReport,
        identity::{AcceptorUuid, RunNumber},
        witness::{Run, Witnesses},
    },
    peer::{
        Address, Backoff, Dialer, MessageLimits as _, Socket,
        acceptor::{AWAY_LONG, Unusable, answer_within, form, form_report, shown_runs},
    },
    wire,
};
use paxos_proto::v1::acceptor_client::AcceptorClient;
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

/// The waits between attempts to reach an acceptor.
pub(crate) fn backoff() -> Backoff {
    Backoff::new(BACKOFF_MIN, BACKOFF_MAX)
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
pub(crate) struct ListedAcceptor {
    address: Address,
    dialer: Dialer,
    client: AcceptorClient<Channel>,
    standing: Mutex<Standing>,
    /// The operator's name for the acceptor, for traces; unset before the first answer.
    name: OnceLock<String>,
    /// The acceptor that answered last at this address.
    answered_as: Mutex<Option<AcceptorUuid>>,
    /// Held by the task that has the acceptor identified.
    turn: Semaphore,
}

impl ListedAcceptor {
    /// Connects at the first call.
    pub(crate) fn new(address: Address, dialer: Dialer) -> Arc<Self> {
        let client = AcceptorClient::new(dialer.to_acceptor(&address)).with_message_limits();
        let standing = Mutex::new(Standing::Unheard);
        Arc::new(Self {
            address,
            dialer,
            client,
            standing,
            name: OnceLock::new(),
            answered_as: Mutex::default(),
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

    /// Whether this acceptor answered last at this address.
    pub(crate) fn is(&self, acceptor: AcceptorUuid) -> bool {
        *self.lock_answered_as() == Some(acceptor)
    }

    fn lock_answered_as(&self) -> MutexGuard<'_, Option<AcceptorUuid>> {
        self.answered_as.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn client(&self) -> AcceptorClient<Channel> {
        self.client.clone()
    }

    /// A connection of its own, for one call: dropping the socket ends the connection.
    pub(crate) fn dedicated_client(&self) -> (AcceptorClient<Channel>, Socket) {
        let (channel, socket) = self.dialer.dedicated(&self.address);
        (AcceptorClient::new(channel).with_message_limits(), socket)
    }

    /// Asks how far the acceptor is in forming, and changes nothing there.
    pub(crate) async fn ask(&self) -> Result<Introduction, Unusable> {
        let answer = form(&mut self.client(), None, CALL_DEADLINE).await?;
        self.name.get_or_init(|| answer.id.clone());
        let report = form_report(self.address.as_str(), &answer)?;
        *self.lock_answered_as() = Some(report.acceptor);
        Ok(Introduction {
            report,
            run: wire::read_stamp(answer.stamp.as_ref())?.run,
            runs: shown_runs(&answer)?,
            remembers: wire::read_witnesses(&answer.witnesses)?,
        })
    }

    /// Waits for a turn to have the acceptor identified. The turn lasts until the permit is dropped.
    ///
    /// # Cancel safety
    /// Safe: a caller that stops waiting gets no turn.
    pub(crate) async fn turn(&self) -> Result<SemaphorePermit<'_>, Unusable> {
        let turn = timeout(TURN_DEADLINE, self.turn.acquire()).await;
        Ok(turn
            .map_err(|_| Unusable::Silent)?
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

    /// The acceptor cannot be used now. Logged once for each kind of trouble, until the acceptor answers again.
    pub(crate) fn failed(&self, reason: &Unusable) {
        tracing::debug!(address = %self.address, %reason, "acceptor failed");
        if reason.is_refusal() {
            if self.change(Standing::Refused(reason.to_string())).is_some() {
                tracing::error!(address = %self.address, %reason, "acceptor refused: it is not counted");
            }
            return;
        }
        let mut standing = self.standing();
        match *standing {
            Standing::Silent(since) if since.elapsed() >= AWAY_LONG => {
                *standing = Standing::SilentLong;
                tracing::warn!(address = %self.address, %reason, "acceptor not connected for {AWAY_LONG:?}; trying again");
            }
            Standing::Silent(_) | Standing::SilentLong => {}
            Standing::Unheard | Standing::Answering | Standing::Refused(_) => {
                *standing = Standing::Silent(Instant::now());
                tracing::info!(address = %self.address, %reason, "acceptor not connected; trying again");
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
pub(crate) async fn within_deadline<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Unusable> {
    answer_within(CALL_DEADLINE, call).await
}
