//! Simulated acceptor processes: the core behind a single writer, on a disk that survives crashes.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use paxos_common::paxos::{
    acceptor::{Acceptor, Group, Membership},
    ballot::Ballot,
    detector::{Claim, Detector, Settlement as Settled, StreamId},
    identity::{AcceptorUuid, CommitCounter, RunNumber},
    message::{AcceptAnswer, UNANSWERED_MAX},
    proposer::Scan,
    quorum::Configuration,
    slot::Slot,
    witness::{Run, WITNESSED_RUNS_MAX, Witnesses},
};
use rand::RngExt as _;

use super::{
    clock::Clock,
    decide::{decide, turn_away},
    disks::{Disk, Snapshot},
    hearing::{Attached, is_heartbeat},
    invariants::{promises_are_kept::Said, watermarks_are_true::Watermarks},
    network::{Kind, Message, Node},
    reign::Hearing,
    statistics::Counted,
    trims,
    world::{Happening, Time, World},
};

/// A group on its way to the disk, or on the disk and not in memory yet.
struct Committing {
    group: Group,
    answers: Vec<Answer>,
    claims: Vec<(Claim, Settled)>,
    /// Arrival time of the group's oldest request.
    oldest: Time,
    /// The disk holds the group, and every reader of the disk sees the group.
    readable: bool,
}

/// A request waiting for the writer.
struct Request {
    from: Node,
    message: Message,
    /// The stream that carried the request, if any.
    stream: Option<u64>,
    claim: Option<Claim>,
    came: Time,
}

pub(crate) enum Answer {
    /// Sent on the request's stream, if any.
    Message(Node, Message, Option<u64>),
    /// Pages of a promise, from a slot on, limited by a scan if given.
    Pages(Node, Ballot, Slot, Option<Scan>),
}

pub(crate) struct AcceptorProcess {
    pub(crate) disk: Disk,
    /// `None` while the process is down.
    pub(crate) core: Option<Acceptor>,
    pub(crate) run: u64,
    queue: VecDeque<Request>,
    /// The failure detector for proposers; `None` while the process is down.
    pub(crate) detector: Option<Detector>,
    pub(crate) attached: Attached,
    /// The heard proposer, tracked independently of the detector.
    pub(crate) hearing: Hearing,
    committing: Option<Committing>,
    /// Disk reads for peers, held back until memory shows the same commit as the disk.
    pub(crate) held_back: Vec<Happening>,
    pub(crate) clock: Clock,
    pub(crate) observers: BTreeSet<(usize, Kind)>,
    pub(crate) paused_until: Time,
    /// Duration of each commit, if not drawn as usual.
    pub(crate) takes: Option<Time>,
    /// End of a stall, of slowness and of lack of space of the disk.
    pub(crate) stalled_until: Time,
    pub(crate) slow_until: Time,
    pub(crate) full_until: Time,
    /// Second copy of the commit counter. No answer of a later commit has left.
    pub(crate) counter_file: CommitCounter,
    /// State of the disk after the next power loss, once a sync has failed.
    pub(crate) hole: Option<Box<Disk>>,
    /// An older state of the disk.
    pub(crate) copy: Option<Disk>,
    /// Set while the disk is not the disk behind the earlier answers.
    pub(crate) lost: Option<Lost>,
    /// The right disk with the statements made there, while the process runs on an older copy.
    pub(crate) right: Option<(Disk, Said)>,
    /// The process has run on an older copy. From then on, messages of earlier processes no longer arrive.
    pub(crate) went_back: bool,
    /// Proposers that have opened a link since then.
    pub(crate) linked: BTreeSet<usize>,
    /// The snapshot on its way to the disk.
    pub(crate) incoming: Option<Snapshot>,
    /// The next group trims to the waiting snapshot.
    pub(crate) trim_is_due: bool,
}

/// The fate of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// The disk is blank.
    Wiped,
    /// The disk is an older copy.
    WentBack,
    /// The disk itself proves a loss: the process does not start.
    Stopped,
}

