//! Prints how fast the kernels are on this machine: billions of multiply-adds a second for each type,
//! and for one token also the bytes of weights read a second. Build it with `--release`; name types
//! (`speed Q4_0 Q6_K`) to see those alone.
#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use windlass_kernels::{Activations, KvCache, Matrix, Pool, Query, TensorType, cpu};

const ROWS: usize = 1536;
const COLS: usize = 1536;
/// Weights that do not fit into a last-level cache of 32 MB, even at half a byte each.
const COPIES: usize = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    println!("instructions: {}; matrices of {ROWS} x {COLS}", cpu().name());
    println!("type  threads | 1 token, weights from memory | from the cache | 4 tokens | 128 tokens");
    for ty in TensorType::ALL {
        if !wanted.is_empty() && !wanted.iter().any(|name| name == ty.name()) {
            continue;
        }
        let bytes = weights(ty)?;
        let packing = fastest(|| drop(std::hint::black_box(Matrix::pack(ty, ROWS, COLS, &bytes))));
        println!(
            "{:5} packing one matrix: {:.0} MB/s of the file",
            ty.name(),
            bytes.len() as f64 / packing / 1e6
        );
        // Float matrices are larger: fewer of them exceed the cache.
        let copies = if ty.is_float() { COPIES / 4 } else { COPIES };
        let matrices: Vec<Matrix> = (0..copies)
            .map(|_| Matrix::pack(ty, ROWS, COLS, &bytes))
            .collect::<Result<_, _>>()?;
        for threads in [1, 2] {
            let pool = Pool::new(threads)?;
            let memory = macs_per_second(&pool, &matrices, 1)?;
            let cached = macs_per_second(&pool, &matrices[..1], 1)?;
            let four = macs_per_second(&pool, &matrices[..1], 4)?;
            let many = macs_per_second(&pool, &matrices[..1], 128)?;
            let bytes = memory / (ROWS * COLS) as f64 * matrices[0].bytes() as f64;
            println!(
                "{:5} {threads:>7} | {bytes:>8.1} GB/s {memory:>8.1} GMAC/s | {cached:>14.1} | {four:>8.1} | {many:>10.1}",
                ty.name()
            );
        }
    }
    println!("\nattention, 9 heads over 3 KV heads of 64, context 500; microseconds a layer");
    for threads in [1, 2] {
        let pool = Pool::new(threads)?;
        println!(
            "threads {threads}: 1 row {:.1} | 32 rows of 32 sequences {:.1} | 128 rows of one sequence {:.1}",
            attention(&pool, 1, 1)?,
            attention(&pool, 32, 1)?,
            attention(&pool, 1, 128)?
        );
    }
    let pool = Pool::new(2)?;
    let meet = || {
        let here = AtomicUsize::new(0);
        pool.for_each_index(2, |_| {
            here.fetch_add(1, Ordering::SeqCst);
            while here.load(Ordering::SeqCst) < 2 {
                std::hint::spin_loop();
            }
        });
    };
    println!(
        "a job in which two threads meet: {:.2} microseconds",
        1e6 * fastest(meet)
    );
    Ok(())
}

/// Random quants with small scales: whatever the bytes are, the f16 numbers among them stay finite.
fn weights(ty: TensorType) -> Result<Vec<u8>, Box<dyn Error>> {
    let row = ty.row_bytes(COLS).ok_or("columns are whole blocks")?;
    let mut state = 1u64;
    let random = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8 & 0x3b
    });
    Ok(random.take(row * ROWS).collect())
}

/// 10^9 multiply-adds a second of a walk over all matrices.
fn macs_per_second(pool: &Pool, matrices: &[Matrix], tokens: usize) -> Result<f64, Box<dyn Error>> {
    let mut activations = Activations::new(tokens, COLS)?;
    activations.fill(pool, tokens, COLS, |row, out| {
        out.iter_mut()
            .enumerate()
            .for_each(|(i, x)| *x = ((row + i) as f32).sin());
    });
    let mut out = vec![0.0; tokens * ROWS];
    let seconds = fastest(|| {
        for matrix in matrices {
            pool.matmul(&mut [(matrix, &mut out)], &activations);
        }
    });
    Ok((matrices.len() * ROWS * COLS * tokens) as f64 / seconds / 1e9)
}

/// Microseconds for `rows` consecutive rows of each of `sequences` sequences of 500 tokens.
fn attention(pool: &Pool, sequences: usize, rows: usize) -> Result<f64, Box<dyn Error>> {
    const CONTEXT: usize = 500;
    let per_sequence = CONTEXT.div_ceil(16);
    let mut cache = KvCache::new(1, 3, 64, 16, sequences * per_sequence)?;
    let row: Vec<f32> = (0..3 * 64).map(|i| (i as f32).sin()).collect();
    for block in 0..(sequences * per_sequence) as u32 {
        (0..16).for_each(|slot| cache.write(0, block, slot, &row, &row));
    }
    let tables: Vec<Vec<u32>> = (0..sequences)
        .map(|s| (0..per_sequence).map(|b| (b * sequences + s) as u32).collect())
        .collect();
    let queries: Vec<Query<'_>> = tables
        .iter()
        .flat_map(|blocks| (CONTEXT - rows..CONTEXT).map(move |position| Query { blocks, position }))
        .collect();
    let q = vec![0.5; queries.len() * 9 * 64];
    let mut out = vec![0.0; q.len()];
    Ok(1e6 * fastest(|| pool.attention(&cache, 0, 9, 0.125, &queries, &q, &mut out)))
}

/// Seconds of the fastest of many calls: the machine may have other work.
fn fastest(mut f: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut best = Duration::MAX;
    while start.elapsed() < Duration::from_millis(300) {
        let before = Instant::now();
        f();
        best = best.min(before.elapsed());
    }
    best.as_secs_f64()
}
