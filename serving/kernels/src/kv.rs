//! Keys and values of all layers in blocks of tokens, as f16 or as bytes with scales. A block is a number; which
//! sequence it belongs to is the business of whoever hands the numbers out.
//!
//! Keys of one (layer, block, KV head) are stored in eights of tokens: for each eight and each
//! dimension the 8 tokens, so that a kernel scores 8 tokens in the lanes of a register. Values are
//! token after token. The scales of both lie as the keys do, one for 32 dimensions.

use crate::activations::{BLOCK, quantize_block};
use crate::buffer::{Buffer, OutOfMemory, Plain};
use crate::isa::Isa;
use crate::lanes::{LANES, Lanes, lanes_fn};
use crate::pool::Shared;

/// Tokens whose keys lie side by side; a block holds a multiple of it.
pub(crate) const EIGHT: usize = 8;

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvType {
    /// IEEE halves.
    F16,
    /// Signed bytes, 32 of a head with one f32 scale: 9/16 of the memory of f16.
    Q8,
}

/// What a cache is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Layers.
    pub layers: usize,
    /// KV heads of a layer.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Tokens of a block.
    pub block_tokens: usize,
    /// How they are stored.
    pub ty: KvType,
}

/// The cache cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// A size is zero or not a multiple of what the kernels need.
    #[error(
        "no cache of {blocks} blocks for {shape:?}: every number must be above 0, tokens a multiple of 8, the head size one of 8 for F16 and of 32 for Q8"
    )]
    Shape {
        /// What was asked for.
        shape: KvShape,
        /// Blocks of a layer.
        blocks: usize,
    },
    /// There is no memory for it.
    #[error(transparent)]
    Memory(#[from] OutOfMemory),
}

impl KvShape {
    /// Bytes of one block over all layers, keys and values; `None` if that overflows.
    pub fn block_bytes(&self) -> Option<usize> {
        let elements = self.elements(1)?;
        match self.ty {
            KvType::F16 => elements.checked_mul(2 * size_of::<u16>()),
            KvType::Q8 => elements
                .checked_add((elements / BLOCK).checked_mul(size_of::<f32>())?)?
                .checked_mul(2),
        }
    }

    /// Of all keys of `blocks` blocks, and of all values.
    fn elements(&self, blocks: usize) -> Option<usize> {
        [self.kv_heads, self.head_dim, self.block_tokens, blocks]
            .into_iter()
            .try_fold(self.layers, usize::checked_mul)
    }

    fn is_possible(&self) -> bool {
        let unit = match self.ty {
            KvType::F16 => EIGHT,
            KvType::Q8 => BLOCK,
        };
        let sizes = [self.layers, self.kv_heads, self.head_dim, self.block_tokens];
        !sizes.contains(&0) && self.block_tokens.is_multiple_of(EIGHT) && self.head_dim.is_multiple_of(unit)
    }
}

/// Keys and values of `blocks` blocks.
pub struct KvCache {
    shape: KvShape,
    blocks: usize,
    planes: Planes,
}

enum Planes {
    F16(Plane<u16>),
    Q8(Plane<i8>),
}

struct Plane<E: Plain> {
    keys: Buffer<E>,
    values: Buffer<E>,
    /// Empty where elements need none.
    key_scales: Buffer<f32>,
    value_scales: Buffer<f32>,
}

impl<E: Element> Plane<E> {
    fn zeroed(len: usize) -> Result<Plane<E>, OutOfMemory> {
        let scales = if E::HAS_SCALE { len / BLOCK } else { 0 };
        Ok(Plane {
            keys: Buffer::zeroed(len)?,
            values: Buffer::zeroed(len)?,
            key_scales: Buffer::zeroed(scales)?,
            value_scales: Buffer::zeroed(scales)?,
        })
    }

    fn shared(&mut self, shape: KvShape, blocks: usize) -> View<'_, E> {
        View {
            keys: Shared::new(&mut self.keys),
            values: Shared::new(&mut self.values),
            key_scales: Shared::new(&mut self.key_scales),
            value_scales: Shared::new(&mut self.value_scales),
            shape,
            blocks,
        }
    }
}

