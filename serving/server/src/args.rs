//! What may be typed. What it means is `config`'s business.
use clap::{Parser, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Serve one language or embedding model over an OpenAI-compatible HTTP API.
#[derive(Debug, Clone, Parser)]
#[command(
    version,
    about,
    long_about = "Serve one language or embedding model over an OpenAI-compatible HTTP API.\n\n\
        Needs nothing but a model file in GGUF format:\n\n    \
        windlass-server --model SmolLM2-135M-Instruct.Q4_1.gguf\n    \
        curl -N localhost:8000/v1/chat/completions -H 'Content-Type: application/json' \\\n      \
        -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Why is the sky blue?\"}], \"stream\": true}'\n\n\
        Threads and memory follow from the control group (a container's limits), so the defaults are right in a pod. \
        Every flag has an environment variable; a flag wins.",
    after_long_help = "Routes: POST /v1/chat/completions, POST /v1/completions, POST /v1/embeddings, POST /tokenize, \
        POST /detokenize, GET /v1/models, GET /health/live, GET /health/ready, GET /metrics.\n\n\
        Signals: the first SIGTERM or SIGINT drains: no new connections, running and queued requests finish. A second one exits at once.\n\n\
        Exit codes: 0 after a complete drain; 1 when the model or the address cannot be used, the engine breaks, or \
        the drain ran out of time; 2 for wrong flags."
)]
pub struct Args {
    /// The model: a GGUF file, or a folder with config.json, model.safetensors and tokenizer.json of a BERT-class
    /// encoder, which serves embeddings.
    #[arg(long, env = "WINDLASS_MODEL", value_name = "PATH")]
    pub model: PathBuf,

    /// Address to serve on; port 0 takes a free one, and the first line on stdout says which.
    #[arg(long, env = "WINDLASS_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:8000")]
    pub listen: SocketAddr,

    /// The model's name in requests and answers. Default: the file's name without its extension, or the folder's name.
    #[arg(long, env = "WINDLASS_SERVED_NAME", value_name = "NAME", value_parser = served_name)]
    pub served_name: Option<String>,

    /// For a model of embeddings: how it computes. int8 takes several times less time and a quarter of the memory
    /// for its layers (the table of words stays f32), and
    /// its vectors differ a little from those of f32 (cosine about 0.999): do not mix both in an index.
    #[arg(long, env = "WINDLASS_EMBEDDING_PRECISION", value_name = "PRECISION", value_enum,
          default_value_t = EmbeddingPrecision::F32)]
    pub embedding_precision: EmbeddingPrecision,

    /// Threads that compute. Default: what the control group's CPU quota and the affinity mask allow.
    #[arg(long, env = "WINDLASS_THREADS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,

    /// Tokens that a prompt and its answer may have together. Default: what the model was made for,
    /// lowered to what the memory allows.
    #[arg(long, env = "WINDLASS_CONTEXT_LENGTH", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub context_length: Option<u32>,

    /// Sequences that run at once; more wait in the queue.
    #[arg(long, env = "WINDLASS_MAX_SEQUENCES", value_name = "N", default_value_t = 32,
          value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub max_sequences: u32,

    /// Tokens computed in one step at most, at least --max-sequences. Default: 512, or --max-sequences if that is more.
    #[arg(long, env = "WINDLASS_MAX_BATCH_TOKENS", value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub max_batch_tokens: Option<u32>,

    /// How long a step should take while answers are being written: prompts are read in parts that fit into it, so that
    /// running answers keep flowing. If the answers alone take more than a third of it, three times what they take; 0 is
    /// without limit.
    #[arg(long, env = "WINDLASS_STEP_TIME", value_name = "TIME", default_value = "16ms", value_parser = duration)]
    pub step_time: Duration,

    /// Sequences that may wait; beyond that a request is answered with 429.
    #[arg(long, env = "WINDLASS_QUEUE", value_name = "N", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range(0..=65536))]
    pub queue: u32,

    /// Memory for weights, cache and buffers, for example 6Gi. Default: the control group's limit less a reserve.
    #[arg(long, env = "WINDLASS_MEMORY_LIMIT", value_name = "BYTES", value_parser = bytes)]
    pub memory_limit: Option<u64>,

    /// Tokens guessed for an answer at most, from what it repeats of the prompt or of itself, while few answers are being
    /// written. They are the same tokens and come faster where much is repeated (code to be changed, quotations), a little
    /// slower where not; 0 guesses none. For answers without sampling, penalties, grammars and logprobs.
    #[arg(long, env = "WINDLASS_SPECULATE", value_name = "N", default_value_t = 0,
          value_parser = clap::value_parser!(u16).range(0..=7))]
    pub speculate: u16,

    /// How keys and values of the tokens are kept: q8 takes 9/16 of the memory of f16, so more and longer requests fit,
    /// and is a little less exact.
    #[arg(long, env = "WINDLASS_KV_CACHE_TYPE", value_name = "TYPE", value_enum, default_value_t = KvCacheType::F16)]
    pub kv_cache_type: KvCacheType,

    /// How long a drain waits for running and queued requests.
    #[arg(long, env = "WINDLASS_DRAIN_TIMEOUT", value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub drain_timeout: Duration,

    /// /health/live fails when there is work and no step ended for this long.
    #[arg(long, env = "WINDLASS_STALL_TIMEOUT", value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub stall_timeout: Duration,

    /// Format of the log on stderr. Prompts and answers are never logged.
    #[arg(long, env = "WINDLASS_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// What to log: error, warn, info, debug, or a filter such as windlass_server=debug.
    #[arg(long, env = "WINDLASS_LOG", value_name = "FILTER", default_value = "info")]
    pub log: String,
}

