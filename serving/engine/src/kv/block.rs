//! The blocks of one sequence. They go back to the pool when the table is dropped, whatever ends the
//! sequence, the last block first: the beginning of a text is worth more to others than its end.
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::pool::BlockPool;

/// A pool that tables return their blocks to.
pub type SharedPool = Arc<Mutex<BlockPool>>;

/// The blocks of a sequence, in order.
#[derive(Debug)]
pub struct BlockTable {
    pool: SharedPool,
    blocks: Vec<u32>,
}

impl BlockTable {
    /// A sequence without blocks.
    pub fn new(pool: &SharedPool) -> Self {
        Self {
            pool: Arc::clone(pool),
            blocks: Vec::new(),
        }
    }

    /// Takes blocks with known content; the table must be empty.
    pub fn share(&mut self, blocks: impl IntoIterator<Item = u32>) {
        let mut pool = lock(&self.pool);
        for block in blocks {
            pool.share(block);
            self.blocks.push(block);
        }
    }

    /// Grows to `count` blocks, or not at all if the pool has not enough; whether it did.
    pub fn grow(&mut self, count: usize) -> bool {
        let missing = count.saturating_sub(self.blocks.len());
        let mut pool = lock(&self.pool);
        if missing > pool.free() {
            return false;
        }
        self.blocks.extend((0..missing).map_while(|_| pool.allocate()));
        true
    }

    /// Gives everything back.
    pub fn clear(&mut self) {
        let mut pool = lock(&self.pool);
        for block in self.blocks.drain(..).rev() {
            pool.release(block);
        }
    }

    /// The blocks.
    pub fn blocks(&self) -> &[u32] {
        &self.blocks
    }
}

impl Drop for BlockTable {
    fn drop(&mut self) {
        self.clear();
    }
}

/// No code panics while it holds the pool, so a poisoned lock still guards a consistent pool.
pub fn lock(pool: &SharedPool) -> MutexGuard<'_, BlockPool> {
    pool.lock().unwrap_or_else(PoisonError::into_inner)
}
