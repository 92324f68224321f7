//! Damaged, missing and mixed files of an acceptor: every acknowledged write is there, or a process ends with a clear
//! text.

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::harness::{Cluster, PATIENCE, Process, until};
use paxos_client::{Client, PageRequest};

const DATABASE: &str = "acceptor.db";
const LOG: &str = "acceptor.db-wal";
const COUNTER: &str = "COMMITS";

/// Numbers of writes before the first acceptor restarts, before the third acceptor is lost, and afterwards.
const WRITES: [u64; 3] = [60, 60, 40];
/// Time that the damaged acceptor and the lagging acceptor are alone, before the second acceptor returns with the last
/// writes.
const ALONE: Duration = Duration::from_secs(4);
/// Number of parts of a file's length in [`Fate`].
const WHOLE: u64 = 100_000;
/// Most registers of one page.
const PAGE: u32 = 1_000;

/// The damage to the files of the first acceptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileFate {
    /// A flipped bit, at this share of the file's length.
    Flip(&'static str, u64, u8),
    /// The file ends at this share of its length.
    Cut(&'static str, u64),
    /// The file is gone.
    Gone(&'static str),
    /// These files are in an earlier state.
    Earlier(&'static [&'static str]),
}

impl fmt::Display for FileFate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flip(file, share, bit) => write!(f, "bit {bit} flips at {share}/{WHOLE} of {file}"),
            Self::Cut(file, share) => write!(f, "{file} ends at {share}/{WHOLE} of its length"),
            Self::Gone(file) => write!(f, "{file} is gone"),
            Self::Earlier(files) => write!(f, "of an earlier moment: {}", files.join(", ")),
        }
    }
}

impl FileFate {
    fn befall(self, directory: &Path, earlier: &Path) {
        let place = |share: u64, length: usize| {
            let place = length as u64 * share / WHOLE;
            usize::try_from(place).unwrap().min(length - 1)
        };
        match self {
            Self::Flip(file, share, bit) => {
                let mut bytes = fs::read(directory.join(file)).unwrap();
                let at = place(share, bytes.len());
                bytes[at] ^= 1 << bit;
                fs::write(directory.join(file), bytes).unwrap();
            }
            Self::Cut(file, share) => {
                let mut bytes = fs::read(directory.join(file)).unwrap();
                bytes.truncate(place(share, bytes.len()));
                fs::write(directory.join(file), bytes).unwrap();
            }
            Self::Gone(file) => fs::remove_file(directory.join(file)).unwrap(),
            Self::Earlier(files) => {
                for file in files {
                    fs::copy(earlier.join(file), directory.join(file)).unwrap();
                }
            }
        }
    }
}

/// The end of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum StartVerdict {
    /// The damaged acceptor did not start.
    Refused,
    /// The damaged acceptor ended while other processes read from it.
    Ended,
    /// Every process runs, and no acknowledged write is missing.
    Whole,
}

/// A stopped cluster with the last writes on the first two acceptors alone, and copies of the cluster's files.
struct StoppedAcceptor {
    cluster: Cluster,
    acknowledged: BTreeMap<String, String>,
    /// Copies of all acceptors' directories, from the moment when every process was killed.
    copies: Vec<PathBuf>,
    /// Copy of the first acceptor's directory, from an earlier moment.
    earlier: PathBuf,
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

impl StoppedAcceptor {
    async fn prepare() -> Self {
        let mut cluster = Cluster::start(3, 2, 1).await;
        let client = cluster.client();
        let mut acknowledged = BTreeMap::new();
        write(&client, WRITES[0], &mut acknowledged).await;
        cluster.acceptors[0].kill();
        let earlier = PathBuf::from(cluster.path("earlier"));
        copy(&directory(&cluster, 0), &earlier);
        cluster.acceptors[0].start();
        write(&client, WRITES[1], &mut acknowledged).await;
        cluster.acceptors[2].kill();
        write(&client, WRITES[2], &mut acknowledged).await;
        kill_all(&mut cluster);
        let copies = (0..3).map(|acceptor| {
            let to = PathBuf::from(cluster.path(&format!("copy-{acceptor}")));
            copy(&directory(&cluster, acceptor), &to);
            to
        });
        Self {
            copies: copies.collect(),
            cluster,
            acknowledged,
            earlier,
        }
    }

