//! Who may knock, and who may stay: incoming connections hold a place, first among those that have not shown a certificate, then among
//! the guests. Places are bounded, all together and per prefix, so that no network can keep members of others out.

use std::{collections::BTreeMap, net::IpAddr};

use libp2p::swarm::ConnectionId;

use crate::Prefix;

/// The places.
#[derive(Debug)]
pub(super) struct Door {
    places: Places,
    knocks: BTreeMap<ConnectionId, IpAddr>,
    guests: BTreeMap<ConnectionId, IpAddr>,
    /// Of each prefix: how many knock, how many were admitted.
    prefixes: BTreeMap<IpAddr, (usize, usize)>,
}

/// How many there are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    /// For connections without certificate, all together.
    pub(super) knocks: usize,
    /// For those of one prefix.
    pub(super) knocks_per_prefix: usize,
    /// For admitted ones of one prefix.
    pub(super) guests_per_prefix: usize,
}

impl Door {
    /// A door with these places.
    pub(super) const fn new(places: Places) -> Self {
        Self { places, knocks: BTreeMap::new(), guests: BTreeMap::new(), prefixes: BTreeMap::new() }
    }

    /// Takes a place for a connection from there, if there is one.
    pub(super) fn knock(&mut self, connection: ConnectionId, from: IpAddr) -> Result<(), Crowded> {
        let prefix = prefix(from);
        let (knocks, guests) = self.prefixes.get(&prefix).copied().unwrap_or_default();
        if self.knocks.len() >= self.places.knocks {
            return Err(Crowded::Everywhere(self.places.knocks));
        }
        if knocks >= self.places.knocks_per_prefix {
            return Err(Crowded::From(prefix, self.places.knocks_per_prefix));
        }
        if guests >= self.places.guests_per_prefix {
            return Err(Crowded::Guests(prefix, self.places.guests_per_prefix));
        }
        self.prefixes.insert(prefix, (knocks + 1, guests));
        self.knocks.insert(connection, prefix);
        Ok(())
    }

    /// The connection is admitted: its place becomes one among the prefix's guests. Harmless if it has none, as one that was dialled.
    pub(super) fn enter(&mut self, connection: ConnectionId) {
        let Some(prefix) = self.knocks.remove(&connection) else { return };
        let (knocks, guests) = self.prefixes.entry(prefix).or_default();
        *knocks = knocks.saturating_sub(1);
        *guests += 1;
        self.guests.insert(connection, prefix);
    }

    /// Gives the place back: the connection is gone. Harmless if it has none.
    pub(super) fn leave(&mut self, connection: ConnectionId) {
        let (knock, guest) = (self.knocks.remove(&connection), self.guests.remove(&connection));
        let Some(prefix) = knock.or(guest) else { return };
        let (knocks, guests) = self.prefixes.entry(prefix).or_default();
        *knocks = knocks.saturating_sub(usize::from(knock.is_some()));
        *guests = guests.saturating_sub(usize::from(guest.is_some()));
        if (*knocks, *guests) == (0, 0) {
            self.prefixes.remove(&prefix);
        }
    }
}

/// Inside loopback every address is its own prefix: there the machines are played by addresses.
fn prefix(address: IpAddr) -> IpAddr {
    let address = address.to_canonical();
    if address.is_loopback() { address } else { Prefix::of(address).address() }
}

/// Why there is no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Crowded {
    #[error("{0} connections without certificate")]
    Everywhere(usize),
    #[error("{1} connections without certificate from {0}")]
    From(IpAddr, usize),
    #[error("{1} admitted connections from {0}")]
    Guests(IpAddr, usize),
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use libp2p::swarm::ConnectionId;

    use super::{Crowded, Door, Places};

    const fn host(a: u8, d: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(a, 0, 2, d))
    }

    #[test]
    fn a_crowd_from_one_prefix_leaves_places_to_others() {
        let mut door = Door::new(Places { knocks: 4, knocks_per_prefix: 2, guests_per_prefix: 9 });
        let knocks = |door: &mut Door, number, from| door.knock(ConnectionId::new_unchecked(number), from);
        assert_eq!(knocks(&mut door, 1, host(192, 1)), Ok(()));
        assert_eq!(knocks(&mut door, 2, host(192, 2)), Ok(()));
        assert_eq!(knocks(&mut door, 3, host(192, 3)), Err(Crowded::From(host(192, 0), 2)));
        assert_eq!(knocks(&mut door, 4, host(127, 1)), Ok(()));
        assert_eq!(knocks(&mut door, 5, host(127, 2)), Ok(()));
        assert_eq!(knocks(&mut door, 6, host(198, 1)), Err(Crowded::Everywhere(4)));
        door.leave(ConnectionId::new_unchecked(1));
        door.leave(ConnectionId::new_unchecked(1));
        assert_eq!(knocks(&mut door, 7, host(192, 3)), Ok(()));
    }

    #[test]
    fn those_of_one_prefix_leave_room_for_guests_of_others() {
        let mut door = Door::new(Places { knocks: 9, knocks_per_prefix: 9, guests_per_prefix: 2 });
        let id = ConnectionId::new_unchecked;
        for number in 1..=2 {
            assert_eq!(door.knock(id(number), host(192, 1)), Ok(()));
            door.enter(id(number));
        }
        assert_eq!(door.knock(id(3), host(192, 9)), Err(Crowded::Guests(host(192, 0), 2)));
        assert_eq!(door.knock(id(4), host(198, 1)), Ok(()));
        door.leave(id(1));
        door.leave(id(1));
        assert_eq!(door.knock(id(5), host(192, 9)), Ok(()));
        for number in 2..=5 {
            door.leave(id(number));
        }
        assert!(door.prefixes.is_empty());
    }
}