impl KvCache {
    /// An empty cache. The memory is reserved, and backed by pages as blocks are first written.
    ///
    /// # Errors
    /// If a size is zero or no multiple of what the kernels need, or the memory is not to be had.
    pub fn new(shape: KvShape, blocks: usize) -> Result<KvCache, KvError> {
        if !shape.is_possible() || blocks == 0 {
            return Err(KvError::Shape { shape, blocks });
        }
        let len = shape.elements(blocks).ok_or(OutOfMemory { bytes: usize::MAX })?;
        let planes = match shape.ty {
            KvType::F16 => Planes::F16(Plane::zeroed(len)?),
            KvType::Q8 => Planes::Q8(Plane::zeroed(len)?),
        };
        Ok(KvCache { shape, blocks, planes })
    }

    /// Writes the keys and values (each kv_heads x head_dim) of one token to slot `slot` of block `block`.
    ///
    /// # Panics
    /// If an index or a length is outside the cache.
    pub fn write(&mut self, layer: usize, block: u32, slot: usize, keys: &[f32], values: &[f32]) {
        let KvShape { head_dim, kv_heads, .. } = self.shape;
        let width = kv_heads * head_dim;
        assert!(
            keys.len() == width && values.len() == width,
            "kv: a token has {width} keys and values"
        );
        let shared = self.shared();
        let heads = keys.chunks_exact(head_dim).zip(values.chunks_exact(head_dim));
        for (head, (keys, values)) in heads.enumerate() {
            // SAFETY: the cache is borrowed alone.
            unsafe { shared.write(Isa::detect(), layer, block, head, slot, keys, values) };
        }
    }

    /// The cache for several threads at once.
    pub(crate) fn shared(&mut self) -> SharedKv<'_> {
        match &mut self.planes {
            Planes::F16(plane) => SharedKv::F16(plane.shared(self.shape, self.blocks)),
            Planes::Q8(plane) => SharedKv::Q8(plane.shared(self.shape, self.blocks)),
        }
    }

    /// What it was made for.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// Blocks of each layer.
    pub fn blocks(&self) -> usize {
        self.blocks
    }
}

/// The cache while several threads use it, each its own (block, head) or nobody writing.
#[derive(Clone, Copy)]
pub(crate) enum SharedKv<'a> {
    F16(View<'a, u16>),
    Q8(View<'a, i8>),
}

impl SharedKv<'_> {
    pub(crate) fn shape(&self) -> KvShape {
        match self {
            SharedKv::F16(view) => view.shape,
            SharedKv::Q8(view) => view.shape,
        }
    }

    /// Writes one head's key and value (head_dim each) of one token. What is not finite, or in f16 beyond its range,
    /// makes what attends to it not finite; nothing that a later owner of the block attends to is affected.
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
        let KvShape {
            head_dim: dim,
            kv_heads,
            block_tokens,
            ..
        } = self.shape();
        assert!(
            slot < block_tokens,
            "kv: slot {slot} of a block of {block_tokens} tokens"
        );
        assert!(
            head < kv_heads && keys.len() == dim && values.len() == dim,
            "kv: a head has {dim} elements"
        );
        // SAFETY: by the contract.
        unsafe {
            match self {
                SharedKv::F16(view) => view.write(isa, view.start(layer, block, head), slot, keys, values),
                SharedKv::Q8(view) => view.write(isa, view.start(layer, block, head), slot, keys, values),
            }
        }
    }
}

/// What an element of the cache is.
pub(crate) trait Element: Plain {
    /// Whether 32 of them share a scale.
    const HAS_SCALE: bool;
    /// Eight of them, without the scale.
    fn load<L: Lanes>(l: L, eight: &[Self; LANES]) -> L::F;
    /// The first `L::WIDE` of them.
    fn load_wide<L: Lanes>(l: L, elements: &[Self]) -> L::W;
}

