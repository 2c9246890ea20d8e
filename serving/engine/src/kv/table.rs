//! The blocks of one sequence. Dropping the table gives them back, the last block first, so that the
//! ends of prefixes are evicted before their beginnings.
use std::cell::RefCell;
use std::rc::Rc;

use super::pool::BlockPool;
use super::prefix::PrefixHash;

/// The blocks of one sequence, in order.
#[derive(Debug)]
pub struct BlockTable {
    pool: Rc<RefCell<BlockPool>>,
    blocks: Vec<u32>,
}

impl BlockTable {
    /// No blocks yet.
    pub fn new(pool: Rc<RefCell<BlockPool>>) -> Self {
        Self {
            pool,
            blocks: Vec::new(),
        }
    }

    /// The blocks' numbers.
    pub fn blocks(&self) -> &[u32] {
        &self.blocks
    }

    /// Grows to `count` blocks; false, with what was to be had kept, if the pool is empty before.
    pub fn grow(&mut self, count: usize) -> bool {
        while self.blocks.len() < count {
            let Some(block) = self.pool.borrow_mut().take() else {
                return false;
            };
            self.blocks.push(block);
        }
        true
    }

    /// Appends the cached blocks of the longest run of `prefixes` that is there; returns how many.
    pub fn share(&mut self, prefixes: &[PrefixHash]) -> usize {
        let mut pool = self.pool.borrow_mut();
        let before = self.blocks.len();
        for prefix in prefixes {
            let Some(block) = pool.find(prefix) else { break };
            pool.share(block);
            self.blocks.push(block);
        }
        self.blocks.len() - before
    }

    /// Block number `index` is full and holds this prefix.
    pub fn publish(&self, index: usize, prefix: PrefixHash) {
        self.pool.borrow_mut().publish(self.blocks[index], prefix);
    }

    /// Gives all blocks back.
    pub fn clear(&mut self) {
        let mut pool = self.pool.borrow_mut();
        for block in self.blocks.drain(..).rev() {
            pool.release(block);
        }
    }
}

impl Drop for BlockTable {
    fn drop(&mut self) {
        self.clear();
    }
}
