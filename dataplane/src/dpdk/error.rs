//! DPDK's error numbers, translated here and nowhere else. Any thread.

use std::ffi::CStr;
use std::fmt;

/// An errno as DPDK uses it: the system's numbers and a few of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(i32);

impl Errno {
    /// The one that a DPDK function left in this thread's `rte_errno`.
    pub(super) fn of_thread() -> Self {
        // SAFETY: reads a thread-local of this thread, which exists before EAL is started as well.
        Errno(unsafe { dpdk_sys::dr_errno() })
    }

    /// The result of a DPDK function that returns a negative errno on failure.
    pub(super) fn check(result: i32) -> Result<u32, Self> {
        u32::try_from(result).map_err(|_| Errno(result.saturating_neg()))
    }

    /// The number.
    pub fn code(self) -> i32 {
        self.0
    }
}

impl From<std::io::Error> for Errno {
    /// Of a system call; 0 for an error that is none of the system's.
    fn from(error: std::io::Error) -> Self {
        Errno(error.raw_os_error().unwrap_or(0))
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: rte_strerror takes any number and returns a NUL-terminated text that stays valid on this thread
        // until its next call here; it is copied out before.
        let text = unsafe { CStr::from_ptr(dpdk_sys::rte_strerror(self.0)) };
        write!(formatter, "{}, errno {}", text.to_string_lossy(), self.0)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Errno({self})")
    }
}

impl std::error::Error for Errno {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negative_result_is_an_errno_with_its_text() {
        assert_eq!(Errno::check(3), Ok(3));
        let error = Errno::check(-libc::ENODEV).unwrap_err();
        assert_eq!(error.code(), libc::ENODEV);
        assert_eq!(error.to_string(), "No such device, errno 19");
    }
}
