//! Everything that holds trims back: a start, departed learners, differences, older releases, a forged claim.

use super::*;
use crate::store::snapshots::LOG_BYTES_UNKNOWN;

#[test]
fn different_digests_hold_back_every_trim_and_every_question() {
    let digests = [
        (digest(300, "a", "s"), digest(300, "a", "s"), false),
        (digest(300, "a", "s"), digest(300, "b", "s"), true),
        (digest(300, "a", "s"), digest(300, "a", "t"), true),
        (digest(300, "a", "s"), digest(300, "a", ""), false),
        (digest(300, "a", "s"), digest(301, "b", "t"), false),
    ];
    for (one, other, differ) in digests {
        for is_low in [false, true] {
            let mut scene = Scene::waiting(400, 0);
            scene.facts.log_bytes = Some(10 * STEP);
            scene.facts.is_low = is_low;
            scene.learners[0].digests = vec![digest(299, "x", ""), one.clone()];
            scene.learners[1].digests = vec![other.clone()];
            assert_eq!(scene.trim().is_none(), differ, "{one:?} {other:?}");
            scene.facts.snapshots.waiting = None;
            assert_eq!(scene.asked().is_none(), differ, "{one:?} {other:?}");
            let waits_for = scene.look().waits_for.unwrap();
            let is_so = waits_for == Hindrance::DifferentDigests { to: at(300) };
            assert_eq!(is_so, differ, "{waits_for}");
        }
    }
}

#[test]
fn trims_wait_after_a_start_until_learners_are_attached_again() {
    let mut scene = Scene::waiting(400, 1200);
    scene.policy = TrimPolicy::new(RetainBytes::AtLeast(STEP), RESTART_MAX);
    scene.facts.log_bytes = Some(1200 + 2 * STEP - 1);
    assert_eq!(scene.after(0).trim, None);
    assert_eq!(scene.after(59).waits_for, Some(Hindrance::Start));
    assert_eq!(scene.after(60).trim, Some(kept(400, 0).id));
    scene.policy = TrimPolicy::new(RetainBytes::AtLeast(STEP), RESTART_MAX);
    scene.facts.is_low = true;
    assert_eq!(scene.after(70).trim, None);
    assert_eq!(scene.after(79).waits_for, Some(Hindrance::Start));
    assert_eq!(scene.after(80).trim, Some(kept(400, 0).id));
}

#[test]
fn fast_growth_ends_the_wait_after_a_start_once_learners_had_time_to_attach() {
    let mut scene = Scene::waiting(400, 1200);
    scene.policy = TrimPolicy::new(RetainBytes::AtLeast(STEP), RESTART_MAX);
    scene.facts.log_bytes = Some(1200 + 2 * STEP);
    assert_eq!(scene.after(0).trim, None);
    assert_eq!(scene.after(9).waits_for, Some(Hindrance::Start));
    assert_eq!(scene.after(10).trim, Some(kept(400, 0).id));
}

#[test]
fn departed_learner_holds_a_trim_back_and_is_not_asked() {
    let mut scene = Scene::waiting(400, 1200);
    scene.facts.log_bytes = Some(1200 + STEP);
    scene.learners[0].is_attached = false;
    scene.learners[0].applied_to = at(399);
    assert!(matches!(scene.look().waits_for, Some(Hindrance::Learner { .. })));
    scene.learners[0].applied_to = at(500);
    scene.learners[0].digests = vec![digest(300, "a", "s")];
    scene.learners[1].digests = vec![digest(300, "b", "s")];
    assert_eq!(scene.trim(), None);
    scene.learners[1].digests.clear();
    scene.policy = TrimPolicy::new(RetainBytes::AtLeast(STEP), RESTART_MAX);
    scene.facts.snapshots.waiting = None;
    assert_eq!(scene.asked(), Some((5, 100)));
}

