//! The serial of the zone's SOA when its records are read again: it is to rise with them (RFC 1034 4.3.5), reckoned as RFC 1982 has
//! it. Nothing is refused for it: the operator is told.

use hickory_proto::rr::{RData, RecordType};

use crate::{plain::holds, zone::Zone};

impl Zone {
    /// The SOA's serial.
    pub(crate) fn serial(&self) -> u32 {
        if let RData::SOA(soa) = self.own_soa().data { soa.serial } else { 0 }
    }

    /// What is wrong with the serial of what is to take this zone's place, and what to do about it.
    pub(crate) fn wrong_serial(&self, next: &Self) -> Option<&'static str> {
        match next.serial().wrapping_sub(self.serial()).cast_signed() {
            0 if self.plain().differs(next.plain()) || self.own_soa() != next.own_soa() => Some(STAYED),
            // Of two that are half of all numbers apart nobody defined which is the less (RFC 1982 3.2).
            ..0 => Some(WENT_BACK),
            0.. => None,
        }
    }

    /// Whether no name server of the zone is configured: those that answers name then change with who is there.
    pub(crate) fn names_no_server(&self) -> bool {
        !holds(self.at(self.origin()), RecordType::NS)
    }
}

const STAYED: &str = "the zone's records changed and its serial did not, so whoever compares serials takes them for the old ones: raise \
    `serial` in [dns], or that of the SOA in the zone file, and send SIGHUP again";
const WENT_BACK: &str = "the zone's serial went back (RFC 1982), so whoever compares serials takes its records for older ones: raise \
    `serial` in [dns], or that of the SOA in the zone file, above what it was and send SIGHUP again";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Config, StaticRecord};

    fn zone(serial: u32, hosts: &[&str]) -> Zone {
        let record = |data: &&str| StaticRecord {
            name: "host".to_owned(),
            kind: "A".to_owned(),
            data: (*data).to_owned(),
            ttl: Duration::from_secs(300),
        };
        Zone::new(&Config { serial, records: hosts.iter().map(record).collect(), ..Config::default() }).unwrap()
    }

    #[test]
    fn d12_a_serial_that_goes_back_or_stays_while_records_change_is_told() {
        let (one, other) = (&["192.0.2.1", "192.0.2.2"][..], &["192.0.2.1"][..]);
        for (was, is, hosts, wrong) in [
            (7, 8, other, None),
            (7, 8, one, None),
            (7, 7, one, None),
            // In another order they are the same.
            (7, 7, &["192.0.2.2", "192.0.2.1"][..], None),
            (7, 7, other, Some(STAYED)),
            (7, 7, &["192.0.2.1", "192.0.2.3"], Some(STAYED)),
            (7, 7, &[], Some(STAYED)),
            (7, 6, one, Some(WENT_BACK)),
            (7, 6, other, Some(WENT_BACK)),
            // Past the last number comes the first.
            (u32::MAX, 1, other, None),
            (1, u32::MAX, other, Some(WENT_BACK)),
            (1, 1 + (1 << 31), other, Some(WENT_BACK)),
            (1, 1 << 31, other, None),
        ] {
            assert_eq!(zone(was, one).wrong_serial(&zone(is, hosts)), wrong, "{was} to {is}, {hosts:?}");
        }
    }
}
