//! Forming: how a proposer makes blank acceptors one cluster, in two durable steps.
//!
//! 1. Every listed acceptor stores the configuration as *forming*.
//! 2. Once the caller has seen all acceptors store the configuration, or a *formed* acceptor, the acceptors become
//!    *formed*.
//!
//! A formed member proves that all members had stored the configuration. So an acceptor found blank afterwards, at any
//! address, has lost its disk, and is refused. Two proposers forming at the same time with the same list agree, because
//! the configuration is a function of the list. Of two different lists that share an acceptor, at most one list is ever
//! formed: the shared acceptor stores a single configuration. Both proposers may get stuck before any vote.
//!
//! The given addresses are hints once a cluster is formed: the members may have changed since. The caller takes the
//! latest configuration reported by a formed acceptor, whether or not the addresses are those of its members. A caller may be
//! ordered to work with one cluster alone ([`Forming::of_cluster`]): it forms no cluster. Without this order, a list of
//! another length than the members of the first era is refused: it may be of another cluster.
//!
//! A restore ([`Restoring`](restoring::Restoring)) makes blank acceptors a cluster that begins with a backup. Proposers
//! begin no such cluster, and refuse to make another cluster of acceptors that hold a backup. A restore that ended after an
//! acceptor had stored the configuration can be completed by any proposer: every acceptor held the backup before.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    acceptor::{Membership, Seed},
    era::Era,
    identity::{AcceptorUuid, ClusterId},
    quorum::{Configuration, InvalidConfiguration, majority},
};

pub mod restoring;

/// An acceptor's answer about its progress in forming.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FormReport {
    /// The acceptor.
    pub acceptor: AcceptorUuid,
    /// Where the acceptor was reached.
    pub address: Arc<str>,
    /// The progress of the acceptor.
    pub membership: Membership,
}

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FormAction {
    /// Ask the acceptors at these addresses: no answer has arrived yet.
    Ask(Vec<Arc<str>>),
    /// Send the first step to these acceptors.
    Store(Configuration, Vec<Arc<str>>),
    /// Send the second step to these acceptors.
    Complete(Configuration, Vec<Arc<str>>),
    /// No acceptor of the wanted cluster has answered: ask these acceptors again, after a pause.
    Wait(Vec<Arc<str>>),
    /// The cluster is formed.
    Formed {
        /// The latest configuration of the cluster that an acceptor has reported.
        configuration: Configuration,
        /// Addresses where the second step is still missing. No caller needs to wait for these acceptors.
        complete: Vec<Arc<str>>,
        /// Addresses of acceptors that lost their disks: blank, although a member is formed. Such an acceptor must
        /// never be counted.
        lost: Vec<Arc<str>>,
    },
}

/// Why no cluster can be formed, or found, at the given addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum FormConflict {
    /// Two addresses reach the same acceptor, or the number of acceptors makes no quorums.
    #[error(transparent)]
    Invalid(#[from] InvalidConfiguration),
    /// Two acceptors hold different lists.
    #[error(
        "the acceptors hold different lists: {first_address} holds {first}, {second_address} holds {second}. While no \
         listed acceptor is formed, including unreachable acceptors, no acceptor has voted: stop the proposers and \
         empty every listed data directory. If any listed acceptor is formed, never empty a data directory"
    )]
    ListsDiffer {
        /// Address of the first acceptor.
        first_address: Arc<str>,
        /// The first list, as uuids.
        first: String,
        /// Address of the second acceptor.
        second_address: Arc<str>,
        /// The second list, as uuids.
        second: String,
    },
    /// The stored list is not the given list: an answering acceptor is missing from the stored list.
    #[error(
        "{address} is acceptor {acceptor}, but another acceptor has stored a list without this acceptor ({list}): \
         correct the list of addresses if the list is wrong. If the list is right, {address} lost its disk while the \
         cluster formed. While no listed acceptor is formed, including unreachable acceptors, no acceptor has voted: \
         stop the proposers and empty every listed data directory. If any listed acceptor is formed, never empty a \
         data directory"
    )]
    Stranger {
        /// Address of the missing acceptor.
        address: Arc<str>,
        /// The missing acceptor.
        acceptor: AcceptorUuid,
        /// The stored list, as uuids.
        list: String,
    },
    /// An acceptor holds a backup, and the restore has not gone further.
    #[error(
        "acceptor {address} is blank and holds a backup: finish \"paxos restore\", or empty its directory"
    )]
    HoldsBackup {
        /// Address of the acceptor.
        address: Arc<str>,
    },
    /// Another acceptor takes part in a restore.
    #[error(
        "acceptor {address} is blank and holds no backup, but another acceptor takes part in a restore: this acceptor lost \
         its disk. While no listed acceptor is formed, including unreachable acceptors, no acceptor has voted: empty every \
         listed data directory and repeat \"paxos restore\". If any listed acceptor is formed, never empty a data directory"
    )]
    NoBackup {
        /// Address of the acceptor.
        address: Arc<str>,
    },
    /// More or fewer addresses than acceptors in the list of a cluster that is not formed yet.
    #[error(
        "{given} acceptor addresses are given, but the cluster has {members} acceptors: give exactly the addresses of \
         these acceptors. `paxos member` adds and removes acceptors: change the list after that, and not before"
    )]
    Count {
        /// Number of addresses.
        given: usize,
        /// Number of members.
        members: usize,
    },
}

