//! The kernel interface beneath a port of af_packet or af_xdp: what ethdev does not pass on to it. The control thread's,
//! at start.

use std::ffi::c_void;
use std::io;
use std::mem::size_of_val;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// The interface accepts frames to every multicast address as long as this lives; the kernel counts who wants that, so
/// it does not matter who else does.
#[derive(Debug)]
pub(super) struct AllMulticast(#[allow(dead_code, reason = "held for its drop")] OwnedFd);

impl AllMulticast {
    /// Makes the interface of this index accept them.
    pub(super) fn of(interface: u32) -> io::Result<AllMulticast> {
        // Protocol 0: the socket itself receives nothing.
        let socket = socket(libc::AF_PACKET, libc::SOCK_RAW)?;
        let membership = libc::packet_mreq {
            mr_ifindex: interface.cast_signed(),
            mr_type: libc::PACKET_MR_ALLMULTI as u16,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        // SAFETY: the socket is open, the option's value is read for as long as it is.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_ADD_MEMBERSHIP,
                (&raw const membership).cast::<c_void>(),
                size_of_val(&membership) as libc::socklen_t,
            )
        };
        if result == 0 { Ok(AllMulticast(socket)) } else { Err(io::Error::last_os_error()) }
    }
}

/// Sets the interface's MTU.
pub(super) fn set_mtu(interface: u32, mtu: u16) -> io::Result<()> {
    let socket = socket(libc::AF_INET, libc::SOCK_DGRAM)?;
    let mut request = request(interface)?;
    request.ifr_ifru.ifru_mtu = i32::from(mtu);
    // SAFETY: the socket is open, the request is the one that SIOCSIFMTU reads.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFMTU as _, &raw const request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The interface's MTU; where it is over 65,535, that.
pub(super) fn mtu(interface: u32) -> io::Result<u16> {
    let socket = socket(libc::AF_INET, libc::SOCK_DGRAM)?;
    let mut request = request(interface)?;
    // SAFETY: the socket is open, the request is the one that SIOCGIFMTU reads and writes.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU as _, &raw mut request) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has written this part of the union.
    Ok(u16::try_from(unsafe { request.ifr_ifru.ifru_mtu }).unwrap_or(u16::MAX))
}

/// What the kernel is asked about the interface of this index, by its name.
fn request(interface: u32) -> io::Result<libc::ifreq> {
    // SAFETY: ifreq is a name and a union of numbers and pointers; zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: the buffer has the IFNAMSIZ bytes that the function writes at most.
    if unsafe { libc::if_indextoname(interface, request.ifr_name.as_mut_ptr()) }.is_null() {
        return Err(io::Error::last_os_error());
    }
    Ok(request)
}

fn socket(family: i32, kind: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers; what it returns is checked.
    let descriptor = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, 0) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
