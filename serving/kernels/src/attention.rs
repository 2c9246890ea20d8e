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
use crate::kv::{EIGHT, Eight, Element, SharedKv, View};
use crate::lanes::{LANES, Lanes, lanes_fn};
use std::ops::Range;

/// Positions of a split: scores of 256 tokens and their values stay in the first-level cache.
const SPLIT: usize = 256;
/// Query vectors (row, head) that are aimed at together, unless one row alone has more heads.
const VECTORS: usize = 24;
/// Eights of a split.
const EIGHTS: usize = SPLIT / EIGHT;
/// Eights between those that are asked for and those that are scored.
const AHEAD: usize = 8;

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
    /// dim x vectors: the same, so that a pass finds those of a dimension side by side.
    turned: Vec<f32>,
    /// vectors x SPLIT: scores, then their exponentials.
    scores: Vec<f32>,
    /// vectors x dim: the values of the current split, weighted.
    split: Vec<f32>,
    /// vectors: largest score of the current split, and sum of exponentials relative to it.
    split_max: Vec<f32>,
    split_sum: Vec<f32>,
    /// vectors: largest score, and sum of exponentials relative to it, of the splits so far.
    max: Vec<f32>,
    sum: Vec<f32>,
    /// vectors x dim: weighted values of the splits so far; in the end, the outputs.
    result: Vec<f32>,
    /// The eight from which on keys and values have been asked for at the end of the last split.
    asked: Option<Eight>,
}

impl Scratch {
    /// Room for `rows` rows x `ratio` heads of `dim` elements; gives the queries, rows x heads x dim, to be filled
    /// in, already scaled.
    pub(crate) fn begin(&mut self, rows: usize, ratio: usize, dim: usize) -> &mut [f32] {
        (self.rows, self.ratio, self.dim) = (rows, ratio, dim);
        let vectors = rows * ratio;
        self.queries.resize(vectors * dim, 0.0);
        self.turned.resize(vectors * dim, 0.0);
        self.scores.resize(vectors * SPLIT, 0.0);
        self.split.resize(vectors * dim, 0.0);
        self.split_max.resize(vectors, 0.0);
        self.split_sum.resize(vectors, 0.0);
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

/// Attention of `rows`, whose queries are in `scratch` since `begin`, over one KV head; leaves the outputs there. `next`
/// are the head and the rows that will probably follow, whose keys and values are asked for.
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
    next: Option<(usize, Rows<'_>)>,
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
        SharedKv::F16(view) => {
            let keys = |(head, rows)| Keys {
                view,
                layer,
                head,
                rows,
            };
            attend_halves(isa, &keys((head, rows)), next.map(keys).as_ref(), scratch);
        }
        SharedKv::Q8(view) => {
            let keys = |(head, rows)| Keys {
                view,
                layer,
                head,
                rows,
            };
            attend_bytes(isa, &keys((head, rows)), next.map(keys).as_ref(), scratch);
        }
    }
}

/// The keys and values that one item reads. Only `attend` makes one: its contract holds for as long as this lives.
struct Keys<'a, E> {
    view: View<'a, E>,
    layer: usize,
    head: usize,
    rows: Rows<'a>,
}

