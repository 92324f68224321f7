//! Asks an acceptor for its runs, and the other acceptors for the tables.

use std::{collections::BTreeSet, time::Duration};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use paxos_common::{
    paxos::{
        identity::{AcceptorUuid, Stamp},
        witness::{Run, Witnesses},
    },
    peer::{
        Address, MessageLimits as _,
        acceptor::{Unusable, check_cluster, form, shown_runs},
    },
    wire,
};
use paxos_proto::v1::{self as pb, acceptor_client::AcceptorClient, form_request::Step};
use tokio::time::{Instant, timeout_at};
use tonic::transport::Channel;

use super::{LinkContext, OPEN_TIMEOUT};

/// A member's answer about itself.
pub(super) struct Introduction {
    /// The member, and its present run.
    pub(super) stamp: Stamp,
    /// All runs of the member, the present run last.
    pub(super) runs: Vec<Run>,
    /// The member's table of other acceptors' runs.
    pub(super) remembers: Witnesses,
    /// The operator's name for the acceptor.
    pub(super) id: String,
}

/// Asks the acceptor for identity and runs. An acceptor outside this cluster is an error.
pub(super) async fn introduce(
    client: &mut AcceptorClient<Channel>,
    context: &LinkContext,
) -> Result<Introduction, Unusable> {
    // An acceptor absent at the formation is notified: one formed member proves that all members had stored the list.
    let complete = Step::Complete(pb::Configuration::from(&*context.configuration));
    for step in [None, Some(complete)] {
        let answer = form(client, step, OPEN_TIMEOUT).await?;
        let stamp = check_member(&answer, context)?;
        if answer.membership() == pb::Membership::Formed {
            return Ok(Introduction {
                stamp,
                runs: shown_runs(&answer)?,
                remembers: wire::read_witnesses(&answer.witnesses)?,
                id: answer.id,
            });
        }
    }
    Err(Unusable::Forming)
}

/// Time for slow acceptors once enough others have reported.
const GRACE: Duration = Duration::from_millis(250);

/// An acceptor and its table; `None` for a failed call or an invalid answer.
pub(super) type TableReport = Option<(AcceptorUuid, Witnesses)>;

/// The tables of other acceptors.
#[derive(Default)]
pub(super) struct Others<'a> {
    /// Reported so far.
    pub(super) reported: Vec<(AcceptorUuid, Witnesses)>,
    /// Calls that are still open.
    pub(super) asked: FuturesUnordered<BoxFuture<'a, TableReport>>,
}

/// Asks the other acceptors for the tables. Returns when all calls have ended, or [`GRACE`] after enough acceptors have
/// reported. The core applies the rule of [`paxos_common::paxos::witness`].
pub(super) async fn ask_others<'a>(
    address: &'a Address,
    acceptor: AcceptorUuid,
    context: &'a LinkContext,
) -> Others<'a> {
    let others = context.channels.iter().filter(|(other, _)| *other != address);
    let calls = others.map(|(other, channel)| ask(other, client(channel.clone()), acceptor, context).boxed());
    let asked = calls.collect();
    let needed = context.others_needed();
    // The core does not count the table of a refused acceptor: the disk went back, so the table can be incomplete.
    let is_refused = |other: AcceptorUuid| context.views.borrow().refused.contains_key(&other);
    let is_enough = |reported: &[(AcceptorUuid, Witnesses)]| {
        let reported = reported.iter().map(|&(other, _)| other);
        let reported: BTreeSet<_> = reported.filter(|&other| !is_refused(other)).collect();
        reported.len() >= needed
    };
    gather(asked, is_enough).await
}

async fn ask(
    address: &Address,
    mut calls: AcceptorClient<Channel>,
    about: AcceptorUuid,
    context: &LinkContext,
) -> TableReport {
    let answer = form(&mut calls, None, OPEN_TIMEOUT).await.ok()?;
    let reported = report_of_other(&answer, context);
    if let Err(broken) = &reported {
        tracing::debug!(%address, reason = %broken, "this acceptor's table of other acceptors does not count");
    }
    reported.ok().filter(|(other, _)| *other != about)
}

/// Awaits calls until all have ended, or [`GRACE`] after enough answers: a hanging acceptor delays nothing.
async fn gather<'a>(
    mut asked: FuturesUnordered<BoxFuture<'a, TableReport>>,
    is_enough: impl Fn(&[(AcceptorUuid, Witnesses)]) -> bool,
) -> Others<'a> {
    let mut reported = Vec::new();
    let mut until = None;
    loop {
        if is_enough(&reported) {
            until.get_or_insert_with(|| Instant::now() + GRACE);
        }
        let ended = match until {
            Some(until) => timeout_at(until, asked.next()).await.unwrap_or_default(),
            None => asked.next().await,
        };
        match ended {
            Some(answer) => reported.extend(answer),
            None => return Others { reported, asked },
        }
    }
}

/// Reads the table of a formed member of this cluster.
fn report_of_other(
    form: &pb::FormResponse,
    context: &LinkContext,
) -> Result<(AcceptorUuid, Witnesses), Unusable> {
    let stamp = check_member(form, context)?;
    if form.membership() != pb::Membership::Formed {
        return Err(Unusable::Forming);
    }
    Ok((stamp.acceptor, wire::read_witnesses(&form.witnesses)?))
}

/// Checks the sender of an answer: a member of this cluster, formed or not.
fn check_member(form: &pb::FormResponse, context: &LinkContext) -> Result<Stamp, Unusable> {
    let stamp = check_cluster(form.stamp.as_ref(), context.cluster)?;
    if !context.configuration.members().contains_key(&stamp.acceptor) {
        return Err(Unusable::Stranger(stamp.acceptor));
    }
    Ok(stamp)
}

pub(super) fn client(channel: Channel) -> AcceptorClient<Channel> {
    AcceptorClient::new(channel).with_message_limits()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(number: u128) -> (AcceptorUuid, Witnesses) {
        (AcceptorUuid::from_u128(number), Witnesses::default())
    }

    /// Answers after `turns` turns of the runtime; without a number, never.
    async fn call(turns: Option<u64>, answer: Option<u128>) -> TableReport {
        for _ in 0..turns.unwrap_or(u64::MAX) {
            tokio::task::yield_now().await;
        }
        answer.map(reported)
    }

    fn calls() -> FuturesUnordered<BoxFuture<'static, TableReport>> {
        let calls = [
            (None, None),
            (Some(9), Some(2)),
            (Some(0), Some(1)),
            (Some(3), None),
        ];
        calls
            .into_iter()
            .map(|(turns, answer)| call(turns, answer).boxed())
            .collect()
    }

    #[tokio::test]
    async fn one_that_hangs_holds_nothing_up_and_all_that_answer_soon_are_heard() {
        let others = gather(calls(), |reported| !reported.is_empty()).await;
        assert_eq!(others.reported, [reported(1), reported(2)]);
        assert_eq!(others.asked.len(), 1, "it may still report");
    }

    #[tokio::test]
    async fn all_are_waited_for_while_too_few_have_answered() {
        let late = calls();
        late.push(call(Some(500), Some(3)).boxed());
        let others = gather(late, |all| all.contains(&reported(3))).await;
        assert_eq!(others.reported, [reported(1), reported(2), reported(3)]);
        let ended = [(Some(1), Some(1)), (Some(2), None)].map(|(turns, answer)| call(turns, answer).boxed());
        let others = gather(ended.into_iter().collect(), |_| false).await;
        assert_eq!(others.reported, [reported(1)]);
        assert!(others.asked.is_empty());
    }
}
