//! Causal attention of a batch of query rows over the paged cache, with grouped query heads: all
//! query heads of a KV head go over its keys and values together.
//!
//! The result of a row depends on its query, its position and the keys and values of its sequence
//! alone. Positions are cut into splits of 256 whatever the block size; in a split the softmax has
//! its own maximum, sums of exponentials are kept in 8 lanes by position and added as a fixed tree,
//! values are added in the order of the positions; splits are merged in order. With a window, a row
//! attends to the last positions only, its own included; eights and splits that no row sees are not read.

#[cfg(test)]
mod tests;

use crate::activations::BLOCK;
use crate::isa::Isa;
use crate::kv::{EIGHT, Element, SharedKv, View};
use crate::lanes::{LANES, Lanes, lanes_fn};
use std::ops::Range;

/// Positions of a split: scores of 256 tokens and their values stay in the first-level cache.
const SPLIT: usize = 256;
/// Query vectors (row, head) that are aimed at together, unless one row alone has more heads.
const VECTORS: usize = 16;
/// Query vectors that one pass over keys or values serves: 8 accumulators.
const PASS: usize = 4;

/// Rows of one sequence with rising positions that are computed together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows<'a> {
    /// The blocks of the sequence, in order; they hold at least `position + count` tokens.
    pub(crate) blocks: &'a [u32],
    /// Position of the first row; row `i` attends to the last `window` of the positions `0..=position + i`.
    pub(crate) position: usize,
    /// Above 0; `usize::MAX` for all positions.
    pub(crate) window: usize,
    /// Rows, at least one.
    pub(crate) count: usize,
}

/// Rows with `ratio` query heads a KV head that are computed together at most.
pub(crate) fn rows_together(ratio: usize) -> usize {
    (VECTORS / ratio).max(1)
}

/// What one thread needs for one item; vectors are rows x heads of one KV head.
#[derive(Default)]
pub(crate) struct Scratch {
    rows: usize,
    ratio: usize,
    dim: usize,
    /// vectors x dim: the queries, scaled.
    queries: Vec<f32>,
    /// vectors x SPLIT: scores, then their exponentials; and some more, because eight are read from wherever a window
    /// begins.
    scores: Vec<f32>,
    /// vectors x dim: the values of the current split, weighted.
    split: Vec<f32>,
    /// vectors: largest score, and sum of exponentials relative to it, of the splits so far.
    max: Vec<f32>,
    sum: Vec<f32>,
    /// vectors x dim: weighted values of the splits so far; in the end, the outputs.
    result: Vec<f32>,
}

impl Scratch {
    /// Room for `rows` rows x `ratio` heads of `dim` elements; gives the queries, rows x heads x dim, to be filled
    /// in, already scaled.
    pub(crate) fn begin(&mut self, rows: usize, ratio: usize, dim: usize) -> &mut [f32] {
        (self.rows, self.ratio, self.dim) = (rows, ratio, dim);
        let vectors = rows * ratio;
        self.queries.resize(vectors * dim, 0.0);
        self.scores.resize(vectors * SPLIT + EIGHT, 0.0);
        self.split.resize(vectors * dim, 0.0);
        self.max.resize(vectors, 0.0);
        self.sum.resize(vectors, 0.0);
        self.result.resize(vectors * dim, 0.0);
        &mut self.queries
    }

    /// Row `row` of the outputs: heads x dim.
    pub(crate) fn result(&self, row: usize) -> &[f32] {
        let span = self.ratio * self.dim;
        &self.result[row * span..][..span]
    }
}

