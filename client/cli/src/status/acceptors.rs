//! The table of the acceptors: votes, logs, snapshots and disks.

use paxos_client::raw::ClusterReport;
use paxos_proto::v1::{AcceptorStatusResponse, Membership};

use super::{ballot, table, trimmed};
use crate::{output::printable, verdict::Verdict};

/// The table of the acceptors.
pub(super) fn acceptor_table(status: &ClusterReport, verdict: &Verdict) -> String {
    let header = [
        "ACCEPTOR",
        "ADDRESS",
        "MEMBERSHIP",
        "VOTES",
        "PROMISED",
        "CHOSEN TO",
        "VOTED TO",
        "LOG FROM",
        "LOG",
        "SNAPSHOT",
        "QUEUED",
        "WAITING",
        "SLOWEST COMMIT",
        "WAL",
    ];
    let mut table = table(&header);
    for (report, votes) in status.acceptors.iter().zip(&verdict.votes) {
        let address = printable(report.address.as_str());
        match &report.answer {
            Ok(answer) => table.add_row(acceptor_row(address, answer, *votes)),
            Err(_) => table.add_row(["?".to_owned(), address, "no answer".to_owned()]),
        };
    }
    trimmed(&table)
}

fn acceptor_row(address: String, answer: &AcceptorStatusResponse, votes: bool) -> [String; 14] {
    let membership = match answer.membership() {
        Membership::Unspecified => "?",
        Membership::Blank => "blank",
        Membership::Seeded => "holds a backup",
        Membership::Forming => "forming",
        Membership::Formed => "formed",
    };
    let promised = answer
        .leadership
        .as_ref()
        .and_then(|leadership| leadership.promised);
    [
        printable(&answer.id),
        address,
        membership.to_owned(),
        if votes { "yes" } else { "no" }.to_owned(),
        ballot(promised),
        answer.chosen_to.to_string(),
        answer.voted_to.to_string(),
        answer.trimmed_to.to_string(),
        // Rounded down, as in the text of the hindrance to a trim: a log below its limit never shows the limit.
        format!("{} MiB", answer.log_bytes / (1024 * 1024)),
        snapshots(answer),
        answer.queued.to_string(),
        format!("{} ms", answer.waiting_ms),
        format!("{} ms", answer.slowest_commit_ms),
        format!("{} KiB", answer.wal_bytes.div_ceil(1024)),
    ]
}

/// The ends of the kept snapshots, and the received part of an arriving snapshot.
fn snapshots(answer: &AcceptorStatusResponse) -> String {
    let mut shown: Vec<_> = answer.snapshots.iter().map(|id| id.to.to_string()).collect();
    if let Some(arriving) = &answer.receiving {
        let percent = answer.received.saturating_mul(100) / arriving.bytes.max(1);
        shown.push(format!("{percent} %"));
    }
    if shown.is_empty() {
        shown.push("-".to_owned());
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use paxos_proto::v1 as pb;

    use super::*;

    #[test]
    fn snapshots_of_an_acceptor_are_shown_by_their_ends_and_the_received_part() {
        let id = |to| pb::SnapshotId {
            to,
            bytes: 400,
            ..Default::default()
        };
        let mut answer = AcceptorStatusResponse::default();
        assert_eq!(snapshots(&answer), "-");
        answer.receiving = Some(id(9));
        answer.received = 100;
        assert_eq!(snapshots(&answer), "25 %");
        answer.snapshots = vec![id(5), id(7)];
        assert_eq!(snapshots(&answer), "5, 7, 25 %");
        answer.receiving = None;
        assert_eq!(snapshots(&answer), "5, 7");
    }
}
