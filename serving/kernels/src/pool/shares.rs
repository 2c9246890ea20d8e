//! Slices that several threads write at once, each its own part: the borrow of the whole is checked
//! here, that the parts are disjoint is the contract of the unsafe methods.

/// A slice cut into chunks that may be taken out by several threads, each at most once.
pub(super) struct Chunks<T> {
    start: *mut T,
    len: usize,
    chunk_len: usize,
}

impl<T> Chunks<T> {
    pub(super) fn new(data: &mut [T], chunk_len: usize) -> Chunks<T> {
        assert!(chunk_len > 0, "chunks of no elements");
        Chunks {
            start: data.as_mut_ptr(),
            len: data.len(),
            chunk_len,
        }
    }

    pub(super) fn count(&self) -> usize {
        self.len.div_ceil(self.chunk_len)
    }

    /// # Safety
    /// `index` is below `count()`, nobody else holds that chunk, and the slice outlives the use.
    #[allow(clippy::mut_from_ref, reason = "the contract makes chunks disjoint")]
    pub(super) unsafe fn get(&self, index: usize) -> &mut [T] {
        let from = index * self.chunk_len;
        // SAFETY: the range is inside the slice, and exclusive by the contract above.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), self.chunk_len.min(self.len - from)) }
    }
}
// SAFETY: sharing the chunks hands `&mut [T]` to other threads, which Send elements allow.
unsafe impl<T: Send> Sync for Chunks<T> {}

/// Rows of floats that several threads write, each its own columns.
pub(crate) struct OutRows<'a> {
    start: *mut f32,
    len: usize,
    width: usize,
    borrow: std::marker::PhantomData<&'a mut [f32]>,
}
// SAFETY: the pointer is used only through `write`, whose contract keeps the threads apart.
unsafe impl Sync for OutRows<'_> {}

impl<'a> OutRows<'a> {
    pub(crate) fn new(out: &'a mut [f32], width: usize) -> OutRows<'a> {
        OutRows {
            start: out.as_mut_ptr(),
            len: out.len(),
            width,
            borrow: std::marker::PhantomData,
        }
    }

    /// Writes `values` to row `row` from column `column` on.
    ///
    /// # Safety
    /// No other thread accesses the same elements meanwhile.
    pub(crate) unsafe fn write(&self, row: usize, column: usize, values: &[f32]) {
        let at = row * self.width + column;
        assert!(
            column + values.len() <= self.width && at + values.len() <= self.len,
            "output too short"
        );
        // SAFETY: the assertion keeps the range inside the slice, which stays borrowed; by the contract nobody
        // else is there.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), self.start.add(at), values.len()) };
    }
}