impl Element for u16 {
    const HAS_SCALE: bool = false;
    #[inline(always)]
    fn load<L: Lanes>(l: L, eight: &[u16; LANES]) -> L::F {
        l.load_f16(eight)
    }
    #[inline(always)]
    fn load_wide<L: Lanes>(l: L, elements: &[u16]) -> L::W {
        l.load_f16_wide(elements)
    }
}

impl Element for i8 {
    const HAS_SCALE: bool = true;
    #[inline(always)]
    fn load<L: Lanes>(l: L, eight: &[i8; LANES]) -> L::F {
        l.load_i8(eight)
    }
    #[inline(always)]
    fn load_wide<L: Lanes>(l: L, elements: &[i8]) -> L::W {
        l.load_i8_wide(elements)
    }
}

/// Where eight tokens of a head lie, in elements from the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Eight {
    start: usize,
}

/// A cache of one element type while several threads use it.
pub(crate) struct View<'a, E> {
    keys: Shared<'a, E>,
    values: Shared<'a, E>,
    key_scales: Shared<'a, f32>,
    value_scales: Shared<'a, f32>,
    shape: KvShape,
    blocks: usize,
}
impl<E> Clone for View<'_, E> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<E> Copy for View<'_, E> {}

impl<'a, E: Element> View<'a, E> {
    /// Tokens of a block.
    #[inline(always)]
    pub(crate) fn block_tokens(&self) -> usize {
        self.shape.block_tokens
    }

    /// The eight tokens from slot `slot` (a multiple of 8) on.
    #[inline(always)]
    pub(crate) fn eight(&self, layer: usize, block: u32, head: usize, slot: usize) -> Eight {
        Eight {
            start: self.start(layer, block, head) + slot * self.shape.head_dim,
        }
    }

    /// Asks for their keys and values, which somebody may be writing: nothing is read.
    #[inline(always)]
    pub(crate) fn prefetch<L: Lanes>(&self, l: L, eight: Eight) {
        let count = EIGHT * self.shape.head_dim;
        l.prefetch(self.keys.at(eight.start).cast_const(), count);
        l.prefetch(self.values.at(eight.start).cast_const(), count);
    }

    /// Their keys: head_dim x 8.
    ///
    /// # Safety
    /// Nobody writes to this head in this block for as long as the result lives.
    #[inline(always)]
    pub(crate) unsafe fn keys(&self, eight: Eight) -> &'a [[E; EIGHT]] {
        // SAFETY: by the contract.
        unsafe { self.keys.get(eight.start..eight.start + EIGHT * self.shape.head_dim) }
            .as_chunks()
            .0
    }

    /// Their values: 8 x head_dim.
    ///
    /// # Safety
    /// As for `keys`.
    #[inline(always)]
    pub(crate) unsafe fn values(&self, eight: Eight) -> &'a [E] {
        // SAFETY: by the contract.
        unsafe { self.values.get(eight.start..eight.start + EIGHT * self.shape.head_dim) }
    }

    /// The scales of the keys and of the values: head_dim / 32 x 8, or none.
    ///
    /// # Safety
    /// As for `keys`.
    #[inline(always)]
    pub(crate) unsafe fn scales(&self, eight: Eight) -> [&'a [[f32; EIGHT]]; 2] {
        if !E::HAS_SCALE {
            return [&[]; 2];
        }
        let start = eight.start / BLOCK;
        let range = start..start + EIGHT * self.shape.head_dim / BLOCK;
        // SAFETY: by the contract.
        [&self.key_scales, &self.value_scales].map(|scales| unsafe { scales.get(range.clone()) }.as_chunks().0)
    }

    #[inline(always)]
    fn start(&self, layer: usize, block: u32, head: usize) -> usize {
        let KvShape {
            layers,
            kv_heads,
            head_dim,
            block_tokens,
            ..
        } = self.shape;
        assert!(layer < layers, "kv: layer {layer} of {layers}");
        assert!((block as usize) < self.blocks, "kv: block {block} of {}", self.blocks);
        // The layers of a block lie together: the first tokens are backed by a few huge pages, not by one for each layer.
        ((block as usize * layers + layer) * kv_heads + head) * block_tokens * head_dim
    }

    /// Where dimension `i` of slot `slot` is among the keys of a head that begin at `start`.
    fn key_at(&self, start: usize, slot: usize, i: usize) -> usize {
        start + slot / EIGHT * EIGHT * self.shape.head_dim + i * EIGHT + slot % EIGHT
    }
}

