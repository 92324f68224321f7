//! Simulated acceptor processes: state, start and crash. A single worker drives the core, on a disk that survives
//! crashes.

use std::collections::{BTreeSet, VecDeque};

use paxos_common::paxos::{
    acceptor::{Acceptor, Membership},
    ballot::Ballot,
    detector::{Detector, StreamId},
    identity::{AcceptorUuid, CommitCounter, RunNumber},
    quorum::Configuration,
    slot::Slot,
    witness::{Run, Witnesses},
};
use rand::RngExt as _;

use super::{
    clock::Clock,
    disks::{Disk, Snapshot},
    groups::Committing,
    hearing::Attached,
    invariants::{eras_are_kept, promises_are_kept::Said},
    network::{Kind, Node},
    reign::Hearing,
    requests::Request,
    statistics::Counted,
    world::{Happening, Time, World},
};

pub(crate) struct AcceptorProcess {
    pub(crate) disk: Disk,
    /// `None` while the process is down.
    pub(crate) core: Option<Acceptor>,
    pub(crate) run: u64,
    /// Requests waiting for the worker.
    pub(crate) queue: VecDeque<Request>,
    /// The failure detector for proposers; `None` while the process is down.
    pub(crate) detector: Option<Detector>,
    pub(crate) attached: Attached,
    /// The heard proposer, tracked independently of the detector.
    pub(crate) hearing: Hearing,
    pub(crate) committing: Option<Committing>,
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
    /// The disk before its log ended early. The process does not start any more.
    pub(crate) before_the_end: Option<Box<Disk>>,
    /// The process has run on an older copy. From then on, messages of earlier processes no longer arrive.
    pub(crate) went_back: bool,
    /// Proposers that have opened a link since then.
    pub(crate) linked: BTreeSet<usize>,
    /// The snapshot on its way to the disk.
    pub(crate) incoming: Option<Snapshot>,
    /// The next group trims to the waiting snapshot.
    pub(crate) trim_is_due: bool,
    /// The promise of the right disk when the acceptor went back: no vote above it was lost.
    pub(crate) lost_below: Ballot,
    /// The machine has a blank disk by now: a new acceptor.
    pub(crate) emptied: bool,
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
        Self::with_disk(Disk {
            promised,
            ..Disk::new(uuid, Membership::Formed(configuration.clone()))
        })
    }

    /// A new acceptor, not started yet, and member of no cluster.
    pub(crate) fn blank(uuid: AcceptorUuid) -> Self {
        Self::with_disk(Disk::new(uuid, Membership::Blank))
    }

    fn with_disk(disk: Disk) -> Self {
        Self {
            disk,
            lost_below: Ballot::ZERO,
            emptied: false,
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
            before_the_end: None,
            went_back: false,
            linked: BTreeSet::new(),
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.core.is_some()
    }

    /// Whether the process runs and belongs to no cluster.
    pub(crate) fn is_blank(&self) -> bool {
        let core = self.core.as_ref();
        core.is_some_and(|core| *core.membership() == Membership::Blank)
    }

    /// Whether a vote or a promise at `ballot` counts: the acceptor runs on its right disk, or went back before any such
    /// statement, in an earlier era.
    pub(crate) fn counts_at(&self, ballot: Ballot) -> bool {
        match self.lost {
            None => true,
            Some(Lost::WentBack) => ballot.era() > self.lost_below.era(),
            // Only statements from before the loss are left.
            Some(Lost::Wiped | Lost::Stopped) => true,
        }
    }

    /// Whether the acceptor's statements cover a slot. The right disk stands for a lost one.
    pub(crate) fn covers(&self, slot: Slot, chosen_at: Ballot) -> bool {
        let right = self.right.as_ref().map(|(disk, _)| disk);
        let mut right = right.into_iter().chain(self.before_the_end.as_deref());
        self.disk.covers(slot, chosen_at) || right.any(|disk| disk.covers(slot, chosen_at))
    }

    pub(crate) fn describe(&self) -> String {
        format!(
            "{}: era {:?}, lost {:?}, promised {}, trimmed to {}, voted to {}, chosen to {} (on disk {}), damaged {:?}",
            if self.is_up() { "up" } else { "down" },
            self.disk.membership.configuration().map(Configuration::era),
            self.lost,
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
        let disk = &process.disk;
        self.invariants
            .promises
            .restarted(acceptor, disk.promised, &disk.rows);
        eras_are_kept::stored(acceptor, disk.promised, None, disk.membership.configuration());
        process.run += 1;
        process.disk.commit_counter = process.disk.commit_counter.next();
        process.disk.runs.push(Run {
            run,
            commit_counter: process.disk.commit_counter,
        });
        process.counter_file = process.disk.commit_counter;
        let core = Acceptor::recover(process.disk.recovered(), run);
        let waiting = process.disk.waiting.as_ref();
        let recorded = waiting.map_or(Slot::ZERO, |waiting| waiting.to);
        let core = core.with_recorded_claim(recorded);
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
        let place = eras_are_kept::place(acceptor);
        assert!(place < self.acceptors.len(), "acceptor {acceptor} does not exist");
        place
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
}
