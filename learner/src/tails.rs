//! Asks one acceptor for its tail, whenever there is a new question, and hands on the tails that count.

use std::{sync::Arc, time::Duration};

use paxos_common::{
    paxos::{identity::AcceptorUuid, reading::Tail, slot::Slot},
    peer::{Backoff, acceptor::Unusable},
    trace::{
        self, Span, SpanContext, Tracer,
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
    acceptors::{ListedAcceptor, within_deadline},
    cluster::Cluster,
};

/// How long a read waits before the acceptors are asked again and the leader is asked to fill slots: L of the protocol.
/// If the leader is gone, another proposer leads by then.
pub(crate) const LEADER_TIMEOUT: Duration = Duration::from_millis(200);

/// Capacity of the queue of answers: each acceptor has at most one answer waiting, and a cluster has fewer acceptors.
pub(crate) const TAILS_MAX: usize = 64;

/// Shortest wait before a failed acceptor is asked again: a failed acceptor must neither be called in every round, nor
/// be missed for long after a recovery.
const BACKOFF_MIN: Duration = Duration::from_millis(10);

/// The question of a round to the acceptors.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) nonce: u64,
    /// The span of the round, when traced.
    pub(crate) trace: Option<SpanContext>,
}

/// A tail that may be counted: the sender is a member, and the sender's present run agreed with everything remembered
/// about the sender.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TailReport {
    pub(crate) acceptor: AcceptorUuid,
    /// The nonce of the answered question.
    pub(crate) nonce: u64,
    pub(crate) tail: Tail,
}

/// Inputs of every asking task.
#[derive(Clone, Debug)]
pub(crate) struct Asker {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) question: watch::Receiver<Option<Question>>,
    pub(crate) tails: mpsc::Sender<TailReport>,
    pub(crate) tracer: Tracer,
}

impl Asker {
    /// Puts each question to the acceptor, until no more questions can come. Only one call runs at a time: a slow
    /// acceptor gets the latest question next, and never the questions in between.
    ///
    /// # Cancel safety
    /// Safe: the task only asks.
    pub(crate) async fn keep_asking(mut self, acceptor: Arc<ListedAcceptor>) {
        let mut backoff = Backoff::new(BACKOFF_MIN, LEADER_TIMEOUT);
        let mut answered = None;
        while self.question.changed().await.is_ok() {
            let question = self.question.borrow_and_update().clone();
            let is_new = |question: &Question| answered != Some(question.nonce);
            let Some(question) = question.filter(is_new) else {
                continue;
            };
            match self.ask(&acceptor, &question).await {
                Ok(report) => {
                    backoff.reset();
                    answered = Some(question.nonce);
                    if self.tails.send(report).await.is_err() {
                        return;
                    }
                }
                Err(reason) => {
                    // The tasks with streams to this acceptor log the reason.
                    tracing::debug!(address = %acceptor.address(), %reason, "no tail");
                    sleep(backoff.next_delay()).await;
                }
            }
        }
    }

    /// Asks a question. An unknown run is identified first, and the question is repeated: a late answer must never pass
    /// for an introduction, and an answer from an unverified run must not count.
    async fn ask(&self, acceptor: &ListedAcceptor, question: &Question) -> Result<TailReport, Unusable> {
        let mut answer = self.call(acceptor, question).await?;
        let mut vouched = self.cluster.vouch(answer.stamp.as_ref());
        if matches!(vouched, Err(Unusable::Unshown | Unusable::Distrusted)) {
            self.cluster.identify(acceptor).await?;
            answer = self.call(acceptor, question).await?;
            vouched = self.cluster.vouch(answer.stamp.as_ref());
        }
        Ok(TailReport {
            acceptor: vouched?,
            nonce: answer.nonce,
            tail: Tail {
                voted_to: Slot::new(answer.voted_to).map_err(wire::Malformed::from)?,
                trimmed_to: Slot::new(answer.trimmed_to).map_err(wire::Malformed::from)?,
            },
        })
    }

    async fn call(
        &self,
        acceptor: &ListedAcceptor,
        question: &Question,
    ) -> Result<pb::TailResponse, Unusable> {
        let mut request = Request::new(pb::TailRequest {
            caller: Some(wire::caller(Some(self.cluster.id()))),
            nonce: question.nonce,
        });
        let mut span = self.tracer.call(question.trace.as_ref(), method::TAIL);
        trace::inject(&mut request, span.as_ref().map(Span::context));
        let answer = within_deadline(acceptor.client()?.tail(request)).await;
        if let Some(span) = &mut span {
            acceptor.name_in(span);
            if let Some(name) = acceptor.name() {
                span.set(names::ACCEPTOR, name.to_owned());
            }
            match &answer {
                Ok(_) => span.answered(Code::Ok, ""),
                Err(reason) => span.fail("reason", reason.to_string()),
            }
        }
        Ok(answer?.into_inner())
    }
}

#[cfg(test)]
mod tests;
