//! How near to the machine's roof attention comes: of single tokens over what scattered blocks hold, and of a prompt.
use crate::roof;
use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;
use std::time::{Duration, Instant};
use windlass_kernels::roof::{Arithmetic, Pages, read};
use windlass_kernels::speed::Attention;
use windlass_kernels::{KvShape, KvType, Pool};

/// What may be typed; the defaults are SmolLM2-135M's.
#[derive(Debug, Args)]
pub struct AttentionArgs {
    /// Threads. Default: all that this process may use.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Layers.
    #[arg(long, value_name = "N", default_value_t = 30)]
    layers: usize,
    /// Key and value heads.
    #[arg(long, value_name = "N", default_value_t = 3)]
    kv_heads: usize,
    /// Query heads of each of them.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    ratio: u16,
    /// Elements of a head.
    #[arg(long, value_name = "N", default_value_t = 64)]
    head_dim: usize,
    /// Tokens of each sequence.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    context: u32,
    /// Sequences whose last token attends at once; a prompt of `--context` tokens is measured too.
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', default_values_t = [1, 4, 8, 32])]
    sequences: Vec<usize>,
}

/// Bytes that are read between measurements, so that no cache holds what they read.
const FLUSH: usize = 128 << 20;
/// Time for each number.
const TIME: Duration = Duration::from_millis(700);

/// One measurement.
#[derive(Debug, Serialize)]
pub struct Rate {
    /// Sequences at once.
    pub sequences: usize,
    /// Tokens of each that attend: one, or all.
    pub rows: usize,
    /// Seconds, the median.
    pub seconds: f64,
    /// 10^9 multiply-adds a second.
    pub giga_macs: f64,
    /// Share of what f32 arithmetic can do at best.
    pub share_of_arithmetic: f64,
    /// 10^9 bytes of keys and values a second, each counted once.
    pub giga_bytes: f64,
}

/// Measures each number of sequences, then a prompt.
pub fn run(args: &AttentionArgs, mut print: impl FnMut(Rate)) -> Result<()> {
    let threads = crate::machine::threads(args.threads)?;
    ensure!(!args.sequences.contains(&0), "--sequences: at least one");
    let (pool, best) = (Pool::new(threads)?, roof::arithmetic(Arithmetic::F32, threads)?);
    let shape = KvShape {
        layers: args.layers,
        kv_heads: args.kv_heads,
        head_dim: args.head_dim,
        block_tokens: 16,
        ty: KvType::F16,
    };
    let context = args.context as usize;
    let other = Pages::new(FLUSH, true)?;
    let writing = args.sequences.iter().map(|&sequences| (sequences, 1));
    for (sequences, rows) in writing.chain([(1, context)]) {
        let mut attention = Attention::new(&pool, shape, sequences, context, rows, args.ratio.into())?;
        let (begin, mut times) = (Instant::now(), Vec::new());
        while begin.elapsed() < TIME {
            std::hint::black_box(read(other.bytes()));
            let start = Instant::now();
            attention.run(&pool);
            times.push(start.elapsed().as_secs_f64());
        }
        let seconds = crate::summary::median(times);
        let giga_macs = attention.multiply_adds() as f64 / seconds / 1e9;
        print(Rate {
            sequences,
            rows,
            seconds,
            giga_macs,
            share_of_arithmetic: giga_macs / best,
            giga_bytes: attention.bytes() as f64 / seconds / 1e9,
        });
    }
    Ok(())
}
