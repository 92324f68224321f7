//! `paxos log`: prints the log.

use paxos_client::{Client, LogPage, Slot, SubscribeError, Updates, Version};
use paxos_common::service::failure::Failure;
use paxos_proto::v1::{
    Command, Condition, Configuration, Delete, LogRecord, Member, Put, command::Operation, condition,
};
use tokio::time::{Instant, timeout_at};

use crate::{
    connection::{ConnectionArgs, no, subscribe_failure},
    json,
    output::{OutputArgs, bytes_as_text, key_as_text, printable},
    signals::{Left, interruptible, until_asked_to_end},
};

type LogUpdates = Updates<LogPage, SubscribeError>;

/// Print the log: a line for each command, SLOT.OFFSET and the value
///
/// The output begins at the oldest slot that a learner keeps, or at --from. If no learner keeps that slot, the command
/// exits 1 and reports the kept slots.
///
/// The output ends where the log ended when the command began, unless --follow is given. To find this end, a learner
/// asks a majority of the acceptors, so every command acknowledged before is printed. With --local the output ends at
/// the last slot applied by the answering learner, and no majority is needed.
///
/// Lines for registers: put KEY = VALUE, and delete KEY. A condition follows the key, as in put KEY if absent = VALUE.
/// The log does not have the outcome of a condition: `paxos watch` prints only changes that took effect. A key that
/// would make the line ambiguous is in double quotes. An appended value that begins like another kind of line has a
/// backslash in front.
///
/// A change of members is a line of its own, as in 81220.-  members of era 5: ... The acceptors of era 5 order every later slot.
///
/// A change of leader can leave no-ops in the log. Only JSON shows no-ops, as values without commands.
///
/// Session openings are left out without --all: each writer begins with an opening, and no reader sees a change. In
/// JSON, a slot with only openings is left out. An opening beside other commands is {} in JSON, so a command's place in
/// the list is still its offset.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// First slot to print [default: the oldest kept slot]
    #[arg(long, value_name = "SLOT", value_parser = parse_slot)]
    from: Option<Slot>,

    /// Continue with new commands, until interrupted
    #[arg(long)]
    follow: bool,

    /// Print the log of one learner, without asking a majority of the acceptors: new commands may be missing
    #[arg(long, conflicts_with = "follow")]
    local: bool,

    /// Print session openings too
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    output: OutputArgs,

    #[command(flatten)]
    connection: ConnectionArgs,
}

fn parse_slot(text: &str) -> Result<Slot, String> {
    let number: u64 = text.parse().map_err(|_| "give a number from 0 on".to_owned())?;
    Slot::new(number).map_err(|error| error.to_string())
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let client = args.connection.client()?;
    let mut log = match args.from {
        Some(from) => client.log(from),
        None => client.kept_log(),
    };
    if args.follow {
        return until_asked_to_end(follow(&args, &mut log)).await;
    }
    interruptible(Left::Nothing, print_what_there_is(&args, &client, &mut log)).await
}

async fn print_what_there_is(args: &Args, client: &Client, log: &mut LogUpdates) -> Result<(), Failure> {
    // The records are read at the same time, so the end may take the whole time.
    let begun = Instant::now();
    let end = if args.local {
        client.applied_to().await
    } else {
        client.chosen_to().await
    };
    let end = end.map_err(|cause| {
        let more = if args.local {
            ""
        } else {
            ", and --local prints the log of a learner"
        };
        Failure::unavailable(anyhow::anyhow!(
            "cannot learn the end of the log: {cause}; `paxos status` shows more{more}"
        ))
    })?;
    if let Some(from) = args.from.filter(|from| *from > end) {
        return Err(no(format!(
            "the log has no slot {from}: it ends before slot {end}"
        )));
    }
    print_to(args, log, end, begun).await
}

async fn follow(args: &Args, log: &mut LogUpdates) -> Result<(), Failure> {
    while let Some(news) = log.next().await {
        print_all(args, &messages(news.map_err(subscribe_failure)?)).await?;
    }
    Ok(())
}

