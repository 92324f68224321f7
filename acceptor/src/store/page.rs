//! A page of the disk: bounded in length, with unknown rows in place of the rows missing below the watermark.

use std::sync::Arc;

use paxos_common::paxos::{ballot::Ballot, identity::CommitCounter, message::Row, slot::Slot};

use super::{DiskPage, PAGE_BYTES_MAX, PAGE_ROWS_MAX};

/// Ends a page at the maximum length, and adds missing rows. Used by every store, so that all stores page alike.
#[derive(Debug)]
pub(crate) struct PageFill {
    from: Slot,
    moment: Moment,
    /// The next slot.
    next: Slot,
    /// The slot of an unknown row with a gap before it. The slot number may be damaged too; the next row decides.
    doubtful: Option<Slot>,
    rows: Vec<Row>,
    bytes: usize,
}

impl PageFill {
    /// A page from slot `from` on.
    pub(crate) fn new(from: Slot, moment: Moment) -> Self {
        Self {
            from,
            next: from.max(moment.trimmed_to),
            moment,
            doubtful: None,
            rows: Vec::new(),
            bytes: 0,
        }
    }

    /// Takes a row; `false` when the row belongs to the next page. A row out of order is left out: only a damaged slot
    /// number puts a row out of order.
    pub(crate) fn take(&mut self, row: Row) -> bool {
        if let Some(doubtful) = self.doubtful.take_if(|doubtful| *doubtful < row.slot) {
            let row = Row {
                slot: doubtful,
                accepted: None,
            };
            if !self.add(row) {
                return false;
            }
        }
        self.doubtful = None;
        if row.slot < self.next {
            return true;
        }
        if row.accepted.is_none() && row.slot > self.next {
            self.doubtful = Some(row.slot);
            return true;
        }
        self.add(row)
    }

    fn add(&mut self, row: Row) -> bool {
        let bytes = row
            .accepted
            .as_ref()
            .map_or(0, |(_, value)| value.as_bytes().len() + value.traceparent().len());
        let fits = self.rows.is_empty() || self.bytes + bytes <= PAGE_BYTES_MAX;
        if !self.miss_up_to(row.slot) || !fits || self.rows.len() >= PAGE_ROWS_MAX {
            return false;
        }
        self.bytes += bytes;
        self.next = row.slot.next();
        self.rows.push(row);
        true
    }

    /// Adds an unknown row for each missing slot below `end` and the watermark: every slot below the watermark had a
    /// row, so a missing row was lost. Returns whether all such rows fit.
    fn miss_up_to(&mut self, end: Slot) -> bool {
        let end = end.min(self.moment.known_to);
        while self.next < end && self.rows.len() < PAGE_ROWS_MAX {
            self.rows.push(Row {
                slot: self.next,
                accepted: None,
            });
            self.next = self.next.next();
        }
        self.next >= end
    }

    /// Finishes the page; `last` means that no row was turned away.
    pub(crate) fn finish(mut self, last: bool) -> DiskPage {
        let doubtful = self.doubtful.take().filter(|_| last);
        let last = doubtful.is_none_or(|slot| self.add(Row { slot, accepted: None })) && last;
        let last = last && self.miss_up_to(self.moment.known_to);
        let unknown = self
            .rows
            .iter()
            .find(|row| row.accepted.is_none())
            .map(|row| row.slot);
        let moment = self.moment;
        DiskPage {
            commit_counter: moment.commit_counter,
            promised: moment.promised,
            leader_address: moment.leader_address,
            chosen_to: unknown.map_or(moment.known_to, |slot| slot.min(moment.known_to)),
            known_to: moment.known_to,
            trimmed_to: moment.trimmed_to,
            voted_to: moment.voted_to,
            rows: self.rows,
            next: if last {
                moment.voted_to.max(self.from)
            } else {
                self.next
            },
            last,
        }
    }
}

