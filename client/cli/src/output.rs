//! Standard output: text for people or JSON for programs, line by line.

use std::io::{self, IsTerminal as _};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use clap::{Args, ValueEnum};
use paxos_common::{
    escape::{escape, is_escaped},
    service::failure::{Exit, Failure},
};
use serde_json::Value;

use crate::writer;

/// Output form.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct OutputArgs {
    /// Output form
    #[arg(long, env = "PAXOS_OUTPUT", value_name = "FORM", default_value = "text")]
    pub(crate) output: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// For people
    Text,
    /// For programs: one JSON object a line, fields named as in the proto; integers of 64 bits are strings
    Json,
}

impl OutputArgs {
    /// Prints an item: the text, possibly empty, or the JSON on a single line.
    pub(crate) async fn print(
        self,
        text: impl FnOnce() -> String,
        json: impl FnOnce() -> Value,
    ) -> Result<(), Failure> {
        match self.output {
            Form::Text => write(&text()).await,
            Form::Json => {
                let json = json();
                debug_assert!(is_exact(&json), "a reader may round an integer of {json}");
                write(&format!("{json}\n")).await
            }
        }
    }
}

/// Writes to standard output at once. When the reader has closed standard output, as in `paxos log | head`, the command
/// ends with 0, unless the result is judged (see [`judged`]). When standard output cannot be written, as on a full disk,
/// the command ends with 74.
///
/// # Cancel safety
/// Dropping the future writes nothing, or leaves the text to a thread.
pub(crate) async fn write(text: &str) -> Result<(), Failure> {
    write_bytes(text.as_bytes()).await
}

/// Writes exactly a stored value; a newline follows at a terminal, and with `newline`.
pub(crate) async fn write_value(value: &[u8], newline: bool) -> Result<(), Failure> {
    let newline = newline || io::stdout().is_terminal();
    let end: &[u8] = if newline { b"\n" } else { b"" };
    write_bytes(&[value, end].concat()).await
}

/// As `write`, for raw bytes.
pub(crate) async fn write_bytes(bytes: &[u8]) -> Result<(), Failure> {
    ended(writer::write(bytes).await)
}

/// As `write_bytes`, for a command without a runtime.
pub(crate) fn write_bytes_now(bytes: &[u8]) -> Result<(), Failure> {
    ended(writer::write_now(bytes))
}

fn ended(written: io::Result<()>) -> Result<(), Failure> {
    match written {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::unread()),
        Err(error) => Err(Failure::storage(
            anyhow::Error::new(error).context("write to standard output"),
        )),
    }
}

/// The end of a command that printed its result and then judged the result: an unread output replaces only success, so
/// that an answer "no" keeps its exit code. An output that cannot be written replaces every end.
pub(crate) fn judged(printed: Result<(), Failure>, judgement: Result<(), Failure>) -> Result<(), Failure> {
    match (printed, judgement) {
        (Err(unread), Err(failure)) if unread.code == Exit::Clean => Err(failure),
        (printed, judgement) => printed.and(judgement),
    }
}

/// Marks bytes that are not text.
const BINARY: &str = "base64:";

