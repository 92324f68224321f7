//! Asks an acceptor for its runs, after the steps of `Form` that the acceptor lacks, and the other acceptors for the tables.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use paxos_common::{
    paxos::{
        acceptor::Membership,
        identity::{AcceptorUuid, Stamp},
        proposer::Event,
        quorum::Configuration,
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
use crate::input::{Input, LinkId, LinkReport};

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

/// Most answers of an acceptor for one introduction: at the first step of forming, formed in an earlier era, and at present.
const ANSWERS_MAX: usize = 3;

/// Asks the acceptor for identity and runs. An acceptor without the configuration of this proposer gets the missing step of
/// `Form`. A later configuration is reported to the driver, and is an error here. Another acceptor is an error.
pub(super) async fn introduce(
    client: &mut AcceptorClient<Channel>,
    context: &LinkContext,
    (address, id): (&Address, LinkId),
) -> Result<Introduction, Unusable> {
    let mut step = None;
    for _ in 0..ANSWERS_MAX {
        let answer = form(client, step.take(), OPEN_TIMEOUT).await?;
        let stamp = check_place(&answer, address, id.acceptor, context)?;
        let held = wire::membership(&answer)?;
        step = match next_step(&held, stamp.acceptor, &context.configuration)? {
            LinkStep::Open => {
                return Ok(Introduction {
                    stamp,
                    runs: shown_runs(&answer)?,
                    remembers: wire::read_witnesses(&answer.witnesses)?,
                    id: answer.id,
                });
            }
            LinkStep::Send(step) => Some(step),
            LinkStep::Adopt(later) => {
                let era = later.era();
                let heard = LinkReport::Core(Event::LaterConfiguration(Arc::new(later)));
                // The driver may have ended.
                let _ = context.inputs.send(Input::Link(id, heard)).await;
                return Err(Unusable::LaterEra(era));
            }
        };
    }
    Err(Unusable::Forming)
}

/// Asks whether the acceptor answers at an address. The call changes nothing there.
pub(super) async fn look(
    address: &Address,
    acceptor: AcceptorUuid,
    context: &LinkContext,
) -> Result<(), Unusable> {
    let mut calls = client(context.book.channel(address));
    let answer = form(&mut calls, None, OPEN_TIMEOUT).await?;
    check_place(&answer, address, acceptor, context).map(drop)
}

/// Notes the sender of an answer, and checks that the sender is the acceptor `expected`.
fn check_place(
    answer: &pb::FormResponse,
    address: &Address,
    expected: AcceptorUuid,
    context: &LinkContext,
) -> Result<Stamp, Unusable> {
    let stamp = wire::read_stamp(answer.stamp.as_ref())?;
    let found = stamp.acceptor;
    context.book.answered(address, found);
    if found != expected {
        context.book.answered_by_another(address);
        check_cluster(answer.stamp.as_ref(), context.cluster)?;
        return Err(Unusable::Another { found, expected });
    }
    Ok(stamp)
}

/// What a link does before it opens, given the state of the acceptor.
#[derive(Clone, Debug, PartialEq)]
enum LinkStep {
    /// The acceptor holds the configuration of this proposer.
    Open,
    /// The acceptor lacks this step of `Form`.
    Send(Step),
    /// The acceptor holds a configuration in force that this proposer lacks, or another one of the same era: the core
    /// decides.
    Adopt(Configuration),
}

/// The next step of the link to an acceptor that holds `held`, at a proposer with the configuration `ours`.
fn next_step(held: &Membership, acceptor: AcceptorUuid, ours: &Configuration) -> Result<LinkStep, Unusable> {
    let expected = ours.cluster_id();
    let send = |step: fn(pb::Configuration) -> Step, sent: &Configuration| {
        Ok(LinkStep::Send(step(pb::Configuration::from(sent))))
    };
    if let Some(held) = held.configuration()
        && held.cluster_id() != expected
    {
        let found = held.cluster_id();
        return Err(Unusable::OtherCluster { found, expected });
    }
    match held {
        // A member with an empty disk has another uuid. The same uuid on an empty disk belongs to no honest process.
        Membership::Blank | Membership::Seeded(_) if ours.members().contains_key(&acceptor) => {
            Err(Unusable::Blank)
        }
        Membership::Blank => send(Step::Join, ours),
        Membership::Seeded(seed) => {
            let found = seed.cluster;
            Err(Unusable::OtherCluster { found, expected })
        }
        // An acceptor absent at the formation is notified: one formed member proves that all members had stored the list.
        Membership::Forming(list) => send(Step::Complete, list),
        Membership::Formed(held) if held.same_cluster(ours) => Ok(LinkStep::Open),
        Membership::Formed(held) if held.era() < ours.era() => send(Step::Install, ours),
        Membership::Formed(held) => Ok(LinkStep::Adopt(held.clone())),
    }
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
    let configuration = &context.configuration;
    let others = configuration
        .members()
        .iter()
        .filter(|(other, _)| **other != acceptor);
    let places =
        others.flat_map(|(&other, member)| context.book.candidates(other, &member.address, configuration));
    let places: BTreeSet<Address> = places.filter(|place| place != address).collect();
    let calls = places.into_iter().map(|place| {
        let calls = client(context.book.channel(&place));
        ask(place, calls, acceptor, context).boxed()
    });
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
    address: Address,
    mut calls: AcceptorClient<Channel>,
    about: AcceptorUuid,
    context: &LinkContext,
) -> TableReport {
    let answer = form(&mut calls, None, OPEN_TIMEOUT).await.ok()?;
    if let Ok(stamp) = wire::read_stamp(answer.stamp.as_ref()) {
        context.book.answered(&address, stamp.acceptor);
    }
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
            Some(Some((other, table))) => {
                // An acceptor may answer at two addresses.
                if !reported.iter().any(|(earlier, _)| *earlier == other) {
                    reported.push((other, table));
                }
            }
            Some(None) => {}
            None => return Others { reported, asked },
        }
    }
}

