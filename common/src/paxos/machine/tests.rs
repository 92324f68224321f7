//! The state machine: tables of verdicts, and properties compared with a search of the whole log.

use proptest::prelude::*;

use super::{
    sessions::{IDLE_SLOTS_MAX, RECORDED_MAX, Recorded, SESSIONS_MAX},
    *,
};
use crate::paxos::command::{Opener, SessionStamp};

mod digest;
mod kept;
mod registers;

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn at(slot: u64, offset: u16) -> Version {
    Version {
        slot: Slot::new(slot).unwrap(),
        offset,
    }
}

fn put(key: &str, value: &str, condition: Condition) -> Command {
    let operation = Operation::Put {
        key: bytes(key),
        value: bytes(value),
        condition,
    };
    Command {
        session: None,
        operation,
    }
}

fn delete(key: &str, condition: Condition) -> Command {
    let operation = Operation::Delete {
        key: bytes(key),
        condition,
    };
    Command {
        session: None,
        operation,
    }
}

/// A made-up opener; 0: none.
fn opener(number: u8) -> Option<Opener> {
    (number > 0).then(|| Opener::from_bytes([number; Opener::BYTES]))
}

fn open_as(number: u8) -> Command {
    let opener = opener(number);
    Command {
        session: None,
        operation: Operation::OpenSession { opener },
    }
}

fn open() -> Command {
    Command {
        session: None,
        operation: Operation::OpenSession { opener: None },
    }
}

/// The command as number `sequence` of a session.
fn stamped(command: Command, session: Version, sequence: u64, acked_below: u64) -> Command {
    let session = Some(SessionStamp {
        session,
        sequence,
        acked_below,
        opener: None,
    });
    Command { session, ..command }
}

/// The same command, stating an opener.
fn stated(command: Command, number: u8) -> Command {
    let session = command.session.map(|stamp| SessionStamp {
        opener: opener(number),
        ..stamp
    });
    Command { session, ..command }
}

/// Applies the next slot.
fn apply(machine: &mut Machine, commands: &[Command]) -> Vec<Judgement> {
    machine.apply(machine.applied_to(), commands)
}

/// Skips slots as if no-ops were applied, without taking as long.
fn pass_slots(machine: &mut Machine, count: u64) {
    machine.applied_to = machine.applied_to.plus(count);
}

/// The machine after reading this stored state.
fn recovered(
    applied_to: Slot,
    registers: impl IntoIterator<Item = KeyedRegister>,
    sessions: impl IntoIterator<Item = (Version, SessionState)>,
) -> Machine {
    let mut machine = Machine::restored(applied_to);
    for register in registers {
        let (key, value) = (register.key(), register.value());
        assert!(machine.restore_register(key, value, register.version()));
    }
    for (name, session) in sessions {
        assert!(machine.restore_session(name, session));
    }
    machine
}

/// Checks that the digest and the size kept up to date are those of the state.
fn assert_digest(machine: &Machine) {
    let registers = machine.registers(&[], None);
    let sessions = &machine.sessions;
    let bytes = registers.map(|register| register.key().len() + register.value().len() + 256);
    let outcomes = sessions.open.values().map(|session| session.recorded.len() * 128);
    let counted: usize = bytes.chain(outcomes).sum();
    assert_eq!(machine.state_bytes(), counted as u64);
    let recovered = recovered(
        machine.applied_to,
        machine.registers(&[], None).cloned(),
        sessions.open.clone(),
    );
    assert_eq!(machine.digest(), recovered.digest());
    assert_eq!(machine.state_bytes(), recovered.state_bytes());
}

const APPLIED: Judgement = Judgement::Executed(Outcome::Applied);

fn failed(current: Option<Version>) -> Judgement {
    Judgement::Executed(Outcome::ConditionFailed { current })
}

fn held(machine: &Machine, key: &str) -> Option<(String, Version)> {
    let register = machine.register(key.as_bytes())?;
    Some((
        String::from_utf8(register.value().to_vec()).unwrap(),
        register.version(),
    ))
}

