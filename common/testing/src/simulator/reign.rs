//! Only a challenge may unseat a leader heard by a phase-2 quorum.

use paxos_common::paxos::{
    ballot::Ballot,
    proposer::{Notice, Phase, Why},
};

use super::{
    acceptors::stream_id,
    world::{Time, World, micros},
};

/// Required time of hearing the leader without a gap, in leader timeouts. The evidence of a campaign is younger.
const HEARD_FOR: u32 = 4;

/// Time span of hearing the same proposer without a gap, at an acceptor.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hearing {
    pub(crate) ballot: Ballot,
    pub(crate) since: Time,
    pub(crate) last: Time,
}

impl World<'_> {
    /// Bytes of a stream arrive at an acceptor.
    pub(crate) fn note_hearing(&mut self, acceptor: usize, ballot: Ballot) {
        let now = self.now;
        let hearing = &mut self.acceptors[acceptor].hearing;
        let has_gap = now - hearing.last > micros(self.knobs.leader_timeout) * 3 / 4;
        if ballot > hearing.ballot || (ballot == hearing.ballot && has_gap) {
            *hearing = Hearing {
                ballot,
                since: now,
                last: now,
            };
        } else if ballot == hearing.ballot {
            hearing.last = now;
        }
    }

    /// A stream ends at an acceptor.
    pub(crate) fn note_ended(&mut self, acceptor: usize) {
        self.acceptors[acceptor].hearing.since = self.now;
    }

    /// A campaign begins. Unless the campaign is a challenge, no live leader may be heard by a phase-2 quorum.
    pub(crate) fn judge_campaign(&mut self, proposer: usize, notice: &Notice) {
        let Notice::Campaign {
            why: Why::Gone(_),
            ballot,
        } = notice
        else {
            return;
        };
        for other in (0..self.proposers.len()).filter(|&other| other != proposer) {
            let core = self.proposers[other].core.as_ref();
            let Some(Phase::Leading(lead)) = core.map(|core| core.phase()) else {
                continue;
            };
            let leads_at = lead.ballot();
            // The era of this leader may be over.
            if leads_at.era() < ballot.era() {
                continue;
            }
            let eras = &self.invariants.eras;
            let heard_by = self.acceptors.iter().enumerate().filter(|(place, process)| {
                let hearing = process.hearing;
                let is_open = self.streams.all.iter().any(|(&id, stream)| {
                    stream.acceptor == *place
                        && stream.ballot == leads_at
                        && stream.open_there
                        && process.detector.as_ref().is_some_and(|detector| {
                            detector
                                .stream(stream_id(id), process.clock.read(self.now))
                                .is_some()
                        })
                });
                // An acceptor that rejects the ballot, or refuses the ballot until led up to it, hears no proposer at
                // this ballot.
                let takes_it = process.core.as_ref().is_some_and(|core| {
                    core.promised() <= leads_at && core.promised().admits_jump_to(leads_at)
                });
                hearing.ballot == leads_at
                    && eras.includes(leads_at.era(), *place)
                    && is_open
                    && takes_it
                    && process.lost.is_none()
                    && self.now - hearing.since > Time::from(HEARD_FOR) * micros(self.knobs.leader_timeout)
                    && self.now - hearing.last < micros(self.knobs.leader_timeout) * 3 / 4
            });
            let heard_by = heard_by.count();
            assert!(
                heard_by < eras.phase2(leads_at.era()) || leads_at > *ballot,
                "proposer {proposer} campaigns at {ballot} because the leader is gone, and proposer {other} leads at \
                 {leads_at} and is heard by {heard_by}"
            );
        }
    }
}
