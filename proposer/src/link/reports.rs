//! The reports of a proposer to an acceptor, and the times of the answered reports.

use std::{collections::VecDeque, time::Duration};

use futures::{Stream, StreamExt as _};
use paxos_common::{
    paxos::identity::{AcceptorUuid, RunNumber},
    service::{alarm::until_next, config::version},
    wire,
};
use paxos_proto::v1 as pb;
use tokio::{sync::mpsc, time::Instant};
use tonic::Status;

use super::LinkContext;

/// Report interval of a calm (not watchful) proposer, unless half of the leader timeout is longer. Each report wakes
/// both processes, and acceptors report changes at once.
const CALM_REPORT_INTERVAL: Duration = Duration::from_secs(2);

/// Maximum number of reports with a remembered time of sending. An answer to an older report is as old as the
/// connection.
const REPORTS_REMEMBERED: usize = 64;

/// Reports that this proposer ends the stream on purpose, and waits until the acceptor has closed the stream.
pub(super) async fn leave(
    reports: &Reports,
    mut words: impl Stream<Item = Result<pb::AttachResponse, Status>> + Unpin,
    context: &LinkContext,
) {
    let last = pb::AttachRequest {
        leaving: true,
        stopping: Some(context.shutdown.has_begun()),
        ..report(context, reports.member, reports.last + 1)
    };
    if reports.outbox.send(last).await.is_ok() {
        while let Some(Ok(_)) = words.next().await {}
    }
}

/// The reports of a stream, each with the time of sending.
#[derive(Debug)]
pub(super) struct Reports {
    /// The receiver of the reports, in the run of its introduction.
    member: (AcceptorUuid, RunNumber),
    outbox: mpsc::Sender<pb::AttachRequest>,
    /// The number of the last report.
    last: u64,
    /// Ascending, and without a gap up to `last`.
    sent: VecDeque<(u64, Duration)>,
    /// The acceptor numbers the answers, and so reports the loss of the leader at once.
    is_numbered: bool,
}

impl Reports {
    pub(super) fn new(member: (AcceptorUuid, RunNumber), outbox: mpsc::Sender<pb::AttachRequest>) -> Self {
        Self {
            member,
            outbox,
            last: 0,
            sent: VecDeque::new(),
            is_numbered: false,
        }
    }

    /// Time of the next report. The links of a proposer report at the same moments: a single wake-up serves all links.
    pub(super) fn next(&self, context: &LinkContext) -> Instant {
        // Two reports in the time in which an answer is fresh.
        let interval = match context.leader_timeout / 2 {
            interval if *context.watchful.borrow() || !self.is_numbered => interval,
            interval => interval.max(CALM_REPORT_INTERVAL),
        };
        Instant::now() + until_next(context.clock.now(), interval)
    }

    /// Sends a report, unless the last report still waits to be sent: then the next tick is enough.
    pub(super) fn send(&mut self, context: &LinkContext) {
        let number = self.last + 1;
        // Read before the report leaves: an answer to the report is no older.
        let now = context.clock.now();
        if self.outbox.try_send(report(context, self.member, number)).is_ok() {
            self.sent(number, now);
        }
    }

    pub(super) fn sent(&mut self, number: u64, at: Duration) {
        self.last = number;
        self.sent.push_back((number, at));
        if self.sent.len() > REPORTS_REMEMBERED {
            self.sent.pop_front();
        }
    }

    /// Time of sending of the answered report. An older acceptor sends answers without numbers: such an answer is
    /// matched to the last report.
    pub(super) fn answered(&mut self, number: u64) -> Duration {
        self.is_numbered = number > 0;
        let number = if number == 0 { self.last } else { number };
        // A change at the acceptor may repeat an answer, so the report itself is kept.
        while self.sent.front().is_some_and(|&(first, _)| first < number) {
            self.sent.pop_front();
        }
        match self.sent.front() {
            Some(&(first, at)) if first == number => at,
            Some(_) | None => Duration::ZERO,
        }
    }
}

fn report(context: &LinkContext, (to, run): (AcceptorUuid, RunNumber), number: u64) -> pb::AttachRequest {
    let view = context.views.borrow();
    let progress = pb::ProposerProgress {
        leading: view.phase == pb::ProposerPhase::Leading,
        ballot: view.ballot.map(pb::Ballot::from),
        chosen_to: view.chosen_to.get(),
        queued: view.queued as u64,
        leader_timeout_ms: u32::try_from(context.leader_timeout.as_millis()).unwrap_or(u32::MAX),
    };
    pb::AttachRequest {
        caller: Some(wire::caller(Some(context.cluster))),
        role: pb::Role::Proposer.into(),
        peer: context.proposer.get(),
        address: context.address.to_string(),
        software: version().to_owned(),
        progress: Some(pb::attach_request::Progress::Proposer(progress)),
        report: number,
        leaving: false,
        refused: view.reason_for(to, run),
        stopping: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_is_as_old_as_the_report_that_it_answers() {
        let millis = Duration::from_millis;
        let (outbox, _inbox) = mpsc::channel(1);
        let mut reports = Reports::new((AcceptorUuid::from_u128(1), RunNumber::from_random(1)), outbox);
        for number in 1..=3 {
            reports.sent(number, millis(100 * number));
        }
        assert_eq!(reports.answered(2), millis(200));
        assert_eq!(
            reports.answered(2),
            millis(200),
            "sent again, because something changed"
        );
        assert_eq!(
            reports.answered(0),
            millis(300),
            "an acceptor that does not number its answers"
        );
        assert_eq!(reports.answered(1), Duration::ZERO, "too old to be known");
        assert_eq!(reports.answered(7), Duration::ZERO, "never sent");
        for number in 4..200 {
            reports.sent(number, millis(100 * number));
        }
        assert_eq!(reports.sent.len(), REPORTS_REMEMBERED);
        assert_eq!(reports.answered(5), Duration::ZERO, "no longer remembered");
    }
}
