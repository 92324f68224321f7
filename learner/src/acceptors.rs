//! The acceptors as this learner sees them: connections, reachability and faults.

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
        Address, AddressBook, Backoff, MessageLimits as _, Socket,
        acceptor::{AWAY_LONG, Unusable, answer_within, form, form_report, shown_runs},
    },
    trace::Span,
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
#[derive(Debug, Default)]
pub(crate) struct LoggedStanding(Mutex<Standing>);

#[derive(Debug, Default, PartialEq, Eq)]
enum Standing {
    #[default]
    Unheard,
    Answering,
    /// Since this time.
    Silent(Instant),
    SilentLong,
    Refused(String),
}

/// An acceptor of the configuration, wherever it answers.
#[derive(Debug)]
pub(crate) struct ListedAcceptor {
    uuid: AcceptorUuid,
    /// The address in the configuration.
    listed: Arc<str>,
    book: Arc<AddressBook>,
    /// Where the acceptor answered last; before, the first address to try.
    place: Mutex<Option<Place>>,
    standing: LoggedStanding,
    /// The operator's name for the acceptor, for traces; unset before the first answer.
    name: OnceLock<String>,
    /// Held by the task that has the acceptor identified.
    turn: Semaphore,
}

/// An address, with its connection.
#[derive(Clone, Debug)]
struct Place {
    address: Address,
    client: AcceptorClient<Channel>,
}

impl ListedAcceptor {
    /// Connects at the first call.
    pub(crate) fn new(uuid: AcceptorUuid, listed: Arc<str>, book: Arc<AddressBook>) -> Arc<Self> {
        Arc::new(Self {
            uuid,
            listed,
            book,
            place: Mutex::default(),
            standing: LoggedStanding::default(),
            name: OnceLock::new(),
            turn: Semaphore::new(1),
        })
    }

    pub(crate) fn uuid(&self) -> AcceptorUuid {
        self.uuid
    }

    /// The address in the configuration.
    pub(crate) fn listed(&self) -> &Arc<str> {
        &self.listed
    }

    /// Where the acceptor answered last, or where it is tried first; for messages.
    pub(crate) fn address(&self) -> Arc<str> {
        let place = self.lock_place();
        place.as_ref().map_or_else(
            || Arc::clone(&self.listed),
            |place| Arc::from(place.address.as_str()),
        )
    }

    /// The operator's name for the acceptor.
    pub(crate) fn name(&self) -> Option<&str> {
        self.name.get().map(String::as_str)
    }

    /// Names the acceptor in a span of a call.
    pub(crate) fn name_in(&self, span: &mut Span) {
        if let Some(place) = &*self.lock_place() {
            span.peer(&place.address);
        }
    }

    fn lock_place(&self) -> MutexGuard<'_, Option<Place>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection to the place where the acceptor answered last, or is tried first.
    ///
    /// # Errors
    /// No address of the acceptor can be called.
    pub(crate) fn client(&self) -> Result<AcceptorClient<Channel>, Unusable> {
        Ok(self.place()?.client)
    }

    fn place(&self) -> Result<Place, Unusable> {
        let mut place = self.lock_place();
        if let Some(place) = &*place {
            return Ok(place.clone());
        }
        let candidates = self.book.candidates(self.uuid, &self.listed, |_| true);
        let first = candidates.into_iter().next();
        let first = self.connect(first.ok_or(Unusable::NoAddress)?);
        Ok(place.insert(first).clone())
    }

    /// The connection to an address: the present one, or another.
    fn place_at(&self, address: Address) -> Place {
        let present = self.lock_place().clone();
        let is_there = |place: &Place| place.address == address;
        present.filter(is_there).unwrap_or_else(|| self.connect(address))
    }

    fn connect(&self, address: Address) -> Place {
        let channel = self.book.dialer().to_acceptor(&address);
        let client = AcceptorClient::new(channel).with_message_limits();
        Place { address, client }
    }

    /// A connection of its own, for one call: dropping the socket ends the connection.
    ///
    /// # Errors
    /// As [`Self::client`].
    pub(crate) fn dedicated_client(&self) -> Result<(AcceptorClient<Channel>, Socket), Unusable> {
        let (channel, socket) = self.book.dialer().dedicated(&self.place()?.address);
        Ok((AcceptorClient::new(channel).with_message_limits(), socket))
    }