impl<E: Element> Keys<'_, E> {
    /// The positions that a row sees; both ends rise from row to row.
    #[inline(always)]
    fn seen(&self, row: usize) -> Range<usize> {
        let end = self.rows.position + row + 1;
        end.saturating_sub(self.rows.window)..end
    }

    /// The first positions of the splits in which a row sees something.
    #[inline(always)]
    fn splits(&self) -> impl Iterator<Item = usize> + use<E> {
        let (first, last) = (self.seen(0), self.seen(self.rows.count - 1));
        (first.start / SPLIT * SPLIT..last.end).step_by(SPLIT)
    }

    /// The part of `seen` that is in the split which begins at `first`, counted from there.
    #[inline(always)]
    fn seen_of(&self, row: usize, first: usize) -> Range<usize> {
        let Range { start, end } = self.seen(row);
        start.saturating_sub(first)..end.saturating_sub(first).min(SPLIT)
    }

    /// The tokens of a split that any row sees, counted from its first position.
    #[inline(always)]
    fn tokens(&self, first: usize) -> Range<usize> {
        self.seen_of(0, first).start..self.seen_of(self.rows.count - 1, first).end
    }

    /// Where the eights begin that hold the `tokens` of a split; `None` for the others.
    #[inline(always)]
    fn eights(&self, first: usize) -> [Option<Eight>; EIGHTS] {
        let (block_tokens, tokens) = (self.view.block_tokens(), self.tokens(first));
        std::array::from_fn(|index| {
            let is_seen = index * EIGHT < tokens.end && (index + 1) * EIGHT > tokens.start;
            is_seen.then(|| {
                let position = first + index * EIGHT;
                let block = self.rows.blocks[position / block_tokens];
                self.view.eight(self.layer, block, self.head, position % block_tokens)
            })
        })
    }

    #[inline(always)]
    fn keys(&self, eight: Eight) -> &[[E; EIGHT]] {
        // SAFETY: the contract of `attend`.
        unsafe { self.view.keys(eight) }
    }

    #[inline(always)]
    fn values(&self, eight: Eight) -> &[E] {
        // SAFETY: the contract of `attend`.
        unsafe { self.view.values(eight) }
    }

    /// Scales of the keys and of the values, none of elements that have none.
    #[inline(always)]
    fn scales(&self, eight: Eight) -> [&[[f32; EIGHT]]; 2] {
        // SAFETY: the contract of `attend`.
        unsafe { self.view.scales(eight) }
    }
}

lanes_fn! {
    fn attend_halves(l, keys: &Keys<'_, u16>, next: Option<&Keys<'_, u16>>, scratch: &mut Scratch) {
        attend_on(l, keys, next, scratch);
    }
}

lanes_fn! {
    fn attend_bytes(l, keys: &Keys<'_, i8>, next: Option<&Keys<'_, i8>>, scratch: &mut Scratch) {
        attend_on(l, keys, next, scratch);
    }
}

/// Attention of all vectors of `scratch`.
#[inline(always)]
fn attend_on<L: Lanes, E: Element>(l: L, keys: &Keys<'_, E>, next: Option<&Keys<'_, E>>, scratch: &mut Scratch) {
    let (vectors, ratio, dim) = (scratch.rows * scratch.ratio, scratch.ratio, scratch.dim);
    for (vector, query) in scratch.queries.chunks_exact(dim).enumerate() {
        let eights = scratch.turned.chunks_exact_mut(LANES * vectors);
        for (columns, eight) in eights.zip(query.as_chunks::<LANES>().0) {
            for i in 0..LANES {
                columns[i * vectors + vector] = eight[i];
            }
        }
    }
    let mut splits = keys.splits().peekable();
    let mut after = None;
    while let Some(first) = splits.next() {
        let tokens = keys.tokens(first);
        let eights = after.unwrap_or_else(|| keys.eights(first));
        after = match splits.peek() {
            Some(&first) => Some(keys.eights(first)),
            None => next.and_then(|next| next.splits().next().map(|first| next.eights(first))),
        };
        score(l, keys, &eights, after.as_ref(), scratch);
        for vector in 0..vectors {
            let scores = &mut scratch.scores[vector * SPLIT..][..SPLIT];
            let (max, sum) = exponentials(l, scores, keys.seen_of(vector / ratio, first), &tokens);
            (scratch.split_max[vector], scratch.split_sum[vector]) = (max, sum);
        }
        weigh(l, keys, &eights, &tokens, scratch);
        for vector in 0..vectors {
            if !keys.seen_of(vector / ratio, first).is_empty() {
                merge(l, scratch, vector, keys.seen(vector / ratio).start >= first);
            }
        }
    }
    for vector in 0..vectors {
        let sum = l.splat(scratch.sum[vector]);
        for eight in scratch.result[vector * dim..][..dim].as_chunks_mut::<LANES>().0 {
            l.store(l.div(l.load(eight), sum), eight);
        }
    }
}

