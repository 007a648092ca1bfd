//! What was learnt of the paths of tunnels: the largest outer packet that gets to a real server whole.
//!
//! One word a destination slot, shared by all workers: whichever hears of a smaller MTU (ICMP fragmentation needed, packet too
//! big) writes it, all read it for each tunnelled packet. It holds for ten minutes, as in the kernel
//! (`net.ipv4.route.mtu_expires`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::packet::ipv6;

/// Seconds for which what was learnt holds.
pub const EXPIRY_SECONDS: u32 = 600;
/// Least MTU that an error about IPv4 is believed (the kernel's `net.ipv4.route.min_pmtu`): else whoever forges one has all
/// packets cut to shreds.
pub const MTU_MIN_V4: u16 = 552;

/// The MTUs, by destination slot.
#[derive(Debug)]
pub struct PathMtus(Box<[AtomicU64]>);

impl PathMtus {
    /// Nothing learnt, for so many destination slots.
    pub fn new(slots: usize) -> Arc<PathMtus> {
        Arc::new(PathMtus((0..slots).map(|_| AtomicU64::new(0)).collect()))
    }

    /// A router says that no outer packet over `mtu` bytes gets to the real server of `slot`. Lowers only, until it expires; never
    /// below what every path has to carry.
    pub fn learn(&self, slot: u32, mtu: u16, is_ipv6: bool, now_seconds: u32) {
        let mtu = mtu.max(if is_ipv6 { ipv6::MTU_MIN } else { MTU_MIN_V4 });
        let Some(word) = self.0.get(slot as usize) else { return };
        if self.of(slot, now_seconds).is_none_or(|known| mtu <= known) {
            let expires = now_seconds.wrapping_add(EXPIRY_SECONDS);
            word.store(u64::from(mtu) << 32 | u64::from(expires), Ordering::Relaxed);
        }
    }

    /// The largest outer packet that gets to the real server of `slot`, where anything was learnt of it.
    #[inline(always)]
    pub fn of(&self, slot: u32, now_seconds: u32) -> Option<u16> {
        let word = self.0.get(slot as usize)?.load(Ordering::Relaxed);
        if word == 0 || now_seconds.wrapping_sub(word as u32) as i32 >= 0 {
            return None;
        }
        Some((word >> 32) as u16)
    }

    /// The slot is another real server's now.
    pub fn forget(&self, slot: u32) {
        if let Some(word) = self.0.get(slot as usize) {
            word.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mtus_are_lowered_expire_and_are_forgotten() {
        let mtus = PathMtus::new(2);
        assert_eq!(mtus.of(0, 5), None);
        mtus.learn(0, 1400, false, 5);
        assert_eq!((mtus.of(0, 5), mtus.of(1, 5)), (Some(1400), None));
        mtus.learn(0, 1450, false, 6);
        assert_eq!(mtus.of(0, 6), Some(1400), "no error raises it");
        mtus.learn(0, 1300, false, 7);
        assert_eq!(mtus.of(0, 606), Some(1300));
        assert_eq!(mtus.of(0, 607), None);
        mtus.learn(0, 1450, false, 607);
        assert_eq!(mtus.of(0, 607), Some(1450), "what is over holds nobody down");
        mtus.forget(0);
        assert_eq!(mtus.of(0, 607), None);
    }

    #[test]
    fn no_error_is_believed_below_what_every_path_carries() {
        let mtus = PathMtus::new(2);
        mtus.learn(0, 0, false, 0);
        mtus.learn(1, 68, true, 0);
        assert_eq!((mtus.of(0, 0), mtus.of(1, 0)), (Some(552), Some(1280)));
    }

    #[test]
    fn slots_beyond_the_last_know_nothing() {
        let mtus = PathMtus::new(1);
        mtus.learn(1, 1400, false, 0);
        mtus.forget(7);
        assert_eq!(mtus.of(1, 0), None);
    }
}