    /// Asks how far the acceptor is in forming, and changes nothing there. The addresses of the acceptor are tried in turn.
    /// `check` gets every answer, also of another acceptor.
    pub(crate) async fn ask(
        &self,
        is_member: impl Fn(AcceptorUuid) -> bool,
        check: impl Fn(&FormReport) -> Result<(), Unusable>,
    ) -> Result<Introduction, Unusable> {
        // The first refusal at an address of this acceptor, or otherwise the first failure. At other addresses, other
        // acceptors may answer: that is no fault.
        let mut first: Option<Unusable> = None;
        let last = self.lock_place().as_ref().map(|place| place.address.clone());
        for address in self.book.candidates(self.uuid, &self.listed, is_member) {
            let is_own = address.as_str() == &*self.listed || last.as_ref() == Some(&address);
            match self.ask_at(self.place_at(address), &check).await {
                Ok(introduction) => return Ok(introduction),
                Err(later @ Unusable::LaterEra(_)) => return Err(later),
                Err(reason) => {
                    let outranks = |first: &Unusable| is_own && reason.is_refusal() && !first.is_refusal();
                    if first.as_ref().is_none_or(outranks) {
                        first = Some(reason);
                    }
                }
            }
        }
        Err(first.unwrap_or(Unusable::NoAddress))
    }

    async fn ask_at(
        &self,
        mut place: Place,
        check: impl Fn(&FormReport) -> Result<(), Unusable>,
    ) -> Result<Introduction, Unusable> {
        let answer = form(&mut place.client, None, CALL_DEADLINE).await?;
        let report = form_report(place.address.as_str(), &answer)?;
        self.book.answered(&place.address, report.acceptor);
        let is_another = report.acceptor != self.uuid;
        if is_another {
            self.open_again(&place.address);
        }
        check(&report)?;
        if is_another {
            return Err(Unusable::Another {
                found: report.acceptor,
                expected: self.uuid,
            });
        }
        self.name.get_or_init(|| answer.id.clone());
        *self.lock_place() = Some(place);
        Ok(Introduction {
            report,
            run: wire::read_stamp(answer.stamp.as_ref())?.run,
            runs: shown_runs(&answer)?,
            remembers: wire::read_witnesses(&answer.witnesses)?,
        })
    }

    /// Another acceptor answered at an address. The name may have led to another machine when the connection was opened, and
    /// that connection stays whole: the next call opens another connection.
    fn open_again(&self, address: &Address) {
        let mut place = self.lock_place();
        if let Some(place) = place.as_mut().filter(|place| place.address == *address) {
            *place = self.connect(address.clone());
        }
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
        self.standing.answered(&self.address());
    }

    /// The acceptor answered as the expected member.
    pub(crate) fn proved(&self) {
        if !self.standing.is_answering() {
            self.standing.proved(&self.address());
        }
    }

    /// The acceptor cannot be used now. Logged once for each kind of trouble, until the acceptor answers again.
    pub(crate) fn failed(&self, reason: &Unusable) {
        self.standing.failed(&self.address(), reason);
    }
}

impl LoggedStanding {
    /// The acceptor answered. A refused acceptor stays refused: an opened call is no proof yet.
    pub(crate) fn answered(&self, address: &str) {
        let refused = matches!(*self.lock(), Standing::Refused(_));
        if !refused {
            self.proved(address);
        }
    }

    fn is_answering(&self) -> bool {
        *self.lock() == Standing::Answering
    }

    fn proved(&self, address: &str) {
        if let Some(Standing::Silent(_) | Standing::SilentLong | Standing::Refused(_)) =
            self.change(Standing::Answering)
        {
            tracing::info!(address, "acceptor answers again");
        }
    }

    /// See [`ListedAcceptor::failed`].
    pub(crate) fn failed(&self, address: &str, reason: &Unusable) {
        tracing::debug!(address, %reason, "acceptor failed");
        if matches!(reason, Unusable::LaterEra(_)) {
            // The change of members is logged where it is adopted.
            return;
        }
        if reason.is_refusal() {
            if self.change(Standing::Refused(reason.to_string())).is_some() {
                tracing::error!(address, %reason, "acceptor refused: it is not counted");
            }
            return;
        }
        let mut standing = self.lock();
        match *standing {
            Standing::Silent(since) if since.elapsed() >= AWAY_LONG => {
                *standing = Standing::SilentLong;
                tracing::warn!(address, %reason, "acceptor not connected for {AWAY_LONG:?}; trying again");
            }
            Standing::Silent(_) | Standing::SilentLong => {}
            Standing::Unheard | Standing::Answering | Standing::Refused(_) => {
                *standing = Standing::Silent(Instant::now());
                tracing::info!(address, %reason, "acceptor not connected; trying again");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Standing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the standing; returns the previous standing, if different.
    fn change(&self, standing: Standing) -> Option<Standing> {
        let mut held = self.lock();
        (*held != standing).then(|| std::mem::replace(&mut *held, standing))
    }
}

/// Awaits a call, or the opening of a stream, for [`CALL_DEADLINE`] at most.
pub(crate) async fn within_deadline<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Unusable> {
    answer_within(CALL_DEADLINE, call).await
}

#[cfg(test)]
mod tests;
