//! Holding: the tenure of the owner, and the task that renews the tenure.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use super::{
    Candidacy, ElectionError, Holder,
    campaign::Won,
    lease::{Lease, Lost, renew_at},
    seat::Seat,
};
use crate::{
    Condition, Version, Written,
    error::{Cause, WriteError},
};

/// Wait after a failed renewal, as a share of the time to live, 1 / this: much shorter than the usual wait.
const RETRY: u32 = 20;

/// A won election: renewed in the background until resigned, dropped or lost. Cheap to clone, for the parts of a
/// program that act.
///
/// Call [`check`](Self::check) before every action reserved to the holder, and send the fencing token with the action.
/// When the last clone is dropped without [`resign`](Self::resign), the tenure is over at once for the owner; other
/// candidates take over after the time to live.
#[derive(Clone, Debug)]
pub struct Tenure {
    token: Version,
    lease: watch::Receiver<Lease>,
    owner: Arc<Owner>,
}

/// Shared by the clones of a tenure, and dropped with the last clone.
#[derive(Debug)]
struct Owner {
    lease: Arc<watch::Sender<Lease>>,
    /// Taken by the clone that resigns.
    keeper: Mutex<Option<Keeping>>,
}

/// The running [`Renewer`], and how to ask it to resign.
#[derive(Debug)]
struct Keeping {
    resign: oneshot::Sender<()>,
    keeper: JoinHandle<Result<(), WriteError>>,
}

impl Tenure {
    pub(crate) fn start(seat: impl Seat, candidacy: Candidacy, won: Won) -> Self {
        let lease = Arc::new(watch::Sender::new(Lease::new(won.sent_at, candidacy.ttl)));
        let (resign, resigned) = oneshot::channel();
        let keeper = Renewer {
            seat,
            next: renew_at(won.sent_at, candidacy.ttl),
            candidacy,
            token: won.token,
            last: won.version,
            lease: lease.clone(),
        };
        let keeping = Keeping {
            resign,
            keeper: tokio::spawn(keeper.run(resigned)),
        };
        Self {
            token: won.token,
            lease: lease.subscribe(),
            owner: Arc::new(Owner {
                lease,
                keeper: Mutex::new(Some(keeping)),
            }),
        }
    }

    /// The fencing token: the version of the acquiring write, the same for the whole tenure.
    /// [`Version::packed`] is the same token as an integer.
    pub fn token(&self) -> Version {
        self.token
    }

    /// Whether the tenure is held now. A tenure that is no longer held is never held again.
    pub fn is_held(&self) -> bool {
        self.check().is_ok()
    }

    /// The fencing token, if the tenure is held now. Call this before every action reserved to the holder.
    ///
    /// The check uses only the clock, so a call is cheap. The result is right even in a stopped process that has just
    /// been continued.
    ///
    /// # Errors
    /// [`Lapsed`](ElectionError::Lapsed), [`Overtaken`](ElectionError::Overtaken) or
    /// [`Resigned`](ElectionError::Resigned): do not act.
    pub fn check(&self) -> Result<Version, ElectionError> {
        self.lease.borrow().check(Instant::now())?;
        Ok(self.token)
    }

    /// Returns when the tenure is no longer held: a tenth of the time to live before another candidate may hold.
    /// Returns the error of [`check`](Self::check).
    ///
    /// # Cancel safety
    /// Safe: the call only waits.
    pub async fn lost(&self) -> ElectionError {
        let mut lease = self.lease.clone();
        loop {
            let seen = *lease.borrow_and_update();
            if let Err(lost) = seen.check(Instant::now()) {
                return lost.into();
            }
            tokio::select! {
                // Cancel safe: a timer.
                () = sleep_until(seen.until()) => {}
                // Cancel safe, as documented. If the sender is gone, the lease was ended before.
                changed = lease.changed() => if changed.is_err() {
                    sleep_until(seen.until()).await;
                },
            }
        }
    }

