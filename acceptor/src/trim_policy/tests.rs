//! Every reason for a snapshot, every trim, and everything that holds a trim back.

use paxos_common::paxos::slot::Slot;

use super::*;
use crate::store::snapshots::{KeptSnapshot, SHA256_BYTES};

mod held_back;

const STEP: u64 = 1000;
const RESTART_MAX: Duration = Duration::from_mins(1);

fn at(slot: u64) -> Slot {
    Slot::new(slot).unwrap()
}

fn kept(to: u64, log_bytes: u64) -> KeptSnapshot {
    let id = SnapshotId {
        to: at(to),
        sha256: [u8::try_from(to % 251).unwrap(); SHA256_BYTES],
        bytes: 10,
    };
    KeptSnapshot { id, log_bytes }
}

fn learner(peer: u64, applied_to: u64) -> LearnerReport {
    LearnerReport {
        peer,
        address: format!("http://l:{peer}"),
        is_attached: true,
        applied_to: at(applied_to),
        installing_to: None,
        digests: Vec::new(),
    }
}

fn digest(to: u64, log: &'static str, state: &'static str) -> ReportedDigest {
    ReportedDigest {
        to: at(to),
        log: log.into(),
        state: state.into(),
    }
}

/// An acceptor with a log from slot 100 on, the watermark 500, and two learners at slot 500. The start was a minute ago.
struct Scene {
    policy: TrimPolicy,
    begun: Instant,
    learners: Vec<LearnerReport>,
    damaged: Vec<SnapshotId>,
    /// Seen by the next look alone.
    contradictions: Vec<Contradiction>,
    facts: Facts<'static>,
}

impl Scene {
    fn new(retain: RetainBytes) -> Self {
        let started = Instant::now();
        let begun = started + RESTART_MAX;
        let snapshots = KeptSnapshots {
            bottom: Some(kept(100, 0)),
            waiting: None,
        };
        let mut scene = Self {
            policy: TrimPolicy::new(retain, RESTART_MAX),
            begun,
            learners: vec![learner(3, 500), learner(5, 500)],
            damaged: Vec::new(),
            contradictions: Vec::new(),
            facts: Facts {
                now: started,
                log_bytes: Some(STEP - 1),
                trimmed_to: at(100),
                chosen_to: at(499),
                cap: at(500),
                has_leader: true,
                is_leader_stuck: false,
                is_outside: false,
                is_low: false,
                snapshots,
                damaged: &[],
                is_arriving: false,
                failures: 0,
                learners: &[],
                contradictions: &[],
                older_peer: None,
            },
        };
        scene.look();
        scene.facts.now = begun;
        scene.facts.chosen_to = at(500);
        let first = scene.look();
        assert_eq!((first.wish, first.trim), (None, None), "nothing to do");
        scene
    }

    fn trimming() -> Self {
        Self::new(RetainBytes::AtLeast(STEP))
    }

    fn waiting(to: u64, log_bytes: u64) -> Self {
        let mut scene = Self::trimming();
        scene.facts.snapshots.waiting = Some(kept(to, log_bytes));
        scene
    }

    fn look(&mut self) -> TrimDecision {
        self.policy.look(&Facts {
            contradictions: &std::mem::take(&mut self.contradictions),
            learners: &self.learners,
            damaged: &self.damaged,
            ..self.facts.clone()
        })
    }

    fn after(&mut self, seconds: u64) -> TrimDecision {
        self.facts.now = self.begun + Duration::from_secs(seconds);
        self.look()
    }

    /// The asked learner and the slot.
    fn asked(&mut self) -> Option<(u64, u64)> {
        self.look().wish.map(|wish| (wish.peer, wish.above.get()))
    }

    fn trim(&mut self) -> Option<u64> {
        self.look().trim.map(|id| id.to.get())
    }
}

#[test]
fn log_that_has_grown_by_a_step_asks_the_learner_with_the_lowest_number() {
    let mut scene = Scene::trimming();
    assert!(matches!(
        scene.look().waits_for,
        Some(Hindrance::Growth { wanted: STEP, .. })
    ));
    scene.facts.log_bytes = Some(STEP);
    assert_eq!(scene.asked(), Some((3, 100)));
    let answer = Hindrance::Answer {
        peer: 3,
        address: "http://l:3".to_owned(),
        above: at(100),
    };
    assert_eq!(scene.look().waits_for, Some(answer.clone()));
    // The learner is above the cap: the next claim of the leader lets the acceptor take the snapshot.
    scene.facts.cap = at(499);
    assert_eq!(scene.look().waits_for, Some(answer));
    scene.facts.has_leader = false;
    assert_eq!(scene.asked(), Some((3, 100)));
    assert_eq!(scene.look().waits_for, Some(Hindrance::Cap { to: at(500) }));
    scene.facts.cap = at(500);
    scene.facts.has_leader = true;
    // Rows that are being deleted do not count.
    scene.facts.log_bytes = None;
    assert_eq!(scene.asked(), None);
    assert_eq!(scene.look().waits_for, Some(Hindrance::Sweep));
}

