//! Keys and values of all layers in blocks of tokens, as f16. A block is a number; which sequence it
//! belongs to is the business of whoever hands the numbers out.
//!
//! Keys of one (layer, block, KV head) are stored in eights of tokens: for each eight and each
//! dimension the 8 tokens, so that a kernel scores 8 tokens in the lanes of a register. Values are
//! token after token.

use crate::buffer::{Buffer, OutOfMemory};
use crate::isa::Isa;
use crate::lanes::{LANES, lanes_fn};
use crate::pool::Shared;

/// Tokens whose keys lie side by side; a block holds a multiple of it.
pub(crate) const EIGHT: usize = 8;

/// The cache cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// A size is zero or not a multiple of what the kernels need.
    #[error(
        "no cache of {layers} layers, {kv_heads} heads of {head_dim}, {blocks} blocks of {block_tokens} tokens: every number must be above 0, tokens and head size multiples of 8"
    )]
    Shape {
        /// Layers.
        layers: usize,
        /// KV heads.
        kv_heads: usize,
        /// Elements of a head.
        head_dim: usize,
        /// Tokens of a block.
        block_tokens: usize,
        /// Blocks of a layer.
        blocks: usize,
    },
    /// There is no memory for it.
    #[error(transparent)]
    Memory(#[from] OutOfMemory),
}

/// Keys and values of `layers` x `blocks` x `kv_heads` x `block_tokens` x `head_dim`.
pub struct KvCache {
    keys: Buffer<u16>,
    values: Buffer<u16>,
    layers: usize,
    kv_heads: usize,
    head_dim: usize,
    block_tokens: usize,
    blocks: usize,
}

impl KvCache {
    /// An empty cache. The memory is reserved, and backed by pages as blocks are first written.
    ///
    /// # Errors
    /// If a size is zero, `head_dim` or `block_tokens` is not a multiple of 8, or the memory is not to be had.
    pub fn new(
        layers: usize,
        kv_heads: usize,
        head_dim: usize,
        block_tokens: usize,
        blocks: usize,
    ) -> Result<KvCache, KvError> {
        let eights = block_tokens.is_multiple_of(EIGHT) && head_dim.is_multiple_of(EIGHT);
        if [layers, kv_heads, head_dim, block_tokens, blocks].contains(&0) || !eights {
            return Err(KvError::Shape {
                layers,
                kv_heads,
                head_dim,
                block_tokens,
                blocks,
            });
        }
        let len = [kv_heads, head_dim, block_tokens, blocks]
            .into_iter()
            .try_fold(layers, usize::checked_mul)
            .ok_or(OutOfMemory { bytes: usize::MAX })?;
        let (keys, values) = (Buffer::zeroed(len)?, Buffer::zeroed(len)?);
        Ok(KvCache {
            keys,
            values,
            layers,
            kv_heads,
            head_dim,
            block_tokens,
            blocks,
        })
    }

    /// Bytes of one block over all layers, keys and values; `None` if that overflows.
    pub fn block_bytes(layers: usize, kv_heads: usize, head_dim: usize, block_tokens: usize) -> Option<usize> {
        [layers, kv_heads, head_dim, block_tokens]
            .into_iter()
            .try_fold(2 * size_of::<u16>(), usize::checked_mul)
    }

    /// Writes the keys and values (each kv_heads x head_dim) of one token to slot `slot` of block `block`.
    ///
    /// # Panics
    /// If an index or a length is outside the cache.
    pub fn write(&mut self, layer: usize, block: u32, slot: usize, keys: &[f32], values: &[f32]) {
        let (dim, width) = (self.head_dim, self.kv_heads * self.head_dim);
        assert!(
            keys.len() == width && values.len() == width,
            "kv: a token has {width} keys and values"
        );
        let shared = self.shared();
        for (head, (keys, values)) in keys.chunks_exact(dim).zip(values.chunks_exact(dim)).enumerate() {
            // SAFETY: the cache is borrowed alone.
            unsafe { shared.write(Isa::detect(), layer, block, head, slot, keys, values) };
        }
    }

    /// The cache for several threads at once.
    pub(crate) fn shared(&mut self) -> SharedKv<'_> {
        SharedKv {
            keys: Shared::new(&mut self.keys),
            values: Shared::new(&mut self.values),
            layers: self.layers,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            block_tokens: self.block_tokens,
            blocks: self.blocks,
        }
    }

    /// Layers.
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// Blocks of each layer.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Tokens of a block.
    pub fn block_tokens(&self) -> usize {
        self.block_tokens
    }

    /// KV heads of a layer.
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Elements of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }
}

/// The cache while several threads use it, each its own (block, head) or nobody writing.
#[derive(Clone, Copy)]
pub(crate) struct SharedKv<'a> {
    keys: Shared<'a, u16>,
    values: Shared<'a, u16>,
    layers: usize,
    kv_heads: usize,
    head_dim: usize,
    block_tokens: usize,
    blocks: usize,
}

impl<'a> SharedKv<'a> {
    /// Tokens of a block.
    pub(crate) fn block_tokens(&self) -> usize {
        self.block_tokens
    }

