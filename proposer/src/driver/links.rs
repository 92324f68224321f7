//! The links of the driver: kept for the acceptors named by the core, and admitted after the introduction on a link.

use std::{collections::BTreeMap, sync::Arc};

use paxos_common::{
    paxos::{identity::AcceptorUuid, proposer::Event, quorum::Configuration, slot::Slot},
    service::shutdown::Shutdown,
};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Driver, Link};
use crate::{
    input::{Input, LinkId, LinkReport, OpenLink},
    link::{self, LinkContext, LinkTarget},
};

/// The tasks that keep the links, one for each acceptor.
#[derive(Debug, Default)]
pub(super) struct LinkTasks {
    /// The number of the task, and its end.
    tasks: BTreeMap<AcceptorUuid, (u64, CancellationToken)>,
    /// The number of the last task.
    last: u64,
    stop: CancellationToken,
}

impl LinkTasks {
    /// Ends all tasks, present and later, when the guard is dropped.
    pub(super) fn stop_with_guard(&self) -> DropGuard {
        self.stop.clone().drop_guard()
    }

    /// A new task for the acceptor, which ends with the returned token. An earlier task ends.
    fn begin(&mut self, acceptor: AcceptorUuid) -> (LinkId, CancellationToken) {
        self.end(acceptor);
        self.last += 1;
        let (number, stop) = (self.last, self.stop.child_token());
        self.tasks.insert(acceptor, (number, stop.clone()));
        (LinkId { acceptor, number }, stop)
    }

    fn end(&mut self, acceptor: AcceptorUuid) {
        if let Some((_, stop)) = self.tasks.remove(&acceptor) {
            stop.cancel();
        }
    }

    fn end_all(&mut self) {
        for (_, (_, stop)) in std::mem::take(&mut self.tasks) {
            stop.cancel();
        }
    }

    fn has(&self, acceptor: AcceptorUuid) -> bool {
        self.tasks.contains_key(&acceptor)
    }

    /// Whether the task is the acceptor's present task.
    fn is_present(&self, link: LinkId) -> bool {
        let present = self.tasks.get(&link.acceptor);
        present.is_some_and(|&(number, _)| number == link.number)
    }

    /// The acceptors with a task for which `is` does not hold.
    fn except(&self, is: impl Fn(AcceptorUuid) -> bool) -> Vec<AcceptorUuid> {
        self.tasks.keys().copied().filter(|&linked| !is(linked)).collect()
    }
}

impl Driver {
    /// Opens the links that the core wants and that are missing, and ends the others, with their streams.
    pub(super) fn keep_links(&mut self, inputs: &mpsc::Sender<Input>, shutdown: &Shutdown) {
        let wanted = self.core.links();
        for gone in self.link_tasks.except(|linked| wanted.contains_key(&linked)) {
            self.end_link(gone);
        }
        let configuration = self.core.configuration();
        let context = LinkContext {
            cluster: self.cluster,
            configuration: Arc::clone(configuration),
            book: Arc::clone(&self.book),
            proposer: self.core.id(),
            address: self.address.clone(),
            leader_timeout: self.leader_timeout,
            watchful: self.watchful.subscribe(),
            clock: self.clock,
            inputs: inputs.clone(),
            views: self.views.subscribe(),
            shutdown: shutdown.clone(),
        };
        for (acceptor, listed) in wanted {
            if !self.link_tasks.has(acceptor) {
                let (link, stop) = self.link_tasks.begin(acceptor);
                let target = LinkTarget { link, listed };
                shutdown.spawn(link::keep(target, context.clone(), stop));
            }
        }
    }

    /// Ends everything that leads to an acceptor.
    fn end_link(&mut self, acceptor: AcceptorUuid) {
        self.link_tasks.end(acceptor);
        self.links.remove(&acceptor);
        self.prepares.end(acceptor);
        self.streams.retain(|&(_, of), _| of != acceptor);
        self.places.remove(&acceptor);
        self.judged.remove(&acceptor);
        self.refusals_at.remove(&acceptor);
        self.show_refused(acceptor, None);
    }

    /// The core works with this configuration from now on. Every link begins again. The streams stay open until the core shuts
    /// them: acceptors hear this proposer meanwhile.
    pub(super) fn adopted(
        &mut self,
        configuration: &Arc<Configuration>,
        inputs: &mpsc::Sender<Input>,
        shutdown: &Shutdown,
    ) {
        self.before = Some(std::mem::replace(
            &mut self.configuration,
            Arc::clone(configuration),
        ))
        .filter(|before| before.era().next() == configuration.era());
        tracing::info!(
            era = %configuration.era(), members = configuration.address_list(),
            "the members of the cluster have changed"
        );
        self.link_tasks.end_all();
        for linked in std::mem::take(&mut self.links).into_keys() {
            self.prepares.end(linked);
        }
        let wanted = self.core.links();
        let placed: Vec<_> = self.places.keys().copied().collect();
        for gone in placed.into_iter().filter(|placed| !wanted.contains_key(placed)) {
            self.end_link(gone);
        }
        self.keep_links(inputs, shutdown);
    }

    /// Takes the report of a link, unless the link was ended or opened again by the driver since then.
    pub(super) fn link_reported(&mut self, link: LinkId, report: LinkReport) {
        if !self.link_tasks.is_present(link) {
            return;
        }
        match report {
            LinkReport::Core(event) => self.core.handle(event),
            LinkReport::Reported(stamp, event) => self.reported(stamp, event),
            LinkReport::Introduced(event, open) => self.introduced(event, open.map(|open| *open)),
            LinkReport::Closed => {
                self.links.remove(&link.acceptor);
                self.prepares.end(link.acceptor);
                self.core.handle(Event::Closed(link.acceptor));
            }
        }
    }

    /// Takes in an acceptor that has shown its runs. Without `open`, too few other acceptors reported tables. The
    /// introduction and the opening are a single step: a second process can show runs under the same uuid.
    fn introduced(&mut self, introduced: Event, open: Option<OpenLink>) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_task_of_an_acceptor_is_heard() {
        let mut tasks = LinkTasks::default();
        let [one, other] = [1, 2].map(AcceptorUuid::from_u128);
        let (first, first_stop) = tasks.begin(one);
        let (second, second_stop) = tasks.begin(one);
        let (third, third_stop) = tasks.begin(other);
        assert!(first_stop.is_cancelled() && !second_stop.is_cancelled());
        let present = |tasks: &LinkTasks| [first, second, third].map(|link| tasks.is_present(link));
        assert_eq!(present(&tasks), [false, true, true]);
        assert_eq!(tasks.except(|linked| linked == one), [other]);
        tasks.end(other);
        assert!(third_stop.is_cancelled() && !tasks.has(other));
        assert_eq!(present(&tasks), [false, true, false]);
        tasks.end_all();
        assert_eq!(present(&tasks), [false; 3]);
        let (fourth, fourth_stop) = tasks.begin(one);
        assert!(tasks.is_present(fourth) && !tasks.is_present(second));
        drop(tasks.stop_with_guard());
        assert!(fourth_stop.is_cancelled());
    }
}
