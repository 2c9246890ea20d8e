//! How much of the memory goes where, decided before any of it is taken: weights and buffers first, the
//! rest is for keys and values. What does not fit is refused with the numbers and the way out.
use windlass_kernels::KvCache;

use crate::load::LoadError;
use crate::model::{Hyperparameters, WeightPlan, Workspace};
use crate::request::EngineOptions;

/// Keys and values take no more than this where no limit is known, unless one sequence needs it.
const UNLIMITED_CACHE: u64 = 1 << 30;
/// A shorter context than this serves nobody; memory that allows no more is an error.
const SHORTEST_CONTEXT: usize = 256;
/// Texts, index and merges of a vocabulary, per token; measured 150 to 200.
const VOCABULARY_BYTES: u64 = 256;

/// The division of the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Tokens that a sequence may have.
    pub context: usize,
    /// Blocks of keys and values.
    pub blocks: u32,
    /// Rows that may need logits in one step.
    pub wanted_rows: usize,
    /// Bytes of weights, cache and buffers together.
    pub bytes: u64,
}

impl MemoryPlan {
    /// Divides `options.memory_limit`, or what is sensible without one.
    pub fn new(hyper: &Hyperparameters, weights: &WeightPlan, options: &EngineOptions) -> Result<Self, LoadError> {
        let wanted_rows = options.max_sequences.min(options.max_batch_tokens);
        let buffers = Workspace::bytes(hyper, options.max_batch_tokens, wanted_rows)
            .saturating_add(hyper.vocabulary as u64 * VOCABULARY_BYTES);
        let limit = options.memory_limit.unwrap_or(u64::MAX);
        let block = KvCache::block_bytes(hyper.layers, hyper.kv_heads, hyper.head_dim, options.block_tokens)
            .map_or(u64::MAX, |bytes| bytes as u64);
        let context = match options.context_length {
            Some(asked) if asked > hyper.context => {
                return Err(LoadError::ContextTooLong {
                    asked,
                    model: hyper.context,
                });
            }
            Some(asked) => asked,
            None => hyper.context,
        };
        let blocks_of = |tokens: usize| tokens.div_ceil(options.block_tokens) as u64;

        // While it loads, the file's form of one tensor lies beside the packed form of the others.
        let loading = weights.packed_bytes.saturating_add(weights.largest_tensor);
        let fixed = weights.packed_bytes.saturating_add(buffers).max(loading);
        let fit = limit.saturating_sub(fixed) / block;
        let needed = match options.context_length {
            Some(asked) => asked,
            None => SHORTEST_CONTEXT.min(hyper.context),
        };
        if fixed > limit || fit < blocks_of(needed) {
            return Err(LoadError::Memory {
                weights: Megabytes(weights.packed_bytes),
                buffers: Megabytes(fixed - weights.packed_bytes),
                context: needed,
                cache: Megabytes(blocks_of(needed).saturating_mul(block)),
                limit: Megabytes(limit),
                fitting: usize::try_from(fit)
                    .unwrap_or(usize::MAX)
                    .saturating_mul(options.block_tokens),
            });
        }
        let context = context.min(
            usize::try_from(fit)
                .unwrap_or(usize::MAX)
                .saturating_mul(options.block_tokens),
        );
        let one = blocks_of(context);
        let most = match options.memory_limit {
            Some(_) => fit,
            None => one.max(UNLIMITED_CACHE / block),
        };
        let blocks = (options.max_sequences as u64)
            .saturating_mul(one)
            .min(most)
            .min(u64::from(u32::MAX - 1));
        let bytes = fixed.saturating_add(blocks.saturating_mul(block));
        Ok(Self {
            context,
            blocks: blocks as u32,
            wanted_rows,
            bytes,
        })
    }
}

/// Bytes, shown in units that people compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Megabytes(pub u64);

impl std::fmt::Display for Megabytes {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} MiB", self.0.div_ceil(1 << 20))
    }
}
