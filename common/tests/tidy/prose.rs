//! Plain words: no banned words in comments and documents, and few pronouns and relative words.

use std::fs;

use crate::{repository, sources};

/// Words that hide who does what. Other Rust projects of this kind have 13 to 19 in 1,000 words.
const PRONOUNS: &[&str] = &[
    "it",
    "its",
    "itself",
    "they",
    "them",
    "their",
    "theirs",
    "themselves",
    "one",
    "ones",
    "those",
    "these",
    "others",
    "another",
    "he",
    "him",
    "his",
    "she",
    "her",
    "hers",
];
/// Most pronouns in 1,000 words, over all comments.
const PRONOUNS_MAX: usize = 20;

/// Words that begin a relative clause. Other Rust projects of this kind have 8 to 16 in 1,000 words.
const RELATIVE: &[&str] = &[
    "that",
    "which",
    "who",
    "whom",
    "whose",
    "what",
    "whatever",
    "whoever",
    "whichever",
];
/// Most relative words in 1,000 words, over all comments.
const RELATIVE_MAX: usize = 16;

/// Words and phrases with a plainer replacement.
const BANNED: &[(&str, &str)] = &[
    ("tell", "report, answer, return, notify"),
    ("tells", "reports, answers, returns, notifies"),
    ("told", "reported, answered, returned, notified"),
    ("telling", "reporting, answering"),
    ("nobody", "no caller, no process"),
    ("somebody", "a client, a process"),
    ("everybody", "every client, every learner"),
    ("whoever", "the caller, the client"),
    ("anew", "again"),
    ("for ever", "permanently"),
    ("for good", "permanently"),
    ("so many", "this many, a limit of N"),
    ("in vain", "without success"),
    ("all the same", "nevertheless, or the equal thing itself"),
    ("is asked of", "the subject and a verb"),
    ("is asked for", "the subject and a verb"),
    ("way to an acceptor", "connection to an acceptor"),
];

/// Comments of a source file, or the text of a document, without code, with the number of each line.
fn prose(path: &str, text: &str) -> Vec<(usize, String)> {
    let is_document = path.ends_with(".md");
    let mut in_code = false;
    let mut found = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        let comment = if is_document {
            Some(line)
        } else if let Some(comment) = line.strip_prefix("//") {
            Some(comment.trim_start_matches(['/', '!']).trim())
        } else {
            in_code = false;
            line.split_once(" // ")
                .filter(|(code, _)| code.matches('"').count() % 2 == 0)
                .map(|(_, comment)| comment)
        };
        let Some(comment) = comment else { continue };
        if comment.starts_with("```") {
            in_code = !in_code;
        } else if !in_code {
            // Text between backticks is code.
            let words: Vec<_> = comment.split('`').step_by(2).collect();
            found.push((number, words.join(" code ")));
        }
    }
    found
}

fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|character: char| !(character.is_alphabetic() || "'’-".contains(character)))
        .filter(|word| word.starts_with(char::is_alphabetic))
        .map(str::to_lowercase)
}

/// Every source file, proto file and document, with its path from the root of the repository.
fn texts() -> Vec<(String, String)> {
    let mut texts = sources(&repository());
    let documents = [
        "README.md",
        "CHANGELOG.md",
        "client/README.md",
        "client/cli/README.md",
        "common/testing/README.md",
        "deploy/README.md",
        "deploy/compare/README.md",
        "deploy/docker.md",
        "deploy/members.md",
        "deploy/tracing.md",
        "deploy/drills/README.md",
        "deploy/kubernetes/README.md",
        "deploy/prometheus/README.md",
        "proto/paxos/v1/acceptor.proto",
        "proto/paxos/v1/election.proto",
        "proto/paxos/v1/learner.proto",
        "proto/paxos/v1/proposer.proto",
        "proto/paxos/v1/snapshot.proto",
        "proto/paxos/v1/types.proto",
    ];
    texts.extend(documents.map(|path| {
        let text = fs::read_to_string(repository().join(path)).expect("a document of the repository");
        (path.to_owned(), text)
    }));
    texts
}

#[test]
fn comments_and_documents_have_no_banned_words() {
    let mut wrong = Vec::new();
    for (path, text) in texts() {
        for (number, line) in prose(&path, &text) {
            let line = format!(" {} ", words(&line).collect::<Vec<_>>().join(" "));
            for (banned, better) in BANNED {
                if line.contains(&format!(" {banned} ")) {
                    wrong.push(format!("{path}:{number}: not \"{banned}\", but {better}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn comments_and_documents_name_their_subjects() {
    let (mut total, mut pronouns, mut relative) = (0, 0, 0);
    let mut files = Vec::new();
    for (path, text) in texts() {
        let words: Vec<_> = prose(&path, &text)
            .iter()
            .flat_map(|(_, line)| words(line))
            .collect();
        let count = |list: &[&str]| words.iter().filter(|word| list.contains(&word.as_str())).count();
        let found = (count(PRONOUNS), count(RELATIVE));
        files.push((found.0 + found.1, words.len(), path));
        total += words.len();
        pronouns += found.0;
        relative += found.1;
    }
    files.sort_unstable_by(|one, other| other.cmp(one));
    files.truncate(10);
    assert!(
        pronouns * 1_000 <= PRONOUNS_MAX * total && relative * 1_000 <= RELATIVE_MAX * total,
        "{pronouns} pronouns and {relative} relative words in {total} words: say who does what, with nouns. Most of \
         them are in (number, words, file) {files:#?}"
    );
}

#[test]
fn code_and_quoted_names_are_no_prose() {
    let text = "//! It is `told`.\n//! ```\n//! told();\n//! ```\nlet told = 1; // A note.\n";
    let lines = prose("a.rs", text);
    assert_eq!(
        lines,
        [(1, "It is  code .".to_owned()), (5, "A note.".to_owned())]
    );
}
