//! Bugs that show only where two values stand at one ballot: a copied proposer, or a forged message.

use super::Bug::*;
use crate::model::{
    climb::Case,
    ladder::{two_copies_and_a_learner, two_copies_and_another},
    prefix::one_knower_of_copies,
    scenario::{
        Allowance, Scenario,
        Spend::{Campaign, Check, Heartbeat, Report},
    },
};

pub(super) fn planted() -> Vec<Case> {
    let plant = |bug, name, scenario: Scenario| {
        Case::Cluster(Scenario {
            name,
            bug: Some(bug),
            ..scenario
        })
    };
    vec![
        plant(
            CampaignTakesFirstValue,
            "the first page's value of a ballot taken in a campaign",
            two_copies_and_another(),
        ),
        plant(
            ScanTakesFirstValue,
            "the first page's value of a ballot taken in a scan",
            Scenario {
                repair: true,
                late_answers: true,
                commands: &[1, 1, 0],
                reach: &[&[0, 1], &[1, 2], &[1, 2]],
                prefix: one_knower_of_copies,
                allowance: Allowance::new(&[(Campaign, 1), (Report, 1), (Heartbeat, 2), (Check, 2)]),
                ..two_copies_and_another()
            },
        ),
        plant(
            LearnerCountsVotesOfOtherValues,
            "votes for different values at one ballot counted together, by a learner",
            two_copies_and_a_learner(),
        ),
    ]
}
