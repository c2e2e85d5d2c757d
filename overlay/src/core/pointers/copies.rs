//! The copies of a lease: what a root has its next-closest nodes hold, before a grant is valid and as it is renewed, and what such a
//! node says to that. So the next root knows of the fetch when this one dies.

use super::{
    Grant,
    lease::{Granting, Leased, State, rank},
};
use crate::{
    Key, Lease, Level,
    core::{
        Contact, Node, Output,
        message::{Acquisition, Held, LeaseState, Pointer, Refusal, Reply, Request},
        search::Purpose,
        time::Instant,
    },
};

impl Node {
    /// A next-closest node was asked to hold a copy.
    pub(in crate::core) fn on_hold(&mut self, now: Instant, from: Contact, key: Key, state: LeaseState) -> Reply {
        let limit = self.config.beat_limit;
        if let LeaseState::Leased { lease, holder } = &state
            && self.on_hold_ended(now, key, *lease, holder)
        {
            return Reply::Held(Held::Yes(Vec::new()));
        }
        let Some(entry) = self.leases.entry(now, key) else { return Reply::Refused(Refusal::Keys) };
        let same_root = entry.root.is_some_and(|root| root == from);
        let (mine, theirs) = (self.contact.id.key().distance(&key), from.id.key().distance(&key));
        // Who stands in for a root that lives and hears of its lease does not end it by a later term.
        let stands_above = entry.root.is_none() && mine < theirs;
        let granting = matches!(entry.state, State::Granting(_));
        if !same_root
            && !granting
            && let Some(other) = entry.told(now, limit)
        {
            let newer = match (&state, &other) {
                (LeaseState::Leased { lease: new, holder }, LeaseState::Leased { lease: old, holder: was }) => {
                    // Roots that do not see each other grant the same term to different nodes.
                    (new == old && holder.holder == was.holder) || (new.epoch > old.epoch && !stands_above)
                }
                (LeaseState::Leased { .. }, LeaseState::Marked { .. }) => false,
                (LeaseState::Marked { .. }, _) => true,
            };
            if !newer {
                return Reply::Held(Held::Other(other));
            }
        }
        // Both think they are the root, and neither has told its asker: the nearer one goes on.
        if granting && mine < theirs {
            return Reply::Refused(Refusal::Busy);
        }
        entry.root = Some(from);
        entry.take(now, state);
        let waiters = std::mem::take(&mut entry.waiters);
        for waiter in waiters {
            self.reply(
                now,
                waiter.asker,
                waiter.id,
                waiter.arrived,
                Reply::Acquired(Acquisition::Elsewhere(vec![from])),
            );
        }
        let mut values = self.values.get(now, Level::GLOBAL, key);
        values.truncate(Reply::VALUES);
        Reply::Held(Held::Yes(values))
    }

    /// Whether a lease to be held has ended: its reference is over, so it was given back and is forgotten; or it was before.
    fn on_hold_ended(&mut self, now: Instant, key: Key, lease: Lease, holder: &Pointer) -> bool {
        let over = holder.ttl.is_zero();
        let Some(entry) = self.leases.get_mut(&key) else { return over };
        // A root hears of it from the holder alone.
        if over && entry.root.is_some() {
            entry.release(now, lease, holder.holder.id);
        }
        over || entry.is_released(&lease, holder.holder.id)
    }

    /// A next-closest node has answered.
    pub(in crate::core) fn on_held(&mut self, now: Instant, from: Contact, key: Key, held: Held) {
        let Some(entry) = self.leases.get_mut(&key) else { return };
        if let Held::Other(LeaseState::Leased { lease, holder }) = &held
            && entry.is_released(lease, holder.holder.id)
        {
            // It has not heard of the end.
            return self.on_hold_failure(now, from, key);
        }
        match (&mut entry.state, held) {
            (State::Granting(granting), Held::Yes(values)) => {
                granting.answered(from.peer);
                granting.held += 1;
                for value in values {
                    if granting.known.iter().all(|one| one.holder != value.holder) {
                        granting.known.push(value);
                    }
                }
                self.seek_copies(now, key);
            }
            (State::Granting(_), Held::Other(state)) => {
                entry.root = Some(from);
                entry.take(now, state);
                self.decide_all(now, key);
            }
            (State::Leased(leased), Held::Other(LeaseState::Leased { lease, holder })) => {
                let ours = rank(&leased.lease, leased.holder.pointer.holder.id);
                if rank(&lease, holder.holder.id) < ours {
                    entry.root = Some(from);
                    entry.take(now, LeaseState::Leased { lease, holder });
                }
            }
            (State::Idle | State::Leased(_) | State::Marked { .. }, _) => {}
        }
    }

