//! One proposal is one trace: through every process, over the long streams, down to the disks.

mod away;
mod batches;
mod collector;
mod ended;
mod protocols;
mod snapshots;

use std::collections::{BTreeMap, BTreeSet};

use crate::harness::{Cluster, Process, run_with, stdout, until};
use collector::{SeenSpan, SpanCollector, Trace};
use nix::sys::signal::Signal;
use paxos_proto::v1::{Append, Command, ProposeRequest, command::Operation, proposer_client::ProposerClient};

/// A cluster with traces and caught-up learners: everything learned from now on is traced.
async fn traced(collector: &SpanCollector, proposers: u16, learners: u16) -> Cluster {
    let mut environment = collector.environment();
    environment.push(("RUST_LOG", "info,paxos_common::trace=debug".to_owned()));
    let cluster = Cluster::start_with(3, proposers, learners, environment).await;
    for learner in &cluster.learners {
        until("the learner has caught up", async || {
            learner.log().contains("caught up").then_some(())
        })
        .await;
    }
    cluster
}

/// Runs `paxos` with tracing, at this proposer if given.
async fn paxos(
    collector: &SpanCollector,
    cluster: &Cluster,
    proposer: Option<usize>,
    args: &[&str],
) -> String {
    let urls = cluster.urls();
    let mut args = [args, &["--acceptors", &urls]].concat();
    let address = proposer.map(|proposer| cluster.proposers[proposer].address.to_string());
    if let Some(address) = &address {
        args.extend(["--proposers", address]);
    }
    stdout(&run_with(&args, &collector.environment()).await)
}

fn is_root(name: &'static str) -> impl Fn(&SeenSpan) -> bool {
    move |span| span.name == name && span.parent.is_empty()
}

/// Checks that every awaited span lies inside the span of its caller.
fn assert_nests(trace: &Trace) {
    for span in &trace.0 {
        assert!(span.began <= span.ended, "{span:?}");
        // Learners continue after the caller has the answer, and so does an acceptor beyond the needed quorum.
        let is_waited_for = !span.name.starts_with("learner.l") && span.name != "learner.apply";
        if let Some(parent) = trace.parent(span).filter(|_| is_waited_for) {
            assert!(parent.began <= span.began, "{} before {}", span.name, parent.name);
            let in_time = span.ended <= parent.ended;
            let was_late = span
                .attributes
                .get("paxos.in_quorum")
                .is_some_and(|word| word == "false");
            let belongs_to_late = trace
                .parent(span)
                .and_then(|parent| trace.parent(parent))
                .is_some();
            assert!(
                in_time || was_late || belongs_to_late,
                "{} ends after {}",
                span.name,
                parent.name
            );
        }
    }
}

/// Span names with attribute names, as used by dashboards, without the reason of a failure.
fn words<'a>(spans: impl IntoIterator<Item = &'a SeenSpan>) -> String {
    let mut words: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for span in spans {
        let keys = span.attributes.keys().map(String::as_str);
        let known = words.entry(format!("{} {}", span.name, span.kind)).or_default();
        known.extend(keys.filter(|key| *key != "error.type"));
    }
    let line = |(name, keys): (String, BTreeSet<&str>)| {
        format!("{name}: {}", keys.into_iter().collect::<Vec<_>>().join(" "))
    };
    words.into_iter().map(line).collect::<Vec<_>>().join("\n")
}

const PROPOSED: &str = "\
client.propose [paxos-client internal]
  paxos.v1.Proposer/ProposeStream [paxos-client client]
    paxos.v1.Proposer/ProposeStream [paxos-proposer server]
      proposer.batch [paxos-proposer internal]
        learner.apply [paxos-learner internal] x2
        learner.learn [paxos-learner internal] x2
        paxos.v1.Acceptor/Accept [paxos-proposer client] x3
          paxos.v1.Acceptor/Accept [paxos-acceptor server]
            acceptor.commit [paxos-acceptor internal]
      proposer.queue [paxos-proposer internal]
";

