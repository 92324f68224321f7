//! Space on the disk: stops granting before the space runs out, and keeps a spare file as a reserve.
//!
//! SQLite without space fails in the middle of a commit, and a failed commit ends the process. So an acceptor stops in
//! time: nothing is granted while the free space is less than a commit and a checkpoint can take. Free pages of the file
//! count too, because a commit uses these pages before the file grows. So a trim alone brings a full acceptor back:
//! trims and sweeps continue while nothing is granted.
//!
//! There are two limits, each with a higher limit for going on: for the disk alone, and for the disk with the free pages.
//! Free pages lift the second limit only. Otherwise many free pages would leave the first limit without a distance, and
//! the acceptor would stop and go on with each change of a log file beside it.
//!
//! Other programs may fill the disk anyway. Then the spare file is removed: work in progress can finish, and a process
//! started on the full disk can record the new run. When there is space again, the spare file is recreated.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{FallocateFlags, fallocate, statvfs},
    io::Errno,
};
use tracing::{error, info, warn};

use super::SpaceLevel;

const MIB: u64 = 1024 * 1024;
/// Size of the spare file, in bytes: a few checkpoints.
const SPARE_BYTES: u64 = 16 * MIB;
/// Free bytes on the disk below which nothing is granted: room for the write-ahead log and one commit.
const FREE_MIN: u64 = 24 * MIB;
/// Free bytes on the disk from which requests are granted again after the disk fell below [`FREE_MIN`]: the acceptor's own
/// write-ahead log takes and returns at most the difference.
const FREE_AGAIN: u64 = 40 * MIB;
/// Free bytes on the disk and in the file below which nothing is granted: room for one commit in the write-ahead log, and
/// for copying back the whole log.
const STOP_BELOW: u64 = 32 * MIB;
/// Free bytes on the disk and in the file from which requests are granted again: above [`STOP_BELOW`] against flapping.
const RESUME_FROM: u64 = 48 * MIB;
/// Free bytes on the disk below which the spare file is removed, and no trim or sweep begins.
const SPARE_BELOW: u64 = 8 * MIB;

/// Free bytes that an arriving snapshot leaves on the disk, at least. An upload never stops the votes: beside the limit for
/// votes there is room for the write-ahead log. While nothing is granted, less is enough: the snapshot is the way back, and
/// the swept pages count.
pub(crate) fn left_by_uploads(is_granting: bool) -> u64 {
    if is_granting {
        STOP_BELOW + (FREE_AGAIN - FREE_MIN)
    } else {
        FREE_MIN
    }
}

/// Watches the space on one directory's disk.
#[derive(Debug)]
pub(super) struct Space {
    directory: Arc<Path>,
    spare: Spare,
    /// The disk fell below [`FREE_MIN`] and has not reached [`FREE_AGAIN`].
    short: bool,
    /// Nothing is granted.
    low: bool,
    /// Not even trims and sweeps.
    exhausted: bool,
}

/// State of the spare file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spare {
    Kept,
    GivenUp,
    /// The file cannot be made here, for a reason other than space.
    Impossible,
}

impl Space {
    /// Removes a spare file from a full disk before the database is open. Creates nothing: the directory may be refused.
    pub(super) async fn watch(directory: &Path) -> Self {
        let kept = fs::metadata(spare_file(directory)).is_ok_and(|spare| spare.len() == SPARE_BYTES);
        let mut space = Self {
            directory: directory.into(),
            spare: if kept { Spare::Kept } else { Spare::GivenUp },
            short: false,
            low: false,
            exhausted: false,
        };
        if space.spare == Spare::Kept && free_bytes(directory).is_some_and(|free| free < SPARE_BELOW) {
            space.give_up_spare().await;
        }
        space
    }

    /// What the space allows before the next write. `file_free`: reads the bytes of the file's free pages; called only
    /// if the disk alone has too little free space.
    pub(super) async fn level(&mut self, file_free: impl AsyncFnOnce() -> u64) -> SpaceLevel {
        if let Some(free) = free_bytes(&self.directory) {
            let is_plenty = free >= RESUME_FROM + SPARE_BYTES;
            let file_free = if is_plenty { 0 } else { file_free().await };
            self.look(free, file_free).await;
        }
        match (self.low, self.exhausted) {
            (false, _) => SpaceLevel::Enough,
            (true, false) => SpaceLevel::Low,
            (true, true) => SpaceLevel::Exhausted,
        }
    }

