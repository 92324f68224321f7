//! The dispatch: which method handles which event or timer, and what follows a run of events.

use std::borrow::Cow;

use super::{Effect, Event, Phase, Proposer, Timer};

impl Proposer {
    /// Handles one event.
    pub fn handle(&mut self, event: Event) {
        match event {
            Event::Introduced {
                acceptor,
                runs,
                remembers,
                others,
            } => {
                // The tables of members count, and what they say of every follower: a joiner is watched before its votes
                // count.
                let remembers = remembers.of_those(|of| self.follows(of));
                let others = others
                    .iter()
                    .filter(|(other, _)| self.electorate.includes(*other));
                let others: Vec<_> = others
                    .map(|(other, remembers)| (*other, remembers.of_those(|of| self.follows(of))))
                    .collect();
                let found = self.guard.introduce(acceptor, &runs, remembers.iter(), &others);
                self.found_out(found);
            }
            Event::Remembered { acceptor, remembers } => {
                let remembers = remembers.of_those(|of| self.follows(of));
                let found = self.guard.remember(acceptor, remembers.iter());
                self.found_out(found);
            }
            Event::Heard {
                acceptor,
                run,
                commit_counter,
            } => self.guard.hear(acceptor, run, commit_counter),
            Event::Opened(acceptor) => self.opened(acceptor),
            Event::Closed(acceptor) => self.closed(acceptor),
            Event::StreamOpened { acceptor, ballot } => self.stream_opened(acceptor, ballot),
            Event::StreamBroke { acceptor, ballot } => self.stream_broke(acceptor, ballot),
            Event::Alive {
                acceptor,
                ballot,
                silent,
                waiting,
                has_space,
            } => self.alive(acceptor, ballot, (silent, waiting, has_space)),
            Event::Bytes(acceptor) => self.bytes(acceptor),
            Event::Reported {
                acceptor,
                sent,
                answer,
            } => self.reported(acceptor, sent, answer),
            Event::InquiryAnswered { number, answer } => self.inquiry_answered(number, answer),
            Event::Promised {
                acceptor,
                ballot,
                scan,
                page,
            } => self.promised(acceptor, ballot, scan, page),
            Event::PrepareRejected {
                acceptor,
                ballot,
                promised,
            } => self.rejected(acceptor, ballot, promised),
            Event::PrepareRefused { acceptor, promised } => self.climb(acceptor, promised),
            Event::Answered {
                acceptor,
                ballot,
                sequence,
                answer,
            } => {
                self.answered(acceptor, ballot, sequence, answer);
            }
            Event::Fetched { number, from, values } => {
                if let Phase::Leading(lead) = &mut self.phase {
                    lead.fetched(number, from, values, &self.settings.limits, &mut self.effects);
                }
            }
            Event::LaterConfiguration(configuration) => self.heard_configuration(&configuration),
            Event::ChangeMembers(asked) => self.change_members(asked),
            Event::SnapshotBrought(joiner) => self.snapshot_brought(joiner),
            Event::Proposed(pending) => self.proposed(pending),
            Event::Cancelled(request) => self.cancelled(request),
            Event::FillWanted(to) => {
                if let Phase::Leading(lead) = &mut self.phase {
                    lead.fill_wanted(to, self.now);
                }
            }
            Event::Fired(timer, generation) => {
                if self.generations.get(&timer) == Some(&generation) {
                    self.fired(timer);
                }
            }
            Event::ForwardAnswered(request) => {
                self.forwarded.remove(&request);
            }
            Event::Resigned => self.resign(),
        }
    }

    /// Forms batches of the waiting commands, and sends everything that can be sent. Call after each run of events.
    pub fn flush(&mut self) {
        if std::mem::take(&mut self.is_judging) {
            self.judge();
        }
        self.forget_leavers();
        self.put_in_force();
        self.advance_change();
        self.finish_change();
        let reachable = self.reachable();
        let resting = self.resting_joiners();
        // Mostly no joiner rests: no copy then.
        let repairable = if resting.is_empty() {
            Cow::Borrowed(&reachable)
        } else {
            Cow::Owned(&reachable - &resting)
        };
        let members = self.open.iter().filter(|open| self.electorate.includes(**open));
        let members = members.copied().collect();
        let mut is_progress = false;
        match &mut self.phase {
            Phase::Leading(lead) => {
                lead.fill_window(&self.electorate, &mut self.queue, &self.settings.limits);
                while lead.count_trimmed(&self.electorate, &mut self.effects) {
                    is_progress = true;
                    lead.fill_window(&self.electorate, &mut self.queue, &self.settings.limits);
                }
                lead.send(
                    &self.electorate,
                    &reachable,
                    &self.settings.limits,
                    &mut self.effects,
                );
                lead.plan_repair(
                    (&self.electorate, &members),
                    &repairable,
                    &self.settings.limits,
                    &mut self.effects,
                );
                if self.stopping && lead.is_drained() {
                    lead.say_resigned(&reachable, &mut self.effects);
                    // The driver ends the streams after the resignation.
                    self.leave_streams();
                    self.stand_by();
                    self.effects.push(Effect::HandedOver);
                }
            }
            Phase::Campaigning(_) => {}
            Phase::Standby => self.forward(),
        }
        if is_progress {
            self.progressed();
        }
        self.follow_the_change();
    }

    fn fired(&mut self, timer: Timer) {
        let timeout = self.settings.leader_timeout;
        let reachable = self.reachable();
        match (timer, &mut self.phase) {
            (Timer::Election, Phase::Standby) if !self.stopping => self.election_due(),
            (Timer::Challenge, Phase::Standby) if !self.stopping => self.challenge_due(),
            (Timer::Heartbeat, Phase::Campaigning(campaign)) => {
                // Long paging must not look like silence. This heartbeat claims nothing.
                let beat = campaign.heartbeat(&self.address);
                let beats = reachable
                    .into_iter()
                    .map(|acceptor| Effect::Accept(acceptor, beat.clone()));
                self.effects.extend(beats);
                self.is_judging = true;
                self.arm(Timer::Heartbeat, timeout / 4, timeout / 4);
                self.ask_over_overdue_links();
            }
            (Timer::Heartbeat, Phase::Leading(lead)) => {
                lead.heartbeat(&reachable, &mut self.effects);
                self.is_judging = true;
                self.arm(Timer::Heartbeat, timeout / 4, timeout / 4);
            }
            (Timer::Check, Phase::Leading(lead)) => {
                lead.check();
                self.arm(Timer::Check, timeout, timeout);
                self.check_change();
            }
            (Timer::GiveUp, Phase::Campaigning(_)) => self.judge_campaign(),
            (Timer::Leaderless, Phase::Standby | Phase::Campaigning(_)) => self.give_back(),
            (Timer::Leaderless, Phase::Leading(_)) => self.leaderless = false,
            // Timers of an earlier phase.
            (
                Timer::Election | Timer::Challenge | Timer::Heartbeat | Timer::Check | Timer::GiveUp,
                Phase::Standby | Phase::Campaigning(_) | Phase::Leading(_),
            ) => {}
        }
    }
}
