//! A fixed slice of zeroed, page-aligned memory, on hugepages where there are enough: the place of a worker's tables.
//!
//! Made on the control thread before a worker starts. Every page is populated when `new` returns, so that no access
//! faults later: a connection table of a million entries in 4 KiB pages costs a page fault and, for ever after, a TLB
//! miss on nearly every packet.

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};

use zerocopy::FromZeros;

/// The hugepage size that x86_64 and arm64 (with 4 KiB pages) both have.
const HUGEPAGE: usize = 2 << 20;
/// The smallest base page, and so the alignment that every mapping has.
const SMALL_PAGE: usize = 4096;

/// What kind of pages a [`Region`] may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pages {
    /// Reserved hugepages where enough are free, else ordinary memory.
    #[default]
    Any,
    /// Ordinary memory only.
    Ordinary,
    /// Reserved hugepages or none at all.
    Hugepages,
}

/// What kind of pages a [`Region`] got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Reserved 2 MiB pages.
    HugePages,
    /// Ordinary memory that the kernel was advised to back with 2 MiB pages, as far as it finds some.
    TransparentHugePages,
    /// Ordinary memory in base pages.
    SmallPages,
}

impl fmt::Display for Backing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Backing::HugePages => "hugepages",
            Backing::TransparentHugePages => "transparent hugepages, as far as the kernel has any",
            Backing::SmallPages => "small pages",
        })
    }
}

/// Why there is no region.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// The size in bytes does not fit the address space.
    #[error("{len} elements of {element_bytes} bytes are more than the address space holds: ask for fewer")]
    TooLarge {
        /// Elements asked for.
        len: usize,
        /// Size of one.
        element_bytes: usize,
    },
    /// The kernel refused to map or populate the memory.
    #[error("no memory for a table of {} MiB ({source}): make it smaller or the machine's memory larger", bytes >> 20)]
    Refused {
        /// Bytes asked for.
        bytes: usize,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// A fixed-length slice of `T`, all zeros at first.
pub struct Region<T> {
    elements: NonNull<T>,
    len: usize,
    mapping: Option<Mapping>,
}

// SAFETY: a Region owns its elements as a Box<[T]> does and shares them with nobody.
unsafe impl<T: Send> Send for Region<T> {}
// SAFETY: a shared Region gives out shared references to elements only.
unsafe impl<T: Sync> Sync for Region<T> {}

impl<T: FromZeros> Region<T> {
    /// `len` zeroed elements, on the NUMA node of the calling thread's CPU.
    pub fn new(len: usize, pages: Pages) -> Result<Self, RegionError> {
        const { assert!(align_of::<T>() <= SMALL_PAGE, "a mapping is aligned to a page and no further") };
        let bytes = len
            .checked_mul(size_of::<T>())
            .filter(|&bytes| bytes <= isize::MAX as usize - 2 * HUGEPAGE)
            .ok_or(RegionError::TooLarge { len, element_bytes: size_of::<T>() })?;
        if bytes == 0 {
            return Ok(Region { elements: NonNull::dangling(), len, mapping: None });
        }
        let mapping = Mapping::new(bytes, pages).map_err(|source| RegionError::Refused { bytes, source })?;
        Ok(Region { elements: mapping.start.cast(), len, mapping: Some(mapping) })
    }
}

impl<T> Region<T> {
    /// The kind of pages that it lies in.
    pub fn backing(&self) -> Backing {
        self.mapping.as_ref().map_or(Backing::SmallPages, |mapping| mapping.backing)
    }
}

impl<T> Deref for Region<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `new` made `elements` point to `len` elements in a mapping that lives as long as self (or dangle,
        // aligned, for zero bytes). All zeros is a T (FromZeros in `new`) and writes go through DerefMut only.
        unsafe { std::slice::from_raw_parts(self.elements.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for Region<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and &mut self is the only way to the elements.
        unsafe { std::slice::from_raw_parts_mut(self.elements.as_ptr(), self.len) }
    }
}

impl<T> Drop for Region<T> {
    fn drop(&mut self) {
        // SAFETY: the elements are valid (see `deref`), are dropped here once, and nobody can reach them afterwards;
        // the mapping is unmapped after this by its own Drop.
        unsafe { ptr::drop_in_place(ptr::from_mut::<[T]>(self)) };
    }
}

impl<T> fmt::Debug for Region<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Region").field("len", &self.len).field("backing", &self.backing()).finish()
    }
}

/// A private anonymous mapping, populated.
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
    backing: Backing,
}

impl Mapping {
    fn new(bytes: usize, pages: Pages) -> io::Result<Self> {
        if bytes < HUGEPAGE && pages != Pages::Hugepages {
            let mut mapping = Self::map(bytes.next_multiple_of(SMALL_PAGE), 0)?;
            mapping.populate_small()?;
            return Ok(mapping);
        }
        match pages {
            Pages::Any => Self::hugepages(bytes).or_else(|_| Self::ordinary(bytes)),
            Pages::Ordinary => Self::ordinary(bytes),
            Pages::Hugepages => Self::hugepages(bytes),
        }
    }

    /// Reserved hugepages. The mapping alone proves nothing: a hugetlb page that is missing when it is touched (a
    /// cgroup's limit, a memory policy) raises SIGBUS. MADV_POPULATE_WRITE returns that as an error.
    fn hugepages(bytes: usize) -> io::Result<Self> {
        let mut mapping =
            Self::map(bytes.next_multiple_of(HUGEPAGE), libc::MAP_HUGETLB | libc::MAP_HUGE_2MB)?;
        mapping.advise(libc::MADV_POPULATE_WRITE)?;
        mapping.backing = Backing::HugePages;
        Ok(mapping)
    }

