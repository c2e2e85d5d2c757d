//! Who holds a port that we cannot have. Linux tells: the socket's inode stands in /proc/net, and the process that has it open
//! under /proc/PID/fd (of another user's processes only root may look). Elsewhere, and where we may not look, it is unknown.

use std::{
    collections::BTreeSet,
    fmt, fs, io,
    net::{IpAddr, SocketAddr},
};

/// A transport that has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A process that has a port open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its name, as the system keeps it: at most 15 bytes.
    pub name: String,
    /// Its process id.
    pub process: u32,
}

/// Why a bind failed, told so that it can be mended: the port, the protocol, who holds it, or which right is missing.
#[must_use]
pub fn bind_error(error: &io::Error, address: SocketAddr, protocol: Protocol) -> String {
    let port = address.port();
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            let holder = find(address, protocol)
                .map_or_else(|| "a process we may not see".to_owned(), |holder| holder.to_string());
            format!(
                "{protocol} port {port} on {} is in use by {holder}; stop that, or listen on another address or port",
                address.ip()
            )
        }
        io::ErrorKind::PermissionDenied => format!(
            "{protocol} port {port} may not be opened by this user: {error}; ports below 1024 need the capability \
             CAP_NET_BIND_SERVICE, or listen on a higher one"
        ),
        io::ErrorKind::AddrNotAvailable => {
            format!("{} is no address of this machine; list its addresses with `ip address`", address.ip())
        }
        _ => format!("{protocol} {address}: {error}"),
    }
}

/// The process that holds a port on an address that is in the way of this one, if that can be known.
#[must_use]
pub fn find(address: SocketAddr, protocol: Protocol) -> Option<Holder> {
    let inodes = inodes(address, protocol);
    if inodes.is_empty() { None } else { process_with(&inodes) }
}

/// Inodes of the sockets bound to this port on this address, on all addresses, or on any if this one is for all.
fn inodes(address: SocketAddr, protocol: Protocol) -> BTreeSet<u64> {
    let tables = match protocol {
        Protocol::Tcp => ["/proc/net/tcp", "/proc/net/tcp6"],
        Protocol::Udp => ["/proc/net/udp", "/proc/net/udp6"],
    };
    let lines = tables.iter().filter_map(|table| fs::read_to_string(table).ok());
    let rows: Vec<Row> =
        lines.flat_map(|table| table.lines().skip(1).filter_map(Row::parse).collect::<Vec<_>>()).collect();
    // A TCP connection keeps its listener's port: only the listener (state 0A) is in the way.
    let blocks = |row: &&Row| {
        row.local.port() == address.port()
            && (protocol == Protocol::Udp || row.state == LISTEN)
            && (row.local.ip() == address.ip() || row.local.ip().is_unspecified() || address.ip().is_unspecified())
    };
    rows.iter().filter(blocks).map(|row| row.inode).filter(|inode| *inode != 0).collect()
}

/// One line of /proc/net/{tcp,tcp6,udp,udp6}.
struct Row {
    local: SocketAddr,
    state: u8,
    inode: u64,
}

impl Row {
    /// `  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000 0 12345 ...`
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let local = fields.nth(1)?;
        let state = u8::from_str_radix(fields.nth(1)?, 16).ok()?;
        let inode = fields.nth(5)?.parse().ok()?;
        let (address, port) = local.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        Some(Self { local: SocketAddr::new(parse_address(address)?, port), state, inode })
    }
}

/// The kernel prints an address as 32-bit words in the machine's byte order.
fn parse_address(hex: &str) -> Option<IpAddr> {
    let word = |digits: &[u8]| u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok().map(u32::to_ne_bytes);
    let words: Option<Vec<[u8; 4]>> = hex.as_bytes().chunks(8).map(word).collect();
    match *words? {
        [v4] => Some(IpAddr::from(v4)),
        [a, b, c, d] => {
            let bytes: Vec<u8> = [a, b, c, d].concat();
            <[u8; 16]>::try_from(bytes).ok().map(|v6| IpAddr::from(v6).to_canonical())
        }
        _ => None,
    }
}

/// The first process that has one of these sockets open.
fn process_with(inodes: &BTreeSet<u64>) -> Option<Holder> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).find_map(|process| {
        let open = fs::read_dir(format!("/proc/{process}/fd")).ok()?;
        let holds = open.flatten().any(|file| {
            let target = fs::read_link(file.path()).ok();
            let inode = target.as_ref().and_then(|target| target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']'));
            inode.and_then(|inode| inode.parse().ok()).is_some_and(|inode| inodes.contains(&inode))
        });
        let name = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
        holds.then(|| Holder { name: crate::out::plain(name.trim_end()), process })
    })
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.name, self.process)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// The kernel's number for a listening TCP socket.
const LISTEN: u8 = 0x0a;

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn a_used_port_is_told_with_its_protocol_and_the_process_that_holds_it() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = held.local_addr().unwrap();
        let error = TcpListener::bind(address).unwrap_err();
        let told = bind_error(&error, address, Protocol::Tcp);
        assert!(told.contains(&format!("TCP port {} on 127.0.0.1", address.port())), "{told}");
        assert!(told.contains(&format!("(process {})", std::process::id())), "{told}");
    }

    #[test]
    fn a_holder_on_one_address_is_in_the_way_of_the_wildcard_and_the_other_way_round() {
        let held = UdpSocket::bind("[::]:0").unwrap();
        let port = held.local_addr().unwrap().port();
        let holder = find(SocketAddr::from(([127, 0, 0, 1], port)), Protocol::Udp).unwrap();
        assert_eq!(holder.process, std::process::id());
        let held = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = held.local_addr().unwrap().port();
        assert!(find(SocketAddr::from(([0, 0, 0, 0], port)), Protocol::Udp).is_some());
    }

    #[test]
    fn a_free_port_has_no_holder() {
        // At an address where no other test listens meanwhile.
        let address = TcpListener::bind("127.9.8.7:0").unwrap().local_addr().unwrap();
        assert_eq!(find(address, Protocol::Tcp), None);
    }

    #[test]
    fn an_address_of_the_kernels_tables_is_read_in_the_machines_byte_order() {
        let v4 = format!("{:08X}", u32::from_ne_bytes([127, 0, 0, 1]));
        assert_eq!(parse_address(&v4), Some([127, 0, 0, 1].into()));
        assert_eq!(parse_address(""), None);
        assert_eq!(parse_address("0100007F0"), None);
        assert_eq!(parse_address("zz00007F"), None);
    }
}
