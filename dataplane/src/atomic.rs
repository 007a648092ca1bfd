//! The atomics and the memory of tables that several threads touch: the real ones, or those of loom, which tries every
//! interleaving of a small model (`RUSTFLAGS="--cfg loom"`, `tests/loom.rs`). Owns nothing itself.

#[cfg(not(loom))]
pub(crate) use std::hint::spin_loop;
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64};

#[cfg(loom)]
pub(crate) use loom::hint::spin_loop;
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64};

#[cfg(not(loom))]
pub(crate) use crate::dpdk::region::Region as Memory;

/// What stands for a [`crate::dpdk::region::Region`] in a model: loom's atomics are more than their zeros.
#[cfg(loom)]
#[derive(Debug)]
pub(crate) struct Memory<T>(Box<[T]>);

#[cfg(loom)]
impl<T: Default> Memory<T> {
    pub(crate) fn new(
        len: usize,
        _pages: crate::dpdk::region::Pages,
    ) -> Result<Self, crate::dpdk::region::RegionError> {
        Ok(Memory((0..len).map(|_| T::default()).collect()))
    }

    pub(crate) fn backing(&self) -> crate::dpdk::region::Backing {
        crate::dpdk::region::Backing::SmallPages
    }
}

#[cfg(loom)]
impl<T> std::ops::Deref for Memory<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}
