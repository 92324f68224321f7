//! Learners that differ, by their reports and by their snapshots.

use super::*;

/// The learner, with states at the slots of its digests; 0: unknown, as from an older release.
fn with_states(mut peer: AttachedPeer, states: &[u8]) -> AttachedPeer {
    let report = peer.report.as_mut().unwrap();
    let Some(Progress::Learner(progress)) = &mut report.progress else {
        panic!("{report:?}")
    };
    for (digest, &byte) in progress.digests.iter_mut().zip(states) {
        digest.state = vec![byte; if byte > 0 { 16 } else { 0 }].into();
    }
    peer
}

#[test]
fn differing_learners_are_found_at_any_common_point_and_are_the_worst() {
    let differing = [
        proposer(7101, true),
        learner(7201, 9, &[(9, 1), (5, 1)]),
        learner(7202, 8, &[(8, 2), (5, 2)]),
    ];
    let verdict = judge(&cluster(&differing));
    assert_eq!((verdict.digests, verdict.exit()), (Digests::Differ(5), Exit::No));
    let problem = &verdict.findings[0].problem;
    assert!(
        problem.starts_with("learners DIFFER below slot 5") && problem.contains("7202 holds 020202020202"),
        "{problem}"
    );
}

#[test]
fn learners_with_equal_logs_and_differing_states_are_broken() {
    let judged = |states: [&[u8]; 3]| {
        let learner = |(port, states)| with_states(learner(port, 9, &[(9, 1), (5, 1)]), states);
        let peers = (7201..).zip(states).map(learner);
        judge(&cluster(
            &std::iter::once(proposer(7101, true))
                .chain(peers)
                .collect::<Vec<_>>(),
        ))
    };
    let verdict = judged([&[0, 3], &[3, 3], &[3, 4]]);
    assert_eq!(
        (verdict.digests, verdict.exit()),
        (Digests::StatesDiffer(5), Exit::No)
    );
    let problem = &verdict.findings[0].problem;
    assert!(
        problem.contains("STATES of learners DIFFER below slot 5")
            && problem.contains("7203 holds 040404040404"),
        "{problem}"
    );
    // An unknown state is no different state.
    assert_eq!(judged([&[0, 3], &[3, 0], &[0, 3]]).digests, Digests::Equal(9));
}

#[test]
fn contradicted_snapshot_is_broken_and_named_once() {
    let mut status = healthy();
    let text = "the snapshot of learner 5 contradicts the digest of learner 9 below slot 16";
    for index in 0..2 {
        change(&mut status, index, |answer| {
            answer.contradictions = vec![text.to_owned()]
        });
    }
    let verdict = judge(&status);
    let [finding] = &verdict.findings[..] else {
        panic!("{:?}", verdict.findings)
    };
    assert_eq!(verdict.exit(), Exit::No);
    assert_eq!(finding.problem, format!("acceptors refused a snapshot: {text}"));
    assert!(finding.advice.contains("empty its data directory"));
}
