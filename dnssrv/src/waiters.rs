//! Questions that are answered a little later, when more is known of who asks (`wait`).

use std::{collections::BTreeMap, time::Duration};

use atoll_overlay::Prefix;
use tokio::sync::oneshot;

/// What a question waits for, and for how long at most.
#[derive(Debug)]
pub(crate) struct Patience {
    /// Resolves when it is known, or given up.
    pub(crate) known: oneshot::Receiver<()>,
    /// The longest it waits.
    pub(crate) most: Duration,
}

/// How a question has waited so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Waited {
    /// How many times.
    pub(crate) times: u32,
    /// How long in all.
    pub(crate) time: Duration,
}

/// What a question waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// How far the prefix is from here.
    Measured,
    /// Who is nearest to it, as far as the first scouts can tell.
    Found,
}

/// Who waits, by prefix. As many at most as questions may wait.
#[derive(Debug, Default)]
pub(crate) struct Waiters(BTreeMap<Prefix, Vec<(Until, oneshot::Sender<()>)>>);

impl Waiters {
    /// One more waits.
    pub(crate) fn wait(&mut self, prefix: Prefix, until: Until) -> oneshot::Receiver<()> {
        // Those whose patience is over are gone; nobody tells their prefix any more.
        self.0.retain(|_, waiting| {
            waiting.retain(|(_, one)| !one.is_closed());
            !waiting.is_empty()
        });
        let (tell, known) = oneshot::channel();
        self.0.entry(prefix).or_default().push((until, tell));
        known
    }

    /// What there is to know of a prefix is known for now.
    pub(crate) fn release(&mut self, prefix: Prefix) {
        for (_, one) in self.0.remove(&prefix).into_iter().flatten() {
            // It may have been answered meanwhile.
            let _ = one.send(());
        }
    }

    /// How many wait.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// It was measured; scouts are still on their way.
    pub(crate) fn measured(&mut self, prefix: Prefix) {
        let Some(waiting) = self.0.get_mut(&prefix) else { return };
        for (_, one) in waiting.extract_if(.., |(until, _)| *until == Until::Measured) {
            let _ = one.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_who_wait_for_a_prefix_are_told_and_those_who_left_are_forgotten() {
        let [one, other] = [1, 2].map(|last| Prefix::of([192, 0, last, 1].into()));
        let mut waiters = Waiters::default();
        let mut told = [waiters.wait(one, Until::Found), waiters.wait(one, Until::Measured)];
        drop(waiters.wait(other, Until::Found));
        assert_eq!(waiters.0.len(), 2);
        waiters.release(one);
        assert!(told.iter_mut().all(|known| known.try_recv().is_ok()));
        drop(waiters.wait(one, Until::Found));
        waiters.wait(one, Until::Found).close();
        assert_eq!(waiters.count(), 1, "as many as wait, and one that just left");
    }

    #[test]
    fn who_waits_for_a_measurement_alone_is_told_of_it_before_the_scouts_are_back() {
        let prefix = Prefix::of([192, 0, 2, 1].into());
        let mut waiters = Waiters::default();
        let [mut measured, mut found] = [Until::Measured, Until::Found].map(|until| waiters.wait(prefix, until));
        waiters.measured(prefix);
        assert!(measured.try_recv().is_ok() && found.try_recv().is_err());
        waiters.release(prefix);
        assert!(found.try_recv().is_ok());
    }
}
