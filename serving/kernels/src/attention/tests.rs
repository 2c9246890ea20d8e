//! Attention against plain arithmetic in f64, and against itself on other instruction sets, batches,
//! block sizes and numbers of threads.

use super::{Rows, Scratch, attend, rows_together};
use crate::isa::Isa;
use crate::kv::{KvCache, KvShape, KvType};
use crate::sample::{Random, bits};
use half::f16;
use std::ops::Range;

/// Keys, values and queries of one sequence: tokens x heads x dim.
struct Sequence {
    heads: usize,
    kv_heads: usize,
    dim: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
    queries: Vec<f32>,
    window: usize,
    ty: KvType,
}

impl Sequence {
    fn new(seed: u64, tokens: usize, heads: usize, kv_heads: usize, dim: usize) -> Sequence {
        let mut random = Random::new(seed);
        let mut floats = |heads: usize, factor: f32| -> Vec<f32> {
            (0..tokens * heads * dim)
                .map(|_| f16::from_f32(random.float() * factor).to_f32())
                .collect()
        };
        let (keys, values, queries) = (floats(kv_heads, 2.0), floats(kv_heads, 1.0), floats(heads, 3.0));
        Sequence {
            heads,
            kv_heads,
            dim,
            keys,
            values,
            queries,
            window: usize::MAX,
            ty: KvType::F16,
        }
    }

    fn with_window(self, window: usize) -> Sequence {
        Sequence { window, ..self }
    }

    /// The same, kept in bytes.
    fn in_bytes(self) -> Sequence {
        Sequence { ty: KvType::Q8, ..self }
    }

    fn tokens(&self) -> usize {
        self.keys.len() / (self.kv_heads * self.dim)
    }

    /// Blocks for the sequence, scattered through a cache of two layers whose other memory is NaN.
    fn cache(&self, block_tokens: usize) -> (KvCache, Vec<u32>) {
        let count = self.tokens().div_ceil(block_tokens);
        let mut cache = KvCache::new(
            KvShape {
                layers: 2,
                kv_heads: self.kv_heads,
                head_dim: self.dim,
                block_tokens,
                ty: self.ty,
            },
            2 * count,
        )
        .unwrap();
        let blocks: Vec<u32> = (0..count).map(|i| ((count - 1 - i) * 2 + i % 2) as u32).collect();
        let width = self.kv_heads * self.dim;
        let nan = vec![f32::NAN; width];
        for layer in 0..2 {
            for block in 0..2 * count as u32 {
                (0..block_tokens).for_each(|slot| cache.write(layer, block, slot, &nan, &nan));
            }
        }
        for (token, (k, v)) in self
            .keys
            .chunks_exact(width)
            .zip(self.values.chunks_exact(width))
            .enumerate()
        {
            cache.write(1, blocks[token / block_tokens], token % block_tokens, k, v);
        }
        (cache, blocks)
    }

    /// Attention of the tokens `rows`, taken `together` at a time.
    fn attend(&self, isa: Isa, block_tokens: usize, rows: Range<usize>, together: usize) -> Vec<f32> {
        let (mut cache, blocks) = self.cache(block_tokens);
        let (ratio, width) = (self.heads / self.kv_heads, self.heads * self.dim);
        let span = ratio * self.dim;
        let mut out = vec![f32::NAN; rows.len() * width];
        let mut scratch = Scratch::default();
        for position in rows.clone().step_by(together) {
            let count = together.min(rows.end - position);
            for head in 0..self.kv_heads {
                let queries = scratch.begin(count, ratio, self.dim);
                for (row, query) in (position..).zip(queries.chunks_exact_mut(span)) {
                    query.copy_from_slice(&self.queries[row * width + head * span..][..span]);
                    query.iter_mut().for_each(|x| *x *= 1.0 / (self.dim as f32).sqrt());
                }
                let run = Rows {
                    blocks: &blocks,
                    position,
                    window: self.window,
                    count,
                };
                // SAFETY: one thread.
                unsafe { attend(isa, cache.shared(), 1, head, run, Some((head, run)), &mut scratch) };
                for row in 0..count {
                    out[(position - rows.start + row) * width + head * span..][..span]
                        .copy_from_slice(scratch.result(row));
                }
            }
        }
        out
    }

    fn exact(&self, token: usize, head: usize) -> Vec<f64> {
        let kv = |x: &[f32], t: usize, i: usize| {
            f64::from(x[(t * self.kv_heads + head / (self.heads / self.kv_heads)) * self.dim + i])
        };
        let query = &self.queries[(token * self.heads + head) * self.dim..][..self.dim];
        let score = |t: usize| {
            query
                .iter()
                .enumerate()
                .map(|(i, &q)| f64::from(q) * kv(&self.keys, t, i))
                .sum::<f64>()
                / (self.dim as f64).sqrt()
        };
        let first = (token + 1).saturating_sub(self.window);
        let weights: Vec<f64> = (first..=token).map(|t| score(t).exp()).collect();
        let total: f64 = weights.iter().sum();
        (0..self.dim)
            .map(|i| {
                weights
                    .iter()
                    .enumerate()
                    .map(|(t, w)| w * kv(&self.values, first + t, i))
                    .sum::<f64>()
                    / total
            })
            .collect()
    }
}

