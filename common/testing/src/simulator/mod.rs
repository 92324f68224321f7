//! A whole cluster of cores in a single thread: network, disks, clocks, faults and clients, all drawn from a seed.
//!
//! A heap holds all happenings, ordered by simulated time and then by the order of planning. Nothing else decides the
//! next step, so a seed is a schedule. The invariants see every step, and panic when broken. A run has two parts:
//! faults for some simulated seconds, then a healed network with required progress.
//!
//! In a third of the runs, an operator asks for two or three changes of members, among five machines: members are replaced, added
//! and removed, and the quorums change. At the end, every process works with the latest configuration.

mod acceptors;
mod answers;
mod asking;
mod bugs;
mod calls;
mod change_faults;
mod changes;
mod clients;
mod clock;
mod decide;
mod discovery;
mod disk_faults;
mod disks;
mod effects;
mod faults;
mod forms;
mod groups;
mod happenings;
mod hearing;
mod hunt;
mod inquiries;
mod introductions;
mod knobs;
mod known;
mod learner_eras;
mod learners;
mod log;
mod network;
mod proposers;
mod readers;
mod reads;
mod reign;
mod requests;
pub mod scenarios;
mod sessions;
mod statistics;
mod stream_ends;
mod streams;
#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "a bug concerns a few messages, and leaves the others alone"
)]
mod tamper;
mod tamper_changes;
#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "a bug concerns a few events, and leaves the others alone"
)]
mod tamper_patience;
mod torn_disks;
mod transcript;
mod trims;
mod world;

use crate::invariants;

pub use crate::bug::Bug;
pub use hunt::{Found, hunt, quietly};
pub use statistics::Statistics;
pub use transcript::Transcript;

/// The result of a run.
pub struct Run {
    /// Hash of all happenings, in order: equal seeds have equal traces.
    pub trace: u64,
    pub statistics: Statistics,
}

/// Runs a schedule to its end, with a planted bug or without.
///
/// # Panics
/// If an invariant breaks, or the healed cluster makes no progress.
pub fn run(seed: u64, bug: Option<Bug>, transcript: &mut Transcript) -> Run {
    world::World::new(seed, bug, transcript).run()
}

/// Runs a schedule, and catches panics. A failure includes the last part of the transcript.
pub fn try_run(seed: u64) -> Result<Run, String> {
    let guarded = |transcript: &mut Transcript| {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seed, None, transcript)))
    };
    guarded(&mut Transcript::off()).map_err(|panic| {
        let reason = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_default();
        let mut transcript = Transcript::last(LINES_SHOWN);
        let again = if guarded(&mut transcript).is_ok() {
            "\n(the second run of this seed passed: the simulator itself depends on something else)"
        } else {
            ""
        };
        format!("{transcript}\nseed {seed}: {reason}{again}\nreplay it: cargo sim {seed}")
    })
}

/// Number of transcript lines shown for a failed run: enough for the last campaign or two.
const LINES_SHOWN: usize = 60;
