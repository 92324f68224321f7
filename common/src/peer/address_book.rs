//! The addresses at which acceptors may be reached. An address is a hint: the uuid alone is the identity.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Address, Dialer};
use crate::paxos::identity::AcceptorUuid;

/// Maximum number of addresses with a remembered acceptor; the oldest are forgotten. The members of a few configurations.
const ANSWERS_MAX: usize = 128;

/// The addresses given to this process, and what answered where.
#[derive(Debug)]
pub struct AddressBook {
    given: Vec<Address>,
    dialer: Dialer,
    /// The acceptor that answered last at each address; the latest answer last.
    answers: Mutex<Vec<(Address, AcceptorUuid)>>,
}

impl AddressBook {
    /// A book with the given addresses. The dialer opens connections to all addresses.
    pub fn new(given: Vec<Address>, dialer: Dialer) -> Self {
        Self {
            given,
            dialer,
            answers: Mutex::default(),
        }
    }

    /// The given addresses.
    pub fn given(&self) -> &[Address] {
        &self.given
    }

    /// Opens connections to acceptors.
    pub fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// Notes the acceptor that answers at an address.
    pub fn answered(&self, address: &Address, acceptor: AcceptorUuid) {
        let mut answers = self.answers();
        let is_last = |(last, found): &(Address, AcceptorUuid)| (last, *found) == (address, acceptor);
        if answers.last().is_some_and(is_last) {
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
    /// the given addresses at which no other member answered last. A member may move to the address of a removed acceptor.
    pub fn candidates(
        &self,
        acceptor: AcceptorUuid,
        listed: &str,
        is_member: impl Fn(AcceptorUuid) -> bool,
    ) -> Vec<Address> {
        let answers = self.answers();
        let found = answers.iter().find(|(_, found)| *found == acceptor);
        let is_free = |address: &&Address| {
            let answer = answers.iter().find(|(at, _)| at == *address);
            answer.is_none_or(|(_, found)| *found == acceptor || !is_member(*found))
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

    fn answers(&self) -> MutexGuard<'_, Vec<(Address, AcceptorUuid)>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// The hosts to try for an acceptor; acceptor 9 is no member.
    fn hosts(book: &AddressBook, acceptor: u128, listed: &str) -> Vec<String> {
        let candidates = book.candidates(uuid(acceptor), listed, |other| other != uuid(9));
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
    fn given_place_of_an_acceptor_that_is_no_member_is_tried_again() {
        let book = AddressBook::new(["a", "b", "c"].map(address).to_vec(), Dialer::default());
        book.answered(&address("a"), uuid(2));
        book.answered(&address("b"), uuid(9));
        assert_eq!(hosts(&book, 1, "http://x:1"), ["x", "b", "c"]);
    }

    #[test]
    fn remembered_answers_are_bounded() {
        let book = AddressBook::new(Vec::new(), Dialer::default());
        for number in 0..1_000 {
            book.answered(&address(&format!("h{number}")), uuid(number));
        }
        assert_eq!(book.answers().len(), ANSWERS_MAX);
    }
}
