//! The configuration of a later era: installation, and what it ends.

use super::*;
use crate::paxos::{era::Era, origin::Origin};

fn era(number: u64) -> Era {
    Era::new(number).unwrap()
}

/// The configuration of the next era.
fn next(of: &Configuration, uuids: &[u128]) -> Configuration {
    let member = |&number: &u128| (uuid(number), Arc::<str>::from(format!("http://{number}")).into());
    let quorum = uuids.len() / 2 + 1;
    of.changed_to(uuids.iter().map(member), quorum, quorum).unwrap()
}

fn first() -> Configuration {
    configuration(&[1, 2, 3])
}

fn change() -> Value {
    let configuration = next(&first(), &[1, 2, 4]);
    Value::from_stored(Bytes::from_static(b"change"), Bytes::new()).with_change(configuration)
}

impl Fixture {
    fn install(&mut self, configuration: &Configuration, join: bool) -> Result<(), InstallRefusal> {
        let mut group = self.core.group();
        let installed = self.core.install(&mut group, configuration, join);
        self.commit(group);
        installed
    }

    fn prepare_at(&mut self, ballot: Ballot) -> PrepareAnswer {
        let mut group = self.core.group();
        let prepare = Prepare { ballot, ..prepare(1) };
        let answer = self.core.prepare(&mut group, &prepare);
        self.commit(group);
        answer
    }
}

#[test]
fn installation_promises_the_era_and_forgets_the_leader() {
    let mut acceptor = Fixture::blank();
    acceptor.accept(&accept(5, 0, &[(0, "a")])).unwrap();
    let second = next(&first(), &[1, 2, 4]);
    assert_eq!(acceptor.install(&second, false), Ok(()));
    assert_eq!(acceptor.core.promised(), Ballot::before(era(1)));
    assert_eq!(&*acceptor.core.leadership().address, "");
    assert_eq!(acceptor.core.membership(), &Membership::Formed(second.clone()));
    assert_eq!(acceptor.core.least_version(), 3);
    assert_eq!(acceptor.core.formed_cluster(), Some(first().cluster_id()));
    // The votes stay.
    assert_eq!(acceptor.core.voted_to(), slot(1));
    // The same era, and an earlier one, change nothing.
    for configuration in [&second, &first()] {
        let mut group = acceptor.core.group();
        assert_eq!(acceptor.core.install(&mut group, configuration, false), Ok(()));
        assert!(acceptor.core.write(&group).is_none());
    }
    // An era may be missed.
    let fourth = next(&next(&second, &[4]), &[5]);
    assert_eq!(acceptor.install(&fourth, false), Ok(()));
    assert_eq!(acceptor.core.era(), era(3));
}

#[test]
fn ballots_of_earlier_eras_are_rejected_and_of_later_eras_refused() {
    let mut acceptor = Fixture::blank();
    acceptor.install(&next(&first(), &[1, 2, 4]), false).unwrap();
    let promised = Ballot::before(era(1));
    let rejected = PrepareAnswer::Rejected(Rejection {
        promised,
        leader_address: Arc::from(""),
    });
    assert_eq!(
        acceptor.prepare_at(ballot(9_000)),
        rejected,
        "rounds of an earlier era count for nothing"
    );
    for later in [ballot(1).in_era(era(2)), ballot(1).in_era(era(3))] {
        let PrepareAnswer::Refused(refused) = acceptor.prepare_at(later) else {
            panic!("a later era was granted")
        };
        assert!(
            refused.reason.contains("install the configuration of era"),
            "{}",
            refused.reason
        );
        assert_eq!(refused.promised, promised);
        let answer = acceptor.accept(&Accept {
            ballot: later,
            ..accept(1, 0, &[(0, "a")])
        });
        assert!(matches!(answer, Ok(AcceptAnswer::Refused(_))), "{answer:?}");
    }
    assert_eq!(acceptor.core.promised(), promised);
    // Rounds begin at 1 in each era.
    assert_eq!(
        acceptor.prepare_at(ballot(1).in_era(era(1))),
        PrepareAnswer::Promised
    );
}

#[test]
fn blank_acceptor_takes_a_configuration_only_to_join() {
    let mut blank = Fixture::with(Recovered {
        membership: Membership::Blank,
        ..recovered()
    });
    let second = next(&first(), &[2, 3, 4]);
    assert_eq!(blank.install(&second, false), Err(InstallRefusal::Blank));
    assert_eq!(blank.core.membership(), &Membership::Blank);
    // A joiner of the first era is outside: the configuration does not list it.
    assert_eq!(blank.install(&configuration(&[2, 3, 4]), true), Ok(()));
    assert_eq!(blank.core.era(), Era::FIRST);
    let forming = Fixture::with(Recovered {
        membership: Membership::Forming(first()),
        ..recovered()
    });
    let mut group = forming.core.group();
    let refused = forming.core.install(&mut group, &second, true);
    assert_eq!(refused, Err(InstallRefusal::NotFormed));
}

#[test]
fn blank_acceptor_that_the_configuration_lists_has_lost_its_disk_and_does_not_join() {
    let mut blank = Fixture::with(Recovered {
        membership: Membership::Blank,
        ..recovered()
    });
    for configuration in [first(), next(&configuration(&[2, 3, 4]), &[1, 2, 3])] {
        let refused = blank.install(&configuration, true);
        assert_eq!(refused, Err(InstallRefusal::Listed(configuration.era())));
        assert_eq!(blank.core.membership(), &Membership::Blank);
    }
}

