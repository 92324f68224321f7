//! Ends of simulated streams: a stream breaks, is shut, or loses a side.

use std::collections::BTreeMap;

use paxos_common::paxos::{ballot::Ballot, detector::Ender, proposer::Event};

use super::{
    acceptors::stream_id,
    knobs::MILLISECOND,
    network::Node,
    statistics::Counted,
    streams::{Keeper, Stream},
    world::{Happening, World, uuid},
};
use crate::bug::Bug;

impl World<'_> {
    /// The connection breaks. Both sides notice a little later.
    pub(crate) fn break_stream(&mut self, id: u64) {
        let Some(stream) = self.streams.all.get(&id) else {
            return;
        };
        self.statistics.count(Counted::StreamsBroken);
        let (proposer, acceptor) = (Node::Proposer(stream.proposer), Node::Acceptor(stream.acceptor));
        for node in [proposer, acceptor] {
            self.plan_within(20 * MILLISECOND, Happening::StreamEnds { stream: id, node });
        }
    }

    /// The driver shuts the sockets of all streams at a ballot, and gives up all unconnected streams.
    pub(crate) fn shut_streams(&mut self, proposer: usize, ballot: Ballot) {
        if self.tampering.has(Bug::KeepsStreams) {
            self.tamper_with_shut(proposer);
            return;
        }
        let process = &mut self.proposers[proposer];
        let keepers = std::mem::take(&mut process.keepers);
        let (shut, kept) = keepers.into_iter().partition(|((of, _), _)| *of == ballot);
        process.keepers = kept;
        let shut: BTreeMap<(Ballot, usize), Keeper> = shut;
        for id in shut.into_values().filter_map(|keeper| keeper.stream) {
            self.close_here(id);
        }
    }

    /// The proposer's end is closed. The acceptor notices after everything sent before has arrived.
    pub(crate) fn close_here(&mut self, id: u64) {
        let Some(stream) = self.streams.all.get_mut(&id) else {
            return;
        };
        stream.open_here = false;
        let (proposer, acceptor, up) = (stream.proposer, stream.acceptor, stream.up);
        let node = Node::Acceptor(acceptor);
        let arrives = self
            .carry(Node::Proposer(proposer), node, self.now, 0)
            .max(up + 1);
        self.plan(arrives, Happening::StreamEnds { stream: id, node });
    }

    /// One side notices the end of a stream.
    pub(crate) fn stream_ends(&mut self, id: u64, node: Node) {
        match node {
            Node::Acceptor(_) => self.end_stream(id, false),
            Node::Proposer(proposer) => self.end_here(id, proposer),
            Node::Learner(_) | Node::Clients => {}
        }
    }

    /// A stream ends at the acceptor. The waiting requests of the stream are dropped.
    pub(crate) fn end_stream(&mut self, id: u64, restarted: bool) {
        let Some(stream) = self.streams.all.get_mut(&id) else {
            return;
        };
        let (acceptor, was_open) = (stream.acceptor, std::mem::take(&mut stream.open_there));
        stream.ended_there = true;
        let ballot = stream.ballot;
        let is_over = !stream.open_here;
        if was_open && !restarted && stream.acceptor_run == self.acceptors[acceptor].run {
            self.drop_waiting(acceptor, id);
            self.note_ended(acceptor);
            self.tamper_with_ended(acceptor, ballot);
            self.detect(acceptor, |detector, now| {
                detector.ended(stream_id(id), Ender::Peer, now);
            });
        }
        if is_over {
            self.streams.all.remove(&id);
        }
    }

    /// A stream ends at the proposer. The driver opens a new stream.
    fn end_here(&mut self, id: u64, proposer: usize) {
        let Some(stream) = self.streams.all.get_mut(&id) else {
            return;
        };
        if !std::mem::take(&mut stream.open_here) {
            return;
        }
        let (acceptor, ballot, run) = (stream.acceptor, stream.ballot, stream.run);
        if !stream.open_there {
            self.streams.all.remove(&id);
        }
        let process = &mut self.proposers[proposer];
        if process.run != run || !process.is_up() {
            return;
        }
        let Some(keeper) = process.keepers.get_mut(&(ballot, acceptor)) else {
            return;
        };
        keeper.stream = None;
        let broke = Event::StreamBroke {
            acceptor: uuid(acceptor),
            ballot,
        };
        self.handle(proposer, broke);
        self.redial((proposer, run), acceptor, ballot);
    }

    /// Breaks all streams of a process, or all streams between two processes.
    pub(crate) fn reset_streams(&mut self, is: impl Fn(&Stream) -> bool) {
        let ids: Vec<u64> = self
            .streams
            .all
            .iter()
            .filter(|(_, stream)| is(stream))
            .map(|(&id, _)| id)
            .collect();
        for id in ids {
            self.break_stream(id);
        }
    }

    /// A process has died: the other sides of its streams notice.
    pub(crate) fn streams_of_dead(&mut self, node: Node) {
        let of_dead = |stream: &Stream| match node {
            Node::Acceptor(acceptor) => stream.acceptor == acceptor,
            Node::Proposer(proposer) => stream.proposer == proposer,
            Node::Learner(_) | Node::Clients => false,
        };
        let ids: Vec<u64> = self
            .streams
            .all
            .iter()
            .filter(|(_, stream)| of_dead(stream))
            .map(|(&id, _)| id)
            .collect();
        for id in ids {
            match node {
                Node::Proposer(_) => self.close_here(id),
                Node::Acceptor(_) => {
                    let stream = self.streams.all.get_mut(&id).expect("listed just now");
                    (stream.open_there, stream.ended_there) = (false, true);
                    let node = Node::Proposer(stream.proposer);
                    self.plan_within(20 * MILLISECOND, Happening::StreamEnds { stream: id, node });
                }
                Node::Learner(_) | Node::Clients => {}
            }
        }
    }
}
