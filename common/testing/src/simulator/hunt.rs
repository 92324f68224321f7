//! The hunt for a planted bug: seed after seed, until an invariant breaks.

use std::{
    cell::{Cell, RefCell},
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook},
    path::Path,
    sync::Once,
};

use super::{Bug, Transcript, run};

/// How a planted bug showed.
pub struct Found {
    pub seed: u64,
    /// The file of the check that failed: an invariant's, or an assertion's of the cores.
    pub by: String,
    pub reason: String,
}

thread_local! {
    static HUNTING: Cell<bool> = const { Cell::new(false) };
    static BROKEN: RefCell<(String, String)> = RefCell::default();
}

/// Runs seeds with a bug planted until one breaks.
pub fn hunt(bug: Bug, mut seeds: Range<u64>) -> Option<Found> {
    listen();
    HUNTING.set(true);
    let breaks = |seed: &u64| {
        catch_unwind(AssertUnwindSafe(|| run(*seed, Some(bug), &mut Transcript::off()))).is_err()
    };
    let seed = seeds.find(breaks);
    HUNTING.set(false);
    let (by, reason) = BROKEN.take();
    seed.map(|seed| Found { seed, by, reason })
}

/// Does something in which what breaks is expected, and not printed.
pub fn quietly(work: impl FnOnce()) {
    listen();
    HUNTING.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    HUNTING.set(false);
    if outcome.is_err() {
        let (by, reason) = BROKEN.take();
        panic!("{by}: {reason}");
    }
}

/// What breaks on a thread that hunts is what it hunts for: it is remembered there instead of printed.
fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = take_hook();
        set_hook(Box::new(move |panic| {
            if !HUNTING.get() {
                return usual(panic);
            }
            let file = panic.location().map(|location| Path::new(location.file()));
            let by = file.and_then(Path::file_stem).unwrap_or_default();
            let reason = panic.payload_as_str().unwrap_or_default().to_owned();
            BROKEN.set((by.to_string_lossy().into_owned(), reason));
        }));
    });
}
