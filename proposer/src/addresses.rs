//! The addresses at which acceptors may be reached. An address is a hint: the uuid alone is the identity.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use paxos_common::{
    paxos::identity::{AcceptorUuid, RunNumber},
    peer::{Address, Dialer},
};
use tonic::transport::Channel;

/// Maximum number of addresses with a remembered acceptor; the oldest are forgotten. The members of a few configurations.
const ANSWERS_MAX: usize = 128;

/// Maximum number of remembered runs. Beyond, all are forgotten: the other acceptors are asked once more.
const WITNESSED_MAX: usize = 128;

/// The addresses given to this process, and what answered where. Shared by the links of a proposer.
#[derive(Debug)]
pub(crate) struct AddressBook {
    given: Vec<Address>,
    dialer: Dialer,
    learned: Mutex<Learned>,
}

#[derive(Debug, Default)]
struct Learned {
    /// The acceptor that answered last at each address; the latest answer last.
    answers: Vec<(Address, AcceptorUuid)>,
    channels: BTreeMap<Address, Channel>,
    /// The run of each acceptor for which the other acceptors were asked.
    witnessed: BTreeMap<AcceptorUuid, RunNumber>,
}

impl AddressBook {
    pub(crate) fn new(given: Vec<Address>, dialer: Dialer) -> Self {
        Self {
            given,
            dialer,
            learned: Mutex::default(),
        }
    }

    /// Notes the acceptor that answers at an address.
    pub(crate) fn answered(&self, address: &Address, acceptor: AcceptorUuid) {
        let answers = &mut self.learned().answers;
        if answers
            .last()
            .is_some_and(|(last, found)| (last, *found) == (address, acceptor))
        {
            return;
        }
        // An acceptor that has moved leaves its earlier address to others.
        answers.retain(|(earlier, found)| earlier != address && *found != acceptor);
        answers.push((address.clone(), acceptor));
        if answers.len() > ANSWERS_MAX {
            answers.remove(0);
        }
    }

    /// The addresses to try for an acceptor, in order: where the acceptor answered last; the address in the configuration; and
    /// the given addresses at which no other acceptor answered.
    pub(crate) fn candidates(&self, acceptor: AcceptorUuid, listed: &str) -> Vec<Address> {
        let learned = self.learned();
        let found = learned.answers.iter().find(|(_, found)| *found == acceptor);
        let is_free = |address: &&Address| {
            let answer = learned.answers.iter().find(|(at, _)| at == *address);
            answer.is_none_or(|(_, found)| *found == acceptor)
        };
        let found = found.map(|(address, _)| address.clone());
        let given = self.given.iter().filter(is_free).cloned();
        let mut candidates: Vec<Address> = Vec::new();
        for address in found.into_iter().chain(listed.parse()).chain(given) {
            if !candidates.contains(&address) {
                candidates.push(address);
            }
        }
        candidates
    }

    /// The connection to an address, shared by all links.
    pub(crate) fn channel(&self, address: &Address) -> Channel {
        let channels = &mut self.learned().channels;
        if let Some(channel) = channels.get(address) {
            return channel.clone();
        }
        // Addresses of former members are not called again.
        if channels.len() >= ANSWERS_MAX {
            channels.clear();
        }
        let channel = self.dialer.to_acceptor(address);
        channels.insert(address.clone(), channel.clone());
        channel
    }

    /// Whether the other acceptors were asked about this run.
    pub(crate) fn is_witnessed(&self, acceptor: AcceptorUuid, run: RunNumber) -> bool {
        self.learned().witnessed.get(&acceptor) == Some(&run)
    }

    /// Notes the run for which the other acceptors were asked; `None`: they must be asked again.
    pub(crate) fn witnessed(&self, acceptor: AcceptorUuid, run: Option<RunNumber>) {
        let witnessed = &mut self.learned().witnessed;
        witnessed.remove(&acceptor);
        if let Some(run) = run {
            if witnessed.len() >= WITNESSED_MAX {
                witnessed.clear();
            }
            witnessed.insert(acceptor, run);
        }
    }

    fn learned(&self) -> MutexGuard<'_, Learned> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        format!("http://{text}:1").parse().unwrap()
    }

    fn uuid(number: u128) -> AcceptorUuid {
        AcceptorUuid::from_u128(number)
    }

    /// The hosts to try for an acceptor.
    fn hosts(book: &AddressBook, acceptor: u128, listed: &str) -> Vec<String> {
        let candidates = book.candidates(uuid(acceptor), listed);
        let host = |address: &Address| address.host_and_port().replace(":1", "");
        candidates.iter().map(host).collect()
    }

    #[test]
    fn place_of_the_last_answer_is_tried_first_and_places_of_others_never() {
        let book = AddressBook::new(["a", "b", "c"].map(address).to_vec(), Dialer::default());
        assert_eq!(hosts(&book, 1, "http://x:1"), ["x", "a", "b", "c"]);
        assert_eq!(hosts(&book, 1, "http://b:1"), ["b", "a", "c"], "each once");
        assert_eq!(hosts(&book, 1, "no address"), ["a", "b", "c"]);
        book.answered(&address("b"), uuid(1));
        book.answered(&address("a"), uuid(2));
        assert_eq!(hosts(&book, 1, "http://x:1"), ["b", "x", "c"]);
        // Both have moved.
        book.answered(&address("b"), uuid(2));
        assert_eq!(hosts(&book, 1, "http://x:1"), ["x", "a", "c"]);
        assert_eq!(hosts(&book, 2, "http://y:1"), ["b", "y", "a", "c"]);
        book.answered(&address("x"), uuid(1));
        book.answered(&address("b"), uuid(1));
        assert_eq!(
            hosts(&book, 1, "http://x:1"),
            ["b", "x", "a", "c"],
            "the latest answer"
        );
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let book = AddressBook::new(Vec::new(), Dialer::default());
        for number in 0..1_000 {
            book.answered(&address(&format!("h{number}")), uuid(number));
            book.witnessed(uuid(number), Some(RunNumber::from_random(1)));
        }
        let learned = book.learned();
        assert_eq!(learned.answers.len(), ANSWERS_MAX);
        assert!(learned.witnessed.len() <= WITNESSED_MAX);
    }

    #[test]
    fn run_is_witnessed_until_it_is_distrusted() {
        let book = AddressBook::new(Vec::new(), Dialer::default());
        let [first, second] = [1, 2].map(RunNumber::from_random);
        assert!(!book.is_witnessed(uuid(1), first));
        book.witnessed(uuid(1), Some(first));
        assert!(book.is_witnessed(uuid(1), first));
        assert!(!book.is_witnessed(uuid(1), second) && !book.is_witnessed(uuid(2), first));
        book.witnessed(uuid(1), None);
        assert!(!book.is_witnessed(uuid(1), first));
    }
}
