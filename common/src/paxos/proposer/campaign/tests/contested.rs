//! Promises with two values of a slot at one ballot: a copied proposer, or a forged message.

use super::*;

#[test]
fn two_values_at_one_ballot_wait_for_the_report_that_decides() {
    let mut campaign = campaign(0);
    campaign.hear(1, last_page(0, 0, vec![row(0, 1, "forged"), row(1, 1, "b")]));
    campaign.hear(2, last_page(0, 0, vec![row(0, 1, "a")]));
    assert_eq!(
        campaign.takeover(&majority_of_3()),
        None,
        "either value may have a quorum with acceptor 3"
    );
    assert_eq!(campaign.beyond_repair(&majority_of_3()), None);
    assert_eq!(
        campaign.contested(&majority_of_3()),
        Some((slot(0), vec![uuid(3)]))
    );
    let mut neither = campaign.clone();
    neither.hear(3, last_page(0, 0, vec![]));
    assert!(
        neither.takeover(&majority_of_3()).is_some(),
        "no value was chosen"
    );
    campaign.hear(3, last_page(0, 0, vec![row(0, 1, "a")]));
    assert_eq!(campaign.takeover(&majority_of_3()), takeover(0, &["a", "b"]));
    assert_eq!(campaign.contested(&majority_of_3()), None);
}

#[test]
fn an_unreadable_row_beside_two_values_of_one_ballot_is_beyond_repair() {
    let mut campaign = campaign(0);
    campaign.hear(1, last_page(0, 0, vec![row(0, 1, "forged")]));
    campaign.hear(2, last_page(0, 0, vec![row(0, 1, "a")]));
    campaign.hear(3, last_page(0, 0, vec![unknown(0)]));
    assert_eq!(campaign.takeover(&majority_of_3()), None);
    assert_eq!(campaign.beyond_repair(&majority_of_3()), Some(vec![slot(0)]));
}

#[test]
fn a_vote_too_far_ahead_with_two_values_waits_too() {
    let far = 1 << 62;
    let mut campaign = campaign(0);
    campaign.hear(1, last_page(0, 0, vec![row(far, 1, "forged")]));
    campaign.hear(2, last_page(0, 0, vec![row(far, 1, "a")]));
    assert_eq!(campaign.takeover(&majority_of_3()), None);
    campaign.hear(3, last_page(0, 0, vec![row(far, 1, "a")]));
    let won = campaign.takeover(&majority_of_3()).unwrap();
    assert_eq!(won.far, BTreeMap::from([(slot(far), value("a"))]));
}
