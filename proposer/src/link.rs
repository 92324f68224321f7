//! The link to one acceptor: the introduction and a standing `Attach` stream, reopened after each break. The addresses of
//! the acceptor are tried in turn.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use paxos_common::{
    paxos::{
        ballot::ProposerId,
        identity::{AcceptorUuid, ClusterId, RunNumber, Stamp},
        message::ReportAnswer,
        proposer::Event,
        quorum::Configuration,
        witness::Guard,
    },
    peer::{
        Address, Arrivals, Backoff, MessageLimits as _,
        acceptor::{AWAY_LONG, Unusable, answer_within},
    },
    service::{
        alarm::{Alarm, until_next},
        config::version,
        shutdown::Shutdown,
    },
    wire,
};
use paxos_proto::v1::{self as pb, acceptor_client::AcceptorClient};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use crate::{
    addresses::AddressBook,
    clock::Clock,
    input::{Input, LinkId, LinkReport, OpenLink},
    view::View,
};

mod introduction;

use introduction::{Others, TableReport, ask_others, client, introduce};

/// Maximum time for an acceptor to introduce itself, and to open a stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);

/// Report interval of a calm (not watchful) proposer, unless half of the leader timeout is longer. Each report wakes
/// both processes, and acceptors report changes at once.
const CALM_REPORT_INTERVAL: Duration = Duration::from_secs(2);

/// Maximum wait of a stop for an acceptor to take the last report.
const LEAVING_MAX: Duration = Duration::from_millis(200);

/// Maximum number of reports with a remembered time of sending. An answer to an older report is as old as the
/// connection.
const REPORTS_REMEMBERED: usize = 64;

/// Open time after which a link has lasted: the next waits are short again. An uncounted acceptor must show its runs
/// repeatedly, on links that never last.
const LASTING: Duration = Duration::from_secs(1);

/// Shared by all links of a proposer.
#[derive(Clone, Debug)]
pub(crate) struct LinkContext {
    pub(crate) cluster: ClusterId,
    /// The configuration of this proposer. Another one ends all links.
    pub(crate) configuration: Arc<Configuration>,
    pub(crate) book: Arc<AddressBook>,
    pub(crate) proposer: ProposerId,
    /// URL of this proposer for other processes.
    pub(crate) address: Address,
    pub(crate) leader_timeout: Duration,
    /// Changes when a report must be sent at once. True: this proposer may campaign soon, and needs fresh answers.
    pub(crate) watchful: watch::Receiver<bool>,
    pub(crate) clock: Clock,
    pub(crate) inputs: mpsc::Sender<Input>,
    pub(crate) views: watch::Receiver<View>,
    /// The stop of this process.
    pub(crate) shutdown: Shutdown,
}

impl LinkContext {
    /// Number of table reports required from other acceptors before a new run of an acceptor counts.
    fn others_needed(&self) -> usize {
        Guard::new(self.configuration.quorums()).others_needed()
    }
}

/// The last log line about an acceptor without a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Logged {
    Lost,
    AwayLong,
    Refused,
}

/// An acceptor to be linked.
#[derive(Clone, Debug)]
pub(crate) struct LinkTarget {
    pub(crate) link: LinkId,
    /// The address in the configuration.
    pub(crate) listed: Arc<str>,
}

/// How far an attempt to open the link has come.
#[derive(Debug, Default)]
struct Attempt {
    /// The acceptor was found: no other address leads to it.
    is_found: bool,
    opened_at: Option<Instant>,
}

/// Keeps the link to an acceptor open until `stop`.
pub(crate) async fn keep(target: LinkTarget, context: LinkContext, stop: CancellationToken) {
    let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(500));
    let mut logged = None;
    let mut away_since = Instant::now();
    loop {
        let mut attempt = Attempt::default();
        let (address, broken) = match open(&target, &context, &stop, &mut attempt).await {
            Ok(()) => return,
            Err(broken) => broken,
        };
        if matches!(broken, Unusable::Distrusted) {
            // The core may require new tables from the other acceptors.
            context.book.witnessed(target.link.acceptor, None);
        }
        if attempt.opened_at.is_some_and(|at| at.elapsed() >= LASTING) {
            backoff.reset();
            logged = None;
            away_since = Instant::now();
        }
        // Logged once for each loss of the acceptor, and once for each return as an acceptor to refuse. A lasting state
        // does not fill the log.
        let now = match broken.is_refusal() {
            true => Logged::Refused,
            false if away_since.elapsed() < AWAY_LONG => Logged::Lost,
            false => Logged::AwayLong,
        };
        if matches!(broken, Unusable::Distrusted | Unusable::LaterEra(_)) {
            // The core logs the refusal of an acceptor, and a change of members.
            tracing::debug!(%address, reason = %broken, "the link is opened again");
        } else if logged.replace(now) != Some(now) {
            match now {
                Logged::Refused => {
                    tracing::error!(%address, reason = %broken, "acceptor refused: it is not counted");
                }
                Logged::Lost => {
                    tracing::info!(%address, reason = %broken, "acceptor not connected; trying again");
                }
                Logged::AwayLong => {
                    tracing::warn!(%address, reason = %broken, "acceptor not connected for {AWAY_LONG:?}; trying again");
                }
            }
        }
        tokio::select! {
            // Both arms only wait.
            () = stop.cancelled() => return,
            () = tokio::time::sleep(backoff.next_delay()) => {}
        }
    }
}

