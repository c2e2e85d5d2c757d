//! Who may knock: incoming connections that have not shown a certificate yet hold a place, and places are bounded, all together and
//! per prefix, so that half-open connections from one network cannot keep members of others out.

use std::{collections::BTreeMap, net::IpAddr};

use libp2p::swarm::ConnectionId;

use crate::Prefix;

/// The places.
#[derive(Debug)]
pub(super) struct Door {
    total: usize,
    per_prefix: usize,
    knocks: BTreeMap<ConnectionId, IpAddr>,
    prefixes: BTreeMap<IpAddr, usize>,
}

impl Door {
    /// A door with this many places, and this many for one prefix.
    pub(super) const fn new(total: usize, per_prefix: usize) -> Self {
        Self { total, per_prefix, knocks: BTreeMap::new(), prefixes: BTreeMap::new() }
    }

    /// Takes a place for a connection from there, if there is one.
    pub(super) fn knock(&mut self, connection: ConnectionId, from: IpAddr) -> Result<(), Crowded> {
        let prefix = prefix(from);
        let count = self.prefixes.get(&prefix).copied().unwrap_or(0);
        if self.knocks.len() >= self.total {
            return Err(Crowded::Everywhere(self.total));
        }
        if count >= self.per_prefix {
            return Err(Crowded::From(prefix, self.per_prefix));
        }
        self.prefixes.insert(prefix, count + 1);
        self.knocks.insert(connection, prefix);
        Ok(())
    }

    /// Gives the place back: the connection is admitted or gone. Harmless if it has none.
    pub(super) fn leave(&mut self, connection: ConnectionId) {
        let Some(prefix) = self.knocks.remove(&connection) else { return };
        if let Some(count) = self.prefixes.get_mut(&prefix) {
            *count -= 1;
            if *count == 0 {
                self.prefixes.remove(&prefix);
            }
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
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use libp2p::swarm::ConnectionId;

    use super::{Crowded, Door};

    const fn host(a: u8, d: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(a, 0, 2, d))
    }

    #[test]
    fn a_crowd_from_one_prefix_leaves_places_to_others() {
        let mut door = Door::new(4, 2);
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
}
