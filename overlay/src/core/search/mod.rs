//! Long operations, each a small machine: `next` says whom to ask, to wait, or that it is done; `on_reply`, `on_late` and
//! `on_failure` feed it. They hold no tables and send nothing; the node does both.

mod errand;
mod get;
mod lookup;
mod put;
mod relay;
mod rpc;
mod withdraw;

use self::lookup::{Hop, Lookup};
pub(super) use self::{
    errand::{Errand, ErrandKind},
    get::{Get, Plan},
    lookup::{Search, Way},
    put::{PutTask, Rules, What},
    relay::Relay,
    rpc::{Exchanges, Pending, Purpose},
    withdraw::Withdraw,
};
use super::{
    Contact, Outcome,
    message::{Pointer, Reply, Request},
};
use crate::Level;

/// How a node was asked: the same one may be asked both ways in one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::core) enum Manner {
    /// For what it knows itself.
    Directly,
    /// To hand the question on.
    HandedOn,
}

impl Manner {
    pub(in crate::core) const fn of(request: &Request) -> Self {
        if matches!(request, Request::Seek { .. }) { Self::HandedOn } else { Self::Directly }
    }
}

/// What a machine wants next.
#[derive(Debug)]
pub(super) enum Step {
    /// Ask this of that node, and come back.
    Ask(Contact, Request),
    /// Nothing before an answer or a time-out.
    Wait,
    /// It is over.
    Done(Ending),
}

/// How an operation ended, before the node puts its own knowledge to it.
#[derive(Debug)]
pub(super) enum Ending {
    /// With this.
    Outcome(Outcome),
    /// A get found these.
    Found(Level, Vec<Pointer>),
    /// An acquire found these.
    References(Vec<Pointer>),
    /// A beat was told of a lower lease.
    Superseded(Pointer),
    /// What came of a question handed on for another node.
    Relayed(Reply),
    /// A search of the node's own, for its tables.
    Searched,
}

/// An operation under way.
#[derive(Debug)]
pub(super) enum Task {
    Search(Search),
    Get(Get),
    Put(PutTask),
    Withdraw(Withdraw),
    Errand(Errand),
    Relay(Relay),
}

impl Task {
    pub(super) fn next(&mut self) -> Step {
        match self {
            Self::Search(task) => task.next(),
            Self::Get(task) => task.next(),
            Self::Put(task) => task.next(),
            Self::Withdraw(task) => task.next(),
            Self::Errand(task) => task.next(),
            Self::Relay(task) => task.next(),
        }
    }

    /// The level at which others are asked for values now.
    pub(super) const fn level(&self) -> Option<Level> {
        match self {
            Self::Get(task) => Some(task.level()),
            Self::Search(_) | Self::Put(_) | Self::Withdraw(_) | Self::Errand(_) | Self::Relay(_) => None,
        }
    }

    pub(super) fn on_reply(&mut self, from: Contact, manner: Manner, reply: Reply) {
        match self {
            Self::Search(task) => task.on_reply(from, reply),
            Self::Get(task) => task.on_reply(from, manner, reply),
            Self::Put(task) => task.on_reply(from, reply),
            Self::Withdraw(task) => task.on_reply(from, reply),
            Self::Errand(task) => task.on_reply(from, reply),
            Self::Relay(task) => task.on_reply(from, reply),
        }
    }

    /// A crowd waits: the first word that there is nothing is enough.
    pub(super) const fn be_content(&mut self) {
        match self {
            Self::Get(task) => task.be_content(),
            Self::Search(_) | Self::Put(_) | Self::Withdraw(_) | Self::Errand(_) | Self::Relay(_) => {}
        }
    }

    /// The answer takes long, and is not late yet: somebody else may be asked beside.
    pub(super) fn on_slow(&mut self, from: Contact, manner: Manner) {
        match self {
            Self::Errand(task) => task.on_slow(from),
            Self::Search(_) | Self::Get(_) | Self::Put(_) | Self::Withdraw(_) | Self::Relay(_) => {
                self.on_late(from, manner);
            }
        }
    }

    /// The answer is later than usual: ask somebody else meanwhile.
    pub(super) fn on_late(&mut self, from: Contact, manner: Manner) {
        match self {
            Self::Search(task) => task.on_late(from),
            Self::Get(task) => task.on_late(from, manner),
            Self::Put(task) => task.on_late(from),
            Self::Withdraw(task) => task.on_late(from),
            Self::Errand(task) => task.on_late(from),
            Self::Relay(_) => {}
        }
    }

    /// There will be no answer.
    pub(super) fn on_failure(&mut self, from: Contact, manner: Manner) {
        match self {
            Self::Search(task) => task.on_failure(from),
            Self::Get(task) => task.on_failure(from, manner),
            Self::Put(task) => task.on_failure(from),
            Self::Withdraw(task) => task.on_failure(from),
            Self::Errand(task) => task.on_failure(from),
            Self::Relay(task) => task.on_failure(from),
        }
    }

    /// The operation has had all the time it may have.
    pub(super) fn expire(self) -> Ending {
        match self {
            Self::Search(_) | Self::Relay(_) => Ending::Searched,
            Self::Get(task) => task.expire(),
            Self::Put(task) => task.expire(),
            Self::Withdraw(task) => task.expire(),
            Self::Errand(task) => task.expire(),
        }
    }
}
