//! Learners whose snapshots contradicted other learners, and waiting snapshots that are contradicted later.

use super::*;

#[test]
fn contested_learner_is_not_asked_and_the_next_is_asked_at_once() {
    let mut scene = Scene::trimming();
    scene.facts.log_bytes = Some(STEP);
    assert_eq!(scene.after(1).wish.unwrap().peer, 3);
    scene.facts.is_arriving = true;
    assert_eq!(scene.after(2).wish, None);
    // The upload is refused.
    scene.facts.is_arriving = false;
    scene.facts.failures = 1;
    scene.contested = vec![3];
    assert_eq!(scene.after(3).wish.unwrap().peer, 5);
    for seconds in [33, 63, 93] {
        assert_eq!(scene.after(seconds).wish.unwrap().peer, 5, "after {seconds} s");
    }
    // Other failed uploads of the next learner have their pause.
    scene.facts.failures = 2;
    assert_eq!(scene.after(94).waits_for, Some(Hindrance::Pause));
    assert_eq!(scene.after(124).wish.unwrap().peer, 5);
    // All learners are contested: a person acts.
    scene.contested = vec![3, 5];
    let decision = scene.after(125);
    let (peer, address) = (3, "http://l:3".to_owned());
    assert_eq!(
        (decision.wish, decision.waits_for),
        (None, Some(Hindrance::Contested { peer, address }))
    );
    scene.contested.clear();
    assert_eq!(scene.after(126).wish.unwrap().peer, 3);
}

#[test]
fn waiting_snapshot_that_is_contradicted_is_never_trimmed_to() {
    let mut scene = Scene::waiting(400, 0);
    scene.facts.log_bytes = Some(10 * STEP);
    scene.contested = vec![3];
    assert_eq!(scene.trim(), Some(400), "another snapshot was contradicted");
    scene.facts.contradicted = Some(kept(399, 0).id);
    assert_eq!(scene.trim(), Some(400), "another snapshot is contradicted");
    scene.facts.contradicted = Some(kept(400, 0).id);
    for contradicted in [scene.facts.contradicted, None] {
        scene.facts.contradicted = contradicted;
        let decision = scene.look();
        assert_eq!((decision.trim, decision.differ_below), (None, None));
        assert_eq!(decision.wish.map(|wish| wish.peer), Some(5));
        assert!(decision.ignores_waiting);
        assert_eq!(decision.forget, Some((kept(400, 0).id, ForgetReason::Suspect)));
    }
}