#[test]
fn difference_is_remembered_until_the_learners_agree_again() {
    let mut scene = Scene::waiting(400, 0);
    scene.facts.log_bytes = Some(10 * STEP);
    let differs = |scene: &mut Scene| {
        let waits_for = scene.look().waits_for;
        matches!(waits_for, Some(Hindrance::DifferentDigests { to }) if to == at(300))
    };
    scene.learners[0].digests = vec![digest(300, "a", "s")];
    scene.learners[1].digests = vec![digest(300, "b", "s")];
    assert!(differs(&mut scene));
    // All learners are gone, and a learner is back alone.
    let learners = std::mem::take(&mut scene.learners);
    assert!(differs(&mut scene));
    scene.learners = vec![learners[0].clone()];
    assert!(differs(&mut scene));
    // The same learners with no common digest, and with equal digests below the difference, or unknown states.
    for (one, other) in [
        (digest(320, "c", "s"), digest(321, "d", "s")),
        (digest(256, "c", "s"), digest(256, "c", "s")),
        (digest(320, "c", ""), digest(320, "c", "")),
    ] {
        scene.learners = learners.clone();
        scene.learners[0].digests = vec![one.clone()];
        scene.learners[1].digests = vec![other];
        assert!(differs(&mut scene), "{one:?}");
    }
    // A third learner agrees with the second, and the first is away or has no common digest.
    let third = LearnerReport {
        digests: vec![digest(320, "c", "s")],
        ..learner(9, 500)
    };
    scene.learners.push(third);
    scene.learners[0].digests.clear();
    scene.learners[1].digests = vec![digest(320, "c", "s")];
    assert!(differs(&mut scene));
    scene.learners[0].is_attached = false;
    assert!(differs(&mut scene));
    // A person has emptied the directory of the first: a new process at the same address.
    scene.learners[0] = LearnerReport {
        peer: 77,
        ..learners[0].clone()
    };
    scene.learners[0].digests = vec![digest(256, "x", "s")];
    assert!(differs(&mut scene));
    scene.learners[0].digests = vec![digest(320, "c", "s")];
    assert!(!differs(&mut scene));
    scene.learners[0].digests.clear();
    assert!(!differs(&mut scene), "settled permanently");
}

#[test]
fn snapshot_that_waited_while_digests_differed_is_never_trimmed_to() {
    let mut scene = Scene::waiting(400, 0);
    scene.facts.log_bytes = Some(10 * STEP);
    scene.facts.is_low = true;
    assert_eq!(scene.trim(), Some(400));
    scene.learners[0].digests = vec![digest(300, "a", "s")];
    scene.learners[1].digests = vec![digest(300, "b", "s")];
    // Another hindrance does not hide the difference.
    scene.facts.older_peer = Some("http://old:1");
    let decision = scene.look();
    assert_eq!((decision.trim, decision.wish), (None, None));
    assert_eq!(decision.differ_below, Some(at(300)));
    assert_eq!(decision.forget, Some((kept(400, 0).id, ForgetReason::Suspect)));
    // A person has emptied the wrong learner, and the learners agree again.
    scene.facts.older_peer = None;
    for learner in &mut scene.learners {
        learner.digests = vec![digest(320, "c", "s")];
    }
    for is_low in [true, false] {
        scene.facts.is_low = is_low;
        let decision = scene.look();
        assert_eq!((decision.trim, decision.differ_below), (None, None));
        assert_eq!(decision.wish.map(|wish| wish.above), Some(at(100)));
        assert!(decision.ignores_waiting);
        let suspect = (kept(400, 0).id, ForgetReason::Suspect);
        assert_eq!(decision.forget, Some(suspect), "forgotten later");
    }
    // The next snapshot takes the place, or the same snapshot comes again after its record is forgotten.
    scene.facts.snapshots.waiting = Some(kept(450, 0));
    let decision = scene.look();
    assert_eq!((decision.ignores_waiting, decision.forget), (false, None));
    assert_eq!(decision.trim, Some(kept(450, 0).id));
    scene.facts.snapshots.waiting = None;
    assert_eq!(scene.look().forget, None);
    scene.facts.snapshots.waiting = Some(kept(400, 0));
    assert_eq!(scene.trim(), Some(400));
}

/// A snapshot of the first learner that contradicts the second.
fn contradiction(scene: &Scene, to: u64) -> Contradiction {
    Contradiction {
        giver: scene.learners[0].name(),
        given: digest(to, "a", "wrong"),
        reporter: scene.learners[1].name(),
    }
}

#[test]
fn contradicted_snapshot_holds_everything_back_until_the_learners_agree_again() {
    let mut scene = Scene::waiting(400, 0);
    scene.facts.log_bytes = Some(10 * STEP);
    assert_eq!(scene.trim(), Some(400));
    // Beside equal reports.
    for learner in &mut scene.learners {
        learner.digests = vec![digest(320, "c", "s")];
    }
    scene.contradictions = vec![contradiction(&scene, 300), contradiction(&scene, 310)];
    let decision = scene.look();
    let suspect = (kept(400, 0).id, ForgetReason::Suspect);
    assert_eq!((decision.trim, decision.forget), (None, Some(suspect)));
    assert_eq!(decision.differ_below, Some(at(300)));
    let differs = Hindrance::DifferentDigests { to: at(300) };
    assert_eq!(decision.waits_for, Some(differs));
    assert_eq!(scene.look().differ_below, None, "the reports agree above");
    // A learner that does not report a digest at the slot or later does not agree.
    scene.contradictions = vec![contradiction(&scene, 330)];
    scene.look();
    let decision = scene.look();
    assert_eq!((decision.differ_below, decision.wish), (Some(at(330)), None));
    scene.learners[1].digests = vec![digest(340, "c", "s")];
    assert_eq!(scene.look().differ_below, Some(at(330)));
    scene.learners[0].digests = vec![digest(340, "c", "s")];
    assert_eq!(scene.look().differ_below, None);
    // Never above the cap.
    scene.contradictions = vec![contradiction(&scene, 501)];
    scene.look();
    assert_eq!(scene.look().differ_below, None);
}

