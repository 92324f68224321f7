//! Power cuts of a real process: every directory that a cut at any moment may leave behind.
//!
//! A small C library stops the process before each sync, each rename and each removal in its directory. At each stop the
//! recorder reads all files. Afterwards [`PowerRecorder::cuts`] makes the directories that a power cut at a stop may leave:
//!
//! - Names changed since the last sync of the directory: any of these changes may be lost, each alone or together.
//! - Bytes written since the last sync of a file: all there, or all lost.
//!
//! A file without a sync ever is empty after the second kind of cut. Everything at the begin of the record counts as durable.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{
        fs::MetadataExt as _,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

/// Source of the library.
const PAUSE: &str = include_str!("power_cuts/pause.c");
/// Up to this number of unsynced changes of names, every subset may be lost.
const SUBSETS_MAX: usize = 5;

/// The identity of a file: the kernel uses the number of a removed file again.
type FileIdentity = (u64, Option<SystemTime>);
type FileContent = Arc<[u8]>;

/// The operation that a stopped process is about to carry out. Names of files in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
enum NextOperation {
    /// The record begins or ends.
    None,
    SyncNames,
    Sync(String),
    Rename(String, String),
    Remove(String),
}

/// The files at a stop.
#[derive(Clone, Debug)]
struct Moment {
    next: NextOperation,
    names: BTreeMap<String, FileIdentity>,
    contents: BTreeMap<FileIdentity, FileContent>,
}

#[derive(Debug)]
struct Record {
    directory: PathBuf,
    is_running: bool,
    moments: Vec<Moment>,
}

/// Records the stops of a process.
#[derive(Debug)]
pub struct PowerRecorder {
    record: Arc<Mutex<Record>>,
    library: PathBuf,
    socket: PathBuf,
}

/// A directory after a power cut.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PowerCut {
    /// Number of the stop: see [`PowerRecorder::moments`].
    pub moment: usize,
    /// What the process was about to do, and what was lost.
    pub what: String,
    files: BTreeMap<String, FileContent>,
}

impl PowerCut {
    /// Writes the files into an empty directory.
    pub fn write_to(&self, directory: &Path) {
        for (name, content) in &self.files {
            fs::write(directory.join(name), content).unwrap();
        }
    }
}

/// Runs an ignored test of this test binary as a process, with the path of `directory` in the environment variable `variable`.
/// Returns every directory that a power cut may leave, and the number of stops of the process: at a cut from this stop on,
/// the process had ended well. `None` without a C compiler.
pub fn cuts_of_test(test: &str, variable: &str, directory: &Path) -> Option<(Vec<PowerCut>, usize)> {
    let own = tempfile::tempdir().unwrap();
    let recorder = PowerRecorder::new(directory, own.path())?;
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--ignored", "--quiet"]);
    command.envs(recorder.environment()).env(variable, directory);
    recorder.begin();
    let ended = command.output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    let moments = recorder.moments();
    recorder.end();
    Some((recorder.cuts(), moments))
}

impl PowerRecorder {
    /// A recorder of the processes started with [`Self::environment`]. Its own files are in `own`. `None` without a C
    /// compiler.
    #[expect(clippy::print_stdout, reason = "for the person who runs the test")]
    pub fn new(directory: &Path, own: &Path) -> Option<Self> {
        let (source, library) = (own.join("pause.c"), own.join("pause.so"));
        fs::write(&source, PAUSE).unwrap();
        let mut command = Command::new("cc");
        command.args(["-shared", "-fPIC", "-o"]);
        match command.args([&library, &source]).arg("-ldl").output() {
            Ok(output) => assert!(output.status.success(), "{output:?}"),
            Err(error) => {
                println!("skipped: there is no C compiler here: {error}");
                return None;
            }
        }
        let socket = own.join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let record = Arc::new(Mutex::new(Record {
            directory: directory.canonicalize().unwrap(),
            is_running: false,
            moments: Vec::new(),
        }));
        let shared = Arc::clone(&record);
        // Ends with the test.
        std::thread::spawn(move || {
            for question in listener.incoming() {
                answer(&shared, &question.unwrap());
            }
        });
        Some(Self {
            record,
            library,
            socket,
        })
    }

