//! Messages that contradict a vote: refused, whatever their ballot, and nothing ends.

use super::*;

impl Fixture {
    /// Decides a message as the worker does.
    fn answer(&mut self, message: &Accept) -> AcceptAnswer {
        let mut group = self.core.group();
        let below = self.below(message);
        let decided = self.core.accept(&mut group, message, &below);
        let answer =
            decided.unwrap_or_else(|violation| self.core.contradicted(&mut group, message, &violation));
        self.commit(group);
        answer
    }
}

#[test]
fn contradicted_ballot_gets_no_more_votes_and_its_watermark_does_not_count() {
    let mut acceptor = Fixture::blank();
    acceptor.accept(&accept(4, 0, &[(0, "a"), (1, "b")])).unwrap();
    acceptor.accept(&accept(4, 1, &[])).unwrap();
    // Slot 0 is chosen, slot 1 is not known to be.
    for contradicted in [0, 1] {
        let mut acceptor = Fixture {
            core: acceptor.core.clone(),
            disk: acceptor.disk.clone(),
        };
        let next = ballot(4).next_of(ballot(4).proposer());
        let rejected = AcceptAnswer::Rejected(Rejection {
            promised: next,
            leader_address: Arc::from("http://proposer-4"),
        });
        for proposals in [&[(contradicted, "other")][..], &[(2, "c")], &[]] {
            assert_eq!(acceptor.answer(&accept(4, 2, proposals)), rejected);
        }
        assert_eq!(
            (acceptor.core.promised(), acceptor.core.known_to()),
            (next, slot(1))
        );
        // The next leader repairs.
        let repaired = accept(6, 0, &[(0, "a"), (1, "other"), (2, "c")]);
        assert_eq!(acceptor.answer(&repaired), accepted(&[(0, 3)], 3, 1));
        assert_eq!(acceptor.answer(&accept(6, 3, &[])), accepted(&[], 3, 3));
    }
}

#[test]
fn other_value_for_a_chosen_slot_is_refused_and_changes_nothing() {
    let mut acceptor = Fixture::blank();
    acceptor.accept(&accept(1, 0, &[(0, "a"), (1, "b")])).unwrap();
    acceptor.accept(&accept(1, 2, &[])).unwrap();
    let before = acceptor.core.clone();
    let answer = acceptor.answer(&accept(2, 2, &[(1, "other"), (2, "c")]));
    let AcceptAnswer::Refused(Refused { reason, promised }) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(promised, ballot(1));
    assert!(reason.contains("slot 1 is chosen"), "{reason}");
    assert_eq!(acceptor.core, before);
    // The leader goes on.
    assert_eq!(
        acceptor.answer(&accept(1, 2, &[(2, "c")])),
        accepted(&[(2, 3)], 3, 2)
    );
}

#[test]
fn contradicted_ballot_of_the_last_round_is_refused() {
    let mut acceptor = Fixture::blank();
    let last = Ballot::new(i64::MAX as u64, ProposerId::from_random(1)).unwrap();
    acceptor.core = Acceptor::recover(
        Recovered {
            promised: last,
            ..recovered()
        },
        RunNumber::from_random(5),
    );
    let message = |text| Accept {
        ballot: last,
        ..accept(1, 0, &[(0, text)])
    };
    assert_eq!(acceptor.answer(&message("a")), accepted(&[(0, 1)], 1, 0));
    let answer = acceptor.answer(&message("other"));
    assert!(matches!(answer, AcceptAnswer::Refused(_)), "{answer:?}");
    assert_eq!(acceptor.core.promised(), last);
}
