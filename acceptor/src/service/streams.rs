//! The long answers: pages of a promise, frames for observers, leadership for attached peers.

use std::{net::IpAddr, pin::pin, sync::Arc, time::Duration};

use async_stream::try_stream;
use futures::{Stream, StreamExt as _};
use paxos_common::{
    paxos::{
        ballot::Ballot,
        identity::Stamp,
        message::{PromisePage, Rejection, Row, VoteRange},
        slot::Slot,
    },
    service::server::{Rights, Room},
    tls::RoleName,
    wire::{self, heard::millis, status},
};
use paxos_proto::v1 as pb;
use tokio::time::{Instant, sleep, sleep_until};
use tonic::Status;

use super::{Inner, check::check_report, read_failed};
use crate::{
    attach::Attachment,
    ring::Frame,
    store::{PAGE_BYTES_MAX, Reader},
};

/// The pages of a promise, until the last page or until another ballot is promised.
pub(super) fn promise<R: Reader>(
    inner: Arc<Inner<R>>,
    mut stamp: Stamp,
    ballot: Ballot,
    from: Slot,
    room: Room,
) -> impl Stream<Item = Result<pb::PromisePage, Status>> {
    try_stream! {
        let mut first = true;
        let mut from = from;
        // Slot of an unknown row in an earlier page: no later page's watermark may speak for this row.
        let mut unknown: Option<Slot> = None;
        // After a page: its fields without rows and witnesses.
        let mut last_page: Option<pb::PromisePage> = None;
        loop {
            if !room.take_now(PAGE_BYTES_MAX) {
                // The encoder keeps the last page until another page follows.
                if let Some(empty) = last_page.take() {
                    yield empty;
                }
                room.take(PAGE_BYTES_MAX).await;
            }
            let page = inner.reader.page(from).await.map_err(|error| read_failed(&error))?;
            let overtaken = page.promised > ballot;
            let last = page.last || overtaken;
            // The snapshot stands for an unknown row that a trim has passed meanwhile.
            unknown = unknown.filter(|slot| *slot >= page.trimmed_to);
            unknown = unknown.or(page.rows.iter().find(|row| row.accepted.is_none()).map(|row| row.slot));
            stamp.commit_counter = page.commit_counter;
            let next = page.next;
            let bytes: usize = page.rows.iter().map(row_bytes).sum();
            inner.shared.hearing.worked(ballot, bytes as u64);
            let answer = if overtaken {
                let rejection = Rejection { promised: page.promised, leader_address: page.leader_address };
                pb::promise_page::Answer::Rejected(rejection.into())
            } else {
                pb::promise_page::Answer::Promise(PromisePage {
                    from,
                    next,
                    last,
                    chosen_to: unknown.map_or(page.chosen_to, |slot| slot.min(page.chosen_to)),
                    known_to: page.known_to,
                    trimmed_to: page.trimmed_to,
                    voted_to: page.voted_to,
                    rows: page.rows,
                }.into())
            };
            let witnesses = if std::mem::take(&mut first) {
                wire::witnesses(&inner.shared.witnesses())
            } else {
                Vec::new()
            };
            let stamp = Some(wire::stamp(&stamp, Vec::new()));
            let page = pb::PromisePage { stamp, ballot: Some(ballot.into()), answer: Some(answer), witnesses };
            room.built(&page);
            last_page = without_rows(&page);
            yield page;
            if last {
                break;
            }
            from = next;
        }
    }
}

/// A page without covered slots, and with the fields of `page` beside the rows.
fn without_rows(page: &pb::PromisePage) -> Option<pb::PromisePage> {
    let Some(pb::promise_page::Answer::Promise(promise)) = &page.answer else {
        return None;
    };
    let promise = pb::Promise {
        rows: Vec::new(),
        from: promise.next,
        ..*promise
    };
    Some(pb::PromisePage {
        stamp: page.stamp.clone(),
        ballot: page.ballot,
        answer: Some(pb::promise_page::Answer::Promise(promise)),
        witnesses: Vec::new(),
    })
}

/// Work units of a row in a page: a page without values is work too.
fn row_bytes(row: &Row) -> usize {
    let value = row.accepted.as_ref().map(|(_, value)| value.as_bytes().len());
    1 + value.unwrap_or_default()
}

/// Maximum time for the first report of an attaching peer.
const FIRST_REPORT_MAX: Duration = Duration::from_secs(10);
/// Maximum time between later reports: above the interval for the longest leader timeout.
const NEXT_REPORT_MAX: Duration = Duration::from_secs(60);

/// Minimum time between two reports read from a stream, beyond a few at once. Faster reports wait unread, so a flood of
/// reports takes no time from leaders. A proposer reports every 100 ms at most, and a few times at once when the leader
/// is gone.
pub(super) const REPORT_INTERVAL: Duration = Duration::from_millis(20);
/// Maximum number of reports read at once.
pub(super) const REPORTS_AT_ONCE: u32 = 8;

/// Checks that a report has the role of its sender.
pub(super) fn allowed(report: pb::AttachRequest, rights: &Rights) -> Result<pb::AttachRequest, Status> {
    match report.role() {
        pb::Role::Proposer => rights.check(&[RoleName::Proposer], "a report of a proposer")?,
        pb::Role::Learner => rights.check(&[RoleName::Learner], "a report of a learner")?,
        // Refused for every sender.
        pb::Role::Unspecified | pb::Role::Acceptor => {}
    }
    Ok(report)
}

