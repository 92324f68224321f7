//! The output of `--help`, for `paxos` and every command: a change of this output is a change of the interface.

use std::{fs, process::Command};

/// The output of `paxos`, at a fixed width and without our environment.
fn help(args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_paxos"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PAXOS_")) {
        command.env_remove(name);
    }
    let output = command.args(args).env("COLUMNS", "100").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn help_of_paxos_names_every_command_for_users() {
    insta::assert_snapshot!(help(&["--help"]));
}

#[test]
fn help_of_dev_names_its_ports() {
    insta::assert_snapshot!(help(&["dev", "--help"]));
}

#[test]
fn help_of_propose_says_when_it_returns() {
    insta::assert_snapshot!(help(&["propose", "--help"]));
}

#[test]
fn help_of_log_says_where_it_ends() {
    insta::assert_snapshot!(help(&["log", "--help"]));
}

#[test]
fn help_of_backup_says_how_it_exits() {
    insta::assert_snapshot!(help(&["backup", "--help"]));
}

#[test]
fn help_of_decide_says_when_it_exits_1() {
    insta::assert_snapshot!(help(&["decide", "--help"]));
}

#[test]
fn help_of_put_names_its_conditions() {
    insta::assert_snapshot!(help(&["put", "--help"]));
}

#[test]
fn help_of_get_says_how_fresh_a_read_is() {
    insta::assert_snapshot!(help(&["get", "--help"]));
}

#[test]
fn help_of_delete_names_its_condition() {
    insta::assert_snapshot!(help(&["delete", "--help"]));
}

#[test]
fn help_of_watch_says_how_to_go_on() {
    insta::assert_snapshot!(help(&["watch", "--help"]));
}

#[test]
fn help_of_elect_says_what_becomes_of_the_command() {
    insta::assert_snapshot!(help(&["elect", "--help"]));
}

#[test]
fn help_of_status_says_how_it_exits() {
    insta::assert_snapshot!(help(&["status", "--help"]));
}

#[test]
fn help_of_member_says_how_it_exits() {
    insta::assert_snapshot!(help(&["member", "--help"]));
}

#[test]
fn help_of_member_replace_says_who_answers_at_which_address() {
    insta::assert_snapshot!(help(&["member", "replace", "--help"]));
}

#[test]
fn help_of_bench_has_defaults_and_units() {
    insta::assert_snapshot!(help(&["bench", "--help"]));
}

#[test]
fn version_is_that_of_the_package() {
    assert_eq!(
        help(&["--version"]),
        format!("paxos {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn help_of_healthcheck_says_how_it_exits() {
    insta::assert_snapshot!(help(&["healthcheck", "--help"]));
}

/// The commands listed by `paxos --help`.
fn commands() -> Vec<String> {
    let help = help(&["--help"]);
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line[2..].split(' ').next().filter(|name| !name.is_empty()))
        .map(str::to_owned)
        .collect()
}

#[test]
fn script_of_each_shell_completes_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = help(&["completions", shell]);
        for command in commands() {
            assert!(script.contains(&command), "{shell} does not complete {command}");
        }
        assert!(!script.contains("guard"), "{shell} completes a hidden command");
    }
    let complete = "source <(\"$0\" completions bash); COMP_WORDS=(paxos pro); COMP_CWORD=1; _paxos paxos pro paxos; echo ${COMPREPLY[@]}";
    let bash = Command::new("bash")
        .args(["-c", complete, env!("CARGO_BIN_EXE_paxos")])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(bash.stdout).unwrap(), "propose\n");
}

#[test]
fn every_command_for_users_has_a_manual_page() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("man1");
    assert_eq!(help(&["man", path.to_str().unwrap()]), "");
    for command in commands().iter().filter(|command| *command != "help") {
        let page = fs::read_to_string(path.join(format!("paxos-{command}.1"))).unwrap();
        assert!(page.contains(".SH NAME"), "{page}");
    }
    let page = fs::read_to_string(path.join("paxos.1")).unwrap();
    assert!(page.contains("Exit codes"), "{page}");
    for hidden in ["guard", "man"] {
        assert!(
            !path.join(format!("paxos-{hidden}.1")).exists(),
            "{hidden} is no command for users"
        );
    }
}