/// Prints the slots below `end`. `since`: time of the last received records, or of the start of the command.
async fn print_to(args: &Args, log: &mut LogUpdates, end: Slot, mut since: Instant) -> Result<(), Failure> {
    let mut next = args.from.unwrap_or(Slot::ZERO);
    while next < end {
        // Without records a learner still sends signs of life. Only records restart the timeout.
        let page = timeout_at(since + args.connection.timeout, next_page(log, next))
            .await
            .map_err(|_elapsed| {
                Failure::unavailable(anyhow::anyhow!(
                    "slot {next} is chosen, but no learner learned it in time; `paxos status` shows more"
                ))
            })??;
        next = page.next;
        let records = messages(page);
        let wanted = records.partition_point(|record| record.slot < end.get());
        print_all(args, &records[..wanted]).await?;
        since = Instant::now();
    }
    Ok(())
}

/// The next page beyond slot `next`: with records, or with the oldest kept slot.
async fn next_page(log: &mut LogUpdates, next: Slot) -> Result<LogPage, Failure> {
    while let Some(news) = log.next().await {
        let news = news.map_err(subscribe_failure)?;
        if news.next > next {
            return Ok(news);
        }
    }
    Err(Failure::internal(anyhow::anyhow!(
        "the subscription ended without a reason"
    )))
}

fn messages(page: LogPage) -> Vec<LogRecord> {
    page.records
        .into_iter()
        .map(paxos_client::LogRecord::into_message)
        .collect()
}

async fn print_all(args: &Args, records: &[LogRecord]) -> Result<(), Failure> {
    for record in records {
        let is_shown =
            args.all || commands(record).is_empty() || !commands(record).iter().all(opens_a_session);
        if is_shown {
            args.output
                .print(|| text_of(record, args.all), || json_of(record, args.all))
                .await?;
        }
    }
    Ok(())
}

fn commands(record: &LogRecord) -> &[Command] {
    record.value.as_ref().map_or(&[], |value| &value.commands)
}

fn opens_a_session(command: &Command) -> bool {
    matches!(command.operation, Some(Operation::OpenSession(_)))
}

fn json_of(record: &LogRecord, all: bool) -> serde_json::Value {
    let mut record = record.clone();
    if let (Some(value), false) = (&mut record.value, all) {
        for opening in value
            .commands
            .iter_mut()
            .filter(|command| opens_a_session(command))
        {
            *opening = Command::default();
        }
    }
    json::message("LogRecord", &record)
}

/// One line for each command, or for a change of members; nothing for a no-op.
fn text_of(record: &LogRecord, all: bool) -> String {
    let slot = Slot::new(record.slot).unwrap_or(Slot::MAX);
    if let Some(configuration) = record
        .value
        .as_ref()
        .and_then(|value| value.configuration.as_ref())
    {
        return format!("{slot}.-  {}\n", members_text(configuration));
    }
    let versions = (0..=u16::MAX).map(|offset| Version { slot, offset });
    versions
        .zip(commands(record))
        .filter(|(_, command)| all || !opens_a_session(command))
        .map(|(version, command)| format!("{version}  {}\n", command_text(command)))
        .collect()
}

/// The line of a change of members.
fn members_text(configuration: &Configuration) -> String {
    let member = |member: &Member| match &*member.name {
        "" => printable(&member.address),
        name => format!("{} at {}", printable(name), printable(&member.address)),
    };
    let members: Vec<_> = configuration.members.iter().map(member).collect();
    format!(
        "members of era {}: {}; quorums {} to lead, {} to choose",
        configuration.era,
        members.join(", "),
        configuration.phase1,
        configuration.phase2
    )
}

/// Beginnings of the lines of commands that append nothing.
const PUT: &str = "put ";
const DELETE: &str = "delete ";
const OPEN_SESSION: &str = "open session";
const UNKNOWN: &str = "unknown command";

