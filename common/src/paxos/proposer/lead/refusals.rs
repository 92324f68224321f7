//! Refusals of an acceptor, and the growing wait before the next message.
//!
//! An acceptor of an earlier release refuses a value that it cannot read, and with this value the whole message. A
//! single slot in each message then shows which slots the acceptor takes.

/// Upper bound of [`MessageRefusals::count`]: an acceptor that refuses a value again and again gets a message in 32
/// checks.
const COUNT_MAX: u32 = 6;

/// The refusals of one kind of message: values proposed by the leader, or values of a repair.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct MessageRefusals {
    /// Consecutive refusals. Each refusal doubles the wait.
    count: u32,
    /// Checks until the next message.
    wait: u32,
    /// The number of the last message sent before the last refusal arrived. An answer to such a message does not show
    /// that the acceptor takes values again.
    sent_before: u64,
}

impl MessageRefusals {
    /// The acceptor refused a message. `sent` is the number of the last message sent. Messages sent before the refusal
    /// arrived are refused too, and count once.
    pub(super) fn note(&mut self, sent: u64) {
        self.sent_before = sent;
        if self.wait == 0 {
            self.count = (self.count + 1).min(COUNT_MAX);
            self.wait = 1 << (self.count - 1);
        }
    }

    /// The acceptor took values of the message with this number.
    pub(super) fn note_acceptance(&mut self, sequence: u64) {
        if sequence > self.sent_before {
            *self = Self::default();
        }
    }

    /// A check has passed.
    pub(super) fn check(&mut self) {
        self.wait = self.wait.saturating_sub(1);
    }

    /// The next message has to wait.
    pub(super) fn must_wait(&self) -> bool {
        self.wait > 0
    }

    /// No message was accepted since the last refusal: a message has a single slot.
    pub(super) fn is_refusing(&self) -> bool {
        self.count > 0
    }
}
