//! Prints a line for each process of the cluster: who leads, how far each is, and why a process is not ready.
//!
//! Start a cluster with `paxos dev`, then: `cargo run -p paxos-client --example status`
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use paxos_client::{Address, Cause, Client, DEV_ACCEPTORS};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let client = Client::connect(DEV_ACCEPTORS)?;
    let status = client.cluster_status().await;
    let ready = |why: Option<String>| why.unwrap_or_else(|| "ready".to_owned());
    for process in status.acceptors {
        let answer = process
            .answer
            .map(|acceptor| format!("chosen to {}, {}", acceptor.chosen_to, ready(acceptor.not_ready)));
        print("acceptor", &process.address, answer);
    }
    for process in status.proposers {
        let answer = process
            .answer
            .map(|proposer| format!("leads: {}, {}", proposer.leads, ready(proposer.not_ready)));
        print("proposer", &process.address, answer);
    }
    for process in status.learners {
        let answer = process
            .answer
            .map(|learner| format!("applied to {}, {}", learner.applied_to, ready(learner.not_ready)));
        print("learner", &process.address, answer);
    }
    Ok(())
}

fn print(role: &str, address: &Address, answer: Result<String, Cause>) {
    match answer {
        Ok(answer) => println!("{role} {address}: {answer}"),
        Err(cause) => println!("{role} {address}: no answer: {cause}"),
    }
}