    /// `free`: bytes on the disk; `file_free`: bytes of the file's free pages.
    async fn look(&mut self, free: u64, file_free: u64) {
        let wanted = if self.low { RESUME_FROM } else { STOP_BELOW };
        let disk_wanted = if self.short { FREE_AGAIN } else { FREE_MIN };
        let for_spare = if self.spare == Spare::GivenUp {
            SPARE_BYTES
        } else {
            0
        };
        self.short = free < disk_wanted + for_spare;
        let enough =
            !self.short && free.saturating_add(file_free) >= wanted + for_spare && self.have_spare().await;
        if enough && self.low {
            info!(
                free_mib = free / MIB,
                "the disk has space again: this acceptor continues"
            );
        } else if !enough && !self.low {
            error!(
                free_mib = free / MIB,
                directory = %self.directory.display(),
                "too little space on the disk: this acceptor promises and accepts nothing, the other acceptors \
                 continue without it. Free at least {} MiB; this acceptor then continues by itself",
                (RESUME_FROM + SPARE_BYTES) / MIB
            );
        }
        self.low = !enough;
        self.exhausted = free < SPARE_BELOW;
        if self.low && self.spare == Spare::Kept && free < SPARE_BELOW {
            self.give_up_spare().await;
        }
    }

    /// Makes a missing spare file; returns whether there was space.
    async fn have_spare(&mut self) -> bool {
        if self.spare != Spare::GivenUp {
            return true;
        }
        match self.on_disk(make_spare).await {
            Ok(()) => self.spare = Spare::Kept,
            Err(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
                return false;
            }
            Err(error) => {
                warn!(%error, "cannot create the spare file for a full disk; this acceptor runs without a spare file");
                self.spare = Spare::Impossible;
            }
        }
        true
    }

    async fn give_up_spare(&mut self) {
        match self.on_disk(|file| fs::remove_file(file)).await {
            Ok(()) => {
                self.spare = Spare::GivenUp;
                info!("removed the spare file: the disk is full");
            }
            Err(error) => warn!(%error, "cannot remove the spare file"),
        }
    }

    async fn on_disk(&self, work: fn(&Path) -> io::Result<()>) -> io::Result<()> {
        let file = spare_file(&self.directory);
        let done = tokio::task::spawn_blocking(move || work(&file)).await;
        done.unwrap_or_else(|cancelled| Err(io::Error::other(cancelled)))
    }
}

/// Free bytes on the disk of a directory; none if the operating system gives no figure. In this case only a failed write
/// shows a full disk.
pub(crate) fn free_bytes(directory: &Path) -> Option<u64> {
    // `statvfs` reads counters of the kernel and does not wait for the disk.
    match statvfs(directory) {
        Ok(found) => Some(found.f_bavail.saturating_mul(found.f_frsize)),
        Err(error) => {
            tracing::debug!(%error, "cannot read the size of the free space");
            None
        }
    }
}

fn spare_file(directory: &Path) -> PathBuf {
    directory.join("SPARE")
}

