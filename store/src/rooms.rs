//! Room for objects in RAM, taken from the allocator many at a time and used again, so that what hits look at lies together.
//!
//! A hit's time is its misses, those of the table of memory pages among them. Between bodies of any size, objects stand on as
//! many pages as all the bodies take; together, on a few. [measured: docs/store.md]

use std::sync::{Arc, Mutex, PoisonError};

use crate::key::Key;
use crate::object::{Pieces, Whole};

/// Rooms that nobody is in.
#[derive(Debug, Default)]
pub(crate) struct Rooms {
    empty: Mutex<Vec<Arc<Whole>>>,
    nothing: Arc<Pieces>,
}

/// Rooms that are taken at a time.
const TOGETHER: usize = 64;
/// So many are kept, a quarter of a megabyte; more go back to the allocator.
const KEPT: usize = 1024;

impl Rooms {
    /// An object in a room of its own.
    pub(crate) fn enter(&self, whole: Whole) -> Arc<Whole> {
        let room = {
            let mut empty = self.empty.lock().unwrap_or_else(PoisonError::into_inner);
            if empty.is_empty() {
                empty.extend((0..TOGETHER).map(|_| Arc::new(self.nobody())));
            }
            empty.pop()
        };
        let mut room = room.unwrap_or_else(|| Arc::new(self.nobody()));
        match Arc::get_mut(&mut room) {
            Some(place) => *place = whole,
            None => room = Arc::new(whole),
        }
        room
    }

    /// Takes the room of an object back that left, unless somebody still reads it.
    pub(crate) fn leave(&self, mut room: Arc<Whole>) {
        let Some(place) = Arc::get_mut(&mut room) else { return };
        // What was in it is dropped without the lock.
        drop(std::mem::replace(place, self.nobody()));
        let mut empty = self.empty.lock().unwrap_or_else(PoisonError::into_inner);
        if empty.len() < KEPT {
            empty.push(room);
        }
    }

    fn nobody(&self) -> Whole {
        Whole::slice(Key::from_bytes([0; Key::LENGTH]), Arc::clone(&self.nothing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_is_used_again_once_nobody_reads_and_no_more_are_kept_than_may_be() {
        let rooms = Rooms::default();
        let object = |n| Whole::slice(Key::from_bytes([n; 20]), Arc::default());
        let (first, second) = (rooms.enter(object(1)), rooms.enter(object(2)));
        let (place, reader) = (Arc::as_ptr(&second), Arc::clone(&first));
        rooms.leave(first);
        rooms.leave(second);
        let third = rooms.enter(object(3));
        assert_eq!((Arc::as_ptr(&third), third.key), (place, Key::from_bytes([3; 20])));
        assert_eq!(reader.key, Key::from_bytes([1; 20]), "who reads keeps what is read");
        let many: Vec<_> = (0..2 * KEPT).map(|_| rooms.enter(object(4))).collect();
        many.into_iter().for_each(|room| rooms.leave(room));
        assert_eq!(rooms.empty.lock().unwrap().len(), KEPT);
    }
}