    /// The environment of a process that is recorded.
    pub fn environment(&self) -> [(&'static str, PathBuf); 3] {
        [
            ("LD_PRELOAD", self.library.clone()),
            ("POWER_CUT_DIRECTORY", self.lock().directory.clone()),
            ("POWER_CUT_SOCKET", self.socket.clone()),
        ]
    }

    /// Begins the record.
    pub fn begin(&self) {
        let mut record = self.lock();
        record.is_running = true;
        record.note(NextOperation::None);
    }

    /// Ends the record. The process is idle, or gone.
    pub fn end(&self) {
        let mut record = self.lock();
        record.note(NextOperation::None);
        record.is_running = false;
    }

    /// Number of stops so far: everything that the process has answered by now is durable at every cut from this stop on.
    pub fn moments(&self) -> usize {
        self.lock().moments.len()
    }

    /// Every directory that a power cut may leave, each once, in the order of the stops.
    pub fn cuts(&self) -> Vec<PowerCut> {
        let record = self.lock();
        let first = record.moments.first().expect("the record has begun");
        let mut durable = DurableFiles {
            names: first.names.clone(),
            contents: first.contents.clone(),
            changes: Vec::new(),
            latest: BTreeMap::new(),
        };
        let (mut cuts, mut seen) = (Vec::new(), BTreeSet::new());
        let mut before: Option<&Moment> = None;
        for (number, moment) in record.moments.iter().enumerate() {
            if let Some(before) = before {
                durable.changes.extend(changes(before, moment));
            }
            durable.latest.extend(moment.contents.clone());
            for cut in durable.cuts(number, moment) {
                if seen.insert(cut.files.clone()) {
                    cuts.push(cut);
                }
            }
            durable.synced(moment);
            before = Some(moment);
        }
        cuts
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a power cut cannot take.
struct DurableFiles {
    names: BTreeMap<String, FileIdentity>,
    contents: BTreeMap<FileIdentity, FileContent>,
    /// The changes of names since the last sync of the directory.
    changes: Vec<NameChange>,
    /// The latest content of each file, removed files included.
    latest: BTreeMap<FileIdentity, FileContent>,
}

/// Names that change together.
type NameChange = Vec<(String, Option<FileIdentity>)>;

impl DurableFiles {
    fn cuts(&self, number: usize, moment: &Moment) -> Vec<PowerCut> {
        let mut cuts = Vec::new();
        for kept in subsets(self.changes.len()) {
            let mut names = self.names.clone();
            for (name, file) in kept.iter().flat_map(|&change| &self.changes[change]) {
                match file {
                    Some(file) => names.insert(name.clone(), *file),
                    None => names.remove(name),
                };
            }
            for bytes_lost in [false, true] {
                let contents = if bytes_lost { &self.contents } else { &self.latest };
                let content = |file| contents.get(file).cloned().unwrap_or_default();
                let files = names.iter().map(|(name, file)| (name.clone(), content(file)));
                let lost = self.changes.len() - kept.len();
                let what = format!(
                    "stop {number}, before {:?}: {lost} of {} new names lost, new bytes lost: {bytes_lost}",
                    moment.next,
                    self.changes.len()
                );
                cuts.push(PowerCut {
                    moment: number,
                    what,
                    files: files.collect(),
                });
            }
        }
        cuts
    }

    /// The next operation of the process is carried out.
    fn synced(&mut self, moment: &Moment) {
        match &moment.next {
            NextOperation::SyncNames => {
                self.names = moment.names.clone();
                self.changes.clear();
            }
            NextOperation::Sync(name) => {
                let file = moment.names.get(name);
                let content = file.and_then(|file| Some((*file, moment.contents.get(file)?.clone())));
                self.contents.extend(content);
            }
            NextOperation::None | NextOperation::Rename(..) | NextOperation::Remove(_) => {}
        }
    }
}

/// The kept changes of each case.
fn subsets(changes: usize) -> Vec<Vec<usize>> {
    if changes <= SUBSETS_MAX {
        let of = |bits: u32| {
            (0..changes)
                .filter(move |change| bits & (1 << change) != 0)
                .collect()
        };
        return (0..1 << changes).map(of).collect();
    }
    let first = (0..=changes).map(|end| (0..end).collect());
    let without = (0..changes).map(|lost| (0..changes).filter(|&change| change != lost).collect());
    first.chain(without).collect()
}

/// The changes of names from a stop to the next. A rename changes two names at once.
fn changes(before: &Moment, after: &Moment) -> Vec<NameChange> {
    let names: BTreeSet<_> = before.names.keys().chain(after.names.keys()).collect();
    let changed = names
        .into_iter()
        .filter(|name| before.names.get(*name) != after.names.get(*name));
    let changed: NameChange = changed
        .map(|name| (name.clone(), after.names.get(name).copied()))
        .collect();
    let is_renamed =
        |name: &String| matches!(&before.next, NextOperation::Rename(from, to) if name == from || name == to);
    let (renamed, others): (NameChange, NameChange) =
        changed.into_iter().partition(|(name, _)| is_renamed(name));
    let renamed = Some(renamed).filter(|renamed| !renamed.is_empty());
    renamed
        .into_iter()
        .chain(others.into_iter().map(|change| vec![change]))
        .collect()
}

impl Record {
    fn note(&mut self, next: NextOperation) {
        let (mut names, mut contents) = (BTreeMap::new(), BTreeMap::new());
        for entry in fs::read_dir(&self.directory).unwrap() {
            let entry = entry.unwrap();
            let Ok(metadata) = entry.metadata() else { continue };
            if !metadata.is_file() {
                continue;
            }
            let file = (metadata.ino(), metadata.created().ok());
            names.insert(entry.file_name().into_string().unwrap(), file);
            contents.insert(file, fs::read(entry.path()).unwrap().into());
        }
        self.moments.push(Moment {
            next,
            names,
            contents,
        });
    }

    /// The operation of a question.
    fn operation(&self, operation: &str, path: &str, to: &str) -> NextOperation {
        let name = |path: &str| {
            let name = Path::new(path).strip_prefix(&self.directory).ok();
            name.map_or_else(String::new, |name| name.display().to_string())
        };
        match operation {
            "sync" if Path::new(path) == self.directory => NextOperation::SyncNames,
            "sync" => NextOperation::Sync(name(path)),
            "rename" => NextOperation::Rename(name(path), name(to)),
            "unlink" => NextOperation::Remove(name(path)),
            other => panic!("an unknown operation: {other}"),
        }
    }
}

/// Notes the stop of a process, and lets the process go on.
fn answer(record: &Mutex<Record>, question: &UnixStream) {
    let mut line = String::new();
    BufReader::new(question).read_line(&mut line).unwrap();
    let mut words = line.trim_end_matches('\n').split('\t');
    let [process, operation, path, to] = [(); 4].map(|()| words.next().unwrap_or_default());
    let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
    if record.is_running {
        // No other thread of the process writes meanwhile.
        signal(process, "-STOP");
        while !is_stopped(process) {
            std::thread::yield_now();
        }
        let next = record.operation(operation, path, to);
        record.note(next);
        signal(process, "-CONT");
    }
    // The process may have been killed meanwhile.
    let _ = (&*question).write_all(b".");
}

fn signal(process: &str, signal: &str) {
    let sent = Command::new("kill").args([signal, process]).status().unwrap();
    assert!(sent.success(), "kill {signal} {process}");
}

/// Whether every thread of a process is stopped.
fn is_stopped(process: &str) -> bool {
    let mut threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    threads.all(|thread| {
        let state = fs::read_to_string(thread.unwrap().path().join("stat"));
        // The state follows the name in brackets. A thread that has ended writes no more.
        state.is_ok_and(|state| {
            state
                .rsplit(')')
                .next()
                .is_some_and(|rest| rest.starts_with(" T"))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A moment with these files: a name, the number of the file, and the content.
    fn moment(next: NextOperation, files: &[(&str, u64, &str)]) -> Moment {
        let names = files
            .iter()
            .map(|&(name, file, _)| (name.to_owned(), (file, None)));
        let contents = files
            .iter()
            .map(|&(_, file, content)| ((file, None), content.as_bytes().into()));
        Moment {
            next,
            names: names.collect(),
            contents: contents.collect(),
        }
    }

    /// The directories after all cuts, as texts.
    fn cuts(moments: Vec<Moment>) -> BTreeSet<String> {
        let record = Record {
            directory: PathBuf::new(),
            is_running: false,
            moments,
        };
        let recorder = PowerRecorder {
            record: Arc::new(Mutex::new(record)),
            library: PathBuf::new(),
            socket: PathBuf::new(),
        };
        let text = |cut: PowerCut| {
            let files = cut.files.iter();
            let files = files.map(|(name, content)| format!("{name}={}", str::from_utf8(content).unwrap()));
            files.collect::<Vec<_>>().join(" ")
        };
        recorder.cuts().into_iter().map(text).collect()
    }

    /// A new file takes the place of an old file by these operations.
    fn replaced(is_synced: bool, names_synced: bool) -> BTreeSet<String> {
        let old = ("file", 1, "old");
        let rename = || NextOperation::Rename("new".into(), "file".into());
        let sync = || NextOperation::Sync("new".into());
        let mut moments = vec![moment(NextOperation::None, &[old])];
        if is_synced {
            moments.push(moment(sync(), &[old, ("new", 2, "whole")]));
        }
        moments.push(moment(rename(), &[old, ("new", 2, "whole")]));
        if names_synced {
            moments.push(moment(NextOperation::SyncNames, &[("file", 2, "whole")]));
        }
        moments.push(moment(NextOperation::None, &[("file", 2, "whole")]));
        cuts(moments)
    }

    fn set(texts: &[&str]) -> BTreeSet<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn cut_loses_unsynced_bytes_and_unsynced_names() {
        let safe = set(&["file=old", "file=old new=", "file=old new=whole", "file=whole"]);
        assert_eq!(replaced(true, true), safe);
        assert_eq!(
            replaced(true, false),
            safe,
            "the old name may come back at the end"
        );
        let mut unsafe_ = safe;
        unsafe_.insert("file=".into());
        assert_eq!(replaced(false, true), unsafe_);
    }

    #[test]
    fn each_lost_change_of_a_name_is_tried_alone() {
        let all = [("one", 1, "1"), ("two", 2, "2")];
        let remove = |name: &str| NextOperation::Remove(name.into());
        let moments = vec![
            moment(NextOperation::None, &all),
            moment(remove("one"), &all),
            moment(remove("two"), &all[1..]),
            moment(NextOperation::SyncNames, &[]),
            moment(NextOperation::None, &[]),
        ];
        assert_eq!(cuts(moments), set(&["", "one=1", "two=2", "one=1 two=2"]));
    }

    #[test]
    fn many_changes_are_lost_in_order_or_one_by_one() {
        assert_eq!(subsets(SUBSETS_MAX).len(), 1 << SUBSETS_MAX);
        let many = subsets(SUBSETS_MAX + 1);
        assert_eq!(many.len(), 2 * (SUBSETS_MAX + 1) + 1);
        assert!(many.contains(&vec![]) && many.contains(&vec![0, 1, 2, 4, 5]));
    }
}
