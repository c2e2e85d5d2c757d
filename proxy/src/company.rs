//! Who this node is, and whether it has anybody near it: asked of the index once a second, not with every miss. A lookup among
//! the near that can find nobody but this node itself is left out.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Instant,
};

use atoll_overlay::{Index, Level, NodeId};

/// See the file's head.
pub(crate) struct Company {
    me: NodeId,
    began: Instant,
    /// The second in which the index was asked last, from 1 on.
    asked: AtomicU64,
    near: AtomicBool,
}

impl Company {
    pub(crate) fn of(index: &dyn Index) -> Self {
        Self { me: index.me().id, began: Instant::now(), asked: AtomicU64::new(0), near: AtomicBool::new(false) }
    }

    /// This node. Its certificate says so, for as long as it runs.
    pub(crate) const fn me(&self) -> NodeId {
        self.me
    }

    /// Whether another node is in a cluster of this one's that is nearer than the widest.
    pub(crate) fn is_near(&self, index: &dyn Index) -> bool {
        let second = self.began.elapsed().as_secs() + 1;
        if self.asked.swap(second, Ordering::Relaxed) != second {
            let levels = index.levels();
            let mut nearer = levels.iter().filter(|level| level.level > Level::GLOBAL);
            self.near.store(nearer.any(|level| level.size > 1 || !level.neighbours.is_empty()), Ordering::Relaxed);
        }
        self.near.load(Ordering::Relaxed)
    }
}