impl AcceptorProcess {
    /// A member of a formed cluster, not started yet, and without any history except the promise `promised`.
    pub(crate) fn formed(uuid: AcceptorUuid, configuration: &Configuration, promised: Ballot) -> Self {
        Self {
            disk: Disk {
                uuid,
                membership: Membership::Formed(configuration.clone()),
                commit_counter: CommitCounter::default(),
                promised,
                leader_address: Arc::from(""),
                known_to: Slot::ZERO,
                runs: Vec::new(),
                witnesses: Witnesses::default(),
                rows: BTreeMap::new(),
                garbled: false,
                damaged: BTreeSet::new(),
                trimmed_to: Slot::ZERO,
                bottom: None,
                waiting: None,
            },
            incoming: None,
            trim_is_due: false,
            core: None,
            run: 0,
            queue: VecDeque::new(),
            committing: None,
            held_back: Vec::new(),
            detector: None,
            attached: Attached::default(),
            hearing: Hearing::default(),
            takes: None,
            clock: Clock::default(),
            observers: BTreeSet::new(),
            paused_until: 0,
            stalled_until: 0,
            slow_until: 0,
            full_until: 0,
            counter_file: CommitCounter::default(),
            hole: None,
            copy: None,
            lost: None,
            right: None,
            went_back: false,
            linked: BTreeSet::new(),
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.core.is_some()
    }

    pub(crate) fn describe(&self) -> String {
        format!(
            "{}: promised {}, trimmed to {}, voted to {}, chosen to {} (on disk {}), damaged {:?}",
            if self.is_up() { "up" } else { "down" },
            self.disk.promised,
            self.disk.trimmed_to,
            self.disk.voted_to(),
            self.core.as_ref().map_or(Slot::ZERO, Acceptor::chosen_to),
            self.disk.known_to,
            self.disk.damaged
        )
    }

    /// Arrival time of the oldest request waiting or being written.
    pub(crate) fn oldest_request(&self) -> Option<Time> {
        let writing = self.committing.as_ref().map(|committing| committing.oldest);
        writing.or_else(|| self.queue.front().map(|request| request.came))
    }

    /// Whether a group is on its way to the disk.
    pub(crate) fn is_busy(&self) -> bool {
        self.committing.is_some()
    }
}

/// The detector's name of a stream.
pub(crate) fn stream_id(id: u64) -> StreamId {
    StreamId(id)
}

impl World<'_> {
    pub(crate) fn start_acceptor(&mut self, acceptor: usize) {
        let run = RunNumber::from_random(self.rng.random());
        let clock = self.rng.random_range(80..=125);
        let now = self.now;
        let process = &mut self.acceptors[acceptor];
        if matches!(process.lost, Some(Lost::Wiped | Lost::Stopped)) || self.start_is_refused(acceptor) {
            return;
        }
        let process = &mut self.acceptors[acceptor];
        self.invariants
            .promises
            .restarted(acceptor, process.disk.promised, &process.disk.rows);
        process.run += 1;
        process.disk.commit_counter = process.disk.commit_counter.next();
        process.disk.runs.push(Run {
            run,
            commit_counter: process.disk.commit_counter,
        });
        process.counter_file = process.disk.commit_counter;
        let core = Acceptor::recover(process.disk.recovered(), run);
        process.core = Some(core.remembering(process.disk.witnesses.clone()));
        process.clock = Clock::started(now, clock);
        process.attached = Attached::default();
        process.hearing = Hearing::default();
        process.detector = Some(Detector::new(
            process.disk.promised,
            &process.disk.leader_address,
            process.clock.read(now),
        ));
        let disk = format!("{}", process.disk.promised);
        self.note(|| format!("acceptor {acceptor} starts, promised {disk}"));
        self.tamper_with_start(acceptor);
        if !self.acceptors[acceptor].disk.damaged.is_empty() {
            self.plan_within(
                500_000,
                Happening::DamageFound {
                    acceptor,
                    run: self.acceptors[acceptor].run,
                },
            );
        }
        for proposer in 0..self.proposers.len() {
            self.plan_within(20_000, Happening::LinkOpened { acceptor, proposer });
        }
    }

    /// The run and the commit of an acceptor's statements at this moment.
    pub(crate) fn stamp(&self, node: Node) -> Option<(RunNumber, CommitCounter)> {
        let Node::Acceptor(acceptor) = node else {
            return None;
        };
        let stamp = self.acceptors[acceptor].core.as_ref()?.stamp();
        Some((stamp.run, stamp.commit_counter))
    }

