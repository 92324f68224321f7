//! Turns of connections that wait for their handshakes.
//!
//! Strangers can let many connections wait. So the turns go round four classes of addresses: addresses that proved a role
//! of a server, addresses that proved a client or an operator, new addresses, and all addresses alike. A crowd in one
//! class takes no turn of another class. A class without a waiting connection leaves its turn to the next class.
//!
//! Within a class the addresses take turns, so that many connections of one address do not hold up the others. The newest
//! connection of an address is first, because callers of the older ones may have left.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    time::Duration,
};

use tokio::time::Instant;

use crate::service::server::greeting::ProvenCaller;

/// How long an address keeps the class of its last proof.
const PROVEN_FOR: Duration = Duration::from_secs(600);
/// Limit of the remembered addresses of servers, and of clients (inclusive).
const PROVEN_MAX: usize = 1_024;

/// The class of addresses whose turn it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Turn {
    Servers,
    Clients,
    New,
    #[default]
    All,
}

impl Turn {
    /// Number of classes.
    const COUNT: usize = 4;

    fn next(self) -> Self {
        match self {
            Self::Servers => Self::Clients,
            Self::Clients => Self::New,
            Self::New => Self::All,
            Self::All => Self::Servers,
        }
    }

    /// Whether an address with this proof is in the class.
    fn is_for(self, proven: Option<ProvenCaller>) -> bool {
        match self {
            Self::Servers => proven == Some(ProvenCaller::Server),
            Self::Clients => proven == Some(ProvenCaller::Outside),
            Self::New => proven.is_none(),
            Self::All => true,
        }
    }
}

/// What addresses have proved in complete handshakes, and when.
#[derive(Debug, Default)]
pub(super) struct ProvenAddresses {
    servers: HashMap<IpAddr, Instant>,
    clients: HashMap<IpAddr, Instant>,
}

impl ProvenAddresses {
    /// The proof of an address: a server, if the address proved both.
    pub(super) fn of(&self, owner: &IpAddr) -> Option<ProvenCaller> {
        let is_proven = |known: &HashMap<IpAddr, Instant>| {
            let at = known.get(owner);
            at.is_some_and(|at| at.elapsed() < PROVEN_FOR)
        };
        if is_proven(&self.servers) {
            Some(ProvenCaller::Server)
        } else {
            is_proven(&self.clients).then_some(ProvenCaller::Outside)
        }
    }

    /// Remembers a proof. At the limit, the oldest proof of the same kind makes room.
    pub(super) fn add(&mut self, owner: IpAddr, proven: ProvenCaller) {
        let known = match proven {
            ProvenCaller::Server => &mut self.servers,
            ProvenCaller::Outside => &mut self.clients,
        };
        known.insert(owner, Instant::now());
        if known.len() > PROVEN_MAX {
            let oldest = known.iter().min_by_key(|(_, at)| **at);
            if let Some(oldest) = oldest.map(|(owner, _)| *owner) {
                known.remove(&oldest);
            }
        }
    }
}

/// Waiting connections by address.
#[derive(Debug)]
pub(super) struct WaitingTurns<T> {
    /// The address whose turn is next first; of each address the newest connection last.
    queues: VecDeque<(IpAddr, VecDeque<T>)>,
    last: Turn,
}

