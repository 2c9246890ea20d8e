//! How long sequences may be and how many tokens the cache holds: decided from the model, the options and
//! the memory, before anything is allocated. Pure arithmetic.
use windlass_kernels::KvType;

use super::LoadError;
use crate::model::Shape;
use crate::request::EngineOptions;
use crate::scheduler::Limits;

/// Code, stacks, tokenizer, connections: what the process needs beside weights, buffers and cache.
const RESERVE: u64 = 96 << 20;

/// Bytes of cache when nobody says how much memory there is.
const CACHE_WITHOUT_LIMIT: u64 = 1 << 30;

/// A context that was not asked for is not lowered below this many tokens: that would surprise more than an error.
const LEAST_CONTEXT: usize = 512;

/// What was decided.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// For the scheduler.
    pub limits: Limits,
    /// Blocks of the cache.
    pub blocks: u32,
}

/// Decides; `weights` is the number of bytes that they take.
pub fn decide(shape: &Shape, weights: u64, options: &EngineOptions) -> Result<Sizes, LoadError> {
    check(shape, options)?;
    let block_tokens = options.block_tokens;
    let cache_shape = shape.cache(block_tokens, options.kv_type);
    let block_bytes = cache_shape.block_bytes().unwrap_or(usize::MAX) as u64;
    let limits = Limits {
        context: 0, // follows from the memory
        sequences: options.max_sequences,
        batch_tokens: options.max_batch_tokens,
        block_tokens,
        step_time: options.step_time,
        speculate: options.speculate,
    };
    let buffers = shape.workspace_bytes(options.max_batch_tokens, limits.outputs());
    let wanted = options.context_length.unwrap_or(shape.context);
    let fixed = weights.saturating_add(buffers).saturating_add(RESERVE);
    let cache = match options.memory_limit {
        Some(limit) => limit.saturating_sub(fixed),
        None => CACHE_WITHOUT_LIMIT.max((wanted.div_ceil(block_tokens) as u64).saturating_mul(block_bytes)),
    };
    let affordable = cache / block_bytes.max(1);
    let least = match options.context_length {
        Some(context) => context,
        None => shape.context.min(LEAST_CONTEXT),
    };
    if affordable < least.div_ceil(block_tokens) as u64 {
        return Err(LoadError::Memory {
            weights,
            buffers: buffers + RESERVE,
            tokens: least,
            cache: (least.div_ceil(block_tokens) as u64).saturating_mul(block_bytes),
            limit: options.memory_limit.unwrap_or(u64::MAX),
        });
    }
    let affordable_tokens = usize::try_from(affordable)
        .unwrap_or(usize::MAX)
        .saturating_mul(block_tokens);
    let context = wanted.min(affordable_tokens);
    let useful = (context.div_ceil(block_tokens) as u64).saturating_mul(options.max_sequences as u64);
    let blocks = u32::try_from(affordable.min(useful)).unwrap_or(u32::MAX - 1);
    Ok(Sizes {
        limits: Limits { context, ..limits },
        blocks,
    })
}

