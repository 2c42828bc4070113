//! The few system calls that neither `std`, `socket2` nor the ring offers. Owns no state.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use socket2::SockRef;

/// The address of a connected socket's other end; `None` for a Unix socket or a dead one.
pub(crate) fn peer_address(fd: RawFd) -> Option<SocketAddr> {
    // SAFETY: the caller has just accepted `fd` and has not closed it, so it is open for the
    // length of this call.
    let socket = unsafe { BorrowedFd::borrow_raw(fd) };
    SockRef::from(&socket).peer_addr().ok()?.as_socket()
}

/// Ends both directions of a socket; whoever waits on it wakes up. Errors mean that the peer was
/// faster, and are of no interest.
pub(crate) fn shutdown(fd: RawFd) {
    // SAFETY: shutdown takes a number and touches no memory; a number that is not a socket gives
    // an error that is ignored.
    unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
}

/// A new eventfd, blocking, so that a ring can read it and wait.
pub(crate) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: eventfd takes no pointers.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Adds one to an eventfd.
pub(crate) fn eventfd_ring(fd: RawFd) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: `one` is 8 readable bytes for the length of the call. A full counter would block,
    // but takes 2^64 - 2 unread wakes.
    unsafe { libc::write(fd, one.as_ptr().cast(), one.len()) };
}

/// Pins the calling thread to one cpu.
pub(crate) fn pin_thread(cpu: usize) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: an all-zero cpu_set_t is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `cpu` is below CPU_SETSIZE, checked above.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: `set` is a valid set of the size given; 0 is the calling thread.
    let rc = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Memory from mmap: page-aligned, zeroed, unmapped on drop.
pub(crate) struct Pages {
    start: *mut u8,
    len: usize,
}

impl Pages {
    /// Maps `len` bytes (at least 1), resident, with huge pages where `len` is worth one.
    pub(crate) fn new(len: usize) -> io::Result<Pages> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice overlaps nothing.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, access, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        if len >= 2 << 20 {
            // SAFETY: the range was mapped just above; advice changes no contents.
            unsafe { libc::madvise(start, len, libc::MADV_HUGEPAGE) };
        }
        // Faulted in now: neither the first messages nor the first clients pay for it. An older
        // kernel refuses, and then pages come as they are touched.
        // SAFETY: the range was mapped just above; its contents stay zero.
        unsafe { libc::madvise(start, len, libc::MADV_POPULATE_WRITE) };
        Ok(Pages { start: start.cast(), len })
    }

    /// The first byte.
    pub(crate) fn start(&self) -> *mut u8 {
        self.start
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new` and is unmapped once.
        unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}

/// The soft limit of locked memory in bytes.
pub(crate) fn memlock_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the answer.
    let rc = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(limit.rlim_cur) }
}
