//! A candidate's campaign: waits until there is no holder, or until the holder's time is up, and tries.

use std::{pin::pin, time::Duration};

use futures::{FutureExt as _, StreamExt as _};
use paxos_common::peer::Backoff;
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    Candidacy, ElectionError, Holder,
    lease::{Vigil, held_until},
    seat::{Look, Seat},
};
use crate::{
    ChangePage, Condition, Version, Written,
    error::{Cause, SubscribeError, WriteError},
    follow::RETRY_PAUSE,
};

/// A won election, and the winning writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Won {
    pub(crate) token: Version,
    /// The last own write.
    pub(crate) version: Version,
    /// From before the send.
    pub(crate) sent_at: Instant,
}

/// The outcome of a try.
enum Try {
    Won(Won),
    /// Look again.
    Again,
    /// Look again: the outcome was not read. An own write at this version would be the win.
    Ordered(Won),
    /// Look again after a pause: the outcome is unknown.
    Unknown(Cause),
}

/// Campaigns until the candidate wins, or until `stop` is ready: `None`. A write that has begun by then is finished
/// first, and may still win. A seat with the same `stop` withdraws an unsent write.
pub(crate) async fn run<S: Seat>(
    seat: &S,
    candidacy: &Candidacy,
    timeout: Duration,
    stop: impl Future<Output = ()>,
) -> Result<Option<Won>, ElectionError> {
    let mut stop = pin!(stop);
    let mut vigil = Vigil::new();
    let mut pause = Backoff::new(RETRY_PAUSE.0, RETRY_PAUSE.1);
    let mut own: Option<Won> = None;
    // A write of this candidate that may still take effect.
    let mut unknown: Option<Cause> = None;
    let left =
        |unknown: Option<Cause>| unknown.map_or(Ok(None), |cause| Err(ElectionError::OutcomeUnknown(cause)));
    loop {
        let look = tokio::select! {
            // Cancel safe: only reads.
            look = seat.look(timeout) => look?,
            // Returns at once. A win that must still be found is not left behind.
            () = &mut stop, if own.is_none() => return left(unknown),
        };
        saw(&mut vigil, look)?;
        let won = match own.take().filter(|own| vigil.version() == Some(own.version)) {
            Some(won) => Some(won),
            None => {
                tokio::select! {
                    // Cancel safe: only reads and waits.
                    turn = await_turn(seat, &mut vigil, timeout) => turn?,
                    // Returns at once.
                    () = &mut stop => return left(unknown),
                }
                match attempt(seat, candidacy, vigil.condition(), timeout).await {
                    // Nothing was proposed.
                    Err(ElectionError::Unavailable(_)) if stop.as_mut().now_or_never().is_some() => {
                        return left(unknown);
                    }
                    Err(error) => return Err(error),
                    Ok(Try::Won(won)) => Some(won),
                    Ok(Try::Again) => None,
                    Ok(Try::Ordered(ordered)) => {
                        own = Some(ordered);
                        None
                    }
                    Ok(Try::Unknown(cause)) => {
                        unknown = Some(cause);
                        tokio::select! {
                            // Cancel safe: a timer.
                            () = sleep(pause.next_delay()) => None,
                            // Returns at once.
                            () = &mut stop => return left(unknown),
                        }
                    }
                }
            }
        };
        let Some(won) = won else { continue };
        let settled = settle(seat, candidacy, won, timeout).await;
        // A candidate that leaves resigns this win.
        let stopped = || stop.as_mut().now_or_never().map(|()| won);
        if let Some(won) = settled.or_else(stopped) {
            return Ok(Some(won));
        }
    }
}

fn saw(vigil: &mut Vigil, look: Look) -> Result<(), ElectionError> {
    let holder = match look.held {
        Some((version, value)) => Some((version, Holder::read(&value, version)?)),
        None => None,
    };
    vigil.saw(Instant::now(), holder, look.next);
    Ok(())
}

/// Returns when there is no holder, or when the content of the register has not changed for the holder's time to live.
/// May also return when another look at the register is due: the condition of the next write detects this case.
async fn await_turn<S: Seat>(seat: &S, vigil: &mut Vigil, timeout: Duration) -> Result<(), ElectionError> {
    let mut watch = seat.watch(vigil.next(), timeout);
    while let Some(due) = vigil.due() {
        tokio::select! {
            // Cancel safe: a timer.
            () = sleep_until(due) => return Ok(()),
            // Cancel safe: nothing is lost or repeated.
            news = watch.next() => match news {
                Some(Ok(changes)) => changed(vigil, changes)?,
                // The learners no longer keep the later changes: look at the present state.
                Some(Err(SubscribeError::OutOfRange(_) | SubscribeError::Trimmed { .. })) | None => {
                    saw(vigil, seat.look(timeout).await?)?;
                    watch = seat.watch(vigil.next(), timeout);
                }
                Some(Err(error)) => return Err(error.into()),
            },
        }
    }
    Ok(())
}

fn changed(vigil: &mut Vigil, news: ChangePage) -> Result<(), ElectionError> {
    let Some(last) = news.changes.into_iter().next_back() else {
        return Ok(());
    };
    let holder = match last.value {
        Some(value) => Some((last.version, Holder::read(&value, last.version)?)),
        None => None,
    };
    vigil.saw(Instant::now(), holder, news.next);
    Ok(())
}

async fn attempt<S: Seat>(
    seat: &S,
    candidacy: &Candidacy,
    condition: Condition,
    timeout: Duration,
) -> Result<Try, ElectionError> {
    let sent_at = Instant::now();
    let won = |version| Won {
        token: version,
        version,
        sent_at,
    };
    match seat.put(candidacy.record(None), condition, timeout).await {
        Ok(Written::Applied { version }) => Ok(Try::Won(won(version))),
        Ok(Written::ConditionFailed { .. }) | Err(WriteError::Expired) => Ok(Try::Again),
        // If the write took effect after all, this candidate waits for its end like for any other holder's write: the
        // register does not show the writer.
        Err(WriteError::OutcomeUnknown(cause)) => Ok(Try::Unknown(cause)),
        Err(WriteError::OutcomeNotRead { version, .. }) => Ok(Try::Ordered(won(version))),
        Err(WriteError::Invalid(text)) => Err(ElectionError::Invalid(text)),
        Err(WriteError::Refused(cause)) => Err(ElectionError::Refused(cause)),
        Err(WriteError::NotProposed(cause)) => Err(ElectionError::Unavailable(cause)),
    }
}

/// Renews a win that took too long and is already out of time, before the win is reported; `None` when the win is lost.
async fn settle<S: Seat>(seat: &S, candidacy: &Candidacy, mut won: Won, timeout: Duration) -> Option<Won> {
    while Instant::now() >= held_until(won.sent_at, candidacy.ttl) {
        won.sent_at = Instant::now();
        let holder = candidacy.record(Some(won.token));
        match seat.put(holder, Condition::Version(won.version), timeout).await {
            Ok(Written::Applied { version }) => won.version = version,
            Ok(Written::ConditionFailed { .. }) | Err(_) => return None,
        }
    }
    Some(won)
}