    /// Runs one case, with the files from the moment when every process was killed.
    async fn suffers(&mut self, fate: FileFate) -> StartVerdict {
        for (acceptor, copied) in self.copies.iter().enumerate() {
            copy(copied, &directory(&self.cluster, acceptor));
        }
        fate.befall(&directory(&self.cluster, 0), &self.earlier);
        let verdict = self.starts(fate).await;
        kill_all(&mut self.cluster);
        verdict
    }

    async fn starts(&mut self, fate: FileFate) -> StartVerdict {
        let cluster = &mut self.cluster;
        cluster.acceptors[0].start();
        let begun = Instant::now();
        while cluster.acceptor_status(0).await.is_none() {
            if damaged_ended(cluster, fate) {
                // The other acceptors have everything. A single kind of refusal is enough to test this.
                if !matches!(fate, FileFate::Flip(..)) {
                    start_all_but(cluster, &[0]);
                    self.serves_everything(fate).await;
                }
                return StartVerdict::Refused;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "{fate}: the acceptor neither starts nor ends"
            );
        }
        start_all_but(cluster, &[0, 1]);
        let reader = cluster.client_of(&[&cluster.learners[0]]);
        let alone = Instant::now();
        let mut verdict = StartVerdict::Whole;
        while alone.elapsed() < ALONE {
            if let Some(found) = read(&reader, ALONE).await {
                self.is_everything(&found, fate);
                break;
            }
        }
        self.cluster.acceptors[1].start();
        if damaged_ended(&mut self.cluster, fate) {
            verdict = StartVerdict::Ended;
        }
        self.serves_everything(fate).await;
        if damaged_ended(&mut self.cluster, fate) {
            verdict = StartVerdict::Ended;
        }
        verdict
    }

    /// Reads every acknowledged write, before and after one more write. No process ends except the damaged acceptor.
    async fn serves_everything(&mut self, fate: FileFate) {
        let reader = self.cluster.client_of(&[&self.cluster.learners[0]]);
        let what = format!("{fate}: the learner serves");
        let found = until(&what, async || read(&reader, PATIENCE).await).await;
        self.is_everything(&found, fate);
        let what = format!("{fate}: a value is written");
        until(&what, async || reader.put("after", "after").await.ok()).await;
        let found = until(&what, async || read(&reader, PATIENCE).await).await;
        assert!(found.contains_key("after"), "{fate}");
        self.is_everything(&found, fate);
        let cluster = &mut self.cluster;
        let others = cluster.acceptors[1..].iter_mut().chain(&mut cluster.proposers);
        for process in others.chain(&mut cluster.learners) {
            let ended = process.try_ended();
            assert!(
                ended.is_none(),
                "{fate}: {} ended: {}",
                process.name,
                last_line(process)
            );
        }
    }

