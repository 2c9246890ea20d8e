//! The engine's logits over given texts, for `bench/quality`, which compares them with others'.
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use windlass_engine::Engine;
use windlass_engine::request::{EngineOptions, KvType};

/// What is computed.
#[derive(Debug, clap::Args)]
pub struct LogitsArgs {
    /// The model file (GGUF).
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// Keys and values in bytes, as the server's --kv-cache-type q8.
    #[arg(long)]
    q8: bool,
    /// JSON: a list of texts, each a list of token ids.
    #[arg(long, value_name = "FILE")]
    texts: PathBuf,
    /// Where the logits go: little-endian f32, vocabulary by vocabulary, one after each token of each text.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Computes and writes them.
pub fn write_logits(args: &LogitsArgs) -> Result<()> {
    let texts: Vec<Vec<u32>> = serde_json::from_slice(
        &std::fs::read(&args.texts).with_context(|| format!("cannot read {}", args.texts.display()))?,
    )
    .with_context(|| format!("{} holds no lists of token ids", args.texts.display()))?;
    let longest = texts.iter().map(Vec::len).max().context("there are no texts")?;
    let mut engine = Engine::load(
        &args.model,
        &EngineOptions {
            threads: crate::machine::threads(None::<usize>)?,
            context_length: Some(longest + 1),
            max_batch_tokens: 1,
            kv_type: if args.q8 { KvType::Q8 } else { KvType::F16 },
            ..EngineOptions::default()
        },
    )?;
    let file = File::create(&args.out).with_context(|| format!("cannot write {}", args.out.display()))?;
    let mut out = BufWriter::new(file);
    for text in &texts {
        let mut written = Ok(());
        engine.score(text, |logits| {
            if written.is_ok() {
                written = logits.iter().try_for_each(|logit| out.write_all(&logit.to_le_bytes()));
            }
        })?;
        written.context("cannot write the logits")?;
    }
    out.flush().context("cannot write the logits")
}
