//! Simulated `Accept` streams: in order, without loss until a break, each on a separate connection.

use std::collections::BTreeMap;

use paxos_common::paxos::{
    ballot::Ballot,
    identity::{CommitCounter, RunNumber},
    message::Accept,
    proposer::Event,
    witness::Witnesses,
};
use rand::RngExt as _;

use super::{
    knobs::MILLISECOND,
    network::{Message, Node},
    world::{Happening, Time, World, micros, uuid},
};
use crate::bug::Bug;

/// Longest wait before a stream is dialled again.
const REDIAL_MAX: Time = 500 * MILLISECOND;

/// Interval between arrivals of bytes of a slow message.
const CHUNK_EVERY: Time = 10 * MILLISECOND;

/// A stream, from the dialling to the end on both sides.
pub(crate) struct Stream {
    pub(crate) proposer: usize,
    pub(crate) run: u64,
    pub(crate) acceptor: usize,
    pub(crate) acceptor_run: u64,
    pub(crate) ballot: Ballot,
    /// Arrival time of the last message in each direction.
    pub(crate) up: Time,
    down: Time,
    pub(crate) open_here: bool,
    pub(crate) open_there: bool,
    /// The stream has ended at the acceptor: later arrivals are lost.
    pub(crate) ended_there: bool,
}

/// A stream kept open by a driver.
pub(crate) struct Keeper {
    first: Accept,
    pub(crate) stream: Option<u64>,
    tries: u32,
}

impl Keeper {
    /// A heartbeat on the stream; `None` if the stream is not open.
    pub(crate) fn beat(&self) -> Option<(u64, Accept)> {
        Some((self.stream?, self.first.clone()))
    }
}

#[derive(Default)]
pub(crate) struct Streams {
    last: u64,
    pub(crate) all: BTreeMap<u64, Stream>,
}

