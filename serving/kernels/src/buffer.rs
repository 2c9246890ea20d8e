//! Big zeroed buffers, 64-byte aligned, whose allocation can fail without ending the process.
//! Big ones come from the system as untouched pages, so what is never written is never backed. That
//! holds only for allocations of ordinary alignment (the allocator fills others by hand), so a buffer
//! asks for a little more and starts at the first aligned address in it: a cache line, or, where pages
//! of 2 MB are worth it, such a page. Weights read once a token miss the address cache less with those.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Start of every buffer: a cache line, so that no 32-byte load at an even offset crosses one.
const ALIGN: usize = 64;

/// Size and alignment of a huge page.
pub(crate) const HUGE: usize = 2 << 20;

/// Start of a buffer of so many bytes.
const fn align_of(bytes: usize) -> usize {
    if bytes >= 4 * HUGE { HUGE } else { ALIGN }
}

/// The system would not give the memory, or the size does not fit into an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot allocate {bytes} bytes")]
pub struct OutOfMemory {
    /// What was asked for; `usize::MAX` when the size itself overflowed.
    pub bytes: usize,
}

/// Types for which all bits zero is a value and that need no drop.
///
/// # Safety
/// The implementor has no padding that matters, no invalid bit pattern of all zeros, and an
/// alignment of at most 64.
pub(crate) unsafe trait Plain: Copy + Send + Sync + 'static {}
// SAFETY: an integer, zero is a value.
unsafe impl Plain for u8 {}
// SAFETY: an integer, zero is a value.
unsafe impl Plain for i8 {}
// SAFETY: an integer, zero is a value.
unsafe impl Plain for u16 {}
// SAFETY: all bits zero is 0.0.
unsafe impl Plain for f32 {}

/// A fixed number of `T`, zeroed at birth.
pub(crate) struct Buffer<T: Plain> {
    /// What the allocator gave; dangling when `len` is 0.
    memory: NonNull<u8>,
    /// The first aligned address in it.
    start: NonNull<T>,
    len: usize,
    owns: PhantomData<T>,
}

impl<T: Plain> Buffer<T> {
    pub(crate) fn zeroed(len: usize) -> Result<Buffer<T>, OutOfMemory> {
        if len == 0 {
            return Ok(Buffer {
                memory: NonNull::dangling(),
                start: NonNull::dangling(),
                len,
                owns: PhantomData,
            });
        }
        let layout = Self::layout(len)?;
        // SAFETY: the layout has a size above zero.
        let memory = unsafe { alloc_zeroed(layout) };
        let memory = NonNull::new(memory).ok_or(OutOfMemory { bytes: layout.size() })?;
        let bytes = len * size_of::<T>();
        let align = align_of(bytes);
        let skip = memory.as_ptr().align_offset(align);
        // SAFETY: `skip` is below the alignment, and the layout has that many bytes more than the values need.
        let start = unsafe { memory.add(skip) };
        if align == HUGE {
            advise(start, bytes, true);
        }
        let start = start.cast::<T>();
        Ok(Buffer {
            memory,
            start,
            len,
            owns: PhantomData,
        })
    }

    fn layout(len: usize) -> Result<Layout, OutOfMemory> {
        let bytes = len
            .checked_mul(size_of::<T>())
            .and_then(|bytes| bytes.checked_add(align_of(bytes)));
        let bytes = bytes.ok_or(OutOfMemory { bytes: usize::MAX })?;
        Layout::from_size_align(bytes, 1).map_err(|_| OutOfMemory { bytes })
    }
}

impl<T: Plain> Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `start` is aligned and owns `len` initialised values (zeroed, and zero is a value).
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Plain> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T: Plain> Drop for Buffer<T> {
    fn drop(&mut self) {
        if self.len == 0 {
            return;
        }
        if let Ok(layout) = Self::layout(self.len) {
            // SAFETY: the memory came from `alloc_zeroed` with the same layout and is freed once.
            unsafe { dealloc(self.memory.as_ptr(), layout) }
        }
    }
}

// SAFETY: the buffer owns its memory alone, like a Vec, and `Plain` types are Send.
unsafe impl<T: Plain> Send for Buffer<T> {}
// SAFETY: shared access only reads, and `Plain` types are Sync.
unsafe impl<T: Plain> Sync for Buffer<T> {}

/// Asks for memory on huge pages, or not on them.
#[cfg(target_os = "linux")]
pub(crate) fn advise(start: NonNull<u8>, size: usize, huge: bool) {
    unsafe extern "C" {
        fn madvise(address: *mut u8, length: usize, advice: i32) -> i32;
    }
    const MADV_HUGEPAGE: i32 = 14;
    const MADV_NOHUGEPAGE: i32 = 15;
    // SAFETY: a hint for memory that is ours alone; it changes no content. A refusal is harmless: the memory is
    // the same, only slower.
    unsafe { madvise(start.as_ptr(), size, if huge { MADV_HUGEPAGE } else { MADV_NOHUGEPAGE }) };
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn advise(_: NonNull<u8>, _: usize, _: bool) {}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_os = "linux")]
    use crate::sample::resident;

    #[test]
    fn a_buffer_starts_zeroed_and_aligned_and_can_be_written() {
        let mut buffer = Buffer::<f32>::zeroed(1000).unwrap();
        assert_eq!(buffer.as_ptr() as usize % ALIGN, 0);
        assert!(buffer.iter().all(|&x| x == 0.0));
        buffer[999] = 1.5;
        assert_eq!(buffer[999], 1.5);
    }

    #[test]
    fn an_empty_buffer_is_an_empty_slice() {
        assert!(Buffer::<u8>::zeroed(0).unwrap().is_empty());
    }

    #[test]
    fn sizes_beyond_the_address_space_are_errors() {
        assert_eq!(
            Buffer::<f32>::zeroed(usize::MAX).err(),
            Some(OutOfMemory { bytes: usize::MAX })
        );
        assert!(Buffer::<u8>::zeroed(isize::MAX as usize).is_err());
        assert!(Buffer::<u8>::zeroed(1 << 60).is_err());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_that_is_not_written_is_not_backed() {
        // Other tests need far less than this buffer.
        let before = resident();
        let mut buffer = Buffer::<u8>::zeroed(1 << 30).unwrap();
        buffer[1 << 29] = 1;
        assert!(resident() < before + (1 << 29));
        assert_eq!(
            (buffer[(1 << 29) - 1], buffer[1 << 29], buffer[(1 << 30) - 1]),
            (0, 1, 0)
        );
    }
}