impl<T> WaitingTurns<T> {
    pub(super) fn new() -> Self {
        Self {
            queues: VecDeque::new(),
            last: Turn::default(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    pub(super) fn push(&mut self, owner: IpAddr, waiting: T) {
        match self.queues.iter_mut().find(|(of, _)| *of == owner) {
            Some((_, queue)) => queue.push_back(waiting),
            None => self.queues.push_back((owner, VecDeque::from([waiting]))),
        }
    }

    /// Keeps the connections for which `keep` holds. Returns the number of the others.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) -> usize {
        let mut removed = 0;
        for (_, queue) in &mut self.queues {
            let before = queue.len();
            queue.retain(&mut keep);
            removed += before - queue.len();
        }
        self.queues.retain(|(_, queue)| !queue.is_empty());
        removed
    }

    /// Takes the connection whose turn is next, and its address.
    pub(super) fn take(&mut self, proven: &ProvenAddresses) -> Option<(IpAddr, T)> {
        for _ in 0..Turn::COUNT {
            self.last = self.last.next();
            let turn = self.last;
            let of_class = self
                .queues
                .iter()
                .position(|(owner, _)| turn.is_for(proven.of(owner)));
            if let Some(at) = of_class {
                return self.take_at(at);
            }
        }
        None
    }

    fn take_at(&mut self, at: usize) -> Option<(IpAddr, T)> {
        let (owner, mut queue) = self.queues.remove(at)?;
        let next = queue.pop_back();
        if !queue.is_empty() {
            self.queues.push_back((owner, queue));
        }
        Some((owner, next?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, number])
    }

    const SERVER: u8 = 201;
    const CLIENT: u8 = 202;

    fn proven() -> ProvenAddresses {
        let mut proven = ProvenAddresses::default();
        proven.add(address(SERVER), ProvenCaller::Server);
        proven.add(address(CLIENT), ProvenCaller::Outside);
        proven
    }

    /// The numbers of the addresses in the order of their turns.
    fn order(waiting: &mut WaitingTurns<u8>, proven: &ProvenAddresses, turns: usize) -> Vec<u8> {
        let taken = std::iter::from_fn(|| waiting.take(proven)).take(turns);
        taken.map(|(_, number)| number).collect()
    }

    #[tokio::test]
    async fn crowds_of_new_addresses_leave_turns_to_servers_and_clients() {
        let (mut waiting, proven) = (WaitingTurns::new(), proven());
        for _ in 0..3 {
            for new in 0..200 {
                waiting.push(address(new), new);
            }
            waiting.push(address(SERVER), SERVER);
            waiting.push(address(CLIENT), CLIENT);
        }
        assert_eq!(
            order(&mut waiting, &proven, 8),
            [SERVER, CLIENT, 0, 1, SERVER, CLIENT, 2, 3]
        );
    }

    #[tokio::test]
    async fn crowds_of_known_clients_leave_turns_to_new_addresses() {
        let (mut waiting, mut proven) = (WaitingTurns::new(), ProvenAddresses::default());
        for client in 0..200 {
            proven.add(address(client), ProvenCaller::Outside);
            waiting.push(address(client), client);
        }
        waiting.push(address(201), 201);
        assert_eq!(order(&mut waiting, &proven, 3), [0, 201, 1]);
    }

    #[tokio::test]
    async fn absent_classes_leave_their_turns_to_the_others() {
        let (mut waiting, proven) = (WaitingTurns::new(), proven());
        for number in [1, 2, CLIENT, CLIENT] {
            waiting.push(address(number), number);
        }
        assert_eq!(order(&mut waiting, &proven, 9), [CLIENT, 1, 2, CLIENT]);
        assert!(waiting.is_empty());
    }

    #[tokio::test]
    async fn newest_connection_of_an_address_is_first_and_addresses_take_turns() {
        let (mut waiting, proven) = (WaitingTurns::new(), ProvenAddresses::default());
        for (of, connection) in [(1, 11), (1, 12), (1, 13), (2, 21)] {
            waiting.push(address(of), connection);
        }
        assert_eq!(waiting.retain(|connection| *connection != 12), 1);
        assert_eq!(order(&mut waiting, &proven, 9), [13, 21, 11]);
    }

    #[tokio::test(start_paused = true)]
    async fn proofs_end_and_are_bounded() {
        let mut proven = proven();
        assert_eq!(proven.of(&address(SERVER)), Some(ProvenCaller::Server));
        assert_eq!(proven.of(&address(CLIENT)), Some(ProvenCaller::Outside));
        assert_eq!(proven.of(&address(1)), None);
        // An address of both kinds, as a machine with a proposer and an application.
        proven.add(address(SERVER), ProvenCaller::Outside);
        assert_eq!(proven.of(&address(SERVER)), Some(ProvenCaller::Server));
        tokio::time::advance(PROVEN_FOR / 2).await;
        for number in 0..PROVEN_MAX {
            let [.., high, low] = number.to_be_bytes();
            proven.add(IpAddr::from([11, 0, high, low]), ProvenCaller::Outside);
        }
        assert_eq!(proven.clients.len(), PROVEN_MAX);
        assert_eq!(proven.of(&address(CLIENT)), None, "the oldest made room");
        assert_eq!(
            proven.of(&address(SERVER)),
            Some(ProvenCaller::Server),
            "clients take no room of servers"
        );
        tokio::time::advance(PROVEN_FOR / 2).await;
        assert_eq!(proven.of(&address(SERVER)), None);
    }
}
