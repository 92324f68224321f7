//! Runs the failure detector in this process: adds the clock and a lock, counts arriving messages as a pulse, and signals
//! urgent changes to standbys.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use paxos_common::paxos::{
    ballot::Ballot,
    detector::{Claim, Detector, Ender, News, RequestKind, Settlement, StreamId},
    message::{HeardProposer, Leadership},
};
use tokio::{
    sync::{Notify, watch},
    time::{sleep, sleep_until},
};

use crate::pulse::{Pulse, Ticker};

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Hearing {
    started: Instant,
    detector: Mutex<Detector>,
    news: watch::Sender<News>,
    /// The heard proposer's time of falling silent may have changed.
    moved: Notify,
    /// Beats with the bytes of all streams.
    pulse: Pulse,
    next_stream: AtomicU64,
}

impl Hearing {
    /// State at the start of the process, from the promise on disk.
    pub(crate) fn new(leadership: &Leadership) -> Self {
        let detector = Detector::new(leadership.promised, &leadership.address, Duration::ZERO);
        Self {
            started: Instant::now(),
            news: watch::Sender::new(detector.news(Duration::ZERO)),
            detector: Mutex::new(detector),
            moved: Notify::new(),
            pulse: Pulse::new(),
            next_stream: AtomicU64::new(1),
        }
    }

    /// Time since the start, on the detector's clock.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Draws a number for a stream.
    pub(crate) fn draw_stream(&self) -> StreamId {
        StreamId(self.next_stream.fetch_add(1, Ordering::Relaxed))
    }

    /// Signals every change for immediate report to attached proposers.
    pub(crate) fn news(&self) -> watch::Receiver<News> {
        self.news.subscribe()
    }

    /// Ticks about once in each interval, in step with the bytes of all streams.
    pub(crate) fn ticker(&self, interval: Duration) -> Ticker {
        self.pulse.ticker(interval)
    }

    /// The heard proposer at this moment.
    pub(crate) fn heard(&self) -> HeardProposer {
        self.lock().heard(self.now())
    }

    /// Whether a ballot belongs to the heard proposer.
    pub(crate) fn is_heard(&self, ballot: Ballot) -> bool {
        ballot == self.lock().news(Duration::ZERO).ballot
    }

    /// The ballot of an open stream, and the time since its last bytes.
    pub(crate) fn stream(&self, stream: StreamId) -> Option<(Ballot, Duration)> {
        self.lock().stream(stream, self.now())
    }

    /// The leader timeout, once reported by a proposer.
    pub(crate) fn leader_timeout(&self) -> Option<Duration> {
        self.lock().leader_timeout()
    }

    pub(crate) fn opened(&self, stream: StreamId, ballot: Ballot, interval: Option<Duration>) {
        self.change(|detector, now| detector.opened(stream, ballot, interval, now));
        self.moved.notify_one();
    }

    /// Bytes of a stream arrived; `partial` bytes belong to an incomplete large message. Such bytes count as work too:
    /// on a slow link a large message takes long.
    pub(crate) fn chunk(&self, stream: StreamId, partial: u64) {
        let now = self.now();
        let mut detector = self.lock();
        detector.chunk(stream, now);
        if partial > 0
            && let Some((ballot, _)) = detector.stream(stream, now)
        {
            detector.worked(ballot, partial);
        }
        if self.news.borrow().silent {
            self.show(&detector, now);
        }
        drop(detector);
        self.pulse.beat();
    }

    pub(crate) fn ended(&self, stream: StreamId, by: Ender) {
        self.change(|detector, now| detector.ended(stream, by, now));
    }

    /// A request arrived; `resign`: with this request the sender resigns.
    pub(crate) fn queued(
        self: &Arc<Self>,
        request: (Ballot, &Arc<str>, RequestKind),
        resign: bool,
        is_turned_away: bool,
    ) -> Claimed {
        let (ballot, address, kind) = request;
        let claim = self.change(|detector, now| {
            let claim = detector.queued(ballot, address, kind, is_turned_away, now);
            if resign && !is_turned_away {
                detector.resigned(ballot);
            }
            claim
        });
        Claimed {
            hearing: Arc::clone(self),
            claim: Some(claim),
        }
    }

    /// Adds bytes to the work of a proposer: values received from the proposer, or pages sent to the proposer.
    pub(crate) fn worked(&self, ballot: Ballot, amount: u64) {
        if amount > 0 {
            self.lock().worked(ballot, amount);
        }
    }

    /// A group is durable. `leadership`: the promise after the group. `votes`: the number of votes at or above the
    /// watermark, by ballot. `requests`: the outcome of each request.
    pub(crate) fn decided(
        &self,
        leadership: &Leadership,
        votes: impl IntoIterator<Item = (Ballot, u64)>,
        requests: impl IntoIterator<Item = (Claimed, Settlement)>,
    ) {
        // Dropping a claim takes the lock.
        let requests: Vec<_> = requests
            .into_iter()
            .filter_map(|(mut claimed, outcome)| Some((claimed.claim.take()?, outcome)))
            .collect();
        self.change(|detector, now| {
            detector.promised(leadership.promised, &leadership.address, now);
            for (ballot, votes) in votes {
                detector.worked(ballot, votes);
            }
            for (claim, outcome) in requests {
                detector.settled(claim, outcome);
            }
        });
    }

