//! Changes of members found by a campaign: the first that may be chosen ends the era, and a void change becomes a no-op.
//!
//! Let a change be chosen at ballot b, and let b′ > b be of the same era. No watermark of the era passes the change, so the
//! candidate of b′ looks at its slot, and finds the change at b or above. Ballots from b to b′ proposed nothing above the
//! change. So every row above the change has a ballot below b. A change is therefore *void* when a reported row above it has a
//! higher ballot: it was not chosen. Neither was another value of the slot, because that value would be the highest row. So
//! the no-op is free.
//!
//! A row above may be chosen only if the change is void. Each slot of the takeover is reported by a phase-1 quorum, damaged
//! rows left out. So a chosen row above is among the reports, at the ballot that chose it or higher.

use super::{Campaign, Takeover};
use crate::paxos::{quorum::Electorate, slot::Slot, value::Value};

impl Campaign {
    /// Ends a takeover at the first change that may be chosen, and makes void changes no-ops. Which values are changes,
    /// [`Value::ends`] says.
    pub(super) fn end_at_change(&self, electorate: &Electorate, takeover: &mut Takeover) {
        for (place, value) in takeover.values.iter_mut().enumerate() {
            let slot = takeover.from.plus(place as u64);
            if self.ends_era(electorate, slot, value) {
                takeover.values.truncate(place + 1);
                takeover.far.clear();
                return;
            }
        }
        let mut end = None;
        for (&slot, value) in &mut takeover.far {
            if end.is_none() && self.ends_era(electorate, slot, value) {
                end = Some(slot.next());
            }
        }
        if let Some(end) = end {
            drop(takeover.far.split_off(&end));
        }
    }

    /// Whether the value of a slot is a change to the next era that may be chosen. A void change becomes a no-op.
    fn ends_era(&self, electorate: &Electorate, slot: Slot, value: &mut Value) -> bool {
        if value.ends(electorate).is_none() {
            return false;
        }
        let ballot = self.votes.get(&slot).and_then(|votes| votes.highest_ballot());
        let mut above = self.votes.range(slot.next()..);
        let is_void = above.any(|(_, votes)| votes.highest_ballot() > ballot);
        if is_void {
            *value = Value::noop();
        }
        !is_void
    }
}
