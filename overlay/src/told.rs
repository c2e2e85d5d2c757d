//! What an operation on the index asks on its way, for those who want to watch it; nobody else pays for it.

use std::{fmt, sync::Arc};

use crate::{Level, NodeId};

/// One question that an operation of this node asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// Whom; this node itself where an operation begins at home.
    pub to: NodeId,
    /// The level that is searched.
    pub level: Level,
    /// Whether the answer may come from further nodes, to whom the one asked hands the question on.
    pub handed_on: bool,
}

/// Who is told of the questions, as they are asked. Called from the index's own loop: it must not wait.
#[derive(Clone)]
pub struct Teller(Arc<dyn Fn(Question) + Send + Sync>);

impl Teller {
    /// Calls this for each question.
    pub fn new(tell: impl Fn(Question) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    /// Tells of a question.
    pub fn tell(&self, question: Question) {
        (self.0)(question);
    }
}

impl fmt::Debug for Teller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Teller")
    }
}
