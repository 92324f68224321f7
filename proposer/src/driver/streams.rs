//! The driver's `Accept` streams: opened and shut on the core's request, with messages and answers.

use paxos_common::{
    paxos::{
        ballot::Ballot,
        identity::{AcceptorUuid, RunNumber},
        message::Accept,
        proposer::Event,
    },
    service::shutdown::Shutdown,
    wire,
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::Driver;
use crate::{
    input::{Input, Outgoing, StreamReport},
    stream::{Sent, Stream, StreamContext, StreamTarget},
};

impl Driver {
    /// Sets the acceptor's place. `None`: the acceptor must show its runs again before streams are reopened. A broken
    /// link does not end the streams.
    pub(super) fn place(&mut self, acceptor: AcceptorUuid, place: StreamTarget) {
        self.place_of(acceptor).send_if_modified(|known| {
            let is_news = *known != place;
            *known = place;
            is_news
        });
    }

    /// The run of an acceptor's last introduction; none while the acceptor must show its runs again.
    pub(super) fn run_of(&self, acceptor: AcceptorUuid) -> Option<RunNumber> {
        let place = self.places.get(&acceptor)?.borrow();
        place.as_ref().map(|&(_, run)| run)
    }

    fn place_of(&mut self, acceptor: AcceptorUuid) -> &watch::Sender<StreamTarget> {
        self.places
            .entry(acceptor)
            .or_insert_with(|| watch::Sender::new(None))
    }

    /// Opens a stream. An older stream of the same ballot is shut.
    pub(super) fn open_stream(
        &mut self,
        acceptor: AcceptorUuid,
        first: Accept,
        inputs: &mpsc::Sender<Input>,
        shutdown: &Shutdown,
    ) {
        let context = StreamContext {
            dialer: self.dialer.clone(),
            cluster: self.cluster,
            alive_interval: self.leader_timeout / 4,
            inputs: inputs.clone(),
        };
        let ballot = first.ballot;
        let place = self.place_of(acceptor).subscribe();
        let (stream, keeping) = Stream::open(acceptor, first, place, context);
        shutdown.spawn(keeping);
        self.streams.insert((ballot, acceptor), stream);
    }

    pub(super) fn shut_streams(&mut self, ballot: Ballot) {
        self.streams.retain(|&(of, _), _| of != ballot);
    }

    /// Ends all streams once the sent messages are answered: a resignation may be on its way.
    pub(super) fn end_streams(&mut self) {
        for stream in std::mem::take(&mut self.streams).into_values() {
            stream.end_after_answers();
        }
    }

    pub(super) fn stream_reported(&mut self, acceptor: AcceptorUuid, ballot: Ballot, report: StreamReport) {
        // Reports of a stream shut since then are dropped.
        let Some(stream) = self.streams.get_mut(&(ballot, acceptor)) else {
            return;
        };
        match report {
            StreamReport::Opened(outbox) => {
                stream.opened(outbox);
                self.core.handle(Event::StreamOpened { acceptor, ballot });
            }
            StreamReport::Answered(stamp, event) => self.reported(stamp, *event),
            StreamReport::Broke => {
                stream.broke();
                self.traces.closed(acceptor);
                self.core.handle(Event::StreamBroke { acceptor, ballot });
            }
        }
    }

    /// Sends a message on the stream of the message's ballot. A message for an unopened stream is sent again at the
    /// opening.
    pub(super) fn send(&mut self, acceptor: AcceptorUuid, accept: Accept) {
        self.metrics.sending(&accept, &self.core);
        let ballot = accept.ballot;
        let Some(stream) = self.streams.get_mut(&(ballot, acceptor)) else {
            return;
        };
        let (core, traces) = (&self.core, &mut self.traces);
        let link = self.links.get(&acceptor);
        let callee = link.map(|link| (&link.open.address, &*link.open.id));
        let sent = stream.send(accept, |accept, witnessing| {
            let witnesses = witnessing.due(Instant::now(), ballot, || core.witnesses());
            Outgoing {
                traceparent: traces.sending(acceptor, callee, &accept, core),
                accept,
                witnesses: wire::witnesses(&witnesses),
            }
        });
        if sent == Sent::NoRoom {
            // The core keeps fewer messages unanswered than the room of the stream, so this is a fault of ours. An open
            // stream must not miss a message.
            tracing::error!(%acceptor, %ballot, "too many messages wait to be sent: the stream is opened again");
            stream.restart();
        }
    }
}
