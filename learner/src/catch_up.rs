//! Whether a learner is up to date: the acceptors' reports of chosen slots, compared with the applied slots.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use paxos_common::{
    paxos::{identity::AcceptorUuid, slot::Slot},
    service::metrics::UnreadyReason,
};
use tokio::sync::watch;

use crate::cluster::EraMembers;

/// How long an acceptor's report counts: acceptors report at least once a second.
const FRESH: Duration = Duration::from_secs(5);

/// The acceptors' latest reports.
///
/// A busy learner is always a little behind. A learner is up to date when it has applied, for each acceptor of a
/// quorum, everything reported as chosen at some recent moment. Only reports of present members count, at each look.
#[derive(Debug, Default)]
pub(crate) struct CatchUp {
    /// Unset before the cluster is found.
    present: OnceLock<watch::Receiver<Arc<EraMembers>>>,
    heard: Mutex<HeardMembers>,
    /// Whether the learner was up to date at least once since its start, or since it began with another state.
    once: watch::Sender<bool>,
}

type HeardMembers = BTreeMap<AcceptorUuid, Heard>;

#[derive(Debug)]
struct Heard {
    /// The latest report.
    chosen_to: Slot,
    at: Instant,
    /// The watermark to reach for being up to date with this acceptor, and the time of its report.
    target: Option<(Slot, Instant)>,
    /// The time of the report behind the latest reached target.
    caught_up: Option<Instant>,
}

impl Heard {
    fn look(&mut self, applied_to: Slot) {
        if let Some((_, reported_at)) = self.target.take_if(|(slot, _)| *slot <= applied_to) {
            self.caught_up = Some(reported_at);
        }
    }
}

impl CatchUp {
    /// The cluster is found: a quorum of its present members has to report.
    pub(crate) fn follow(&self, present: watch::Receiver<Arc<EraMembers>>) {
        // Found once.
        let _ = self.present.set(present);
    }

    /// An acceptor reports its watermark.
    pub(crate) fn reported(&self, acceptor: AcceptorUuid, chosen_to: Slot, now: Instant) {
        let mut all = self.of_members(self.present().as_deref());
        let heard = all.entry(acceptor).or_insert(Heard {
            chosen_to,
            at: now,
            target: None,
            caught_up: None,
        });
        heard.chosen_to = chosen_to;
        heard.at = now;
        heard.target.get_or_insert((chosen_to, now));
    }

    /// The highest watermark of the members' latest reports.
    pub(crate) fn tail(&self) -> Slot {
        let all = self.of_members(self.present().as_deref());
        let tails = all.values().map(|heard| heard.chosen_to);
        tails.max().unwrap_or(Slot::ZERO)
    }

    /// Whether a learner that has applied every slot below `applied_to` is up to date.
    pub(crate) fn look(&self, applied_to: Slot, now: Instant) -> Result<(), UnreadyReason> {
        let Some(present) = self.present() else {
            return Err("no formed cluster is found yet, or its acceptors do not answer".into());
        };
        let is_fresh = |at: Instant| now.saturating_duration_since(at) < FRESH;
        let (mut fresh, mut caught_up, mut target) = (0, 0, Slot::ZERO);
        let mut all = self.of_members(Some(&present));
        for heard in all.values_mut() {
            heard.look(applied_to);
            fresh += usize::from(is_fresh(heard.at));
            caught_up += usize::from(heard.caught_up.is_some_and(is_fresh));
            target = target.max(heard.chosen_to);
        }
        drop(all);
        let quorum = present.quorum();
        let behind = target.get().saturating_sub(applied_to.get());
        if caught_up >= quorum {
            self.once.send_if_modified(|once| !std::mem::replace(once, true));
            Ok(())
        } else if fresh < quorum {
            Err(format!("recent reports from {fresh} of the acceptors; a quorum is {quorum}").into())
        } else if behind == 0 {
            Err("the acceptors' reports are growing old".into())
        } else {
            Err(format!("this learner must apply {behind} slots to catch up").into())
        }
    }

