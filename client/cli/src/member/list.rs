//! Prints the list of the members, with the command that repairs each fault.

use comfy_table::{Table, presets};
use serde_json::{Value, json};

use super::look::{MembersLook, SeenAcceptor, SeenState};
use crate::{
    json::uint64,
    output::{hex, printable},
    verdict::{PendingChange, Tolerance},
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
    if let Some(change) = &look.change {
        text += &format!("{}\n", change.in_words());
    }
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

/// `era 5, 3 members, one may be lost`, and the quorums.
fn summary(look: &MembersLook) -> String {
    let tolerance = tolerance(look);
    format!(
        "era {}, {} members, {}\n{}",
        look.configuration.era(),
        look.members.len(),
        tolerance.in_words(),
        tolerance.quorums()
    )
}

fn tolerance(look: &MembersLook) -> Tolerance {
    let quorums = look.configuration.quorums();
    let votes = look.members.iter().filter(|member| member.votes);
    Tolerance {
        members: look.members.len(),
        votes: votes.count(),
        phase1: quorums.phase1(),
        phase2: quorums.phase2(),
    }
}

/// The command that repairs the state of an acceptor.
fn remedy(look: &MembersLook, acceptor: &SeenAcceptor) -> Option<String> {
    let id = acceptor.id();
    let change = look.change.as_ref();
    if change.is_some_and(|change| change.removes(&acceptor.uuid.to_bytes())) {
        // The change under way is the remedy.
        return None;
    }
    match acceptor.state {
        SeenState::Votes | SeenState::Joins => None,
        SeenState::Waits => Some("`paxos status` says why this acceptor does not vote".to_owned()),
        SeenState::Elsewhere => {
            let answers_at = printable(acceptor.answers_at.as_deref().unwrap_or_default());
            Some(format!(
                "the acceptor answers at {answers_at}, and the list of the members says {}. If the acceptor was moved: paxos \
                 member replace {id} --with {answers_at}",
                printable(&acceptor.address)
            ))
        }
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
            "answers_at": acceptor.answers_at,
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
        "may_be_lost": tolerance(look).count(),
        "in_words": format!("{}; {}", tolerance(look).in_words(), tolerance(look).quorums()),
        "change": look.change.as_ref().map(PendingChange::json),
        "members": look.members.iter().map(row).collect::<Vec<_>>(),
        "outside": look.outside.iter().map(row).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests;
