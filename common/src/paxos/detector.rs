//! The acceptor's failure detector: the proposer heard by the acceptor, the start of the proposer's silence, and
//! whether its streams have ended.
//!
//! Volatile, and evidence for proposers only: no safety rule rests on the detector. The adapter reports each arrival,
//! before the worker decides anything, and then each decision of the worker. All times count from the start of the
//! process.
//!
//! The *heard proposer* is the sender of the highest ballot promised, or *claimed* by some request. A request claims
//! its ballot while waiting for the worker, unless the core would turn the request away in the current state. So a
//! candidate stays heard despite a slow disk, and a refused ballot never counts.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{ballot::Ballot, message::HeardProposer};

/// Intervals between two *alive* answers in one leader timeout: leaders request an answer every quarter of the timeout.
const INTERVALS: u32 = 4;

/// Names one `Accept` stream; drawn by the adapter, never reused within a run of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// Kind of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestKind {
    /// Phase 1: the arrival counts as heard, because no stream carries the request.
    Prepare,
    /// Phase 2: the bytes of the stream have already been counted.
    Accept,
}

/// The side that ended a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ender {
    /// The proposer, or the network.
    Peer,
    /// The acceptor: no evidence about the proposer.
    Acceptor,
}

/// Outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Settlement {
    /// The core granted the request. Call [`Detector::promised`] before, if the promise rose.
    Granted,
    /// The core turned the request away, or the request was dropped before reaching the core.
    TurnedAway,
    /// The disk has too little space. The proposer stays heard while a stream of the proposer is open.
    NoSpace,
}

/// A request not settled yet: return the claim to [`Detector::settled`].
#[derive(Debug, PartialEq, Eq, Hash)]
#[must_use = "an unsettled claim keeps its ballot heard"]
pub struct Claim {
    ballot: Ballot,
    counts: bool,
}

/// State of the heard proposer: standbys must hear every change at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct News {
    /// Ballot of the heard proposer.
    pub ballot: Ballot,
    /// The streams of the heard proposer have ended.
    pub ended: bool,
    /// The heard proposer has resigned.
    pub resigned: bool,
    /// The heard proposer has been silent for the leader timeout or longer.
    pub silent: bool,
}

