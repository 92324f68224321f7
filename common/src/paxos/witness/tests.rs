//! Acceptors that the guard trusts, suspects, refuses and readmits.

use super::{guard::CONTRADICTIONS_MAX, *};
use crate::paxos::quorum::Quorums;

const ACCEPTOR: AcceptorUuid = AcceptorUuid::from_u128(7);
const OTHER: AcceptorUuid = AcceptorUuid::from_u128(8);
const THIRD: AcceptorUuid = AcceptorUuid::from_u128(9);

/// A guard that requires no reports of other acceptors.
fn guard() -> Guard {
    Guard::with(RUNS_MAX, 0)
}

fn run(number: u64, counter: u64) -> Run {
    Run {
        run: RunNumber::from_random(number),
        commit_counter: CommitCounter::new(counter),
    }
}

fn runs(of: &[(u64, u64)]) -> Vec<Run> {
    of.iter().map(|&(number, counter)| run(number, counter)).collect()
}

fn heard(of: &[(u64, u64)]) -> Witnesses {
    runs(of)
        .into_iter()
        .map(|Run { run, commit_counter }| (ACCEPTOR, run, commit_counter))
        .collect()
}

/// Compares a table of [`OTHER`] with a list.
fn check(witnesses: &Witnesses, list: &[(u64, u64)], runs_max: usize) -> Option<WentBack> {
    let mut guard = Guard::with(runs_max, 0);
    guard.remember(OTHER, witnesses.iter());
    guard.introduce(ACCEPTOR, &runs(list), [], &[]);
    let found = guard.contradiction(ACCEPTOR);
    assert_eq!(found.is_none(), guard.trusts(ACCEPTOR));
    found
}

/// Shows a list until the acceptor is refused.
fn refuse(guard: &mut Guard, list: &[Run]) {
    for _ in 0..CONTRADICTIONS_MAX {
        guard.introduce(ACCEPTOR, list, [], &[]);
    }
    assert!(guard.refusal(ACCEPTOR).is_some());
}

#[test]
fn acceptor_that_knows_all_it_reported_passes() {
    let witnesses = heard(&[(1, 10), (2, 25)]);
    assert_eq!(check(&witnesses, &[(1, 10), (2, 30), (3, 31)], 9), None);
    let mut guard = guard();
    guard.remember(OTHER, witnesses.iter());
    assert_eq!(guard.introduce(THIRD, &[run(9, 1)], [], &[]), []);
}

#[test]
fn within_the_present_run_a_lower_counter_is_merely_late() {
    assert_eq!(check(&heard(&[(1, 10), (2, 25)]), &[(1, 10), (2, 24)], 9), None);
}

#[test]
fn a_disk_that_lost_a_run_or_ended_it_lower_is_refused() {
    let witnesses = heard(&[(1, 10), (2, 25)]);
    let wiped = check(&witnesses, &[(5, 1)], 9).unwrap();
    assert_eq!(wiped.known, ShownRun::Nothing);
    let older_copy = check(&witnesses, &[(1, 10), (2, 20), (3, 21)], 9).unwrap();
    assert_eq!(older_copy.known, ShownRun::EndedAt(CommitCounter::new(20)));
    assert!(older_copy.to_string().contains("older copy"), "{older_copy}");
}

#[test]
fn a_refused_acceptor_stays_refused_however_far_it_climbs() {
    let witnesses = heard(&[(2, 25)]);
    assert!(check(&witnesses, &[(2, 20), (3, 500), (4, 900)], 9).is_some());
}

#[test]
fn what_is_heard_late_changes_nothing() {
    let mut witnesses = heard(&[(1, 10)]);
    assert!(!witnesses.hear(ACCEPTOR, RunNumber::from_random(1), CommitCounter::new(9)));
    assert!(witnesses.hear(ACCEPTOR, RunNumber::from_random(1), CommitCounter::new(11)));
}

#[test]
fn a_cut_list_proves_what_it_can_and_needs_a_witness_for_what_is_older() {
    // At most three runs are shown; the oldest shown run ended at 30.
    let cut = [(3, 30), (4, 40), (5, 50)];
    let known = |of| check(&heard(of), &cut, 3).map(|found| found.known);
    assert_eq!(known(&[(4, 40)]), None);
    assert_eq!(known(&[(4, 41)]), Some(ShownRun::EndedAt(CommitCounter::new(40))));
    assert_eq!(
        known(&[(9, 30)]),
        Some(ShownRun::Nothing),
        "a run before the list ended below 30"
    );
    assert_eq!(known(&[(1, 29)]), Some(ShownRun::TooOld));
    assert_eq!(
        known(&[(1, 29), (4, 35)]),
        None,
        "the same table vouches for the list"
    );
    assert_eq!(
        known(&[(1, 29), (5, 60)]),
        None,
        "as it does by the present run, in which a list may be late"
    );
    // Longer and shorter lists are complete.
    for runs_max in [2, 4] {
        let found = check(&heard(&[(1, 29), (4, 35)]), &cut, runs_max).unwrap();
        assert_eq!(found.known, ShownRun::Nothing);
    }
}

