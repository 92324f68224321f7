//! Forming: how a proposer makes blank acceptors one cluster, in two durable steps.
//!
//! 1. Every listed acceptor stores the configuration as *forming*.
//! 2. When the caller has seen all store it, or one *formed*, they become *formed*.
//!
//! One formed member proves that all had stored the configuration; so a blank acceptor met afterwards has lost its
//! disk, whatever its address, and is refused. Two proposers that form at once with the same list agree, because
//! the configuration is a function of the list; with different lists they stick before any vote.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    acceptor::Membership,
    identity::AcceptorUuid,
    quorum::{Configuration, InvalidConfiguration},
};

/// What an acceptor answered when it was asked how far it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FormReport {
    /// Who answered.
    pub acceptor: AcceptorUuid,
    /// Where it was reached.
    pub address: Arc<str>,
    /// How far it is.
    pub membership: Membership,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FormAction {
    /// Ask the acceptors at these addresses: they have not answered yet.
    Ask(Vec<Arc<str>>),
    /// Send the first step to these acceptors.
    Store(Configuration, Vec<Arc<str>>),
    /// Send the second step to these acceptors.
    Complete(Configuration, Vec<Arc<str>>),
    /// There is a cluster to work with.
    Formed {
        /// Its configuration.
        configuration: Configuration,
        /// Where the second step is still to be sent; nobody needs to wait for it.
        complete: Vec<Arc<str>>,
        /// Where an acceptor answered that has lost its disk: it is blank, and a member is formed. It must never
        /// be counted.
        lost: Vec<Arc<str>>,
    },
}

/// Why no cluster can be formed from, or found at, these addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum FormConflict {
    /// The same acceptor behind two addresses, or a number that makes no quorums.
    #[error(transparent)]
    Invalid(#[from] InvalidConfiguration),
    /// Two acceptors hold different lists.
    #[error(
        "the acceptors hold different lists: {first_address} holds {first}, {second_address} holds {second}. While no \
         listed acceptor is formed, unreachable ones included, nobody has voted: stop the proposers and empty every \
         listed data directory. If one is formed, never do that"
    )]
    ListsDiffer {
        /// Where the one was found.
        first_address: Arc<str>,
        /// Its list of uuids.
        first: String,
        /// Where the other was found.
        second_address: Arc<str>,
        /// Its list of uuids.
        second: String,
    },
    /// The stored list is not the one that was given.
    #[error(
        "{address} is acceptor {acceptor}, and another acceptor has stored a list without it ({list}): correct the list of \
         addresses if it is wrong. If it is right, {address} lost its disk while the cluster formed: while no listed \
         acceptor is formed, unreachable ones included, nobody has voted: stop the proposers and empty every listed \
         data directory. If one is formed, never do that"
    )]
    Stranger {
        /// Where.
        address: Arc<str>,
        /// Who.
        acceptor: AcceptorUuid,
        /// The stored list of uuids.
        list: String,
    },
    /// More or fewer addresses than members.
    #[error(
        "{given} acceptor addresses are given, and the cluster has {members} acceptors: give exactly those"
    )]
    Count {
        /// How many addresses.
        given: usize,
        /// How many members.
        members: usize,
    },
}

/// One proposer's view of a cluster that forms.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Forming {
    addresses: Vec<Arc<str>>,
    reports: BTreeMap<Arc<str>, FormReport>,
}

impl Forming {
    /// Starts with the addresses of all acceptors.
    pub fn new(addresses: Vec<Arc<str>>) -> Self {
        Self {
            addresses,
            reports: BTreeMap::new(),
        }
    }

    /// Takes an acceptor's latest answer.
    ///
    /// Who was blank before the first member was found formed may have stored the list since: only a blank answer
    /// that comes after it proves a lost disk.
    pub fn report(&mut self, report: FormReport) {
        if matches!(report.membership, Membership::Formed(_)) && !self.is_formed() {
            self.reports
                .retain(|_, earlier| earlier.membership != Membership::Blank);
        }
        self.reports.insert(Arc::clone(&report.address), report);
    }