#[test]
fn after_a_contradicted_upload_the_next_learner_is_asked() {
    let mut scene = Scene::trimming();
    scene.facts.log_bytes = Some(STEP);
    for learner in &mut scene.learners {
        learner.digests = vec![digest(320, "c", "s")];
    }
    assert_eq!(scene.after(1).wish.unwrap().peer, 3);
    scene.facts.is_arriving = true;
    assert_eq!(scene.after(2).wish, None);
    scene.facts.is_arriving = false;
    scene.facts.failures = 1;
    scene.contradictions = vec![contradiction(&scene, 300)];
    assert_eq!(scene.after(3).differ_below, Some(at(300)));
    assert_eq!(scene.after(4).waits_for, Some(Hindrance::Pause));
    assert_eq!(scene.after(34).wish.unwrap().peer, 5);
}

#[test]
fn difference_is_settled_without_a_learner_that_is_gone() {
    let mut scene = Scene::waiting(400, 0);
    scene.facts.log_bytes = Some(10 * STEP);
    scene.learners[0].digests = vec![digest(300, "a", "s")];
    scene.learners[1].digests = vec![digest(300, "b", "s")];
    assert_eq!(scene.trim(), None);
    scene.learners[0] = LearnerReport {
        digests: vec![digest(300, "b", "s")],
        ..learner(8, 500)
    };
    assert_eq!(scene.look().differ_below, None);
    scene.facts.snapshots.waiting = Some(kept(450, 0));
    assert_eq!(scene.trim(), Some(450));
}

#[test]
fn invented_digest_above_the_cap_is_not_remembered() {
    let mut scene = Scene::waiting(400, 0);
    scene.facts.log_bytes = Some(10 * STEP);
    scene.learners[0].digests = vec![digest(501, "a", "s")];
    scene.learners[1].digests = vec![digest(501, "b", "s")];
    assert_eq!(scene.look().differ_below, Some(at(501)));
    scene.learners[1].digests.clear();
    assert_eq!(scene.look().differ_below, None);
    scene.facts.snapshots.waiting = Some(kept(450, 0));
    assert_eq!(scene.trim(), Some(450));
}

#[test]
fn waiting_snapshot_above_the_cap_for_a_minute_is_forgotten() {
    let mut scene = Scene::waiting(900, STEP);
    scene.facts.log_bytes = Some(2 * STEP);
    assert_eq!(scene.after(1).wish, None);
    // Without a leader the cap does not move.
    scene.facts.has_leader = false;
    assert_eq!(scene.after(100).wish, None);
    scene.facts.has_leader = true;
    assert_eq!(scene.after(101).wish, None);
    let decision = scene.after(160);
    assert_eq!((decision.wish, decision.ignores_waiting), (None, false));
    assert_eq!(decision.forget, None);
    let decision = scene.after(161);
    assert!(decision.ignores_waiting);
    assert_eq!(decision.wish.map(|wish| wish.above), Some(at(100)));
    let above_cap = (kept(900, 0).id, ForgetReason::AboveCap);
    assert_eq!(decision.forget, Some(above_cap));
    // A damaged file, whose record would raise the cap at the next start.
    scene.damaged = vec![kept(900, 0).id];
    assert_eq!(scene.look().forget, Some(above_cap));
    scene.damaged.clear();
    // A later claim may allow the trim that a disk low on space needs.
    scene.facts.is_low = true;
    assert_eq!(scene.look().forget, None);
    scene.facts.is_low = false;
    scene.facts.snapshots.waiting = Some(kept(450, 2 * STEP));
    let decision = scene.after(162);
    assert_eq!((decision.wish, decision.ignores_waiting), (None, false));
    assert_eq!(decision.forget, None);
}

