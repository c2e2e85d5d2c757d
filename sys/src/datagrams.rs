//! Datagrams in batches: several taken and several answered by one call each where the system can (Linux), one by one elsewhere.
//! A call is what most of a small answer costs.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use socket2::SockRef;

/// Has a socket's datagrams sent whole whatever the path is said to carry (on Linux): a forged "too big" then neither has them
/// sent in fragments, which others can swap, nor keeps them from being sent \[RFC 9715 3.1\]. They must be small for that.
///
/// # Errors
/// The system's.
pub fn heed_no_path_mtu<'s, S>(socket: &'s S, address: SocketAddr) -> io::Result<()>
where
    SockRef<'s>: From<&'s S>,
{
    imp::heed_no_path_mtu(&SockRef::from(socket), address)
}

/// Whether what is sent from a socket follows what somebody says of the path's MTU; false where the system cannot be told.
///
/// # Errors
/// The system's.
pub fn heeds_path_mtu<'s, S>(socket: &'s S, address: SocketAddr) -> io::Result<bool>
where
    SockRef<'s>: From<&'s S>,
{
    imp::heeds_path_mtu(&SockRef::from(socket), address)
}

/// Room for a batch of datagrams and the replies to them, used over and over.
pub struct Batch {
    inner: imp::Batch,
}

impl Batch {
    /// Room for so many datagrams of at most so many bytes each; longer ones are cut, as the system does.
    #[must_use]
    pub fn new(datagrams: usize, bytes: usize) -> Self {
        Self { inner: imp::Batch::new(datagrams.clamp(1, 1024), bytes.max(1)) }
    }

    /// Waits for a datagram, then takes those that are there already, as many as fit. Says how many. For the first `awake` it
    /// asks again and again before it sleeps (on Linux), which spares what falling asleep and being woken take.
    ///
    /// # Errors
    /// The system's; `WouldBlock` or `TimedOut` if the socket has a time-out that passed.
    pub fn receive(&mut self, socket: &UdpSocket, awake: Duration) -> io::Result<usize> {
        self.inner.receive(socket, awake)
    }

    /// Hands each datagram received, with where it came from, to `answer`, which leaves a reply in the vector, or leaves it empty;
    /// then sends the replies. What the system refuses to send is lost, as datagrams are. Says how many it took.
    pub fn answer(&mut self, socket: &UdpSocket, answer: impl FnMut(&[u8], SocketAddr, &mut Vec<u8>)) -> usize {
        self.inner.answer(socket, answer)
    }
}

