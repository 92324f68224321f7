//! Restoring from the view of the command: crashes, members of clusters, and lost disks.

use super::*;
use crate::paxos::{
    forming::{
        FormConflict, Forming,
        testing::{Acceptors, address, forming, list, report, uuid},
    },
    slot::Slot,
};

mod beside;
mod earlier;

fn origin(backup: u8) -> Origin {
    Origin::after([backup; 32], Slot::new(9).unwrap(), None).unwrap()
}

fn restored(numbers: &[u128], backup: u8) -> Configuration {
    list(numbers).restored_from(origin(backup))
}

fn seed(numbers: &[u128], backup: u8) -> Seed {
    Seed::of(&restored(numbers, backup)).unwrap()
}

fn restoring(numbers: &[u128], backup: u8) -> Restoring {
    let addresses = numbers.iter().map(|&number| address(number));
    Restoring::new(addresses.collect(), origin(backup)).unwrap()
}

impl Acceptors {
    /// Carries out the next step of a restore at the first acceptor; returns whether there was anything to do.
    fn step(&mut self, command: &mut Restoring) -> Result<bool, RestoreConflict> {
        self.step_at(command, |to| Arc::clone(&to[0]))
    }

    fn step_at(
        &mut self,
        command: &mut Restoring,
        first: impl Fn(&[Arc<str>]) -> Arc<str>,
    ) -> Result<bool, RestoreConflict> {
        let to = match command.next()? {
            RestoreAction::Formed(_) => return Ok(false),
            RestoreAction::Ask(to) => first(&to),
            RestoreAction::Keep(configuration, to) => {
                let to = first(&to);
                let seed = Seed::of(&configuration).unwrap();
                let (_, acceptor) = self.at(&to);
                if acceptor.membership().take_seed(seed) == Ok(SeedUse::Keep) {
                    acceptor.seeded(seed);
                    command.kept(&to);
                }
                to
            }
            RestoreAction::Store(configuration, to) => {
                let to = first(&to);
                // A refusal shows in the next answer.
                let _ = self.form(&to, &configuration, false);
                to
            }
            RestoreAction::Complete(configuration, to) => {
                let to = first(&to);
                let _ = self.form(&to, &configuration, true);
                to
            }
        };
        let (number, _) = self.at(&to);
        command.report(self.report(number));
        Ok(true)
    }

    fn finish(&mut self, command: &mut Restoring) -> Result<(), RestoreConflict> {
        while self.step(command)? {}
        Ok(())
    }

    /// Carries out the next step of a proposer at one acceptor; returns whether there was anything to do.
    fn propose(&mut self, proposer: &mut Forming) -> Result<bool, FormConflict> {
        let action = proposer.next()?;
        // A refusal shows in the next answer.
        Ok(self.carry_out(proposer, action).is_some())
    }

    /// Every acceptor is formed as this restored cluster, and every log begins at the base.
    fn check_restored(&self, configuration: &Configuration) {
        let base = configuration.origin().unwrap().base();
        for acceptor in self.0.values() {
            assert_eq!(acceptor.formed_cluster(), Some(configuration.cluster_id()));
            let marks = [
                acceptor.trimmed_to(),
                acceptor.chosen_to(),
                acceptor.known_to(),
                acceptor.voted_to(),
                acceptor.trim_cap(),
            ];
            assert_eq!(marks, [base; 5]);
        }
    }

    /// No two acceptors are formed as different clusters, and each formed log begins where its cluster begins.
    fn check_no_mixture(&self) {
        let formed = self
            .0
            .values()
            .filter(|acceptor| acceptor.formed_cluster().is_some());
        let mut clusters = BTreeSet::new();
        for acceptor in formed {
            let configuration = acceptor.membership().configuration().unwrap();
            let base = configuration.origin().map_or(Slot::ZERO, |origin| origin.base());
            assert_eq!(acceptor.trimmed_to(), base);
            clusters.insert(configuration.cluster_id());
        }
        assert!(clusters.len() <= 1, "{clusters:?}");
    }
}

#[test]
fn blank_acceptors_become_the_restored_cluster() {
    for numbers in [&[1][..], &[1, 2, 3], &[1, 2, 3, 4, 5]] {
        let mut acceptors = Acceptors::blank(numbers);
        let mut command = restoring(numbers, 7);
        acceptors.finish(&mut command).unwrap();
        acceptors.check_restored(&restored(numbers, 7));
        assert_eq!(command.next(), Ok(RestoreAction::Formed(restored(numbers, 7))));
    }
}

#[test]
fn restore_killed_after_any_step_is_finished_by_the_same_command() {
    for steps in 0..20 {
        let mut acceptors = Acceptors::blank(&[1, 2, 3]);
        let mut killed = restoring(&[1, 2, 3], 7);
        for _ in 0..steps {
            acceptors.step(&mut killed).unwrap();
        }
        let mut again = restoring(&[3, 2, 1], 7);
        acceptors.finish(&mut again).unwrap();
        acceptors.check_restored(&restored(&[1, 2, 3], 7));
    }
}