/// Attention of `rows`, whose queries are in `scratch` since `begin`, over one KV head; leaves the outputs there.
///
/// # Safety
/// Nobody writes to this head in the blocks of the sequence meanwhile.
///
/// # Panics
/// If the blocks do not hold the rows' positions, or `begin` was called for another number of rows.
pub(crate) unsafe fn attend(
    isa: Isa,
    cache: SharedKv<'_>,
    layer: usize,
    head: usize,
    rows: Rows<'_>,
    scratch: &mut Scratch,
) {
    let shape = cache.shape();
    let tokens = rows.blocks.len() * shape.block_tokens;
    assert!(
        rows.position + rows.count <= tokens && rows.count > 0 && rows.window > 0,
        "attention: position {} + {}, window {}, in blocks of {tokens}",
        rows.position,
        rows.count,
        rows.window
    );
    assert!(
        scratch.rows == rows.count && scratch.dim == shape.head_dim,
        "attention: queries of other rows"
    );
    match cache {
        SharedKv::F16(view) => attend_halves(isa, &Keys::new(view, layer, head, &rows), &rows, scratch),
        SharedKv::Q8(view) => attend_bytes(isa, &Keys::new(view, layer, head, &rows), &rows, scratch),
    }
}

/// The keys and values that one item reads. Only `attend` makes one: its contract holds for as long as this lives.
struct Keys<'a, E> {
    view: View<'a, E>,
    layer: usize,
    head: usize,
    blocks: &'a [u32],
}

impl<'a, E: Element> Keys<'a, E> {
    fn new(view: View<'a, E>, layer: usize, head: usize, rows: &Rows<'a>) -> Self {
        Keys {
            view,
            layer,
            head,
            blocks: rows.blocks,
        }
    }

    #[inline(always)]
    fn keys(&self, position: usize) -> &[[E; EIGHT]] {
        let (block, slot) = self.place(position);
        // SAFETY: the contract of `attend`.
        unsafe { self.view.key_eight(self.layer, block, self.head, slot) }
    }

    #[inline(always)]
    fn values(&self, position: usize) -> &[E] {
        let (block, slot) = self.place(position);
        // SAFETY: the contract of `attend`.
        unsafe { self.view.value_eight(self.layer, block, self.head, slot) }
    }

    /// Scales of the keys and of the values, none of elements that have none.
    #[inline(always)]
    fn scales(&self, position: usize) -> [&[[f32; EIGHT]]; 2] {
        let (block, slot) = self.place(position);
        // SAFETY: the contract of `attend`.
        unsafe { self.view.scales(self.layer, block, self.head, slot) }
    }

    #[inline(always)]
    fn place(&self, position: usize) -> (u32, usize) {
        let tokens = self.view.block_tokens();
        (self.blocks[position / tokens], position % tokens)
    }
}

lanes_fn! {
    fn attend_halves(l, keys: &Keys<'_, u16>, rows: &Rows<'_>, scratch: &mut Scratch) {
        attend_on(l, keys, rows.position, rows.window, scratch);
    }
}

lanes_fn! {
    fn attend_bytes(l, keys: &Keys<'_, i8>, rows: &Rows<'_>, scratch: &mut Scratch) {
        attend_on(l, keys, rows.position, rows.window, scratch);
    }
}