    /// Notifies attached proposers at once when the heard proposer has been silent for the leader timeout. Runs until
    /// cancelled.
    ///
    /// # Cancel safety
    /// Safe: only waits.
    pub(crate) async fn watch_silence(&self) {
        let mut beats = self.pulse.beats();
        loop {
            let silent_at = self.lock().silent_at();
            let is_shown = self.news.borrow().silent;
            let Some(silent_at) = silent_at.filter(|_| !is_shown) else {
                self.moved.notified().await;
                continue;
            };
            let Some(at) = self.started.checked_add(silent_at) else {
                self.moved.notified().await;
                continue;
            };
            tokio::select! {
                // All arms only wait.
                () = sleep_until(at.into()) => {}
                // The time has moved: with a new timer, the process does not wake for the older timer.
                Ok(()) = beats.changed() => continue,
                () = self.moved.notified() => continue,
            }
            // After a stall, the bytes that arrived meanwhile are read first.
            let timeout = self.leader_timeout().unwrap_or_default();
            if at.elapsed() > timeout / 4 {
                sleep(timeout / 4).await;
            }
            self.change(|_, _| ());
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Detector, Duration) -> T) -> T {
        let now = self.now();
        let mut detector = self.lock();
        let result = change(&mut detector, now);
        self.show(&detector, now);
        result
    }

    /// Shows news, if any. The caller holds the lock, so later news come later.
    fn show(&self, detector: &Detector, now: Duration) {
        let news = detector.news(now);
        let is_news = self.news.send_if_modified(|shown| {
            let is_news = *shown != news;
            *shown = news;
            is_news
        });
        if is_news {
            self.moved.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Detector> {
        self.detector.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request's claim to its ballot. A dropped claim counts as turned away.
#[derive(Debug)]
pub(crate) struct Claimed {
    hearing: Arc<Hearing>,
    claim: Option<Claim>,
}

impl Drop for Claimed {
    fn drop(&mut self) {
        if let Some(claim) = self.claim.take() {
            self.hearing
                .change(|detector, _| detector.settled(claim, Settlement::TurnedAway));
        }
    }
}

/// A waiting call's claim: given up together with the call. Clones share the same claim.
#[derive(Clone, Debug)]
pub(crate) struct OfCall(Arc<Mutex<Option<Claimed>>>);

impl OfCall {
    pub(crate) fn new(claimed: Claimed) -> Self {
        Self(Arc::new(Mutex::new(Some(claimed))))
    }

    /// The claim; `None` when the call was given up.
    pub(crate) fn take(&self) -> Option<Claimed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Gives up a claim when dropped, unless the worker has taken the claim.
#[derive(Debug)]
pub(crate) struct WaitingClaim(pub(crate) OfCall);

impl Drop for WaitingClaim {
    fn drop(&mut self) {
        drop(self.0.take());
    }
}

#[cfg(test)]
mod tests {
    use paxos_test_values::ballot;

    use super::*;

    fn promised(round: u64) -> Leadership {
        Leadership {
            promised: ballot(round),
            address: "http://p:1".into(),
            resigned: false,
        }
    }

    #[test]
    fn request_that_is_dropped_claims_its_ballot_no_longer() {
        let hearing = Arc::new(Hearing::new(&promised(1)));
        let mut news = hearing.news();
        let address = "http://q:1".into();
        let claimed = hearing.queued((ballot(2), &address, RequestKind::Prepare), false, false);
        assert_eq!(hearing.heard().ballot, ballot(2));
        assert!(news.has_changed().unwrap());
        news.mark_unchanged();
        drop(claimed);
        assert_eq!(hearing.heard().ballot, ballot(1));
        assert!(news.has_changed().unwrap());
    }

    #[test]
    fn bytes_of_a_proposer_that_is_not_silent_are_no_news() {
        let hearing = Arc::new(Hearing::new(&promised(1)));
        let stream = hearing.draw_stream();
        hearing.opened(stream, ballot(1), Some(Duration::from_secs(60)));
        let mut news = hearing.news();
        news.mark_unchanged();
        hearing.chunk(stream, 0);
        assert!(!news.has_changed().unwrap());
        hearing.ended(stream, Ender::Peer);
        assert!(news.has_changed().unwrap());
    }

    #[tokio::test]
    async fn silence_is_news_each_time_it_begins() {
        let hearing = Arc::new(Hearing::new(&promised(1)));
        let stream = hearing.draw_stream();
        hearing.opened(stream, ballot(1), Some(Duration::from_millis(1)));
        let mut news = hearing.news();
        let watching = Arc::clone(&hearing);
        let watching = tokio::spawn(async move { watching.watch_silence().await });
        for _ in 0..2 {
            news.wait_for(|news| news.silent).await.unwrap();
            hearing.chunk(stream, 0);
        }
        watching.abort();
    }
}