#[test]
fn what_a_process_heard_itself_does_not_vouch_for_a_cut_list() {
    let mut guard = Guard::with(2, 0);
    // An older copy, counted by a process that had not met the only acceptor with a proof.
    guard.introduce(ACCEPTOR, &runs(&[(1, 5), (2, 8)]), [], &[]);
    guard.hear(ACCEPTOR, run(2, 9).run, CommitCounter::new(9));
    assert_eq!(
        guard.remember(OTHER, heard(&[(1, 7)]).iter()),
        [GuardFinding::Suspected(ACCEPTOR)]
    );
    refuse(&mut guard, &runs(&[(1, 5), (2, 8)]));
    // The acceptor restarts until the proof has left its list. The run heard here is still listed.
    guard.introduce(ACCEPTOR, &runs(&[(2, 10), (3, 11)]), [], &[]);
    assert_eq!(guard.contradiction(ACCEPTOR).unwrap().known, ShownRun::TooOld);
    assert!(!guard.trusts(ACCEPTOR));
    // The acceptor's own table does not vouch either.
    guard.introduce(ACCEPTOR, &runs(&[(2, 10), (3, 11)]), heard(&[(2, 9)]).iter(), &[]);
    assert!(!guard.trusts(ACCEPTOR));
}

#[test]
fn guard_finds_out_an_acceptor_by_what_a_later_one_remembers() {
    let mut guard = guard();
    let older_copy = runs(&[(1, 20), (3, 21)]);
    assert_eq!(guard.introduce(ACCEPTOR, &older_copy, [], &[]), []);
    assert!(guard.trusts(ACCEPTOR));
    assert_eq!(
        guard.introduce(OTHER, &[run(7, 3)], heard(&[(1, 25)]).iter(), &[]),
        [GuardFinding::Suspected(ACCEPTOR)]
    );
    assert!(!guard.trusts(ACCEPTOR));
    for _ in 1..CONTRADICTIONS_MAX {
        assert_eq!(
            guard.introduce(ACCEPTOR, &older_copy, [], &[]),
            [GuardFinding::Suspected(ACCEPTOR)]
        );
    }
    let found = guard.introduce(ACCEPTOR, &older_copy, [], &[]);
    assert!(matches!(found[..], [GuardFinding::Refused(went_back)] if went_back.acceptor == ACCEPTOR));
    assert!(guard.refusal(ACCEPTOR).is_some());
    assert_eq!(guard.refusal(OTHER), None);
    assert!(guard.trusts(OTHER));
    // Found once, however far the counter climbs.
    let climbed = runs(&[(1, 20), (3, 900), (4, 901)]);
    assert_eq!(guard.introduce(ACCEPTOR, &climbed, [], &[]), []);
    assert!(guard.refusal(ACCEPTOR).is_some());
}

#[test]
fn a_refused_acceptor_is_trusted_again_on_its_right_disk() {
    let mut guard = guard();
    guard.introduce(ACCEPTOR, &runs(&[(1, 20), (2, 25)]), [], &[]);
    guard.hear(ACCEPTOR, run(2, 25).run, CommitCounter::new(25));
    // The acceptor is started on an older copy by mistake, and the right disk is put back.
    let older_copy = runs(&[(1, 20), (3, 21)]);
    refuse(&mut guard, &older_copy);
    // Answers in the meantime are not held against the right disk.
    guard.hear(ACCEPTOR, run(3, 22).run, CommitCounter::new(22));
    assert!(guard.to_pass_on().is_empty(), "nothing of it is passed on");
    let right = runs(&[(1, 20), (2, 25), (4, 26)]);
    assert_eq!(
        guard.introduce(ACCEPTOR, &right, [], &[]),
        [GuardFinding::Readmitted(ACCEPTOR)]
    );
    assert!(guard.trusts(ACCEPTOR));
    assert_eq!(guard.refusal(ACCEPTOR), None);
    assert_eq!(guard.to_pass_on(), heard(&[(2, 25)]));
}