fn check(shape: &Shape, options: &EngineOptions) -> Result<(), LoadError> {
    let refuse = |option, problem: String| Err(LoadError::Option { option, problem });
    if options.threads == 0 {
        return refuse("--threads", "must be at least 1".into());
    }
    if options.kv_type == KvType::Q8 && !shape.head_dim.is_multiple_of(32) {
        let problem = format!(
            "q8 needs heads of a multiple of 32 elements; this model's have {}",
            shape.head_dim
        );
        return refuse("--kv-cache-type", problem);
    }
    if options.max_sequences == 0 {
        return refuse("--max-sequences", "must be at least 1".into());
    }
    if options.max_batch_tokens < options.max_sequences {
        let problem = format!(
            "is {}; it must be at least --max-sequences ({}), so that every running request moves in every step",
            options.max_batch_tokens, options.max_sequences
        );
        return refuse("--max-batch-tokens", problem);
    }
    if options.block_tokens == 0 || !options.block_tokens.is_multiple_of(8) {
        return refuse(
            "the cache's block size",
            format!("is {}; a multiple of 8 is needed", options.block_tokens),
        );
    }
    match options.context_length {
        Some(context) if context < 2 => refuse("--context-length", "must be at least 2: a prompt and an answer".into()),
        Some(context) if context > shape.context => {
            let problem = format!("is {context}; the model was made for {} tokens at most", shape.context);
            refuse("--context-length", problem)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Positions, Rotation};

    const SHAPE: Shape = Shape {
        layers: 30,
        width: 576,
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        feed_forward: 1536,
        vocabulary: 49_152,
        context: 8192,
        norm_epsilon: 1e-5,
        has_post_norms: false,
        positions: Positions {
            rope_dims: 64,
            rope: Rotation { base: 1e5, scale: 1.0 },
            local_rope: None,
            windows: Vec::new(),
            longest: usize::MAX,
        },
    };
    const WEIGHTS: u64 = 100 << 20;

    fn options() -> EngineOptions {
        EngineOptions {
            threads: 2,
            max_sequences: 8,
            ..EngineOptions::default()
        }
    }

    #[test]
    fn the_context_is_lowered_to_what_memory_allows_and_an_explicit_one_is_not() {
        let mut options = options();
        assert_eq!(decide(&SHAPE, WEIGHTS, &options).unwrap().limits.context, 8192);
        options.memory_limit = Some(320 << 20);
        let sizes = decide(&SHAPE, WEIGHTS, &options).unwrap();
        assert!((512..8192).contains(&sizes.limits.context), "{sizes:?}");
        assert_eq!(sizes.blocks as usize * 16, sizes.limits.context);
        options.context_length = Some(8192);
        let message = decide(&SHAPE, WEIGHTS, &options).unwrap_err().to_string();
        assert!(
            message.contains("8192 tokens") && message.contains("of 320 MiB"),
            "{message}"
        );
    }

    #[test]
    fn all_sequences_fit_when_there_is_memory_and_no_more_is_taken() {
        let mut options = options();
        options.context_length = Some(1024);
        options.memory_limit = Some(8 << 30);
        assert_eq!(decide(&SHAPE, WEIGHTS, &options).unwrap().blocks, 8 * 64);
    }

    #[test]
    fn bytes_hold_nearly_twice_the_tokens_of_halves() {
        let mut options = options();
        options.memory_limit = Some(300 << 20);
        let halves = decide(&SHAPE, WEIGHTS, &options).unwrap().limits.context;
        options.kv_type = KvType::Q8;
        let bytes = decide(&SHAPE, WEIGHTS, &options).unwrap().limits.context;
        assert!(bytes * 9 >= halves * 15, "{bytes} and {halves}");
    }

    #[test]
    fn options_that_cannot_be_are_refused_by_name() {
        type Change = fn(&mut EngineOptions);
        let cases: [(&str, Change); 6] = [
            ("--threads", |o| o.threads = 0),
            ("--max-sequences", |o| o.max_sequences = 0),
            ("--max-batch-tokens", |o| o.max_batch_tokens = 7),
            ("--context-length", |o| o.context_length = Some(1)),
            ("--context-length", |o| o.context_length = Some(8193)),
            ("block size", |o| o.block_tokens = 12),
        ];
        for (name, change) in cases {
            let mut options = options();
            change(&mut options);
            let message = decide(&SHAPE, WEIGHTS, &options).unwrap_err().to_string();
            assert!(message.contains(name), "{message}");
        }
    }

    #[test]
    fn a_model_that_does_not_fit_at_all_is_refused_with_the_numbers() {
        let mut options = options();
        options.memory_limit = Some(128 << 20);
        let message = decide(&SHAPE, WEIGHTS, &options).unwrap_err().to_string();
        assert!(
            message.contains("weights 100 MiB") && message.contains("of 128 MiB"),
            "{message}"
        );
    }
}
