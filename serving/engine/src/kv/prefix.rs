//! Names for the content of full blocks: a chain of hashes, so that equal names mean equal tokens from
//! the first one on, and an equal salt. SHA-256 cut to 128 bits: a tenant who could make two prefixes
//! collide could read another's answers.
use sha2::{Digest, Sha256};

/// The name of a full block's content and of everything before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockHash(u128);

/// The names of a sequence's full blocks, extended as the sequence grows.
#[derive(Debug, Clone)]
pub struct PrefixChain {
    block_tokens: usize,
    root: BlockHash,
    hashes: Vec<BlockHash>,
}

impl PrefixChain {
    /// An empty chain in the name space of `salt`.
    pub fn new(block_tokens: usize, salt: u64) -> Self {
        let root = cut(Sha256::new()
            .chain_update(b"windlass prefix")
            .chain_update(salt.to_le_bytes()));
        Self {
            block_tokens,
            root,
            hashes: Vec::new(),
        }
    }

    /// Names the blocks that have become full in `tokens`, the whole sequence.
    pub fn extend(&mut self, tokens: &[u32]) {
        for block in tokens.chunks_exact(self.block_tokens).skip(self.hashes.len()) {
            let parent = self.hashes.last().unwrap_or(&self.root);
            let mut hash = Sha256::new().chain_update(parent.0.to_le_bytes());
            for token in block {
                hash.update(token.to_le_bytes());
            }
            self.hashes.push(cut(hash));
        }
    }

    /// The names so far, one a full block.
    pub fn hashes(&self) -> &[BlockHash] {
        &self.hashes
    }
}

fn cut(hash: Sha256) -> BlockHash {
    let digest = hash.finalize();
    let mut half = [0u8; 16];
    half.copy_from_slice(&digest[..16]);
    BlockHash(u128::from_le_bytes(half))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(salt: u64, tokens: &[u32]) -> Vec<BlockHash> {
        let mut chain = PrefixChain::new(4, salt);
        chain.extend(tokens);
        chain.hashes().to_vec()
    }

    #[test]
    fn only_full_blocks_have_names_and_growing_changes_none() {
        let mut chain = PrefixChain::new(4, 0);
        chain.extend(&[1, 2, 3]);
        assert!(chain.hashes().is_empty());
        chain.extend(&[1, 2, 3, 4, 5]);
        let first = chain.hashes().to_vec();
        chain.extend(&[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(chain.hashes()[..1], first);
        assert_eq!(chain.hashes(), hashes(0, &[1, 2, 3, 4, 5, 6, 7, 8]));
    }

    #[test]
    fn a_name_says_everything_before_it_and_the_salt() {
        let one = hashes(0, &[1, 2, 3, 4, 5, 6, 7, 8]);
        let other = hashes(0, &[1, 2, 3, 0, 5, 6, 7, 8]);
        assert_ne!(one[1], other[1], "the same block after another prefix");
        assert_ne!(one[0], hashes(1, &[1, 2, 3, 4])[0], "the same tokens of another tenant");
    }
}
