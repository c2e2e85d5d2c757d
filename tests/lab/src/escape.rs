//! Whether a host can reach anything outside its lab. Read from what the kernel says of its devices and routes, so that whatever leads
//! out is found; and tried, with a few addresses of the real internet, in case a route stands where it is not shown.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr, UdpSocket},
};

use crate::error::{Doing, Error};

/// What leads out of the network namespace of the calling thread, in words; `None` if nothing does.
pub(crate) fn way_out() -> Result<Option<String>, Error> {
    let read = |name: &str| {
        // Of this thread: /proc/net is that of the process's first one.
        let path = format!("/proc/thread-self/net/{name}");
        match fs::read_to_string(&path) {
            // A machine without IPv6 has no such file, and no such routes.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            read => read.doing(|| format!("read {path}")),
        }
    };
    let (devices, v4, v6) = (read("dev")?, read("route")?, read("ipv6_route")?);
    let shown = foreign_device(&devices).or_else(|| foreign_v4(&v4)).or_else(|| foreign_v6(&v6));
    Ok(shown.or_else(|| {
        let reached =
            |(from, target): &(&str, &str)| UdpSocket::bind(from).and_then(|socket| socket.connect(target)).is_ok();
        OUTSIDE.into_iter().find(reached).map(|(_, target)| format!("a route to {target}"))
    }))
}

/// A device that is none of the lab's, in the text of /proc/net/dev.
fn foreign_device(text: &str) -> Option<String> {
    let mut names = text.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim()));
    let foreign = names.find(|name| ![LOOPBACK, DEVICE].contains(name) && !IDLE.contains(name));
    foreign.map(|name| format!("the device `{name}`"))
}

/// A route that is none of the lab's, in the text of /proc/net/route: device, destination, gateway, ..., mask in the eighth place,
/// addresses as numbers of this machine.
fn foreign_v4(text: &str) -> Option<String> {
    let address = |hex: &str| Some(Ipv4Addr::from(u32::from_str_radix(hex, 16).ok()?.to_ne_bytes()));
    text.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [device, to, gateway, _, _, _, _, mask, ..] = fields[..] else {
            return Some(format!("the route {line:?}"));
        };
        let (Some(to), Some(gateway), Some(mask)) = (address(to), address(gateway), address(mask)) else {
            return Some(format!("the route {line:?}"));
        };
        let length = mask.to_bits().leading_ones();
        let inside = length >= V4.1 && to.to_bits() >> (32 - V4.1) == V4.0.to_bits() >> (32 - V4.1);
        let lab = device == DEVICE && inside && gateway.is_unspecified();
        (device != LOOPBACK && !lab).then(|| format!("a route to {to}/{length} by `{device}`"))
    })
}

/// The same of /proc/net/ipv6_route: destination, its length, source, its length, gateway, metric, references, uses, flags, device. What
/// the kernel adds for every device, link-local and multicast, ends at the router.
fn foreign_v6(text: &str) -> Option<String> {
    let address = |hex: &str| Some(Ipv6Addr::from(u128::from_str_radix(hex, 16).ok()?));
    text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [to, length, _, _, gateway, _, _, _, _, device] = fields[..] else {
            return Some(format!("the route {line:?}"));
        };
        let (Some(to), Some(gateway), Ok(length)) = (address(to), address(gateway), u32::from_str_radix(length, 16))
        else {
            return Some(format!("the route {line:?}"));
        };
        let within = |(range, least): (Ipv6Addr, u32)| {
            length >= least && to.to_bits() >> (128 - least) == range.to_bits() >> (128 - least)
        };
        let lab = device == DEVICE && gateway.is_unspecified() && V6.into_iter().any(within);
        (device != LOOPBACK && !lab).then(|| format!("a route to {to}/{length} by `{device}`"))
    })
}