#[test]
fn every_step_waits_until_the_step_before_has_ended_everywhere() {
    let mut acceptors = Acceptors::blank(&[1, 2, 3]);
    let mut command = restoring(&[1, 2, 3], 7);
    let rank = |membership: &Membership| match membership {
        Membership::Blank => 0,
        Membership::Seeded(_) => 1,
        Membership::Forming(_) => 2,
        Membership::Formed(_) => 3,
    };
    while acceptors.step(&mut command).unwrap() {
        let ranks: Vec<_> = acceptors
            .0
            .values()
            .map(|acceptor| rank(acceptor.membership()))
            .collect();
        let (low, high) = (ranks.iter().min().unwrap(), ranks.iter().max().unwrap());
        assert!(high - low <= 1, "{ranks:?}");
    }
}

#[test]
fn acceptor_with_the_seed_gets_it_once_more_from_a_repeated_command() {
    let seed = seed(&[1, 2], 7);
    let mut command = restoring(&[1, 2], 7);
    command.report(report(1, Membership::Seeded(seed)));
    command.report(report(2, Membership::Forming(restored(&[1, 2], 7))));
    let both = vec![address(1), address(2)];
    assert_eq!(
        command.next(),
        Ok(RestoreAction::Keep(restored(&[1, 2], 7), both))
    );
    command.kept(&address(1));
    command.kept(&address(2));
    command.report(report(1, Membership::Seeded(seed)));
    command.report(report(2, Membership::Forming(restored(&[1, 2], 7))));
    assert!(matches!(command.next(), Ok(RestoreAction::Store(_, to)) if to == [address(1)]));
}

#[test]
fn acceptor_that_is_not_blank_is_named_before_anything_is_written() {
    for other in [
        Membership::Formed(list(&[1, 2, 3])),
        Membership::Forming(list(&[1, 2, 3])),
        Membership::Formed(restored(&[1, 2, 3], 8)),
        Membership::Seeded(seed(&[1, 2, 3], 8)),
        Membership::Seeded(seed(&[1, 2, 4], 7)),
    ] {
        let mut command = restoring(&[1, 2, 3], 7);
        command.report(report(1, Membership::Blank));
        command.report(report(2, Membership::Blank));
        assert_eq!(command.next(), Ok(RestoreAction::Ask(vec![address(3)])));
        command.report(report(3, other.clone()));
        for number in [1, 2] {
            command.report(report(number, Membership::Blank));
        }
        let conflict = command.next().unwrap_err();
        let text = conflict.to_string();
        assert!(text.starts_with("http://3: "), "{text}");
        assert!(text.contains("empty"), "{text}");
    }
}

#[test]
fn member_of_a_cluster_is_named_before_every_other_refusal() {
    // The other seed has the lower address.
    let mut command = restoring(&[1, 2, 3], 7);
    command.report(report(1, Membership::Seeded(seed(&[1], 7))));
    command.report(report(2, Membership::Forming(list(&[1, 2, 3]))));
    command.report(report(3, Membership::Formed(list(&[1, 2, 3]))));
    command.report(report(1, Membership::Seeded(seed(&[1], 7))));
    let text = command.next().unwrap_err().to_string();
    assert!(text.starts_with("http://3: "), "{text}");
    assert!(text.contains("never empty the data directory"), "{text}");
    // Every other advice to empty a directory has a guard.
    for other in [
        Membership::Seeded(seed(&[1], 8)),
        Membership::Forming(list(&[1, 2, 3])),
    ] {
        let mut command = restoring(&[1], 7);
        command.report(report(1, other));
        let text = command.next().unwrap_err().to_string();
        assert!(text.contains("including unreachable acceptors"), "{text}");
        assert!(text.contains("is formed, never empty a data directory"), "{text}");
    }
}

#[test]
fn acceptor_that_went_back_beside_a_formed_member_is_refused() {
    let formed = || report(2, Membership::Formed(restored(&[1, 2], 7)));
    for back in [Membership::Blank, Membership::Seeded(seed(&[1, 2], 7))] {
        let mut command = restoring(&[1, 2], 7);
        command.report(report(1, back.clone()));
        command.report(formed());
        // The first answer may be older than the formed member, in whatever order the answers come.
        assert_eq!(command.next(), Ok(RestoreAction::Ask(vec![address(1)])));
        let mut other = restoring(&[1, 2], 7);
        other.report(formed());
        other.report(report(1, back.clone()));
        assert_eq!(other, command);
        command.report(report(1, back));
        let lost = command.next().unwrap_err();
        assert!(matches!(lost, RestoreConflict::LostDisk { .. }), "{lost}");
    }
    // The seed is not sent again after a Keep without effect.
    let mut command = restoring(&[1], 7);
    command.kept(&address(1));
    command.report(report(1, Membership::Blank));
    assert!(matches!(command.next(), Err(RestoreConflict::LostDisk { .. })));
}

#[test]
fn acceptor_named_twice_is_a_conflict() {
    let twice = Restoring::new(vec![address(1), address(1)], origin(7));
    assert_eq!(twice, Err(RestoreConflict::AddressTwice));
    let mut command = restoring(&[1, 2], 7);
    command.report(report(1, Membership::Blank));
    command.report(FormReport {
        address: address(2),
        ..report(1, Membership::Blank)
    });
    let twice = InvalidConfiguration::Twice(uuid(1));
    assert_eq!(command.next(), Err(RestoreConflict::Invalid(twice)));
}