#[test]
fn full_acceptor_trims_to_its_snapshot_once_no_leader_has_got_further_for_a_minute() {
    for has_leader in [true, false] {
        let mut scene = Scene::waiting(900, STEP);
        scene.facts.is_low = true;
        scene.facts.has_leader = has_leader;
        scene.facts.is_leader_stuck = has_leader;
        let above = Hindrance::Cap { to: at(900) };
        // Leaders get further: the next claim may allow the trim.
        for second in [50, 100, 150] {
            scene.facts.cap = at(700 + second);
            let decision = scene.after(second);
            assert_eq!((decision.trim, decision.forget), (None, None), "{second}");
        }
        let decision = scene.after(209);
        assert_eq!(
            (decision.trim, decision.forget, decision.ignores_waiting),
            (None, None, has_leader)
        );
        if !has_leader {
            assert_eq!(decision.waits_for, Some(above));
        }
        let decision = scene.after(210);
        assert_eq!(
            (
                decision.trim,
                decision.forget,
                decision.wish,
                decision.ignores_waiting
            ),
            (Some(kept(900, 0).id), None, None, false)
        );
        // A damaged file is no file to trim to. The whole log is not trimmed for space.
        scene.damaged = vec![kept(900, 0).id];
        assert_eq!(scene.trim(), None);
        scene.damaged.clear();
        scene.policy.retain_bytes = RetainBytes::All;
        assert_eq!(scene.trim(), None);
        scene.policy.retain_bytes = RetainBytes::AtLeast(STEP);
        scene.facts.is_low = false;
        assert_eq!(scene.trim(), None, "with space, the next leader gets further");
    }
}

#[test]
fn full_acceptor_beside_a_leader_with_nothing_to_order_trims_to_no_snapshot_above_the_cap() {
    let mut scene = Scene::waiting(900, STEP);
    scene.facts.is_low = true;
    scene.facts.cap = at(850);
    for seconds in (10..1000).step_by(30) {
        let decision = scene.after(seconds);
        assert_eq!((decision.trim, decision.forget), (None, None), "{seconds}");
    }
    scene.facts.is_leader_stuck = true;
    assert_eq!(scene.trim(), Some(900));
}

#[test]
fn peer_of_an_earlier_release_stops_questions_and_trims() {
    let mut scene = Scene::waiting(400, 0);
    scene.facts.log_bytes = Some(10 * STEP);
    scene.facts.is_low = true;
    scene.facts.older_peer = Some("http://old:1");
    let older = Hindrance::OlderPeer {
        address: "http://old:1".to_owned(),
    };
    let decision = scene.look();
    assert_eq!((decision.trim, decision.waits_for), (None, Some(older)));
    scene.facts.snapshots.waiting = None;
    assert_eq!(scene.asked(), None);
    scene.facts.older_peer = None;
    assert_eq!(scene.asked(), Some((3, 100)));
}

#[test]
fn growth_counts_from_the_smallest_log_since_the_arrival() {
    // Recorded during a sweep, with the rows not deleted yet.
    let mut scene = Scene::waiting(400, 5 * STEP);
    scene.facts.log_bytes = None;
    assert_eq!(scene.trim(), None);
    scene.facts.log_bytes = Some(2 * STEP);
    let wanted = 3 * STEP;
    assert!(
        matches!(scene.look().waits_for, Some(Hindrance::Growth { wanted: found, .. }) if found == wanted)
    );
    scene.facts.log_bytes = Some(wanted);
    assert_eq!(scene.trim(), Some(400));
}

#[test]
fn growth_from_an_unknown_size_counts_from_the_first_known_size() {
    let mut scene = Scene::waiting(400, LOG_BYTES_UNKNOWN);
    scene.facts.log_bytes = None;
    assert_eq!(scene.trim(), None);
    scene.facts.log_bytes = Some(5 * STEP);
    assert_eq!(scene.trim(), None);
    scene.facts.log_bytes = Some(6 * STEP);
    assert_eq!(scene.trim(), Some(400));
}

#[test]
fn only_an_acceptor_that_is_behind_takes_a_lift_of_any_caller() {
    let mut scene = Scene::trimming();
    assert_eq!(scene.after(20).lift_above, None);
    scene.facts.cap = at(600);
    assert_eq!(scene.after(21).lift_above, Some(at(500)));
    scene.learners[0].digests = vec![digest(300, "a", "s")];
    scene.learners[1].digests = vec![digest(300, "b", "s")];
    assert_eq!(scene.look().lift_above, None);
}

#[test]
fn full_acceptor_is_lifted_unless_the_whole_log_is_kept() {
    for (retain, is_lifted) in [(RetainBytes::AtLeast(STEP), true), (RetainBytes::All, false)] {
        let mut scene = Scene::new(retain);
        scene.facts.is_low = true;
        scene.facts.cap = at(600);
        scene.learners[0].applied_to = at(600);
        assert_eq!(scene.after(20).wish.is_some(), is_lifted, "{retain:?}");
        scene.facts.snapshots.waiting = Some(kept(600, 0));
        assert_eq!(scene.trim().is_some(), is_lifted, "{retain:?}");
    }
}
