//! A learner across changes of members, and on lists of acceptors that are not the members, over real gRPC.

use bytes::Bytes;
use paxos_common::{paxos::quorum::Configuration, service::failure::Exit, wire};
use paxos_learner_testing::{
    FakeAcceptor, TestLearner, acceptors, ballot, ballot_in, blank_acceptors, change_all, changed, form,
    held, install, read, value, within_deadline,
};
use paxos_proto::v1::{self as pb, read_request};
use tonic::Status;

/// The acceptors accept a value.
fn accept(acceptors: &[&FakeAcceptor], ballot: pb::Ballot, slot: u64, value: &Bytes) {
    for acceptor in acceptors {
        acceptor.change(|script| script.accepted.push((ballot, slot, value.clone())));
    }
}

/// The encoded change to a configuration.
fn change(to: &Configuration) -> Bytes {
    wire::stored::change(to).as_bytes().clone()
}

/// Three members that have accepted "a" in slot 0 and a change in slot 1, and an acceptor outside. The next members are
/// acceptors 2, 3 and 4.
async fn changing() -> ([FakeAcceptor; 4], Configuration) {
    let [one, two, three] = acceptors().await;
    let four = FakeAcceptor::start(4).await;
    let next = changed(&held(&one), &[two.clone(), three.clone(), four.clone()]);
    let all = [one, two, three, four];
    accept(&[&all[0], &all[1], &all[2]], ballot(1), 0, &value("a"));
    accept(&[&all[0], &all[1], &all[2]], ballot(1), 1, &change(&next));
    // The joiner has the log.
    accept(&[&all[3]], ballot(1), 0, &value("a"));
    accept(&[&all[3]], ballot(1), 1, &change(&next));
    install(&all[3..], &held(&all[0]));
    (all, next)
}

