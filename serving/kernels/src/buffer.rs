//! Big zeroed buffers, 64-byte aligned, whose allocation can fail without ending the process.
//! The memory is asked for zeroed, so pages that are never written are never backed.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Start of every buffer: a cache line, so that no 32-byte load at an even offset crosses one.
const ALIGN: usize = 64;

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
    start: NonNull<T>,
    len: usize,
    owns: PhantomData<T>,
}

impl<T: Plain> Buffer<T> {
    pub(crate) fn zeroed(len: usize) -> Result<Buffer<T>, OutOfMemory> {
        if len == 0 {
            return Ok(Buffer {
                start: NonNull::dangling(),
                len,
                owns: PhantomData,
            });
        }
        let layout = Self::layout(len)?;
        // SAFETY: the layout has a size above zero, because `len` is and no `Plain` type is empty.
        let raw = unsafe { alloc_zeroed(layout) };
        let start = NonNull::new(raw.cast::<T>()).ok_or(OutOfMemory { bytes: layout.size() })?;
        Ok(Buffer {
            start,
            len,
            owns: PhantomData,
        })
    }

    fn layout(len: usize) -> Result<Layout, OutOfMemory> {
        let bytes = len
            .checked_mul(size_of::<T>())
            .ok_or(OutOfMemory { bytes: usize::MAX })?;
        Layout::from_size_align(bytes, ALIGN).map_err(|_| OutOfMemory { bytes })
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
            unsafe { dealloc(self.start.as_ptr().cast(), layout) }
        }
    }
}

// SAFETY: the buffer owns its memory alone, like a Vec, and `Plain` types are Send.
unsafe impl<T: Plain> Send for Buffer<T> {}
// SAFETY: shared access only reads, and `Plain` types are Sync.
unsafe impl<T: Plain> Sync for Buffer<T> {}

#[cfg(test)]
mod tests {
    use super::*;

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
}