#[test]
fn step_is_at_least_the_size_of_the_bottom() {
    let mut scene = Scene::trimming();
    scene.facts.snapshots.bottom.as_mut().unwrap().id.bytes = 3 * STEP;
    scene.facts.log_bytes = Some(3 * STEP - 1);
    assert_eq!(scene.asked(), None);
    scene.facts.log_bytes = Some(3 * STEP);
    assert_eq!(scene.asked(), Some((3, 100)));
}

#[test]
fn nothing_is_asked_while_a_snapshot_waits_or_arrives() {
    let mut scene = Scene::waiting(400, STEP);
    scene.facts.log_bytes = Some(STEP);
    assert_eq!(scene.asked(), None);
    scene.facts.snapshots.waiting = None;
    scene.facts.is_arriving = true;
    assert_eq!(scene.asked(), None);
    assert_eq!(scene.look().waits_for, Some(Hindrance::Arrival));
}

#[test]
fn whole_log_is_kept_unless_the_acceptor_is_behind_or_its_bottom_is_damaged() {
    let mut scene = Scene::new(RetainBytes::All);
    scene.facts.log_bytes = Some(u64::MAX);
    scene.facts.is_low = true;
    assert_eq!(scene.asked(), None);
    assert_eq!(scene.look().waits_for, Some(Hindrance::KeepsAll));
    scene.facts.snapshots.waiting = Some(kept(400, 0));
    assert_eq!(scene.trim(), None);
    scene.damaged = vec![kept(100, 0).id];
    assert_eq!(scene.trim(), Some(400));
    scene.facts.snapshots.waiting = None;
    assert_eq!(scene.asked(), Some((3, 100)));
    scene.damaged.clear();
    scene.facts.is_low = false;
    scene.facts.cap = at(501);
    scene.learners[1].applied_to = at(501);
    assert_eq!(scene.after(11).wish.map(|wish| wish.above), Some(at(500)));
}

#[test]
fn acceptor_is_behind_after_ten_seconds_without_a_move_below_an_active_leader() {
    let mut scene = Scene::trimming();
    scene.facts.cap = at(600);
    scene.learners = vec![learner(3, 500), learner(5, 590)];
    assert_eq!(scene.after(9).wish, None);
    // The question goes to a learner that can help, above the sound watermark.
    let wish = SnapshotWish {
        peer: 5,
        above: at(500),
    };
    assert_eq!(scene.after(10).wish, Some(wish));
    scene.facts.chosen_to = at(501);
    assert_eq!(scene.after(19).wish, None, "the watermark moves");
    assert_eq!(scene.after(28).wish, None);
    assert_eq!(scene.after(29).wish.map(|wish| wish.above), Some(at(501)));
    scene.facts.has_leader = false;
    assert_eq!(scene.after(40).wish, None);
    scene.facts.has_leader = true;
    scene.facts.chosen_to = at(600);
    assert_eq!(scene.after(60).wish, None);
    assert_eq!(scene.after(80).wish, None, "not below the leader");
}

#[test]
fn snapshot_above_the_watermark_lifts_an_acceptor_that_is_behind_at_once() {
    let mut scene = Scene::waiting(550, STEP);
    scene.facts.cap = at(549);
    assert_eq!(scene.after(20).trim, None, "above the cap");
    assert_eq!(scene.look().waits_for, Some(Hindrance::Cap { to: at(550) }));
    scene.facts.cap = at(600);
    assert_eq!(scene.trim(), Some(550));
    scene.facts.has_leader = false;
    assert_eq!(scene.trim(), None);
    scene.facts.has_leader = true;
    // The watermark moves: the leader repairs this acceptor.
    scene.facts.chosen_to = at(501);
    assert_eq!(scene.trim(), None);
    // A waiting snapshot below the watermark does not help: the acceptor asks for a higher snapshot.
    scene.facts.snapshots.waiting = Some(kept(400, STEP));
    scene.learners[0].applied_to = at(700);
    let decision = scene.after(40);
    assert_eq!(
        (decision.trim, decision.wish.map(|wish| wish.above)),
        (None, Some(at(501)))
    );
}

