//! The driver's part of a change of members: asks the core for the caller, passes the news on, and brings snapshots.

use std::sync::Arc;

use paxos_common::{
    paxos::{
        identity::AcceptorUuid,
        proposer::{ChangeRefusal, ChangeStage, Effect, Event},
    },
    service::shutdown::Shutdown,
};
use tokio::sync::mpsc;

use super::Driver;
use crate::{
    bring::{self, Placed, Upload},
    changes::AskedChange,
    input::Input,
    members::ChangeDenied,
};

impl Driver {
    /// Asks the core for each requested change. Called between two rounds of effects: a refusal belongs to the asked request.
    pub(super) fn ask_changes(&mut self, inputs: &mpsc::Sender<Input>, shutdown: &Shutdown) {
        for AskedChange { request, reply } in self.changes.take_asked() {
            let configuration = request.change.change().cloned();
            self.core.handle(Event::ChangeMembers(request));
            let mut refusal = None;
            for effect in self.core.take_effects() {
                if let Effect::Change(ChangeStage::Refused(refused)) = &effect {
                    refusal = Some(refused.clone());
                } else {
                    self.carry_out(effect, inputs, shutdown);
                }
            }
            let stage = self.core.change_stage().cloned();
            let answer = match (refusal, configuration, stage) {
                (Some(refusal), _, _) => {
                    self.metrics.changed(&ChangeStage::Refused(refusal.clone()));
                    Err(refusal)
                }
                (None, Some(configuration), Some(stage)) => Ok(self.changes.accepted(configuration, stage)),
                // Dropped without an answer: the outcome is unknown to the caller. The core answers every request.
                (None, _, _) => continue,
            };
            // The caller may have left: the change goes on.
            let _ = reply.send(answer);
        }
    }

    /// Passes a stage on to the callers.
    pub(super) fn change_reached(&mut self, stage: ChangeStage) {
        let shown = self.changes.shown();
        let asked = shown.map_or_else(|| Arc::clone(&self.configuration), |shown| shown.configuration);
        let words = |refusal: &ChangeRefusal| ChangeDenied::of_core(refusal, &asked).to_string();
        match &stage {
            ChangeStage::Copying { .. } | ChangeStage::Deciding { .. } => {}
            ChangeStage::Switching(era) => tracing::info!(%era, "a change of members takes force"),
            ChangeStage::Done {
                configuration,
                waited,
            } => {
                let waited_ms = waited.as_millis();
                tracing::info!(era = %configuration.era(), %waited_ms, "the change of members is done");
            }
            ChangeStage::Refused(refusal) => {
                tracing::warn!(reason = words(refusal), "the change of members is not made");
            }
            ChangeStage::Unknown => {
                tracing::warn!(
                    "another proposer leads: whether the change of members is made is not known here"
                );
            }
        }
        self.metrics.changed(&stage);
        self.traces.change_reached(&stage, words);
        self.changes.reached(stage);
    }

    /// Brings a joiner the snapshot of a member, in the background.
    pub(super) fn bring_snapshot(
        &mut self,
        joiner: AcceptorUuid,
        source: AcceptorUuid,
        inputs: &mpsc::Sender<Input>,
        shutdown: &Shutdown,
    ) {
        let (Some(to), Some(from)) = (self.placed(joiner), self.placed(source)) else {
            // The core asks again, once both links are open.
            self.core.handle(Event::SnapshotBrought(joiner));
            return;
        };
        let upload = Upload {
            source: from,
            joiner: to,
            cluster: self.cluster,
            dialer: self.dialer.clone(),
            taken: self.changes.taken(),
        };
        let traced = self.traces.changing();
        let task = shutdown.spawn(bring::bring(upload, inputs.clone(), traced));
        self.changes.uploading(joiner, task.abort_handle());
    }

    /// Where the open link to an acceptor leads.
    fn placed(&self, acceptor: AcceptorUuid) -> Option<Placed> {
        let open = &self.links.get(&acceptor)?.open;
        Some(Placed {
            acceptor,
            address: open.address.clone(),
            run: open.run,
        })
    }
}