#[cfg(target_os = "linux")]
mod imp {
    use std::{
        io,
        net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket},
        os::fd::AsRawFd as _,
        time::{Duration, Instant},
    };

    use nix::libc;
    use socket2::SockRef;

    pub(super) fn heed_no_path_mtu(socket: &SockRef<'_>, address: SocketAddr) -> io::Result<()> {
        let (level, name, value) = match address {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_OMIT),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_OMIT),
        };
        let length = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
        #[expect(
            unsafe_code,
            reason = "neither std, socket2 nor nix wraps these options; the kernel reads `length` bytes"
        )]
        // SAFETY: `value` is an integer of `length` bytes that outlives the call; the descriptor is open while `socket` lives.
        let answer = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length) };
        if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    pub(super) fn heeds_path_mtu(socket: &SockRef<'_>, address: SocketAddr) -> io::Result<bool> {
        let (level, name, unheeded) = match address {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_OMIT),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_OMIT),
        };
        let mut value: libc::c_int = 0;
        let mut length = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
        #[expect(
            unsafe_code,
            reason = "neither std, socket2 nor nix wraps these options; the kernel writes `length` bytes"
        )]
        // SAFETY: `value` is writable for `length` bytes, and both outlive the call; the descriptor is open while `socket` lives.
        let answer =
            unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length) };
        if answer == 0 { Ok(value != unheeded) } else { Err(io::Error::last_os_error()) }
    }

    pub(super) struct Batch {
        /// All datagrams' bytes, one after another, `stride` apart.
        bytes: Vec<u8>,
        each: usize,
        stride: usize,
        received: Vec<Received>,
        replies: Vec<Vec<u8>>,
        /// Kept for their room only: filled anew before each call, since they point into the fields above.
        headers: Vec<libc::mmsghdr>,
        parts: Vec<libc::iovec>,
    }

    #[derive(Clone, Copy)]
    struct Received {
        length: usize,
        from: libc::sockaddr_storage,
        from_length: libc::socklen_t,
    }

    #[expect(unsafe_code, reason = "mmsghdr and iovec hold pointers, which keep a type from being Send")]
    // SAFETY: those pointers are only followed within one call that wrote all of them before.
    unsafe impl Send for Batch {}

    impl Batch {
        pub(super) fn new(datagrams: usize, each: usize) -> Self {
            #[expect(unsafe_code, reason = "sockaddr_storage has no constructor")]
            // SAFETY: plain integers, valid as all zeros.
            let from = unsafe { std::mem::zeroed() };
            // An odd number of cache lines apart: whole pages apart, all beginnings would be held by the same few lines.
            let stride = each.next_multiple_of(LINE) | LINE;
            Self {
                bytes: vec![0; datagrams * stride],
                each,
                stride,
                received: vec![Received { length: 0, from, from_length: 0 }; datagrams],
                replies: vec![Vec::with_capacity(512); datagrams],
                headers: Vec::with_capacity(datagrams),
                parts: Vec::with_capacity(datagrams),
            }
        }

        pub(super) fn receive(&mut self, socket: &UdpSocket, awake: Duration) -> io::Result<usize> {
            self.headers.clear();
            self.parts.clear();
            for chunk in self.bytes.chunks_exact_mut(self.stride) {
                self.parts.push(libc::iovec { iov_base: chunk.as_mut_ptr().cast(), iov_len: self.each });
            }
            for (received, part) in self.received.iter_mut().zip(&mut self.parts) {
                let room = libc::socklen_t::try_from(size_of::<libc::sockaddr_storage>()).unwrap_or(0);
                self.headers.push(header(&raw mut received.from, room, part));
            }
            let taken = self.take_awake(socket, awake)?;
            for (received, header) in self.received.iter_mut().zip(&self.headers) {
                received.length = usize::try_from(header.msg_len).unwrap_or(0).min(self.each);
                received.from_length = header.msg_hdr.msg_namelen;
            }
            self.received.iter_mut().skip(taken).for_each(|received| received.from_length = 0);
            Ok(taken)
        }

        /// Fills the headers with what is there, asking for so long before it sleeps.
        fn take_awake(&mut self, socket: &UdpSocket, awake: Duration) -> io::Result<usize> {
            if awake.is_zero() {
                return self.take(socket, libc::MSG_WAITFORONE);
            }
            let began = Instant::now();
            loop {
                match self.take(socket, libc::MSG_WAITFORONE | libc::MSG_DONTWAIT) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    taken => return taken,
                }
                if began.elapsed() >= awake {
                    return self.take(socket, libc::MSG_WAITFORONE);
                }
            }
        }

        fn take(&mut self, socket: &UdpSocket, flags: libc::c_int) -> io::Result<usize> {
            let count = libc::c_uint::try_from(self.headers.len()).unwrap_or(libc::c_uint::MAX);
            #[expect(unsafe_code, reason = "nix's wrapper allocates for every call")]
            // SAFETY: each header points to room of the stated size in fields that outlive the call; the descriptor is open
            // while `socket` lives.
            let taken = unsafe {
                libc::recvmmsg(socket.as_raw_fd(), self.headers.as_mut_ptr(), count, flags, std::ptr::null_mut())
            };
            usize::try_from(taken).map_err(|_| io::Error::last_os_error())
        }

        pub(super) fn answer(
            &mut self,
            socket: &UdpSocket,
            mut answer: impl FnMut(&[u8], SocketAddr, &mut Vec<u8>),
        ) -> usize {
            self.headers.clear();
            self.parts.clear();
            let waiting = self.received.iter_mut().take_while(|received| received.from_length > 0);
            for ((received, bytes), reply) in waiting.zip(self.bytes.chunks_exact(self.stride)).zip(&mut self.replies) {
                reply.clear();
                if let (Some(from), Some(bytes)) = (address(&received.from), bytes.get(..received.length)) {
                    answer(bytes, from, reply);
                }
                if !reply.is_empty() {
                    self.parts.push(libc::iovec { iov_base: reply.as_mut_ptr().cast(), iov_len: reply.len() });
                    // The part is pointed to below, once the vector grows no more.
                    self.headers.push(header(&raw mut received.from, received.from_length, std::ptr::null_mut()));
                }
                received.from_length = 0;
            }
            for (header, part) in self.headers.iter_mut().zip(&mut self.parts) {
                header.msg_hdr.msg_iov = part;
            }
            self.send(socket)
        }

        fn send(&mut self, socket: &UdpSocket) -> usize {
            let (mut done, mut sent) = (0, 0);
            while let Some(rest) = self.headers.get_mut(done..).filter(|rest| !rest.is_empty()) {
                let count = libc::c_uint::try_from(rest.len()).unwrap_or(libc::c_uint::MAX);
                #[expect(unsafe_code, reason = "nix's wrapper allocates for every call")]
                // SAFETY: each header points to a reply and an address in fields that outlive the call and are not touched
                // during it; the descriptor is open while `socket` lives.
                let taken = unsafe { libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), count, 0) };
                match usize::try_from(taken) {
                    Ok(taken) if taken > 0 => {
                        sent += taken;
                        done += taken;
                    }
                    // The first of the rest cannot be sent: nobody there, no room. The others may well be.
                    Ok(_) | Err(_) => done += 1,
                }
            }
            sent
        }
    }

    /// Bytes of a cache line, a power of two.
    const LINE: usize = 64;

    fn header(
        name: *mut libc::sockaddr_storage,
        name_length: libc::socklen_t,
        part: *mut libc::iovec,
    ) -> libc::mmsghdr {
        #[expect(unsafe_code, reason = "mmsghdr has private padding on some targets, and no constructor")]
        // SAFETY: plain integers and pointers, valid as all zeros.
        let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
        header.msg_hdr.msg_name = name.cast();
        header.msg_hdr.msg_namelen = name_length;
        header.msg_hdr.msg_iov = part;
        header.msg_hdr.msg_iovlen = 1;
        header
    }

    fn address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
        match libc::c_int::from(storage.ss_family) {
            libc::AF_INET => {
                #[expect(unsafe_code, reason = "a socket address is told apart by its family")]
                // SAFETY: the family says that this is a sockaddr_in, which is no larger and no stricter aligned.
                let v4 = unsafe { *std::ptr::from_ref(storage).cast::<libc::sockaddr_in>() };
                let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
                Some(SocketAddr::from((ip, u16::from_be(v4.sin_port))))
            }
            libc::AF_INET6 => {
                #[expect(unsafe_code, reason = "a socket address is told apart by its family")]
                // SAFETY: the family says that this is a sockaddr_in6, which is no larger and no stricter aligned.
                let v6 = unsafe { *std::ptr::from_ref(storage).cast::<libc::sockaddr_in6>() };
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                let port = u16::from_be(v6.sin6_port);
                Some(SocketAddr::V6(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id)))
            }
            _ => None,
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod imp {
    use std::{
        io,
        net::{SocketAddr, UdpSocket},
        time::Duration,
    };

    use socket2::SockRef;

    pub(super) fn heed_no_path_mtu(_socket: &SockRef<'_>, _address: SocketAddr) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn heeds_path_mtu(_socket: &SockRef<'_>, _address: SocketAddr) -> io::Result<bool> {
        Ok(false)
    }

    /// One datagram at a time.
    pub(super) struct Batch {
        bytes: Vec<u8>,
        received: Option<(usize, SocketAddr)>,
        reply: Vec<u8>,
    }

    impl Batch {
        pub(super) fn new(_datagrams: usize, bytes: usize) -> Self {
            Self { bytes: vec![0; bytes], received: None, reply: Vec::with_capacity(512) }
        }

        pub(super) fn receive(&mut self, socket: &UdpSocket, _awake: Duration) -> io::Result<usize> {
            self.received = Some(socket.recv_from(&mut self.bytes)?);
            Ok(1)
        }

        pub(super) fn answer(
            &mut self,
            socket: &UdpSocket,
            mut answer: impl FnMut(&[u8], SocketAddr, &mut Vec<u8>),
        ) -> usize {
            let Some((length, from)) = self.received.take() else { return 0 };
            self.reply.clear();
            if let Some(bytes) = self.bytes.get(..length) {
                answer(bytes, from, &mut self.reply);
            }
            usize::from(!self.reply.is_empty() && socket.send_to(&self.reply, from).is_ok())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;
    #[cfg(target_os = "linux")]
    use std::{path::Path, sync::OnceLock};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    fn socket(address: &str) -> UdpSocket {
        let socket = UdpSocket::bind(address).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket
    }

    fn echo_back(address: &str, awake: Duration) {
        let server = socket(address);
        let client = socket(address);
        client.connect(server.local_addr().unwrap()).unwrap();
        let mut batch = Batch::new(8, 16);
        let mut seen = 0_u8;
        for number in 0..20_u8 {
            client.send(&vec![number; 1 + usize::from(number)]).unwrap();
        }
        let mut sent = 0;
        while seen < 20 {
            let taken = batch.receive(&server, awake).unwrap();
            assert!((1..=8).contains(&taken));
            let mut each = 0;
            sent += batch.answer(&server, |bytes, from, reply| {
                assert_eq!((bytes[0], from), (seen, client.local_addr().unwrap()));
                assert_eq!(bytes.len(), 16.min(1 + usize::from(seen)), "longer ones are cut");
                // Every third one goes without a reply.
                if seen % 3 != 2 {
                    reply.extend([seen, 0xff]);
                }
                seen += 1;
                each += 1;
            });
            assert_eq!(each, taken);
        }
        assert_eq!(sent, 14);
        let mut buffer = [0; 16];
        for number in (0..20_u8).filter(|number| number % 3 != 2) {
            assert_eq!(client.recv(&mut buffer).unwrap(), 2);
            assert_eq!(buffer[..2], [number, 0xff]);
        }
    }

    #[test]
    fn batches_carry_datagrams_and_replies_in_order() {
        echo_back("127.0.0.1:0", Duration::ZERO);
        echo_back("127.0.0.1:0", DEADLINE);
    }

    #[test]
    fn an_ipv6_client_is_answered_too() {
        if UdpSocket::bind("[::1]:0").is_ok() {
            echo_back("[::1]:0", Duration::ZERO);
        }
    }

    #[test]
    fn a_time_out_ends_the_wait_and_nothing_is_answered_twice() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let mut batch = Batch::new(4, 64);
        for awake in [Duration::ZERO, Duration::from_micros(5)] {
            let error = batch.receive(&server, awake).unwrap_err();
            assert!(matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut));
            assert_eq!(batch.answer(&server, |_, _, _| panic!("nothing was received")), 0);
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_socket_heeds_no_path_mtu_once_told_so() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(socket) = UdpSocket::bind(address) else { continue };
            let own = socket.local_addr().unwrap();
            assert!(heeds_path_mtu(&socket, own).unwrap(), "{address}");
            heed_no_path_mtu(&socket, own).unwrap();
            assert!(!heeds_path_mtu(&socket, own).unwrap(), "{address}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_datagram_that_comes_after_it_fell_asleep_wakes_it() {
        let server = socket("127.0.0.1:0");
        let client = socket("127.0.0.1:0");
        let address = server.local_addr().unwrap();
        let mut batch = Batch::new(4, 64);
        let which = OnceLock::new();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let _ = which.set(std::fs::read_link("/proc/thread-self").unwrap());
                batch.receive(&server, Duration::from_nanos(1))
            });
            // PID (NAME) STATE ...
            let stat = || std::fs::read_to_string(Path::new("/proc").join(which.get()?).join("stat")).ok();
            let sleeps = || Some(stat()?.rsplit_once(") ")?.1.starts_with('S'));
            while !waiting.is_finished() && sleeps() != Some(true) {
                std::thread::yield_now();
            }
            client.send_to(b"now", address).unwrap();
            assert_eq!(waiting.join().unwrap().unwrap(), 1);
        });
        assert_eq!(batch.answer(&server, |bytes, _, reply| reply.extend(bytes)), 1);
        let mut buffer = [0; 16];
        assert_eq!(client.recv(&mut buffer).unwrap(), 3);
    }
}