    /// A next-closest node did not answer, or refused.
    pub(in crate::core) fn on_hold_failure(&mut self, now: Instant, from: Contact, key: Key) {
        if let Some(entry) = self.leases.get_mut(&key)
            && let State::Granting(granting) = &mut entry.state
        {
            granting.answered(from.peer);
            self.seek_copies(now, key);
        }
    }

    /// A next-closest node takes long: a further one is asked besides, and both may come in time.
    pub(in crate::core) fn on_hold_slow(&mut self, now: Instant, from: Contact, key: Key) {
        if let Some(entry) = self.leases.get_mut(&key)
            && let State::Granting(granting) = &mut entry.state
            && granting.asked.contains(&from.peer)
        {
            granting.answered(from.peer);
            granting.slow.push(from.peer);
            self.seek_copies(now, key);
        }
    }

    /// A next-closest node is late: a further one is asked besides, and whoever holds first counts.
    pub(in crate::core) fn on_hold_late(&mut self, now: Instant, from: Contact, key: Key) {
        self.on_hold_failure(now, from, key);
    }

    /// Asks next-closest nodes until enough hold the grant or none is left, then tells the askers.
    pub(super) fn seek_copies(&mut self, now: Instant, key: Key) {
        let nearest = self.peers.closest(Level::GLOBAL, &key, COPY_TRIES);
        loop {
            let Some(entry) = self.leases.get_mut(&key) else { return };
            let State::Granting(granting) = &mut entry.state else { return };
            let next = nearest.iter().find(|node| !granting.tried.contains(&node.peer)).copied();
            match next {
                Some(next) if granting.held + granting.asked.len() < self.config.lease_copies => {
                    granting.tried.push(next.peer);
                    if granting.doubted.contains(&next.id) && !granting.passed.contains(&next.id) {
                        granting.slow.push(next.peer);
                    } else if !granting.passed.contains(&next.id) {
                        granting.asked.push(next.peer);
                    }
                    let state = LeaseState::Leased { lease: granting.lease, holder: granting.holder.told(now) };
                    self.ask(now, next, Request::Hold { key, state }, Purpose::Hold(key));
                }
                Some(_) | None if granting.held < self.config.lease_copies && granting.is_waiting() => return,
                Some(_) | None => return self.conclude(now, key),
            }
        }
    }

    /// The copies are held: the grant is valid, unless those who hold them know of pointers that this root did not.
    fn conclude(&mut self, now: Instant, key: Key) {
        let Some(entry) = self.leases.get_mut(&key) else { return };
        let State::Granting(granting) = std::mem::replace(&mut entry.state, State::Idle) else { return };
        let waiters = std::mem::take(&mut entry.waiters);
        let (mut told, mut rest) = (Vec::new(), Vec::new());
        for waiter in waiters {
            let mut known = granting.known.clone();
            known.retain(|pointer| self.is_useful(pointer, &waiter));
            if known.is_empty() { rest.push(waiter) } else { told.push((waiter, known)) }
        }
        for (waiter, known) in told {
            let references = Reply::Acquired(Acquisition::References(known));
            self.reply(now, waiter.asker, waiter.id, waiter.arrived, references);
        }
        let Some(entry) = self.leases.get_mut(&key) else { return };
        let granted = granting.holder.pointer.holder;
        if granting.known.is_empty() || rest.iter().any(|waiter| waiter.asker == granted) {
            let Granting { lease, holder, why, passed, held, .. } = granting;
            let (standing_in, copies) = (passed.len(), held);
            let grant = Grant { key, holder: holder.pointer.holder.id, lease, why, standing_in, copies };
            self.outbox.push_back(Output::Granted(grant));
            entry.state = State::Leased(Leased { lease, holder, beaten: now, heard: now, copied: now });
        }
        entry.waiters = rest;
        self.decide_all(now, key);
    }

    /// Has the next-closest nodes hold the state as it is now.
    pub(super) fn copy(&mut self, now: Instant, key: Key, state: &LeaseState) {
        for node in self.peers.closest(Level::GLOBAL, &key, self.config.lease_copies) {
            self.ask(now, node, Request::Hold { key, state: state.clone() }, Purpose::Hold(key));
        }
    }
}

/// Next-closest nodes tried for copies of a grant before it is given with fewer.
pub(super) const COPY_TRIES: usize = 4;