/// Scores of all vectors against the keys of `eights`. Asks for what comes soon, of `after` too: blocks lie anywhere, so
/// the processor cannot guess the next one.
#[inline(always)]
fn score<L: Lanes, E: Element>(
    l: L,
    keys: &Keys<'_, E>,
    eights: &[Option<Eight>; EIGHTS],
    after: Option<&[Option<Eight>; EIGHTS]>,
    scratch: &mut Scratch,
) {
    let vectors = scratch.rows * scratch.ratio;
    let fetch = |eight: Option<Eight>| {
        if let Some(eight) = eight {
            keys.view.prefetch(l, eight);
        }
    };
    let begin = eights.iter().position(Option::is_some).unwrap_or(EIGHTS);
    let end = eights.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
    let begin_after = after
        .and_then(|after| after.iter().position(Option::is_some))
        .unwrap_or(0);
    let first = eights.get(begin).copied().flatten();
    if first != scratch.asked {
        eights[begin..].iter().take(AHEAD).for_each(|eight| fetch(*eight));
    }
    scratch.asked = after.and_then(|after| after[begin_after]);
    let ahead = |index: usize| match index < end {
        true => eights[index],
        false => after.and_then(|after| *after.get(begin_after + index - end)?),
    };
    let (most, together) = (if L::REGISTERS >= 32 { 8 } else { 4 }, L::WIDE / EIGHT);
    for index in (begin..EIGHTS).step_by(together) {
        let Some(first) = eights[index] else { break };
        (index..(index + together).min(end)).for_each(|index| fetch(ahead(index + AHEAD)));
        let pair = (first, eights.get(index + 1).copied().flatten());
        let mut vector = 0;
        while vector < vectors {
            macro_rules! pass {
                ($($n:literal)*) => {
                    match most.min(vectors - vector) {
                        $($n => score_pass::<L, E, $n>(l, keys, pair, vector, index * EIGHT, scratch),)*
                        together => unreachable!("a pass of {together} vectors"),
                    }
                };
            }
            pass!(1 2 3 4 5 6 7 8);
            vector += most;
        }
    }
}

/// Scores of `N` vectors against eight tokens from `token` on, or twice eight where vectors have as many lanes: even and
/// odd dimensions apart, added at the end, or at the end of each 32 dimensions that share a scale.
#[inline(always)]
fn score_pass<L: Lanes, E: Element, const N: usize>(
    l: L,
    keys: &Keys<'_, E>,
    (first, second): (Eight, Option<Eight>),
    vector: usize,
    token: usize,
    scratch: &mut Scratch,
) {
    // Eight alone fill both halves of a vector.
    let eights = [first, second.unwrap_or(first)];
    let [low, high] = eights.map(|eight| keys.keys(eight).as_chunks::<2>().0);
    let [[low_scales, _], [high_scales, _]] = eights.map(|eight| keys.scales(eight));
    let vectors = scratch.rows * scratch.ratio;
    let turned = scratch.turned.chunks_exact(2 * vectors);
    let mut even = [l.splat_wide(0.0); N];
    let mut odd = [l.splat_wide(0.0); N];
    let mut scaled = [l.splat_wide(0.0); N];
    for (pair, ((low, high), turned)) in low.iter().zip(high).zip(turned).enumerate() {
        let (Some(q0), Some(q1)) = (
            turned[vector..].first_chunk::<N>(),
            turned[vectors + vector..].first_chunk::<N>(),
        ) else {
            unreachable!("a pass of other vectors")
        };
        let k0 = l.join(E::load(l, &low[0]), E::load(l, &high[0]));
        let k1 = l.join(E::load(l, &low[1]), E::load(l, &high[1]));
        for n in 0..N {
            even[n] = l.fma_wide(l.splat_wide(q0[n]), k0, even[n]);
        }
        for n in 0..N {
            odd[n] = l.fma_wide(l.splat_wide(q1[n]), k1, odd[n]);
        }
        if E::HAS_SCALE && pair % (BLOCK / 2) == BLOCK / 2 - 1 {
            let block = pair / (BLOCK / 2);
            let scale = l.join(l.load(&low_scales[block]), l.load(&high_scales[block]));
            for n in 0..N {
                scaled[n] = l.fma_wide(l.add_wide(even[n], odd[n]), scale, scaled[n]);
                (even[n], odd[n]) = (l.splat_wide(0.0), l.splat_wide(0.0));
            }
        }
    }
    for n in 0..N {
        let score = if E::HAS_SCALE {
            scaled[n]
        } else {
            l.add_wide(even[n], odd[n])
        };
        let scores = &mut scratch.scores[(vector + n) * SPLIT + token..];
        match (second, scores.first_chunk_mut()) {
            (None, Some(scores)) => l.store(l.low(score), scores),
            _ => l.store_wide(score, scores),
        }
    }
}

