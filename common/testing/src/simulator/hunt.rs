//! The hunt for a planted bug: seed after seed, until an invariant breaks.

use std::{
    cell::{Cell, RefCell},
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook},
    path::Path,
    sync::Once,
};

use super::{Bug, Transcript, run};

/// The seed and the failed check by which a planted bug was found.
pub struct Found {
    pub seed: u64,
    /// File of the failed check: an invariant, or an assertion of the cores.
    pub by: String,
    pub reason: String,
}

thread_local! {
    static HUNTING: Cell<bool> = const { Cell::new(false) };
    static BROKEN: RefCell<(String, String)> = RefCell::default();
}

/// Runs seeds with a planted bug until a check fails.
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

/// Runs `work`, where panics are expected, without printing any panic.
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

/// Installs a panic hook. A panic on a hunting thread is the goal of the hunt: remembered instead of printed.
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
