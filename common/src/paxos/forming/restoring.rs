//! Restoring: how an operator's command makes blank acceptors a cluster that begins with a backup.
//!
//! 1. Every listed acceptor keeps the *seed*: the backup as a snapshot of the new cluster. The acceptor with the lowest uuid
//!    keeps the seed before all others: so of two restores into the same acceptors, one is refused before it has written
//!    anything, and the other is finished.
//! 2. Every listed acceptor stores the configuration.
//! 3. Every listed acceptor becomes formed, and its log begins at the end of the seed.
//!
//! Each step begins when the step before has ended at all acceptors. The first answers of all acceptors come before any
//! step: an acceptor of another cluster, or of another restore, ends the command before anything is written. The command
//! may be repeated after a crash at any point: the configuration is a function of the backup and the acceptors.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::FormReport;
use crate::paxos::{
    acceptor::{Membership, Seed, SeedRefusal, SeedUse},
    origin::Origin,
    quorum::{Configuration, InvalidConfiguration, majority},
};

/// The next step of a restore.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RestoreAction {
    /// Ask the acceptors at these addresses: no answer has arrived yet.
    Ask(Vec<Arc<str>>),
    /// Send the seed of this configuration to these acceptors.
    Keep(Configuration, Vec<Arc<str>>),
    /// Let these acceptors store the configuration.
    Store(Configuration, Vec<Arc<str>>),
    /// Let these acceptors become formed.
    Complete(Configuration, Vec<Arc<str>>),
    /// Every acceptor is formed.
    Formed(Configuration),
}

/// Why a backup cannot be restored into the acceptors at the given addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum RestoreConflict {
    /// Two addresses reach the same acceptor, or the number of acceptors makes no quorums.
    #[error(transparent)]
    Invalid(#[from] InvalidConfiguration),
    /// The same address is given twice.
    #[error("the list names an address twice: name each acceptor once")]
    AddressTwice,
    /// An acceptor has no trace of the seed or of the configuration that it had.
    #[error(
        "{address}: this acceptor lost its disk, or runs on an older copy, during this restore. While no listed acceptor is \
         formed, including unreachable acceptors, empty every listed data directory and repeat this command. If any listed \
         acceptor is formed, never empty a data directory: start this acceptor on its latest disk, or leave it \
         stopped. If a majority is left, start the proposers: they finish the cluster without this acceptor"
    )]
    LostDisk {
        /// Address of the acceptor.
        address: Arc<str>,
    },
    /// An acceptor has stored the configuration without the slots lost by earlier restores.
    #[error(
        "{address}: this acceptor has stored the configuration of this restore without the versions lost by earlier restores, \
         because an earlier release took part. While no listed acceptor is formed, including unreachable acceptors, stop the \
         proposers, update every acceptor, empty every listed data directory and repeat this command. If any listed acceptor is \
         formed, never empty a data directory: the cluster is right, but for reads at such versions, which are answered"
    )]
    ShortList {
        /// Address of the acceptor.
        address: Arc<str>,
    },
    /// An acceptor takes no seed.
    #[error("{address}: {refusal}")]
    Refused {
        /// Address of the acceptor.
        address: Arc<str>,
        /// The reason.
        refusal: SeedRefusal,
    },
}

/// A restore's view of the acceptors.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Restoring {
    addresses: Vec<Arc<str>>,
    origin: Origin,
    reports: BTreeMap<Arc<str>, FormReport>,
    /// The acceptors that have kept the seed since this command began, by address.
    kept: BTreeSet<Arc<str>>,
    /// The acceptors that were without a configuration beside a formed member, by address.
    asked_again: BTreeSet<Arc<str>>,
}

impl Restoring {
    /// Starts with the addresses of all acceptors.
    ///
    /// # Errors
    /// An address is given twice.
    pub fn new(addresses: Vec<Arc<str>>, origin: Origin) -> Result<Self, RestoreConflict> {
        if addresses.iter().collect::<BTreeSet<_>>().len() != addresses.len() {
            return Err(RestoreConflict::AddressTwice);
        }
        Ok(Self {
            addresses,
            origin,
            reports: BTreeMap::new(),
            kept: BTreeSet::new(),
            asked_again: BTreeSet::new(),
        })
    }

    /// Takes an acceptor's latest answer.
    ///
    /// An answer without a configuration may be older than the first answer of a formed member: the acceptor may have stored
    /// the configuration since. So such an acceptor is asked once more. Only the next answer proves a lost disk.
    pub fn report(&mut self, report: FormReport) {
        let was_formed = self.is_formed();
        self.reports.insert(Arc::clone(&report.address), report);
        if !self.is_formed() {
            return;
        }
        let doubtful = |report: &FormReport| report.membership.configuration().is_none();
        let mut asked_again = std::mem::take(&mut self.asked_again);
        self.reports.retain(|address, report| {
            let is_old = doubtful(report) && !(was_formed && asked_again.contains(address));
            if is_old {
                asked_again.insert(Arc::clone(address));
            }
            !is_old
        });
        self.asked_again = asked_again;
    }