    /// Ordinary memory, aligned so that the kernel can use hugepages from the first byte on.
    fn ordinary(bytes: usize) -> io::Result<Self> {
        let mut mapping = Self::map(bytes.next_multiple_of(HUGEPAGE) + HUGEPAGE, 0)?.trim_to_hugepage();
        if transparent_hugepages_allowed() && mapping.advise(libc::MADV_HUGEPAGE).is_ok() {
            mapping.backing = Backing::TransparentHugePages;
        }
        mapping.populate_small()?;
        Ok(mapping)
    }

    fn map(bytes: usize, flags: libc::c_int) -> io::Result<Self> {
        let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory of this program.
        let start =
            unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        Ok(Mapping { start, bytes, backing: Backing::SmallPages })
    }

    /// Gives back what lies before the first and after the last whole hugepage.
    fn trim_to_hugepage(self) -> Self {
        let whole = std::mem::ManuallyDrop::new(self);
        let skipped = whole.start.align_offset(HUGEPAGE);
        let bytes = whole.bytes - HUGEPAGE;
        // SAFETY: `skipped` is below HUGEPAGE, which `whole` is longer than; `start` and the range stay in `whole`.
        let start = unsafe { whole.start.add(skipped) };
        if skipped > 0 {
            // SAFETY: the range from whole.start to `start` is page-aligned, in `whole`, and used by nobody.
            unsafe { libc::munmap(whole.start.as_ptr().cast(), skipped) };
        }
        // SAFETY: as above for the range from the end of the result to the end of `whole`; HUGEPAGE - skipped is
        // more than 0 and both are multiples of the page size.
        unsafe { libc::munmap(start.as_ptr().add(bytes).cast(), HUGEPAGE - skipped) };
        Mapping { start, bytes, backing: whole.backing }
    }

    fn advise(&mut self, advice: libc::c_int) -> io::Result<()> {
        // SAFETY: the range is this mapping; neither MADV_HUGEPAGE nor MADV_POPULATE_WRITE changes its contents.
        match unsafe { libc::madvise(self.start.as_ptr().cast(), self.bytes, advice) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Faults ordinary pages in, by hand where the kernel is older than 5.14 and does not know the advice.
    fn populate_small(&mut self) -> io::Result<()> {
        match self.advise(libc::MADV_POPULATE_WRITE) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                for offset in (0..self.bytes).step_by(SMALL_PAGE) {
                    // SAFETY: the byte is in this mapping, which is writable, still all zeros and used by nobody yet.
                    unsafe { self.start.add(offset).write_volatile(0) };
                }
                Ok(())
            }
            result => result,
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: start and bytes are those of a live mapping that only this value knows; a Region that hands out
        // its memory drops it last. Failure would leave the mapping in place, which is safe.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

fn transparent_hugepages_allowed() -> bool {
    std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled")
        .is_ok_and(|setting| !setting.contains("[never]"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[derive(FromZeros)]
    #[repr(C, align(64))]
    struct Line([u8; 64]);

    #[test]
    fn region_is_zeroed_aligned_and_writable_to_its_last_element() {
        for len in [1, 63, HUGEPAGE / 64 - 1, HUGEPAGE / 64, HUGEPAGE / 64 + 1] {
            let mut region = Region::<Line>::new(len, Pages::Any).unwrap();
            assert_eq!(region.len(), len);
            assert!(region.iter().all(|line| line.0 == [0; 64]), "{len} lines");
            assert_eq!(region.as_ptr().addr() % 64, 0);
            for line in region.iter_mut() {
                line.0[63] = 7;
            }
            assert!(region.iter().all(|line| line.0[63] == 7));
        }
    }

    #[test]
    fn region_of_several_hugepages_starts_on_one_unless_small_pages_are_all_there_is() {
        let region = Region::<u64>::new(3 * HUGEPAGE / 8, Pages::Any).unwrap();
        assert_eq!(region.as_ptr().addr() % HUGEPAGE, 0);
        let allowed = transparent_hugepages_allowed();
        assert!(region.backing() != Backing::SmallPages || !allowed, "{:?}", region.backing());
    }

    #[test]
    fn region_is_resident_when_made() {
        let region = Region::<u8>::new(8 << 20, Pages::Any).unwrap();
        let mut resident = vec![0_u8; region.len() / SMALL_PAGE];
        // SAFETY: the range is the region's, page-aligned, and `resident` has a byte for each of its pages.
        let result =
            unsafe { libc::mincore(region.as_ptr().cast_mut().cast(), region.len(), resident.as_mut_ptr()) };
        assert_eq!(result, 0);
        assert!(resident.iter().all(|&page| page & 1 == 1));
    }

    #[test]
    fn region_of_no_elements_or_of_no_bytes_maps_nothing() {
        assert!(Region::<u64>::new(0, Pages::Any).unwrap().is_empty());
        assert_eq!(Region::<()>::new(5, Pages::Any).unwrap().len(), 5);
    }

    #[test]
    fn region_larger_than_the_address_space_or_memory_is_an_error_that_says_so() {
        let error = Region::<u64>::new(usize::MAX / 4, Pages::Any).unwrap_err();
        assert!(error.to_string().contains("elements of 8 bytes"), "{error}");
        let error = Region::<u64>::new(1 << 56, Pages::Any).unwrap_err();
        assert!(matches!(error, RegionError::Refused { .. }), "{error}");
        assert!(error.to_string().contains("Cannot allocate memory"), "{error}");
    }

    #[test]
    fn atomics_in_a_region_are_shared_by_threads() {
        let region = Region::<AtomicU64>::new(1, Pages::Any).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..1000).for_each(|_| _ = region[0].fetch_add(1, Ordering::Relaxed)));
            }
        });
        assert_eq!(region[0].load(Ordering::Relaxed), 2000);
    }
}
