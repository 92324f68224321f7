//! The command line of a process: flags, and the environment variables that stand for flags.

use std::{
    env,
    ffi::OsString,
    io::{self, IsTerminal as _},
    process,
};

use clap::{
    Arg, Command, CommandFactory, FromArgMatches, ValueEnum as _,
    builder::Resettable,
    error::{ContextKind, ContextValue},
};

use crate::service::{config::LogFormat, failure::Exit, stderr, telemetry::json_line};

/// Parses the command line of this process. An empty environment variable counts as unset: `${VARIABLE:-}` in a compose
/// file gives an empty variable.
///
/// `--help`, `--version` and mistakes end the process: with 0, with 2, or with 74 when standard output is full.
pub fn parse<T: CommandFactory + FromArgMatches>() -> T {
    let variable = |name: &std::ffi::OsStr| env::var_os(name);
    match parse_from(&env::args_os().collect::<Vec<_>>(), &variable) {
        Ok(parsed) => parsed,
        Err(mistake) => process::exit(i32::from(print(&mistake) as u8)),
    }
}

/// Parses the command line of a role that runs inside this process, with the same rules for variables as [`parse`].
///
/// # Errors
/// The mistake, and the environment variable that holds the invalid value.
pub fn parse_role<T: CommandFactory + FromArgMatches>(line: &[OsString]) -> Result<T, String> {
    parse_from(line, &|name: &std::ffi::OsStr| env::var_os(name)).map_err(|mistake| mistake.text())
}

/// The result of a command line without a run.
struct Mistake {
    error: clap::Error,
    /// The variable with the invalid value.
    variable: Option<String>,
    /// The log format that the process would have used.
    log_format: LogFormat,
}

impl Mistake {
    /// The mistake without colours, for a line that begins with `error: `.
    fn text(&self) -> String {
        let text = self.error.render().to_string();
        let text = text.strip_prefix("error: ").unwrap_or(&text);
        format!("{}{}", text.trim_end(), self.blamed_variable())
    }

    /// A sentence that names the variable at fault; empty if the value comes from the command line.
    fn blamed_variable(&self) -> String {
        match &self.variable {
            Some(variable) => format!("\n\nThe value is that of the environment variable {variable}."),
            None => String::new(),
        }
    }
}

type Variable<'a> = dyn Fn(&std::ffi::OsStr) -> Option<OsString> + 'a;

fn parse_from<T: CommandFactory + FromArgMatches>(
    line: &[OsString],
    variable: &Variable<'_>,
) -> Result<T, Mistake> {
    let mut command = without_empty_variables(T::command(), variable);
    let matches = command.try_get_matches_from_mut(line);
    let parsed = matches.and_then(|mut matches| T::from_arg_matches_mut(&mut matches));
    parsed.map_err(|error| {
        // clap shows only flags of built commands, and has built only the commands on the line.
        command.build();
        Mistake {
            variable: variable_at_fault(&error, &command, line, variable),
            log_format: log_format(&command, line, variable),
            error: error.format(&mut command),
        }
    })
}

/// Removes the variable from each flag whose variable is empty.
fn without_empty_variables(command: Command, variable: &Variable<'_>) -> Command {
    let reset = |arg: Arg| {
        let is_empty = arg
            .get_env()
            .and_then(variable)
            .is_some_and(|value| value.is_empty());
        if is_empty { arg.env(Resettable::Reset) } else { arg }
    };
    command
        .mut_args(reset)
        .mut_subcommands(|subcommand| without_empty_variables(subcommand, variable))
}

/// The variable with the invalid value: `None` when the value comes from the command line.
fn variable_at_fault(
    error: &clap::Error,
    command: &Command,
    line: &[OsString],
    variable: &Variable<'_>,
) -> Option<String> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let (flag, value) = (text(ContextKind::InvalidArg)?, text(ContextKind::InvalidValue)?);
    let arg = find(command, flag)?;
    let name = arg.get_env()?;
    let stands_on_the_line = line
        .iter()
        .filter_map(|word| word.to_str())
        .any(|word| match arg.get_long() {
            Some(long) => word
                .strip_prefix("--")
                .is_some_and(|word| word == long || word.starts_with(&format!("{long}="))),
            None => word == value,
        });
    let holds_the_value = variable(name).is_some_and(|held| held == value);
    (holds_the_value && !stands_on_the_line).then(|| name.to_string_lossy().into_owned())
}

