//! How near to the machine's roofs the products of each tensor type come.
use crate::roof;
use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;
use std::time::{Duration, Instant};
use windlass_kernels::roof::Arithmetic;
use windlass_kernels::speed::Products;
use windlass_kernels::{Pool, TensorType};

/// What may be typed.
#[derive(Debug, Args)]
pub struct KernelsArgs {
    /// Threads. Default: all that this process may use.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Types of the weights. Default: all.
    #[arg(long, value_name = "TYPE,TYPE,…", value_delimiter = ',')]
    types: Vec<String>,
    /// Tokens that are multiplied at once.
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', default_values_t = [1, 4, 8, 32, 128])]
    tokens: Vec<usize>,
    /// Rows of the matrices.
    #[arg(long, value_name = "N", default_value_t = 1536)]
    rows: usize,
    /// Columns of the matrices.
    #[arg(long, value_name = "N", default_value_t = 1536)]
    columns: usize,
}

/// Bytes of weights of a run: beyond any last-level cache of the machines that we measure.
const BYTES: usize = 128 << 20;
/// Time for each number.
const TIME: Duration = Duration::from_millis(400);

/// One measurement.
#[derive(Debug, Serialize)]
pub struct Rate {
    /// Type of the weights.
    pub ty: String,
    /// Tokens at once.
    pub tokens: usize,
    /// 10^9 multiply-adds a second.
    pub giga_macs: f64,
    /// Share of what the type's arithmetic can do at best.
    pub share_of_arithmetic: f64,
    /// 10^9 bytes of weights a second.
    pub giga_bytes: f64,
    /// Share of the time that only reading the weights takes.
    pub share_of_memory: f64,
}

/// Measures every type at every number of tokens, the roofs first.
pub fn run(args: &KernelsArgs, mut print: impl FnMut(Rate)) -> Result<()> {
    let threads = crate::machine::threads(args.threads)?;
    let pool = Pool::new(threads)?;
    for ty in wanted(&args.types)? {
        let arithmetic = match ty {
            TensorType::F32 | TensorType::F16 | TensorType::BF16 => Arithmetic::F32,
            _ if Arithmetic::Vnni.run(1).is_some() => Arithmetic::Vnni,
            TensorType::Q8_0 => Arithmetic::S8,
            _ => Arithmetic::U4Load,
        };
        let best = roof::arithmetic(arithmetic, threads)?;
        let row = ty
            .row_bytes(args.columns)
            .with_context(|| format!("--columns {}: not whole blocks of {ty}", args.columns))?;
        let count = BYTES.div_ceil(row * args.rows);
        for &tokens in &args.tokens {
            let mut products = Products::new(&pool, ty, args.rows, args.columns, count, tokens)?;
            // In turns, in the same memory: other pages, or another second, may be twice as fast.
            let (begin, mut seconds, mut reading) = (Instant::now(), f64::INFINITY, f64::INFINITY);
            while begin.elapsed() < TIME {
                let start = Instant::now();
                products.run(&pool);
                seconds = seconds.min(start.elapsed().as_secs_f64());
                let start = Instant::now();
                products.read(&pool);
                reading = reading.min(start.elapsed().as_secs_f64());
            }
            let giga_macs = products.multiply_adds() as f64 / seconds / 1e9;
            let giga_bytes = products.bytes() as f64 / seconds / 1e9;
            print(Rate {
                ty: ty.to_string(),
                tokens,
                giga_macs,
                share_of_arithmetic: giga_macs / best,
                giga_bytes,
                share_of_memory: reading / seconds,
            });
        }
    }
    Ok(())
}

/// The types of these names.
fn wanted(names: &[String]) -> Result<Vec<TensorType>> {
    if names.is_empty() {
        return Ok(TensorType::ALL.to_vec());
    }
    let find = |name: &String| {
        let is = |ty: &TensorType| ty.to_string().eq_ignore_ascii_case(name);
        TensorType::ALL.into_iter().find(is).with_context(|| {
            let all = TensorType::ALL.map(|ty| ty.to_string()).join(", ");
            format!("--types {name}: there are {all}")
        })
    };
    names.iter().map(find).collect()
}