/// A given list of acceptors that is not the list of the members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongList {
    /// The given addresses whose acceptors are no members: another acceptor answered there, or no acceptor and no member is
    /// listed there. None: the list is too short.
    pub no_members_at: Vec<Arc<str>>,
    /// The addresses of the members with the scheme of the given addresses, as in `--acceptors`.
    pub right_list: String,
}

/// A proposer's view of a forming cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Forming {
    addresses: Vec<Arc<str>>,
    /// The wanted cluster; `None`: any cluster, or a new one.
    cluster: Option<ClusterId>,
    reports: BTreeMap<Arc<str>, FormReport>,
}

impl Forming {
    /// Starts with the addresses of all acceptors.
    pub fn new(addresses: Vec<Arc<str>>) -> Self {
        Self {
            addresses,
            cluster: None,
            reports: BTreeMap::new(),
        }
    }

    /// The same for a caller that works with this cluster alone, and forms none. Acceptors of other clusters are ignored.
    #[must_use]
    pub fn of_cluster(self, cluster: Option<ClusterId>) -> Self {
        Self { cluster, ..self }
    }

    /// What is wrong with the given list, if the list is not the list of the members of `configuration`. The addresses are
    /// compared without their schemes: the members are listed with `http://` until a change, also after a move to TLS.
    pub fn wrong_list(&self, configuration: &Configuration) -> Option<WrongList> {
        let members = configuration.members();
        let is_stranger = |address: &&Arc<str>| match self.reports.get(*address) {
            Some(report) => !members.contains_key(&report.acceptor),
            None => !members
                .values()
                .any(|member| without_scheme(&member.address) == without_scheme(address)),
        };
        let no_members_at: Vec<_> = self.addresses.iter().filter(is_stranger).cloned().collect();
        if no_members_at.is_empty() && self.addresses.len() == members.len() {
            return None;
        }
        let scheme = self.addresses.first().and_then(|given| given.split_once("://"));
        let right = members.values().map(|member| match scheme {
            Some((scheme, _)) => format!("{scheme}://{}", without_scheme(&member.address)),
            None => member.address.to_string(),
        });
        Some(WrongList {
            no_members_at,
            right_list: right.collect::<Vec<_>>().join(","),
        })
    }

    /// Where acceptors of the cluster answered that are no members and hold an earlier configuration: each was away at its
    /// removal. Such an acceptor says what it is once `configuration` is installed.
    pub fn unaware(&self, configuration: &Configuration) -> Vec<Arc<str>> {
        let is_unaware = |report: &&FormReport| {
            matches!(&report.membership, Membership::Formed(held)
                if held.cluster_id() == configuration.cluster_id() && held.era() < configuration.era())
                && !configuration.members().contains_key(&report.acceptor)
        };
        let unaware = self.reports.values().filter(is_unaware);
        unaware.map(|report| Arc::clone(&report.address)).collect()
    }

    /// Takes an acceptor's latest answer.
    ///
    /// An acceptor that was blank before the first formed member was found may have stored the list since. Only a later
    /// blank answer proves a lost disk. Likewise, an acceptor may have taken the backup since, if another acceptor takes part
    /// in a restore.
    pub fn report(&mut self, report: FormReport) {
        let is_first_formed = matches!(report.membership, Membership::Formed(_)) && !self.is_formed();
        let is_first_restored = is_restored(&report) && !self.reports.values().any(is_restored);
        if is_first_formed || is_first_restored {
            self.reports
                .retain(|_, earlier| earlier.membership.configuration().is_some());
        }
        self.reports.insert(Arc::clone(&report.address), report);
    }