    fn is_everything(&self, found: &BTreeMap<String, String>, fate: FileFate) {
        let is_lost = |(key, value): &(&String, &String)| found.get(*key) != Some(*value);
        let lost: Vec<_> = self.acknowledged.iter().filter(is_lost).collect();
        assert!(
            lost.is_empty(),
            "{fate}: acknowledged writes are not there: {lost:?}"
        );
    }
}

/// Whether the damaged acceptor has ended. The exit code must be the code of a storage failure, and the text must name
/// one of the acceptor's files.
fn damaged_ended(cluster: &mut Cluster, fate: FileFate) -> bool {
    let acceptor = &mut cluster.acceptors[0];
    let Some(status) = acceptor.try_ended() else {
        return false;
    };
    let text = last_line(acceptor);
    assert_eq!(status.code(), Some(74), "{fate}: {text}");
    let names_one = [DATABASE, LOG, COUNTER].iter().any(|file| text.contains(file));
    assert!(names_one, "{fate}: the text names no file: {text}");
    true
}

fn last_line(process: &Process) -> String {
    process.log().lines().last().unwrap_or_default().to_owned()
}

fn directory(cluster: &Cluster, acceptor: usize) -> PathBuf {
    cluster.path(&cluster.acceptors[acceptor].name).into()
}

fn start_all_but(cluster: &mut Cluster, acceptors: &[usize]) {
    for (number, acceptor) in cluster.acceptors.iter_mut().enumerate() {
        if !acceptors.contains(&number) {
            acceptor.start();
        }
    }
    // The learner starts without any state.
    let _ = fs::remove_dir_all(cluster.path(&cluster.learners[0].name));
    for process in cluster.proposers.iter_mut().chain(&mut cluster.learners) {
        process.start();
    }
}

fn kill_all(cluster: &mut Cluster) {
    let proposers = cluster.proposers.iter_mut().chain(&mut cluster.learners);
    for process in proposers.chain(&mut cluster.acceptors) {
        process.kill_if_it_runs();
    }
}

/// Writes registers in turn, so that each register has a separate commit.
async fn write(client: &Client, count: u64, acknowledged: &mut BTreeMap<String, String>) {
    for _ in 0..count {
        let number = acknowledged.len();
        let (key, value) = (format!("key {number:05}"), format!("value {number}"));
        let written = client.put(key.clone(), value.clone()).await;
        written.unwrap();
        acknowledged.insert(key, value);
    }
}

/// All registers at one moment, by a linearizable read; `None` if the learner does not answer in time.
async fn read(client: &Client, timeout: Duration) -> Option<BTreeMap<String, String>> {
    let mut request = PageRequest::default();
    request.limit = PAGE;
    let page = client.with_timeout(timeout).get_prefix("", request).await.ok()?;
    assert_eq!(page.next_after, None, "one page is one moment");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let registers = page.registers.iter();
    Some(
        registers
            .map(|register| (text(&register.key), text(&register.value)))
            .collect(),
    )
}

/// Flips this number of bits, in the log and the database by turns.
fn flips(count: usize) -> impl Iterator<Item = FileFate> {
    [LOG, DATABASE]
        .into_iter()
        .cycle()
        .take(count)
        .map(|file| FileFate::Flip(file, rand::random_range(0..WHOLE), rand::random_range(0..8)))
}

async fn suffer(fates: impl IntoIterator<Item = FileFate>) -> BTreeMap<StartVerdict, usize> {
    let mut stopped = StoppedAcceptor::prepare().await;
    let mut verdicts = BTreeMap::new();
    for fate in fates {
        let begun = Instant::now();
        let verdict = stopped.suffers(fate).await;
        eprintln!("{verdict:?} after {:.1?}: {fate}", begun.elapsed());
        *verdicts.entry(verdict).or_default() += 1;
    }
    eprintln!("{verdicts:?}");
    verdicts
}

#[tokio::test]
async fn damaged_missing_and_mixed_files_lose_no_acknowledged_write() {
    let ends = [90_000, 98_000].map(|share| FileFate::Flip(LOG, share, 3));
    let fates = [
        FileFate::Cut(LOG, 50_000),
        FileFate::Cut(LOG, 99_500),
        FileFate::Cut(DATABASE, 60_000),
        FileFate::Cut(COUNTER, 50_000),
        FileFate::Gone(LOG),
        FileFate::Gone(DATABASE),
        FileFate::Gone(COUNTER),
        FileFate::Earlier(&[LOG]),
        FileFate::Earlier(&[DATABASE]),
        FileFate::Earlier(&[DATABASE, LOG]),
        FileFate::Earlier(&[COUNTER]),
    ];
    let verdicts = suffer(fates.into_iter().chain(ends).chain(flips(4))).await;
    let refused = verdicts.get(&StartVerdict::Refused).copied().unwrap_or_default();
    assert!(refused > ends.len(), "lost commits are noticed: {verdicts:?}");
}

#[tokio::test]
#[ignore = "takes minutes: cargo long"]
async fn many_flipped_bits_lose_no_acknowledged_write() {
    suffer(flips(240)).await;
}