#[tokio::test]
async fn proposal_is_one_trace_from_the_client_to_every_disk_and_learner() {
    let collector = SpanCollector::start().await;
    let mut cluster = traced(&collector, 2, 2).await;
    let trace = collector
        .tree("client.propose", PROPOSED, async || {
            let leader = cluster.leader().await;
            paxos(&collector, &cluster, Some(leader), &["propose", "hello"]).await;
        })
        .await;
    assert_nests(&trace);

    let batch = trace.only("proposer.batch");
    let server = trace.parent(batch).unwrap();
    assert_eq!(batch.links, [server.key()], "a batch names every request in it");
    assert_eq!(
        trace.only("proposer.queue").links,
        [batch.key()],
        "a request names its batch"
    );
    assert_eq!(batch.attributes["paxos.commands"], "1");
    let slot = server.attributes["paxos.version"].split('.').next().unwrap();
    for name in ["proposer.batch", "learner.learn", "learner.apply"] {
        for span in trace.named(name) {
            assert_eq!(span.attributes["paxos.slot"], slot, "{name}");
        }
    }
    let nodes = |name| {
        let spans = trace.named(name).into_iter().filter(|span| span.kind != "client");
        let mut nodes: Vec<_> = spans.map(|span| span.node().to_owned()).collect();
        nodes.sort();
        nodes.dedup();
        nodes
    };
    assert_eq!(
        nodes("acceptor.commit"),
        ["acceptor-1", "acceptor-2", "acceptor-3"]
    );
    assert_eq!(nodes("learner.apply").len(), 2, "each learner applies it");
    let sent = trace.children(batch);
    let accepts: Vec<_> = sent.iter().filter(|span| span.kind == "client").collect();
    let in_quorum = |word| {
        accepts
            .iter()
            .filter(|span| span.attributes["paxos.in_quorum"] == word)
            .count()
    };
    assert_eq!(
        (in_quorum("true"), in_quorum("false")),
        (2, 1),
        "two of three decide"
    );
    let mut named: Vec<_> = accepts
        .iter()
        .map(|span| {
            let name = &span.attributes["paxos.acceptor"];
            let at = (
                &span.attributes["server.address"],
                &span.attributes["server.port"],
            );
            let acceptor = cluster.acceptors.iter().find(|acceptor| acceptor.name == *name);
            let address = acceptor.unwrap().address.to_string();
            assert_eq!(address, format!("http://{}:{}", at.0, at.1));
            name.as_str()
        })
        .collect();
    named.sort_unstable();
    assert_eq!(named, ["acceptor-1", "acceptor-2", "acceptor-3"]);
    let host = nix::sys::utsname::uname()
        .unwrap()
        .nodename()
        .to_str()
        .unwrap()
        .to_owned();
    for span in &trace.0 {
        let expected = [
            ("rpc.system.name", "grpc"),
            ("rpc.method", span.name.as_str()),
            ("rpc.response.status_code", "OK"),
        ];
        if span.name.starts_with("paxos.v1.") {
            for (key, value) in expected {
                assert_eq!(
                    span.attributes.get(key).map(String::as_str),
                    Some(value),
                    "{span:?}"
                );
            }
        }
        assert!(span.resource.contains_key("service.instance.id"), "{span:?}");
        assert_eq!(span.resource["service.version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(span.resource["host.name"], host, "{span:?}");
        assert!(span.resource["process.pid"].parse::<u32>().is_ok(), "{span:?}");
    }
    let instances: BTreeSet<_> = trace
        .0
        .iter()
        .map(|span| &span.resource["service.instance.id"])
        .collect();
    assert_eq!(
        instances.len(),
        7,
        "a client, a proposer, three acceptors, two learners"
    );

    let log: String = cluster.proposers.iter().map(Process::log).collect();
    let hex: String = server.trace.iter().map(|byte| format!("{byte:02x}")).collect();
    let answered = log
        .lines()
        .find(|line| line.contains("call answered") && line.contains(&hex));
    assert!(answered.is_some_and(|line| line.contains("span_id")), "{log}");

    insta::assert_snapshot!("span_attributes", words(&trace.0));

    // The remaining spans are exported when a process stops.
    let before = collector.spans().len();
    for process in &mut cluster.proposers {
        assert!(process.stop().await.success());
    }
    let spans = collector.spans();
    assert!(
        spans[before..]
            .iter()
            .any(|span| span.name == "proposer.step_down"),
        "{:?}",
        spans.len()
    );
}

const FORWARDED: &str = "\
client.propose [paxos-client internal]
  paxos.v1.Proposer/ProposeStream [paxos-client client]
    paxos.v1.Proposer/ProposeStream [paxos-proposer server]
      paxos.v1.Proposer/ProposeStream [paxos-proposer client]
        paxos.v1.Proposer/ProposeStream [paxos-proposer server]
          proposer.batch [paxos-proposer internal]
            learner.apply [paxos-learner internal]
            learner.learn [paxos-learner internal]
            paxos.v1.Acceptor/Accept [paxos-proposer client] x3
              paxos.v1.Acceptor/Accept [paxos-acceptor server]
                acceptor.commit [paxos-acceptor internal]
          proposer.queue [paxos-proposer internal]
      proposer.queue [paxos-proposer internal]
";

#[tokio::test]
async fn standby_that_sends_a_proposal_on_is_part_of_its_trace() {
    let collector = SpanCollector::start().await;
    let cluster = traced(&collector, 2, 1).await;
    let trace = collector
        .tree("client.propose", FORWARDED, async || {
            let standby = 1 - cluster.leader().await;
            paxos(&collector, &cluster, Some(standby), &["propose", "hello"]).await;
        })
        .await;
    assert_nests(&trace);
    let servers: Vec<_> = trace.named("paxos.v1.Proposer/ProposeStream");
    let nodes: BTreeSet<_> = servers
        .iter()
        .filter(|span| span.kind == "server")
        .map(|span| span.node())
        .collect();
    assert_eq!(nodes.len(), 2, "both proposers");
}

#[tokio::test]
async fn foreign_caller_s_trace_is_continued_and_its_refusal_respected() {
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const UNTRACED: &str = "0bf7651916cd43dd8448eb211c80319d";
    let collector = SpanCollector::start().await;
    let cluster = traced(&collector, 1, 1).await;
    let mut client = ProposerClient::new(paxos_common::peer::connect_lazy(&cluster.proposers[0].address));
    for traceparent in [
        format!("00-{UNTRACED}-b7ad6b7169203331-00"),
        format!("00-{TRACE}-b7ad6b7169203331-01"),
    ] {
        // A busy machine's leader may step down for a moment.
        until("the proposal is answered", async || {
            let mut request = tonic::Request::new(ProposeRequest {
                command: Some(Command {
                    session: None,
                    operation: Some(Operation::Append(Append {
                        record: "hello".into(),
                    })),
                }),
                forwarded: false,
            });
            let metadata = request.metadata_mut();
            metadata.insert("traceparent", traceparent.parse().unwrap());
            client.propose(request).await.ok()
        })
        .await;
    }
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let applied = collector
        .span("the learner's span", |span| {
            span.name == "learner.apply" && hex(&span.trace) == TRACE
        })
        .await;
    let trace = collector
        .trace("the whole tree", &applied, |trace| {
            trace.named("acceptor.commit").len() >= 3 && !trace.named("paxos.v1.Proposer/Propose").is_empty()
        })
        .await;
    for server in trace.named("paxos.v1.Proposer/Propose") {
        let found = (hex(&server.parent), server.kind);
        assert_eq!(found, ("b7ad6b7169203331".to_owned(), "server"));
    }
    assert!(collector.spans().iter().all(|span| hex(&span.trace) != UNTRACED));
}

#[tokio::test]
async fn trace_of_an_abandoned_proposal_shows_both_leaders() {
    let collector = SpanCollector::start().await;
    let mut cluster = traced(&collector, 2, 1).await;
    let leader = cluster.leader().await;
    // A single acceptor gets the proposal.
    for acceptor in &mut cluster.acceptors[1..] {
        acceptor.kill();
    }
    let urls = cluster.urls();
    let address = cluster.proposers[leader].address.to_string();
    let environment = collector.environment();
    let proposing = tokio::spawn(async move {
        let args = [
            "propose",
            "left behind",
            "--timeout",
            "20s",
            "--acceptors",
            &urls,
            "--proposers",
            &address,
        ];
        run_with(&args, &environment).await
    });
    let accept = collector
        .span("one acceptor has it", |span| {
            span.name == "acceptor.commit" && span.attributes["paxos.slots"] == "1"
        })
        .await;
    cluster.proposers[leader].signal(Signal::SIGSTOP);
    cluster.acceptors[1].start();
    let takeover = collector
        .span("another leader finishes it", |span| {
            span.name == "proposer.takeover"
        })
        .await;
    cluster.proposers[leader].signal(Signal::SIGCONT);
    let trace = collector
        .trace("both leaders have sent Accepts", &accept, |trace| {
            !trace.named("proposer.batch").is_empty() && !trace.named("learner.apply").is_empty()
        })
        .await;
    assert_eq!(takeover.trace, accept.trace);
    let batch = trace.only("proposer.batch");
    assert_eq!(trace.parent(&takeover).map(SeenSpan::key), Some(batch.key()));
    assert_ne!(takeover.node(), batch.node());
    assert!(batch.error.is_some(), "its leader leads no longer: {batch:?}");
    assert_eq!(batch.attributes["error.type"], "preempted");
    assert!(takeover.error.is_none());
    assert!(takeover.attributes["paxos.ballot"] != batch.attributes["paxos.ballot"]);
    let campaign = collector
        .span("the campaign", |span| {
            span.name == "proposer.campaign" && span.node() == takeover.node() && span.events == ["leading"]
        })
        .await;
    let campaign = collector
        .trace("its promises", &campaign, |trace| {
            trace
                .named("paxos.v1.Acceptor/Prepare")
                .iter()
                .filter(|span| span.kind == "server")
                .count()
                >= 2
        })
        .await;
    assert!(
        !campaign.named("acceptor.commit").is_empty(),
        "a promise is on disk: {}",
        campaign.tree()
    );
    insta::assert_snapshot!(
        "span_attributes_of_leaders",
        words(collector.spans().iter().filter(|span| {
            [
                "proposer.takeover",
                "proposer.campaign",
                "proposer.form",
                "paxos.v1.Acceptor/Prepare",
            ]
            .contains(&span.name.as_str())
        }))
    );
    let _ = proposing.await;
}

const READ: &str = "\
client.get [paxos-client internal]
  paxos.v1.Learner/Read [paxos-client client]
    paxos.v1.Learner/Read [paxos-learner server]
      learner.barrier [paxos-learner internal]
        learner.round [paxos-learner internal]
          paxos.v1.Acceptor/Tail [paxos-learner client] x3
            paxos.v1.Acceptor/Tail [paxos-acceptor server]
";

#[tokio::test]
async fn linearizable_read_shows_its_round_and_no_proposer() {
    let collector = SpanCollector::start().await;
    let cluster = traced(&collector, 1, 1).await;
    paxos(&collector, &cluster, None, &["put", "colour", "blue"]).await;
    let trace = collector
        .tree("client.get", READ, async || {
            paxos(&collector, &cluster, None, &["get", "colour"]).await;
        })
        .await;
    assert_nests(&trace);
    let round = trace.only("learner.round");
    assert_eq!(round.attributes["paxos.reads"], "1");
    insta::assert_snapshot!("span_attributes_of_reads", words(&trace.0));
    let acceptors: BTreeSet<_> = trace
        .named("paxos.v1.Acceptor/Tail")
        .into_iter()
        .filter(|span| span.kind == "server")
        .map(SeenSpan::node)
        .collect();
    assert_eq!(acceptors.len(), 3);
    // A write in a session is a single trace too: the opening, the write, and the question for the result.
    let put = collector.span("the put", is_root("client.put")).await;
    let put = collector
        .trace("the put's calls", &put, |trace| {
            trace.named("proposer.batch").len() >= 2 && trace.named("paxos.v1.Learner/Result").len() >= 2
        })
        .await;
    assert_eq!(put.named("client.put").len(), 1, "{}", put.tree());
}