#[test]
fn conditions_are_judged_in_the_order_of_the_log() {
    let mut machine = Machine::default();
    let judgements = apply(
        &mut machine,
        &[
            put("k", "a", Condition::Absent),
            put("k", "b", Condition::Absent),
            put("k", "c", Condition::Version(at(0, 1))),
            put("k", "d", Condition::Version(at(0, 0))),
            delete("k", Condition::Version(at(0, 0))),
        ],
    );
    let first = failed(Some(at(0, 0)));
    assert_eq!(
        judgements,
        [APPLIED, first, first, APPLIED, failed(Some(at(0, 3)))]
    );
    assert_eq!(held(&machine, "k"), Some(("d".to_owned(), at(0, 3))));

    let judgements = apply(
        &mut machine,
        &[
            delete("k", Condition::Version(at(0, 3))),
            delete("k", Condition::Version(at(0, 3))),
            delete("k", Condition::Always),
            put("k", "", Condition::Absent),
        ],
    );
    assert_eq!(judgements, [APPLIED, failed(None), APPLIED, APPLIED]);
    assert_eq!(held(&machine, "k"), Some((String::new(), at(1, 3))));
}

#[test]
fn foreign_command_has_no_effect_on_registers_or_on_the_session() {
    let mut machine = Machine::default();
    let name = at(0, 0);
    let put = |value| put("k", value, Condition::Always);
    apply(&mut machine, &[open_as(1), open()]);
    let before = machine.clone();
    for stranger in [0, 2] {
        let hijack = stated(stamped(put("stolen"), name, 7, 7), stranger);
        assert_eq!(apply(&mut machine, &[hijack]), [Judgement::Foreign]);
    }
    assert_eq!(machine.sessions(), before.sessions(), "not even used");
    assert_eq!(held(&machine, "k"), None);
    let own = |sequence, value| stated(stamped(put(value), name, sequence, 1), 1);
    assert_eq!(
        apply(&mut machine, &[own(1, "a"), own(7, "b")]),
        [APPLIED, APPLIED]
    );
    // Any caller could state no opener: to refuse an opener gains nothing.
    for opener in [0, 1] {
        let unbound = stated(stamped(put("c"), at(0, 1), u64::from(opener) + 1, 1), opener);
        assert_eq!(apply(&mut machine, &[unbound]), [APPLIED]);
    }
}

#[test]
fn prefix_ends_where_keys_no_longer_start_with_it_and_goes_on_after_a_key() {
    let mut machine = Machine::default();
    let keys = ["a", "b", "ba", "bb", "bb\u{ff}", "c"];
    let puts = keys.map(|key| put(key, "x", Condition::Always));
    apply(&mut machine, &puts);
    let found = |prefix: &str, after: Option<&str>| -> Vec<String> {
        machine
            .registers(prefix.as_bytes(), after.map(str::as_bytes))
            .map(|register| String::from_utf8(register.key().to_vec()).unwrap())
            .collect()
    };
    assert_eq!(found("b", None), ["b", "ba", "bb", "bb\u{ff}"]);
    assert_eq!(found("b", Some("ba")), ["bb", "bb\u{ff}"]);
    assert_eq!(found("b", Some("bc")), [""; 0]);
    assert_eq!(found("b", Some("a")), found("b", None));
    assert_eq!(found("", None), keys);
}

#[test]
fn retry_takes_effect_once_in_whatever_order_sequences_come() {
    let mut machine = Machine::default();
    apply(&mut machine, &[open()]);
    let name = at(0, 0);
    let five = stamped(put("k", "five", Condition::Absent), name, 5, 5);
    let six = stamped(put("k", "six", Condition::Absent), name, 6, 5);
    let judgements = apply(
        &mut machine,
        &[six.clone(), five.clone(), six.clone(), five.clone()],
    );
    let lost = Outcome::ConditionFailed {
        current: Some(at(1, 0)),
    };
    let duplicate = |first, outcome| Judgement::Duplicate { first, outcome };
    assert_eq!(
        judgements,
        [
            APPLIED,
            Judgement::Executed(lost),
            duplicate(at(1, 0), Outcome::Applied),
            duplicate(at(1, 1), lost),
        ]
    );
    // The client has read the outcome of 5 and will not ask again, so a late retry carries no news.
    let seven = stamped(delete("k", Condition::Always), name, 7, 6);
    let judgements = apply(&mut machine, &[seven, five, six]);
    assert_eq!(
        judgements,
        [
            APPLIED,
            Judgement::Acknowledged,
            duplicate(at(1, 0), Outcome::Applied)
        ]
    );
    assert_eq!(held(&machine, "k"), None);
}