#[test]
fn snapshot_below_the_cap_lifts_an_acceptor_outside_without_delay() {
    let started = Instant::now();
    let mut policy = TrimPolicy::new(RetainBytes::AtLeast(STEP), RESTART_MAX);
    let facts = Facts {
        now: started,
        is_outside: true,
        chosen_to: Slot::ZERO,
        trimmed_to: Slot::ZERO,
        cap: at(600),
        learners: &[],
        snapshots: KeptSnapshots::default(),
        ..Scene::trimming().facts
    };
    let decision = policy.look(&facts);
    assert_eq!((decision.lift_above, decision.wish), (Some(Slot::ZERO), None));
    let with = |waiting: u64| Facts {
        snapshots: KeptSnapshots {
            bottom: None,
            waiting: Some(kept(waiting, 0)),
        },
        ..facts.clone()
    };
    assert_eq!(policy.look(&with(550)).trim, Some(kept(550, 0).id));
    // The guard stays: nothing above the last claim, and nothing without a leader.
    let above = policy.look(&with(601));
    assert_eq!(
        (above.trim, above.waits_for),
        (None, Some(Hindrance::Cap { to: at(601) }))
    );
    let without_leader = Facts {
        has_leader: false,
        ..with(550)
    };
    let decision = policy.look(&without_leader);
    assert_eq!((decision.trim, decision.lift_above), (None, None));
    // A member waits.
    let member = Facts {
        is_outside: false,
        ..with(550)
    };
    let decision = policy.look(&member);
    assert_eq!((decision.trim, decision.lift_above), (None, None));
}

#[test]
fn damaged_bottom_is_replaced_at_once() {
    let mut scene = Scene::trimming();
    scene.damaged = vec![kept(100, 0).id];
    assert_eq!(scene.asked(), Some((3, 100)));
    scene.facts.snapshots.waiting = Some(kept(400, STEP));
    assert_eq!((scene.asked(), scene.trim()), (None, Some(400)));
}

#[test]
fn damaged_waiting_snapshot_counts_for_nothing() {
    let mut scene = Scene::waiting(400, 0);
    scene.facts.log_bytes = Some(STEP);
    assert_eq!((scene.asked(), scene.trim()), (None, Some(400)));
    scene.damaged = vec![kept(400, 0).id];
    assert_eq!((scene.asked(), scene.trim()), (Some((3, 100)), None));
}

#[test]
fn disk_low_on_space_is_relieved_at_once() {
    let mut scene = Scene::trimming();
    scene.facts.is_low = true;
    assert_eq!(scene.asked(), Some((3, 100)));
    scene.facts.snapshots.waiting = Some(kept(400, STEP));
    assert_eq!((scene.asked(), scene.trim()), (None, Some(400)));
}

#[test]
fn trim_is_due_when_the_log_has_grown_by_a_step_since_the_snapshot_arrived() {
    let mut scene = Scene::waiting(400, 1200);
    scene.facts.log_bytes = Some(1200 + STEP - 1);
    assert_eq!(scene.trim(), None);
    let wanted = 1200 + STEP;
    assert!(
        matches!(scene.look().waits_for, Some(Hindrance::Growth { wanted: found, .. }) if found == wanted)
    );
    scene.facts.log_bytes = None;
    assert_eq!(scene.trim(), None);
    scene.facts.log_bytes = Some(wanted);
    let decision = scene.look();
    assert_eq!((decision.trim, decision.waits_for), (Some(kept(400, 0).id), None));
}

#[test]
fn learner_below_the_snapshot_holds_a_trim_back_for_one_more_step() {
    let mut scene = Scene::waiting(400, 1200);
    scene.learners[1].applied_to = at(399);
    scene.facts.log_bytes = Some(1200 + 2 * STEP - 1);
    assert_eq!(scene.trim(), None);
    assert!(matches!(scene.look().waits_for, Some(Hindrance::Learner { .. })));
    // The position of an installing learner is the end of its snapshot.
    scene.learners[1].installing_to = Some(at(400));
    assert_eq!(scene.trim(), Some(400));
    scene.learners[1].installing_to = Some(at(399));
    assert_eq!(scene.trim(), None);
    scene.facts.log_bytes = Some(1200 + 2 * STEP);
    assert_eq!(scene.trim(), Some(400));
    // A lift does not wait for learners.
    scene.facts.log_bytes = Some(0);
    scene.facts.is_low = true;
    assert_eq!(scene.trim(), Some(400));
}