impl View<'_, u16> {
    /// # Safety
    /// Nobody else uses this slot of the head that begins at `start` meanwhile.
    unsafe fn write(&self, isa: Isa, start: usize, slot: usize, keys: &[f32], values: &[f32]) {
        for (eight, keys) in keys.as_chunks::<LANES>().0.iter().enumerate() {
            for (i, key) in to_f16(isa, keys).into_iter().enumerate() {
                // SAFETY: `at` gives an element inside the cache, which belongs to the slot.
                unsafe { self.keys.at(self.key_at(start, slot, eight * LANES + i)).write(key) };
            }
        }
        let dim = self.shape.head_dim;
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
}

impl View<'_, i8> {
    /// # Safety
    /// As for halves.
    unsafe fn write(&self, isa: Isa, start: usize, slot: usize, keys: &[f32], values: &[f32]) {
        let dim = self.shape.head_dim;
        let first_scale = (start + slot / EIGHT * EIGHT * dim) / BLOCK + slot % EIGHT;
        // SAFETY: the elements of the slot.
        let row = unsafe { self.values.get_mut(start + slot * dim..start + (slot + 1) * dim) };
        let stored = row.as_chunks_mut::<BLOCK>().0;
        let blocks = keys.as_chunks::<BLOCK>().0.iter().zip(values.as_chunks::<BLOCK>().0);
        for (index, ((keys, values), stored)) in blocks.zip(stored).enumerate() {
            let (quants, key_scale) = to_bytes(isa, keys);
            for (i, quant) in quants.into_iter().enumerate() {
                // SAFETY: `at` gives an element inside the cache, which belongs to the slot.
                unsafe { self.keys.at(self.key_at(start, slot, index * BLOCK + i)).write(quant) };
            }
            let value_scale;
            (*stored, value_scale) = to_bytes(isa, values);
            let at = first_scale + index * EIGHT;
            // SAFETY: as above.
            unsafe {
                self.key_scales.at(at).write(key_scale);
                self.value_scales.at(at).write(value_scale);
            }
        }
    }
}

lanes_fn! {
    fn to_f16(l, x: &[f32; LANES]) -> [u16; LANES] {
        let mut out = [0; LANES];
        l.store_f16(l.load(x), &mut out);
        out
    }
}

