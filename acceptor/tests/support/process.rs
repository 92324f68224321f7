//! The real binary as a process, and a client.

use std::{
    ffi::OsStr,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use paxos_common::{
    paxos::{identity::AcceptorUuid, quorum::Configuration},
    peer::connect_lazy,
    wire::caller,
};
use paxos_proto::v1::{self as pb, acceptor_client::AcceptorClient};
use tonic::transport::Channel;

use super::configuration;

/// A connection to an acceptor.
pub type ProcessClient = AcceptorClient<Channel>;

/// The real binary. Killed and awaited when dropped.
pub struct Process {
    pub child: Child,
    url: String,
}

/// The binary, as acceptor a1 of a directory.
pub fn command(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_acceptor"));
    command.args(["--id", "a1", "--listen", "127.0.0.1:0", "--log-format", "json"]);
    command.arg("--data-dir").arg(directory);
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

impl Process {
    pub fn start(directory: &Path) -> Self {
        Self::spawn(command(directory))
    }

    /// Starts the process with more flags.
    pub fn start_with(directory: &Path, flags: &[&str]) -> Self {
        let mut command = command(directory);
        command.args(flags);
        Self::spawn(command)
    }

    /// Starts the process with more variables in its environment.
    pub fn start_under(
        directory: &Path,
        variables: impl IntoIterator<Item = (&'static str, impl AsRef<OsStr>)>,
    ) -> Self {
        let mut command = command(directory);
        command.envs(variables);
        Self::spawn(command)
    }

    /// Starts the process with a file size limit of one or two megabytes, less than a checkpoint needs.
    pub fn start_on_a_small_disk(directory: &Path, flags: &[&str]) -> Self {
        let inner = command(directory);
        let mut command = Command::new("sh");
        // Without the signal, a write beyond the limit fails as on a full disk.
        command.args(["-c", "trap '' XFSZ; ulimit -f 2048; exec \"$0\" \"$@\""]);
        command.arg(inner.get_program()).args(inner.get_args());
        command.args(flags);
        command.env_remove("RUST_LOG").stdin(Stdio::null());
        Self::spawn(command)
    }

    /// Starts the process, and reads its port from the log.
    fn spawn(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let url = lines
            .find_map(|line| {
                let line = line.unwrap();
                let (_, rest) = line.split_once("\"address\":\"http://127.0.0.1:")?;
                Some(format!("http://127.0.0.1:{}", rest.split_once('"')?.0))
            })
            .expect("the log tells the address");
        // Keeps the pipe empty; ends with the process.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, url }
    }

    pub fn client(&self) -> ProcessClient {
        AcceptorClient::new(connect_lazy(&self.url.parse().unwrap()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Calls until the server is up: the address is logged before the server starts.
pub async fn form(client: &mut ProcessClient) -> Configuration {
    let ask = |cluster, step| pb::FormRequest {
        caller: Some(caller(cluster)),
        step,
    };
    let blank = client.form(ask(None, None)).await.unwrap().into_inner();
    assert_eq!(blank.membership(), pb::Membership::Blank);
    let uuid = AcceptorUuid::from_slice(&blank.stamp.unwrap().acceptor).unwrap();
    let configuration = configuration(uuid);
    let listed = pb::Configuration::from(&configuration);
    let stored = client
        .form(ask(None, Some(pb::form_request::Step::Store(listed.clone()))))
        .await
        .unwrap();
    assert_eq!(stored.into_inner().membership(), pb::Membership::Forming);
    let formed = client
        .form(ask(None, Some(pb::form_request::Step::Complete(listed))))
        .await
        .unwrap();
    assert_eq!(formed.into_inner().membership(), pb::Membership::Formed);
    configuration
}
