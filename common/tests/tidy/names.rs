//! Names of types: one name stands for one thing in production code.

use std::collections::{BTreeMap, BTreeSet};

use syn::{
    Attribute, ItemEnum, ItemMod, ItemStruct, ItemTrait, ItemType, ItemUnion,
    visit::{self, Visit},
};

use crate::{repository, sources};

/// Crates whose types are compared. Two crates of one process, and two processes of one cluster, are read together.
const CRATES: &[&str] = &[
    "acceptor/src",
    "client/src",
    "client/cli/src",
    "common/src",
    "learner/src",
    "proposer/src",
];

/// Names defined in several files, each for the same job, with this job. A new name on this list needs a reason: a more
/// specific name is nearly always better.
const SAME_JOB: &[(&str, &str)] = &[
    ("Args", "the flags of a command or a role"),
    (
        "Command",
        "a command of the log: in the cores, and in the client's API",
    ),
    (
        "Condition",
        "the condition of a write: in the cores, and in the client's API",
    ),
    ("Config", "the checked configuration of a role"),
    (
        "Consistency",
        "the freshness of a read: in the client's API, and in the learner's answer",
    ),
    ("Driver", "the task that runs the core of a role"),
    ("Instruments", "the metrics of a role, or of its server"),
    (
        "Introduction",
        "an acceptor's introduction: to proposers, and to learners",
    ),
    (
        "Operation",
        "the operation of a command: in the cores, and in the client's API",
    ),
    (
        "Register",
        "the content of a key: in the cores, and in the client's API",
    ),
    ("Service", "the gRPC service of a role"),
    ("Starter", "everything needed to start a role"),
    ("Store", "the disk of a role"),
    ("StoreError", "why the disk of a role cannot be used"),
    (
        "Target",
        "the watched registers: in the client's API, and in the learner",
    ),
    ("Tracer", "the maker of spans: of a client, and of a role"),
];

/// The names of the types in a file, without tests.
#[derive(Default)]
struct TypeNames(BTreeSet<String>);

/// Whether an item is compiled for tests alone.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes
        .iter()
        .any(|attribute| attribute.path().is_ident("cfg") && mentions_test(attribute))
}

fn mentions_test(attribute: &Attribute) -> bool {
    attribute
        .parse_args::<syn::Path>()
        .is_ok_and(|condition| condition.is_ident("test"))
}

impl Visit<'_> for TypeNames {
    fn visit_item_enum(&mut self, item: &ItemEnum) {
        self.0.insert(item.ident.to_string());
    }

    fn visit_item_struct(&mut self, item: &ItemStruct) {
        self.0.insert(item.ident.to_string());
    }

    fn visit_item_trait(&mut self, item: &ItemTrait) {
        self.0.insert(item.ident.to_string());
    }

    fn visit_item_type(&mut self, item: &ItemType) {
        self.0.insert(item.ident.to_string());
    }

    fn visit_item_union(&mut self, item: &ItemUnion) {
        self.0.insert(item.ident.to_string());
    }

    fn visit_item_mod(&mut self, item: &ItemMod) {
        if !is_for_tests(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }
}

/// Whether a file holds tests, or help for tests, and is compiled for tests alone.
fn is_test_file(path: &str) -> bool {
    let mut parts = path.trim_end_matches(".rs").split('/');
    parts.any(|part| ["tests", "testing"].contains(&part))
}

fn names(text: &str) -> BTreeSet<String> {
    let mut names = TypeNames::default();
    names.visit_file(&syn::parse_file(text).expect("a source file is Rust"));
    names.0
}

/// The files of each name that several files define.
fn shared_names(files: impl IntoIterator<Item = (String, String)>) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, text) in files {
        for name in names(&text) {
            found.entry(name).or_default().push(path.clone());
        }
    }
    found.retain(|_, files| files.len() > 1);
    found
}

#[test]
fn type_name_stands_for_one_thing() {
    let files = CRATES.iter().flat_map(|part| sources(&repository().join(part)));
    let shared = shared_names(files.filter(|(path, _)| !is_test_file(path)));
    let listed: BTreeMap<&str, &str> = SAME_JOB.iter().copied().collect();
    for (name, files) in &shared {
        assert!(
            listed.contains_key(name.as_str()),
            "{name} is defined in {}: give each meaning a name of its own, or list the name with the shared job",
            files.join(", ")
        );
    }
    for name in listed.keys() {
        assert!(
            shared.contains_key(*name),
            "{name} is listed and stands in one file: take it off the list"
        );
    }
}

#[test]
fn names_of_tests_and_associated_types_are_not_compared() {
    let one =
        "struct Twice; #[cfg(test)] mod tests { struct Only; } impl Trait for Twice { type Item = u8; }";
    let two = "enum Only { A } type Item = u8; mod part { trait Twice {} }";
    let files = [("one.rs", one), ("two.rs", two)].map(|(path, text)| (path.to_owned(), text.to_owned()));
    let shared: Vec<_> = shared_names(files).into_keys().collect();
    assert_eq!(shared, ["Twice"]);
    assert!(is_test_file("acceptor/src/testing.rs") && is_test_file("common/src/paxos/learner/tests.rs"));
    assert!(!is_test_file("common/src/paxos/learner.rs"));
}
