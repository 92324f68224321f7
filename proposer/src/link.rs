//! The way to one acceptor: a standing `Accept` stream and a standing `Attach` stream, opened anew whenever they break.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use paxos_common::{
    config::version,
    paxos::{
        ballot::{Ballot, ProposerId},
        identity::{AcceptorUuid, ClusterId, Stamp},
        message::{Accept, Leadership, Prepare, PromisePage, Refused, Rejection},
        proposer::{Event, Scan},
        quorum::Configuration,
        slot::Slot,
        value::Value,
    },
    peer::{Address, Backoff, MESSAGE_BYTES_MAX, connect_lazy},
    wire::{self, AcceptReply, Malformed},
};
use paxos_proto::v1::{
    self as pb, acceptor_client::AcceptorClient, form_request::Step, promise_page::Answer,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::driver::{Input, View};

/// Messages on their way to one acceptor. The core keeps less than that unanswered; what does not fit is dropped, and
/// sent again when it stays unanswered.
const ACCEPTS_MAX: usize = 64;

/// How long an acceptor may take to say who it is, and to open a stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);

/// So many intervals between reports without an answer to any, and an acceptor's word has grown old: twice the leader
/// timeout.
const UNHEARD_INTERVALS: u32 = 8;

/// How long an acceptor may take to hear the last words of a proposer that stops.
const LAST_WORDS_MAX: Duration = Duration::from_millis(500);

/// How long reading rows for repair may take, and how many bytes of them are read at a time.
const FETCH_TIMEOUT: Duration = Duration::from_secs(2);
const FETCH_BYTES_MAX: usize = 4 << 20;

/// What all links of a proposer share.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) cluster: ClusterId,
    /// For an acceptor that was away when its cluster was formed.
    pub(crate) configuration: Arc<Configuration>,
    pub(crate) proposer: ProposerId,
    /// Where others find this proposer.
    pub(crate) address: Address,
    /// How often to report, and so to hear of the leader.
    pub(crate) report_interval: Duration,
    pub(crate) inputs: mpsc::Sender<Input>,
    pub(crate) views: watch::Receiver<View>,
}

/// An open way to an acceptor.
#[derive(Clone, Debug)]
pub(crate) struct Open {
    pub(crate) address: Address,
    pub(crate) accepts: mpsc::Sender<Outgoing>,
    client: AcceptorClient<Channel>,
    acceptor: AcceptorUuid,
}

/// A message to an acceptor, with what its leader remembers of the acceptors, now and then.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) accept: Accept,
    pub(crate) witnesses: Vec<pb::Witness>,
}

impl Outgoing {
    fn into_request(self, cluster: ClusterId) -> pb::AcceptRequest {
        pb::AcceptRequest {
            witnesses: self.witnesses,
            ..wire::accept_request(&self.accept, cluster)
        }
    }
}

/// Why a link is not open.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("it does not answer")]
    Silent,
    #[error("it answers: {}", .0.message())]
    Call(#[from] tonic::Status),
    #[error("it closed the stream")]
    Closed,
    #[error("its answer makes no sense: {0}")]
    Malformed(#[from] Malformed),
    #[error(
        "it is blank, and its cluster is formed: it has lost its disk. It is not counted, for good: stop it; it cannot be \
         replaced in this release"
    )]
    Blank,
    #[error("it has stored the list of members, and does not become one")]
    Forming,
    #[error("it belongs to another cluster, {0}: it is not counted; correct --acceptors")]
    OtherCluster(ClusterId),
    #[error("it is acceptor {0}, which is no member of this cluster: it is not counted; correct --acceptors")]
    Stranger(AcceptorUuid),
}

impl Broken {
    /// Whether a person must act.
    fn is_refusal(&self) -> bool {
        match self {
            Self::Silent | Self::Call(_) | Self::Closed | Self::Forming => false,
            Self::Malformed(_) | Self::Blank | Self::OtherCluster(_) | Self::Stranger(_) => true,
        }
    }
}