/// The state read together with a page.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    pub(crate) commit_counter: CommitCounter,
    pub(crate) promised: Ballot,
    pub(crate) leader_address: Arc<str>,
    pub(crate) known_to: Slot,
    pub(crate) trimmed_to: Slot,
    pub(crate) voted_to: Slot,
    /// The oldest protocol version whose callers are served.
    pub(crate) least_version: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use paxos_common::paxos::value::Value;

    fn row(slot: u64, bytes: usize) -> Row {
        let value = Value::from_stored(Bytes::from(vec![1; bytes]), Bytes::new());
        Row {
            slot: Slot::new(slot).unwrap(),
            accepted: Some((Ballot::ZERO, value)),
        }
    }

    fn moment() -> Moment {
        let at = |slot| Slot::new(slot).unwrap();
        Moment {
            commit_counter: CommitCounter::new(9),
            promised: Ballot::ZERO,
            leader_address: "".into(),
            known_to: at(8),
            trimmed_to: at(0),
            voted_to: at(10),
            least_version: 1,
        }
    }

    fn fill(from: u64) -> PageFill {
        PageFill::new(Slot::new(from).unwrap(), moment())
    }

    #[test]
    fn page_is_bounded_in_bytes_and_rows_but_never_empty() {
        let mut page = fill(0);
        assert!(page.take(row(0, PAGE_BYTES_MAX + 1)));
        assert!(!page.take(row(1, 1)));
        let mut page = fill(0);
        let taken = (0..).take_while(|&slot| page.take(row(slot, 0))).count();
        assert_eq!(taken, PAGE_ROWS_MAX);
    }

    #[test]
    fn page_ends_after_its_last_row_unless_it_is_the_last_page() {
        let mut page = fill(8);
        page.take(row(9, 1));
        let page = page.finish(false);
        assert_eq!((page.next.get(), page.last), (10, false));
        let page = fill(8).finish(true);
        assert_eq!((page.next.get(), page.last), (10, true));
        let page = fill(12).finish(true);
        assert_eq!((page.next.get(), page.last), (12, true));
    }

    #[test]
    fn watermark_of_a_page_stops_before_its_unknown_row() {
        let mut page = fill(4);
        page.take(row(4, 1));
        page.take(Row {
            slot: Slot::new(5).unwrap(),
            accepted: None,
        });
        assert_eq!(page.finish(false).chosen_to.get(), 5);
    }

    #[test]
    fn missing_row_is_unknown_only_below_the_watermark() {
        // The watermark is 8.
        let mut page = fill(2);
        for slot in [2, 4, 9] {
            assert!(page.take(row(slot, 1)));
        }
        let page = page.finish(true);
        let shown = |row: &Row| (row.slot.get(), row.accepted.is_some());
        let shown: Vec<_> = page.rows.iter().map(shown).collect();
        let lost = |slot| (slot, false);
        assert_eq!(
            shown,
            [
                (2, true),
                lost(3),
                (4, true),
                lost(5),
                lost(6),
                lost(7),
                (9, true)
            ]
        );
        assert_eq!(page.chosen_to.get(), 3);
        let rows = fill(6).finish(true).rows;
        assert_eq!(rows.iter().map(told_slot).collect::<Vec<_>>(), [6, 7]);
    }

    #[test]
    fn rows_below_the_first_slot_are_neither_shown_nor_missing() {
        let mut trimmed = moment();
        trimmed.trimmed_to = Slot::new(5).unwrap();
        // Slots 3 and 4 are not swept yet; slot 6 is missing, and slot 2 is damaged.
        for from in [0, 4, 5] {
            let mut page = PageFill::new(Slot::new(from).unwrap(), trimmed.clone());
            let damaged = Row {
                slot: Slot::new(2).unwrap(),
                accepted: None,
            };
            assert!(page.take(damaged));
            for slot in [3, 4, 5, 7] {
                assert!(page.take(row(slot, 1)));
            }
            let page = page.finish(true);
            assert_eq!(page.rows.iter().map(told_slot).collect::<Vec<_>>(), [5, 6, 7]);
            assert_eq!((page.chosen_to.get(), page.trimmed_to.get()), (6, 5));
        }
    }

    fn told_slot(row: &Row) -> u64 {
        row.slot.get()
    }

    #[test]
    fn many_lost_rows_take_many_pages() {
        let mut moment = moment();
        moment.known_to = Slot::new(PAGE_ROWS_MAX as u64 + 5).unwrap();
        moment.voted_to = moment.known_to;
        let first = PageFill::new(Slot::ZERO, moment.clone()).finish(true);
        assert_eq!((first.rows.len(), first.last), (PAGE_ROWS_MAX, false));
        let second = PageFill::new(first.next, moment).finish(true);
        assert_eq!((second.rows.len(), second.last), (5, true));
    }
}
