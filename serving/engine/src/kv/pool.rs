//! The pool of blocks: reference counts, one free list in eviction order, and an index of content that
//! may be shared. A freed block keeps its content and its name until it is handed out again.
use std::collections::HashMap;

use super::prefix::BlockHash;

/// All blocks of a cache.
#[derive(Debug)]
pub struct BlockPool {
    blocks: Vec<Block>,
    by_hash: HashMap<BlockHash, u32>,
    // The free list: a ring through the extra block at the end, whose `next` is evicted first.
    free: usize,
}

/// How much of the pool is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolStats {
    /// Blocks that some sequence holds.
    pub used: usize,
    /// Blocks in all.
    pub total: usize,
}

#[derive(Debug, Clone, Copy)]
struct Block {
    references: u32,
    hash: Option<BlockHash>,
    prev: u32,
    next: u32,
}

impl BlockPool {
    /// A pool of `count` free blocks, numbered from 0; fewer than 2^32 - 1.
    pub fn new(count: u32) -> Self {
        let blocks = (0..=count)
            .map(|index| Block {
                references: 0,
                hash: None,
                prev: if index == 0 { count } else { index - 1 },
                next: if index == count { 0 } else { index + 1 },
            })
            .collect();
        Self {
            blocks,
            by_hash: HashMap::new(),
            free: count as usize,
        }
    }

    /// Blocks that can be handed out.
    pub fn free(&self) -> usize {
        self.free
    }

    /// Use and size.
    pub fn stats(&self) -> PoolStats {
        let total = self.blocks.len() - 1;
        PoolStats {
            used: total - self.free,
            total,
        }
    }

    /// Hands out the block that has been free for longest; its old content is forgotten only now.
    pub fn allocate(&mut self) -> Option<u32> {
        if self.free == 0 {
            return None;
        }
        let index = self.blocks[self.anchor()].next;
        self.unlink(index);
        let block = &mut self.blocks[index as usize];
        block.references = 1;
        if let Some(hash) = block.hash.take() {
            self.by_hash.remove(&hash);
        }
        Some(index)
    }

    /// The block with this content, if it is still there. It is not held by asking.
    pub fn find(&self, hash: BlockHash) -> Option<u32> {
        self.by_hash.get(&hash).copied()
    }

    /// Whether nobody holds the block.
    pub fn is_free(&self, index: u32) -> bool {
        self.blocks[index as usize].references == 0
    }

    /// Holds a block that `find` named, once more.
    pub fn share(&mut self, index: u32) {
        if self.is_free(index) {
            self.unlink(index);
        }
        self.blocks[index as usize].references += 1;
    }

    /// Names the content of a held block that is now full and computed. The first block with a content
    /// keeps the name: tables never change under a running sequence.
    pub fn publish(&mut self, index: u32, hash: BlockHash) {
        let block = &mut self.blocks[index as usize];
        if block.hash.is_none() && !self.by_hash.contains_key(&hash) {
            block.hash = Some(hash);
            self.by_hash.insert(hash, index);
        }
    }

    /// Lets a block go. Content with a name is evicted last, content without one first.
    pub fn release(&mut self, index: u32) {
        let block = &mut self.blocks[index as usize];
        block.references -= 1;
        if block.references > 0 {
            return;
        }
        let named = block.hash.is_some();
        let anchor = self.anchor();
        let before = if named { self.blocks[anchor].prev } else { anchor as u32 };
        self.link_after(before, index);
    }

    fn anchor(&self) -> usize {
        self.blocks.len() - 1
    }

    fn unlink(&mut self, index: u32) {
        let Block { prev, next, .. } = self.blocks[index as usize];
        self.blocks[prev as usize].next = next;
        self.blocks[next as usize].prev = prev;
        self.free -= 1;
    }

    fn link_after(&mut self, before: u32, index: u32) {
        let after = self.blocks[before as usize].next;
        let block = &mut self.blocks[index as usize];
        (block.prev, block.next) = (before, after);
        self.blocks[before as usize].next = index;
        self.blocks[after as usize].prev = index;
        self.free += 1;
    }

    /// The sum of all references, and a check of what must always hold; for tests.
    #[cfg(test)]
    pub fn audit(&self) -> u32 {
        let mut listed = 0;
        let mut at = self.blocks[self.anchor()].next;
        while at as usize != self.anchor() {
            let block = self.blocks[at as usize];
            assert_eq!(block.references, 0, "a held block in the free list");
            assert_eq!(self.blocks[block.next as usize].prev, at, "a broken link");
            listed += 1;
            at = block.next;
        }
        assert_eq!(listed, self.free, "the count of free blocks");
        let held = self.blocks[..self.anchor()]
            .iter()
            .filter(|block| block.references > 0)
            .count();
        assert_eq!(held + listed, self.anchor(), "every block is held or free");
        for (hash, &index) in &self.by_hash {
            assert_eq!(
                self.blocks[index as usize].hash,
                Some(*hash),
                "an index entry for other content"
            );
        }
        self.blocks.iter().map(|block| block.references).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::PrefixChain;

    fn hash(token: u32) -> BlockHash {
        let mut chain = PrefixChain::new(1, 0);
        chain.extend(&[token]);
        chain.hashes()[0]
    }

    #[test]
    fn a_freed_block_is_found_by_its_content_until_it_is_handed_out_again() {
        let mut pool = BlockPool::new(2);
        let block = pool.allocate().unwrap();
        pool.publish(block, hash(1));
        pool.release(block);
        assert_eq!(pool.find(hash(1)), Some(block));
        pool.allocate().unwrap();
        assert_eq!(pool.find(hash(1)), Some(block), "the block without content goes first");
        pool.allocate().unwrap();
        assert_eq!(pool.find(hash(1)), None);
        assert_eq!(pool.allocate(), None);
        pool.audit();
    }

    #[test]
    fn content_is_evicted_in_the_order_of_its_release() {
        let mut pool = BlockPool::new(3);
        let blocks: Vec<u32> = (0..3).map(|_| pool.allocate().unwrap()).collect();
        for (token, &block) in blocks.iter().enumerate() {
            pool.publish(block, hash(token as u32));
        }
        for &block in &[blocks[1], blocks[0], blocks[2]] {
            pool.release(block);
        }
        pool.share(blocks[1]);
        pool.release(blocks[1]);
        assert_eq!(
            [pool.allocate(), pool.allocate(), pool.allocate()].map(Option::unwrap),
            [blocks[0], blocks[2], blocks[1]]
        );
    }

    #[test]
    fn a_shared_block_is_free_only_when_everyone_let_go() {
        let mut pool = BlockPool::new(1);
        let block = pool.allocate().unwrap();
        pool.share(block);
        pool.release(block);
        assert_eq!(pool.free(), 0);
        pool.release(block);
        assert_eq!(pool.free(), 1);
        assert_eq!(pool.audit(), 0);
    }

    #[test]
    fn the_second_block_with_a_content_stays_nameless() {
        let mut pool = BlockPool::new(2);
        let (one, two) = (pool.allocate().unwrap(), pool.allocate().unwrap());
        pool.publish(one, hash(1));
        pool.publish(two, hash(1));
        assert_eq!(pool.find(hash(1)), Some(one));
        pool.audit();
    }
}
