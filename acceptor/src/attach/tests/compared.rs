//! Snapshots are compared with the digests of learners, of the latest reports and of earlier reports.

use super::*;
use crate::{contradictions::Contradictions, store::snapshots::SnapshotId};

/// The report of a learner with this state at these slots, the latest last.
fn digests(peer: u64, state: u8, slots: &[u64]) -> pb::AttachRequest {
    let digest = |to: &u64| pb::Digest {
        to: *to,
        digest: vec![8; 32].into(),
        state: vec![state; 16].into(),
    };
    let progress = pb::LearnerProgress {
        applied_to: *slots.last().unwrap(),
        digests: slots.iter().rev().map(digest).collect(),
        ..Default::default()
    };
    pb::AttachRequest {
        progress: Some(pb::attach_request::Progress::Learner(progress)),
        ..report(peer, &format!("http://l:{peer}"))
    }
}

fn reports(learner: &Attachment, report: pb::AttachRequest) {
    learner.report(report);
    learner.remember(Slot::new(2_000).unwrap());
}

fn given(to: u64, state: u8) -> ReportedDigest {
    ReportedDigest {
        to: Slot::new(to).unwrap(),
        log: vec![8; 32].into(),
        state: vec![state; 16].into(),
    }
}

/// The learner that contradicts a snapshot of learner 1, if any.
fn reporter(roster: &Roster, to: u64, state: u8) -> Option<u64> {
    let contradiction = roster.compare(1, &given(to, state))?;
    let named = |peer| NamedLearner {
        peer,
        address: format!("http://l:{peer}"),
    };
    assert_eq!(contradiction.giver, named(1));
    assert_eq!(contradiction.reporter, named(contradiction.reporter.peer));
    assert_eq!(contradiction.given, given(to, state));
    Some(contradiction.reporter.peer)
}

#[test]
fn snapshot_is_compared_with_every_digest_at_its_end_also_of_its_giver() {
    let roster = Arc::new(Roster::new(RESTART_MAX));
    let [giver, other] = [(); 2].map(|()| roster.attach(None).unwrap());
    reports(&giver, digests(1, 9, &[32, 64]));
    reports(&other, digests(2, 7, &[32, 40]));
    assert_eq!(reporter(&roster, 32, 7), Some(1), "the giver contradicts itself");
    reports(&other, digests(2, 7, &[64, 70]));
    reports(&other, digests(2, 7, &[1_024, 1_030, 2_001]));
    for to in [32, 40, 64, 70, 1_024, 1_030, 2_001] {
        assert_eq!(reporter(&roster, to, 9), Some(2), "{to}");
        let itself = (to == 32 || to == 64).then_some(1);
        assert_eq!(reporter(&roster, to, 7), itself, "{to}");
    }
    assert_eq!(reporter(&roster, 63, 9), None, "unknown");
    // A report above the cap counts as long as it is the latest.
    reports(&other, digests(2, 7, &[2_002]));
    assert_eq!(reporter(&roster, 2_001, 9), None);
    // A learner that has departed counts until the longest restart is over.
    drop(other);
    assert_eq!(reporter(&roster, 64, 9), Some(2));
    roster.lock().restart_max = Duration::ZERO;
    assert_eq!(reporter(&roster, 64, 9), None);
    roster.lock().restart_max = RESTART_MAX;
    assert_eq!(reporter(&roster, 64, 9), None, "forgotten permanently");
}

#[test]
fn liar_with_the_number_of_another_learner_hides_no_digest_of_this_learner() {
    let roster = Arc::new(Roster::new(RESTART_MAX));
    let [right, liar] = [1, 2].map(|host| roster.attach(Some([10, 0, 0, host].into())).unwrap());
    reports(&right, digests(2, 9, &[32, 64]));
    reports(&liar, digests(2, 7, &[32, 64]));
    assert_eq!(reporter_of_unknown(&roster), Some(2));
    drop(liar);
    assert_eq!(reporter_of_unknown(&roster), Some(2));
}

/// The learner that contradicts the wrong state in a snapshot of an unknown learner.
fn reporter_of_unknown(roster: &Roster) -> Option<u64> {
    let contradiction = roster.compare(0, &given(32, 7))?;
    assert_eq!(contradiction.giver.address, "");
    Some(contradiction.reporter.peer)
}

#[test]
fn waiting_snapshot_is_compared_with_later_reports() {
    let roster = Arc::new(Roster::new(RESTART_MAX));
    let id = |to| SnapshotId {
        to: Slot::new(to).unwrap(),
        sha256: [7; 32],
        bytes: 9,
    };
    let mut contradictions = Contradictions::default();
    contradictions.keeps(id(64), 1, given(64, 7));
    let learner = roster.attach(None).unwrap();
    reports(&learner, digests(2, 9, &[32]));
    assert_eq!(contradictions.look(&roster, Some(id(64))), []);
    // The report with the digest is not the latest any more at the next look.
    reports(&learner, digests(2, 9, &[64]));
    reports(&learner, digests(2, 9, &[70]));
    for (waiting, count) in [(None, 0), (Some(id(65)), 0), (Some(id(64)), 1), (Some(id(64)), 1)] {
        assert_eq!(contradictions.look(&roster, waiting).len(), count, "{waiting:?}");
    }
}