/// Replaces the scores of the tokens that are `seen` by exp(score - max), and those of the rest of the eights of
/// `tokens` by zeros; returns the maximum and the sum.
#[inline(always)]
fn exponentials<L: Lanes>(l: L, scores: &mut [f32], seen: Range<usize>, tokens: &Range<usize>) -> (f32, f32) {
    let whole = tokens.start / LANES * LANES..tokens.end.next_multiple_of(LANES);
    if seen.is_empty() {
        scores[whole].fill(0.0);
        return (f32::NEG_INFINITY, 0.0);
    }
    // Whatever the keys are that the row does not see, their weight is exp(-inf) = 0.
    scores[whole.start..seen.start].fill(f32::NEG_INFINITY);
    scores[seen.end..whole.end].fill(f32::NEG_INFINITY);
    let eights = scores[whole.clone()].as_chunks_mut::<LANES>().0;
    let mut max = l.splat(f32::NEG_INFINITY);
    for eight in eights.iter() {
        max = l.max(l.load(eight), max);
    }
    let max = l.max_of(max);
    let mut sum = l.splat(0.0);
    let (wide, last) = eights.as_flattened_mut().split_at_mut(whole.len() / L::WIDE * L::WIDE);
    for scores in wide.chunks_exact_mut(L::WIDE) {
        let e = l.exp(l.sub_wide(l.load_wide(scores), l.splat_wide(max)));
        l.store_wide(e, scores);
        sum = l.add_to_eight(sum, e);
    }
    if let Some(eight) = last.first_chunk_mut() {
        let e = l.exp_eight(l.sub(l.load(eight), l.splat(max)));
        l.store(e, eight);
        sum = l.add(sum, e);
    }
    (max, l.sum(sum))
}

/// The sum of the values of `tokens`, weighted, for each vector. All of the tokens have been written by this sequence,
/// so those that a vector does not see count for nothing: their weight is zero. Beyond them memory may hold anything.
#[inline(always)]
fn weigh<L: Lanes, E: Element>(
    l: L,
    keys: &Keys<'_, E>,
    eights: &[Option<Eight>; EIGHTS],
    tokens: &Range<usize>,
    scratch: &mut Scratch,
) {
    let (vectors, dim) = (scratch.rows * scratch.ratio, scratch.dim);
    let most = if L::REGISTERS >= 32 { 4 } else { 2 };
    let mut vector = 0;
    while vector < vectors {
        // As few passes as possible, of about the same size.
        let together = (vectors - vector).div_ceil((vectors - vector).div_ceil(4));
        let mut at = 0;
        while at < dim {
            macro_rules! pass {
                ($registers:literal: $($n:literal)*) => {
                    match together {
                        $($n => weigh_pass::<L, E, $n, $registers>(l, keys, eights, tokens, vector, at, scratch),)*
                        _ => unreachable!("a pass of {together} vectors"),
                    }
                };
            }
            let registers = if at + most * L::WIDE <= dim {
                most
            } else {
                (at + L::WIDE <= dim).into()
            };
            match registers {
                4 => pass!(4: 1 2 3 4),
                2 => pass!(2: 1 2 3 4),
                1 => pass!(1: 1 2 3 4),
                _ => pass!(0: 1 2 3 4),
            }
            at += (registers * L::WIDE).max(LANES);
        }
        vector += together;
    }
}