#[test]
fn what_comes_from_another_run_than_the_one_shown_is_not_heard() {
    let mut guard = guard();
    guard.introduce(ACCEPTOR, &[run(1, 20)], [], &[]);
    guard.hear(ACCEPTOR, run(1, 21).run, CommitCounter::new(21));
    guard.hear(ACCEPTOR, run(2, 22).run, CommitCounter::new(22));
    guard.hear(OTHER, run(1, 1).run, CommitCounter::new(1));
    assert_eq!(guard.to_pass_on(), heard(&[(1, 21)]));
}

#[test]
fn guard_detects_lost_commits_by_the_memory_in_a_promise() {
    let mut guard = guard();
    guard.introduce(OTHER, &[run(7, 3)], [], &[]);
    guard.introduce(ACCEPTOR, &runs(&[(1, 20), (3, 21)]), [], &[]);
    assert_eq!(guard.remember(OTHER, heard(&[(1, 20)]).iter()), []);
    // OTHER heard of the acceptor's commits after the introduction here, and before the disk went back.
    assert_eq!(
        guard.remember(OTHER, heard(&[(1, 25)]).iter()),
        [GuardFinding::Suspected(ACCEPTOR)]
    );
    assert!(!guard.trusts(ACCEPTOR));
}

#[test]
fn restarted_acceptor_is_trusted_again_when_it_shows_its_runs() {
    let mut guard = guard();
    guard.introduce(ACCEPTOR, &[run(1, 20)], [], &[]);
    // Another acceptor has heard of the new run first, from the leader.
    assert_eq!(
        guard.introduce(OTHER, &[run(7, 3)], heard(&[(2, 22)]).iter(), &[]),
        [GuardFinding::Suspected(ACCEPTOR)]
    );
    // A list already on its way.
    guard.introduce(ACCEPTOR, &[run(1, 20)], [], &[]);
    assert_eq!(
        guard.introduce(ACCEPTOR, &[run(1, 20), run(2, 23)], [], &[]),
        [],
        "it was not refused yet"
    );
    assert!(guard.trusts(ACCEPTOR));
    assert_eq!(guard.refusal(ACCEPTOR), None);
}

#[test]
fn acceptor_that_restarts_often_is_not_refused_for_late_lists() {
    let mut guard = guard();
    for number in 1..20 {
        // Each list is one run behind the news of others.
        guard.remember(OTHER, heard(&[(number + 1, number * 10 + 10)]).iter());
        let runs: Vec<_> = (1..=number).map(|number| run(number, number * 10)).collect();
        let found = guard.introduce(ACCEPTOR, &runs, [], &[]);
        assert_eq!(found, [GuardFinding::Suspected(ACCEPTOR)], "run {number}");
    }
}

#[test]
fn bounded_table_drops_the_lowest_counters_of_each_acceptor() {
    let mut witnesses = heard(&[(5, 50), (1, 10), (3, 30)]);
    let (one, ten) = (RunNumber::from_random(1), CommitCounter::new(10));
    witnesses.hear(OTHER, one, ten);
    witnesses.bound(2);
    assert_eq!(
        witnesses.iter().collect::<Vec<_>>(),
        [
            (ACCEPTOR, RunNumber::from_random(3), CommitCounter::new(30)),
            (ACCEPTOR, RunNumber::from_random(5), CommitCounter::new(50)),
            (OTHER, one, ten),
        ]
    );
    let keeps = |run, counter| {
        let (run, counter) = (RunNumber::from_random(run), CommitCounter::new(counter));
        let keeps = witnesses.would_keep(ACCEPTOR, run, counter, 2);
        let mut bounded = witnesses.clone();
        bounded.hear(ACCEPTOR, run, counter);
        bounded.bound(2);
        assert_eq!(keeps, bounded != witnesses, "as the table does");
        keeps
    };
    assert!(keeps(4, 31) && keeps(3, 31) && keeps(6, 60));
    assert!(!keeps(2, 20) && !keeps(3, 29) && !keeps(5, 50));
}

#[test]
fn a_long_table_is_held_against_every_list_before_it_is_bounded() {
    let mut guard = guard();
    guard.introduce(ACCEPTOR, &runs(&[(1, 20), (3, 21)]), [], &[]);
    // The run with the proof has the lowest counter of 20,000.
    let long = (0..20_000).map(|number| {
        (
            ACCEPTOR,
            RunNumber::from_random(number + 1),
            CommitCounter::new(number + 25),
        )
    });
    assert_eq!(guard.remember(OTHER, long), [GuardFinding::Suspected(ACCEPTOR)]);
    assert_eq!(guard.to_pass_on(), Witnesses::default());
    assert!(guard.contradiction(ACCEPTOR).is_some());
}

