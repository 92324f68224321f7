//! The scenarios of changes of members.

use super::{
    table::{AFTER_SILENCE, PLAIN},
    *,
};

pub(super) const REPLACED: Scenario = Scenario {
    name: "a member is replaced",
    changes: true,
    script: &[Step(0, |world| world.replace(2))],
    check: |log| {
        changed_within(log, 2 * SECOND)?;
        leaders_at_most(log, 1)?;
        let gap = log.longest_gap(BEGIN, answered);
        expect(gap <= 300 * MILLISECOND, || format!("no answer for {gap} µs"))
    },
    ..PLAIN
};

pub(super) const REPLACED_BY_A_SILENT_ONE: Scenario = Scenario {
    name: "a member is replaced while the new acceptor stands still",
    changes: true,
    script: &[Step(0, |world| {
        world.replace(2);
        world.stop(Node::Acceptor(3), 30 * SECOND);
    })],
    lasts: 20 * SECOND,
    check: |log| {
        nothing_changes(log)?;
        let refused = log.first(BEGIN, |happened| *happened == Happened::ChangeRefused);
        expect(refused.is_some(), || "the change is not given up".to_owned())?;
        let gap = log.longest_gap(BEGIN, answered);
        expect(gap <= 300 * MILLISECOND, || format!("no answer for {gap} µs"))
    },
    ..PLAIN
};

pub(super) const LEADER_CUT_OFF_AT_THE_SWITCH: Scenario = Scenario {
    name: "the leader is cut off right when it switches, and a standby leads in the next era",
    finds: &[Bug::LateLinkAsksForPromise],
    changes: true,
    script: &[
        Step(0, |world| world.replace(2)),
        Step(0, |world| {
            // The leader works in the next era, and no acceptor has heard of it.
            if world.invariants.eras.latest().era() > Era::FIRST {
                world.cut_off(0, world.all(), 1_200 * MILLISECOND);
            } else {
                world.plan(world.now + MILLISECOND / 10, Happening::Scripted(1));
            }
        }),
    ],
    check: |log| {
        // In the present era the standby finds the change, and then it leads in the next era. Its round there is the round of
        // the leader that was cut off.
        leaders_at_most(log, 2)?;
        let back = log.count(BEGIN, Time::MAX, |happened| *happened == Happened::Leads(0));
        expect(back == 0, || {
            "a late Prepare ended the reign of the standby".to_owned()
        })?;
        expect(log.count(BEGIN, Time::MAX, leads) == 2, || {
            "the standby does not lead in the next era".to_owned()
        })
    },
    ..PLAIN
};

pub(super) const LEADER_DIES: Scenario = Scenario {
    name: "the leader dies while a member is replaced",
    changes: true,
    script: &[
        Step(0, |world| world.replace(2)),
        Step(300 * MILLISECOND, |world| world.crash_proposer(0)),
    ],
    check: |log| replaced_within(log, 300 * MILLISECOND, AFTER_SILENCE),
    ..PLAIN
};
