//! Commands that end early.

use std::process::{Child, Stdio};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    collector::{SeenSpan, SpanCollector},
    is_root, paxos, traced,
};
use crate::harness::{self, until};

#[tokio::test]
async fn command_that_is_ended_early_exports_its_spans() {
    let collector = SpanCollector::start().await;
    let mut cluster = traced(&collector, 1, 1).await;
    let urls = cluster.urls();
    let command = |args: &[&str]| {
        let mut command = harness::paxos(&[args, &["--acceptors", &urls]].concat());
        command.envs(collector.environment());
        command.stdout(Stdio::piped()).spawn().unwrap()
    };
    for key in 0..3 {
        paxos(&collector, &cluster, None, &["put", &key.to_string(), "value"]).await;
    }
    let ended = async |mut child: Child| until("it ends", async || child.try_wait().unwrap()).await;

    // The reader closes the pipe before the first line.
    let mut child = command(&["get", "--prefix", ""]);
    drop(child.stdout.take());
    assert!(ended(child).await.success());
    let root = collector.span("the read", is_root("client.get_prefix")).await;
    collector
        .trace("its call at the learner", &root, |trace| {
            let calls = trace.named("paxos.v1.Learner/Read");
            calls.len() == 2 && calls.iter().all(|call| trace.parent(call).is_some())
        })
        .await;

    // A signal ends a write that waits for a quorum.
    for acceptor in &mut cluster.acceptors[1..] {
        acceptor.signal(Signal::SIGSTOP);
    }
    let child = command(&["put", "key", "value", "--timeout", "60s"]);
    let is_write = |span: &SeenSpan| span.name == "paxos.v1.Acceptor/Accept" && span.kind == "server";
    let seen = collector
        .spans()
        .into_iter()
        .filter(|span| is_write(span))
        .count();
    until("the write is on its way", async || {
        let spans = collector.spans();
        (spans.into_iter().filter(|span| is_write(span)).count() > seen).then_some(())
    })
    .await;
    let puts = || {
        let spans = collector.spans().into_iter();
        spans.filter(is_root("client.put")).count()
    };
    let before = puts();
    let process = Pid::from_raw(child.id().try_into().unwrap());
    kill(process, Signal::SIGINT).unwrap();
    assert_eq!(ended(child).await.code(), Some(130));
    until("the write that was ended is exported", async || {
        (puts() > before).then_some(())
    })
    .await;
    for acceptor in &mut cluster.acceptors[1..] {
        acceptor.signal(Signal::SIGCONT);
    }
}