/// The failure detector: see the head of this file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Detector {
    promised: Ballot,
    /// Proposers of the promised ballot and of higher claimed ballots. Never empty.
    proposers: BTreeMap<Ballot, ProposerState>,
    /// Every open stream, at any ballot: a promise may reach the ballot later.
    streams: BTreeMap<StreamId, StreamState>,
    /// Interval between *alive* answers requested by earlier proposers.
    interval: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ProposerState {
    address: Arc<str>,
    /// When last heard. Later bytes on open streams are counted in `Stream::heard_at`.
    heard_at: Duration,
    had_stream: bool,
    /// When the last stream ended. `None` while a stream is open, or if the acceptor ended the last stream.
    ended_at: Option<Duration>,
    resigned: bool,
    work: u64,
    /// Number of requests claiming the ballot. Not counted at the promised ballot: no claim is needed there.
    claims: u32,
    /// A full disk kept a claim from being decided: an open stream now claims the ballot.
    kept: bool,
    /// Interval between *alive* answers requested on the streams.
    interval: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct StreamState {
    ballot: Ballot,
    heard_at: Duration,
    interval: Option<Duration>,
}

impl ProposerState {
    fn new(address: &Arc<str>, now: Duration) -> Self {
        Self {
            address: Arc::clone(address),
            heard_at: now,
            had_stream: false,
            ended_at: None,
            resigned: false,
            work: 0,
            claims: 0,
            kept: false,
            interval: None,
        }
    }
}

impl Detector {
    /// A detector at the start of the process, with the promise on disk. Silence counts from `now`.
    pub fn new(promised: Ballot, address: &Arc<str>, now: Duration) -> Self {
        Self {
            promised,
            proposers: BTreeMap::from([(promised, ProposerState::new(address, now))]),
            streams: BTreeMap::new(),
            interval: None,
        }
    }

    /// The first message of a stream arrived, or a message with a higher ballot than before (from an older release,
    /// where streams outlive a campaign). `interval`: time between two *alive* answers, if the sender requests such
    /// answers.
    pub fn opened(&mut self, stream: StreamId, ballot: Ballot, interval: Option<Duration>, now: Duration) {
        let before = self.streams.insert(
            stream,
            StreamState {
                ballot,
                heard_at: now,
                interval,
            },
        );
        if let Some(StreamState { ballot: lower, .. }) = before
            && !self.has_stream(lower)
            && let Some(proposer) = self.proposers.get_mut(&lower)
        {
            proposer.kept = false;
            self.drop_unclaimed(lower);
        }
        if let Some(proposer) = self.proposers.get_mut(&ballot) {
            proposer.had_stream = true;
            proposer.ended_at = None;
            proposer.interval = interval.or(proposer.interval);
        }
    }

    /// Some bytes of a stream arrived, a whole message or not.
    pub fn chunk(&mut self, stream: StreamId, now: Duration) {
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.heard_at = now;
        }
    }

    /// A stream ended. No effect if the stream is not open.
    pub fn ended(&mut self, stream: StreamId, by: Ender, now: Duration) {
        let Some(StreamState { ballot, heard_at, .. }) = self.streams.remove(&stream) else {
            return;
        };
        let is_last = !self.has_stream(ballot);
        let Some(proposer) = self.proposers.get_mut(&ballot) else {
            return;
        };
        proposer.heard_at = proposer.heard_at.max(heard_at);
        if is_last {
            proposer.ended_at = (by == Ender::Peer).then_some(now);
            proposer.kept = false;
            self.drop_unclaimed(ballot);
        }
    }

    /// A request arrived and waits for the worker. `is_turned_away`: the core would turn the request away in the
    /// current state (below the promise, too far above the promise, of another era).
    pub fn queued(
        &mut self,
        ballot: Ballot,
        address: &Arc<str>,
        kind: RequestKind,
        is_turned_away: bool,
        now: Duration,
    ) -> Claim {
        if is_turned_away || ballot < self.promised {
            return Claim {
                ballot,
                counts: false,
            };
        }
        let counts = ballot > self.promised;
        let proposer = self.proposer(ballot, address, now);
        if kind == RequestKind::Prepare {
            proposer.heard_at = proposer.heard_at.max(now);
        }
        proposer.claims += u32::from(counts);
        Claim { ballot, counts }
    }

    /// A queued request was decided and its changes are durable, or the request was dropped.
    #[expect(clippy::needless_pass_by_value, reason = "a claim is settled once")]
    pub fn settled(&mut self, claim: Claim, outcome: Settlement) {
        if !claim.counts || claim.ballot <= self.promised {
            return;
        }
        let has_stream = self.has_stream(claim.ballot);
        if let Some(proposer) = self.proposers.get_mut(&claim.ballot) {
            proposer.claims = proposer.claims.saturating_sub(1);
            match outcome {
                Settlement::NoSpace => proposer.kept |= has_stream,
                Settlement::TurnedAway => proposer.kept = false,
                Settlement::Granted => {}
            }
            self.drop_unclaimed(claim.ballot);
        }
    }

    /// The promise rose, durably. No effect if the promise did not rise.
    pub fn promised(&mut self, ballot: Ballot, address: &Arc<str>, now: Duration) {
        if ballot <= self.promised {
            return;
        }
        let before = self.proposers.get(&self.promised);
        self.interval = before.and_then(|before| before.interval).or(self.interval);
        self.promised = ballot;
        self.proposers = self.proposers.split_off(&ballot);
        let proposer = self.proposer(ballot, address, now);
        proposer.claims = 0;
        proposer.kept = false;
        // Without a stream, nothing shows whether the sender of a `Prepare` is still alive after the wait for the disk.
        if !proposer.had_stream {
            proposer.heard_at = proposer.heard_at.max(now);
        }
    }

    /// A proposer resigned. Counts from the arrival of the message.
    pub fn resigned(&mut self, ballot: Ballot) {
        if let Some(proposer) = self.proposers.get_mut(&ballot) {
            proposer.resigned = true;
        }
    }

    /// The work of a proposer progressed by `amount`: bytes of values arrived for slots at or above `chosen_to`, votes
    /// committed there, bytes of pages sent to the proposer.
    pub fn worked(&mut self, ballot: Ballot, amount: u64) {
        if let Some(proposer) = self.proposers.get_mut(&ballot) {
            proposer.work = proposer.work.wrapping_add(amount);
        }
    }

    /// Ballot of an open stream, and the time since bytes of the stream arrived.
    pub fn stream(&self, stream: StreamId, now: Duration) -> Option<(Ballot, Duration)> {
        let stream = self.streams.get(&stream)?;
        Some((stream.ballot, now.saturating_sub(stream.heard_at)))
    }

    /// The heard proposer.
    pub fn heard(&self, now: Duration) -> HeardProposer {
        let (ballot, proposer) = self.highest();
        HeardProposer {
            ballot,
            address: Arc::clone(&proposer.address),
            silent: now.saturating_sub(self.heard_at()),
            ended: proposer.ended_at.map(|ended_at| now.saturating_sub(ended_at)),
            resigned: proposer.resigned,
            work: proposer.work,
        }
    }

    /// State for standbys, to be sent at once if different from the last sent state.
    pub fn news(&self, now: Duration) -> News {
        let (ballot, proposer) = self.highest();
        News {
            ballot,
            ended: proposer.ended_at.is_some(),
            resigned: proposer.resigned,
            silent: self.silent_at().is_some_and(|silent_at| now >= silent_at),
        }
    }

    /// The leader timeout, as announced on the streams: four times the interval of *alive* answers requested by the
    /// heard proposer, or otherwise by an earlier proposer. `None` until a proposer of this release was heard.
    pub fn leader_timeout(&self) -> Option<Duration> {
        let intervals = self.proposers.values().rev().map(|proposer| proposer.interval);
        let interval = intervals.chain([self.interval]).flatten().next();
        interval.map(|interval| interval.saturating_mul(INTERVALS))
    }

    /// When the heard proposer will have been silent for the leader timeout, if no byte arrives before.
    pub fn silent_at(&self) -> Option<Duration> {
        let timeout = self.leader_timeout()?;
        Some(self.heard_at().saturating_add(timeout))
    }

    fn proposer(&mut self, ballot: Ballot, address: &Arc<str>, now: Duration) -> &mut ProposerState {
        let streams = &self.streams;
        self.proposers.entry(ballot).or_insert_with(|| {
            let streams = || streams.values().filter(|stream| stream.ballot == ballot);
            ProposerState {
                had_stream: streams().next().is_some(),
                interval: streams().find_map(|stream| stream.interval),
                ..ProposerState::new(address, now)
            }
        })
    }

    fn highest(&self) -> (Ballot, &ProposerState) {
        let (ballot, proposer) = self.proposers.last_key_value().expect("never empty");
        (*ballot, proposer)
    }

    fn heard_at(&self) -> Duration {
        let (ballot, proposer) = self.highest();
        let streams = self.streams.values().filter(|stream| stream.ballot == ballot);
        let last = streams.map(|stream| stream.heard_at).max();
        last.unwrap_or_default().max(proposer.heard_at)
    }

    fn has_stream(&self, ballot: Ballot) -> bool {
        self.streams.values().any(|stream| stream.ballot == ballot)
    }

    /// Forgets a proposer above the promise if no request and no stream claims its ballot.
    fn drop_unclaimed(&mut self, ballot: Ballot) {
        let proposer = self.proposers.get(&ballot);
        let is_claimed = proposer.is_some_and(|proposer| proposer.claims > 0 || proposer.kept);
        if ballot > self.promised && !is_claimed {
            self.proposers.remove(&ballot);
        }
    }
}

#[cfg(test)]
mod tests;
