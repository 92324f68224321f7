//! Asks one acceptor how far it has voted, whenever there is a new question, and hands on what counts.

use std::{sync::Arc, time::Duration};

use paxos_common::{
    paxos::{identity::AcceptorUuid, reading::Tail, slot::Slot},
    peer::Backoff,
    trace::{
        self, Span, Tracer,
        names::{self, method},
    },
    wire,
};
use paxos_proto::v1 as pb;
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tonic::{Code, Request};

use crate::{
    acceptors::{Acceptor, Fault, within_deadline},
    barrier::{LEADER_TIMEOUT, Question},
    cluster::Cluster,
};

/// Answers that wait to be counted: each acceptor has at most one, and a cluster has fewer acceptors.
pub(crate) const TAILS_MAX: usize = 64;

/// Waits before an acceptor is asked again that has failed: it must neither be called as often as there are rounds, nor
/// be missed for long once it is back.
const BACKOFF_MIN: Duration = Duration::from_millis(10);

/// A tail that may be counted: told by a member whose present run was held against what is remembered of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    pub(crate) acceptor: AcceptorUuid,
    /// Of the question that it answers.
    pub(crate) nonce: u64,
    pub(crate) tail: Tail,
}

/// What every asking task needs.
#[derive(Clone, Debug)]
pub(crate) struct Asker {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) question: watch::Receiver<Option<Question>>,
    pub(crate) tails: mpsc::Sender<Told>,
    pub(crate) tracer: Tracer,
}

impl Asker {
    /// Puts each question to one acceptor, until nobody asks any more. There is one call at a time: an acceptor that is
    /// slow is asked the latest question next, and those in between never.
    ///
    /// # Cancel safety
    /// Safe: it only asks.
    pub(crate) async fn keep_asking(mut self, acceptor: Arc<Acceptor>) {
        let mut backoff = Backoff::new(BACKOFF_MIN, LEADER_TIMEOUT);
        let mut answered = None;
        while self.question.changed().await.is_ok() {
            let question = self.question.borrow_and_update().clone();
            let is_new = |question: &Question| answered != Some(question.nonce);
            let Some(question) = question.filter(is_new) else {
                continue;
            };
            match self.ask(&acceptor, &question).await {
                Ok(told) => {
                    backoff.reset();
                    answered = Some(question.nonce);
                    if self.tails.send(told).await.is_err() {
                        return;
                    }
                }
                Err(fault) => {
                    // The streams to it tell people.
                    tracing::debug!(address = %acceptor.address(), %fault, "no tail");
                    sleep(backoff.next_delay()).await;
                }
            }
        }
    }

    /// Asks one question. A run that is not known yet is identified first, and asked again: a late answer must never
    /// pass for an introduction, nor an answer count of which nobody knows whether it may.
    async fn ask(&self, acceptor: &Acceptor, question: &Question) -> Result<Told, Fault> {
        let mut answer = self.call(acceptor, question).await?;
        let mut vouched = self.cluster.vouch(answer.stamp.as_ref());
        if matches!(vouched, Err(Fault::Suspected)) {
            self.cluster.identify(acceptor).await?;
            answer = self.call(acceptor, question).await?;
            vouched = self.cluster.vouch(answer.stamp.as_ref());
        }
        Ok(Told {
            acceptor: vouched?,
            nonce: answer.nonce,
            tail: Tail {
                voted_to: Slot::new(answer.voted_to).map_err(wire::Malformed::from)?,
                trimmed_to: Slot::new(answer.trimmed_to).map_err(wire::Malformed::from)?,
            },
        })
    }

    async fn call(&self, acceptor: &Acceptor, question: &Question) -> Result<pb::TailResponse, Fault> {
        let mut request = Request::new(pb::TailRequest {
            caller: Some(wire::caller(Some(self.cluster.id()))),
            nonce: question.nonce,
        });
        let mut span = self.tracer.call(question.trace.as_ref(), method::TAIL);
        trace::inject(&mut request, span.as_ref().map(Span::context));
        let answer = within_deadline(acceptor.client().tail(request)).await;
        if let Some(span) = &mut span {
            span.peer(acceptor.address());
            if let Some(name) = acceptor.name() {
                span.set(names::ACCEPTOR, name.to_owned());
            }
            match &answer {
                Ok(_) => span.answered(Code::Ok, ""),
                Err(fault) => span.fail("fault", fault.to_string()),
            }
        }
        Ok(answer?.into_inner())
    }
}

#[cfg(test)]
mod tests;
