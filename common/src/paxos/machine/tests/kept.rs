//! The kept state, read beside a machine that goes on.

use super::*;

/// The records of the kept state on the next page of at most this number of present records.
#[derive(Default)]
struct KeptReader {
    registers: Vec<KeyedRegister>,
    sessions: Vec<(Version, SessionState)>,
    after_key: Option<Bytes>,
    after_name: Option<Version>,
    /// The registers, then the sessions, are read to the end.
    ended: [bool; 2],
}

impl KeptReader {
    fn read(&mut self, machine: &Machine, count: usize) {
        if !self.ended[0] {
            let page = machine.kept_registers(self.after_key.as_deref(), count);
            assert!(page.records.len() <= 2 * count);
            self.registers.extend(page.records);
            self.ended[0] = page.next.is_none();
            self.after_key = page.next;
        } else if !self.ended[1] {
            let page = machine.kept_sessions(self.after_name, count);
            self.sessions.extend(page.records);
            self.ended[1] = page.next.is_none();
            self.after_name = page.next;
        }
    }

    fn is_ended(&self) -> bool {
        self.ended == [true; 2]
    }
}

#[test]
fn kept_state_has_the_sessions_that_expire_meanwhile() {
    let mut machine = Machine::default();
    apply(&mut machine, &[open_as(1), open_as(2)]);
    apply(
        &mut machine,
        &[stated(
            stamped(put("k", "v", Condition::Always), at(0, 0), 1, 0),
            1,
        )],
    );
    let expected = machine.clone();
    machine.keep();
    pass_slots(&mut machine, IDLE_SLOTS_MAX + 2);
    apply(&mut machine, &[delete("k", Condition::Always)]);
    assert_eq!((machine.sessions().count(), machine.register_count()), (0, 0));
    let mut reader = KeptReader::default();
    while !reader.is_ended() {
        reader.read(&machine, 1);
    }
    let found = recovered(expected.applied_to(), reader.registers, reader.sessions);
    assert_eq!(found, expected);
}

#[test]
fn state_restored_with_a_given_digest_is_the_state() {
    let mut machine = Machine::default();
    apply(&mut machine, &[open_as(1), put("k", "v", Condition::Always)]);
    let mut restored = Machine::restored(machine.applied_to());
    for register in machine.registers(&[], None) {
        assert!(restored.restore_hashed_register(register.clone()));
        assert!(!restored.restore_hashed_register(register.clone()));
    }
    for (name, session) in &machine.sessions.open {
        assert!(restored.restore_session(*name, session.clone()));
    }
    restored.restore_digest(machine.digest());
    assert_eq!(restored, machine);
}

proptest! {
    #[test]
    fn kept_state_is_the_state_at_its_begin_whatever_is_applied_meanwhile(
        before in prop::collection::vec(prop::collection::vec(command(), 0..4), 0..12),
        meanwhile in prop::collection::vec((prop::collection::vec(command(), 0..4), 0..3_usize), 0..20),
    ) {
        let mut machine = Machine::default();
        for commands in &before {
            apply(&mut machine, commands);
        }
        let expected = machine.clone();
        machine.keep();
        let mut reader = KeptReader::default();
        for (commands, count) in &meanwhile {
            apply(&mut machine, commands);
            if *count > 0 {
                reader.read(&machine, *count);
            }
        }
        while !reader.is_ended() {
            reader.read(&machine, 1);
        }
        let keys = reader.registers.iter().map(KeyedRegister::key);
        prop_assert!(keys.is_sorted_by(|one, next| one < next));
        prop_assert!(reader.sessions.is_sorted_by(|(one, _), (next, _)| one < next));
        let found = recovered(expected.applied_to(), reader.registers, reader.sessions);
        prop_assert_eq!(&found, &expected);
        drop(machine.release());
        let mut same = Machine::default();
        for commands in before.iter().chain(meanwhile.iter().map(|(commands, _)| commands)) {
            apply(&mut same, commands);
        }
        prop_assert_eq!(&machine, &same);
    }
}