/// How keys and values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KvCacheType {
    /// IEEE halves.
    F16,
    /// Signed bytes, 32 with a scale.
    Q8,
}

/// What an encoder multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EmbeddingPrecision {
    /// Single precision.
    F32,
    /// Bytes.
    Int8,
}

/// Formats of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

fn served_name(text: &str) -> Result<String, String> {
    let allowed = |char: char| char.is_ascii_graphic() || char == ' ';
    match text.len() {
        1..=253 if text.chars().all(allowed) && text.trim() == text => Ok(text.to_owned()),
        _ => Err("a name has 1 to 253 printable ASCII characters and no space at its ends".to_owned()),
    }
}

/// The whole number at the beginning, if there is one that fits, and the rest.
fn number_and_unit(text: &str) -> (Option<u64>, &str) {
    let digits = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    (number.parse().ok(), unit)
}

fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = number_and_unit(text);
    let millis_per_unit: u64 = match unit {
        "ms" => 1,
        "s" | "" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        _ => return Err("a time is a whole number and ms, s, m or h, for example 75s".to_owned()),
    };
    let number = number.ok_or("a time begins with a whole number, for example 75s")?;
    // A year: far beyond any use, and far below what clocks can add.
    let limit = 365 * 24 * 60 * 60 * 1000;
    match number.checked_mul(millis_per_unit) {
        Some(millis) if millis <= limit => Ok(Duration::from_millis(millis)),
        _ => Err("that is more than a year".to_owned()),
    }
}

fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = number_and_unit(text);
    let factor: u64 = match unit {
        "" => 1,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "k" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        _ => return Err("a size is a whole number and Ki, Mi, Gi, Ti, k, M, G or T, for example 6Gi".to_owned()),
    };
    let number = number.ok_or("a size begins with a whole number, for example 6Gi")?;
    match number.checked_mul(factor) {
        Some(bytes) if bytes > 0 => Ok(bytes),
        _ => Err("the size is 0 or too large".to_owned()),
    }
}

#[cfg(test)]
mod schema;

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed_and_every_flag_has_a_variable() {
        let command = Args::command();
        command.clone().debug_assert();
        for flag in command
            .get_arguments()
            .filter(|flag| !["help", "version"].contains(&flag.get_id().as_str()))
        {
            let name = flag.get_id().as_str().to_uppercase();
            assert_eq!(flag.get_env(), Some(format!("WINDLASS_{name}").as_ref()));
        }
    }

    #[test]
    fn one_flag_is_enough() {
        let args = Args::try_parse_from(["windlass-server", "--model", "m.gguf"]).unwrap();
        assert_eq!(args.drain_timeout, Duration::from_secs(60));
        assert_eq!(args.listen.to_string(), "127.0.0.1:8000");
    }

    #[test]
    fn sizes_and_times_are_read_with_their_units() {
        assert_eq!(bytes("6Gi"), Ok(6 << 30));
        assert_eq!(bytes("1000"), Ok(1000));
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
    }

    #[test]
    fn nonsense_is_refused_before_anything_starts() {
        for flags in [
            ["--threads", "0"],
            ["--threads", "-1"],
            ["--context-length", "0"],
            ["--context-length", "4294967296"],
            ["--max-sequences", "0"],
            ["--max-batch-tokens", "0"],
            ["--queue", "-1"],
            ["--embedding-precision", "int4"],
            ["--memory-limit", "0"],
            ["--memory-limit", "99999999Ti"],
            ["--memory-limit", "6gb"],
            ["--drain-timeout", "-1s"],
            ["--drain-timeout", "99999999999h"],
            ["--served-name", ""],
            ["--served-name", "a\nb"],
            ["--listen", "localhost"],
        ] {
            let line = ["windlass-server", "--model", "m.gguf"].into_iter().chain(flags);
            assert!(Args::try_parse_from(line).is_err(), "{flags:?}");
        }
    }
}
