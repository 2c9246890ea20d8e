//! Names for prefixes: a chain of hashes, one for each full block, over the tenant's salt and all
//! tokens up to the block's end. Half of a SHA-256, so that nobody can make two prefixes collide.
use sha2::{Digest, Sha256};

/// The name of all tokens up to the end of a block.
pub type PrefixHash = [u8; 16];

/// The name of no tokens at all: only equal salts lead to equal names.
pub fn root(salt: u64) -> PrefixHash {
    half(Sha256::new().chain_update(salt.to_le_bytes()))
}

/// The name of a prefix followed by the tokens of one more block.
pub fn extend(prefix: PrefixHash, tokens: &[u32]) -> PrefixHash {
    let mut hash = Sha256::new().chain_update(prefix);
    for token in tokens {
        hash.update(token.to_le_bytes());
    }
    half(hash)
}

fn half(hash: Sha256) -> PrefixHash {
    let whole = hash.finalize();
    std::array::from_fn(|i| whole[i])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_depends_on_the_salt_on_every_token_and_on_their_order() {
        let name = |salt, tokens: &[u32]| extend(root(salt), tokens);
        assert_eq!(name(1, &[1, 2]), name(1, &[1, 2]));
        for other in [name(2, &[1, 2]), name(1, &[2, 1]), name(1, &[1]), name(1, &[1, 2, 0])] {
            assert_ne!(name(1, &[1, 2]), other);
        }
    }
}
