//! The command line of a process: flags, and the environment variables that stand for flags.

use std::{
    env,
    ffi::OsString,
    io::{self, IsTerminal as _},
    process,
};

use clap::{
    Arg, Command, CommandFactory, FromArgMatches,
    builder::Resettable,
    error::{ContextKind, ContextValue},
};

use crate::{exit::Exit, stderr};

/// Parses the command line of this process. A variable that is set and empty counts as unset: this is what
/// `${VARIABLE:-}` in a compose file gives.
///
/// `--help`, `--version` and mistakes end the process: with 0, with 2, or with 74 when standard output is full.
pub fn parse<T: CommandFactory + FromArgMatches>() -> T {
    let variable = |name: &std::ffi::OsStr| env::var_os(name);
    match parse_from(&env::args_os().collect::<Vec<_>>(), &variable) {
        Ok(parsed) => parsed,
        Err(mistake) => process::exit(i32::from(print(&mistake) as u8)),
    }
}

/// What the command line comes to when nothing is run.
struct Mistake {
    error: clap::Error,
    /// The variable that holds the value at fault.
    variable: Option<String>,
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
        // clap shows flags of built commands alone, and has built only those on the line.
        command.build();
        Mistake {
            variable: variable_at_fault(&error, &command, line, variable),
            error: error.format(&mut command),
        }
    })
}

/// Flags whose variable is set and empty do without the variable.
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

/// The variable that a value at fault was read from: `None` when the value stands on the command line.
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

/// The flag that clap shows in this way, in the command or one of its subcommands.
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
        let text = error.render();
        let text = if io::stderr().is_terminal() {
            text.ansi().to_string()
        } else {
            text.to_string()
        };
        let variable = match &mistake.variable {
            Some(variable) => format!("\n\nThe value is that of the environment variable {variable}."),
            None => String::new(),
        };
        stderr::say(format_args!("{}{variable}", text.trim_end()));
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

    /// Parses `line`, though the real environment has no such variable: clap is given `held` as a default.
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
    fn value_on_the_command_line_is_not_blamed_on_the_variable() {
        assert_eq!(mistake(&["test", "run", "--number", "x"], "x").variable, None);
        assert_eq!(mistake(&["test", "run", "--number=x"], "x").variable, None);
    }
}
