//! The two system calls of the lab that no safe wrapper offers: attaching a TUN device and asking for a real-time
//! scheduler. The only unsafe code of the crate; the lab runs on Linux alone, so neither has a fallback.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
};

use nix::libc;

/// Creates a TUN device called `name` in the network namespace of the calling thread. Packets come without a head,
/// reads and writes do not block; the device vanishes with the file.
pub(crate) fn open_tun(name: &str) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    let mut request = InterfaceRequest { name: [0; libc::IFNAMSIZ], flags: TUN_WITHOUT_HEAD, padding: [0; 22] };
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "device name too long"));
    }
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    #[expect(
        unsafe_code,
        reason = "ioctl(TUNSETIFF) has no safe wrapper; it reads and writes the 40 bytes of `request`, \
                                    which has the layout and size of the kernel's ifreq and outlives the call"
    )]
    // SAFETY: see the reason above.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(file) }
}

/// Lets the calling thread run before all ordinary ones (SCHED_FIFO, lowest priority). Fails without CAP_SYS_NICE.
pub(crate) fn run_first() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 1 };
    #[expect(
        unsafe_code,
        reason = "sched_setscheduler has no safe wrapper; it only reads `parameters`; 0 is this thread"
    )]
    // SAFETY: see the reason above.
    let result =
        unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const parameters) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The kernel's `struct ifreq` as TUNSETIFF reads it: 16 bytes of name, then flags in a union of 24 bytes.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    padding: [u8; 22],
}

const _: () = assert!(size_of::<InterfaceRequest>() == size_of::<libc::ifreq>());

/// IFF_TUN | IFF_NO_PI.
const TUN_WITHOUT_HEAD: libc::c_short = 0x0001 | 0x1000;
