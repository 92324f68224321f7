//! Prints the list of the members, with the command that repairs each fault.

use comfy_table::{Table, presets};
use serde_json::{Value, json};

use super::look::{MembersLook, SeenAcceptor, SeenState};
use crate::{
    json::uint64,
    output::{hex, printable},
};

pub(super) fn text(look: &MembersLook) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_header(["MEMBER", "UUID", "ADDRESS", "STATE", "LAG", "ERA"]);
    let dash = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    for acceptor in look.members.iter().chain(&look.outside) {
        let name = match &*acceptor.name {
            "" => "-".to_owned(),
            name => printable(name),
        };
        table.add_row([
            name,
            acceptor.digits(),
            printable(&acceptor.address),
            acceptor.state.in_words().to_owned(),
            dash(acceptor.lag),
            dash(acceptor.era),
        ]);
    }
    let lines = table.lines().map(|line| format!("{}\n", line.trim()));
    let mut text: String = lines.collect();
    text += &format!("\n{}\n", summary(look));
    for acceptor in look.members.iter().chain(&look.outside) {
        if let Some(remedy) = remedy(look, acceptor) {
            text += &format!(
                "{}: {}\n    what to do: {remedy}\n",
                acceptor.shown(),
                acceptor.state.in_words()
            );
        }
    }
    text
}

/// `era 5, 3 members, one may be lost`.
fn summary(look: &MembersLook) -> String {
    format!(
        "era {}, {} members, {}",
        look.configuration.era(),
        look.members.len(),
        tolerance(tolerated(look))
    )
}

/// Members that may be lost from now on while the others still order values.
fn tolerated(look: &MembersLook) -> Option<usize> {
    let votes = look
        .members
        .iter()
        .filter(|member| member.state == SeenState::Votes)
        .count();
    let quorums = look.configuration.quorums();
    votes.checked_sub(quorums.phase1().max(quorums.phase2()))
}

/// The tolerance in words; none: too few answer already.
pub(crate) fn tolerance(tolerated: Option<usize>) -> String {
    match tolerated {
        None => "too few vote: no value is ordered".to_owned(),
        Some(0) => "none may be lost".to_owned(),
        Some(1) => "one may be lost".to_owned(),
        Some(count) => format!("{count} may be lost"),
    }
}

/// The command that repairs the state of an acceptor.
fn remedy(look: &MembersLook, acceptor: &SeenAcceptor) -> Option<String> {
    let id = acceptor.id();
    match acceptor.state {
        SeenState::Votes => None,
        SeenState::Waits => Some("`paxos status` says why this acceptor does not vote".to_owned()),
        SeenState::Silent => Some(format!(
            "start it with its data directory. If its disk is lost, start it with an empty directory, then: paxos member \
             replace {id}"
        )),
        SeenState::Lost => Some(format!("paxos member replace {id}")),
        SeenState::Outside => Some(format!(
            "no member in era {}: if it was removed, this acceptor may be stopped",
            look.configuration.era()
        )),
        SeenState::Foreign => {
            Some("correct --acceptors: this acceptor belongs to another cluster".to_owned())
        }
        SeenState::Blank => Some(format!("paxos member add {}", printable(&acceptor.address))),
    }
}

pub(super) fn json(look: &MembersLook) -> Value {
    let row = |acceptor: &SeenAcceptor| {
        json!({
            "acceptor": hex(&acceptor.uuid.to_bytes()),
            "name": acceptor.name,
            "address": acceptor.address,
            "state": acceptor.state.in_words(),
            "lag": acceptor.lag.map(uint64),
            "era": acceptor.era.map(uint64),
            "what_to_do": remedy(look, acceptor),
        })
    };
    let quorums = look.configuration.quorums();
    json!({
        "cluster_id": hex(look.configuration.cluster_id().as_bytes()),
        "era": uint64(look.configuration.era().get()),
        "phase1": quorums.phase1(),
        "phase2": quorums.phase2(),
        "may_be_lost": tolerated(look),
        "members": look.members.iter().map(row).collect::<Vec<_>>(),
        "outside": look.outside.iter().map(row).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests;