#[test]
fn attention_equals_plain_arithmetic() {
    for (tokens, heads, kv_heads, dim, window) in [
        (1, 1, 1, 8, usize::MAX),
        (9, 9, 3, 64, usize::MAX),
        (300, 4, 2, 24, usize::MAX),
        (530, 14, 2, 16, usize::MAX),
        (40, 20, 1, 32, usize::MAX),
        (40, 4, 1, 16, 1),
        (300, 9, 3, 24, 11),
        (530, 4, 1, 32, 264),
        (530, 14, 2, 16, 256),
        (40, 20, 1, 32, 13),
    ] {
        let sequence = Sequence::new(20, tokens, heads, kv_heads, dim).with_window(window);
        for isa in [Isa::scalar(), Isa::detect()] {
            let out = sequence.attend(isa, 16, 0..tokens, rows_together(heads / kv_heads));
            for token in [0, tokens / 2, tokens - 1] {
                for head in 0..heads {
                    let got = &out[(token * heads + head) * dim..][..dim];
                    for (got, want) in got.iter().zip(sequence.exact(token, head)) {
                        assert!(
                            (f64::from(*got) - want).abs() < 3e-6,
                            "{} token {token} head {head}: {got}, not {want}",
                            isa.name()
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn attention_over_bytes_is_close_to_that_over_halves() {
    for (tokens, heads, kv_heads, dim, window) in [(300, 9, 3, 64, usize::MAX), (40, 4, 1, 128, 13)] {
        let new = || Sequence::new(23, tokens, heads, kv_heads, dim).with_window(window);
        let halves = new().attend(Isa::detect(), 16, 0..tokens, 4);
        let bytes = new().in_bytes().attend(Isa::detect(), 16, 0..tokens, 4);
        let square = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        let distance = square(&mut halves.iter().zip(&bytes).map(|(half, byte)| half - byte));
        let length = square(&mut halves.iter().copied());
        assert!(distance > 0.0 && distance < 0.02 * length, "{distance} of {length}");
    }
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    for (tokens, heads, kv_heads, dim, window) in [
        (270, 9, 3, 64, usize::MAX),
        (33, 14, 2, 64, usize::MAX),
        (12, 18, 1, 40, usize::MAX),
        (270, 9, 3, 64, 100),
    ] {
        let new = || Sequence::new(21, tokens, heads, kv_heads, dim).with_window(window);
        for sequence in [Some(new()), (dim % 32 == 0).then(|| new().in_bytes())]
            .into_iter()
            .flatten()
        {
            let scalar = sequence.attend(Isa::scalar(), 16, 0..tokens, 5);
            let detected = sequence.attend(Isa::detect(), 16, 0..tokens, 5);
            assert_eq!(bits(&scalar), bits(&detected));
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_rows_beside_it_or_on_the_block_size() {
    let width = 6 * 32;
    for (window, ty) in [usize::MAX, 1, 7, 256, 300]
        .map(|window| (window, KvType::F16))
        .into_iter()
        .chain([(usize::MAX, KvType::Q8), (300, KvType::Q8)])
    {
        let sequence = Sequence {
            ty,
            ..Sequence::new(22, 523, 6, 2, 32).with_window(window)
        };
        let all = sequence.attend(Isa::detect(), 16, 0..523, 5);
        for (together, block_tokens) in [(1, 8), (2, 16), (5, 32), (4, 264)] {
            for rows in [0..523, 0..1, 255..256, 256..258, 500..523, 522..523] {
                let part = sequence.attend(Isa::detect(), block_tokens, rows.clone(), together);
                assert_eq!(
                    bits(&part),
                    bits(&all[rows.start * width..rows.end * width]),
                    "{rows:?} in {block_tokens}s, window {window}"
                );
            }
        }
    }
}

#[test]
fn what_is_outside_the_window_is_not_touched() {
    let mut sequence = Sequence::new(23, 300, 4, 2, 16);
    sequence.window = 20;
    let seen = sequence.attend(Isa::detect(), 16, 290..300, 4);
    // Row 290 sees the positions from 271 on.
    sequence.keys[..271 * 2 * 16].fill(f32::NAN);
    sequence.values[..271 * 2 * 16].fill(f32::NAN);
    assert_eq!(bits(&seen), bits(&sequence.attend(Isa::detect(), 16, 290..300, 4)));
    sequence.window = 21;
    assert!(sequence.attend(Isa::detect(), 16, 290..300, 4)[0].is_nan());
}