/// Attention of all vectors of `scratch`, the first row at `position`.
#[inline(always)]
fn attend_on<L: Lanes, E: Element>(l: L, keys: &Keys<'_, E>, position: usize, window: usize, scratch: &mut Scratch) {
    let (vectors, ratio) = (scratch.rows * scratch.ratio, scratch.ratio);
    // The first position that a vector sees, and one past the last; rows rise in position, so both do.
    let start = |vector: usize| (position + vector / ratio + 1).saturating_sub(window);
    let end = |vector: usize| position + vector / ratio + 1;
    for first in (start(0) / SPLIT * SPLIT..end(vectors - 1)).step_by(SPLIT) {
        // The tokens of this split that a vector sees; of some splits none.
        let tokens = |vector: usize| start(vector).saturating_sub(first)..end(vector).saturating_sub(first).min(SPLIT);
        score(l, keys, first, tokens(0).start..tokens(vectors - 1).end, scratch);
        scratch.split.fill(0.0);
        let mut sums = [0.0; VECTORS];
        let mut maxima = [0.0; VECTORS];
        let mut seen = [const { 0..0 }; VECTORS];
        // More vectors than VECTORS come only from one row with many heads: they go in parts.
        for from in (0..vectors).step_by(VECTORS) {
            let part = from..(from + VECTORS).min(vectors);
            for (vector, seen) in part.clone().zip(&mut seen) {
                *seen = tokens(vector);
                let scores = &mut scratch.scores[vector * SPLIT..][..SPLIT];
                (maxima[vector - from], sums[vector - from]) = exponentials(l, scores, seen.clone());
            }
            weigh(l, keys, first, from, &seen[..part.len()], scratch);
            for (vector, seen) in part.zip(&seen) {
                if !seen.is_empty() {
                    let is_first = start(vector) >= first;
                    merge(l, scratch, vector, is_first, maxima[vector - from], sums[vector - from]);
                }
            }
        }
    }
    for vector in 0..vectors {
        let sum = l.splat(scratch.sum[vector]);
        let dim = scratch.dim;
        for eight in scratch.result[vector * dim..][..dim].as_chunks_mut::<LANES>().0 {
            l.store(l.div(l.load(eight), sum), eight);
        }
    }
}

/// Scores of all vectors against `tokens` of the split that begins at `first`, in whole eights.
#[inline(always)]
fn score<L: Lanes, E: Element>(l: L, keys: &Keys<'_, E>, first: usize, tokens: Range<usize>, scratch: &mut Scratch) {
    let vectors = scratch.rows * scratch.ratio;
    for token in (tokens.start / EIGHT * EIGHT..tokens.end).step_by(EIGHT) {
        let position = first + token;
        // Blocks lie anywhere, so the processor cannot guess the next one: the values are asked for while the keys
        // are scored, and the keys two eights ahead.
        l.prefetch(keys.values(position));
        if token + 2 * EIGHT < tokens.end {
            l.prefetch(keys.keys(position + 2 * EIGHT).as_flattened());
        }
        let ([scales, _], keys) = (keys.scales(position), keys.keys(position));
        let mut vector = 0;
        while vector + PASS <= vectors {
            score_pass::<L, E, PASS>(l, keys, scales, vector, token, scratch);
            vector += PASS;
        }
        match vectors - vector {
            1 => score_pass::<L, E, 1>(l, keys, scales, vector, token, scratch),
            2 => score_pass::<L, E, 2>(l, keys, scales, vector, token, scratch),
            3 => score_pass::<L, E, 3>(l, keys, scales, vector, token, scratch),
            _ => {}
        }
    }
}

/// Scores of `N` vectors against eight tokens: even and odd dimensions apart, added at the end, or at the end of each
/// 32 dimensions that share a scale.
#[inline(always)]
fn score_pass<L: Lanes, E: Element, const N: usize>(
    l: L,
    keys: &[[E; EIGHT]],
    scales: &[[f32; EIGHT]],
    vector: usize,
    token: usize,
    scratch: &mut Scratch,
) {
    let dim = scratch.dim;
    let pairs = keys.as_chunks::<2>().0;
    let queries: [&[[f32; 2]]; N] =
        std::array::from_fn(|n| &scratch.queries[(vector + n) * dim..][..dim].as_chunks::<2>().0[..pairs.len()]);
    let mut even = [l.splat(0.0); N];
    let mut odd = [l.splat(0.0); N];
    let mut scaled = [l.splat(0.0); N];
    for (pair, keys) in pairs.iter().enumerate() {
        let (k0, k1) = (E::load(l, &keys[0]), E::load(l, &keys[1]));
        for n in 0..N {
            let [q0, q1] = queries[n][pair];
            even[n] = l.fma(l.splat(q0), k0, even[n]);
            odd[n] = l.fma(l.splat(q1), k1, odd[n]);
        }
        if E::HAS_SCALE && pair % (BLOCK / 2) == BLOCK / 2 - 1 {
            let scale = l.load(&scales[pair / (BLOCK / 2)]);
            for n in 0..N {
                scaled[n] = l.fma(l.add(even[n], odd[n]), scale, scaled[n]);
                (even[n], odd[n]) = (l.splat(0.0), l.splat(0.0));
            }
        }
    }
    for n in 0..N {
        let at = (vector + n) * SPLIT + token;
        if let Some(scores) = scratch.scores[at..].first_chunk_mut::<LANES>() {
            let score = if E::HAS_SCALE {
                scaled[n]
            } else {
                l.add(even[n], odd[n])
            };
            l.store(score, scores);
        }
    }
}