/// Waits until the learner works in this era, and returns its status.
async fn works_in(learner: &mut TestLearner, era: u64) -> pb::LearnerStatusResponse {
    within_deadline(async {
        loop {
            let status = learner.status().await;
            if status.configuration.as_ref().is_some_and(|held| held.era == era) {
                return status;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

async fn linearizable(learner: &TestLearner) -> Result<pb::ReadResponse, Status> {
    let request = pb::ReadRequest {
        target: Some(read_request::Target::Key("key".into())),
        ..pb::ReadRequest::default()
    };
    let mut client = learner.client.clone();
    Ok(client.read(request).await?.into_inner())
}

/// Waits until the learner has left this acceptor, and goes on.
async fn is_left(acceptor: &FakeAcceptor) {
    let is_left = |report: &pb::AttachRequest| report.stopping == Some(false);
    acceptor
        .hears(|heard| heard.reports.last().is_some_and(is_left))
        .await;
}

#[tokio::test]
async fn applied_change_moves_the_learner_to_the_new_members() {
    let (all, next) = changing().await;
    let [one, two, three, four] = &all;
    let mut learner = TestLearner::start(&all[..3], None).await;
    let mut subscription = learner.subscribe(0).await;
    // The change is a slot without commands, and shows the members.
    let mut shown = learner.subscribe(1).await;
    let record = within_deadline(async {
        loop {
            let page = shown.message().await.unwrap().unwrap();
            if let Some(record) = page.records.into_iter().next() {
                return record;
            }
        }
    })
    .await;
    let change_shown = pb::Value {
        commands: Vec::new(),
        configuration: Some((&next).into()),
    };
    assert_eq!((record.slot, record.value), (1, Some(change_shown)));
    assert_eq!(read(&mut subscription, 0, 2).await, ["a", ""]);
    let status = works_in(&mut learner, 1).await;
    assert_eq!(status.configuration, Some(pb::Configuration::from(&next)));
    // The streams begin at the first slot not learned, and the removed acceptor is left.
    for member in [two, three, four] {
        member.hears(|heard| heard.votes_from.last() == Some(&2)).await;
        let attached = |heard: &paxos_learner_testing::HeardCalls| {
            heard.reports.last().is_some_and(|report| !report.leaving)
        };
        member.hears(attached).await;
    }
    is_left(one).await;
    let streams = one.heard.borrow().votes_from.len();
    // Votes of the earlier era, and votes of a removed acceptor, choose nothing.
    accept(&[one, two, three], ballot(9), 2, &value("wrong"));
    accept(&[one, two], ballot_in(1, 1), 2, &value("b"));
    install(&all[1..], &next);
    accept(&[four], ballot_in(1, 1), 2, &value("b"));
    assert_eq!(read(&mut subscription, 2, 1).await, ["b"]);
    assert_eq!(one.heard.borrow().votes_from.len(), streams);
    learner.stop().await.unwrap();
}

#[tokio::test]
async fn later_configuration_at_an_acceptor_is_adopted_and_kept_across_a_restart() {
    let (all, next) = changing().await;
    let [one, two, three, four] = &all;
    let directory = tempfile::tempdir().unwrap();
    // The change is not learned: no quorum shows its votes.
    change_all(&all, |script| script.accepted.clear());
    accept(&[one, two, three], ballot(1), 0, &value("a"));
    let mut learner = TestLearner::start(&all[..3], Some(directory.path())).await;
    assert_eq!(learner.read(0, 1).await, ["a"]);
    works_in(&mut learner, 0).await;
    // Votes of a later era make the learner ask.
    install(&all, &next);
    accept(&[two, four], ballot_in(1, 1), 1, &change(&next));
    assert_eq!(learner.read(0, 2).await, ["a", ""]);
    works_in(&mut learner, 1).await;
    learner.stop().await.unwrap();

    // Only acceptors that know nothing of the change answer.
    form(&all[..3]);
    let cluster = Some(next.cluster_id());
    let mut learner = TestLearner::start_in(cluster, &all[..1], Some(directory.path())).await;
    works_in(&mut learner, 1).await;
    accept(&[three, four], ballot_in(1, 1), 2, &value("b"));
    assert_eq!(learner.read(0, 3).await, ["a", "", "b"]);
    learner.stop().await.unwrap();
}

#[tokio::test]
async fn one_right_address_or_a_removed_acceptor_leads_to_the_cluster() {
    let (all, next) = changing().await;
    let [one, two, three, four] = &all;
    // Acceptor 1 was removed and knows, acceptor 2 does not know yet, and acceptor 4 is right.
    install(&[one.clone(), three.clone(), four.clone()], &next);
    accept(&[two, three, four], ballot_in(1, 1), 2, &value("b"));
    for given in [one, two, four] {
        change_all(&all, |script| script.chosen_to = 2);
        let mut learner = TestLearner::start(std::slice::from_ref(given), None).await;
        let status = works_in(&mut learner, 1).await;
        assert_eq!(status.configuration.unwrap().members.len(), 3);
        assert_eq!(learner.read(0, 3).await, ["a", "", "b"]);
        learner.stop().await.unwrap();
    }
}

#[tokio::test]
async fn read_across_a_change_waits_for_the_new_members() {
    let (all, next) = changing().await;
    let [one, two, three, four] = &all;
    let mut learner = TestLearner::start(&all[..3], None).await;
    works_in(&mut learner, 1).await;
    within_deadline(async {
        while linearizable(&learner).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // The removed acceptor is not asked any more, and its votes do not count.
    let asked = one.heard.borrow().tails;
    change_all(&all[1..], |script| script.voted_to = 3);
    let reading = tokio::spawn(async move {
        let answer = linearizable(&learner).await;
        (answer, learner)
    });
    // Asked again after the leader timeout: the read waits for slot 2.
    let tails = four.heard.borrow().tails;
    four.hears(|heard| heard.tails > tails + 1).await;
    assert!(!reading.is_finished());
    install(&all[1..], &next);
    accept(&[two, three, four], ballot_in(1, 1), 2, &value("b"));
    let (answer, learner) = within_deadline(reading).await.unwrap();
    assert_eq!(answer.unwrap().applied_to, 3);
    assert_eq!(one.heard.borrow().tails, asked);
    learner.stop().await.unwrap();
}

#[tokio::test]
async fn given_cluster_is_found_among_acceptors_of_others() {
    let ours = acceptors().await;
    let [four, five] = [FakeAcceptor::start(4).await, FakeAcceptor::start(5).await];
    let others = [FakeAcceptor::start(11).await, FakeAcceptor::start(12).await];
    form(&others);
    let cluster = held(&ours[0]).cluster_id();
    let given = [others[0].clone(), ours[1].clone(), four, five, others[1].clone()];
    accept(&[&ours[0], &ours[1]], ballot(1), 0, &value("a"));
    let mut learner = TestLearner::start_in(Some(cluster), &given, None).await;
    assert_eq!(learner.read(0, 1).await, ["a"]);
    assert_eq!(&learner.status().await.cluster_id[..], cluster.as_bytes());
    assert!(
        others
            .iter()
            .all(|other| other.heard.borrow().votes_from.is_empty())
    );
    learner.stop().await.unwrap();
    // Without the order, the list contradicts itself.
    let failure = TestLearner::start(&given, None).await.ended().await.unwrap_err();
    assert_eq!(failure.code, Exit::Refused);
}

#[tokio::test]
async fn learner_of_a_given_cluster_joins_no_other() {
    let [one, two, three] = blank_acceptors().await;
    let ours = acceptors().await;
    let cluster = held(&ours[0]).cluster_id();
    let theirs = [one, two, three];
    form(&[theirs[0].clone()]);
    let learner = TestLearner::start_in(Some(cluster), &theirs, None).await;
    // Asked twice, the learner goes on waiting.
    theirs[0].hears(|heard| heard.forms > 2).await;
    let mut learner = learner;
    assert!(learner.status().await.cluster_id.is_empty());
    learner.stop().await.unwrap();
}

#[tokio::test]
async fn last_known_members_lead_to_the_cluster_when_no_given_address_does() {
    let ours = acceptors().await;
    let directory = tempfile::tempdir().unwrap();
    accept(&[&ours[0], &ours[1]], ballot(1), 0, &value("a"));
    let mut learner = TestLearner::start(&ours, Some(directory.path())).await;
    assert_eq!(learner.read(0, 1).await, ["a"]);
    let cluster = held(&ours[0]).cluster_id();
    learner.stop().await.unwrap();
    let blank = FakeAcceptor::start(9).await;
    let given = std::slice::from_ref(&blank);
    let mut learner = TestLearner::start_in(Some(cluster), given, Some(directory.path())).await;
    accept(&[&ours[1], &ours[2]], ballot(1), 1, &value("b"));
    assert_eq!(learner.read(0, 2).await, ["a", "b"]);
    assert!(blank.heard.borrow().reports.is_empty());
    learner.stop().await.unwrap();
}

#[tokio::test]
async fn removed_acceptor_alone_leads_on_and_gets_a_last_report() {
    let (all, next) = changing().await;
    let one = &all[0];
    change_all(&all, |script| script.accepted.clear());
    let mut learner = TestLearner::start(&all[..3], None).await;
    works_in(&mut learner, 0).await;
    one.hears(|heard| !heard.reports.is_empty()).await;
    install(&all[..1], &next);
    // Nothing else says that there is a later configuration.
    one.change(|script| {
        script.leadership = Some(pb::Leadership {
            promised: Some(ballot_in(1, 1)),
            ..pb::Leadership::default()
        });
    });
    works_in(&mut learner, 1).await;
    is_left(one).await;
    learner.stop().await.unwrap();
}

#[tokio::test]
async fn another_cluster_at_the_last_known_addresses_is_not_joined() {
    let ours = acceptors().await;
    let directory = tempfile::tempdir().unwrap();
    accept(&[&ours[0], &ours[1]], ballot(1), 0, &value("a"));
    let mut learner = TestLearner::start(&ours, Some(directory.path())).await;
    assert_eq!(learner.read(0, 1).await, ["a"]);
    learner.stop().await.unwrap();
    change_all(&ours, |script| script.configuration = None);
    form(&ours[..1]);
    let away = FakeAcceptor {
        address: "http://127.0.0.1:1".parse().unwrap(),
        ..FakeAcceptor::start(9).await
    };
    let mut learner = TestLearner::start(&[away], Some(directory.path())).await;
    let forms = ours[0].heard.borrow().forms;
    // Asked again, the learner goes on waiting.
    ours[0].hears(|heard| heard.forms > forms + 2).await;
    assert!(learner.status().await.cluster_id.is_empty());
    learner.stop().await.unwrap();
}
