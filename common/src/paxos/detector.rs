//! The acceptor's failure detector: which proposer the acceptor hears, since when it is silent, and whether its streams
//! have ended.
//!
//! Volatile, and evidence for proposers only: no safety rule rests on it. The adapter calls it with what arrives, before
//! the writer decides anything, and with what the writer decided. Every call gets the time since the process's start.
//!
//! The *heard proposer* is the sender of the highest ballot that is promised, or that some request *claims*. A request
//! claims its ballot while it waits for the writer, if the core would not turn it away as it stands. So a slow disk does
//! not make a candidate unheard, and a ballot that is refused never counts.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{ballot::Ballot, message::Heard};

/// How many intervals between two *alive* answers make a leader timeout: leaders ask for an answer each quarter of it.
const INTERVALS: u32 = 4;

/// Names one `Accept` stream; drawn by the adapter, never reused within a run of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// What a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Phase 1: its arrival counts as heard, since no stream brings it.
    Prepare,
    /// Phase 2: the bytes of its stream have been counted.
    Accept,
}

/// Who ended a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ender {
    /// The proposer, or the network.
    Peer,
    /// The acceptor: this says nothing about the proposer.
    Acceptor,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The core granted it. Call [`Detector::promised`] before, if the promise rose.
    Granted,
    /// The core turned it away, or it was dropped before the core saw it.
    TurnedAway,
    /// The disk has too little space. The proposer stays heard while a stream of it is open.
    NoSpace,
}

/// A request that is not settled yet: give it back to [`Detector::settled`].
#[derive(Debug, PartialEq, Eq, Hash)]
#[must_use = "a claim that is not settled keeps its ballot heard"]
pub struct Claim {
    ballot: Ballot,
    counts: bool,
}

/// What standbys must hear at once when it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct News {
    /// Of the heard proposer.
    pub ballot: Ballot,
    /// The streams of the heard proposer have ended.
    pub ended: bool,
    /// The heard proposer said that it stops.
    pub resigned: bool,
    /// The heard proposer has been silent for the leader timeout or longer.
    pub silent: bool,
}