    /// KV heads of a layer.
    pub(crate) fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Elements of a head.
    pub(crate) fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Writes one head's key and value (head_dim each) of one token. Values beyond the range of f16 become infinite
    /// and make what attends to them not finite; nothing that a later owner of the block attends to is affected.
    ///
    /// # Safety
    /// Nobody else uses this slot of the head in this block meanwhile.
    ///
    /// # Panics
    /// If an index or a length is outside the cache.
    #[allow(clippy::too_many_arguments, reason = "the place, and the two things that go there")]
    pub(crate) unsafe fn write(
        &self,
        isa: Isa,
        layer: usize,
        block: u32,
        head: usize,
        slot: usize,
        keys: &[f32],
        values: &[f32],
    ) {
        let dim = self.head_dim;
        assert!(
            slot < self.block_tokens,
            "kv: slot {slot} of a block of {} tokens",
            self.block_tokens
        );
        assert!(
            head < self.kv_heads && keys.len() == dim && values.len() == dim,
            "kv: a head has {dim} elements"
        );
        let start = self.start(layer, block, head);
        let column = start + slot / EIGHT * EIGHT * dim + slot % EIGHT;
        for (eight, keys) in keys.as_chunks::<LANES>().0.iter().enumerate() {
            for (i, key) in to_f16(isa, keys).into_iter().enumerate() {
                // SAFETY: `at` gives an element inside the cache, which belongs to the slot.
                unsafe { self.keys.at(column + (eight * LANES + i) * EIGHT).write(key) };
            }
        }
        // SAFETY: the elements of the slot.
        let row = unsafe { self.values.get_mut(start + slot * dim..start + (slot + 1) * dim) };
        for (stored, values) in row
            .as_chunks_mut::<LANES>()
            .0
            .iter_mut()
            .zip(values.as_chunks::<LANES>().0)
        {
            *stored = to_f16(isa, values);
        }
    }

    /// The keys of the eight tokens from slot `slot` (a multiple of 8): head_dim x 8.
    ///
    /// # Safety
    /// Nobody writes to this head in this block for as long as the result lives.
    pub(crate) unsafe fn key_eight(&self, layer: usize, block: u32, head: usize, slot: usize) -> &'a [[u16; EIGHT]] {
        let start = self.start(layer, block, head) + slot * self.head_dim;
        // SAFETY: by the contract.
        unsafe { self.keys.get(start..start + EIGHT * self.head_dim) }
            .as_chunks()
            .0
    }

    /// The values of the eight tokens from slot `slot` (a multiple of 8): 8 x head_dim.
    ///
    /// # Safety
    /// As for `key_eight`.
    pub(crate) unsafe fn value_eight(&self, layer: usize, block: u32, head: usize, slot: usize) -> &'a [u16] {
        let start = self.start(layer, block, head) + slot * self.head_dim;
        // SAFETY: by the contract.
        unsafe { self.values.get(start..start + EIGHT * self.head_dim) }
    }

    fn start(&self, layer: usize, block: u32, head: usize) -> usize {
        assert!(layer < self.layers, "kv: layer {layer} of {}", self.layers);
        assert!((block as usize) < self.blocks, "kv: block {block} of {}", self.blocks);
        ((layer * self.blocks + block as usize) * self.kv_heads + head) * self.block_tokens * self.head_dim
    }
}

lanes_fn! {
    fn to_f16(l, x: &[f32; LANES]) -> [u16; LANES] {
        let mut out = [0; LANES];
        l.store_f16(l.load(x), &mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    #[test]
    fn a_written_token_is_read_back_from_its_slot_alone() {
        let mut cache = KvCache::new(2, 2, 8, 16, 3).unwrap();
        let keys: Vec<f32> = (1..=16).map(|i| i as f32).collect();
        let values: Vec<f32> = keys.iter().map(|k| -k).collect();
        cache.write(1, 2, 13, &keys, &values);
        let shared = cache.shared();
        for head in 0..2 {
            // SAFETY: nobody writes.
            let (key_eight, value_eight) =
                unsafe { (shared.key_eight(1, 2, head, 8), shared.value_eight(1, 2, head, 8)) };
            for dim in 0..8 {
                let key = f16::from_bits(key_eight[dim][5]).to_f32();
                let value = f16::from_bits(value_eight[5 * 8 + dim]).to_f32();
                assert_eq!((key, value), (keys[head * 8 + dim], values[head * 8 + dim]));
            }
        }
        assert_eq!(cache.keys.iter().filter(|&&k| k != 0).count(), 16);
        assert_eq!(cache.values.iter().filter(|&&v| v != 0).count(), 16);
    }

    #[test]
    fn impossible_caches_are_errors() {
        let shape = |block_tokens, head_dim, blocks| KvCache::new(1, 1, head_dim, block_tokens, blocks).err();
        for (block_tokens, head_dim, blocks) in [(12, 64, 1), (16, 60, 1), (0, 64, 1), (16, 64, 0)] {
            assert!(matches!(
                shape(block_tokens, head_dim, blocks),
                Some(KvError::Shape { .. })
            ));
        }
        assert!(matches!(shape(16, 64, usize::MAX / 64), Some(KvError::Memory(_))));
        assert!(matches!(shape(16, 64, 1 << 50), Some(KvError::Memory(_))));
        assert_eq!(KvCache::block_bytes(30, 3, 64, 16), Some(30 * 3 * 64 * 16 * 4));
        assert_eq!(KvCache::block_bytes(usize::MAX, 3, 64, 16), None);
    }
}
