//! Memory for weights that are written once and then only read: matrices lie behind each other in the order in which
//! they are packed, which is the order in which a step reads them, on huge pages where there are such.

use crate::buffer::{Buffer, OutOfMemory};
use std::ops::{Deref, Range};
use std::sync::Arc;

/// Every region starts at a multiple of this.
const ALIGN: usize = 64;

/// Memory that is handed out once, from front to back.
pub struct Store {
    memory: Arc<Memory>,
    used: usize,
}

struct Memory {
    start: *mut u8,
    /// Owns what `start` points to.
    buffer: Buffer<u8>,
}
// SAFETY: `start` points into the buffer, which is owned; parts of it are written only by `Store::fill_two`, which has
// them alone, and only read afterwards.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

/// A part that has been written.
pub(crate) struct Region {
    memory: Arc<Memory>,
    range: Range<usize>,
}

impl Store {
    /// Room for regions that take `bytes` together (see `taken`).
    ///
    /// # Errors
    /// If the memory is not to be had.
    pub fn new(bytes: usize) -> Result<Store, OutOfMemory> {
        let mut buffer = Buffer::zeroed(bytes)?;
        Ok(Store {
            memory: Arc::new(Memory {
                start: buffer.as_mut_ptr(),
                buffer,
            }),
            used: 0,
        })
    }

    /// What a region of `bytes` takes of a store; `None` if that overflows.
    pub(crate) fn taken(bytes: usize) -> Option<usize> {
        bytes.checked_next_multiple_of(ALIGN)
    }

    /// Hands out two regions of `sizes` bytes, all zero, to be written by `write`.
    ///
    /// # Errors
    /// If there is no room left.
    pub(crate) fn fill_two(
        &mut self,
        sizes: [usize; 2],
        write: impl FnOnce(&mut [u8], &mut [u8]),
    ) -> Result<(Region, Region), OutOfMemory> {
        let full = OutOfMemory {
            bytes: sizes[0].saturating_add(sizes[1]),
        };
        let first = Self::taken(sizes[0]).ok_or(full)?;
        let both = Self::taken(sizes[1])
            .and_then(|second| second.checked_add(first))
            .ok_or(full)?;
        let end = self.used.checked_add(both).ok_or(full)?;
        if end > self.memory.buffer.len() {
            return Err(full);
        }
        let region = |start: usize, len: usize| Region {
            memory: Arc::clone(&self.memory),
            range: start..start + len,
        };
        let regions = (region(self.used, sizes[0]), region(self.used + first, sizes[1]));
        self.used = end;
        let part = |region: &Region| {
            // SAFETY: inside the buffer, checked above; no region before or after this one has these bytes, and these
            // two are given to the caller only when the slice is gone.
            unsafe { std::slice::from_raw_parts_mut(self.memory.start.add(region.range.start), region.range.len()) }
        };
        write(part(&regions.0), part(&regions.1));
        Ok(regions)
    }
}

impl Deref for Region {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: inside the buffer, and never written again.
        unsafe { std::slice::from_raw_parts(self.memory.start.add(self.range.start), self.range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_lie_behind_each_other_and_keep_what_was_written() {
        let mut store = Store::new(192).unwrap();
        let (a, b) = store.fill_two([3, 65], |a, b| (a.fill(1), b.fill(2)).1).unwrap();
        assert_eq!((&a[..], &b[..]), (&[1; 3][..], &[2; 65][..]));
        assert_eq!(b.as_ptr() as usize - a.as_ptr() as usize, ALIGN);
        assert!(store.fill_two([1, 0], |_, _| ()).is_err());
        drop(store);
        assert_eq!(b[64], 2);
    }

    #[test]
    fn impossible_sizes_are_errors() {
        assert!(Store::new(usize::MAX).is_err());
        let mut store = Store::new(64).unwrap();
        assert!(store.fill_two([usize::MAX, 1], |_, _| ()).is_err());
        assert!(store.fill_two([64, usize::MAX - 63], |_, _| ()).is_err());
    }
}
