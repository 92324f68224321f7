//! Status of a stream broken off with open commands.

use super::*;

#[test]
fn stream_that_broke_off_says_nothing_of_commands_that_were_read_before() {
    let cut_off = || status::overloaded("room for messages that come in");
    assert_eq!(status::fate_of(&broken_off(cut_off(), true)), None);
    assert_eq!(broken_off(cut_off(), true).code(), cut_off().code());
    assert_eq!(
        status::fate_of(&broken_off(cut_off(), false)),
        Some(Fate::NotProposed)
    );
}