#[test]
fn idle_session_expires_and_used_session_stays() {
    let mut machine = Machine::default();
    apply(&mut machine, &[open(), open()]);
    let (used, idle) = (at(0, 0), at(0, 1));
    pass_slots(&mut machine, IDLE_SLOTS_MAX - 1);
    let command = |name, sequence| stamped(put("k", "v", Condition::Always), name, sequence, 0);
    assert_eq!(apply(&mut machine, &[command(used, 1)]), [APPLIED]);
    // The idle session was opened `IDLE_SLOTS_MAX` slots ago: one too few to expire.
    assert_eq!(machine.sessions().count(), 2);
    let judgements = apply(&mut machine, &[command(idle, 1), command(used, 1)]);
    let first = at(IDLE_SLOTS_MAX, 0);
    let outcome = Outcome::Applied;
    assert_eq!(
        judgements,
        [Judgement::Expired, Judgement::Duplicate { first, outcome }]
    );
    assert_eq!(machine.sessions().count(), 1);
    assert_eq!(apply(&mut machine, &[command(at(9, 9), 1)]), [Judgement::Expired]);
    assert_digest(&machine);
}

#[test]
fn one_session_too_many_expires_the_one_unused_for_longest() {
    let mut machine = Machine::default();
    let openings = vec![open(); SESSIONS_MAX];
    apply(&mut machine, &openings);
    let append = |name| {
        let operation = Operation::Append;
        stamped(
            Command {
                session: None,
                operation,
            },
            name,
            1,
            0,
        )
    };
    apply(&mut machine, &[append(at(0, 0)), open()]);
    assert_eq!(machine.sessions().count(), SESSIONS_MAX);
    assert!(machine.sessions().get(at(0, 0)).is_some());
    assert!(machine.sessions().get(at(0, 1)).is_none());
    assert_eq!(apply(&mut machine, &[append(at(0, 1))]), [Judgement::Expired]);
    assert_digest(&machine);
}

#[test]
fn one_outcome_too_many_expires_the_session_unused_for_longest() {
    let (other, hoarder) = (at(0, 0), at(0, 1));
    let session = |last_used, recorded: u64| {
        let recorded = (1..=recorded).map(|sequence| {
            let recorded = Recorded {
                version: last_used,
                outcome: Outcome::Applied,
            };
            (sequence, recorded)
        });
        SessionState {
            opener: None,
            last_used,
            acked_below: 0,
            recorded: recorded.collect(),
        }
    };
    let full = RECORDED_MAX as u64 - 1;
    let sessions = [(other, session(at(1, 0), 1)), (hoarder, session(at(1, 1), full))];
    let mut machine = recovered(Slot::new(2).unwrap(), [], sessions);
    let append = |sequence| {
        let operation = Operation::Append;
        stamped(
            Command {
                session: None,
                operation,
            },
            hoarder,
            sequence,
            0,
        )
    };
    apply(&mut machine, &[append(full)]);
    assert_eq!(machine.sessions().count(), 2, "a duplicate is not recorded again");
    apply(&mut machine, &[append(full + 1)]);
    assert!(machine.sessions().get(other).is_none());
    assert_eq!(
        machine.sessions().get(hoarder).unwrap().recorded.len(),
        RECORDED_MAX
    );
    assert_digest(&machine);
}

fn condition() -> impl Strategy<Value = Condition> {
    let version = (0..12_u64, 0..3_u16).prop_map(|(slot, offset)| Condition::Version(at(slot, offset)));
    prop_oneof![Just(Condition::Always), Just(Condition::Absent), version]
}