    /// Returns the next step, given the answers so far.
    ///
    /// # Errors
    /// When the answers prove that the addresses are no cluster and cannot become a cluster.
    pub fn next(&self) -> Result<FormAction, FormConflict> {
        let stored = self.stored()?;
        match stored {
            Some(stored) if self.is_formed() => {
                // Members change from era to era only. A list of another length in the first era is an error, perhaps of
                // another cluster.
                if self.cluster.is_none() && stored.era() == Era::FIRST {
                    self.check_count(stored)?;
                }
                Ok(FormAction::Formed {
                    configuration: stored.clone(),
                    complete: self.addresses_where(|membership| {
                        matches!(membership, Membership::Forming(list) if list.cluster_id() == stored.cluster_id())
                    }),
                    lost: self.addresses_where(|membership| membership.configuration().is_none()),
                })
            }
            Some(_) | None if self.cluster.is_some() => Ok(FormAction::Wait(self.addresses.clone())),
            Some(stored) => {
                self.check_count(stored)?;
                self.check_listed(stored)?;
                self.check_seeds(Seed::of(stored))?;
                Ok(self.while_forming(stored))
            }
            None => {
                self.check_seeds(None)?;
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
        self.ours()
            .any(|report| matches!(report.membership, Membership::Formed(_)))
    }

    /// The reports, without those of acceptors of another cluster than the wanted.
    fn ours(&self) -> impl Iterator<Item = &FormReport> {
        self.reports.values().filter(|report| {
            let stored = report.membership.configuration();
            stored.is_none_or(|stored| self.cluster.is_none_or(|cluster| stored.cluster_id() == cluster))
        })
    }

    /// The next step while no acceptor is formed, towards `configuration`.
    fn while_forming(&self, configuration: &Configuration) -> FormAction {
        let unasked = self.unasked();
        let blank = self.addresses_where(|membership| membership.configuration().is_none());
        if !blank.is_empty() {
            FormAction::Store(configuration.clone(), blank)
        } else if !unasked.is_empty() {
            FormAction::Ask(unasked)
        } else {
            // All acceptors have stored the configuration, as the second step claims.
            FormAction::Complete(configuration.clone(), self.addresses.clone())
        }
    }

    /// The latest stored configuration, if any, after a check that no acceptor holds one of another cluster.
    fn stored(&self) -> Result<Option<&Configuration>, FormConflict> {
        let holders = || {
            self.ours()
                .filter_map(|report| Some((report, report.membership.configuration()?)))
        };
        // Of equals the first: the addresses of the members come from there.
        let latest = holders().min_by_key(|(_, stored)| std::cmp::Reverse(stored.era()));
        let Some((first_report, first)) = latest else {
            return Ok(None);
        };
        for (second_report, second) in holders() {
            let is_earlier = second.era() < first.era() && second.cluster_id() == first.cluster_id();
            if !is_earlier && !first.same_cluster(second) {
                return Err(FormConflict::ListsDiffer {
                    first_address: Arc::clone(&first_report.address),
                    first: uuids(first),
                    second_address: Arc::clone(&second_report.address),
                    second: uuids(second),
                });
            }
        }
        Ok(Some(first))
    }

    /// Checks, while no acceptor is formed, that as many addresses are given as the list has acceptors.
    fn check_count(&self, stored: &Configuration) -> Result<(), FormConflict> {
        let (given, members) = (self.addresses.len(), stored.members().len());
        if given != members {
            return Err(FormConflict::Count { given, members });
        }
        Ok(())
    }

    /// Checks, while no acceptor is formed, that every answering acceptor is in the list.
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

    /// Checks, while no acceptor is formed, that every acceptor without a configuration holds exactly the seed `expected`.
    fn check_seeds(&self, expected: Option<Seed>) -> Result<(), FormConflict> {
        for report in self.reports.values() {
            let address = Arc::clone(&report.address);
            match &report.membership {
                Membership::Seeded(seed) if expected != Some(*seed) => {
                    return Err(FormConflict::HoldsBackup { address });
                }
                Membership::Blank if expected.is_some() => return Err(FormConflict::NoBackup { address }),
                Membership::Blank
                | Membership::Seeded(_)
                | Membership::Forming(_)
                | Membership::Formed(_) => {}
            }
        }
        Ok(())
    }

    /// The configuration for a list of blank acceptors: majorities.
    fn proposed(&self) -> Result<Configuration, FormConflict> {
        if self.reports.len() != self.addresses.len() {
            // An address is given twice: quorums for this many acceptors cannot be counted from fewer acceptors.
            return Err(FormConflict::Count {
                given: self.addresses.len(),
                members: self.reports.len(),
            });
        }
        let members = self
            .reports
            .values()
            .map(|report| (report.acceptor, Arc::clone(&report.address)));
        let quorum = majority(self.addresses.len());
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

/// Whether an acceptor takes part in a restore, at its second step or later.
fn is_restored(report: &FormReport) -> bool {
    let stored = report.membership.configuration();
    stored.is_some_and(|stored| stored.origin().is_some())
}

fn uuids(configuration: &Configuration) -> String {
    let uuids: Vec<_> = configuration.members().keys().map(ToString::to_string).collect();
    let mut list = uuids.join(", ");
    if let Some(origin) = configuration.origin() {
        list.push_str(&format!(", restored from a backup to slot {}", origin.base()));
    }
    list
}

/// The text of an address without its scheme, as in `p1:7001`: the place of a process, with TLS or without.
pub fn without_scheme(address: &str) -> &str {
    address.split_once("://").map_or(address, |(_, place)| place)
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
