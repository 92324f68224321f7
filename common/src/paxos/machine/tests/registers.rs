//! The registers in memory: compared by their whole contents, and unpacked as packed.

use super::*;

#[test]
fn states_are_equal_only_if_all_contents_are() {
    let with = |value: &str, before: &[&str]| {
        let mut machine = Machine::default();
        let puts = before.iter().map(|value| put("k", value, Condition::Always));
        apply(&mut machine, &puts.collect::<Vec<_>>());
        apply(&mut machine, &[put("k", value, Condition::Always)]);
        machine
    };
    let registers = |machine: &Machine| machine.registers.clone();
    assert_eq!(registers(&with("a", &[])), registers(&with("a", &["b"])));
    assert_ne!(registers(&with("a", &[])), registers(&with("b", &[])));
}

#[test]
fn packed_register_has_the_bytes_it_was_made_of() {
    for (key, value) in [
        ("k", ""),
        ("k", "v"),
        ("a longer key", "a value"),
        ("k\u{0}", "\u{0}"),
    ] {
        let packed = KeyedRegister::new(key.as_bytes(), value.as_bytes(), at(300, 65_535));
        assert_eq!((packed.key(), packed.value()), (key.as_bytes(), value.as_bytes()));
        let (shared, register) = packed.shared();
        let version = at(300, 65_535);
        assert_eq!(
            (shared, register),
            (
                bytes(key),
                Register {
                    value: bytes(value),
                    version
                }
            )
        );
        assert_eq!(packed.version(), version);
    }
}
