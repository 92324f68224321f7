//! Text from peers, for a log or a terminal: a single line, without control sequences for the terminal.

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
};

/// `text` with control characters, line separators and reordering marks escaped as in Rust: `\n`, `\u{1b}`.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    // Writing to a string never fails.
    let _ = Escaping(&mut escaped).write_str(text);
    Cow::Owned(escaped)
}

/// Writes escaped text to an inner writer.
pub(crate) struct Escaping<W>(pub(crate) W);

impl<W: fmt::Write> fmt::Write for Escaping<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.find(is_escaped) {
            let (plain, special) = rest.split_at(at);
            self.0.write_str(plain)?;
            let mut characters = special.chars();
            if let Some(character) = characters.next() {
                write!(self.0, "{}", character.escape_default())?;
            }
            rest = characters.as_str();
        }
        self.0.write_str(rest)
    }
}

/// Whether a character can end a line, control a terminal, or reorder the text beside itself.
pub fn is_escaped(character: char) -> bool {
    // U+2028 and U+2029 end a line; the other characters are the reordering marks of Unicode.
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_escaped_and_the_rest_stays() {
        assert!(matches!(escape("grüße \\n 値"), Cow::Borrowed("grüße \\n 値")));
        assert_eq!(
            escape("a\nb\r\u{1b}[31m\u{9b}\u{202e}c"),
            "a\\nb\\r\\u{1b}[31m\\u{9b}\\u{202e}c"
        );
    }
}
