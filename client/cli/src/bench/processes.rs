//! CPU time of the roles that run on this machine. A role's process is found by the port that the process listens on.

use std::{collections::BTreeMap, net::SocketAddr};

use paxos_client::Client;
use paxos_common::peer::Address;
use serde_json::{Value, json};
use tokio::net::{UdpSocket, lookup_host};

/// A process with one or more roles of the cluster, or this command.
#[derive(Clone, Debug, PartialEq)]
struct RoleProcess {
    pid: i32,
    /// Names of the roles, each once. `client` for this command.
    roles: Vec<&'static str>,
    /// Addresses of the roles.
    addresses: Vec<String>,
    /// CPU time since the start of the process, in seconds, when the measurement began.
    begun_at: f64,
}

/// The processes of the cluster on this machine, and this command, as the measurement begins.
#[derive(Debug)]
pub(super) struct RoleProcesses(Vec<RoleProcess>);

/// CPU time of a process during the measurement.
#[derive(Debug)]
pub(super) struct UsedCpu {
    process: RoleProcess,
    seconds: f64,
}

impl RoleProcesses {
    /// Asks the cluster for its roles, and looks for their processes. A role on another machine, in another network
    /// namespace, or of another user is left out. On systems other than Linux no process is found.
    pub(super) async fn find(client: &Client) -> Self {
        let report = client.cluster_report().await;
        let roles = (report.acceptors.iter().map(|of| ("acceptor", &of.address)))
            .chain(report.proposers.iter().map(|of| ("proposer", &of.address)))
            .chain(report.learners.iter().map(|of| ("learner", &of.address)));
        let mut found = BTreeMap::<i32, RoleProcess>::new();
        let listeners = proc::listeners();
        for (role, address) in roles {
            let Some(pid) = listening(address, &listeners).await else {
                continue;
            };
            let process = found.entry(pid).or_insert_with(|| RoleProcess::new(pid));
            if !process.roles.contains(&role) {
                process.roles.push(role);
            }
            process.addresses.push(address.to_string());
        }
        let mut processes: Vec<_> = found.into_values().collect();
        if let Ok(pid) = i32::try_from(std::process::id())
            && !processes.is_empty()
        {
            let mut this = RoleProcess::new(pid);
            this.roles.push("client");
            processes.push(this);
        }
        let mut processes = Self(processes);
        processes.0.sort_by_key(|process| process.roles.clone());
        processes
    }

    /// Begins to measure.
    pub(super) fn begin(mut self) -> Self {
        for process in &mut self.0 {
            process.begun_at = proc::cpu_seconds(process.pid).unwrap_or(0.0);
        }
        self
    }

    /// What each process has used since [`begin`](Self::begin). A process that has ended is left out.
    pub(super) fn used(self) -> Vec<UsedCpu> {
        let used = |process: RoleProcess| {
            let seconds = proc::cpu_seconds(process.pid)? - process.begun_at;
            Some(UsedCpu { process, seconds })
        };
        self.0.into_iter().filter_map(used).collect()
    }
}

impl RoleProcess {
    fn new(pid: i32) -> Self {
        Self {
            pid,
            roles: Vec::new(),
            addresses: Vec::new(),
            begun_at: 0.0,
        }
    }
}

impl UsedCpu {
    /// Microseconds of CPU time for each of `operations`.
    #[expect(clippy::cast_precision_loss, reason = "counts for people stay far below 2^52")]
    fn micros_each(&self, operations: u64) -> f64 {
        self.seconds * 1e6 / operations.max(1) as f64
    }
}

/// For people: microseconds of CPU time for each operation. Empty without processes.
pub(super) fn text(used: &[UsedCpu], operations: u64) -> String {
    if used.is_empty() {
        return String::new();
    }
    let each = |cpu: &UsedCpu| {
        format!(
            "{} {:.1}",
            cpu.process.roles.join("+"),
            cpu.micros_each(operations)
        )
    };
    let each: Vec<_> = used.iter().map(each).collect();
    format!("CPU        µs for each operation: {}\n", each.join("  "))
}