    /// Whether a learner that has applied every slot below `applied_to` was up to date at least once since the start.
    /// Before that, the applied state may be as old as the cluster, and reads from this state would mislead.
    pub(crate) fn look_once(&self, applied_to: Slot, now: Instant) -> Result<(), UnreadyReason> {
        if *self.once.borrow() {
            return Ok(());
        }
        self.look(applied_to, now)
    }

    /// The applied state gives way to another state, which may be older: the learner must catch up again.
    pub(crate) fn begin_again(&self) {
        self.lock().clear();
        self.once.send_replace(false);
    }

    /// Follows whether the learner was up to date at least once.
    pub(crate) fn once(&self) -> watch::Receiver<bool> {
        self.once.subscribe()
    }

    fn present(&self) -> Option<Arc<EraMembers>> {
        self.present.get().map(|present| Arc::clone(&present.borrow()))
    }

    /// The reports of these members; all other reports are forgotten.
    fn of_members(&self, present: Option<&EraMembers>) -> MutexGuard<'_, HeardMembers> {
        let mut all = self.lock();
        if let Some(present) = present {
            all.retain(|&acceptor, _| present.electorate().includes(acceptor));
        }
        all
    }

    fn lock(&self) -> MutexGuard<'_, HeardMembers> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use paxos_test_values::{acceptor, slot};

    use super::*;
    use crate::cluster::{change_to, cluster_with};

    #[test]
    fn learner_is_up_to_date_once_a_quorums_recent_tail_is_applied() {
        let (catch_up, begin) = (CatchUp::default(), Instant::now());
        let after = |seconds| begin + Duration::from_secs(seconds);
        let look = |applied_to, seconds| {
            let looked = catch_up.look(slot(applied_to), after(seconds));
            looked.map_err(UnreadyReason::into_owned)
        };
        assert!(look(9, 0).unwrap_err().contains("no formed cluster"));
        catch_up.follow(cluster_with([1, 2, 3]).follow());
        catch_up.reported(acceptor(1), slot(10), after(0));
        assert!(look(10, 0).unwrap_err().contains("from 1 of"));
        catch_up.reported(acceptor(2), slot(20), after(0));
        assert!(look(10, 0).unwrap_err().contains("10 slots"));
        assert!(catch_up.look_once(slot(10), after(0)).is_err());
        assert_eq!(look(20, 0), Ok(()));
        assert_eq!(catch_up.tail(), slot(20));
        // No report came since.
        assert!(look(20, 5).unwrap_err().contains("from 0 of"));
        assert_eq!(catch_up.look_once(slot(20), after(5)), Ok(()));
        // A target stays until reached, however much the log grows meanwhile.
        for second in 5..9 {
            for number in [1, 2] {
                catch_up.reported(acceptor(number), slot(100 * second), after(second));
            }
        }
        assert!(look(499, 8).unwrap_err().contains("301 slots"));
        assert_eq!(look(500, 8), Ok(()));
        assert!(look(500, 10).is_err());
        // Earlier reports say nothing about another state.
        assert_eq!(look(500, 8), Ok(()));
        catch_up.begin_again();
        assert!(look(500, 8).unwrap_err().contains("from 0 of"));
        assert!(catch_up.look_once(slot(900), after(8)).is_err());
    }

    #[test]
    fn only_members_count_from_the_change_on() {
        let (catch_up, now) = (CatchUp::default(), Instant::now());
        let cluster = cluster_with([1, 2, 3]);
        catch_up.follow(cluster.follow());
        for (number, chosen_to) in [(1, 10), (2, 20), (3, 90)] {
            catch_up.reported(acceptor(number), slot(chosen_to), now);
        }
        assert_eq!(catch_up.tail(), slot(90));
        catch_up.look(slot(20), now).unwrap();
        change_to(&cluster, [1, 4, 5]);
        assert_eq!(catch_up.tail(), slot(10));
        // A late report of a removed acceptor.
        catch_up.reported(acceptor(3), slot(90), now);
        assert_eq!(catch_up.tail(), slot(10));
        let reason = catch_up.look(slot(90), now).unwrap_err().into_owned();
        assert!(reason.contains("from 1 of"), "{reason}");
        catch_up.reported(acceptor(4), slot(30), now);
        catch_up.look(slot(30), now).unwrap();
    }
}
