//! Holding: the tenure that its owner keeps, and the task that renews it.

use std::{ops::Deref, sync::Arc, time::Duration};

use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use super::{
    Candidacy, Holding, Token,
    campaign::Won,
    lease::{Lease, Lost, renew_at},
    seat::Seat,
};
use crate::{
    Condition, Version, Written,
    error::{Cause, WriteError},
};

/// After a renewal that failed, the next comes so much sooner than usual: a share of the time to live, 1 / this.
const RETRY: u32 = 20;

/// An election won: renewed in the background until it is resigned, dropped or lost.
///
/// Everything that may be done only while holding asks [`check`](Mandate::check) first, and carries the
/// [`token`](Mandate::token). Dropped without [`resign`](Self::resign), it is over at once for its owner, and others take
/// over when the time to live has passed.
#[derive(Debug)]
pub struct Tenure {
    mandate: Mandate,
    lease: Arc<watch::Sender<Lease>>,
    resign: Option<oneshot::Sender<()>>,
    keeper: Option<JoinHandle<Result<(), WriteError>>>,
}

/// What tells the parts of a program whether they may act: cheap to clone.
#[derive(Clone, Debug)]
pub struct Mandate {
    token: Token,
    lease: watch::Receiver<Lease>,
}

impl Mandate {
    /// The fencing token: the version of the write that acquired, the same for the whole tenure.
    pub fn token(&self) -> Token {
        self.token
    }

    /// Whether it is held now; once it is not, it never is again.
    pub fn is_held(&self) -> bool {
        self.check().is_ok()
    }

    /// The token, if it is held now: to be asked before every action that only the holder may do. It looks at the clock
    /// and at nothing else, so it is cheap, and right even in a process that was stopped and has just been continued.
    ///
    /// # Errors
    /// [`Lost`]: do not act.
    pub fn check(&self) -> Result<Token, Lost> {
        self.lease.borrow().check(Instant::now()).map(|()| self.token)
    }

    /// Returns when it is held no more, which is a tenth of the time to live before anybody else may hold.
    ///
    /// # Cancel safety
    /// Safe: it only waits.
    pub async fn lost(&self) -> Lost {
        let mut lease = self.lease.clone();
        loop {
            let seen = *lease.borrow_and_update();
            if let Err(lost) = seen.check(Instant::now()) {
                return lost;
            }
            tokio::select! {
                // Cancel safe: a timer.
                () = sleep_until(seen.until()) => {}
                // Cancel safe, as its documentation says. The sender gone: then the lease was ended before.
                changed = lease.changed() => if changed.is_err() {
                    sleep_until(seen.until()).await;
                },
            }
        }
    }
}

impl Deref for Tenure {
    type Target = Mandate;

    fn deref(&self) -> &Mandate {
        &self.mandate
    }
}

impl Tenure {
    pub(crate) fn start(seat: impl Seat, candidacy: Candidacy, won: Won) -> Self {
        let lease = Arc::new(watch::Sender::new(Lease::new(won.sent_at, candidacy.ttl)));
        let mandate = Mandate {
            token: won.token,
            lease: lease.subscribe(),
        };
        let (resign, resigned) = oneshot::channel();
        let keeper = Keeper {
            seat,
            next: renew_at(won.sent_at, candidacy.ttl),
            candidacy,
            token: won.token,
            last: won.version,
            lease: lease.clone(),
        };
        Self {
            mandate,
            lease,
            resign: Some(resign),
            keeper: Some(tokio::spawn(keeper.run(resigned))),
        }
    }

    /// For the parts of the program that act.
    pub fn mandate(&self) -> Mandate {
        self.mandate.clone()
    }

    /// Ends it, so that another candidate takes over at once. It is held no more from the moment of the call on: finish
    /// what only the holder may do first.
    ///
    /// # Errors
    /// Nobody knows whether the cluster has heard of it; if not, others take over when the time to live has passed.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the resignation to go on in the background.
    pub async fn resign(mut self) -> Result<(), WriteError> {
        self.end();
        let stopping = || WriteError::NotProposed(Cause::unavailable("the client is stopping"));
        let (Some(resign), Some(keeper)) = (self.resign.take(), self.keeper.take()) else {
            return Err(stopping());
        };
        // A keeper that is gone already says how it ended.
        let _ = resign.send(());
        keeper.await.map_err(|_| stopping())?
    }

    fn end(&self) {
        self.lease
            .send_modify(|lease| lease.end(Instant::now(), Lost::Resigned));
    }
}

impl Drop for Tenure {
    fn drop(&mut self) {
        self.end();
    }
}

/// The task that renews.
struct Keeper<S> {
    seat: S,
    candidacy: Candidacy,
    token: Token,
    /// The own write that the register is expected to hold.
    last: Version,
    /// When to renew next.
    next: Instant,
    lease: Arc<watch::Sender<Lease>>,
}

impl<S: Seat> Keeper<S> {
    /// Renews until it is lost, then waits for the owner to resign or let go.
    async fn run(mut self, mut resigned: oneshot::Receiver<()>) -> Result<(), WriteError> {
        let resigned = loop {
            if self.left().is_zero() {
                break (&mut resigned).await;
            }
            tokio::select! {
                // Cancel safe: a timer.
                () = sleep_until(self.next) => {}
                // Cancel safe: it only waits.
                resigned = &mut resigned => break resigned,
            }
            self.renew().await;
        };
        match resigned {
            Ok(()) => self.leave().await,
            // Dropped: others take over in their time.
            Err(_dropped) => Ok(()),
        }
    }

    /// How long it is still held.
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
        let holder = self.candidacy.holder(Some(self.token));
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
            // It had no effect: the next may.
            Err(error) if error.had_no_effect() => {
                tracing::debug!(%error, "renewing the tenure failed");
            }
            // It extends nothing, but it may be what the register holds now.
            Err(error) => {
                tracing::debug!(%error, "it is not known whether the tenure was renewed");
                self.find_own().await;
            }
        }
    }

    /// Looks whether the register still holds a write of this tenure, and which: no other carries this token.
    async fn find_own(&mut self) {
        let Ok(look) = self.seat.look(self.left()).await else {
            return;
        };
        let held = look
            .held
            .and_then(|(version, value)| Some((version, Holding::read(&value, version).ok()?)));
        match held {
            Some((version, holding)) if holding.token == self.token => self.last = version,
            Some(_) | None => self.overtaken(),
        }
    }

    fn overtaken(&self) {
        self.lease
            .send_modify(|lease| lease.end(Instant::now(), Lost::Overtaken));
    }

    async fn leave(&self) -> Result<(), WriteError> {
        // After the time to live the others need no hint.
        match self.seat.remove(self.last, self.candidacy.ttl).await? {
            // Where the condition fails, another has taken over already.
            Written::Applied { .. } | Written::ConditionFailed { .. } => Ok(()),
        }
    }
}
