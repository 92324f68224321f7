//! Columns of a row, read as possibly damaged, and bound to a statement.

use paxos_common::paxos::{
    ballot::{Ballot, ProposerId},
    era::Era,
    identity::AcceptorUuid,
    slot::Slot,
};
use sqlx::{
    Decode, Row as _, Sqlite, Type,
    query::Query,
    sqlite::{SqliteArguments, SqliteRow},
};

/// A statement with the parameters bound so far.
pub(super) type Binding<'q> = Query<'q, Sqlite, SqliteArguments>;

/// A column of the written type; none for NULL and any other result of damage.
pub(super) fn column<'r, T>(row: &'r SqliteRow, at: usize) -> Option<T>
where
    T: Decode<'r, Sqlite> + Type<Sqlite>,
{
    // Without the option, NULL would be read as 0.
    row.try_get::<Option<T>, _>(at).ok().flatten()
}

/// The bytes of a text or blob as stored on disk.
pub(super) fn bytes(row: &SqliteRow, at: usize) -> Option<Vec<u8>> {
    row.try_get_unchecked::<Option<Vec<u8>>, _>(at).ok().flatten()
}

/// A text; none for bytes that are no UTF-8.
pub(super) fn text(row: &SqliteRow, at: usize) -> Option<String> {
    String::from_utf8(bytes(row, at)?).ok()
}

/// A slot; none for an invalid number.
pub(super) fn read_slot(row: &SqliteRow, at: usize) -> Option<Slot> {
    Slot::new(column::<i64>(row, at)?.try_into().ok()?).ok()
}

/// Era, round and proposer from column `at` on; none for an invalid ballot.
pub(super) fn read_ballot(row: &SqliteRow, at: usize) -> Option<Ballot> {
    let number = |at| u64::try_from(column::<i64>(row, at)?).ok();
    let era = Era::new(number(at)?).ok()?;
    let proposer = ProposerId::new(number(at + 2)?).ok()?;
    Some(Ballot::new(number(at + 1)?, proposer).ok()?.in_era(era))
}

/// A uuid; none for another number of bytes.
pub(super) fn read_uuid(row: &SqliteRow, at: usize) -> Option<AcceptorUuid> {
    AcceptorUuid::from_slice(&bytes(row, at)?)
}

/// Binds the era, the round and the proposer.
pub(super) fn bind_ballot(query: Binding<'_>, ballot: Ballot) -> Binding<'_> {
    query
        .bind(ballot.era().get().cast_signed())
        .bind(ballot.round().cast_signed())
        .bind(ballot.proposer().get().cast_signed())
}