lanes_fn! {
    fn to_bytes(l, x: &[f32; BLOCK]) -> ([i8; BLOCK], f32) {
        let mut out = [0; BLOCK];
        let scale = quantize_block(l, x, &mut out);
        (out, scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    #[test]
    fn a_written_token_is_read_back_from_its_slot_alone() {
        let mut cache = KvCache::new(shape(KvType::F16, 8), 3).unwrap();
        let keys: Vec<f32> = (1..=16).map(|i| i as f32).collect();
        let values: Vec<f32> = keys.iter().map(|k| -k).collect();
        cache.write(1, 2, 13, &keys, &values);
        let SharedKv::F16(shared) = cache.shared() else {
            panic!("a cache of f16")
        };
        for head in 0..2 {
            let eight = shared.eight(1, 2, head, 8);
            // SAFETY: nobody writes.
            let (key_eight, value_eight) = unsafe { (shared.keys(eight), shared.values(eight)) };
            for dim in 0..8 {
                let key = f16::from_bits(key_eight[dim][5]).to_f32();
                let value = f16::from_bits(value_eight[5 * 8 + dim]).to_f32();
                assert_eq!((key, value), (keys[head * 8 + dim], values[head * 8 + dim]));
            }
        }
        let Planes::F16(plane) = &cache.planes else {
            panic!("a cache of f16")
        };
        assert_eq!(plane.keys.iter().filter(|&&k| k != 0).count(), 16);
        assert_eq!(plane.values.iter().filter(|&&v| v != 0).count(), 16);
    }

    #[test]
    fn a_token_stored_in_bytes_is_read_back_within_half_a_step_from_its_slot_alone() {
        let mut cache = KvCache::new(shape(KvType::Q8, 64), 3).unwrap();
        let keys: Vec<f32> = (0..128)
            .map(|i| (i as f32 * 0.37).sin() * (1 + i / 32) as f32)
            .collect();
        let values: Vec<f32> = keys.iter().map(|k| -2.0 * k).collect();
        cache.write(1, 2, 13, &keys, &values);
        let SharedKv::Q8(shared) = cache.shared() else {
            panic!("a cache of bytes")
        };
        for head in 0..2 {
            let eight = shared.eight(1, 2, head, 8);
            // SAFETY: nobody writes.
            let (key_eight, value_eight, [key_scales, value_scales]) =
                unsafe { (shared.keys(eight), shared.values(eight), shared.scales(eight)) };
            for dim in 0..64 {
                let (key_scale, value_scale) = (key_scales[dim / 32][5], value_scales[dim / 32][5]);
                let key = f32::from(key_eight[dim][5]) * key_scale;
                let value = f32::from(value_eight[5 * 64 + dim]) * value_scale;
                assert!((key - keys[head * 64 + dim]).abs() <= 0.5001 * key_scale);
                assert!((value - values[head * 64 + dim]).abs() <= 0.5001 * value_scale);
            }
        }
        let Planes::Q8(plane) = &cache.planes else {
            panic!("a cache of bytes")
        };
        assert_eq!(plane.key_scales.iter().filter(|&&scale| scale != 0.0).count(), 4);
        assert_eq!(plane.value_scales.iter().filter(|&&scale| scale != 0.0).count(), 4);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_block_backs_its_own_memory_and_not_a_page_in_each_layer() {
        let shape = KvShape {
            layers: 64,
            kv_heads: 8,
            ..shape(KvType::F16, 128)
        };
        let mut cache = KvCache::new(shape, 512).unwrap();
        let (values, before) = (vec![1.0; 8 * 128], crate::sample::resident());
        for layer in 0..shape.layers {
            cache.write(layer, 0, 0, &values, &values);
        }
        let grown = crate::sample::resident().saturating_sub(before);
        // 4 MB of pages of 2 MB; one a layer and plane would be 256 MB. Other tests run meanwhile.
        assert!(grown < 128 << 20, "{grown}");
    }

    #[test]
    fn impossible_caches_are_errors() {
        let make = |ty, block_tokens, head_dim, blocks| {
            let shape = KvShape {
                block_tokens,
                ..shape(ty, head_dim)
            };
            KvCache::new(shape, blocks).err()
        };
        for (ty, block_tokens, head_dim, blocks) in [
            (KvType::F16, 12, 64, 1),
            (KvType::F16, 16, 60, 1),
            (KvType::Q8, 16, 40, 1),
            (KvType::F16, 0, 64, 1),
            (KvType::Q8, 16, 64, 0),
        ] {
            let error = make(ty, block_tokens, head_dim, blocks);
            assert!(matches!(error, Some(KvError::Shape { .. })), "{error:?}");
        }
        for ty in [KvType::F16, KvType::Q8] {
            assert!(matches!(make(ty, 16, 64, usize::MAX / 64), Some(KvError::Memory(_))));
            assert!(matches!(make(ty, 16, 64, 1 << 50), Some(KvError::Memory(_))));
        }
        let bytes = |ty| shape(ty, 64).block_bytes();
        assert_eq!(bytes(KvType::F16), Some(2 * 2 * 64 * 16 * 4));
        assert_eq!(bytes(KvType::Q8), Some(2 * 2 * (64 + 64 / 32 * 4) * 16 * 2));
        let huge = KvShape {
            layers: usize::MAX,
            ..shape(KvType::Q8, 64)
        };
        assert_eq!(huge.block_bytes(), None);
    }

    fn shape(ty: KvType, head_dim: usize) -> KvShape {
        KvShape {
            layers: 2,
            kv_heads: 2,
            head_dim,
            block_tokens: 16,
            ty,
        }
    }
}