    /// The runs and the table shown by an acceptor when a link opens; `None` while the process is down.
    pub(crate) fn introduction(&self, acceptor: usize) -> Option<(Vec<Run>, Witnesses)> {
        let process = &self.acceptors[acceptor];
        let core = process.core.as_ref()?;
        let mut runs = process.disk.runs.clone();
        if let Some(present) = runs.last_mut() {
            present.commit_counter = core.stamp().commit_counter;
        }
        Some((runs, core.witnesses().clone()))
    }

    pub(crate) fn place(&self, acceptor: AcceptorUuid) -> usize {
        let members = self.electorate.members();
        members.binary_search(&acceptor).expect("only members are known")
    }

    /// Power off: waiting requests are lost. A group on its way to the disk is stored whole or not at all.
    pub(crate) fn crash_acceptor(&mut self, acceptor: usize) {
        let kept = self.rng.random_bool(0.5);
        let committing = self.acceptors[acceptor].committing.take();
        if let Some(Committing { group, readable, .. }) = committing {
            if readable {
                self.statistics.count(Counted::GroupsReadableUnanswered);
            } else if kept {
                self.statistics.count(Counted::GroupsUnanswered);
                self.write(acceptor, &group);
            } else {
                self.statistics.count(Counted::GroupsLost);
            }
        }
        self.fall_into_hole(acceptor);
        let process = &mut self.acceptors[acceptor];
        process.core = None;
        process.detector = None;
        process.queue.clear();
        (process.incoming, process.trim_is_due) = (None, false);
        process.held_back.clear();
        process.observers.clear();
        self.statistics.count(Counted::AcceptorsCrashed);
        self.note(|| format!("acceptor {acceptor} crashes"));
        for proposer in 0..self.proposers.len() {
            self.plan_within(20_000, Happening::LinkClosed { acceptor, proposer });
        }
        self.streams_of_dead(Node::Acceptor(acceptor));
    }

    /// Drops a stream's requests still waiting for the writer.
    pub(crate) fn drop_waiting(&mut self, acceptor: usize, stream: u64) {
        let queue = std::mem::take(&mut self.acceptors[acceptor].queue);
        let (dropped, kept): (VecDeque<Request>, VecDeque<Request>) = queue
            .into_iter()
            .partition(|request| request.stream == Some(stream));
        self.acceptors[acceptor].queue = kept;
        for claim in dropped.into_iter().filter_map(|request| request.claim) {
            self.detect(acceptor, |detector, _| {
                detector.settled(claim, Settled::TurnedAway);
            });
        }
    }

    /// Makes some rows unreadable from now on: among the latest rows, rows of slots assigned to this acceptor. Each
    /// slot is assigned to a single acceptor. A running acceptor notices a little later.
    pub(crate) fn damage_rows(&mut self, acceptor: usize) {
        let members = self.acceptors.len() as u64;
        let disk = &self.acceptors[acceptor].disk;
        let is_its_turn = |slot: &Slot| slot.get() % members == acceptor as u64;
        let latest = disk.rows.keys().rev().take(6 * self.acceptors.len());
        let slots: Vec<Slot> = latest.copied().filter(is_its_turn).collect();
        if slots.is_empty() {
            return;
        }
        let count = self.rng.random_range(1..=slots.len());
        let slots = &slots[..count];
        let disk = &mut self.acceptors[acceptor].disk;
        disk.damaged.extend(slots);
        self.statistics.add(Counted::RowsDamaged, count as u64);
        self.note(|| format!("acceptor {acceptor} cannot read {slots:?} any more"));
        let run = self.acceptors[acceptor].run;
        self.plan_within(500_000, Happening::DamageFound { acceptor, run });
    }

    /// An acceptor reads all its rows, between two groups.
    pub(crate) fn damage_found(&mut self, acceptor: usize, run: u64) {
        let process = &mut self.acceptors[acceptor];
        if process.run != run {
            return;
        }
        if process.committing.is_some() {
            self.plan_within(20_000, Happening::DamageFound { acceptor, run });
        } else if let Some(core) = &mut process.core {
            let found = core.found_damaged(process.disk.damaged.iter().copied());
            self.statistics.add(Counted::RowsFoundDamaged, found as u64);
        }
    }

    pub(crate) fn acceptor_receives(&mut self, acceptor: usize, from: Node, message: Message) {
        self.acceptor_receives_on(acceptor, None, from, message);
    }