/// The device of each host.
pub(crate) const DEVICE: &str = "wan0";
const LOOPBACK: &str = "lo";
/// What the kernel itself puts into every namespace where these modules are loaded: down, without an end, and they stay so.
const IDLE: [&str; 9] = ["tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "sit0", "ip6tnl0", "ip6_vti0", "ip6gre0"];
/// The lab's range [RFC 2544].
const V4: (Ipv4Addr, u32) = (Ipv4Addr::new(198, 18, 0, 0), 15);
/// The lab's range [RFC 3849], link-local [RFC 4291 2.5.6] and multicast [RFC 4291 2.7].
const V6: [(Ipv6Addr, u32); 3] = [
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
];
/// Well-known addresses of the real internet, never spoken to: connecting a UDP socket only asks for a route.
const OUTSIDE: [(&str, &str); 4] = [
    ("0.0.0.0:0", "1.1.1.1:53"),
    ("0.0.0.0:0", "192.0.2.1:53"),
    ("[::]:0", "[2606:4700:4700::1111]:53"),
    ("[::]:0", "[fd00::1]:53"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        address::HostId,
        netns::{Namespace, check_privilege, run_ip},
    };

    #[test]
    fn what_is_no_device_or_route_of_the_lab_is_named() {
        let devices = "Inter-|   Receive\n face |bytes\n    lo: 0 0\n  wan0: 1 1\n  sit0: 0 0\n";
        assert_eq!(foreign_device(devices), None);
        assert_eq!(foreign_device(&format!("{devices}  eth0: 1 1\n")).unwrap(), "the device `eth0`");

        let v4 = |to: [u8; 4], mask: [u8; 4], device: &str| {
            let hex = |bytes| format!("{:08X}", u32::from_ne_bytes(bytes));
            format!("Iface\n{device}\t{}\t00000000\t0001\t0\t0\t0\t{}\t0\t0\t0\n", hex(to), hex(mask))
        };
        assert_eq!(foreign_v4(&v4([198, 18, 0, 0], [255, 254, 0, 0], "wan0")), None);
        let wide = foreign_v4(&v4([198, 0, 0, 0], [255, 0, 0, 0], "wan0")).unwrap();
        assert_eq!(wide, "a route to 198.0.0.0/8 by `wan0`");
        assert_eq!(foreign_v4(&v4([0; 4], [0; 4], "wan0")).unwrap(), "a route to 0.0.0.0/0 by `wan0`");
        let other = foreign_v4(&v4([198, 18, 0, 0], [255, 254, 0, 0], "eth0")).unwrap();
        assert_eq!(other, "a route to 198.18.0.0/15 by `eth0`");
        assert!(foreign_v4("Iface\nwan0 what\n").is_some());

        let v6 = |to: &str, length: u8, device: &str| {
            format!("{to} {length:02x} {} 00 {} 00000400 1 0 00000001 {device:>8}\n", "0".repeat(32), "0".repeat(32))
        };
        let ours = format!("20010db8{}", "0".repeat(24));
        let link_local = format!("fe80{}", "0".repeat(28));
        assert_eq!(foreign_v6(&format!("{}{}", v6(&ours, 32, "wan0"), v6(&link_local, 64, "wan0"))), None);
        assert_eq!(foreign_v6(&v6(&"0".repeat(32), 0, "lo")), None, "that none leads anywhere");
        assert_eq!(foreign_v6(&v6(&"0".repeat(32), 0, "wan0")).unwrap(), "a route to ::/0 by `wan0`");
        assert_eq!(foreign_v6(&v6(&ours, 16, "wan0")).unwrap(), "a route to 2001:db8::/16 by `wan0`");
        assert!(foreign_v6("what").is_some());
    }

    #[test]
    fn a_way_out_of_a_real_host_is_found_whatever_it_is() {
        if let Err(error) = check_privilege() {
            eprintln!("skipped: {error}; not shown: the check that nothing leads out");
            return;
        }
        let lab = format!("escape{}", std::process::id());
        let namespace = Namespace::create(&lab, "host").unwrap();
        let cases: [(&[&str], &[&str], &str); 5] = [
            (&["route", "add", "default", "dev", "wan0"], &["route", "del", "default"], "0.0.0.0/0 by `wan0`"),
            (&["route", "add", "203.0.113.7", "dev", "wan0"], &["route", "del", "203.0.113.7"], "203.0.113.7/32"),
            (&["-6", "route", "add", "default", "dev", "wan0"], &["-6", "route", "del", "default"], "::/0 by `wan0`"),
            // Where the main table does not show it.
            (
                &["route", "add", "1.1.1.1", "dev", "wan0", "table", "local"],
                &["route", "del", "1.1.1.1", "dev", "wan0", "table", "local"],
                "1.1.1.1",
            ),
            (&["link", "add", "out0", "type", "dummy"], &["link", "del", "out0"], "the device `out0`"),
        ];
        let found = std::panic::catch_unwind(|| {
            let _device = namespace.connect(HostId::new(0).unwrap()).unwrap();
            let check = || namespace.check_closed("host");
            assert!(check().is_ok(), "{:?}", check());
            let of = |(add, del, expected): &(&[&str], &[&str], &'static str)| {
                let made = namespace.within(|| run_ip(add)).unwrap();
                let refused = check();
                let undone = made.is_ok().then(|| namespace.within(|| run_ip(del)).unwrap());
                (made, refused, undone, *expected)
            };
            let found = cases.iter().map(of).collect::<Vec<_>>();
            assert!(check().is_ok(), "{:?}", check());
            found
        });
        namespace.remove();
        let mut shown = 0;
        for (made, refused, undone, expected) in found.unwrap() {
            if let Err(error) = made {
                // No dummy devices in this kernel, say.
                eprintln!("skipped: {error}; not shown: that {expected} is found");
                continue;
            }
            let said = refused.unwrap_err().to_string();
            assert!(said.contains("host `host`") && said.contains(expected), "{said}\nexpected {expected}");
            undone.unwrap().unwrap();
            shown += 1;
        }
        assert!(shown >= 4, "{shown}");
    }
}
