//! The part of a kept state that a table of the present state no longer has.

use crate::paxos::slot::Slot;

/// Records of a kept state, replaced or removed since.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Retained<T> {
    /// The kept state is the state after every slot below.
    pub(super) to: Slot,
    pub(super) records: T,
}

impl<T: Default> Retained<T> {
    /// Begins with the present state: nothing is replaced yet.
    pub(super) fn new(to: Slot) -> Self {
        let records = T::default();
        Self { to, records }
    }
}