/// Replaces the scores of `tokens` by exp(score - max), and what is beside them in the first and last eight by zeros;
/// returns the maximum and the sum. Eights outside count for nothing, as zeros would.
#[inline(always)]
fn exponentials<L: Lanes>(l: L, scores: &mut [f32], tokens: Range<usize>) -> (f32, f32) {
    let first = (tokens.start / LANES).min(tokens.end.div_ceil(LANES));
    let eights = &mut scores.as_chunks_mut::<LANES>().0[first..tokens.end.div_ceil(LANES)];
    // Tokens that the row does not see: whatever their keys are, their weight is exp(-inf) = 0.
    if let Some(eight) = eights.first_mut() {
        eight[..tokens.start % LANES].fill(f32::NEG_INFINITY);
    }
    if let Some(last) = eights.last_mut() {
        last[tokens.end - (tokens.end - 1) / LANES * LANES..].fill(f32::NEG_INFINITY);
    }
    let mut max = l.splat(f32::NEG_INFINITY);
    for eight in eights.iter() {
        max = l.max(l.load(eight), max);
    }
    let max = l.max_of(max);
    let mut sum = l.splat(0.0);
    for eight in eights.iter_mut() {
        let e = l.exp(l.sub(l.load(eight), l.splat(max)));
        l.store(e, eight);
        sum = l.add(sum, e);
    }
    (max, l.sum(sum))
}

/// Adds the values of the split, weighted, for the vectors from `from` on; `seen` are the tokens that each of them sees.
#[inline(always)]
fn weigh<L: Lanes, E: Element>(
    l: L,
    keys: &Keys<'_, E>,
    first: usize,
    from: usize,
    seen: &[Range<usize>],
    scratch: &mut Scratch,
) {
    let Scratch { scores, split, dim, .. } = scratch;
    let dim = *dim;
    let (Some(lowest), Some(highest)) = (seen.first(), seen.last()) else {
        return;
    };
    for token in (lowest.start / EIGHT * EIGHT..highest.end).step_by(EIGHT) {
        let ([_, scales], values) = (keys.scales(first + token), keys.values(first + token));
        let sees_all = |seen: &Range<usize>| seen.start <= token && token + EIGHT <= seen.end;
        let mut at = 0;
        while at < seen.len() {
            // A token that a vector does not see must not be touched: its memory may hold NaN, and 0 * NaN is NaN.
            // Vectors that see all eight are neighbours, and go together.
            let start = seen[at].start.saturating_sub(token).min(EIGHT);
            let tokens = seen[at].end.saturating_sub(token + start).min(EIGHT - start);
            let mut together = 1;
            if sees_all(&seen[at]) {
                together = PASS.min(seen.len() - at);
                while !sees_all(&seen[at + together - 1]) {
                    together -= 1;
                }
            }
            let (values, vector, token) = (&values[start * dim..], from + at, token + start);
            match together {
                1 => weigh_rows::<L, E, 1>(l, values, scales, dim, tokens, vector, token, scores, split),
                2 => weigh_rows::<L, E, 2>(l, values, scales, dim, tokens, vector, token, scores, split),
                3 => weigh_rows::<L, E, 3>(l, values, scales, dim, tokens, vector, token, scores, split),
                _ => weigh_rows::<L, E, PASS>(l, values, scales, dim, tokens, vector, token, scores, split),
            }
            at += together;
        }
    }
}