fn command() -> impl Strategy<Value = Command> {
    let key = prop_oneof![Just("a"), Just("b")];
    let put = (key.clone(), "[xyz]", condition()).prop_map(|(key, value, held)| put(key, &value, held));
    let delete = (key, condition()).prop_map(|(key, held)| delete(key, held));
    let plain = prop_oneof![3 => put, 1 => delete, 2 => (0..3_u8).prop_map(open_as)];
    let stamp = proptest::option::of((0..4_u64, 0..2_u16, 0..5_u64, 0..3_u64, 0..3_u8));
    (plain, stamp).prop_map(|(command, stamp)| match (stamp, &command.operation) {
        (None, _) | (Some(_), Operation::OpenSession { .. }) => command,
        (Some((slot, offset, sequence, behind, opener)), _) => {
            let acked_below = sequence.saturating_sub(behind);
            stated(stamped(command, at(slot, offset), sequence, acked_below), opener)
        }
    })
}

/// The required verdict, from a search of the whole log for each command.
fn judged_naively(log: &[(Version, Command, Judgement)], version: Version, command: &Command) -> Judgement {
    if let Some(stamp) = command.session {
        let opening = log.iter().find_map(|(at, command, _)| match command.operation {
            Operation::OpenSession { opener } => (*at == stamp.session).then_some(opener),
            Operation::Append | Operation::Put { .. } | Operation::Delete { .. } => None,
        });
        match opening {
            None => return Judgement::Expired,
            Some(opener) if opener.is_some() && opener != stamp.opener => return Judgement::Foreign,
            Some(_) => {}
        }
        let of_session = || {
            log.iter().filter_map(|(at, command, judgement)| {
                let held = command.session.filter(|held| held.session == stamp.session)?;
                let counts = *at > stamp.session && *judgement != Judgement::Foreign;
                counts.then_some((held, *at, *judgement))
            })
        };
        let acked = of_session()
            .map(|(held, ..)| held.acked_below)
            .chain([stamp.acked_below])
            .max();
        if acked.is_some_and(|acked| stamp.sequence < acked) {
            return Judgement::Acknowledged;
        }
        for (held, first, judgement) in of_session() {
            if let (true, Judgement::Executed(outcome)) = (held.sequence == stamp.sequence, judgement) {
                return Judgement::Duplicate { first, outcome };
            }
        }
    }
    let (Operation::Put { key, condition, .. } | Operation::Delete { key, condition }) = &command.operation
    else {
        return APPLIED;
    };
    let writes = |(at, command, judgement): &(Version, Command, Judgement)| match &command.operation {
        Operation::Put { key: of, .. } if of == key && *judgement == APPLIED => Some(Some(*at)),
        Operation::Delete { key: of, .. } if of == key && *judgement == APPLIED => Some(None),
        Operation::Put { .. }
        | Operation::Delete { .. }
        | Operation::Append
        | Operation::OpenSession { .. } => None,
    };
    let current = log.iter().rev().find_map(writes).flatten();
    assert!(current.is_none_or(|current| current < version));
    match condition {
        Condition::Always => APPLIED,
        Condition::Absent if current.is_none() => APPLIED,
        Condition::Version(version) if current == Some(*version) => APPLIED,
        Condition::Absent | Condition::Version(_) => failed(current),
    }
}

proptest! {
    #[test]
    fn judges_as_a_look_back_over_the_whole_log_does(slots in prop::collection::vec(prop::collection::vec(command(), 0..4), 0..30)) {
        let mut machine = Machine::default();
        let mut log = Vec::new();
        for commands in &slots {
            let slot = machine.applied_to();
            let judgements = machine.apply(slot, commands);
            for ((offset, command), judgement) in (0..).zip(commands).zip(judgements) {
                let version = Version { slot, offset };
                prop_assert_eq!(judgement, judged_naively(&log, version, command), "{} {:?}", version, command);
                log.push((version, command.clone(), judgement));
            }
        }
    }
}