/// Bytes for people, on a single line; different bytes give different lines. Text is kept, with backslashes and the
/// characters of [`is_escaped`] escaped. Other bytes are base64 after a marker. Text that begins like the marker gets a
/// backslash in front.
pub(crate) fn bytes_as_text(bytes: &[u8]) -> String {
    let Ok(text) = str::from_utf8(bytes) else {
        return format!("{BINARY}{}", BASE64_STANDARD.encode(bytes));
    };
    let mut line = String::with_capacity(text.len());
    if text.starts_with(BINARY) {
        line.push('\\');
    }
    for character in text.chars() {
        if is_escaped(character) || character == '\\' {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

/// Whether every reader keeps every number exactly: no integer number is wider than 32 bits.
pub(crate) fn is_exact(json: &Value) -> bool {
    match json {
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => u32::try_from(number).is_ok(),
            (None, Some(number)) => i32::try_from(number).is_ok(),
            (None, None) => true,
        },
        Value::Array(items) => items.iter().all(is_exact),
        Value::Object(fields) => fields.values().all(is_exact),
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}

/// A key for people, in a line with other parts behind the key: `KEY = VALUE`, `KEY deleted`, `KEY if absent`. Different
/// parts give different lines: a key with ` =` or ` if ` inside, or with a double quote in front, is in double quotes.
pub(crate) fn key_as_text(key: &[u8]) -> String {
    let text = bytes_as_text(key);
    if text.contains(" =") || text.contains(" if ") || text.starts_with('"') {
        format!("\"{}\"", text.replace('"', "\\\""))
    } else {
        text
    }
}

/// Text of a remote process for people, on a single line, with control characters escaped. Otherwise a newline could
/// forge a line of a table, and an escape sequence could change the terminal's display.
pub(crate) fn printable(text: &str) -> String {
    escape(text).into_owned()
}

/// Bytes for programs: a string for UTF-8, otherwise an object with the base64 of the bytes.
pub(crate) fn bytes_as_json(bytes: &[u8]) -> Value {
    match str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => serde_json::json!({ "base64": BASE64_STANDARD.encode(bytes) }),
    }
}

/// Bytes of an identity or hash, in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unread_output_replaces_only_success() {
        let code = |printed, judgement| judged(printed, judgement).map_err(|failure| failure.code);
        let no = || Err(Failure::new(Exit::No, anyhow::anyhow!("no")));
        let full = || Err(Failure::storage(anyhow::anyhow!("full")));
        assert_eq!(code(Err(Failure::unread()), no()), Err(Exit::No));
        assert_eq!(code(Err(Failure::unread()), Ok(())), Err(Exit::Clean));
        assert_eq!(code(full(), no()), Err(Exit::Storage));
        assert_eq!(code(Ok(()), no()), Err(Exit::No));
        assert_eq!(code(Ok(()), Ok(())), Ok(()));
    }

    #[test]
    fn value_stays_on_its_line_and_binary_is_marked() {
        assert_eq!(
            bytes_as_text("grüße\n\u{1b}[31m".as_bytes()),
            "grüße\\n\\u{1b}[31m"
        );
        assert_eq!(bytes_as_text(&[0xff, 0x00]), "base64:/wA=");
        assert_eq!(
            bytes_as_text("a\u{202e}b\u{2028}c\u{2066}".as_bytes()),
            "a\\u{202e}b\\u{2028}c\\u{2066}"
        );
    }

    #[test]
    fn key_is_quoted_only_where_another_key_could_give_the_same_line() {
        for usual in ["key", "a=b", "a key", "a \"b\"", "if", "x if", "= x", "grüße"] {
            assert_eq!(key_as_text(usual.as_bytes()), usual);
        }
        assert_eq!(key_as_text(b"k = 1"), "\"k = 1\"");
        assert_eq!(key_as_text(b"k ="), "\"k =\"");
        assert_eq!(key_as_text(b"k if absent"), "\"k if absent\"");
        assert_eq!(key_as_text(b"\"k\" = \\"), "\"\\\"k\\\" = \\\\\"");
        assert_eq!(key_as_text(b"\"k"), "\"\\\"k\"");
    }

    #[test]
    fn different_values_give_different_lines() {
        assert_eq!(bytes_as_text(b"a\nb"), "a\\nb");
        assert_eq!(bytes_as_text(b"a\\nb"), "a\\\\nb");
        assert_eq!(bytes_as_text(b"base64:/wA="), "\\base64:/wA=");
    }

    #[test]
    fn text_of_other_processes_has_no_control_characters() {
        assert_eq!(
            printable("a1\nhealthy\u{1b}[2J\u{9b}grüße\\"),
            "a1\\nhealthy\\u{1b}[2J\\u{9b}grüße\\"
        );
    }

    #[test]
    fn json_shows_text_as_a_string_and_binary_as_base64() {
        assert_eq!(bytes_as_json(b"two\nlines"), serde_json::json!("two\nlines"));
        assert_eq!(
            bytes_as_json(&[0xff, 0x00]),
            serde_json::json!({ "base64": "/wA=" })
        );
    }
}