/// Reads the table of a formed member of this cluster.
fn report_of_other(
    form: &pb::FormResponse,
    context: &LinkContext,
) -> Result<(AcceptorUuid, Witnesses), Unusable> {
    let stamp = check_cluster(form.stamp.as_ref(), context.cluster)?;
    if !context.configuration.members().contains_key(&stamp.acceptor) {
        return Err(Unusable::Stranger(stamp.acceptor));
    }
    if form.membership() != pb::Membership::Formed {
        return Err(Unusable::Forming);
    }
    Ok((stamp.acceptor, wire::read_witnesses(&form.witnesses)?))
}

pub(super) fn client(channel: Channel) -> AcceptorClient<Channel> {
    AcceptorClient::new(channel).with_message_limits()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uuid(number: u128) -> AcceptorUuid {
        AcceptorUuid::from_u128(number)
    }

    fn list(numbers: &[u128]) -> Configuration {
        let members = numbers.iter().map(|&number| (uuid(number), "http://a:1".into()));
        Configuration::new(members, 2, 2).unwrap()
    }

    fn after(before: &Configuration, numbers: &[u128]) -> Configuration {
        let address: Arc<str> = "http://a:1".into();
        let members = numbers
            .iter()
            .map(|&number| (uuid(number), Arc::clone(&address).into()));
        before.changed_to(members, 2, 2).unwrap()
    }

    #[test]
    fn link_brings_an_acceptor_to_the_present_era_and_takes_a_later_one() {
        let first = list(&[1, 2, 3]);
        let second = after(&first, &[1, 2, 4]);
        let third = after(&second, &[1, 2, 5]);
        let step = |held: &Membership, acceptor| next_step(held, uuid(acceptor), &second).unwrap();
        let (forming, formed) = (Membership::Forming, Membership::Formed);
        let sent = |configuration: &Configuration| pb::Configuration::from(configuration);
        assert_eq!(step(&formed(second.clone()), 1), LinkStep::Open);
        let install = LinkStep::Send(Step::Install(sent(&second)));
        for outside_or_not in [1, 3] {
            assert_eq!(step(&formed(first.clone()), outside_or_not), install);
        }
        assert_eq!(step(&formed(third.clone()), 1), LinkStep::Adopt(third));
        let complete = LinkStep::Send(Step::Complete(sent(&first)));
        assert_eq!(step(&forming(first.clone()), 1), complete);
        // Two configurations of one era: the core halts.
        let other = after(&first, &[1, 2, 6]);
        assert_eq!(step(&formed(other.clone()), 1), LinkStep::Adopt(other));
        assert_eq!(
            step(&Membership::Blank, 9),
            LinkStep::Send(Step::Join(sent(&second)))
        );
    }

    #[test]
    fn blank_member_and_acceptor_of_another_cluster_are_refused() {
        let ours = list(&[1, 2, 3]);
        let refused = |held: Membership| next_step(&held, uuid(1), &ours).unwrap_err();
        assert!(matches!(refused(Membership::Blank), Unusable::Blank));
        for other in [list(&[1, 2, 4]), after(&list(&[1, 2, 4]), &[1, 2, 3])] {
            let refusal = refused(Membership::Formed(other.clone()));
            assert!(matches!(refusal, Unusable::OtherCluster { .. }), "{refusal}");
            let refusal = refused(Membership::Forming(other));
            assert!(matches!(refusal, Unusable::OtherCluster { .. }), "{refusal}");
        }
    }

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