/// Tries the addresses of the acceptor in turn. Serves the link at the first address with the acceptor, until the link breaks
/// (an error, with the address) or `stop`.
async fn open(
    target: &LinkTarget,
    context: &LinkContext,
    stop: &CancellationToken,
    attempt: &mut Attempt,
) -> Result<(), (Arc<str>, Unusable)> {
    // The first refusal, or otherwise the first failure.
    let mut first: Option<(Arc<str>, Unusable)> = None;
    for address in context.book.candidates(target.link.acceptor, &target.listed) {
        let Err(broken) = serve(&address, target.link, context, stop, attempt).await else {
            return Ok(());
        };
        let failed = (Arc::from(address.as_str()), broken);
        if attempt.is_found {
            return Err(failed);
        }
        let is_first = |(_, first): &(_, Unusable)| failed.1.is_refusal() && !first.is_refusal();
        if first.as_ref().is_none_or(is_first) {
            first = Some(failed);
        }
    }
    Err(first.unwrap_or_else(|| (Arc::clone(&target.listed), Unusable::NoAddress)))
}

/// Introduces the acceptor, opens `Attach` and forwards its messages, until the stream breaks (an error) or `stop`.
async fn serve(
    address: &Address,
    id: LinkId,
    context: &LinkContext,
    stop: &CancellationToken,
    attempt: &mut Attempt,
) -> Result<(), Unusable> {
    let channel = context.book.channel(address);
    let mut calls = client(channel.clone());
    let introducing = introduce(&mut calls, context, (address, id));
    let shown = tokio::select! {
        // A stopped introduction is of no use to any other task; a step that was sent takes effect, or not.
        shown = introducing => shown?,
        () = stop.cancelled() => return Ok(()),
    };
    attempt.is_found = true;
    let Stamp { acceptor, run, .. } = shown.stamp;
    let is_witnessed = context.book.is_witnessed(acceptor, run);
    let asking = async {
        match is_witnessed {
            true => Others::default(),
            false => ask_others(address, acceptor, context).await,
        }
    };
    let Others { reported, asked } = tokio::select! {
        // Both arms only ask or wait.
        others = asking => others,
        () = stop.cancelled() => return Ok(()),
    };
    let (others_reported, needed) = (reported.len(), context.others_needed());
    let introduced = Event::Introduced {
        acceptor,
        runs: shown.runs,
        remembers: shown.remembers,
        others: reported,
    };
    if !is_witnessed && others_reported < needed {
        // Answers of the acceptor's earlier runs no longer count.
        let introduced = LinkReport::Introduced(introduced, None);
        let _ = context.inputs.send(Input::Link(id, introduced)).await;
        let reported = others_reported;
        return Err(Unusable::Unwitnessed { reported, needed });
    }

    let (outbox, inbox) = mpsc::channel(1);
    let mut reports = Reports::new((acceptor, run), outbox);
    // The first report goes with the opening of the stream.
    reports.send(context);
    let attaching = calls.attach(ReceiverStream::new(inbox));
    let words = answer_within(OPEN_TIMEOUT, attaching).await?.into_inner();

    let reopen = CancellationToken::new();
    let arrivals = Arrivals::default();
    let watched = AcceptorClient::new(arrivals.watch(channel)).with_message_limits();
    let open = OpenLink {
        link: id,
        address: address.clone(),
        client: watched,
        arrivals,
        acceptor,
        id: shown.id.into(),
        run,
        reopen: reopen.clone(),
    };
    let opened = LinkReport::Introduced(introduced, Some(Box::new(open)));
    if context.inputs.send(Input::Link(id, opened)).await.is_err() {
        return Ok(());
    }
    context.book.witnessed(acceptor, Some(run));
    attempt.opened_at = Some(Instant::now());
    tracing::debug!(%address, %acceptor, "link is open");
    let link = AttachedLink {
        context,
        id,
        member: (acceptor, run),
        words,
        reports,
        asked,
        reopen,
    };
    link.forward(stop).await
}

/// A link with an open `Attach` stream.
struct AttachedLink<'a> {
    context: &'a LinkContext,
    id: LinkId,
    /// The acceptor, in the run of its introduction.
    member: (AcceptorUuid, RunNumber),
    words: Streaming<pb::AttachResponse>,
    reports: Reports,
    /// Open calls for the tables of slow acceptors.
    asked: FuturesUnordered<BoxFuture<'a, TableReport>>,
    /// Set by the core, which does not trust the acceptor any more.
    reopen: CancellationToken,
}

