//! What is due once records are written, and need not keep those waiting who wrote them: a new segment's name is made to
//! last, the disk begins with what was written, full segments are sealed and synced.
//!
//! One thread at a time is at it, in the order things fell due; so a segment's name lasts before the segment is sealed. What is
//! due keeps no segment: one that is dropped meanwhile gives its room back at once.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use crate::engine::Engine;
use crate::segment::Segment;

/// One thing that is due.
pub(crate) enum Chore {
    /// A new segment's name is to last.
    Names(Weak<Segment>),
    /// The disk is to begin with these bytes of a segment.
    Ahead { segment: Weak<Segment>, from: u64, length: u64 },
    /// A full segment is to get its footer, and to last.
    Seal(Weak<Segment>),
}

/// What is due on one disk.
#[derive(Default)]
pub(crate) struct Chores {
    state: Mutex<State>,
    idle: Condvar,
}

#[derive(Default)]
struct State {
    due: VecDeque<Chore>,
    busy: bool,
}

/// The right to be at it.
pub(crate) struct Turn {
    chores: Arc<Chores>,
    over: bool,
}

/// So many may be due before those who write wait for them: with large segments, of two or three.
const MOST: usize = 16;

impl Chores {
    pub(crate) fn add(&self, chore: Chore) {
        self.state().due.push_back(chore);
    }

    /// Whether so much is due that who writes is to wait.
    pub(crate) fn are_many(&self) -> bool {
        self.state().due.len() > MOST
    }

    /// The right to be at it, if something is due and nobody has it.
    pub(crate) fn begin(self: &Arc<Self>) -> Option<Turn> {
        let mut state = self.state();
        let begins = !state.busy && !state.due.is_empty();
        state.busy |= begins;
        begins.then(|| Turn { chores: Arc::clone(self), over: false })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Does what is due, and what falls due meanwhile, while `work` goes on.
    pub(crate) fn run(mut self, mut work: impl FnMut(Chore) -> bool) {
        while let Some(chore) = self.next() {
            if !work(chore) {
                return;
            }
        }
    }

    /// The next that is due; at the end, the turn is over.
    fn next(&mut self) -> Option<Chore> {
        let mut state = self.chores.state();
        let next = state.due.pop_front();
        state.busy = next.is_some();
        self.over = next.is_none();
        next
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.over {
            self.chores.state().busy = false;
        }
        self.chores.idle.notify_all();
    }
}

impl Engine {
    /// Does what is due, unless somebody is at it. Blocks.
    pub(crate) fn do_chores(&self) {
        if let Some(turn) = self.chores.begin() {
            turn.run(|chore| {
                self.do_chore(chore);
                true
            });
        }
    }

    /// Does what is due, and waits for who is at it. Blocks.
    pub(crate) fn finish_chores(&self) {
        loop {
            let state = self.chores.idle.wait_while(self.chores.state(), |state| state.busy);
            if state.unwrap_or_else(PoisonError::into_inner).due.is_empty() {
                return;
            }
            self.do_chores();
        }
    }

    /// Does one thing. Blocks.
    pub(crate) fn do_chore(&self, chore: Chore) {
        match chore {
            Chore::Names(segment) => {
                if let Err(error) = self.disk.sync_names() {
                    self.failed(&error);
                    segment.upgrade().inspect(|segment| self.retire(segment));
                }
            }
            Chore::Ahead { segment, from, length } => {
                // A hint: what goes wrong is met again when the segment is synced.
                segment.upgrade().map(|segment| segment.begin_writing(from, length));
            }
            Chore::Seal(segment) => {
                if let Some(Err(error)) = segment.upgrade().map(|segment| segment.seal()) {
                    self.note_error("seal", &error);
                }
            }
        }
    }
}
