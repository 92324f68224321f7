//! Votes for one slot as reported by acceptors, kept apart by ballot and value: the value that a leader must propose.
//!
//! A ballot has a single proposer, and this proposer has a single value for a slot. A copied proposer, or a forged
//! message, breaks this rule: then acceptors hold different values at one ballot. An acceptor still votes for at most
//! one value at a ballot. So the votes of each value are counted separately, as if each value had a ballot of its own.
//! A value can have been chosen at the ballot only if its reported votes reach a phase-2 quorum together with the
//! acceptors that have not reported. If several values can, only further reports decide.

use crate::paxos::{
    ballot::Ballot,
    identity::AcceptorUuid,
    quorum::{Electorate, Tally},
    value::Value,
};

/// The reported rows of one slot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct SlotVotes {
    /// Distinct by ballot and value; the highest ballot first, the values of a ballot by their bytes. At most as many as
    /// reports.
    rows: Vec<ReportedRow>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ReportedRow {
    ballot: Ballot,
    value: Value,
    voters: Tally,
    /// A voter's watermark is above the slot, so the voter takes the value for chosen.
    is_known: bool,
}

impl SlotVotes {
    /// Takes a row. Returns the additional bytes held: none for a value that is held already.
    pub(super) fn take(
        &mut self,
        electorate: &Electorate,
        acceptor: AcceptorUuid,
        (ballot, value): (Ballot, Value),
        is_known: bool,
    ) -> usize {
        let at = self
            .rows
            .partition_point(|row| (ballot, row.value.as_bytes()) < (row.ballot, value.as_bytes()));
        let is_held = |row: &ReportedRow| row.ballot == ballot && row.value == value;
        let mut bytes = 0;
        if !self.rows.get(at).is_some_and(is_held) {
            let same = self.rows.iter().find(|row| row.value == value);
            let value = same.map_or(value, |row| row.value.clone());
            bytes = if same.is_some() { 0 } else { value.as_bytes().len() };
            let row = ReportedRow {
                ballot,
                value,
                voters: Tally::default(),
                is_known: false,
            };
            self.rows.insert(at, row);
        }
        let row = &mut self.rows[at];
        row.voters.add(electorate, acceptor);
        row.is_known |= is_known;
        bytes
    }

    /// The highest ballot of a row; none without a row.
    pub(super) fn highest_ballot(&self) -> Option<Ballot> {
        self.rows.first().map(|row| row.ballot)
    }

    /// Bytes of the distinct values.
    pub(super) fn bytes(&self) -> usize {
        let is_first = |&(at, row): &(usize, &ReportedRow)| {
            !self.rows[..at].iter().any(|earlier| earlier.value == row.value)
        };
        let distinct = self.rows.iter().enumerate().filter(is_first);
        distinct.map(|(_, row)| row.value.as_bytes().len()).sum()
    }

    /// Whether the highest ballot has several values.
    pub(super) fn is_contested(&self) -> bool {
        self.highest().len() > 1
    }

    /// The value below a reporting acceptor's watermark. `None` also if watermarks pass different values: then one of
    /// the watermarks has passed a row of a copied proposer, and only votes decide.
    pub(super) fn known(&self) -> Option<&Value> {
        let mut known = self.rows.iter().filter(|row| row.is_known);
        let first = known.next()?;
        known.all(|row| row.value == first.value).then_some(&first.value)
    }

    /// The value to propose; `None` while further reports must come first. `reported` returns the acceptors that have
    /// reported the slot, with a row or without a row.
    pub(super) fn required(
        &self,
        electorate: &Electorate,
        reported: impl FnOnce() -> Tally,
    ) -> Option<&Value> {
        let highest = self.highest();
        if let [] | [_] = highest {
            return highest.first().map(|row| &row.value);
        }
        let heard = self
            .rows
            .iter()
            .fold(reported(), |heard, row| heard.union(row.voters));
        let unheard = electorate.members().len() - heard.count();
        let phase2 = electorate.quorums().phase2();
        let mut possible = highest
            .iter()
            .filter(|row| row.voters.count() + unheard >= phase2);
        match (possible.next(), possible.next()) {
            (Some(only), None) => Some(&only.value),
            (Some(_), Some(_)) if unheard > 0 => None,
            // No value was chosen at this ballot. A value chosen at a lower ballot is among the values of this ballot,
            // unless a forged value has replaced its rows. Or several values have a phase-2 quorum, which takes phase-2
            // quorums without a common acceptor. After a forged value, and without a common acceptor, a choice can be
            // wrong.
            (None, _) | (Some(_), Some(_)) => Some(self.fallback(highest)),
        }
    }

    /// A value of the highest ballot, the same for every proposer with the same reports. If the owner of the ballot took
    /// over a value chosen below, then a forged value stands beside this value. So votes at lower ballots count first.
    fn fallback<'a>(&'a self, highest: &'a [ReportedRow]) -> &'a Value {
        let lower = &self.rows[highest.len()..];
        let is_proposed = |row: &&ReportedRow| highest.iter().any(|other| other.value == row.value);
        let most = || {
            let most = highest.iter().max_by_key(|row| row.voters.count());
            most.expect("the highest ballot has rows")
        };
        &lower.iter().find(is_proposed).unwrap_or_else(most).value
    }

    fn highest(&self) -> &[ReportedRow] {
        let end = self
            .rows
            .partition_point(|row| self.rows.first().is_some_and(|first| row.ballot == first.ballot));
        &self.rows[..end]
    }
}

#[cfg(test)]
mod tests;
