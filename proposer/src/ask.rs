//! Calls to one acceptor beside the standing streams: for a promise, and for rows known to be chosen.

use std::time::Duration;

use paxos_common::{
    paxos::{
        ballot::Ballot,
        identity::ClusterId,
        message::{Prepare, PromisePage, Refused, Rejection},
        proposer::{Event, Scan},
        slot::Slot,
        value::Value,
    },
    peer::{Backoff, acceptor::Unusable},
    trace::{
        self, Span, SpanContext,
        names::{self, method},
    },
    wire::{self, Malformed},
};
use paxos_proto::v1::{self as pb, promise_page::Answer};
use tokio::{sync::mpsc, time::timeout};

use crate::{
    input::{Input, LinkReport, OpenLink},
    link::check,
    trace::TaskTracer,
};

/// Maximum time for reading rows for repair, and maximum bytes of rows per read.
const FETCH_TIMEOUT: Duration = Duration::from_secs(2);
const FETCH_BYTES_MAX: usize = 4 << 20;

/// Requests a promise, and passes the pages to the driver: all pages, or the pages for the slots of a scan. Begins
/// again when the stream breaks; the driver ends the task when the pages are of no use any more.
pub(crate) async fn prepare(
    open: OpenLink,
    prepare: Prepare,
    scan: Option<Scan>,
    cluster: ClusterId,
    inputs: mpsc::Sender<Input>,
    traced: TaskTracer,
) {
    let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(200));
    loop {
        let mut span = traced.tracer.call(traced.context.as_ref(), method::PREPARE);
        if let Some(span) = &mut span {
            open.name(span);
            span.set(names::BALLOT, prepare.ballot.to_string());
        }
        let context = span.as_ref().map(Span::context);
        match promise(&open, &prepare, scan, cluster, &inputs, context).await {
            Ok(()) => {
                if let Some(mut span) = span {
                    span.answered(tonic::Code::Ok, "");
                }
                return;
            }
            Err(broken) => {
                if let Some(span) = &mut span {
                    span.fail("broken", broken.to_string());
                }
                tracing::debug!(acceptor = %open.acceptor, ballot = %prepare.ballot, reason = %broken, "no promise");
            }
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

async fn promise(
    open: &OpenLink,
    prepare: &Prepare,
    scan: Option<Scan>,
    cluster: ClusterId,
    inputs: &mpsc::Sender<Input>,
    context: Option<&SpanContext>,
) -> Result<(), Unusable> {
    let mut client = open.client.clone();
    let mut request = tonic::Request::new(wire::prepare_request(prepare, cluster));
    trace::inject(&mut request, context);
    let mut pages = client.prepare(request).await?.into_inner();
    loop {
        let page = pages.message().await?.ok_or(Unusable::Closed)?;
        let stamp = check(page.stamp.as_ref(), (open.acceptor, open.run), cluster)?;
        let ballot: Ballot = page.ballot.ok_or(Malformed::Missing("ballot"))?.try_into()?;
        if !page.witnesses.is_empty() {
            let remembered = Event::Remembered {
                acceptor: open.acceptor,
                remembers: wire::read_witnesses(&page.witnesses)?,
            };
            let remembered = Input::Link(open.link, LinkReport::Core(remembered));
            if inputs.send(remembered).await.is_err() {
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
                let acceptor = open.acceptor;
                (
                    Event::PrepareRejected {
                        acceptor,
                        ballot,
                        promised,
                    },
                    true,
                )
            }
            Answer::Refused(refused) => {
                tracing::debug!(acceptor = %open.acceptor, reason = refused.reason, "an acceptor refuses the ballot");
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
        let reported = Input::Link(open.link, LinkReport::Reported(stamp, event));
        if inputs.send(reported).await.is_err() || last {
            return Ok(());
        }
    }
}

/// Reads rows below the sender's own watermark, and passes them to the driver; no rows if the call fails.
pub(crate) async fn fetch_chosen(
    open: OpenLink,
    number: u64,
    (from, to): (Slot, Slot),
    cluster: ClusterId,
    inputs: mpsc::Sender<Input>,
    traced: TaskTracer,
) {
    let mut span = traced.tracer.below(traced.context.as_ref(), "proposer.fetch");
    let mut values = Vec::new();
    match timeout(FETCH_TIMEOUT, chosen_rows(&open, from, to, cluster, &mut values)).await {
        Ok(Ok(())) => {}
        Ok(Err(broken)) => {
            tracing::debug!(acceptor = %open.acceptor, reason = %broken, "fetching chosen rows failed");
        }
        Err(_) => {
            tracing::debug!(acceptor = %open.acceptor, "fetching chosen rows failed: no answer in time");
        }
    }
    if let Some(span) = &mut span {
        span.set(names::PEER, open.acceptor.to_string());
        open.name(span);
        span.count(names::SLOT, from.get());
        span.count(names::SLOTS, values.len());
    }
    drop(span);
    let fetched = LinkReport::Core(Event::Fetched { number, from, values });
    let _ = inputs.send(Input::Link(open.link, fetched)).await;
}

async fn chosen_rows(
    open: &OpenLink,
    from: Slot,
    to: Slot,
    cluster: ClusterId,
    values: &mut Vec<(Slot, Value)>,
) -> Result<(), Unusable> {
    let request = pb::ObserveRequest {
        caller: Some(wire::caller(Some(cluster))),
        kind: pb::ObserveKind::Values.into(),
        from: from.get(),
    };
    let mut frames = open.client.clone().observe(request).await?.into_inner();
    let mut next = from;
    let mut bytes = 0;
    loop {
        let frame = frames.message().await?.ok_or(Unusable::Closed)?;
        check(frame.stamp.as_ref(), (open.acceptor, open.run), cluster)?;
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
        // Above the watermark there are no rows to wait for.
        if next >= to || next >= chosen_to {
            return Ok(());
        }
    }
}