impl World<'_> {
    /// A driver is asked to keep a stream open.
    pub(crate) fn keep_stream(&mut self, proposer: usize, acceptor: usize, first: Accept) {
        let process = &mut self.proposers[proposer];
        let ballot = first.ballot;
        let keeper = Keeper {
            first,
            stream: None,
            tries: 0,
        };
        process.keepers.insert((ballot, acceptor), keeper);
        let run = process.run;
        self.dial((proposer, run), acceptor, ballot);
    }

    /// A driver connects.
    pub(crate) fn dial(&mut self, (proposer, run): (usize, u64), acceptor: usize, ballot: Ballot) {
        let process = &mut self.proposers[proposer];
        let Some(keeper) = process.keepers.get_mut(&(ballot, acceptor)) else {
            return;
        };
        if process.run != run || keeper.stream.is_some() {
            return;
        }
        keeper.tries += 1;
        let first = keeper.first.clone();
        if !self.acceptors[acceptor].is_up() {
            self.redial((proposer, run), acceptor, ballot);
            return;
        }
        self.streams.last += 1;
        let id = self.streams.last;
        let stream = Stream {
            proposer,
            run,
            acceptor,
            acceptor_run: self.acceptors[acceptor].run,
            ballot,
            up: self.now,
            down: self.now,
            open_here: true,
            open_there: false,
            ended_there: false,
        };
        self.streams.all.insert(id, stream);
        if let Some(keeper) = self.proposers[proposer].keepers.get_mut(&(ballot, acceptor)) {
            keeper.stream = Some(id);
        }
        // The handshake, then the first message.
        let there = self.carry(Node::Proposer(proposer), Node::Acceptor(acceptor), self.now, 0);
        let back = self.carry(Node::Acceptor(acceptor), Node::Proposer(proposer), there, 0);
        self.stream_send_at(id, true, Message::Accept(first, Witnesses::default()), back);
    }

    pub(crate) fn redial(&mut self, (proposer, run): (usize, u64), acceptor: usize, ballot: Ballot) {
        let Some(keeper) = self.proposers[proposer].keepers.get(&(ballot, acceptor)) else {
            return;
        };
        // The first retry happens at once, on a machine with time.
        let wait = if keeper.tries <= 1 {
            self.knobs.first_redial_after
        } else {
            let most = ((10 * MILLISECOND) << keeper.tries.min(7)).min(REDIAL_MAX);
            self.rng.random_range(0..=most)
        };
        let dial = Happening::Dial {
            proposer,
            run,
            acceptor,
            ballot,
        };
        self.plan(self.now + wait, dial);
    }

    /// Arrival time of a message sent at `at`, unless earlier messages on its connection come first. The transport
    /// sends lost data again, and a cut holds up all data.
    pub(crate) fn carry(&mut self, from: Node, to: Node, at: Time, bytes: u64) -> Time {
        let knobs = self.network.knobs.clone();
        let mut arrives = at + self.rng.random_range(knobs.delay_min..=knobs.delay_max);
        if self.rng.random_bool(knobs.long_delay) {
            arrives += self.rng.random_range(0..=1_000 * MILLISECOND);
        }
        if self.rng.random_bool(knobs.loss) {
            arrives += self.rng.random_range(20..=300) * MILLISECOND;
        }
        arrives += self
            .network
            .distance
            .get(&(from, to))
            .copied()
            .unwrap_or_default();
        if let Some(&bytes_per_ms) = self.network.bandwidth.get(&(from, to)) {
            let busy = self.network.busy.entry((from, to)).or_default();
            *busy = (*busy).max(at) + bytes * MILLISECOND / bytes_per_ms;
            arrives = arrives.max(*busy);
        }
        match self.network.cuts.get(&(from, to)) {
            Some(&until) if until > at => until + (arrives - at),
            Some(_) | None => arrives,
        }
    }

    /// Sends a message on a stream.
    pub(crate) fn stream_send(&mut self, id: u64, up: bool, message: Message) {
        self.stream_send_at(id, up, message, self.now);
    }

    fn stream_send_at(&mut self, id: u64, up: bool, mut message: Message, at: Time) {
        let Some(stream) = self.streams.all.get(&id) else {
            return;
        };
        let (proposer, acceptor) = (Node::Proposer(stream.proposer), Node::Acceptor(stream.acceptor));
        let (from, to) = if up {
            (proposer, acceptor)
        } else {
            (acceptor, proposer)
        };
        if !self.tamper_with_sent(from, to, &mut message) {
            return;
        }
        let loss = self.network.knobs.loss;
        if self.rng.random_bool(loss / 20.0) {
            self.break_stream(id);
            return;
        }
        let values: usize = if let Message::Accept(accept, _) = &message {
            let values = accept.proposals.iter().map(|(_, value)| value);
            values.map(|value| value.as_bytes().len()).sum()
        } else {
            0
        };
        let bytes = 100 + values as u64 * self.knobs.weight;
        let begins = self
            .network
            .busy
            .get(&(from, to))
            .copied()
            .unwrap_or_default()
            .max(at);
        let arrives = self.carry(from, to, at, bytes);
        let Some(stream) = self.streams.all.get_mut(&id) else {
            return;
        };
        let last = if up { &mut stream.up } else { &mut stream.down };
        let arrives = arrives.max(*last + 1);
        *last = arrives;
        if up && self.network.bandwidth.contains_key(&(from, to)) {
            let mut chunk = begins + CHUNK_EVERY;
            while chunk < arrives {
                self.plan(
                    chunk,
                    Happening::Chunk {
                        stream: id,
                        acceptor: self.streams.all[&id].acceptor,
                    },
                );
                chunk += CHUNK_EVERY;
            }
        }
        let stamp = self.stamp(from);
        let deliver = Happening::OnStream {
            stream: id,
            to,
            message,
            stamp,
        };
        self.plan(arrives, deliver);
    }

    /// A message arrives on a stream.
    pub(crate) fn on_stream(
        &mut self,
        id: u64,
        to: Node,
        message: Message,
        stamp: Option<(RunNumber, CommitCounter)>,
    ) {
        let Some(stream) = self.streams.all.get_mut(&id) else {
            return;
        };
        let &mut Stream {
            proposer,
            run,
            acceptor,
            acceptor_run,
            ballot,
            open_here,
            open_there,
            ended_there,
            ..
        } = stream;
        match to {
            Node::Acceptor(_) if ended_there => {}
            Node::Acceptor(_) => {
                let process = &self.acceptors[acceptor];
                if !process.is_up() || process.run != acceptor_run {
                    self.end_stream(id, true);
                    let node = Node::Proposer(proposer);
                    self.plan_within(20 * MILLISECOND, Happening::StreamEnds { stream: id, node });
                    return;
                }
                if self.is_of_another_life(Node::Proposer(proposer), to, None) {
                    return;
                }
                self.note(|| format!("proposer {proposer} → acceptor {acceptor}: {message:?}"));
                let Message::Accept(accept, _) = &message else {
                    unreachable!("streams carry only these up")
                };
                if !open_there {
                    self.stream_begins(id);
                }
                self.acceptor_hears(acceptor, id, &accept.clone());
                self.acceptor_receives_on(acceptor, Some(id), Node::Proposer(proposer), message);
            }
            Node::Proposer(_) => {
                let process = &self.proposers[proposer];
                if !open_here || process.run != run || !process.is_up() {
                    return;
                }
                if matches!(message, Message::Opened) {
                    if let Some(keeper) = self.proposers[proposer].keepers.get_mut(&(ballot, acceptor)) {
                        keeper.tries = 1;
                    }
                    let acceptor = uuid(acceptor);
                    self.handle(proposer, Event::StreamOpened { acceptor, ballot });
                    return;
                }
                if self.is_of_another_life(Node::Acceptor(acceptor), to, stamp) {
                    return;
                }
                let Some((acceptor_run, commit_counter)) = stamp else {
                    return;
                };
                match process.introduced.get(&acceptor) {
                    Some(introduced) if *introduced == acceptor_run => {}
                    // The acceptor has restarted since showing its runs.
                    Some(_) => {
                        self.break_stream(id);
                        return;
                    }
                    // The link is being opened again, in a later era.
                    None => return,
                }
                self.note(|| format!("acceptor {acceptor} → proposer {proposer}: {message:?}"));
                self.tampering
                    .tamper_with_hearing(proposer, acceptor, acceptor_run, commit_counter);
                self.heard(proposer, acceptor, acceptor_run, commit_counter);
                self.proposer_receives(proposer, Node::Acceptor(acceptor), message);
            }
            Node::Learner(_) | Node::Clients => unreachable!("streams join proposers and acceptors"),
        }
    }

    /// The first message arrives: the acceptor answers the call, and sends signs of life from then on.
    fn stream_begins(&mut self, id: u64) {
        let Some(stream) = self.streams.all.get_mut(&id) else {
            return;
        };
        stream.open_there = true;
        let (acceptor, ballot) = (stream.acceptor, stream.ballot);
        let interval = Some(self.knobs.leader_timeout / 4);
        self.detect(acceptor, |detector, now| {
            detector.opened(super::acceptors::stream_id(id), ballot, interval, now);
        });
        self.stream_send(id, false, Message::Opened);
        self.plan_alive(id);
    }

    fn plan_alive(&mut self, id: u64) {
        let Some(stream) = self.streams.all.get(&id) else {
            return;
        };
        let acceptor = stream.acceptor;
        let every = self.acceptors[acceptor]
            .clock
            .takes(micros(self.knobs.leader_timeout) / 4);
        self.plan(self.now + every, Happening::AliveDue { stream: id, acceptor });
    }

    /// The stream's own task sends the acceptor's sign of life, whatever the worker does.
    pub(crate) fn alive_due(&mut self, id: u64) {
        let Some(stream) = self.streams.all.get(&id).filter(|stream| stream.open_there) else {
            return;
        };
        let (acceptor, ballot) = (stream.acceptor, stream.ballot);
        let process = &self.acceptors[acceptor];
        let now = process.clock.read(self.now);
        let heard = process.detector.as_ref();
        let Some((_, silent)) =
            heard.and_then(|detector| detector.stream(super::acceptors::stream_id(id), now))
        else {
            return;
        };
        let alive = Message::Alive {
            ballot,
            silent,
            waiting: process.waiting(self.now),
            has_space: process.full_until <= self.now,
        };
        let waits = self.tampering.has(Bug::AliveWaitsForTheWriter) && process.is_busy();
        if !waits {
            self.stream_send(id, false, alive);
        }
        self.plan_alive(id);
    }

    /// Bytes of an incomplete message arrive.
    pub(crate) fn chunk(&mut self, id: u64) {
        let Some(stream) = self.streams.all.get(&id).filter(|stream| stream.open_there) else {
            return;
        };
        let (acceptor, ballot) = (stream.acceptor, stream.ballot);
        self.note_hearing(acceptor, ballot);
        self.detect(acceptor, |detector, now| {
            detector.chunk(super::acceptors::stream_id(id), now);
        });
    }
}
