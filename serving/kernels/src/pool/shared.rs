//! A slice that several threads use at once, each its own part: the borrow of the whole and the bounds are
//! checked here, that the parts are disjoint is the contract of the unsafe methods.

use std::marker::PhantomData;
use std::ops::Range;

/// A borrowed slice, to be handed out in parts.
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}
impl<T> Clone for Shared<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Shared<'_, T> {}
// SAFETY: the pointer is used only through methods whose contracts keep the threads apart; they hand out
// `&mut T` and `&T` across threads, which Send and Sync elements allow.
unsafe impl<T: Send + Sync> Sync for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Send for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Shared<'a, T> {
        Shared {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            borrow: PhantomData,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// # Safety
    /// Nobody writes to the range for as long as the result lives.
    pub(crate) unsafe fn get(&self, range: Range<usize>) -> &'a [T] {
        self.check(&range);
        // SAFETY: the range is inside the slice, which stays borrowed for 'a; by the contract nobody writes there.
        unsafe { std::slice::from_raw_parts(self.start.add(range.start), range.len()) }
    }

    /// # Safety
    /// Nobody else reads or writes the range for as long as the result lives.
    #[allow(clippy::mut_from_ref, reason = "the contract makes the parts disjoint")]
    pub(crate) unsafe fn get_mut(&self, range: Range<usize>) -> &'a mut [T] {
        self.check(&range);
        // SAFETY: the range is inside the slice, which stays borrowed for 'a; by the contract nobody else is there.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// Where element `index` is.
    pub(crate) fn at(&self, index: usize) -> *mut T {
        self.check(&(index..index + 1));
        self.start.wrapping_add(index)
    }

    fn check(&self, range: &Range<usize>) {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "part {range:?} of {} elements",
            self.len
        );
    }
}