impl AttachedLink<'_> {
    /// Forwards messages to the core, and sends reports, until the stream breaks (an error), the driver ends, or `stop`.
    async fn forward(mut self, stop: &CancellationToken) -> Result<(), Unusable> {
        let context = self.context;
        let (mut alarm, mut due) = (Alarm::new(), self.reports.next(context));
        let mut watchful = context.watchful.clone();
        let broken = loop {
            let report = tokio::select! {
                // Receiving from a stream, ticking and waiting are all cancel safe.
                word = self.words.message() => match self.report_of(word) {
                    Ok(report) => report,
                    Err(broken) => break broken,
                },
                // The table of a slow acceptor.
                Some(reported) = self.asked.next(), if !self.asked.is_empty() => {
                    let Some((acceptor, remembers)) = reported else { continue };
                    LinkReport::Core(Event::Remembered { acceptor, remembers })
                }
                () = alarm.wait_until(Some(due)) => {
                    due = self.report();
                    continue;
                }
                Ok(()) = watchful.changed() => {
                    due = self.report();
                    continue;
                }
                () = self.reopen.cancelled() => break Unusable::Distrusted,
                () = stop.cancelled() => {
                    if context.shutdown.has_begun() && !context.shutdown.has_failed() {
                        // After a longer wait, the acceptor lists this proposer as departed for a while.
                        let _ = timeout(LEAVING_MAX, leave(&self.reports, self.words, context)).await;
                    }
                    return Ok(());
                }
            };
            if context.inputs.send(Input::Link(self.id, report)).await.is_err() {
                return Ok(());
            }
        };
        let closed = Input::Link(self.id, LinkReport::Closed);
        let _ = context.inputs.send(closed).await;
        Err(broken)
    }

    fn report_of(
        &mut self,
        word: Result<Option<pb::AttachResponse>, Status>,
    ) -> Result<LinkReport, Unusable> {
        report_of(word?, self.member, self.context.cluster, &mut self.reports)
    }

    /// Sends a report. Returns the time of the next report.
    fn report(&mut self) -> Instant {
        self.reports.send(self.context);
        self.reports.next(self.context)
    }
}

/// Reports that this proposer stops, and waits until the acceptor has closed the stream.
async fn leave(reports: &Reports, mut words: Streaming<pb::AttachResponse>, context: &LinkContext) {
    let last = pb::AttachRequest {
        leaving: true,
        ..report(context, reports.member, reports.last + 1)
    };
    if reports.outbox.send(last).await.is_ok() {
        while let Ok(Some(_)) = words.message().await {}
    }
}

/// The reports of a stream, each with the time of sending.
#[derive(Debug)]
struct Reports {
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
    fn new(member: (AcceptorUuid, RunNumber), outbox: mpsc::Sender<pb::AttachRequest>) -> Self {
        Self {
            member,
            outbox,
            last: 0,
            sent: VecDeque::new(),
            is_numbered: false,
        }
    }

    /// Time of the next report. The links of a proposer report at the same moments: a single wake-up serves all links.
    fn next(&self, context: &LinkContext) -> Instant {
        // Two reports in the time in which an answer is fresh.
        let interval = match context.leader_timeout / 2 {
            interval if *context.watchful.borrow() || !self.is_numbered => interval,
            interval => interval.max(CALM_REPORT_INTERVAL),
        };
        Instant::now() + until_next(context.clock.now(), interval)
    }

    /// Sends a report, unless the last report still waits to be sent: then the next tick is enough.
    fn send(&mut self, context: &LinkContext) {
        let number = self.last + 1;
        // Read before the report leaves: an answer to the report is no older.
        let now = context.clock.now();
        if self.outbox.try_send(report(context, self.member, number)).is_ok() {
            self.sent(number, now);
        }
    }

    fn sent(&mut self, number: u64, at: Duration) {
        self.last = number;
        self.sent.push_back((number, at));
        if self.sent.len() > REPORTS_REMEMBERED {
            self.sent.pop_front();
        }
    }

    /// Time of sending of the answered report. An older acceptor sends answers without numbers: such an answer is
    /// matched to the last report.
    fn answered(&mut self, number: u64) -> Duration {
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

/// Checks the sender of an answer: the link's acceptor, in the run of its introduction. A call may have found a process
/// started since then, on a different disk.
pub(crate) fn check(
    stamp: Option<&pb::Stamp>,
    (acceptor, run): (AcceptorUuid, RunNumber),
    cluster: ClusterId,
) -> Result<Stamp, Unusable> {
    let stamp = wire::read_stamp(stamp)?;
    if stamp.acceptor != acceptor || stamp.cluster != Some(cluster) {
        return Err(Unusable::Stranger(stamp.acceptor));
    }
    if stamp.run != run {
        return Err(Unusable::Unshown);
    }
    Ok(stamp)
}

fn report_of(
    word: Option<pb::AttachResponse>,
    member: (AcceptorUuid, RunNumber),
    cluster: ClusterId,
    reports: &mut Reports,
) -> Result<LinkReport, Unusable> {
    let word = word.ok_or(Unusable::Closed)?;
    let stamp = check(word.stamp.as_ref(), member, cluster)?;
    let event = Event::Reported {
        acceptor: stamp.acceptor,
        sent: reports.answered(word.report),
        answer: ReportAnswer::try_from(word)?,
    };
    Ok(LinkReport::Reported(stamp, event))
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
    }
}

#[cfg(test)]
mod tests;