#[test]
fn learner_that_does_not_answer_is_followed_by_the_next_and_the_first_again() {
    let mut scene = Scene::trimming();
    scene.learners.push(learner(9, 100));
    scene.learners.push(learner(11, 300));
    scene.facts.log_bytes = Some(STEP);
    let mut asked = Vec::new();
    for seconds in (0..150).step_by(10) {
        asked.push(scene.after(seconds).wish.unwrap().peer);
    }
    // Learner 9 has nothing above slot 100.
    assert_eq!(asked, [3, 3, 3, 5, 5, 5, 11, 11, 11, 3, 3, 3, 5, 5, 5]);
    scene.learners.retain(|learner| learner.peer != 5);
    assert_eq!(
        scene.after(150).wish.unwrap().peer,
        11,
        "the asked learner is gone"
    );
    scene.learners.last_mut().unwrap().installing_to = Some(at(200));
    assert_eq!(scene.after(151).wish.unwrap().peer, 3);
    scene.learners.clear();
    let decision = scene.after(152);
    assert_eq!(decision.wish, None);
    assert_eq!(decision.waits_for, Some(Hindrance::NoLearner { above: at(100) }));
}

#[test]
fn after_a_failed_upload_there_is_a_pause_and_the_next_learner_is_asked() {
    let mut scene = Scene::trimming();
    scene.facts.log_bytes = Some(STEP);
    assert_eq!(scene.after(1).wish.unwrap().peer, 3);
    scene.facts.is_arriving = true;
    assert_eq!(scene.after(2).wish, None);
    scene.facts.is_arriving = false;
    scene.facts.failures = 1;
    assert_eq!(scene.after(3).wish, None);
    let decision = scene.after(32);
    assert_eq!(
        (decision.wish, decision.waits_for),
        (None, Some(Hindrance::Pause))
    );
    assert_eq!(scene.after(33).wish.unwrap().peer, 5);
    // A successful upload leaves no reason to ask, and the next round begins with the lowest number.
    scene.facts.is_arriving = true;
    assert_eq!(scene.after(34).wish, None);
    scene.facts.is_arriving = false;
    scene.facts.snapshots.waiting = Some(kept(400, STEP));
    assert_eq!(scene.after(35).wish, None);
    scene.facts.snapshots.waiting = None;
    assert_eq!(scene.after(36).wish.unwrap().peer, 3);
    // An upload that begins and fails between two looks.
    scene.facts.failures = 2;
    assert_eq!(scene.after(37).wish, None);
    assert_eq!(scene.after(67).wish.unwrap().peer, 5);
}

/// An example of each hindrance, with a part of its advice: each leads to the next.
fn next_hindrance(hindrance: &Hindrance) -> Option<(Hindrance, &'static str)> {
    let (long, above) = ("h".repeat(256), at(u64::MAX >> 1));
    Some(match hindrance {
        Hindrance::KeepsAll => (Hindrance::Sweep, "Nothing is to be done"),
        Hindrance::Sweep => (Hindrance::Start, "Nothing is to be done"),
        Hindrance::Start => (Hindrance::OlderPeer { address: long }, "Upgrade all"),
        Hindrance::OlderPeer { .. } => {
            let (log_bytes, wanted) = (12 << 20, 256 << 20);
            let growth = Hindrance::Growth { log_bytes, wanted };
            (growth, "has 12 MiB of 256 MiB. Nothing is to be done")
        }
        Hindrance::Growth { .. } => (
            Hindrance::DifferentDigests { to: above },
            "Empty the data directory of the wrong learner",
        ),
        Hindrance::DifferentDigests { .. } => (Hindrance::NoLearner { above }, "Start a learner"),
        Hindrance::NoLearner { .. } => {
            let (peer, address) = (u64::MAX, long);
            let answer = Hindrance::Answer { peer, address, above };
            (answer, "look at the log of this learner")
        }
        Hindrance::Answer { .. } => (Hindrance::Pause, "look at the log of this acceptor"),
        Hindrance::Pause => (Hindrance::Arrival, "Nothing is to be done"),
        Hindrance::Arrival => (
            Hindrance::Cap { to: above },
            "Start a proposer and all acceptors; if no leader is elected because disks are full, free space on these disks \
             outside the data directories, and never delete a file of an acceptor",
        ),
        Hindrance::Cap { to } => {
            let (address, position, to) = (long, above, *to);
            let learner = Hindrance::Learner {
                address,
                position,
                to,
            };
            (learner, "Look at the log of this learner")
        }
        Hindrance::Learner { .. } => return None,
    })
}

#[test]
fn every_hindrance_is_a_short_text_that_says_what_to_do() {
    let mut next = Some((Hindrance::KeepsAll, "--retain-bytes all"));
    let mut count = 0;
    while let Some((hindrance, advice)) = next {
        let text = hindrance.to_string();
        assert!(text.len() < 640 && text.contains(advice), "{text}");
        let says_nothing = text.ends_with("Nothing is to be done");
        assert!(!(says_nothing && hindrance.needs_person()), "{text}");
        next = next_hindrance(&hindrance);
        count += 1;
    }
    assert_eq!(count, 12, "every hindrance is visited");
}
