//! The link to one acceptor: the introduction and a standing `Attach` stream, reopened after each break. The link looks for
//! the acceptor at each of its addresses.

use std::{sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
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
        acceptor::{AWAY_LONG, LEAVING_MAX, Unusable, answer_within},
    },
    service::{alarm::Alarm, shutdown::Shutdown},
    wire,
};
use paxos_proto::v1::{self as pb, acceptor_client::AcceptorClient};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    addresses::LinkBook,
    clock::Clock,
    input::{Input, LinkId, LinkReport, OpenLink},
    view::View,
};

mod introduction;
mod reports;

use introduction::{Others, TableReport, ask_others, client, introduce, look};
use reports::{Reports, leave};

/// Maximum time for an acceptor to introduce itself, and to open a stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);

/// Time without an answer at an address of the acceptor, after which the next address is asked as well.
const HEDGE_AFTER: Duration = Duration::from_millis(100);

/// Open time after which a link has lasted: the next waits are short again. An uncounted acceptor must show its runs
/// repeatedly, on links that never last.
const LASTING: Duration = Duration::from_secs(1);

/// Shared by all links of a proposer.
#[derive(Clone, Debug)]
pub(crate) struct LinkContext {
    pub(crate) cluster: ClusterId,
    /// The configuration of this proposer. Another one ends all links.
    pub(crate) configuration: Arc<Configuration>,
    pub(crate) book: Arc<LinkBook>,
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
    opened_at: Option<Instant>,
}

/// Keeps the link to an acceptor open until `stop`.
pub(crate) async fn keep(target: LinkTarget, context: LinkContext, stop: CancellationToken) {
    let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(500));
    let mut logged = None;
    let mut away_since = Instant::now();
    let is_member = context
        .configuration
        .members()
        .contains_key(&target.link.acceptor);
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
            log_broken(&address, &broken, now, is_member);
        }
        tokio::select! {
            // Both arms only wait.
            () = stop.cancelled() => return,
            () = tokio::time::sleep(backoff.next_delay()) => {}
        }
    }
}

/// Logs why the link is not open.
fn log_broken(address: &str, broken: &Unusable, now: Logged, is_member: bool) {
    if !is_member {
        // A joiner, or a removed acceptor: another acceptor may have its address by now.
        tracing::info!(%address, reason = %broken, "no connection to an acceptor outside the members");
        return;
    }
    match now {
        Logged::Refused => tracing::error!(%address, reason = %broken, "acceptor refused: it is not counted"),
        Logged::Lost => tracing::info!(%address, reason = %broken, "acceptor not connected; trying again"),
        Logged::AwayLong => {
            tracing::warn!(%address, reason = %broken, "acceptor not connected for {AWAY_LONG:?}; trying again");
        }
    }
}

/// Finds the acceptor at one of its addresses, and serves the link there, until the link breaks (an error, with the address)
/// or `stop`.
async fn open(
    target: &LinkTarget,
    context: &LinkContext,
    stop: &CancellationToken,
    attempt: &mut Attempt,
) -> Result<(), (Arc<str>, Unusable)> {
    let candidates = context
        .book
        .candidates(target.link.acceptor, &target.listed, &context.configuration);
    let only = candidates.first().filter(|_| candidates.len() == 1).cloned();
    let address = match only {
        Some(only) => only,
        None => tokio::select! {
            // Both arms only ask or wait.
            found = find(candidates, target, context) => found?,
            () = stop.cancelled() => return Ok(()),
        },
    };
    let served = serve(&address, target.link, context, stop, attempt).await;
    served.map_err(|broken| (Arc::from(address.as_str()), broken))
}