#[test]
fn joiner_of_a_restored_cluster_begins_empty_and_lifts_itself_to_a_snapshot_below_the_claim() {
    let origin = Origin::after([7; 32], slot(5), None).unwrap();
    let base = origin.base();
    let restored = configuration(&[2, 3, 4]).restored_from(origin);
    for configuration in [&restored, &next(&restored, &[2, 3])] {
        let mut joiner = Fixture::with(Recovered {
            membership: Membership::Blank,
            ..recovered()
        });
        assert_eq!(joiner.install(configuration, false), Err(InstallRefusal::Blank));
        assert_eq!(joiner.install(configuration, true), Ok(()));
        let joined = Membership::Formed(configuration.clone());
        assert_eq!(joiner.core.membership(), &joined);
        let marks = |joiner: &Fixture| {
            let core = &joiner.core;
            (core.trimmed_to(), core.chosen_to(), core.voted_to())
        };
        assert_eq!(marks(&joiner), (Slot::ZERO, Slot::ZERO, Slot::ZERO));
        // A vote of the joiner does not move its watermark over the slots that it lacks.
        let leader = ballot(1).in_era(configuration.era());
        let (to, tip) = (base.plus(3), base.plus(9));
        let proposal = Accept {
            ballot: leader,
            ..accept(1, tip.get(), &[(tip.get(), "a")])
        };
        let answer = joiner.accept(&proposal).unwrap();
        assert!(matches!(answer, AcceptAnswer::Accepted { .. }), "{answer:?}");
        assert_eq!(marks(&joiner), (Slot::ZERO, Slot::ZERO, tip.next()));
        assert_eq!(joiner.core.trim_cap(), tip);
        let mut group = joiner.core.group();
        let above = joiner.core.trim(&mut group, tip.next());
        assert!(matches!(above, Err(TrimRefusal::AboveCap { .. })), "{above:?}");
        assert_eq!(joiner.core.trim(&mut group, to), Ok(()));
        joiner.commit(group);
        assert_eq!(marks(&joiner), (to, to, tip.next()));
    }
}

#[test]
fn acceptor_with_a_backup_does_not_join() {
    let origin = Origin::after([7; 32], slot(5), None).unwrap();
    let restored = configuration(&[2, 3, 4]).restored_from(origin.clone());
    let seed = Seed {
        cluster: restored.cluster_id(),
        base: origin.base(),
    };
    let mut seeded = Fixture::with(Recovered {
        membership: Membership::Seeded(seed),
        ..recovered()
    });
    for join in [false, true] {
        assert_eq!(seeded.install(&restored, join), Err(InstallRefusal::NotFormed));
        assert_eq!(seeded.core.membership(), &Membership::Seeded(seed));
    }
}

#[test]
fn second_configuration_of_one_era_is_refused_loudly() {
    let mut acceptor = Fixture::blank();
    let second = next(&first(), &[1, 2, 4]);
    acceptor.install(&second, false).unwrap();
    for other in [next(&first(), &[1, 2, 5]), next(&first(), &[1, 2, 3])] {
        for join in [false, true] {
            let refused = acceptor.install(&other, join).unwrap_err();
            assert!(
                matches!(&refused, InstallRefusal::Conflict { era: at, .. } if *at == era(1)),
                "{refused}"
            );
            assert!(refused.to_string().contains("era 1"), "{refused}");
            assert_eq!(acceptor.core.membership(), &Membership::Formed(second.clone()));
        }
    }
}

#[test]
fn configuration_of_another_cluster_is_refused() {
    let mut acceptor = Fixture::blank();
    let other = next(&configuration(&[7, 8, 9]), &[1, 2, 4]);
    for join in [false, true] {
        let refused = acceptor.install(&other, join).unwrap_err();
        assert!(
            matches!(refused, InstallRefusal::OtherCluster { .. }),
            "{refused}"
        );
    }
    assert_eq!(acceptor.core.era(), Era::FIRST);
}

#[test]
fn commit_of_a_change_ends_the_service_of_older_callers() {
    let mut acceptor = Fixture::blank();
    acceptor.accept(&accept(1, 0, &[(0, "a")])).unwrap();
    assert_eq!(acceptor.core.least_version(), 1);
    let mut with_change = accept(1, 0, &[]);
    with_change.proposals.push((slot(1), change()));
    acceptor.accept(&with_change).unwrap();
    assert_eq!(acceptor.core.least_version(), 3);
    // To accept a change is to vote: the acceptor stays in its era.
    assert_eq!(acceptor.core.era(), Era::FIRST);
}

#[test]
fn disk_of_a_joiner_is_watched_before_it_counts_and_outsiders_are_bounded() {
    let mut acceptor = Fixture::blank();
    let heard = |number: u128| (uuid(number), RunNumber::from_random(1), CommitCounter::new(7));
    let mut group = acceptor.core.group();
    acceptor.core.witness(&mut group, [heard(1), heard(2), heard(4)]);
    acceptor.commit(group);
    let remembers = |acceptor: &Fixture, number| acceptor.core.witnesses().of(uuid(number)).count();
    assert_eq!([1, 2, 4].map(|number| remembers(&acceptor, number)), [0, 1, 1]);
    let mut group = acceptor.core.group();
    acceptor.core.witness(&mut group, (100..1_000).map(heard));
    acceptor.core.witness(&mut group, [heard(3)]);
    acceptor.commit(group);
    let held: std::collections::BTreeSet<_> = acceptor.core.witnesses().acceptors().collect();
    assert_eq!(held.len(), 2 + 62, "two members, and a limited number of others");
    assert_eq!(remembers(&acceptor, 3), 1, "a member always has room");
}