/// The log format from the line or the environment, for the command on the line.
fn log_format(command: &Command, line: &[OsString], variable: &Variable<'_>) -> LogFormat {
    const FLAG: &str = "log-format";
    let mut words = line.iter().skip(1).filter_map(|word| word.to_str());
    let mut named = command;
    let mut given = None;
    while let Some(word) = words.next() {
        if let Some(subcommand) = named.find_subcommand(word) {
            named = subcommand;
        } else if let Some(value) = word.strip_prefix("--log-format") {
            given = value.strip_prefix('=').or_else(|| words.next());
        }
    }
    let Some(arg) = named.get_arguments().find(|arg| arg.get_long() == Some(FLAG)) else {
        return LogFormat::Text;
    };
    let held = arg.get_env().and_then(variable);
    let value = given.or_else(|| held.as_ref()?.to_str());
    let format = value.and_then(|value| LogFormat::from_str(value, false).ok());
    format.unwrap_or(LogFormat::Text)
}

/// The flag that clap shows as `shown`, in the command or a subcommand.
fn find<'a>(command: &'a Command, shown: &str) -> Option<&'a Arg> {
    let own = command
        .get_arguments()
        .find(|arg| arg.to_string() == shown && arg.get_env().is_some());
    own.or_else(|| {
        command
            .get_subcommands()
            .find_map(|subcommand| find(subcommand, shown))
    })
}

/// Prints help on standard output, and mistakes on standard error.
fn print(mistake: &Mistake) -> Exit {
    let error = &mistake.error;
    if error.use_stderr() {
        stderr::say(match mistake.log_format {
            LogFormat::Text if io::stderr().is_terminal() => {
                let text = error.render().ansi().to_string();
                format!("{}{}", text.trim_end(), mistake.blamed_variable())
            }
            LogFormat::Text => {
                let text = error.render().to_string();
                format!("{}{}", text.trim_end(), mistake.blamed_variable())
            }
            LogFormat::Json => {
                let fields = serde_json::json!({ "message": mistake.text(), "exit_code": Exit::Usage as u8 });
                json_line("ERROR", &fields)
            }
        });
        return Exit::Usage;
    }
    match error.print() {
        Ok(()) => Exit::Clean,
        Err(failed) if failed.kind() == io::ErrorKind::BrokenPipe => Exit::Clean,
        Err(failed) => {
            stderr::say(format_args!("error: write to standard output: {failed}"));
            Exit::Storage
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(subcommand)]
        command: Sub,
    }

    #[derive(Debug, clap::Subcommand)]
    enum Sub {
        Run {
            #[arg(long, env = "PAXOS_COMMAND_LINE_TEST", default_value = "7")]
            number: u16,
        },
    }

    /// Parses `line`. The real environment has no such variable, so clap gets `held` as a default.
    fn mistake(line: &[&str], held: &str) -> Mistake {
        let variable = |_: &std::ffi::OsStr| Some(OsString::from(held));
        let line: Vec<_> = line.iter().map(OsString::from).collect();
        parse_from::<Cli>(&line, &variable).expect_err("the value is at fault")
    }

    #[test]
    fn empty_variable_counts_as_unset() {
        let with = |held: &str| {
            let held = OsString::from(held);
            let variable = move |_: &std::ffi::OsStr| Some(held.clone());
            let command = without_empty_variables(Cli::command(), &variable);
            let run = command.find_subcommand("run").expect("it is there").clone();
            let number = run.get_arguments().find(|arg| arg.get_id() == "number");
            number.expect("it is there").get_env().is_some()
        };
        assert!(with("8") && !with(""));
    }

    #[test]
    fn mistake_is_reported_in_the_requested_log_format() {
        #[derive(Debug, Parser)]
        struct Role {
            #[arg(long, env = "PAXOS_COMMAND_LINE_TEST", default_value = "text")]
            log_format: LogFormat,
            #[arg(long)]
            id: String,
        }
        let format = |line: &[&str], held: &str| {
            let variable = |_: &std::ffi::OsStr| Some(OsString::from(held));
            let line: Vec<_> = line.iter().map(OsString::from).collect();
            log_format(&Role::command(), &line, &variable)
        };
        assert_eq!(format(&["role"], "json"), LogFormat::Json);
        assert_eq!(format(&["role", "--log-format", "json"], "text"), LogFormat::Json);
        assert_eq!(format(&["role", "--log-format=text"], "json"), LogFormat::Text);
        assert_eq!(format(&["role", "--log-format=yaml"], "json"), LogFormat::Text);
    }

    #[test]
    fn value_on_the_command_line_is_not_blamed_on_the_variable() {
        assert_eq!(mistake(&["test", "run", "--number", "x"], "x").variable, None);
        assert_eq!(mistake(&["test", "run", "--number=x"], "x").variable, None);
    }
}
