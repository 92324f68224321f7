//! Engine: runs `docker` and Compose, each command within a time limit, and builds the image once.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

/// Time limit of every command except builds.
const COMMAND: Duration = Duration::from_secs(180);
/// Time limit of a whole build on two slow cores.
const BUILD: Duration = Duration::from_mins(40);
/// Exit code of `timeout` after the time limit.
const TIMED_OUT: i32 = 124;

/// A working engine, and the Compose command for the engine.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    compose: Vec<String>,
}

/// The root of the repository.
pub(crate) fn repository() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    root.expect("this crate is two directories below the root")
        .to_owned()
}

/// Standard output of a successful command, as text without the last line break.
pub(crate) fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone())
        .unwrap()
        .trim_end()
        .to_owned()
}

/// Runs a program to its end, with these variables added to our environment. Panics after `limit`.
pub(crate) fn run(limit: Duration, words: &[&str], variables: &[(&str, &str)]) -> Output {
    let output = Command::new("timeout")
        .arg(limit.as_secs().to_string())
        .args(words)
        .envs(variables.iter().copied())
        .current_dir(repository())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_ne!(
        output.status.code(),
        Some(TIMED_OUT),
        "{words:?} is not over after {limit:?}"
    );
    output
}

/// Runs `docker`.
pub(crate) fn docker(words: &[&str]) -> Output {
    run(COMMAND, &[&["docker"], words].concat(), &[])
}

impl Engine {
    /// The engine of this machine, with the image; otherwise the reason for the lack of an engine.
    pub(crate) fn find() -> Result<Self, String> {
        let answers = |words: &[&str]| run(COMMAND, words, &[]).status.success();
        if !answers(&["docker", "version"]) {
            return Err("no Docker engine answers".to_owned());
        }
        let given = env::var("PAXOS_TEST_COMPOSE").ok();
        let known = given
            .as_deref()
            .map_or(vec!["docker-compose", "docker compose"], |given| vec![given]);
        let split = |compose: &str| compose.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let compose = known.into_iter().map(split).find(|compose| {
            let words: Vec<_> = compose.iter().map(String::as_str).chain(["version"]).collect();
            answers(&words)
        });
        let engine = Self {
            compose: compose.ok_or("there is no Compose")?,
        };
        engine.image();
        Ok(engine)
    }

    /// Runs Compose with these variables.
    pub(crate) fn compose(&self, variables: &[(&str, &str)], words: &[&str]) -> Output {
        self.compose_within(COMMAND, variables, words)
    }

    fn compose_within(&self, limit: Duration, variables: &[(&str, &str)], words: &[&str]) -> Output {
        let compose = self.compose.iter().map(String::as_str);
        run(
            limit,
            &compose.chain(words.iter().copied()).collect::<Vec<_>>(),
            variables,
        )
    }

    /// The image of the roles: PAXOS_TEST_IMAGE, or a build of the Dockerfile from this repository's present state.
    pub(crate) fn image(&self) -> &'static str {
        static IMAGE: OnceLock<String> = OnceLock::new();
        IMAGE.get_or_init(|| {
            env::var("PAXOS_TEST_IMAGE").unwrap_or_else(|_| {
                let begun = Instant::now();
                base_images();
                let words = ["build", "--build-arg", "PROFILE=quick", "acceptor-1"];
                let built = self.compose_within(BUILD, &[("PAXOS_IMAGE", "paxos:test")], &words);
                assert!(built.status.success(), "{built:?}");
                let size = text(&docker(&[
                    "image",
                    "inspect",
                    "--format",
                    "{{.Size}}",
                    "paxos:test",
                ]));
                let size: u64 = size.parse().unwrap();
                println!(
                    "built the image in {:.0?}: {} MB",
                    begun.elapsed(),
                    size / 1_000_000
                );
                "paxos:test".to_owned()
            })
        })
    }
}

/// Makes the Dockerfile's base images, if a script beside the repository can. Such a script exists on machines without
/// a registry. Everywhere else the build pulls the images.
fn base_images() {
    let script = env::var_os("PAXOS_BASE_IMAGES").map(PathBuf::from);
    let script = script.unwrap_or_else(|| repository().join("../shared/images/make-base-images"));
    if script.exists() {
        let made = run(BUILD, &["bash", &script.display().to_string()], &[]);
        assert!(made.status.success(), "{made:?}");
    }
}