    /// A request arrives, perhaps on a stream.
    pub(crate) fn acceptor_receives_on(
        &mut self,
        acceptor: usize,
        stream: Option<u64>,
        from: Node,
        message: Message,
    ) {
        if !self.acceptors[acceptor].is_up() {
            return;
        }
        if let (Message::Ask(number), Node::Proposer(proposer)) = (&message, from) {
            self.reported_to(acceptor, proposer, *number);
            return;
        }
        if let Message::Recall(question) = message {
            self.recall(acceptor, from, question);
            return;
        }
        if let (Message::Observe(kind, slot), Node::Learner(learner)) = (&message, from) {
            let process = &mut self.acceptors[acceptor];
            process.observers.insert((learner, *kind));
            let due = Happening::FrameDue {
                acceptor,
                run: process.run,
                learner,
                kind: *kind,
                from: *slot,
            };
            self.plan(self.now, due);
            return;
        }
        self.tamper_with_request(acceptor, &message);
        if let Message::FetchChosen(number, first, to) = message {
            self.fetch_chosen(acceptor, from, number, (first, to));
            return;
        }
        if let Message::Tail(nonce) = message {
            self.tell_tail(acceptor, from, nonce);
            return;
        }
        if self.brings_nothing(acceptor, &message) {
            return;
        }
        let claim = self.claim(acceptor, &message);
        let queue = &mut self.acceptors[acceptor].queue;
        // At most one heartbeat of a stream waits.
        if is_heartbeat(&message) {
            let older = queue
                .iter_mut()
                .find(|request| request.stream == stream && is_heartbeat(&request.message));
            if let Some(older) = older {
                older.message = message;
                if let Some(claim) = std::mem::replace(&mut older.claim, claim) {
                    self.detect(acceptor, |detector, _| detector.settled(claim, Settled::Granted));
                }
                return;
            }
        }
        queue.push_back(Request {
            from,
            message,
            stream,
            claim,
            came: self.now,
        });
        let unanswered = queue.iter().filter(|request| request.stream == stream).count();
        assert!(
            stream.is_none() || unanswered as u64 <= UNANSWERED_MAX + 1,
            "a leader sends more than an acceptor has room for"
        );
        self.write_group(acceptor);
    }

    /// Decides all waiting requests, unless a group is on its way to the disk.
    pub(crate) fn write_group(&mut self, acceptor: usize) {
        // A loop, because a full disk turns away a long queue group by group, without writing any group.
        while self.is_answered_at_once(acceptor) {}
    }

    /// Takes the next group. Returns whether the whole group was answered without a commit.
    fn is_answered_at_once(&mut self, acceptor: usize) -> bool {
        let take = self.rng.random_range(1..=self.knobs.group_max);
        let trims_first = self.trims_first();
        let process = &mut self.acceptors[acceptor];
        let Some(core) = &process.core else {
            return false;
        };
        let is_idle = process.queue.is_empty() && !process.trim_is_due;
        if process.committing.is_some() || is_idle || self.tampering.blocks(acceptor) {
            return false;
        }
        let take = take.min(process.queue.len());
        if take > 1 {
            self.statistics.count(Counted::GroupsOfMany);
        }
        let mut group = core.group();
        let trims = std::mem::take(&mut process.trim_is_due);
        if trims && trims_first {
            trims::trim(core, &process.disk, &mut group);
        }
        let mut answers = Vec::new();
        let mut claims = Vec::new();
        let has_space = process.full_until <= self.now;
        let mut oldest = self.now;
        for request in process.queue.drain(..take) {
            let Request {
                from,
                message,
                stream,
                claim,
                came,
            } = request;
            oldest = oldest.min(came);
            let is_beat = is_heartbeat(&message);
            let decided = answers.len();
            if has_space {
                decide(core, &process.disk, &mut group, from, message, &mut answers);
            } else {
                self.statistics.count(Counted::TurnedAwayForSpace);
                turn_away(core, &mut group, from, message, &mut answers);
            }
            let outcome = answers.get(decided).map_or(Settled::NoSpace, settled);
            if let Some(Answer::Message(.., on)) = answers.get_mut(decided) {
                *on = stream;
            }
            claims.extend(claim.map(|claim| (claim, outcome)));
            // A heartbeat has no number. Only a refusal is answered, because the sender must know about a refusal.
            if is_beat && matches!(outcome, Settled::Granted | Settled::NoSpace) {
                answers.truncate(decided);
            }
        }
        if trims && !trims_first {
            trims::trim(core, &process.disk, &mut group);
        }
        if core.write(&group).is_some() {
            self.tamper_with_waiting(acceptor, &mut answers);
            let process = &mut self.acceptors[acceptor];
            process.committing = Some(Committing {
                group,
                answers,
                claims,
                oldest,
                readable: false,
            });
            let run = process.run;
            let (takes, fails) = self.commit_takes(acceptor);
            let outcome = if fails {
                Happening::CommitFailed { acceptor, run }
            } else {
                Happening::Committed { acceptor, run }
            };
            self.plan(self.now + takes, outcome);
            return false;
        }
        self.release(acceptor, group, answers, claims);
        true
    }

