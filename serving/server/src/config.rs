//! What the arguments mean on this machine: every default is decided here, once.
use crate::args::{Args, EmbeddingPrecision, KvCacheType, LogFormat};
use crate::machine;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use windlass_engine::embed::{Embedder, EmbedderOptions, Precision};
use windlass_engine::request::{EngineOptions, KvType};

/// Tokens in a KV block: prefixes are shared in these units.
const BLOCK_TOKENS: usize = 16;
/// Tokens of a step, unless more sequences run at once.
const MAX_BATCH_TOKENS: u32 = 512;
/// Least memory kept for everything but the engine: connections, bodies, text (see `body`), allocator.
const MIN_RESERVE: u64 = 64 << 20;

/// All settings of a process.
#[derive(Debug, Clone)]
pub struct Config {
    /// The model's file or folder.
    pub model: PathBuf,
    /// Address to serve on.
    pub listen: SocketAddr,
    /// The model's name in requests and answers.
    pub served_name: String,
    /// For the engine.
    pub engine: EngineOptions,
    /// For a model of embeddings.
    pub embedder: EmbedderOptions,
    /// Sequences that may wait.
    pub queue: usize,
    /// How long a drain waits.
    pub drain_timeout: Duration,
    /// How long work may go without a step.
    pub stall_timeout: Duration,
    /// Format of the log.
    pub log_format: LogFormat,
    /// Filter of the log.
    pub log: String,
}

impl Config {
    /// Decides what was left open.
    pub fn new(args: Args) -> Self {
        let threads = args.threads.map_or_else(machine::processors, usize::from);
        let context_length = args.context_length.map(|tokens| tokens as usize);
        let memory_limit = args.memory_limit.or_else(|| machine::memory().map(for_the_engine));
        Self {
            served_name: args.served_name.unwrap_or_else(|| file_name(&args.model)),
            engine: EngineOptions {
                threads,
                context_length,
                max_sequences: args.max_sequences as usize,
                max_batch_tokens: args
                    .max_batch_tokens
                    .unwrap_or(args.max_sequences.max(MAX_BATCH_TOKENS)) as usize,
                step_time: (!args.step_time.is_zero()).then_some(args.step_time),
                memory_limit,
                block_tokens: BLOCK_TOKENS,
                speculate: args.speculate.into(),
                kv_type: match args.kv_cache_type {
                    KvCacheType::F16 => KvType::F16,
                    KvCacheType::Q8 => KvType::Q8,
                },
            },
            embedder: EmbedderOptions {
                threads,
                precision: match args.embedding_precision {
                    EmbeddingPrecision::F32 => Precision::F32,
                    EmbeddingPrecision::Int8 => Precision::Int8,
                },
                max_length: context_length,
                memory_limit,
            },
            model: args.model,
            listen: args.listen,
            queue: args.queue as usize,
            drain_timeout: args.drain_timeout,
            stall_timeout: args.stall_timeout,
            log_format: args.log_format,
            log: args.log,
        }
    }
}

/// The name of a file without its extension, or of the folder that is the model.
fn file_name(model: &Path) -> String {
    let name = match Embedder::is_for(model) {
        true if model.is_dir() => model.file_name(),
        true => model.parent().and_then(Path::file_name),
        false => model.file_stem(),
    };
    name.map_or_else(|| "model".to_owned(), |stem| stem.to_string_lossy().into_owned())
}

/// The limit less a reserve of a sixteenth.
fn for_the_engine(limit: u64) -> u64 {
    limit.saturating_sub((limit / 16).max(MIN_RESERVE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn the_served_name_is_the_files_name_unless_given() {
        let config = |line: &[&str]| Config::new(Args::parse_from(line));
        assert_eq!(config(&["x", "--model", "/m/Smol.Q4_1.gguf"]).served_name, "Smol.Q4_1");
        let weights = "/m/bge-v1.5/model.safetensors";
        assert_eq!(config(&["x", "--model", weights]).served_name, "bge-v1.5");
        assert_eq!(
            config(&["x", "--model", "a.gguf", "--served-name", "chat"]).served_name,
            "chat"
        );
    }

    #[test]
    fn a_given_memory_limit_is_taken_as_it_is_and_a_found_one_less_a_reserve() {
        let config = Config::new(Args::parse_from(["x", "--model", "a.gguf", "--memory-limit", "1Gi"]));
        assert_eq!(config.engine.memory_limit, Some(1 << 30));
        assert_eq!(for_the_engine(16 << 30), 15 << 30);
        assert_eq!(for_the_engine(100 << 20), 36 << 20);
        assert_eq!(for_the_engine(1 << 20), 0);
    }
}
