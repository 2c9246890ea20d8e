//! Attention of all rows of a sequence to all of its rows, for one head, with the products of `dense`: keys become
//! panels of 16 rows, values panels of 16 elements.

use super::ops::exponentials;
use crate::dense::{self, Floats, LANES, Outputs, Rows, TOGETHER};
use crate::isa::Isa;

/// Columns of a product.
const PIECE: usize = LANES * TOGETHER;
/// Rows whose scores are in memory together.
pub(super) const CHUNK: usize = 32;

/// What a thread keeps between sequences.
pub(super) struct Scratch {
    /// Panels x elements of a head.
    keys: Vec<[f32; LANES]>,
    /// Panels x rows.
    values: Vec<[f32; LANES]>,
    /// Rows of a chunk x rows of the sequence, in whole panels.
    scores: Vec<f32>,
    results: Vec<Outputs>,
}

impl Scratch {
    /// For sequences of up to `longest` rows and heads of `dim` elements.
    pub(super) fn new(longest: usize, dim: usize) -> Scratch {
        Scratch {
            keys: vec![[0.0; LANES]; longest.div_ceil(LANES) * dim],
            values: vec![[0.0; LANES]; longest * dim.div_ceil(LANES)],
            scores: vec![0.0; CHUNK * longest.next_multiple_of(LANES)],
            results: vec![[0.0; LANES * TOGETHER]; CHUNK],
        }
    }
}

/// One head of a sequence: `q`, `k` and `v` are its `count` rows of `dim` elements, `stride` apart. `write` is given a row,
/// a column, and the results from there on.
pub(super) fn attend(
    isa: Isa,
    scratch: &mut Scratch,
    [q, k, v]: [&[f32]; 3],
    stride: usize,
    count: usize,
    dim: usize,
    write: impl Fn(usize, usize, &[f32]),
) {
    let scale = 1.0 / (dim as f32).sqrt();
    let (key_panels, value_panels) = (count.div_ceil(LANES), dim.div_ceil(LANES));
    let keys = &mut scratch.keys[..key_panels * dim];
    let values = &mut scratch.values[..value_panels * count];
    for row in 0..key_panels * LANES {
        let panel = &mut keys[row / LANES * dim..][..dim];
        // Lanes beyond the last row are scores that nobody reads, of numbers that are as good as any.
        let key = &k[row.min(count - 1) * stride..][..dim];
        for (step, value) in panel.iter_mut().zip(key) {
            step[row % LANES] = *value;
        }
    }
    for row in 0..count {
        for (panel, part) in v[row * stride..][..dim].chunks(LANES).enumerate() {
            copy(&mut values[panel * count + row], part);
        }
    }
    let (keys, values) = (&*keys, &*values);
    let width = key_panels * LANES;
    for first in (0..count).step_by(CHUNK) {
        let rows = CHUNK.min(count - first);
        let queries = Rows {
            data: &q[first * stride..],
            stride,
            count: rows,
        };
        for (piece, weights) in keys.chunks(TOGETHER * dim).enumerate() {
            dense::multiply(isa, Floats { weights, steps: dim }, queries, &mut scratch.results);
            let (at, len) = (piece * PIECE, PIECE.min(width - piece * PIECE));
            for (row, result) in scratch.results[..rows].iter().enumerate() {
                copy(&mut scratch.scores[row * width + at..], &result[..len]);
            }
        }
        let mut inverses = [0.0; CHUNK];
        for (row, inverse) in inverses.iter_mut().enumerate().take(rows) {
            *inverse = 1.0 / exponentials(isa, &mut scratch.scores[row * width..][..count], scale);
        }
        let scores = Rows {
            data: &scratch.scores,
            stride: width,
            count: rows,
        };
        for (piece, weights) in values.chunks(TOGETHER * count).enumerate() {
            dense::multiply(isa, Floats { weights, steps: count }, scores, &mut scratch.results);
            let (at, len) = (piece * PIECE, PIECE.min(dim - piece * PIECE));
            for (row, (result, inverse)) in scratch.results[..rows].iter_mut().zip(inverses).enumerate() {
                let result = &mut result[..len];
                result.iter_mut().for_each(|x| *x *= inverse);
                write(first + row, at, result);
            }
        }
    }
}

/// Copies to the beginning of `to`. Lengths are mostly multiples of 16, and so short that a call takes longer than they do.
#[inline]
pub(super) fn copy(to: &mut [f32], from: &[f32]) {
    let (parts, rest) = from.as_chunks::<LANES>();
    let (to, last) = to[..from.len()].split_at_mut(parts.len() * LANES);
    for (to, from) in to.as_chunks_mut::<LANES>().0.iter_mut().zip(parts) {
        *to = *from;
    }
    if !rest.is_empty() {
        last.copy_from_slice(rest);
    }
}