    pub(crate) fn acceptor_committed(&mut self, acceptor: usize, run: u64) {
        let process = &mut self.acceptors[acceptor];
        if process.run != run || process.core.is_none() {
            return;
        }
        let Some(mut committing) = process.committing.take() else {
            return;
        };
        if !committing.readable {
            self.write(acceptor, &committing.group);
            if let Some(late) = self.release_takes() {
                committing.readable = true;
                self.acceptors[acceptor].committing = Some(committing);
                self.note(|| format!("acceptor {acceptor}'s disk shows what memory does not"));
                self.plan(self.now + late, Happening::Committed { acceptor, run });
                return;
            }
        }
        let process = &mut self.acceptors[acceptor];
        process.counter_file = process.disk.commit_counter;
        let Committing {
            group,
            answers,
            claims,
            ..
        } = committing;
        let rows = group.rows().clone();
        self.release(acceptor, group, answers, claims);
        self.show_observers(acceptor, &rows);
        self.write_group(acceptor);
    }

    /// Writes a whole group to the disk.
    fn write(&mut self, acceptor: usize, group: &Group) {
        let process = &mut self.acceptors[acceptor];
        let Some(write) = process.core.as_ref().and_then(|core| core.write(group)) else {
            return;
        };
        let disk = &mut process.disk;
        let promised = disk.promised;
        for (&slot, (ballot, _)) in write.rows {
            self.invariants
                .promises
                .row_written(acceptor, disk.promised, *ballot, slot);
        }
        disk.commit_counter = write.commit_counter;
        disk.promised = write.promised;
        disk.leader_address = Arc::clone(write.leader_address);
        disk.known_to = write.known_to;
        disk.garbled = false;
        disk.witnesses.merge(write.witnesses.iter());
        disk.witnesses.bound(WITNESSED_RUNS_MAX);
        if let Some(present) = disk.runs.last_mut() {
            present.commit_counter = disk.commit_counter;
        }
        for (&slot, (ballot, value)) in write.rows {
            disk.rows.insert(slot, (*ballot, value.clone()));
            disk.damaged.remove(&slot);
        }
        let (lifts, trims) = (
            write.trimmed_to > process.core.as_ref().map_or(Slot::ZERO, Acceptor::known_to),
            write.trimmed_to > disk.trimmed_to,
        );
        if trims {
            disk.trimmed_to = write.trimmed_to;
            disk.bottom = disk.waiting.take();
            self.invariants.trimmed(acceptor, disk.trimmed_to);
        }
        self.tampering.tamper_with_disk(disk, promised, write.rows);
        self.invariants.promises.disk(acceptor, disk.promised);
        for (&slot, (ballot, value)) in write.rows {
            if process.lost.is_none() {
                self.invariants.voted(acceptor, *ballot, slot, value);
            }
            self.invariants
                .watermarks
                .written(&self.invariants.chosen, acceptor, slot, &disk.rows);
        }
        self.invariants
            .watermarks
            .acceptor(&self.invariants.chosen, acceptor, disk.known_to, &disk.rows);
        if trims {
            self.has_trimmed(acceptor, lifts);
        }
    }

