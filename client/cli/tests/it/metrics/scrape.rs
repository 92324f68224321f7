//! HTTP answers of a process, read like a scraper and a probe do.
#![allow(clippy::print_stderr, reason = "what a person who runs it reads")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::harness::{Process, until};

/// The metrics address of a process, from the log of its last start.
pub(crate) async fn address(process: &Process) -> SocketAddr {
    until("it serves metrics", async || {
        let log = process.log();
        let line = log
            .lines()
            .rfind(|line| line.contains("serving /metrics"))?
            .to_owned();
        let (_, address) = line.split_once("listen=")?;
        address.split_whitespace().next()?.parse().ok()
    })
    .await
}

/// The status and body of an answer; `None` without an answer.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let head = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split_whitespace().nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// Waits until `/readyz` answers with this status and these words.
pub(crate) async fn ready(process: &Process, status: u16, words: &str) {
    let address = address(process).await;
    let mut last = None;
    let name = &process.name;
    until(&format!("{name} is {words:?}"), async || {
        let answer = get(address, "/readyz").await;
        if answer != last {
            eprintln!("{name}: {answer:?}");
            last.clone_from(&answer);
        }
        let (found, body) = answer?;
        (found == status && body.contains(words)).then_some(())
    })
    .await;
}

/// All metrics of a process at one time.
pub(crate) struct Scrape(String);

impl Scrape {
    pub(crate) async fn of(process: &Process) -> Self {
        let (status, text) = get(address(process).await, "/metrics").await.unwrap();
        assert_eq!(status, 200, "{text}");
        Self(text)
    }

    /// Name and labels of each sample, and its value.
    fn samples(&self) -> impl Iterator<Item = (&str, &str, f64)> {
        let lines = self.0.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            (name, labels.strip_suffix('}').unwrap(), value.parse().unwrap())
        })
    }

    /// The sum of the samples of this name with this label, as in `code="OK"`; an empty label selects all samples of
    /// the name.
    pub(crate) fn sum(&self, name: &str, label: &str) -> f64 {
        let mut found = self
            .samples()
            .filter(|(sample, labels, _)| *sample == name && labels.contains(label))
            .peekable();
        assert!(
            found.peek().is_some(),
            "{name} {label} is missing in:\n{}",
            self.0
        );
        found.map(|(.., value)| value).sum()
    }

    /// Whether there is a sample of this name with this label.
    pub(crate) fn has(&self, name: &str, label: &str) -> bool {
        let mut samples = self.samples();
        samples.any(|(sample, labels, _)| sample == name && labels.contains(label))
    }

    /// Number of calls that did not end OK, by method and code.
    pub(crate) fn calls_not_ok(&self) -> BTreeMap<String, f64> {
        self.samples()
            .filter(|(name, labels, _)| {
                *name == "rpc_server_call_duration_seconds_count"
                    && !labels.contains("rpc_response_status_code=\"OK\"")
            })
            .map(|(_, labels, count)| (labels.to_owned(), count))
            .collect()
    }

    /// The names of all samples.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        self.samples().map(|(name, ..)| name.to_owned()).collect()
    }

    /// Each metric's name, type and label keys, one line for each metric.
    pub(crate) fn shape(&self) -> String {
        let mut shape: BTreeMap<&str, (&str, BTreeSet<&str>)> = BTreeMap::new();
        let types = self.0.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        for line in types {
            let (name, kind) = line.split_once(' ').unwrap();
            shape.insert(name, (kind, BTreeSet::new()));
        }
        for (sample, labels, _) in self.samples() {
            let base = ["_bucket", "_sum", "_count"].into_iter().find_map(|suffix| {
                sample
                    .strip_suffix(suffix)
                    .filter(|base| shape.contains_key(base))
            });
            let (_, keys) = shape
                .get_mut(base.unwrap_or(sample))
                .expect("each sample has a type");
            let found = labels.split(',').filter_map(|label| label.split_once('='));
            keys.extend(found.map(|(key, _)| key).filter(|key| *key != "le"));
        }
        let line = |(name, (kind, keys)): (&str, (&str, BTreeSet<&str>))| {
            let keys: Vec<_> = keys.into_iter().collect();
            format!("{name} {kind} {{{}}}", keys.join(", "))
        };
        shape.into_iter().map(line).collect::<Vec<_>>().join("\n")
    }
}