    /// Ends the tenure, so that another candidate takes over at once. From the moment of the call on, the tenure is no
    /// longer held, by any clone: first finish every action reserved to the holder. If another clone has resigned
    /// before, returns at once.
    ///
    /// # Errors
    /// The cluster may not have received the resignation. In that case, other candidates take over after the time to
    /// live.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the resignation to the background task.
    pub async fn resign(self) -> Result<(), WriteError> {
        self.owner.end();
        let Some(Keeping { resign, keeper }) = self.owner.take() else {
            return Ok(());
        };
        // A keeper that is gone already returns its result below.
        let _ = resign.send(());
        let stopping = || WriteError::NotProposed(Cause::unavailable("the client is stopping"));
        keeper.await.map_err(|_| stopping())?
    }
}

impl Owner {
    fn end(&self) {
        self.lease
            .send_modify(|lease| lease.end(Instant::now(), Lost::Resigned));
    }

    fn take(&self) -> Option<Keeping> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.end();
    }
}

/// The renewing task.
struct Renewer<S> {
    seat: S,
    candidacy: Candidacy,
    token: Version,
    /// The own write expected in the register.
    last: Version,
    /// Time of the next renewal.
    next: Instant,
    lease: Arc<watch::Sender<Lease>>,
}

impl<S: Seat> Renewer<S> {
    /// Renews until the tenure is lost, then waits until the owner resigns or drops the tenure.
    async fn run(mut self, mut resigned: oneshot::Receiver<()>) -> Result<(), WriteError> {
        let resigned = loop {
            if self.left().is_zero() {
                break (&mut resigned).await;
            }
            tokio::select! {
                // Cancel safe: a timer.
                () = sleep_until(self.next) => {}
                // Cancel safe: only waits.
                resigned = &mut resigned => break resigned,
            }
            self.renew().await;
        };
        match resigned {
            Ok(()) => self.leave().await,
            // Dropped: other candidates take over after the time to live.
            Err(_dropped) => Ok(()),
        }
    }

    /// Remaining time of the tenure.
    fn left(&self) -> Duration {
        let (lease, now) = (*self.lease.borrow(), Instant::now());
        match lease.check(now) {
            Ok(()) => lease.until() - now,
            Err(_) => Duration::ZERO,
        }
    }

    async fn renew(&mut self) {
        let (sent_at, left) = (Instant::now(), self.left());
        if left.is_zero() {
            return;
        }
        let holder = self.candidacy.record(Some(self.token));
        let renewal = self.seat.put(holder, Condition::Version(self.last), left).await;
        self.next = Instant::now() + self.candidacy.ttl / RETRY;
        match renewal {
            Ok(Written::Applied { version }) => {
                self.last = version;
                self.next = renew_at(sent_at, self.candidacy.ttl);
                self.lease
                    .send_modify(|lease| lease.extend(Instant::now(), sent_at, self.candidacy.ttl));
            }
            Ok(Written::ConditionFailed { .. }) => self.overtaken(),
            // No effect: the next renewal may succeed.
            Err(error) if error.had_no_effect() => {
                tracing::debug!(%error, "renewing the tenure failed");
            }
            // The write extends nothing, but may be the present content of the register.
            Err(error) => {
                tracing::debug!(%error, "the outcome of the tenure's renewal is unknown");
                self.find_own().await;
            }
        }
    }

    /// Checks whether the register still holds a write of this tenure, and finds its version: no other tenure has this
    /// token.
    async fn find_own(&mut self) {
        let Ok(look) = self.seat.look(self.left()).await else {
            return;
        };
        let held = look
            .held
            .and_then(|(version, value)| Some((version, Holder::read(&value, version).ok()?)));
        match held {
            Some((version, holder)) if holder.token == self.token => self.last = version,
            Some(_) | None => self.overtaken(),
        }
    }

    fn overtaken(&self) {
        self.lease
            .send_modify(|lease| lease.end(Instant::now(), Lost::Overtaken));
    }

    async fn leave(&self) -> Result<(), WriteError> {
        // After the time to live, other candidates need no hint.
        match self.seat.remove(self.last, self.candidacy.ttl).await? {
            // If the condition fails, another candidate has taken over already.
            Written::Applied { .. } | Written::ConditionFailed { .. } => Ok(()),
        }
    }
}
