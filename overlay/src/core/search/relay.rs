//! A question of somebody else's, handed on: this node has asked the next one, and says what comes of it to who asked. If the
//! next one cannot be reached, the one after it is asked; if none can, the asker is told so, and silence is left to the asker as
//! well: it has a way of its own.

use super::{Ending, Step};
use crate::core::{
    Contact,
    message::{Refusal, Reply, Request},
};

/// A question handed on.
#[derive(Debug)]
pub(in crate::core) struct Relay {
    /// Nodes to hand it to, best last.
    next: Vec<(Contact, Request)>,
    waiting: Option<Contact>,
    answer: Option<Reply>,
}

impl Relay {
    /// A question for these nodes, best first.
    pub(in crate::core) fn new(mut next: Vec<(Contact, Request)>) -> Self {
        next.reverse();
        Self { next, waiting: None, answer: None }
    }

    pub(super) fn next(&mut self) -> Step {
        if let Some(answer) = self.answer.take() {
            return Step::Done(Ending::Relayed(answer));
        }
        if self.waiting.is_some() {
            return Step::Wait;
        }
        match self.next.pop() {
            Some((to, request)) => {
                self.waiting = Some(to);
                Step::Ask(to, request)
            }
            None => Step::Done(Ending::Relayed(Reply::Refused(Refusal::Busy))),
        }
    }

    pub(super) fn on_reply(&mut self, from: Contact, reply: Reply) {
        match reply {
            Reply::Sought { .. } => self.answer = Some(reply),
            Reply::Pong
            | Reply::Wait
            | Reply::Nodes(_)
            | Reply::Step { .. }
            | Reply::Stored(_)
            | Reply::Done
            | Reply::Acquired(_)
            | Reply::Beaten(_)
            | Reply::Held(_)
            | Reply::SpreadKeys { .. }
            | Reply::Spread(_)
            | Reply::Refused(_) => self.on_failure(from),
        }
    }

    pub(super) fn on_failure(&mut self, from: Contact) {
        if self.waiting == Some(from) {
            self.waiting = None;
        }
    }
}