/// All dimensions of `N` vectors, two registers of them at a time.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "inner step of one kernel")]
fn weigh_rows<L: Lanes, E: Element, const N: usize>(
    l: L,
    values: &[E],
    scales: &[[f32; EIGHT]],
    dim: usize,
    tokens: usize,
    vector: usize,
    token: usize,
    scores: &[f32],
    split: &mut [f32],
) {
    let mut at = 0;
    while at + 2 * LANES <= dim {
        weigh_pass::<L, E, N, 2>(l, values, scales, dim, at, tokens, vector, token, scores, split);
        at += 2 * LANES;
    }
    if at < dim {
        weigh_pass::<L, E, N, 1>(l, values, scales, dim, at, tokens, vector, token, scores, split);
    }
}

/// `split += weight * value` over `tokens` of eight tokens, for `N` vectors and `W` registers of dimensions from `at`.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "inner step of one kernel")]
fn weigh_pass<L: Lanes, E: Element, const N: usize, const W: usize>(
    l: L,
    values: &[E],
    scales: &[[f32; EIGHT]],
    dim: usize,
    at: usize,
    tokens: usize,
    vector: usize,
    token: usize,
    scores: &[f32],
    split: &mut [f32],
) {
    let mut acc = [[l.splat(0.0); W]; N];
    let mut weights = [&[0.0; EIGHT]; N];
    for n in 0..N {
        let row = split[(vector + n) * dim + at..][..W * LANES].as_chunks::<LANES>().0;
        for w in 0..W {
            acc[n][w] = l.load(&row[w]);
        }
        weights[n] = &scores[(vector + n) * SPLIT + token..].as_chunks::<EIGHT>().0[0];
    }
    for (t, row) in values.chunks_exact(dim).take(tokens).enumerate().take(EIGHT) {
        let row = &row[at..][..W * LANES].as_chunks::<LANES>().0[..W];
        let mut value = [l.splat(0.0); W];
        for w in 0..W {
            value[w] = E::load(l, &row[w]);
            if E::HAS_SCALE {
                value[w] = l.mul(value[w], l.splat(scales[at / BLOCK][token % EIGHT + t]));
            }
        }
        for n in 0..N {
            let weight = l.splat(weights[n][t]);
            for w in 0..W {
                acc[n][w] = l.fma(weight, value[w], acc[n][w]);
            }
        }
    }
    for n in 0..N {
        let row = split[(vector + n) * dim + at..][..W * LANES].as_chunks_mut::<LANES>().0;
        for w in 0..W {
            l.store(acc[n][w], &mut row[w]);
        }
    }
}

/// Joins a split to those before it, both brought to the larger of their maxima.
#[inline(always)]
fn merge<L: Lanes>(l: L, scratch: &mut Scratch, vector: usize, is_first: bool, max: f32, sum: f32) {
    let dim = scratch.dim;
    let split = scratch.split[vector * dim..][..dim].as_chunks::<LANES>().0;
    let result = scratch.result[vector * dim..][..dim].as_chunks_mut::<LANES>().0;
    if is_first {
        result.copy_from_slice(split);
        (scratch.max[vector], scratch.sum[vector]) = (max, sum);
        return;
    }
    let old = scratch.max[vector];
    let larger = if old > max { old } else { max };
    let keep = l.exp(l.splat(old - larger));
    let join = l.exp(l.splat(max - larger));
    for (result, split) in result.iter_mut().zip(split) {
        l.store(l.fma(l.load(split), join, l.mul(l.load(result), keep)), result);
    }
    let total = l.fma(l.splat(sum), join, l.mul(l.splat(scratch.sum[vector]), keep));
    (scratch.max[vector], scratch.sum[vector]) = (larger, l.to_array(total)[0]);
}
