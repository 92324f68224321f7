//! `Outcomes` of a real learner: each answer is the answer of `Result`, and a query for nothing holds up no other query.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use paxos_client::{Condition, Current, Written};
use paxos_common::{peer::connect_lazy, wire::status::from_proto};
use paxos_proto::v1::{
    OutcomeQuery, OutcomesRequest, QueriedOutcome, ResultRequest, ResultResponse, Version,
    learner_client::LearnerClient, queried_outcome::Answer, result_request,
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};

use crate::harness::{Cluster, PATIENCE};

/// Maximum number of queries in a request.
const QUERIES_MAX: u64 = 256;

type Found = Result<ResultResponse, Status>;

struct OutcomeStream {
    requests: mpsc::Sender<OutcomesRequest>,
    responses: Streaming<paxos_proto::v1::OutcomesResponse>,
}

impl OutcomeStream {
    async fn open(learner: &mut LearnerClient<Channel>) -> Self {
        let (requests, outgoing) = mpsc::channel(16);
        let responses = learner.outcomes(ReceiverStream::new(outgoing)).await.unwrap();
        Self {
            requests,
            responses: responses.into_inner(),
        }
    }

    async fn ask(&self, versions: impl IntoIterator<Item = (u64, Version)>) {
        let query = |(tag, version)| OutcomeQuery {
            tag,
            version: Some(version),
        };
        let queries = versions.into_iter().map(query).collect();
        self.requests.send(OutcomesRequest { queries }).await.unwrap();
    }

    /// The next answers, by tag.
    async fn answers(&mut self, count: usize) -> BTreeMap<u64, Found> {
        let mut found = BTreeMap::new();
        while found.len() < count {
            let response = timeout(PATIENCE, self.responses.message()).await;
            let response = response.expect("an answer in time").unwrap().expect("no end");
            found.extend(response.outcomes.into_iter().map(read));
        }
        assert_eq!(found.len(), count);
        found
    }
}

fn read(outcome: QueriedOutcome) -> (u64, Found) {
    let found = match outcome.answer.expect("an answer") {
        Answer::Result(result) => Ok(result),
        Answer::Error(error) => Err(from_proto(&error)),
    };
    (outcome.tag, found)
}

async fn single(learner: &mut LearnerClient<Channel>, version: Version) -> Found {
    let command = Some(result_request::Command::Version(version));
    let mut request = tonic::Request::new(ResultRequest { command });
    request.set_timeout(PATIENCE);
    Ok(learner.result(request).await?.into_inner())
}

/// Answers without the moment of the answer.
fn compared(found: &Found) -> Result<ResultResponse, (Code, String)> {
    match found {
        Ok(result) => Ok(ResultResponse {
            applied_to: 0,
            ..result.clone()
        }),
        Err(status) => Err((status.code(), status.message().to_owned())),
    }
}

#[tokio::test]
async fn answers_on_the_stream_are_the_answers_of_single_calls() {
    let cluster = Cluster::start(3, 1, 1).await;
    let client = cluster.client();
    let mut learner = LearnerClient::new(connect_lazy(&cluster.learners[0].address));
    let mut asked = Vec::new();
    for number in 0..20 {
        let version = client.put(format!("key-{number}"), "value").await.unwrap();
        asked.push(Version::from(version));
        let failed = client
            .put_if(format!("key-{number}"), "other", Condition::Absent)
            .await;
        let failed = failed.unwrap();
        assert!(matches!(failed, Written::ConditionFailed { .. }), "{failed:?}");
        asked.push(failed.version().into());
    }
    // No command is there.
    let past = Version {
        offset: 60_000,
        ..asked[0]
    };
    asked.push(past);
    let mut stream = OutcomeStream::open(&mut learner).await;
    // Beyond the log.
    let beyond = Version {
        slot: 1 << 40,
        offset: 0,
    };
    stream.ask([(1_000, beyond)]).await;
    stream.ask((0_u64..).zip(asked.iter().copied())).await;
    let mut found = stream.answers(asked.len() + 1).await;
    let late = found.remove(&1_000).unwrap();
    for (tag, &version) in (0_u64..).zip(&asked) {
        let expected = single(&mut learner, version).await;
        assert_eq!(compared(&found[&tag]), compared(&expected), "{version:?}");
    }
    assert_eq!(found[&40].as_ref().unwrap_err().code(), Code::OutOfRange);
    let large = Version {
        slot: u64::MAX,
        offset: 0,
    };
    stream.ask([(2_000, large)]).await;
    let refused = stream.answers(1).await;
    assert_eq!(
        refused[&2_000].as_ref().unwrap_err().code(),
        Code::InvalidArgument
    );
    let expected = single(&mut learner, beyond).await;
    assert_eq!(compared(&late), compared(&expected));
    assert_eq!(expected.unwrap_err().code(), Code::OutOfRange);
}

#[tokio::test]
async fn large_answers_are_left_to_single_calls_and_larger_requests_are_refused() {
    let cluster = Cluster::start(3, 1, 1).await;
    let client = cluster.client();
    let mut learner = LearnerClient::new(connect_lazy(&cluster.learners[0].address));
    let value = Bytes::from(vec![7; 300_000]);
    client.put("key", value.clone()).await.unwrap();
    // Both ways lead to the register: the library asks by a single call.
    let failed = client.put_if("key", "other", Condition::Absent).await.unwrap();
    let Written::ConditionFailed {
        current: Current::Register(register),
        version,
    } = failed
    else {
        panic!("{failed:?}")
    };
    assert_eq!(register.value, value);
    let mut stream = OutcomeStream::open(&mut learner).await;
    stream
        .ask((0..QUERIES_MAX).map(|tag| (tag, version.into())))
        .await;
    let mut tags = BTreeSet::new();
    while tags.len() < usize::try_from(QUERIES_MAX).unwrap() {
        let response = timeout(PATIENCE, stream.responses.message()).await.unwrap();
        for outcome in response.unwrap().expect("no end").outcomes {
            assert_eq!(outcome.answer, None);
            assert!(tags.insert(outcome.tag), "{} is answered twice", outcome.tag);
        }
    }
    stream
        .ask((0..=QUERIES_MAX).map(|tag| (tag, version.into())))
        .await;
    let refused = timeout(Duration::from_secs(5), stream.responses.message())
        .await
        .unwrap();
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
}
