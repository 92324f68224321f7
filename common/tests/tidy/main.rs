//! Project rules that a program can check, over every source file of the repository.

mod circles;
mod names;
mod prose;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Limit of lines of a file (inclusive). A longer file does more than the first line says.
const LINES_MAX: usize = 500;

/// Limit of bytes of a committed file (inclusive). Every clone downloads such a file, and no person reads a larger
/// file.
const BYTES_MAX: u64 = 256 << 10;

/// Names forbidden in the cores. Time, chance, disks, networks, runtimes and logs come in as events or not at all.
const IMPURE: &[&str] = &[
    "tokio",
    "tonic",
    "sqlx",
    "futures",
    "tracing",
    "rand",
    "paxos_proto",
    "prost",
    "std::fs",
    "std::net",
    "std::thread",
    "std::env",
    "std::process",
    "SystemTime",
    "Instant",
    "HashMap",
    "HashSet",
    "println!",
];

fn repository() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    root.expect("this crate is a directory of the repository")
        .to_owned()
}

/// Every source file below `directory`, with its path from the root of the repository and its text, in order.
fn sources(directory: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("a directory of the repository") {
            let path = entry.expect("an entry of it").path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    directories.push(path);
                }
            } else if name.ends_with(".rs") {
                let text = fs::read_to_string(&path).expect("a source file is text");
                let from_root = path.strip_prefix(repository()).expect("found below the root");
                found.push((from_root.to_string_lossy().into_owned(), text));
            }
        }
    }
    found.sort();
    found
}

/// The code of a line, without the comment.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// Whether `word` occurs in `line` as a whole name, and not as part of a longer name.
fn mentions(line: &str, word: &str) -> bool {
    let is_name = |character: char| character.is_alphanumeric() || character == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(is_name) && !after.is_some_and(is_name)
    })
}

#[test]
fn cores_import_nothing_impure() {
    let cores = sources(&repository().join("common/src/paxos"));
    assert!(cores.len() > 10, "the cores are somewhere else by now");
    for (path, text) in cores {
        for (number, line) in (1..).zip(text.lines()) {
            for impure in IMPURE {
                assert!(
                    !mentions(code(line), impure),
                    "{path}:{number}: a core must not use {impure}: {line}"
                );
            }
        }
    }
}

#[test]
fn every_file_says_its_one_job_first() {
    let sources = sources(&repository());
    assert!(sources.len() > 50, "the sources are somewhere else by now");
    for (path, text) in sources {
        assert!(
            text.starts_with("//! "),
            "{path}: the first line says what the file is for: //! …"
        );
    }
}

#[test]
fn no_file_is_longer_than_it_can_be_read() {
    for (path, text) in sources(&repository()) {
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX, "{path} has {lines} lines: split it");
    }
}

#[test]
fn nothing_large_is_committed() {
    let listed = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(repository())
        .output();
    // Sources without git history have nothing to commit.
    let Some(listed) = listed.ok().filter(|listed| listed.status.success()) else {
        return;
    };
    let listed = String::from_utf8(listed.stdout).expect("names of files are text");
    for path in listed.split_terminator('\0') {
        // A listed but missing file is about to be removed.
        if let Ok(file) = repository().join(path).symlink_metadata() {
            assert!(
                file.len() <= BYTES_MAX,
                "{path} has {} bytes: it was hardly meant to be committed",
                file.len()
            );
        }
    }
}

#[test]
fn words_are_found_whole_and_comments_are_not_code() {
    assert!(mentions("use rand::RngExt;", "rand"));
    assert!(!mentions("let operand = 1;", "rand"));
    assert!(mentions(code("std::fs::read(path); // reads"), "std::fs"));
    assert!(!mentions(code("let a = 1; // std::fs"), "std::fs"));
}