#[test]
fn a_new_run_counts_once_enough_others_were_asked_after_it_was_shown() {
    let mut guard = Guard::new(Quorums::majority(5).unwrap());
    assert_eq!(guard.others_needed(), 2);
    let nothing = Witnesses::default;
    let unwitnessed = |reported| GuardFinding::Unwitnessed {
        acceptor: ACCEPTOR,
        reported,
        needed: 2,
    };
    let older_copy = runs(&[(1, 20), (3, 21)]);
    // Earlier reports prove nothing about later commits.
    guard.remember(OTHER, []);
    guard.remember(THIRD, []);
    assert_eq!(guard.introduce(ACCEPTOR, &older_copy, [], &[]), [unwitnessed(0)]);
    let itself = [(ACCEPTOR, nothing()), (OTHER, nothing()), (OTHER, nothing())];
    assert_eq!(
        guard.introduce(ACCEPTOR, &older_copy, [], &itself),
        [unwitnessed(1)]
    );
    assert!(!guard.trusts(ACCEPTOR));
    guard.hear(ACCEPTOR, older_copy[1].run, CommitCounter::new(22));
    assert!(guard.to_pass_on().is_empty(), "nothing of it is heard");
    let others = [(OTHER, heard(&[(1, 25)])), (THIRD, nothing())];
    assert_eq!(
        guard.introduce(ACCEPTOR, &older_copy, [], &others),
        [GuardFinding::Suspected(ACCEPTOR)]
    );
    let right = runs(&[(1, 25), (4, 26)]);
    assert_eq!(guard.introduce(ACCEPTOR, &right, [], &others), []);
    assert!(guard.trusts(ACCEPTOR));
    // Within the run the other acceptors need not be asked again. In the next run they must be asked.
    assert_eq!(guard.introduce(ACCEPTOR, &runs(&[(1, 25), (4, 30)]), [], &[]), []);
    let next = runs(&[(1, 25), (4, 30), (5, 31)]);
    assert_eq!(guard.introduce(ACCEPTOR, &next, [], &[]), [unwitnessed(0)]);
    assert!(!guard.trusts(ACCEPTOR));
}

#[test]
fn a_refused_acceptor_is_no_witness_for_others() {
    let mut guard = Guard::with(RUNS_MAX, 1);
    let right = runs(&[(1, 20)]);
    guard.introduce(ACCEPTOR, &right, [], &[(OTHER, Witnesses::default())]);
    guard.hear(ACCEPTOR, right[0].run, CommitCounter::new(25));
    refuse(&mut guard, &runs(&[(1, 20), (3, 21)]));
    let by_refused = guard.introduce(OTHER, &[run(7, 3)], [], &[(ACCEPTOR, Witnesses::default())]);
    assert!(
        matches!(by_refused[..], [GuardFinding::Unwitnessed { reported: 0, .. }]),
        "{by_refused:?}"
    );
}

#[test]
fn what_a_former_member_remembers_is_held_against_members() {
    let mut guard = guard();
    guard.introduce(OTHER, &[run(9, 1)], heard(&[(1, 25)]).iter(), &[]);
    let remembered = guard.to_pass_on();
    guard.adopt(Quorums::new(1, 1, 1).unwrap(), |acceptor| acceptor == ACCEPTOR);
    assert_eq!(guard.to_pass_on(), remembered);
    let older_copy = runs(&[(1, 20), (3, 21)]);
    assert_eq!(
        guard.introduce(ACCEPTOR, &older_copy, [], &[]),
        [GuardFinding::Suspected(ACCEPTOR)]
    );
}

#[test]
fn guard_does_not_grow_with_replacements() {
    let mut guard = guard();
    let quorums = Quorums::majority(2).unwrap();
    let sizes: Vec<usize> = (0..100)
        .map(|number| {
            let new = AcceptorUuid::from_u128(1 << 100 | number);
            guard.adopt(quorums, |acceptor| [ACCEPTOR, new].contains(&acceptor));
            let right = runs(&[(1, 20), (3, 21)]);
            for (shows, about) in [(ACCEPTOR, new), (new, ACCEPTOR)] {
                let table = [(about, right[0].run, right[0].commit_counter)];
                let others = [(about, Witnesses::default())];
                guard.introduce(shows, &right, table, &others);
                guard.hear(shows, right[1].run, right[1].commit_counter);
            }
            // Refused, and replaced.
            refuse(&mut guard, &[run(7, 1)]);
            guard.introduce(ACCEPTOR, &right, [], &[(new, Witnesses::default())]);
            guard.introduce(new, &[run(7, 1)], [], &[]);
            format!("{guard:?}").len()
        })
        .collect();
    assert_eq!(sizes[2..].iter().max(), sizes[2..].iter().min(), "{sizes:?}");
}