    /// Says what to do, given what was answered so far.
    ///
    /// # Errors
    /// When the answers prove that these addresses are no cluster and cannot become one.
    pub fn next(&self) -> Result<FormAction, FormConflict> {
        let stored = self.stored()?;
        match stored {
            Some(stored) if self.is_formed() => Ok(FormAction::Formed {
                configuration: stored.clone(),
                complete: self.addresses_where(|membership| matches!(membership, Membership::Forming(_))),
                lost: self.addresses_where(|membership| *membership == Membership::Blank),
            }),
            Some(stored) => {
                self.check_listed(stored)?;
                Ok(self.while_forming(stored))
            }
            None => {
                let unasked = self.unasked();
                if unasked.is_empty() {
                    Ok(self.while_forming(&self.proposed()?))
                } else {
                    Ok(FormAction::Ask(unasked))
                }
            }
        }
    }

    fn is_formed(&self) -> bool {
        let mut memberships = self.reports.values().map(|report| &report.membership);
        memberships.any(|membership| matches!(membership, Membership::Formed(_)))
    }

    /// Nobody is formed, and `configuration` is to be.
    fn while_forming(&self, configuration: &Configuration) -> FormAction {
        let unasked = self.unasked();
        let blank = self.addresses_where(|membership| *membership == Membership::Blank);
        if !blank.is_empty() {
            FormAction::Store(configuration.clone(), blank)
        } else if !unasked.is_empty() {
            FormAction::Ask(unasked)
        } else {
            // All have stored it: that is what the second step claims.
            FormAction::Complete(configuration.clone(), self.addresses.clone())
        }
    }

    /// The configuration that somebody has stored, after checking that nobody holds another.
    fn stored(&self) -> Result<Option<&Configuration>, FormConflict> {
        let mut holders = self
            .reports
            .values()
            .filter_map(|report| Some((report, report.membership.configuration()?)));
        let Some((first_report, first)) = holders.next() else {
            return Ok(None);
        };
        for (second_report, second) in holders {
            if !first.same_cluster(second) {
                return Err(FormConflict::ListsDiffer {
                    first_address: Arc::clone(&first_report.address),
                    first: uuids(first),
                    second_address: Arc::clone(&second_report.address),
                    second: uuids(second),
                });
            }
        }
        if first.members().len() != self.addresses.len() {
            return Err(FormConflict::Count {
                given: self.addresses.len(),
                members: first.members().len(),
            });
        }
        Ok(Some(first))
    }

    /// While nobody is formed, all who answered must be in the list.
    fn check_listed(&self, stored: &Configuration) -> Result<(), FormConflict> {
        for report in self.reports.values() {
            if !stored.members().contains_key(&report.acceptor) {
                return Err(FormConflict::Stranger {
                    address: Arc::clone(&report.address),
                    acceptor: report.acceptor,
                    list: uuids(stored),
                });
            }
        }
        Ok(())
    }

    /// What a list of blank acceptors becomes: majorities.
    fn proposed(&self) -> Result<Configuration, FormConflict> {
        if self.reports.len() != self.addresses.len() {
            // An address is given twice: quorums of so many cannot be counted from fewer acceptors.
            return Err(FormConflict::Count {
                given: self.addresses.len(),
                members: self.reports.len(),
            });
        }
        let members = self
            .reports
            .values()
            .map(|report| (report.acceptor, Arc::clone(&report.address)));
        let quorum = self.addresses.len() / 2 + 1;
        Ok(Configuration::new(members, quorum, quorum)?)
    }

    fn unasked(&self) -> Vec<Arc<str>> {
        self.addresses
            .iter()
            .filter(|&address| !self.reports.contains_key(address))
            .cloned()
            .collect()
    }

    fn addresses_where(&self, is: impl Fn(&Membership) -> bool) -> Vec<Arc<str>> {
        self.reports
            .values()
            .filter(|report| is(&report.membership))
            .map(|report| Arc::clone(&report.address))
            .collect()
    }
}

fn uuids(configuration: &Configuration) -> String {
    let uuids: Vec<_> = configuration.members().keys().map(ToString::to_string).collect();
    uuids.join(", ")
}

#[cfg(test)]
mod tests;