    /// Takes a group into memory and releases its answers unchanged.
    fn release(
        &mut self,
        acceptor: usize,
        group: Group,
        answers: Vec<Answer>,
        claims: Vec<(Claim, Settled)>,
    ) {
        let process = &mut self.acceptors[acceptor];
        let Some(core) = &mut process.core else { return };
        let known_to = core.known_to();
        let votes = group.rows().iter().filter(|(slot, _)| **slot >= known_to);
        let voted: Vec<Ballot> = votes.map(|(_, (ballot, _))| *ballot).collect();
        core.committed(group);
        let leadership = core.leadership();
        self.detect(acceptor, |detector, now| {
            detector.promised(leadership.promised, &leadership.address, now);
            for (claim, outcome) in claims {
                detector.settled(claim, outcome);
            }
            for ballot in voted {
                detector.worked(ballot, 1);
            }
        });
        let process = &mut self.acceptors[acceptor];
        let held_back = std::mem::take(&mut process.held_back);
        for read in held_back {
            self.plan(self.now, read);
        }
        self.tamper_with_memory(acceptor);
        let process = &self.acceptors[acceptor];
        let Some(core) = &process.core else { return };
        self.invariants.watermarks.acceptor(
            &self.invariants.chosen,
            acceptor,
            core.known_to(),
            &process.disk.rows,
        );
        for answer in answers {
            self.answer(acceptor, answer);
        }
    }

    pub(crate) fn answer(&mut self, acceptor: usize, answer: Answer) {
        let now = self.now;
        let process = &mut self.acceptors[acceptor];
        let run = process.run;
        let promises = &mut self.invariants.promises;
        let disk = &process.disk;
        match answer {
            Answer::Pages(to, ballot, from, scan) => {
                promises.told(acceptor, ballot, disk.promised);
                let due = Happening::PageDue {
                    acceptor,
                    run,
                    to,
                    ballot,
                    from,
                    scan,
                    first: true,
                };
                self.plan(now, due);
            }
            Answer::Message(to, message, stream) => {
                match &message {
                    Message::Answer(ballot, _, AcceptAnswer::Accepted { slots, known_to, .. }) => {
                        promises.told(acceptor, *ballot, disk.promised);
                        let slots_told = slots.iter().flat_map(|range| range.from.to(range.to));
                        for slot in slots_told.filter(|slot| *slot >= disk.trimmed_to) {
                            promises.accepted(acceptor, *ballot, slot, &disk.rows);
                        }
                        if process.lost.is_none() {
                            self.invariants.said(acceptor, *ballot, slots);
                        }
                        Watermarks::claimed(&self.invariants.chosen, "an acceptor", *known_to);
                    }
                    Message::Answer(_, _, AcceptAnswer::Trimmed { trimmed_to }) => {
                        assert!(
                            *trimmed_to <= disk.trimmed_to,
                            "acceptor {acceptor} reports a trim before it is durable"
                        );
                        self.statistics.count(Counted::TrimsAnswered);
                    }
                    Message::Answer(_, _, AcceptAnswer::Rejected(rejection)) => {
                        promises.told(acceptor, rejection.promised, disk.promised);
                        self.statistics.count(Counted::Rejections);
                    }
                    Message::PrepareRejected(_, promised) => {
                        promises.told(acceptor, *promised, disk.promised);
                        self.statistics.count(Counted::Rejections);
                    }
                    Message::Answer(..)
                    | Message::Prepare(..)
                    | Message::Accept(..)
                    | Message::FetchChosen(..)
                    | Message::Fetched(..)
                    | Message::Page(..)
                    | Message::PrepareRefused(_)
                    | Message::Ask(_)
                    | Message::Recall(_)
                    | Message::Recalled(..)
                    | Message::Said(..)
                    | Message::Alive { .. }
                    | Message::Opened
                    | Message::Observe(..)
                    | Message::Votes(_)
                    | Message::Rows(..)
                    | Message::Tail(_)
                    | Message::Tailed(..)
                    | Message::Propose { .. }
                    | Message::Cancel { .. }
                    | Message::Outcome { .. }
                    | Message::Fill(_) => {}
                }
                match stream {
                    Some(stream) => self.stream_send(stream, false, message),
                    None => self.send(Node::Acceptor(acceptor), to, message),
                }
            }
        }
    }
}

/// The outcome of a request, derived from its answer.
fn settled(answer: &Answer) -> Settled {
    match answer {
        Answer::Message(_, Message::Answer(_, _, answer), _) => match answer {
            AcceptAnswer::Accepted { .. } | AcceptAnswer::Trimmed { .. } => Settled::Granted,
            AcceptAnswer::Rejected(_) | AcceptAnswer::Refused(_) => Settled::TurnedAway,
            AcceptAnswer::NoSpace => Settled::NoSpace,
        },
        Answer::Message(..) => Settled::TurnedAway,
        Answer::Pages(..) => Settled::Granted,
    }
}