/// The address where the acceptor answers: the candidates are asked in turn, the next after a failure or [`HEDGE_AFTER`].
/// Without such an address, the first refusal, or otherwise the first failure.
async fn find(
    candidates: Vec<Address>,
    target: &LinkTarget,
    context: &LinkContext,
) -> Result<Address, (Arc<str>, Unusable)> {
    let mut first: Option<(Arc<str>, Unusable)> = None;
    let mut unasked = candidates.into_iter();
    let mut asked = FuturesUnordered::new();
    loop {
        if let Some(address) = unasked.next() {
            asked.push(async move {
                let looked = look(&address, target.link.acceptor, context).await;
                (address, looked)
            });
        }
        let is_last = unasked.len() == 0;
        let answer = tokio::select! {
            // Both arms only ask or wait.
            answer = asked.next() => answer,
            () = tokio::time::sleep(HEDGE_AFTER), if !is_last => continue,
        };
        match answer {
            Some((address, Ok(()))) => return Ok(address),
            Some((address, Err(broken))) => {
                // At an address that is only a guess, any other acceptor may answer.
                let is_guess = *address.as_str() != *target.listed;
                let is_first = |(_, first): &(_, Unusable)| broken.is_refusal() && !first.is_refusal();
                if !(is_guess && broken.is_of_another()) && first.as_ref().is_none_or(is_first) {
                    first = Some((Arc::from(address.as_str()), broken));
                }
            }
            None if is_last => {
                return Err(first.unwrap_or_else(|| (Arc::clone(&target.listed), Unusable::NoAddress)));
            }
            None => {}
        }
    }
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
    let link = AttachedLink {
        context,
        id,
        member: (acceptor, run),
        words,
        reports,
        asked,
        reopen,
    };
    let opened = LinkReport::Introduced(introduced, Some(Box::new(open)));
    if context.inputs.send(Input::Link(id, opened)).await.is_err() {
        link.leave().await;
        return Ok(());
    }
    context.book.witnessed(acceptor, Some(run));
    attempt.opened_at = Some(Instant::now());
    tracing::debug!(%address, %acceptor, "link is open");
    link.forward(stop).await
}

/// A link with an open `Attach` stream.
struct AttachedLink<'a, W> {
    context: &'a LinkContext,
    id: LinkId,
    /// The acceptor, in the run of its introduction.
    member: (AcceptorUuid, RunNumber),
    /// The acceptor's messages.
    words: W,
    reports: Reports,
    /// Open calls for the tables of slow acceptors.
    asked: FuturesUnordered<BoxFuture<'a, TableReport>>,
    /// Set by the core, which does not trust the acceptor any more.
    reopen: CancellationToken,
}

impl<W: Stream<Item = Result<pb::AttachResponse, Status>> + Unpin> AttachedLink<'_, W> {
    /// Forwards messages to the core, and sends reports, until the stream breaks (an error), the driver ends, or `stop`. At
    /// both ends the acceptor gets a last report: a message may arrive at the same moment as the stop.
    async fn forward(mut self, stop: &CancellationToken) -> Result<(), Unusable> {
        let context = self.context;
        let (mut alarm, mut due) = (Alarm::new(), self.reports.next(context));
        let mut watchful = context.watchful.clone();
        let broken = loop {
            let report = tokio::select! {
                // Receiving from a stream, ticking and waiting are all cancel safe.
                word = self.words.next() => match self.report_of(word.transpose()) {
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
                    self.leave().await;
                    return Ok(());
                }
            };
            if context.inputs.send(Input::Link(self.id, report)).await.is_err() {
                self.leave().await;
                return Ok(());
            }
        };
        let closed = Input::Link(self.id, LinkReport::Closed);
        let _ = context.inputs.send(closed).await;
        Err(broken)
    }

    /// Reports that this proposer ends the stream on purpose: the process stops, the acceptor is no member any more, or another
    /// link takes over. A process that has failed reports nothing, and the acceptor lists the process as departed.
    async fn leave(self) {
        if !self.context.shutdown.has_failed() {
            let leaving = leave(&self.reports, self.words, self.context);
            if timeout(LEAVING_MAX, leaving).await.is_err() {
                tracing::debug!(acceptor = %self.member.0, "the acceptor has not confirmed the last report of this proposer");
            }
        }
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

#[cfg(test)]
mod tests;
