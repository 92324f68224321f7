//! Repairs of an acceptor that refuses a value, for instance because its release cannot read the value.

use super::*;
use crate::paxos::message::Refused;

/// An acceptor refuses a message.
fn refuse(reign: &mut Reign, acceptor: u128, message: &Accept) {
    let answer = AcceptAnswer::Refused(Refused {
        reason: "upgrade this acceptor".to_owned(),
        promised: message.ballot,
    });
    reign.lead.settled(uuid(acceptor), message.sequence, &answer);
}

/// Acceptors 1 and 2 voted for four slots, so that the leader keeps them for acceptor 3. Acceptor 1 reports damaged rows
/// from slot 0 on, and the leader repairs.
fn repaired() -> (Reign, Vec<Accept>) {
    let (mut reign, sent) = Reign::of(4);
    for message in to(2, &sent) {
        reign.grant(2, &message, 4);
    }
    for message in to(1, &sent) {
        reign.grant_knowing(1, &message, 0, 4);
    }
    let messages = to(1, &reign.send());
    (reign, messages)
}

#[test]
fn a_refused_repair_waits_and_goes_on_slot_by_slot() {
    let (mut reign, messages) = repaired();
    assert_eq!(slots(&messages), [0, 1, 2, 3]);
    refuse(&mut reign, 1, &messages[0]);
    assert!(to(1, &reign.send()).is_empty(), "a refused repair waits");
    reign.stand_still();
    let messages = to(1, &reign.send());
    assert_eq!(slots(&messages), [0]);
    reign.grant_knowing(1, &messages[0], 1, 4);
    let messages = to(1, &reign.send());
    assert_eq!(slots(&messages), [1, 2, 3], "the acceptor takes values again");
}

#[test]
fn a_refused_repair_delays_no_new_value() {
    let (mut reign, messages) = repaired();
    refuse(&mut reign, 1, &messages[0]);
    reign.lead.propose(&reign.electorate, Value::noop(), Vec::new());
    assert_eq!(slots(&to(1, &reign.send())), [4]);
}

#[test]
fn a_refused_value_delays_repairs_too() {
    let (mut reign, sent) = Reign::of(4);
    for acceptor in [2, 3] {
        for message in to(acceptor, &sent) {
            reign.grant(acceptor, &message, 4);
        }
    }
    refuse(&mut reign, 1, &to(1, &sent)[0]);
    reign.lead.views.get_mut(&uuid(1)).unwrap().chosen_to = Some(Slot::ZERO);
    reign.lead.views.get_mut(&uuid(1)).unwrap().known_to = slot(4);
    assert!(to(1, &reign.send()).is_empty());
    reign.stand_still();
    assert_eq!(
        slots(&to(1, &reign.send())),
        [0, 1, 2, 3],
        "chosen slots come by repair"
    );
}
