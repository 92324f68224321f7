//! For tests of forming and restoring: addresses, lists and reports by number, and real acceptors.

use std::{collections::BTreeMap, sync::Arc};

use super::{FormAction, FormReport, Forming};
use crate::paxos::{
    acceptor::{Acceptor, FormRefusal, Membership, Recovered},
    ballot::Ballot,
    identity::{AcceptorUuid, CommitCounter, RunNumber},
    quorum::Configuration,
    slot::Slot,
};

pub(super) fn uuid(number: u128) -> AcceptorUuid {
    AcceptorUuid::from_u128(number)
}

pub(super) fn address(number: u128) -> Arc<str> {
    Arc::from(format!("http://{number}"))
}

pub(super) fn list(numbers: &[u128]) -> Configuration {
    let quorum = numbers.len() / 2 + 1;
    let members = numbers.iter().map(|&number| (uuid(number), address(number)));
    Configuration::new(members, quorum, quorum).unwrap()
}

pub(super) fn forming(numbers: &[u128]) -> Forming {
    Forming::new(numbers.iter().map(|&number| address(number)).collect())
}

pub(super) fn report(number: u128, membership: Membership) -> FormReport {
    FormReport {
        acceptor: uuid(number),
        address: address(number),
        membership,
    }
}

/// Real acceptors, by number, with commits that always succeed.
#[derive(Clone)]
pub(super) struct Acceptors(pub(super) BTreeMap<u128, Acceptor>);

impl Acceptors {
    pub(super) fn blank(numbers: &[u128]) -> Self {
        let acceptor = |&number: &u128| {
            let recovered = Recovered {
                uuid: uuid(number),
                commit_counter: CommitCounter::default(),
                membership: Membership::Blank,
                promised: Ballot::ZERO,
                leader_address: Arc::from(""),
                known_to: Slot::ZERO,
                trimmed_to: Slot::ZERO,
                voted_to: Slot::ZERO,
                least_version: 1,
                rows: BTreeMap::new(),
            };
            (number, Acceptor::recover(recovered, RunNumber::default()))
        };
        Self(numbers.iter().map(acceptor).collect())
    }

    pub(super) fn at(&mut self, address: &str) -> (u128, &mut Acceptor) {
        let number = address.trim_start_matches("http://").parse().unwrap();
        (number, self.0.get_mut(&number).unwrap())
    }

    pub(super) fn report(&self, number: u128) -> FormReport {
        report(number, self.0[&number].membership().clone())
    }

    /// Stores or completes a list at one acceptor. Returns the answer of the acceptor.
    pub(super) fn form(
        &mut self,
        address: &str,
        configuration: &Configuration,
        complete: bool,
    ) -> Result<(), FormRefusal> {
        let (_, acceptor) = self.at(address);
        let mut group = acceptor.group();
        let taken = if complete {
            acceptor.complete_configuration(&mut group, configuration)
        } else {
            acceptor.store_configuration(&mut group, configuration)
        };
        acceptor.committed(group);
        taken
    }

    /// Carries out one step of `action` at the first acceptor of the step, and reports this acceptor to `proposer`.
    /// Returns the answer of the acceptor; none when there is nothing to do.
    pub(super) fn carry_out(
        &mut self,
        proposer: &mut Forming,
        action: FormAction,
    ) -> Option<Result<(), FormRefusal>> {
        let (to, step) = match action {
            FormAction::Ask(to) | FormAction::Wait(to) => (to, None),
            FormAction::Store(list, to) => (to, Some((list, false))),
            FormAction::Complete(list, to) => (to, Some((list, true))),
            FormAction::Formed {
                configuration,
                complete,
                ..
            } => (complete, Some((configuration, true))),
        };
        let to = to.first()?;
        let taken = step.map_or(Ok(()), |(list, complete)| self.form(to, &list, complete));
        let (number, _) = self.at(to);
        proposer.report(self.report(number));
        Some(taken)
    }
}