/// See the head of this file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Detector {
    promised: Ballot,
    /// The proposer of the promised ballot, and those above it that claim theirs. Never empty.
    proposers: BTreeMap<Ballot, Proposer>,
    /// Every open stream, whatever its ballot: a promise may reach that ballot later.
    streams: BTreeMap<StreamId, Stream>,
    /// Interval between *alive* answers that the proposers before these asked for.
    interval: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Proposer {
    address: Arc<str>,
    /// Later bytes on streams that are still open are counted there.
    heard_at: Duration,
    had_stream: bool,
    /// When the last of its streams ended, unless one is open or the acceptor ended that one.
    ended_at: Option<Duration>,
    resigned: bool,
    work: u64,
    /// Requests that claim the ballot. Not counted at the promised ballot, which needs no claim.
    claims: u32,
    /// A disk without space kept a claim from being decided: an open stream claims the ballot now.
    kept: bool,
    /// Interval between *alive* answers that its streams asked for.
    interval: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Stream {
    ballot: Ballot,
    heard_at: Duration,
    interval: Option<Duration>,
}

impl Proposer {
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
    /// At the start of the process, with the promise that its disk holds: silence counts from `now`.
    pub fn new(promised: Ballot, address: &Arc<str>, now: Duration) -> Self {
        Self {
            promised,
            proposers: BTreeMap::from([(promised, Proposer::new(address, now))]),
            streams: BTreeMap::new(),
            interval: None,
        }
    }

    /// The first message of a stream arrived, or one with a higher ballot than those before it (from an older release,
    /// whose streams outlive a campaign). `interval`: between two *alive* answers, if the sender wants them.
    pub fn opened(&mut self, stream: StreamId, ballot: Ballot, interval: Option<Duration>, now: Duration) {
        let before = self.streams.insert(
            stream,
            Stream {
                ballot,
                heard_at: now,
                interval,
            },
        );
        if let Some(Stream { ballot: lower, .. }) = before
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

    /// A stream ended. Nothing happens when it is not open.
    pub fn ended(&mut self, stream: StreamId, by: Ender, now: Duration) {
        let Some(Stream { ballot, heard_at, .. }) = self.streams.remove(&stream) else {
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

    /// A request arrived and waits for the writer. `is_turned_away`: the core would turn it away as it stands (below the
    /// promise, too far above it, of another era).
    pub fn queued(
        &mut self,
        ballot: Ballot,
        address: &Arc<str>,
        kind: Kind,
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
        if kind == Kind::Prepare {
            proposer.heard_at = proposer.heard_at.max(now);
        }
        proposer.claims += u32::from(counts);
        Claim { ballot, counts }
    }

    /// A request that had been queued is decided, and what it changed is durable; or it was dropped.
    #[expect(clippy::needless_pass_by_value, reason = "a claim is settled once")]
    pub fn settled(&mut self, claim: Claim, outcome: Outcome) {
        if !claim.counts || claim.ballot <= self.promised {
            return;
        }
        let has_stream = self.has_stream(claim.ballot);
        if let Some(proposer) = self.proposers.get_mut(&claim.ballot) {
            proposer.claims = proposer.claims.saturating_sub(1);
            match outcome {
                Outcome::NoSpace => proposer.kept |= has_stream,
                Outcome::TurnedAway => proposer.kept = false,
                Outcome::Granted => {}
            }
            self.drop_unclaimed(claim.ballot);
        }
    }

    /// The promise rose, and that is durable. Nothing happens when it did not rise.
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
        // Without a stream nothing shows whether the sender of a `Prepare` that waited for the disk is still there.
        if !proposer.had_stream {
            proposer.heard_at = proposer.heard_at.max(now);
        }
    }

    /// A proposer said that it stops. Counts from the arrival of the message.
    pub fn resigned(&mut self, ballot: Ballot) {
        if let Some(proposer) = self.proposers.get_mut(&ballot) {
            proposer.resigned = true;
        }
    }

    /// Work of a proposer went on by so much: bytes of values that arrived for slots at or above `chosen_to`, votes that
    /// were committed there, bytes of pages that were sent to it.
    pub fn worked(&mut self, ballot: Ballot, amount: u64) {
        if let Some(proposer) = self.proposers.get_mut(&ballot) {
            proposer.work = proposer.work.wrapping_add(amount);
        }
    }

    /// The ballot of an open stream, and the time since bytes of it arrived.
    pub fn stream(&self, stream: StreamId, now: Duration) -> Option<(Ballot, Duration)> {
        let stream = self.streams.get(&stream)?;
        Some((stream.ballot, now.saturating_sub(stream.heard_at)))
    }

    /// The heard proposer.
    pub fn heard(&self, now: Duration) -> Heard {
        let (ballot, proposer) = self.highest();
        Heard {
            ballot,
            address: Arc::clone(&proposer.address),
            silent: now.saturating_sub(self.heard_at()),
            ended: proposer.ended_at.map(|ended_at| now.saturating_sub(ended_at)),
            resigned: proposer.resigned,
            work: proposer.work,
        }
    }

    /// What standbys must hear at once when it differs from what they were last sent.
    pub fn news(&self, now: Duration) -> News {
        let (ballot, proposer) = self.highest();
        News {
            ballot,
            ended: proposer.ended_at.is_some(),
            resigned: proposer.resigned,
            silent: self.silent_at().is_some_and(|silent_at| now >= silent_at),
        }
    }

    /// The leader timeout, as far as the streams say it: four times the interval at which the heard proposer wants to be
    /// answered, or else a proposer before it. `None` until a proposer of this release was heard.
    pub fn leader_timeout(&self) -> Option<Duration> {
        let intervals = self.proposers.values().rev().map(|proposer| proposer.interval);
        let interval = intervals.chain([self.interval]).flatten().next();
        interval.map(|interval| interval.saturating_mul(INTERVALS))
    }

    /// When the heard proposer will have been silent for the leader timeout, if no byte of it arrives before.
    pub fn silent_at(&self) -> Option<Duration> {
        let timeout = self.leader_timeout()?;
        Some(self.heard_at().saturating_add(timeout))
    }

    fn proposer(&mut self, ballot: Ballot, address: &Arc<str>, now: Duration) -> &mut Proposer {
        let streams = &self.streams;
        self.proposers.entry(ballot).or_insert_with(|| {
            let streams = || streams.values().filter(|stream| stream.ballot == ballot);
            Proposer {
                had_stream: streams().next().is_some(),
                interval: streams().find_map(|stream| stream.interval),
                ..Proposer::new(address, now)
            }
        })
    }

    fn highest(&self) -> (Ballot, &Proposer) {
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

    /// Forgets a proposer above the promise whose ballot no request and no stream claims.
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
