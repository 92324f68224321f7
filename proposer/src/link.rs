//! The way to one acceptor: a standing `Accept` stream and a standing `Attach` stream, opened anew whenever they break.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use paxos_common::{
    config::version,
    paxos::{
        ballot::ProposerId,
        identity::{AcceptorUuid, ClusterId, RunNumber, Stamp},
        message::{Accept, Leadership},
        proposer::Event,
        quorum::Configuration,
    },
    peer::{self, Address, Backoff, MESSAGE_BYTES_MAX, connect_lazy},
    wire::{self, AcceptReply, Malformed},
};
use paxos_proto::v1::{self as pb, acceptor_client::AcceptorClient, form_request::Step};
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

/// A link that was open that long has lasted: the next waits are short again. An acceptor that is not counted is asked to
/// show its runs again and again; that link never lasts.
const LASTING: Duration = Duration::from_secs(1);

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
    pub(crate) client: AcceptorClient<Channel>,
    pub(crate) acceptor: AcceptorUuid,
    /// The run in which the acceptor introduced itself. An answer from another run is not counted.
    pub(crate) run: RunNumber,
    /// Cancelled when the acceptor must show its runs again.
    pub(crate) reopen: CancellationToken,
}

/// A message to an acceptor, with what its leader remembers of the acceptors, now and then.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) accept: Accept,
    pub(crate) witnesses: Vec<pb::Witness>,
    /// Its trace context; empty when it is not traced.
    pub(crate) traceparent: String,
}

impl Outgoing {
    fn into_request(self, cluster: ClusterId) -> pb::AcceptRequest {
        pb::AcceptRequest {
            witnesses: self.witnesses,
            traceparent: self.traceparent,
            ..wire::accept_request(&self.accept, cluster)
        }
    }
}

/// Why a link is not open.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("it does not answer")]
    Silent,
    #[error("{}", peer::reason(.0))]
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
    #[error("it has started again since it showed its runs")]
    Restarted,
    #[error("it is not counted until its runs agree with what is remembered of it")]
    Distrusted,
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
            Self::Silent
            | Self::Call(_)
            | Self::Closed
            | Self::Restarted
            | Self::Distrusted
            | Self::Forming => false,
            Self::Malformed(_) | Self::Blank | Self::OtherCluster(_) | Self::Stranger(_) => true,
        }
    }
}

/// An acceptor that is away for longer needs a person.
const AWAY_LONG: Duration = Duration::from_secs(30);

/// What was logged last of an acceptor that is not connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Logged {
    Lost,
    AwayLong,
    Refused,
}

/// Keeps the way to the acceptor at `address` open until `stop`.
pub(crate) async fn keep(address: Address, context: Context, stop: CancellationToken) {
    let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(500));
    let client = AcceptorClient::new(connect_lazy(&address))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let mut logged = None;
    let mut away_since = Instant::now();
    loop {
        let mut opened_at = None;
        let broken = match serve(&address, client.clone(), &context, &stop, &mut opened_at).await {
            Ok(()) => return,
            Err(broken) => broken,
        };
        if opened_at.is_some_and(|at| at.elapsed() >= LASTING) {
            backoff.reset();
            logged = None;
            away_since = Instant::now();
        }
        // Once for each time that it goes away, or comes back as what it must not be: what lasts fills no log.
        let now = match broken.is_refusal() {
            true => Logged::Refused,
            false if away_since.elapsed() < AWAY_LONG => Logged::Lost,
            false => Logged::AwayLong,
        };
        if matches!(broken, Broken::Distrusted) {
            // The core tells people when an acceptor is refused.
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

/// Opens both streams and passes on what comes in, until one breaks (an error) or `stop`.
async fn serve(
    address: &Address,
    mut client: AcceptorClient<Channel>,
    context: &Context,
    stop: &CancellationToken,
    opened_at: &mut Option<Instant>,
) -> Result<(), Broken> {
    let (Stamp { acceptor, run, .. }, form) = introduce(&mut client, context).await?;

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
    let reopen = CancellationToken::new();
    let open = Open {
        address: address.clone(),
        accepts,
        client,
        acceptor,
        run,
        reopen: reopen.clone(),
    };
    if context.inputs.send(Input::Opened(acceptor, open)).await.is_err() {
        return Ok(());
    }
    *opened_at = Some(Instant::now());
    tracing::debug!(%address, %acceptor, "link is open");
    let mut ticks = interval(context.report_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // When the acceptor last answered a report; none once its word has grown old.
    let mut heard_at = Some(Instant::now());
    let broken = loop {
        let told = tokio::select! {
            // Receiving from a stream, ticking and waiting for the token are all cancel safe.
            answer = answers.message() => answer.map_err(Broken::from).and_then(|answer| answered(answer, (acceptor, run), cluster)),
            word = words.message() => {
                heard_at = Some(Instant::now());
                word.map_err(Broken::from).and_then(|word| reported(word, (acceptor, run), cluster))
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
            () = reopen.cancelled() => Err(Broken::Distrusted),
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
) -> Result<(Stamp, pb::FormResponse), Broken> {
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
            return Ok((stamp, form));
        }
    }
    Err(Broken::Forming)
}

/// Every answer must come from the acceptor that the link was opened to, in the run in which it showed its runs: a call
/// may have found a process that was started since, on another disk.
pub(crate) fn check(
    stamp: Option<&pb::Stamp>,
    (acceptor, run): (AcceptorUuid, RunNumber),
    cluster: ClusterId,
) -> Result<Stamp, Broken> {
    let stamp = wire::read_stamp(stamp)?;
    if stamp.acceptor != acceptor || stamp.cluster != Some(cluster) {
        return Err(Broken::Stranger(stamp.acceptor));
    }
    if stamp.run != run {
        return Err(Broken::Restarted);
    }
    Ok(stamp)
}

fn answered(
    answer: Option<pb::AcceptResponse>,
    member: (AcceptorUuid, RunNumber),
    cluster: ClusterId,
) -> Result<Input, Broken> {
    let answer = answer.ok_or(Broken::Closed)?;
    let acceptor = check(answer.stamp.as_ref(), member, cluster)?.acceptor;
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
    member: (AcceptorUuid, RunNumber),
    cluster: ClusterId,
) -> Result<Input, Broken> {
    let word = word.ok_or(Broken::Closed)?;
    let stamp = check(word.stamp.as_ref(), member, cluster)?;
    let acceptor = stamp.acceptor;
    let leadership = word.leadership.ok_or(Malformed::Missing("leadership"))?;
    let event = Event::Reported {
        acceptor,
        silent: Duration::from_millis(leadership.silent_ms),
        leadership: Leadership::try_from(leadership)?,
        chosen_to: wire::known_to(word.known_chosen_to, word.chosen_to)?,
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
