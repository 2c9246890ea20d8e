//! The embedder without HTTP: sentences a second. `bench/embeddings` runs it in turns with its peers.
use crate::random::Random;
use crate::roof;
use crate::summary::median;
use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Instant;
use windlass_engine::embed::{Embedder, EmbedderOptions};
use windlass_kernels::roof::Arithmetic;

/// What may be typed.
#[derive(Debug, Args)]
pub struct EmbeddingsArgs {
    /// The model folder.
    #[arg(long, value_name = "FOLDER")]
    model: PathBuf,
    /// Threads that compute. Default: all that this process may use.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// What weights and activations are multiplied as.
    #[arg(long, value_name = "PRECISION", value_enum, default_value_t = Precision::F32)]
    precision: Precision,
    /// Sentences that are embedded together.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    sentences: u32,
    /// Tokens of each, those around it included.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(3..))]
    tokens: u32,
    /// Measurements; the median is told.
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Reads a JSON array of texts from stdin, and writes their vectors as one, instead of measuring.
    #[arg(long)]
    texts: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Precision {
    F32,
    Int8,
}

impl Precision {
    /// What the products are at best.
    fn arithmetic(self) -> Arithmetic {
        match self {
            Precision::F32 => Arithmetic::F32,
            Precision::Int8 if Arithmetic::Vnni.run(1).is_some() => Arithmetic::Vnni,
            Precision::Int8 => Arithmetic::S8,
        }
    }
}

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rate {
    /// Sentences embedded together.
    pub sentences: u32,
    /// Tokens of each.
    pub tokens: u32,
    /// Sentences a second.
    pub per_second: f64,
    /// Milliseconds of a single sentence alone.
    pub single_ms: f64,
    /// Share of the time that the products with weights take at the speed of the arithmetic.
    pub share_of_arithmetic: f64,
}

/// Measures and hands the rates to `print`.
pub fn run(args: &EmbeddingsArgs, print: impl FnOnce(Rate)) -> Result<()> {
    let threads = crate::machine::threads(args.threads)?;
    let mut embedder = Embedder::load(
        &args.model,
        &EmbedderOptions {
            threads,
            precision: match args.precision {
                Precision::F32 => windlass_engine::embed::Precision::F32,
                Precision::Int8 => windlass_engine::embed::Precision::Int8,
            },
            max_length: None,
            memory_limit: None,
        },
    )?;
    if args.texts {
        return texts(&mut embedder);
    }
    // Words of the vocabulary, which for BERT begin at 1996 ("the") or before.
    let words = 2000..embedder.info().vocab_size as u64;
    ensure!(!words.is_empty(), "the vocabulary is too small for a benchmark");
    let mut random = Random::new(1, 0);
    let mut sentence = || -> Vec<u32> {
        (0..args.tokens)
            .map(|_| (words.start + random.below(words.end - words.start)) as u32)
            .collect()
    };
    let sentences: Vec<Vec<u32>> = (0..args.sentences).map(|_| sentence()).collect();
    let inputs: Vec<&[u32]> = sentences.iter().map(Vec::as_slice).collect();
    time(&mut embedder, &inputs)?; // caches and pages are warm from here on
    let roof = roof::arithmetic(args.precision.arithmetic(), threads)?;
    let all: Result<Vec<f64>> = (0..args.repeat).map(|_| time(&mut embedder, &inputs)).collect();
    let one: Result<Vec<f64>> = (0..args.repeat).map(|_| time(&mut embedder, &inputs[..1])).collect();
    let (all, one) = (median(all?), median(one?));
    let multiply_adds = embedder.info().multiply_adds as f64 * f64::from(args.sentences * args.tokens);
    print(Rate {
        sentences: args.sentences,
        tokens: args.tokens,
        per_second: f64::from(args.sentences) / all,
        single_ms: 1e3 * one,
        share_of_arithmetic: multiply_adds / 1e9 / roof / all,
    });
    Ok(())
}

/// Seconds for the vectors of all inputs.
fn time(embedder: &mut Embedder, inputs: &[&[u32]]) -> Result<f64> {
    let start = Instant::now();
    for vector in embedder.embed(inputs) {
        vector?;
    }
    Ok(start.elapsed().as_secs_f64())
}

fn texts(embedder: &mut Embedder) -> Result<()> {
    let texts: Vec<String> = serde_json::from_reader(std::io::stdin())?;
    let tokenizer = embedder.tokenizer();
    let inputs: Vec<Vec<u32>> = texts.iter().map(|text| tokenizer.encode(text)).collect();
    let inputs: Vec<&[u32]> = inputs.iter().map(Vec::as_slice).collect();
    let vectors: Result<Vec<Vec<f32>>, _> = embedder.embed(&inputs).into_iter().collect();
    println!("{}", serde_json::to_string(&vectors?)?);
    Ok(())
}
