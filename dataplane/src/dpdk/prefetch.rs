//! Starts loading a cache line, so that a later pass over the burst finds it. Any thread; owns nothing. A hint: it
//! changes nothing that a program can see but time.

/// Starts loading the first cache line of `value` into every cache level.
#[inline(always)]
pub fn prefetch<T>(value: &T) {
    prefetch_address(std::ptr::from_ref(value).cast());
}

/// Starts loading the first cache line of `slice[index]`; nothing where there is no such element.
#[inline(always)]
pub fn prefetch_slice_index<T>(slice: &[T], index: usize) {
    if let Some(value) = slice.get(index) {
        prefetch(value);
    }
}

/// The same for an address, whatever is there.
#[inline(always)]
pub(super) fn prefetch_address(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: PREFETCHT0 faults at no address (Intel SDM volume 2) and SSE is in the x86_64 baseline.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefetch_of_a_missing_element_or_a_wild_address_is_harmless() {
        let values = [1, 2, 3];
        prefetch(&values);
        prefetch_slice_index(&values, 2);
        prefetch_slice_index(&values, usize::MAX);
        prefetch_address(std::ptr::without_provenance(0xdead_0000));
        assert_eq!(values, [1, 2, 3]);
    }
}