/// Makes the spare file; returns once the space is allocated permanently. An incomplete file is removed.
fn make_spare(file: &Path) -> io::Result<()> {
    let fill = || {
        let mut spare = File::create(file)?;
        match fallocate(&spare, FallocateFlags::empty(), 0, SPARE_BYTES) {
            Ok(()) => {}
            // Some file systems lack `fallocate`; all support writes.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                let zeros = vec![0; usize::try_from(MIB).map_err(io::Error::other)?];
                for _ in 0..SPARE_BYTES / MIB {
                    spare.write_all(&zeros)?;
                }
            }
            Err(error) => return Err(error.into()),
        }
        spare.sync_all()
    };
    fill().inspect_err(|_| drop(fs::remove_file(file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(directory: &tempfile::TempDir, spare: Spare) -> Space {
        Space {
            directory: directory.path().into(),
            spare,
            short: false,
            low: false,
            exhausted: false,
        }
    }

    fn spare_bytes(directory: &tempfile::TempDir) -> Option<u64> {
        Some(fs::metadata(spare_file(directory.path())).ok()?.len())
    }

    #[tokio::test]
    async fn first_look_makes_the_spare_file_and_the_next_process_keeps_it() {
        let directory = tempfile::tempdir().unwrap();
        let mut space = Space::watch(directory.path()).await;
        assert_eq!(spare_bytes(&directory), None, "the directory may be refused");
        let level = space.level(async || 0).await;
        assert_eq!(level, SpaceLevel::Enough, "the tests need some free space");
        assert_eq!(spare_bytes(&directory), Some(SPARE_BYTES));
        assert_eq!(Space::watch(directory.path()).await.spare, Spare::Kept);
    }

    #[tokio::test]
    async fn stops_in_time_and_resumes_with_some_more() {
        let directory = tempfile::tempdir().unwrap();
        let mut space = space(&directory, Spare::Kept);
        let mut low = Vec::new();
        for free in [
            STOP_BELOW,
            STOP_BELOW - 1,
            STOP_BELOW,
            RESUME_FROM - 1,
            RESUME_FROM,
        ] {
            space.look(free, 0).await;
            low.push(space.low);
        }
        assert_eq!(low, [false, true, true, true, false]);
    }

    #[tokio::test]
    async fn free_pages_of_the_file_count_while_the_disk_has_room_for_a_commit() {
        let directory = tempfile::tempdir().unwrap();
        let mut space = space(&directory, Spare::Kept);
        let missing = STOP_BELOW - FREE_MIN;
        let mut low = Vec::new();
        for (free, file_free) in [
            (FREE_MIN, missing),
            (FREE_MIN, missing - 1),
            (FREE_MIN, RESUME_FROM - FREE_MIN - 1),
            // A sweep has freed pages, and the disk is as full as before.
            (FREE_MIN, RESUME_FROM - FREE_MIN),
        ] {
            space.look(free, file_free).await;
            low.push(space.low);
        }
        assert_eq!(low, [false, true, true, false]);
    }

    #[tokio::test]
    async fn upload_never_stops_the_votes_and_may_bring_a_full_acceptor_back() {
        let directory = tempfile::tempdir().unwrap();
        let mut space = space(&directory, Spare::Kept);
        let log_max = FREE_AGAIN - FREE_MIN;
        space.look(left_by_uploads(true) - log_max, 0).await;
        assert!(!space.low, "room for the write-ahead log");
        space.look(STOP_BELOW - 1, 0).await;
        assert!(space.low);
        // After the sweep.
        space.look(left_by_uploads(false), RESUME_FROM - FREE_MIN).await;
        assert!(!space.low);
    }

    #[tokio::test]
    async fn disk_at_its_limit_does_not_stop_and_resume_again_and_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut space = space(&directory, Spare::Kept);
        let mut low = Vec::new();
        for free in [
            FREE_MIN,
            FREE_MIN - 1,
            FREE_MIN,
            FREE_AGAIN - 1,
            FREE_AGAIN,
            FREE_MIN,
        ] {
            // Many free pages, after a trim of a long log.
            space.look(free, u64::MAX).await;
            low.push(space.low);
        }
        assert_eq!(low, [false, true, true, true, false, false]);
    }

    #[tokio::test]
    async fn space_freed_by_a_trim_ends_the_refusal_of_votes() {
        let directory = tempfile::tempdir().unwrap();
        let mut space = space(&directory, Spare::Kept);
        space.look(STOP_BELOW - 1, 0).await;
        assert!(space.low);
        // The log of the sweep takes room on the disk, and the pages of the swept rows become free.
        space.look(FREE_MIN, RESUME_FROM - FREE_MIN).await;
        assert!(!space.low);
    }

    #[tokio::test]
    async fn trims_continue_on_a_low_disk_until_the_space_is_exhausted() {
        let directory = tempfile::tempdir().unwrap();
        let mut space = space(&directory, Spare::Impossible);
        for (free, is_exhausted) in [
            (FREE_MIN - 1, false),
            (SPARE_BELOW, false),
            (SPARE_BELOW - 1, true),
        ] {
            space.look(free, u64::MAX).await;
            assert_eq!((space.low, space.exhausted), (true, is_exhausted), "{free}");
        }
    }

    #[tokio::test]
    async fn spare_file_is_removed_on_a_full_disk_and_restored_before_resuming() {
        let directory = tempfile::tempdir().unwrap();
        make_spare(&spare_file(directory.path())).unwrap();
        let mut space = space(&directory, Spare::Kept);
        space.look(SPARE_BELOW, 0).await;
        assert_eq!((space.low, spare_bytes(&directory)), (true, Some(SPARE_BYTES)));
        space.look(SPARE_BELOW - 1, 0).await;
        assert_eq!((space.low, spare_bytes(&directory)), (true, None));
        // The space freed by removing the spare file is no reason to resume.
        space.look(RESUME_FROM + SPARE_BYTES - 1, 0).await;
        assert_eq!((space.low, spare_bytes(&directory)), (true, None));
        space.look(RESUME_FROM + SPARE_BYTES, 0).await;
        assert_eq!((space.low, spare_bytes(&directory)), (false, Some(SPARE_BYTES)));
    }

    #[tokio::test]
    async fn directory_that_takes_no_spare_file_is_used_without_one() {
        let directory = tempfile::tempdir().unwrap();
        // A directory in the place of the file.
        fs::create_dir(spare_file(directory.path())).unwrap();
        let mut space = space(&directory, Spare::GivenUp);
        space.look(RESUME_FROM + SPARE_BYTES, 0).await;
        assert_eq!((space.low, space.spare), (false, Spare::Impossible));
        space.look(STOP_BELOW - 1, 0).await;
        assert!(space.low);
    }
}