/// Keeps the way to the acceptor at `address` open until `stop`.
pub(crate) async fn keep(address: Address, context: Context, stop: CancellationToken) {
    let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(500));
    let client = AcceptorClient::new(connect_lazy(&address))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let mut told = None;
    loop {
        let mut opened = false;
        let broken = match serve(&address, client.clone(), &context, &stop, &mut opened).await {
            Ok(()) => return,
            Err(broken) => broken,
        };
        if opened {
            backoff.reset();
            told = None;
        }
        // Once for each time that it goes away, or comes back as what it must not be: what lasts fills no log.
        if told.replace(broken.is_refusal()) != Some(broken.is_refusal()) {
            if broken.is_refusal() {
                tracing::error!(%address, reason = %broken, "acceptor refused: it is not counted");
            } else {
                tracing::warn!(%address, reason = %broken, "no way to this acceptor; trying on");
            }
        }
        tokio::select! {
            // Both arms only wait.
            () = stop.cancelled() => return,
            () = tokio::time::sleep(backoff.next_delay()) => {}
        }
    }
}

/// Opens both streams and passes on what comes in, until one breaks (an error) or `stop`.
async fn serve(
    address: &Address,
    mut client: AcceptorClient<Channel>,
    context: &Context,
    stop: &CancellationToken,
    opened: &mut bool,
) -> Result<(), Broken> {
    let (acceptor, form) = introduce(&mut client, context).await?;

    let (accepts, outbox) = mpsc::channel(ACCEPTS_MAX);
    let cluster = context.cluster;
    let requests = ReceiverStream::new(outbox).map(move |outgoing: Outgoing| outgoing.into_request(cluster));
    let mut answers = timeout(OPEN_TIMEOUT, client.accept(requests))
        .await
        .map_err(|_| Broken::Silent)??
        .into_inner();
    let (reports, report_outbox) = mpsc::channel(1);
    // The first report goes with the opening of the stream.
    let _ = reports.try_send(report(context));
    let mut words = timeout(OPEN_TIMEOUT, client.attach(ReceiverStream::new(report_outbox)))
        .await
        .map_err(|_| Broken::Silent)??
        .into_inner();

    let runs = form
        .stamp
        .as_ref()
        .map(|stamp| wire::runs(&stamp.runs))
        .unwrap_or_default();
    let remembers = wire::read_witnesses(&form.witnesses)?;
    let introduced = Event::Introduced {
        acceptor,
        runs,
        remembers,
    };
    if context.inputs.send(Input::Core(introduced)).await.is_err() {
        return Ok(());
    }
    let open = Open {
        address: address.clone(),
        accepts,
        client,
        acceptor,
    };
    if context.inputs.send(Input::Opened(acceptor, open)).await.is_err() {
        return Ok(());
    }
    *opened = true;
    tracing::debug!(%address, %acceptor, "link is open");
    let mut ticks = interval(context.report_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // When the acceptor last answered a report; none once its word has grown old.
    let mut heard_at = Some(Instant::now());
    let broken = loop {
        let told = tokio::select! {
            // Receiving from a stream, ticking and waiting for the token are all cancel safe.
            answer = answers.message() => answer.map_err(Broken::from).and_then(|answer| answered(answer, acceptor, cluster)),
            word = words.message() => {
                heard_at = Some(Instant::now());
                word.map_err(Broken::from).and_then(|word| reported(word, acceptor, cluster))
            }
            _ = ticks.tick() => {
                // When the last report is still on its way, the next tick will do.
                let _ = reports.try_send(report(context));
                let old = context.report_interval * UNHEARD_INTERVALS;
                if heard_at.take_if(|at| at.elapsed() >= old).is_none() {
                    continue;
                }
                Ok(Input::Core(Event::Unheard(acceptor)))
            }
            () = stop.cancelled() => break None,
        };
        match told {
            Ok(input) => {
                if context.inputs.send(input).await.is_err() {
                    break None;
                }
            }
            Err(broken) => break Some(broken),
        }
    };
    match broken {
        Some(broken) => {
            let _ = context.inputs.send(Input::Closed(acceptor)).await;
            Err(broken)
        }
        None => {
            // The driver has ended. Its last words, a resignation among them, are on their way: the acceptor ends the
            // stream after them.
            drop(reports);
            let last_words = async {
                while answers.message().await?.is_some() {}
                Ok::<_, tonic::Status>(())
            };
            let heard = timeout(LAST_WORDS_MAX, last_words).await;
            tracing::debug!(%address, heard = matches!(heard, Ok(Ok(()))), "last words");
            Ok(())
        }
    }
}

/// Asks who is there: a member of this cluster, or nobody to count.
async fn introduce(
    client: &mut AcceptorClient<Channel>,
    context: &Context,
) -> Result<(AcceptorUuid, pb::FormResponse), Broken> {
    // An acceptor that was away when the others became formed is told so: one formed member proves that all had stored
    // the list.
    let complete = Step::Complete(pb::Configuration::from(&*context.configuration));
    for step in [None, Some(complete)] {
        let request = pb::FormRequest {
            caller: Some(wire::caller(None)),
            step,
        };
        let form = timeout(OPEN_TIMEOUT, client.form(request))
            .await
            .map_err(|_| Broken::Silent)??
            .into_inner();
        let stamp = wire::read_stamp(form.stamp.as_ref())?;
        let cluster = stamp.cluster.ok_or(Broken::Blank)?;
        if cluster != context.cluster {
            return Err(Broken::OtherCluster(cluster));
        }
        if !context.configuration.members().contains_key(&stamp.acceptor) {
            return Err(Broken::Stranger(stamp.acceptor));
        }
        if form.membership() == pb::Membership::Formed {
            return Ok((stamp.acceptor, form));
        }
    }
    Err(Broken::Forming)
}

/// Every answer must come from the acceptor that the link was opened to.
fn check(stamp: Option<&pb::Stamp>, acceptor: AcceptorUuid, cluster: ClusterId) -> Result<Stamp, Broken> {
    let stamp = wire::read_stamp(stamp)?;
    if stamp.acceptor == acceptor && stamp.cluster == Some(cluster) {
        Ok(stamp)
    } else {
        Err(Broken::Stranger(stamp.acceptor))
    }
}

fn answered(
    answer: Option<pb::AcceptResponse>,
    acceptor: AcceptorUuid,
    cluster: ClusterId,
) -> Result<Input, Broken> {
    let answer = answer.ok_or(Broken::Closed)?;
    check(answer.stamp.as_ref(), acceptor, cluster)?;
    let AcceptReply {
        stamp,
        ballot,
        sequence,
        answer,
    } = answer.try_into()?;
    let event = Event::Answered {
        acceptor,
        ballot,
        sequence,
        answer,
    };
    Ok(Input::Told(stamp, event))
}

fn reported(
    word: Option<pb::AttachResponse>,
    acceptor: AcceptorUuid,
    cluster: ClusterId,
) -> Result<Input, Broken> {
    let word = word.ok_or(Broken::Closed)?;
    let stamp = check(word.stamp.as_ref(), acceptor, cluster)?;
    let leadership = word.leadership.ok_or(Malformed::Missing("leadership"))?;
    let event = Event::Reported {
        acceptor,
        silent: Duration::from_millis(leadership.silent_ms),
        leadership: Leadership::try_from(leadership)?,
        chosen_to: Slot::new(word.chosen_to).map_err(Malformed::from)?,
    };
    Ok(Input::Told(stamp, event))
}

fn report(context: &Context) -> pb::AttachRequest {
    let view = context.views.borrow();
    let progress = pb::ProposerProgress {
        leading: view.phase == pb::ProposerPhase::Leading,
        ballot: view.ballot.map(pb::Ballot::from),
        chosen_to: view.chosen_to.get(),
        queued: view.queued as u64,
    };
    pb::AttachRequest {
        caller: Some(wire::caller(Some(context.cluster))),
        role: pb::Role::Proposer.into(),
        peer: context.proposer.get(),
        address: context.address.to_string(),
        software: version().to_owned(),
        progress: Some(pb::attach_request::Progress::Proposer(progress)),
    }
}

/// Asks for a promise, and passes its pages to the driver: all, or those that cover the slots of a scan. Begins anew
/// when the stream breaks; the driver ends it when the campaign is over.
pub(crate) async fn prepare(
    open: Open,
    prepare: Prepare,
    scan: Option<Scan>,
    cluster: ClusterId,
    inputs: mpsc::Sender<Input>,
) {
    let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(200));
    loop {
        match promise(&open, &prepare, scan, cluster, &inputs).await {
            Ok(()) => return,
            Err(broken) => {
                tracing::debug!(acceptor = %open.acceptor, ballot = %prepare.ballot, reason = %broken, "no promise");
            }
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

async fn promise(
    open: &Open,
    prepare: &Prepare,
    scan: Option<Scan>,
    cluster: ClusterId,
    inputs: &mpsc::Sender<Input>,
) -> Result<(), Broken> {
    let mut client = open.client.clone();
    let mut pages = client
        .prepare(wire::prepare_request(prepare, cluster))
        .await?
        .into_inner();
    loop {
        let page = pages.message().await?.ok_or(Broken::Closed)?;
        let stamp = check(page.stamp.as_ref(), open.acceptor, cluster)?;
        let ballot: Ballot = page.ballot.ok_or(Malformed::Missing("ballot"))?.try_into()?;
        if !page.witnesses.is_empty() {
            let remembered = Event::Remembered(wire::read_witnesses(&page.witnesses)?);
            if inputs.send(Input::Core(remembered)).await.is_err() {
                return Ok(());
            }
        }
        let (event, last) = match page.answer.ok_or(Malformed::Missing("answer"))? {
            Answer::Promise(page) => {
                let page = PromisePage::try_from(page)?;
                let last = page.last || scan.is_some_and(|scan| page.next >= scan.to);
                (
                    Event::Promised {
                        acceptor: open.acceptor,
                        ballot,
                        scan,
                        page,
                    },
                    last,
                )
            }
            Answer::Rejected(rejected) => {
                let Rejection { promised, .. } = rejected.try_into()?;
                (Event::PrepareRejected { ballot, promised }, true)
            }
            Answer::Refused(refused) => {
                tracing::debug!(acceptor = %open.acceptor, reason = refused.reason, "an acceptor refuses our ballot");
                let promised = Refused::try_from(refused)?.promised;
                (
                    Event::PrepareRefused {
                        acceptor: open.acceptor,
                        promised,
                    },
                    true,
                )
            }
        };
        if inputs.send(Input::Told(stamp, event)).await.is_err() || last {
            return Ok(());
        }
    }
}

/// Reads rows that lie below their sender's own watermark, and passes them to the driver; none if that fails.
pub(crate) async fn fetch_chosen(
    open: Open,
    from: Slot,
    to: Slot,
    cluster: ClusterId,
    inputs: mpsc::Sender<Input>,
) {
    let mut values = Vec::new();
    match timeout(FETCH_TIMEOUT, chosen_rows(&open, from, to, cluster, &mut values)).await {
        Ok(Ok(())) => {}
        Ok(Err(broken)) => tracing::debug!(acceptor = %open.acceptor, reason = %broken, "fetch chosen rows"),
        Err(_) => tracing::debug!(acceptor = %open.acceptor, "fetch chosen rows: no answer in time"),
    }
    let _ = inputs.send(Input::Core(Event::Fetched { from, values })).await;
}

async fn chosen_rows(
    open: &Open,
    from: Slot,
    to: Slot,
    cluster: ClusterId,
    values: &mut Vec<(Slot, Value)>,
) -> Result<(), Broken> {
    let request = pb::ObserveRequest {
        caller: Some(wire::caller(Some(cluster))),
        kind: pb::ObserveKind::Values.into(),
        from: from.get(),
    };
    let mut frames = open.client.clone().observe(request).await?.into_inner();
    let mut next = from;
    let mut bytes = 0;
    loop {
        let frame = frames.message().await?.ok_or(Broken::Closed)?;
        check(frame.stamp.as_ref(), open.acceptor, cluster)?;
        let chosen_to = Slot::new(frame.chosen_to).map_err(Malformed::from)?;
        for row in wire::rows(frame.rows)? {
            let Some((_, value)) = row.accepted else {
                return Ok(());
            };
            if row.slot != next || row.slot >= chosen_to || row.slot >= to {
                return Ok(());
            }
            bytes += value.as_bytes().len();
            if bytes > FETCH_BYTES_MAX && !values.is_empty() {
                return Ok(());
            }
            values.push((row.slot, value));
            next = next.next();
        }
        // Beyond its watermark there is nothing to wait for.
        if next >= to || next >= chosen_to {
            return Ok(());
        }
    }
}