/// The line of a command; different commands of the same session give different lines.
fn command_text(command: &Command) -> String {
    match &command.operation {
        Some(Operation::Append(append)) => {
            let text = bytes_as_text(&append.record);
            let is_ambiguous = [PUT, DELETE, OPEN_SESSION, UNKNOWN]
                .iter()
                .any(|other| text.starts_with(other));
            // No other value begins so: the escapes of characters are \\, \n, \r, \t and \u{.
            if is_ambiguous { format!("\\{text}") } else { text }
        }
        Some(Operation::Put(Put {
            key,
            value,
            condition,
        })) => {
            let condition = condition_text(condition.as_ref());
            format!("{PUT}{}{condition} = {}", key_as_text(key), bytes_as_text(value))
        }
        Some(Operation::Delete(Delete { key, condition })) => {
            let condition = condition_text(condition.as_ref());
            format!("{DELETE}{}{condition}", key_as_text(key))
        }
        Some(Operation::OpenSession(_)) => OPEN_SESSION.to_owned(),
        None => format!("{UNKNOWN}: this client is older than the writer"),
    }
}

/// The condition of a write, in the words of the flags of `paxos put`.
fn condition_text(condition: Option<&Condition>) -> String {
    match condition.map(|condition| &condition.condition) {
        None => String::new(),
        Some(Some(condition::Condition::Absent(_))) => " if absent".to_owned(),
        Some(Some(condition::Condition::Version(version))) => {
            format!(" if version {}.{}", version.slot, version.offset)
        }
        Some(None) => " if unknown condition".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use paxos_proto::v1::{Append, OpenSession, Value};
    use serde_json::json;

    #[test]
    fn every_command_gets_a_line_with_its_version_and_a_no_op_none() {
        let append = |record: &'static str| Command {
            session: None,
            operation: Some(Operation::Append(Append {
                record: record.into(),
            })),
        };
        let mut record = LogRecord {
            slot: 17,
            value: Some(Value {
                commands: vec![append("one"), append("two\nlines")],
                configuration: None,
            }),
            traceparent: String::new(),
        };
        assert_eq!(text_of(&record, false), "17.0  one\n17.1  two\\nlines\n");
        record.value = Some(Value::default());
        assert_eq!(text_of(&record, false), "");
    }

    #[test]
    fn session_openings_are_shown_only_on_request() {
        let command = |operation| Command {
            session: None,
            operation: Some(operation),
        };
        let record = LogRecord {
            slot: 17,
            value: Some(Value {
                commands: vec![
                    command(Operation::OpenSession(OpenSession::default())),
                    command(Operation::Append(Append { record: "one".into() })),
                ],
                configuration: None,
            }),
            traceparent: String::new(),
        };
        assert_eq!(text_of(&record, false), "17.1  one\n");
        assert_eq!(text_of(&record, true), "17.0  open session\n17.1  one\n");
        let shown = |all| json_of(&record, all)["value"]["commands"].clone();
        assert_eq!(shown(false), json!([{}, { "append": { "record": "one" } }]));
        assert!(shown(true)[0].get("open_session").is_some(), "{}", shown(true));
    }

    #[test]
    fn change_of_members_is_a_line() {
        let member = |name: &str, host: &str| Member {
            acceptor: vec![1; 16].into(),
            address: format!("http://{host}:1"),
            name: name.to_owned(),
        };
        let configuration = Configuration {
            members: vec![member("acceptor-1", "a"), member("", "b\n")],
            phase1: 2,
            phase2: 2,
            era: 5,
            ..Configuration::default()
        };
        let record = LogRecord {
            slot: 17,
            value: Some(Value {
                commands: Vec::new(),
                configuration: Some(configuration),
            }),
            traceparent: String::new(),
        };
        let line = "17.-  members of era 5: acceptor-1 at http://a:1, http://b\\n:1; quorums 2 to lead, 2 to choose\n";
        assert_eq!(text_of(&record, false), line);
    }

    #[test]
    fn slots_are_numbers_from_0_on() {
        assert_eq!(parse_slot("12").unwrap().get(), 12);
        for wrong in ["-1", "", "1.0", "9223372036854775808"] {
            assert!(parse_slot(wrong).is_err(), "{wrong}");
        }
    }
}