/// `W` wide vectors of dimensions from `at` of the sums of `N` vectors from `vector` on, one token after the other; with a
/// `W` of 0 the last eight dimensions.
#[inline(always)]
fn weigh_pass<L: Lanes, E: Element, const N: usize, const W: usize>(
    l: L,
    keys: &Keys<'_, E>,
    eights: &[Option<Eight>; EIGHTS],
    tokens: &Range<usize>,
    vector: usize,
    at: usize,
    scratch: &mut Scratch,
) {
    let Scratch { scores, split, dim, .. } = scratch;
    let dim = *dim;
    let weights: [&[[f32; EIGHT]]; N] =
        std::array::from_fn(|n| &scores[(vector + n) * SPLIT..][..SPLIT].as_chunks().0[..EIGHTS]);
    let mut sums = [[l.splat_wide(0.0); W]; N];
    let mut last = [l.splat(0.0); N];
    for (index, eight) in eights.iter().enumerate() {
        let Some(eight) = *eight else { continue };
        let ([_, scales], values) = (keys.scales(eight), keys.values(eight));
        let first = tokens.start.saturating_sub(index * EIGHT);
        for t in first..EIGHT.min(tokens.end - index * EIGHT) {
            let row = &values[t * dim + at..];
            if W == 0 {
                // Elements with scales come in 32s.
                if let Some(row) = row.first_chunk() {
                    let value = E::load(l, row);
                    for n in 0..N {
                        last[n] = l.fma(l.splat(weights[n][index][t]), value, last[n]);
                    }
                }
                continue;
            }
            let row = &row[..W * L::WIDE];
            let mut value = [l.splat_wide(0.0); W];
            for w in 0..W {
                value[w] = E::load_wide(l, &row[w * L::WIDE..]);
                if E::HAS_SCALE {
                    value[w] = l.mul_wide(value[w], l.splat_wide(scales[(at + w * L::WIDE) / BLOCK][t]));
                }
            }
            for n in 0..N {
                let weight = l.splat_wide(weights[n][index][t]);
                for w in 0..W {
                    sums[n][w] = l.fma_wide(weight, value[w], sums[n][w]);
                }
            }
        }
    }
    for n in 0..N {
        let row = &mut split[(vector + n) * dim + at..];
        for w in 0..W {
            l.store_wide(sums[n][w], &mut row[w * L::WIDE..]);
        }
        if let (0, Some(row)) = (W, row.first_chunk_mut()) {
            l.store(last[n], row);
        }
    }
}

/// Joins a split to those before it, both brought to the larger of their maxima.
#[inline(always)]
fn merge<L: Lanes>(l: L, scratch: &mut Scratch, vector: usize, is_first: bool) {
    let dim = scratch.dim;
    let (max, sum) = (scratch.split_max[vector], scratch.split_sum[vector]);
    let split = scratch.split[vector * dim..][..dim].as_chunks::<LANES>().0;
    let result = scratch.result[vector * dim..][..dim].as_chunks_mut::<LANES>().0;
    if is_first {
        result.copy_from_slice(split);
        (scratch.max[vector], scratch.sum[vector]) = (max, sum);
        return;
    }
    let old = scratch.max[vector];
    let larger = if old > max { old } else { max };
    let keep = l.exp_eight(l.splat(old - larger));
    let join = l.exp_eight(l.splat(max - larger));
    for (result, split) in result.iter_mut().zip(split) {
        l.store(l.fma(l.load(split), join, l.mul(l.load(result), keep)), result);
    }
    let total = l.fma(l.splat(sum), join, l.mul(l.splat(scratch.sum[vector]), keep));
    (scratch.max[vector], scratch.sum[vector]) = (larger, l.to_array(total)[0]);
}