/// Answers every report, and sends each change of leadership and of the heard leader at once. Every peer that has
/// reported is in the roster.
pub(super) fn attached<R: Reader>(
    inner: Arc<Inner<R>>,
    reports: impl Stream<Item = Result<pb::AttachRequest, Status>>,
    address: Option<IpAddr>,
) -> impl Stream<Item = Result<pb::AttachResponse, Status>> {
    try_stream! {
        let mut reports = pin!(reports);
        let mut changes = inner.shared.leadership();
        let mut news = inner.shared.hearing.news();
        let mut latest = 0;
        let mut role = pb::Role::Unspecified;
        let mut learner = None;
        let mut attachment: Option<Attachment> = None;
        let mut silence = pin!(sleep(FIRST_REPORT_MAX));
        // Time of reading the next report, when none may be read ahead.
        let mut due = Instant::now();
        loop {
            let at_once = REPORT_INTERVAL * REPORTS_AT_ONCE;
            let is_due = due <= Instant::now() + at_once;
            let report = tokio::select! {
                // Cancel safe: a half received report stays in the stream.
                report = reports.next(), if is_due => Some(report.transpose()),
                // Only waits.
                () = sleep_until(due - at_once), if !is_due => continue,
                // Cancel safe: a change not seen is seen next time. The sender lives as long as `inner`.
                _ = changes.changed(), if attachment.is_some() => None,
                // Likewise.
                _ = news.changed(), if attachment.is_some() => None,
                // Only waits.
                () = &mut silence => Some(Err(no_report())),
            };
            match report.transpose()? {
                Some(Some(mut report)) => {
                    inner.check_caller(report.caller.as_ref())?;
                    check_report(&report)?;
                    latest = report.report;
                    role = report.role();
                    learner = (report.role() == pb::Role::Learner).then_some(report.peer);
                    due = due.max(Instant::now()) + REPORT_INTERVAL;
                    silence.as_mut().reset(Instant::now() + NEXT_REPORT_MAX);
                    // Not part of the roster.
                    let refused = std::mem::take(&mut report.refused);
                    inner.shared.refusals.report(report.peer, refused);
                    if report.leaving {
                        if let Some(attachment) = &attachment {
                            attachment.leave(report.stopping);
                        }
                        break;
                    }
                    let attachment = match &mut attachment {
                        Some(attachment) => {
                            attachment.report(report);
                            attachment
                        }
                        None => attachment.insert(inner.attach(report, address)?),
                    };
                    attachment.remember(inner.shared.published().trim_cap);
                }
                Some(None) => break,
                None => {}
            }
            // This answer includes all changes so far.
            changes.mark_unchanged();
            news.mark_unchanged();
            yield attach_response(&inner, latest, (role, learner));
        }
    }
}

/// The present leadership and the heard proposer; `report`: the number of the latest report. The sender has this role; a
/// learner has this number.
fn attach_response<R>(
    inner: &Inner<R>,
    report: u64,
    (role, learner): (pb::Role, Option<u64>),
) -> pb::AttachResponse {
    let above = learner.and_then(|learner| inner.snapshots.wanted_from(learner));
    let published = inner.shared.published();
    let heard = inner.shared.hearing.heard();
    pb::AttachResponse {
        stamp: Some(wire::stamp(&published.stamp, Vec::new())),
        leadership: Some(wire::leadership(&published.leadership, millis(heard.silent))),
        chosen_to: published.chosen_to.get(),
        known_chosen_to: published.known_to.get(),
        voted_to: published.voted_to.get(),
        trimmed_to: published.trimmed_to.get(),
        report,
        heard: Some(heard.into()),
        waiting_ms: millis(inner.queue.waiting()),
        slowest_commit_ms: millis(inner.instruments.slowest_commit()),
        no_space: published.no_space,
        state_bytes: match role {
            pb::Role::Proposer => inner.roster.state_bytes(published.known_to),
            pb::Role::Acceptor | pb::Role::Learner | pb::Role::Unspecified => 0,
        },
        snapshot_wanted: above.map(|above| pb::SnapshotWanted { above: above.get() }),
    }
}

fn no_report() -> Status {
    status::invalid_argument(format!(
        "an attached peer must send the first report within {} s, and further reports at least every {} s",
        FIRST_REPORT_MAX.as_secs(),
        NEXT_REPORT_MAX.as_secs()
    ))
}

pub(super) fn observe_frame(stamp: pb::Stamp, frame: Frame, kind: pb::ObserveKind) -> pb::ObserveFrame {
    let values = kind == pb::ObserveKind::Values;
    pb::ObserveFrame {
        stamp: Some(stamp),
        chosen_to: frame.known_to.get(),
        trimmed_to: frame.trimmed_to.get(),
        votes: if values {
            Vec::new()
        } else {
            VoteRange::collect(&frame.rows)
                .into_iter()
                .map(Into::into)
                .collect()
        },
        rows: if values {
            frame.rows.into_iter().map(Into::into).collect()
        } else {
            Vec::new()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_page_covers_no_slot_and_claims_nothing_new() {
        let page = pb::PromisePage {
            answer: Some(pb::promise_page::Answer::Promise(pb::Promise {
                chosen_to: 3,
                voted_to: 9,
                rows: vec![pb::Row::default()],
                from: 2,
                next: 7,
                ..Default::default()
            })),
            witnesses: vec![pb::Witness::default()],
            ..Default::default()
        };
        let empty = without_rows(&page).unwrap();
        assert_eq!(empty.witnesses, []);
        let Some(pb::promise_page::Answer::Promise(promise)) = empty.answer else {
            panic!("no promise");
        };
        assert_eq!((promise.from, promise.next, promise.last), (7, 7, false));
        assert_eq!((promise.chosen_to, promise.voted_to), (3, 9));
        assert_eq!(promise.rows, []);
    }
}