    /// The acceptor at `address` has kept the seed. Its next answer says so too.
    pub fn kept(&mut self, address: &Arc<str>) {
        self.kept.insert(Arc::clone(address));
        self.reports.remove(address);
    }

    /// Returns the next step, given the answers so far.
    ///
    /// # Errors
    /// When the answers prove that the acceptors cannot become this cluster.
    pub fn next(&self) -> Result<RestoreAction, RestoreConflict> {
        let addresses = self.addresses.iter();
        let unasked: Vec<_> = addresses
            .filter(|&address| !self.reports.contains_key(address))
            .cloned()
            .collect();
        if !unasked.is_empty() {
            return Ok(RestoreAction::Ask(unasked));
        }
        let configuration = self.configuration()?;
        let Some(seed) = Seed::of(&configuration) else {
            unreachable!("a restored configuration has an origin");
        };
        self.check(seed)?;
        // An acceptor with the seed gets it again, once: so a repeated command replaces a damaged file.
        let keep: Vec<_> = self
            .reports
            .iter()
            .filter(|(address, report)| {
                report.membership.take_seed(seed) == Ok(SeedUse::Keep) && !self.kept.contains(*address)
            })
            .map(|(address, _)| Arc::clone(address))
            .collect();
        if !keep.is_empty() {
            let first = self.reports.values().min_by_key(|report| report.acceptor);
            let first = first.filter(|report| report.membership == Membership::Blank);
            let keep = first.map_or(keep, |report| vec![Arc::clone(&report.address)]);
            return Ok(RestoreAction::Keep(configuration, keep));
        }
        let store = self.addresses_where(|membership| matches!(membership, Membership::Seeded(_)));
        if !store.is_empty() {
            return Ok(RestoreAction::Store(configuration, store));
        }
        let complete = self.addresses_where(|membership| matches!(membership, Membership::Forming(_)));
        if !complete.is_empty() {
            return Ok(RestoreAction::Complete(configuration, complete));
        }
        Ok(RestoreAction::Formed(configuration))
    }

    fn is_formed(&self) -> bool {
        let mut reports = self.reports.values();
        reports.any(|report| matches!(report.membership, Membership::Formed(_)))
    }

    /// Checks that every acceptor takes the seed, and that none has lost what it had.
    fn check(&self, seed: Seed) -> Result<(), RestoreConflict> {
        let refused = self.reports.iter().filter_map(|(address, report)| {
            let refusal = report.membership.take_seed(seed).err()?;
            Some((address, refusal))
        });
        // Members of a cluster first: no other advice may lead to the loss of their disks.
        let rank = |refusal: &SeedRefusal| match refusal {
            SeedRefusal::NotBlank { .. } => 0,
            SeedRefusal::StoredAnotherList { .. } => 1,
            SeedRefusal::OtherSeed { .. } => 2,
        };
        if let Some((address, refusal)) = refused.min_by_key(|(_, refusal)| rank(refusal)) {
            let address = Arc::clone(address);
            return Err(RestoreConflict::Refused { address, refusal });
        }
        let is_formed = self.is_formed();
        let lost = self
            .reports
            .iter()
            .find(|(address, report)| match report.membership {
                Membership::Blank => is_formed || self.kept.contains(*address),
                Membership::Seeded(_) => is_formed,
                Membership::Forming(_) | Membership::Formed(_) => false,
            });
        if let Some((address, _)) = lost {
            let address = Arc::clone(address);
            return Err(RestoreConflict::LostDisk { address });
        }
        let short = self.reports.iter().find(|(_, report)| match &report.membership {
            Membership::Forming(stored) => stored.origin() != Some(&self.origin),
            // Nothing is left to do.
            Membership::Formed(_) | Membership::Blank | Membership::Seeded(_) => false,
        });
        match short {
            Some((address, _)) => Err(RestoreConflict::ShortList {
                address: Arc::clone(address),
            }),
            None => Ok(()),
        }
    }

    /// The configuration of the answering acceptors: majorities.
    fn configuration(&self) -> Result<Configuration, RestoreConflict> {
        let members = self
            .reports
            .values()
            .map(|report| (report.acceptor, Arc::clone(&report.address)));
        let quorum = majority(self.addresses.len());
        let configuration = Configuration::new(members, quorum, quorum)?;
        Ok(configuration.restored_from(self.origin.clone()))
    }

    fn addresses_where(&self, is: impl Fn(&Membership) -> bool) -> Vec<Arc<str>> {
        let reports = self.reports.values();
        let chosen = reports.filter(|report| is(&report.membership));
        chosen.map(|report| Arc::clone(&report.address)).collect()
    }
}

#[cfg(test)]
mod tests;
