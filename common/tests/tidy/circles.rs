//! Circles: no files of a crate import each other, directly or through further files.
//!
//! A file and the files of its own sub-modules belong together, and do not count: a module may use its parts, and a part
//! its module.

use std::collections::{BTreeMap, BTreeSet};

use syn::{
    ItemMod, ItemUse, Path, UseTree,
    visit::{self, Visit},
};

use crate::{repository, sources};

/// Crates whose files are checked. The simulator and the model are one world, spread over files by subject.
const CRATES: &[&str] = &[
    "acceptor/src",
    "client/src",
    "client/cli/src",
    "common/src",
    "learner/src",
    "proposer/src",
    "proto/src",
];

/// The path of a module from the root of its crate.
type Module = Vec<String>;

/// Collects the paths in a file.
#[derive(Default)]
struct Paths(Vec<Vec<String>>);

impl Paths {
    fn add(&mut self, tree: &UseTree, prefix: &[String]) {
        let with = |name: String| [prefix, &[name]].concat();
        match tree {
            UseTree::Path(path) => self.add(&path.tree, &with(path.ident.to_string())),
            UseTree::Name(name) => self.0.push(with(name.ident.to_string())),
            UseTree::Rename(rename) => self.0.push(with(rename.ident.to_string())),
            UseTree::Glob(_) => self.0.push(prefix.to_vec()),
            UseTree::Group(group) => group.items.iter().for_each(|item| self.add(item, prefix)),
        }
    }
}

impl Visit<'_> for Paths {
    fn visit_item_use(&mut self, item: &ItemUse) {
        self.add(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &Path) {
        self.0
            .push(path.segments.iter().map(|part| part.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_item_mod(&mut self, item: &ItemMod) {
        // Tests may use everything.
        if item.ident != "tests" {
            visit::visit_item_mod(self, item);
        }
    }
}

/// The module of a file, from its path below `src`.
fn module_of(path: &str) -> Module {
    let mut parts: Module = path
        .trim_end_matches(".rs")
        .split('/')
        .map(str::to_owned)
        .collect();
    if parts
        .last()
        .is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str()))
    {
        parts.pop();
    }
    parts
}

/// The module that a path in `module` names, as far as the path leads to a file.
fn named(path: &[String], module: &[String], modules: &BTreeSet<Module>) -> Option<Module> {
    let mut whole = match path.first()?.as_str() {
        "crate" => path[1..].to_vec(),
        "self" => [module, &path[1..]].concat(),
        "super" => {
            let up = path.iter().take_while(|part| *part == "super").count();
            [module.get(..module.len().checked_sub(up)?)?, &path[up..]].concat()
        }
        _ => [module, path].concat(),
    };
    while !modules.contains(&whole) {
        whole.pop()?;
    }
    Some(whole)
}

/// What each file uses, without the files above and below.
fn uses(files: &[(String, String)], directory: &str) -> BTreeMap<Module, BTreeSet<Module>> {
    let below = |path: &str| path.strip_prefix(directory)?.strip_prefix('/').map(module_of);
    let modules: BTreeSet<_> = files.iter().filter_map(|(path, _)| below(path)).collect();
    let mut uses = BTreeMap::new();
    for (path, text) in files {
        let Some(module) = below(path) else { continue };
        if module.iter().any(|part| part == "tests") {
            continue;
        }
        let mut paths = Paths::default();
        let file = syn::parse_file(text).unwrap_or_else(|error| panic!("{path}: {error}"));
        paths.visit_file(&file);
        let named = paths.0.iter().filter_map(|path| named(path, &module, &modules));
        let apart = named.filter(|other| !other.starts_with(&module) && !module.starts_with(other));
        uses.insert(module.clone(), apart.collect());
    }
    uses
}

/// Everything that `from` uses, directly or through further files.
fn reached<'a>(from: &'a Module, uses: &'a BTreeMap<Module, BTreeSet<Module>>) -> BTreeSet<&'a Module> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<_> = uses.get(from).into_iter().flatten().collect();
    while let Some(module) = next.pop() {
        if reached.insert(module) {
            next.extend(uses.get(module).into_iter().flatten());
        }
    }
    reached
}

#[test]
fn no_files_import_each_other() {
    let files = sources(&repository());
    let mut circles = Vec::new();
    for directory in CRATES {
        let uses = uses(&files, directory);
        assert!(!uses.is_empty(), "{directory} has no files");
        let in_circles = uses
            .keys()
            .filter(|module| reached(module, &uses).contains(module));
        circles.extend(in_circles.map(|module| format!("{directory}: {}", module.join("::"))));
    }
    assert!(
        circles.is_empty(),
        "these files import each other, directly or through further files: {circles:#?}"
    );
}

#[test]
fn circle_through_three_files_is_found() {
    let file = |path: &str, text: &str| (path.to_owned(), text.to_owned());
    let files = [
        file("c/src/lib.rs", "mod a; mod b; mod d;"),
        file("c/src/a.rs", "use crate::b::B;"),
        file("c/src/b.rs", "fn f() { super::d::g(); }"),
        file("c/src/d.rs", "use crate::{a::{self, A}, b};"),
        file("c/src/d/tests.rs", "use crate::b;"),
    ];
    let uses = uses(&files, "c/src");
    let module = |name: &str| vec![name.to_owned()];
    assert!(reached(&module("a"), &uses).contains(&module("a")));
    assert!(!reached(&Module::new(), &uses).contains(&Module::new()));
}
