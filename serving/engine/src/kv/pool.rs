//! Reference-counted blocks. A block that nobody holds stays in the free list, and findable by the
//! prefix it holds, until it is needed for something else: the list's order is the order of eviction
//! (as in vLLM's V1 block pool).
use std::collections::HashMap;

use super::prefix::PrefixHash;

/// No block.
const NONE: u32 = u32::MAX;

/// All blocks of the cache.
#[derive(Debug)]
pub struct BlockPool {
    blocks: Vec<Block>,
    by_prefix: HashMap<PrefixHash, u32>,
    /// Next to be evicted.
    head: u32,
    tail: u32,
    free: usize,
}

#[derive(Debug, Clone)]
struct Block {
    holders: u32,
    prefix: Option<PrefixHash>,
    previous: u32,
    next: u32,
}

impl BlockPool {
    /// `count` empty blocks.
    pub fn new(count: u32) -> Self {
        let unlinked = Block {
            holders: 0,
            prefix: None,
            previous: NONE,
            next: NONE,
        };
        let mut pool = Self {
            blocks: vec![unlinked; count as usize],
            by_prefix: HashMap::new(),
            head: NONE,
            tail: NONE,
            free: 0,
        };
        (0..count).for_each(|block| pool.push_back(block));
        pool
    }

    /// Blocks in all.
    pub fn total(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks that nobody holds.
    pub fn free(&self) -> usize {
        self.free
    }

    /// The block that holds this prefix, held or not.
    pub fn find(&self, prefix: &PrefixHash) -> Option<u32> {
        self.by_prefix.get(prefix).copied()
    }

    /// Takes the block that was free for longest; what it held is forgotten only now.
    pub fn take(&mut self) -> Option<u32> {
        let block = self.head;
        if block == NONE {
            return None;
        }
        self.unlink(block);
        if let Some(prefix) = self.blocks[block as usize].prefix.take() {
            self.by_prefix.remove(&prefix);
        }
        self.blocks[block as usize].holders = 1;
        Some(block)
    }

    /// One more holder for a block found by its prefix.
    pub fn share(&mut self, block: u32) {
        if self.blocks[block as usize].holders == 0 {
            self.unlink(block);
        }
        self.blocks[block as usize].holders += 1;
    }

    /// One holder fewer. Without holders a block that has a prefix is evicted last, others first.
    pub fn release(&mut self, block: u32) {
        let released = &mut self.blocks[block as usize];
        released.holders -= 1;
        if released.holders > 0 {
            return;
        }
        if released.prefix.is_some() {
            self.push_back(block);
        } else {
            self.push_front(block);
        }
    }

    /// The block is full and holds this prefix. If another one holds the same, that one stays the known one.
    pub fn publish(&mut self, block: u32, prefix: PrefixHash) {
        if self.blocks[block as usize].prefix.is_none() && !self.by_prefix.contains_key(&prefix) {
            self.by_prefix.insert(prefix, block);
            self.blocks[block as usize].prefix = Some(prefix);
        }
    }

    fn push_back(&mut self, block: u32) {
        let tail = std::mem::replace(&mut self.tail, block);
        self.link(tail, block, NONE);
    }

    fn push_front(&mut self, block: u32) {
        let head = std::mem::replace(&mut self.head, block);
        self.link(NONE, block, head);
    }

    fn link(&mut self, previous: u32, block: u32, next: u32) {
        self.blocks[block as usize].previous = previous;
        self.blocks[block as usize].next = next;
        match previous {
            NONE => self.head = block,
            previous => self.blocks[previous as usize].next = block,
        }
        match next {
            NONE => self.tail = block,
            next => self.blocks[next as usize].previous = block,
        }
        self.free += 1;
    }

    fn unlink(&mut self, block: u32) {
        let Block { previous, next, .. } = self.blocks[block as usize];
        match previous {
            NONE => self.head = next,
            previous => self.blocks[previous as usize].next = next,
        }
        match next {
            NONE => self.tail = previous,
            next => self.blocks[next as usize].previous = previous,
        }
        self.free -= 1;
    }
}

#[cfg(test)]
impl BlockPool {
    /// Holders of all blocks together, after checking that list, counts and prefixes agree.
    pub fn checked_holders(&self) -> usize {
        let mut listed = 0;
        let (mut block, mut before) = (self.head, NONE);
        while block != NONE {
            assert_eq!(self.blocks[block as usize].holders, 0, "a free block is held");
            assert_eq!(self.blocks[block as usize].previous, before, "the list is broken");
            (before, block) = (block, self.blocks[block as usize].next);
            listed += 1;
        }
        assert_eq!((self.tail, self.free), (before, listed));
        let held = self.blocks.iter().filter(|block| block.holders > 0).count();
        assert_eq!(held + self.free, self.total());
        for (prefix, block) in &self.by_prefix {
            assert_eq!(self.blocks[*block as usize].prefix, Some(*prefix));
        }
        self.blocks.iter().map(|block| block.holders as usize).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::prefix;

    fn hash(token: u32) -> PrefixHash {
        prefix::extend(prefix::root(0), &[token])
    }

    #[test]
    fn a_released_block_is_found_by_its_prefix_until_it_is_taken() {
        let mut pool = BlockPool::new(2);
        let first = pool.take().unwrap();
        pool.publish(first, hash(1));
        pool.release(first);
        assert_eq!(pool.find(&hash(1)), Some(first));
        let empty = pool.take().unwrap();
        assert_ne!(empty, first, "an empty block goes before one that holds a prefix");
        assert_eq!(pool.take(), Some(first));
        assert_eq!(pool.find(&hash(1)), None);
        assert_eq!(pool.take(), None);
        assert_eq!(pool.checked_holders(), 2);
    }

    #[test]
    fn a_shared_block_is_free_only_after_its_last_holder() {
        let mut pool = BlockPool::new(1);
        let block = pool.take().unwrap();
        pool.publish(block, hash(1));
        pool.share(block);
        pool.release(block);
        assert_eq!((pool.free(), pool.take()), (0, None));
        pool.release(block);
        assert_eq!(pool.free(), 1);
        pool.share(block);
        assert_eq!((pool.free(), pool.checked_holders()), (0, 1));
    }

    #[test]
    fn a_second_block_with_the_same_prefix_does_not_replace_the_first() {
        let mut pool = BlockPool::new(2);
        let (a, b) = (pool.take().unwrap(), pool.take().unwrap());
        pool.publish(a, hash(1));
        pool.publish(b, hash(1));
        pool.release(b);
        assert_eq!(pool.find(&hash(1)), Some(a));
        assert_eq!(pool.take(), Some(b));
        assert_eq!(pool.find(&hash(1)), Some(a));
        pool.checked_holders();
    }
}
