//! The table of the acceptors: votes, logs, snapshots and disks.

use paxos_client::raw::ClusterReport;
use paxos_proto::v1::{AcceptorStatusResponse, Membership};

use super::{ballot, table, trimmed};
use crate::{output::printable, verdict::Verdict};

const MIB: u64 = 1024 * 1024;

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
        "DISK FREE",
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

/// What a person has to do for the next trim of each log: a line for each reason, with the acceptors that wait for it.
pub(super) fn trims(status: &ClusterReport) -> String {
    let mut reasons: Vec<(&str, Vec<String>)> = Vec::new();
    let answers = status
        .acceptors
        .iter()
        .filter_map(|report| report.answer.as_ref().ok());
    for answer in answers.filter(|answer| answer.waits_for_person) {
        let name = printable(&answer.id);
        match reasons.iter_mut().find(|(reason, _)| *reason == answer.waits_for) {
            Some((_, names)) => names.push(name),
            None => reasons.push((&answer.waits_for, vec![name])),
        }
    }
    let line = |(reason, names): &(&str, Vec<String>)| {
        format!(
            "the next trim of {} waits for {}\n",
            names.join(", "),
            printable(reason)
        )
    };
    reasons.iter().map(line).collect()
}

fn acceptor_row(address: String, answer: &AcceptorStatusResponse, votes: bool) -> [String; 15] {
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
        log_size(answer),
        answer.data_free_bytes.map_or_else(|| "?".to_owned(), mebibytes),
        snapshots(answer),
        answer.queued.to_string(),
        format!("{} ms", answer.waiting_ms),
        format!("{} ms", answer.slowest_commit_ms),
        format!("{} KiB", answer.wal_bytes.div_ceil(1024)),
    ]
}

/// The size of the log, and the part of the file that later votes use before the file grows.
fn log_size(answer: &AcceptorStatusResponse) -> String {
    match answer.free_bytes / MIB {
        0 => mebibytes(answer.log_bytes),
        free => format!("{} ({free} unused)", mebibytes(answer.log_bytes)),
    }
}

/// Rounded down, as in the text of the hindrance to a trim: a log below its limit never shows the limit.
fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes / MIB)
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
    use crate::verdict::{
        judge,
        tests::{healthy, lose},
    };

    #[test]
    fn every_reason_is_a_line_with_its_acceptors() {
        let mut status = healthy();
        assert_eq!(
            trims(&status),
            "",
            "acceptors of an earlier release give no reason"
        );
        for (report, reason) in status
            .acceptors
            .iter_mut()
            .zip(["a leader", "a\nlearner", "a leader"])
        {
            let answer = report.answer.as_mut().unwrap();
            answer.waits_for = reason.to_owned();
        }
        assert_eq!(trims(&status), "", "no person is needed");
        for report in &mut status.acceptors {
            report.answer.as_mut().unwrap().waits_for_person = true;
        }
        let expected =
            "the next trim of a1, a3 waits for a leader\nthe next trim of a2 waits for a\\nlearner\n";
        assert_eq!(trims(&status), expected);
        lose(&mut status, 0);
        assert!(trims(&status).contains("of a3 waits"));
        let verdict = judge(&status);
        assert!(crate::status::text(&status, &verdict).contains("the next trim of a3 waits for a leader"));
    }

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