/// For programs.
pub(super) fn json(used: &[UsedCpu], operations: u64) -> Value {
    let each = |cpu: &UsedCpu| {
        json!({
            "pid": cpu.process.pid,
            "roles": cpu.process.roles,
            "addresses": cpu.process.addresses,
            "cpu_seconds": cpu.seconds,
            "cpu_us_for_each_operation": cpu.micros_each(operations),
        })
    };
    used.iter().map(each).collect()
}

/// The process that listens on an address of this machine.
async fn listening(address: &Address, listeners: &[(SocketAddr, i32)]) -> Option<i32> {
    let resolved: Vec<_> = lookup_host(address.host_and_port()).await.ok()?.collect();
    for at in resolved {
        // Only an address of this machine can be bound.
        if UdpSocket::bind((at.ip(), 0)).await.is_err() {
            continue;
        }
        let listens = |bound: &SocketAddr| {
            bound.port() == at.port() && (bound.ip() == at.ip() || bound.ip().is_unspecified())
        };
        if let Some((_, pid)) = listeners.iter().find(|(bound, _)| listens(bound)) {
            return Some(*pid);
        }
    }
    None
}

/// Reads `/proc`.
#[cfg(target_os = "linux")]
mod proc {
    use std::{collections::BTreeMap, net::SocketAddr};

    use procfs::{
        net::{TcpState, tcp, tcp6},
        process::{FDTarget, Process, all_processes},
        ticks_per_second,
    };

    /// The addresses that processes listen on, with their processes, as far as this user may see them.
    pub(super) fn listeners() -> Vec<(SocketAddr, i32)> {
        let sockets = [tcp(), tcp6()].into_iter().flatten().flatten();
        let bound: BTreeMap<u64, SocketAddr> = sockets
            .filter(|socket| socket.state == TcpState::Listen)
            .map(|socket| (socket.inode, socket.local_address))
            .collect();
        let mut found = Vec::new();
        for process in all_processes().into_iter().flatten().flatten() {
            for descriptor in process.fd().into_iter().flatten().flatten() {
                if let FDTarget::Socket(inode) = descriptor.target
                    && let Some(address) = bound.get(&inode)
                {
                    found.push((*address, process.pid));
                }
            }
        }
        found
    }

    /// CPU time of a process since its start, in seconds; none when the process has ended.
    #[expect(clippy::cast_precision_loss, reason = "ticks for people stay far below 2^52")]
    pub(super) fn cpu_seconds(pid: i32) -> Option<f64> {
        let stat = Process::new(pid).and_then(|process| process.stat()).ok()?;
        Some((stat.utime + stat.stime) as f64 / ticks_per_second() as f64)
    }
}

/// Other systems have no `/proc`.
#[cfg(not(target_os = "linux"))]
mod proc {
    use std::net::SocketAddr;

    pub(super) fn listeners() -> Vec<(SocketAddr, i32)> {
        Vec::new()
    }

    pub(super) fn cpu_seconds(_pid: i32) -> Option<f64> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(roles: &[&'static str], seconds: f64) -> UsedCpu {
        let mut process = RoleProcess::new(7);
        process.roles.extend(roles);
        process.addresses.push("http://127.0.0.1:7001".to_owned());
        UsedCpu { process, seconds }
    }

    #[test]
    fn cpu_time_is_shown_for_each_operation() {
        let all = [used(&["acceptor"], 0.5), used(&["learner", "proposer"], 2.0)];
        assert_eq!(
            text(&all, 1000),
            "CPU        µs for each operation: acceptor 500.0  learner+proposer 2000.0\n"
        );
        assert_eq!(json(&all, 1000)[1]["cpu_us_for_each_operation"], 2000.0);
        assert_eq!(text(&[], 1000), "");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn process_is_found_by_its_port_alone() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let address = |host: &str| format!("http://{host}:{port}").parse::<Address>().unwrap();
        let this = i32::try_from(std::process::id()).unwrap();
        let listeners = proc::listeners();
        assert_eq!(listening(&address("127.0.0.1"), &listeners).await, Some(this));
        // Bound to another address of this machine; an address of another machine.
        assert_eq!(listening(&address("127.0.0.2"), &listeners).await, None);
        assert_eq!(listening(&address("192.0.2.1"), &listeners).await, None);
        drop(listener);
        assert_eq!(listening(&address("127.0.0.1"), &proc::listeners()).await, None);
    }
}
