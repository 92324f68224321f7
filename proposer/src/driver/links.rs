//! Opens the links to the acceptors, and admits acceptors after the introduction on a link.

use std::sync::Arc;

use paxos_common::{
    paxos::{proposer::Event, slot::Slot},
    service::shutdown::Shutdown,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Driver, Link};
use crate::{
    input::{Input, OpenLink},
    link,
};

impl Driver {
    pub(super) fn open_links(
        &self,
        inputs: &mpsc::Sender<Input>,
        shutdown: &Shutdown,
        stop: &CancellationToken,
    ) {
        let addresses = self.cluster.addresses.iter();
        let dialer = &self.cluster.dialer;
        let channels = addresses.map(|address| (address.clone(), dialer.to_acceptor(address)));
        let context = link::LinkContext {
            channels: Arc::new(channels.collect()),
            cluster: self.cluster.configuration.cluster_id(),
            configuration: Arc::new(self.cluster.configuration.clone()),
            proposer: self.core.id(),
            address: self.address.clone(),
            leader_timeout: self.leader_timeout,
            watchful: self.watchful.subscribe(),
            clock: self.clock,
            inputs: inputs.clone(),
            views: self.views.subscribe(),
            shutdown: shutdown.clone(),
        };
        for address in &self.cluster.addresses {
            shutdown.spawn(link::keep(address.clone(), context.clone(), stop.clone()));
        }
    }

    /// Takes in an acceptor that has shown its runs. Without `open`, too few other acceptors reported tables. The
    /// introduction and the opening are a single step: a second process can show runs under the same uuid.
    pub(super) fn introduced(&mut self, introduced: Event, open: Option<OpenLink>) {
        if let Event::Introduced { acceptor, runs, .. } = &introduced
            && let Some(present) = runs.last()
        {
            self.judged.insert(*acceptor, present.run);
            // Answers of an earlier run no longer count.
            if self.run_of(*acceptor) != Some(present.run) {
                self.place(*acceptor, None);
            }
        }
        self.core.handle(introduced);
        let Some(open) = open else { return };
        let acceptor = open.acceptor;
        self.place(acceptor, Some((open.address.clone(), open.run)));
        let link = Link {
            open,
            known_to: Slot::ZERO,
            state_bytes: 0,
            is_calm: false,
        };
        self.links.insert(acceptor, link);
        self.core.handle(Event::Opened(acceptor));
    }
}
