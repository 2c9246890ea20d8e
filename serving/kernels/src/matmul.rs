//! Products of activations with packed weights. One barrier serves several matrices over the same
//! activations. A thread computes whole groups of 16 output rows, so an output never depends on the
//! number of threads, and its order is fixed by the columns alone, so never on the other rows.

mod scalar;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::activations::{Input, QUAD};
use crate::isa::{Isa, Kind};
use crate::lanes::lanes_fn;
use crate::layout::GROUP;
use crate::matrix::Matrix;
use crate::pool::Shared;
use std::ops::Range;

/// Tokens that go over the weights together: their activations stay in the second-level cache.
pub(crate) const CHUNK: usize = 128;

/// Multiply-adds that a thread takes at once: a few hundred nanoseconds.
const PIECE: usize = 32 * 1024;
/// Groups of a piece at most: more would share out small matrices unevenly.
const PIECE_GROUPS: usize = 2;

/// Pieces of a chunk that are enough to share out: of a large matrix, long ones, because what the processor reads ahead
/// at the end of a piece goes to the wrong thread.
const MOST_PIECES: usize = 512;

/// The outputs of a group for one token.
pub(crate) type Sixteen = [f32; GROUP];

/// What a thread keeps between products.
pub(crate) struct Scratch {
    pub(crate) panel: Panel,
    results: Box<[Sixteen; CHUNK]>,
}

impl Scratch {
    pub(crate) fn new() -> Scratch {
        Scratch {
            panel: Panel::default(),
            results: Box::new([[0.0; GROUP]; CHUNK]),
        }
    }
}

/// How the products of some tokens with some matrices are cut into items for threads: chunks of tokens, and in each
/// chunk pieces of the groups of every matrix, one matrix after the other.
pub(crate) struct Items<'a, const N: usize> {
    matrices: [&'a Matrix; N],
    tokens: usize,
    piece: usize,
    per_chunk: usize,
}

/// One item: some groups of one matrix for a chunk of up to `CHUNK` tokens from a multiple of 4 on.
pub(crate) struct Item {
    /// Which of the matrices.
    pub(crate) matrix: usize,
    pub(crate) groups: Range<usize>,
    pub(crate) tokens: Range<usize>,
}

impl<'a, const N: usize> Items<'a, N> {
    /// Items of `matrices`, which have equally many columns.
    pub(crate) fn new(matrices: [&'a Matrix; N], tokens: usize) -> Items<'a, N> {
        let cols = matrices[0].cols;
        let chunk = CHUNK.min(tokens).max(1);
        let groups = matrices.iter().map(|matrix| matrix.groups()).sum::<usize>();
        let piece = (PIECE / (GROUP * cols * chunk))
            .clamp(1, PIECE_GROUPS)
            .max(groups / MOST_PIECES);
        Items {
            matrices,
            tokens,
            piece,
            per_chunk: matrices.iter().map(|matrix| matrix.groups().div_ceil(piece)).sum(),
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.tokens.div_ceil(CHUNK) * self.per_chunk
    }

    /// Item `index` of `count`.
    pub(crate) fn get(&self, index: usize) -> Item {
        let first = index / self.per_chunk * CHUNK;
        let mut rest = index % self.per_chunk;
        let mut which = 0;
        while rest >= self.matrices[which].groups().div_ceil(self.piece) {
            rest -= self.matrices[which].groups().div_ceil(self.piece);
            which += 1;
        }
        Item {
            matrix: which,
            groups: rest * self.piece..((rest + 1) * self.piece).min(self.matrices[which].groups()),
            tokens: first..(first + CHUNK).min(self.tokens),
        }
    }
}

impl Item {
    /// The products of `matrix`: `each` gets a group, the tokens, and their outputs `16 * group..16 * group + 16`.
    ///
    /// # Panics
    /// If matrix and activations have different columns.
    pub(crate) fn products(
        &self,
        isa: Isa,
        matrix: &Matrix,
        input: Input<'_>,
        scratch: &mut Scratch,
        mut each: impl FnMut(usize, Range<usize>, &[Sixteen]),
    ) {
        let results = &mut scratch.results[..self.tokens.len()];
        for index in self.groups.clone() {
            group(
                isa,
                matrix,
                index,
                input,
                self.tokens.start,
                &mut scratch.panel,
                results,
            );
            each(index, self.tokens.clone(), results);
        }
    }
}

/// Outputs `16 * group..16 * group + 16` of `matrix` for as many tokens as there are results, from `first` (a multiple of
/// 4) on; 0 for outputs that the matrix has not.
///
/// # Panics
/// If matrix and activations have different columns.
pub(crate) fn group(
    isa: Isa,
    matrix: &Matrix,
    group: usize,
    input: Input<'_>,
    first: usize,
    panel: &mut Panel,
    results: &mut [Sixteen],
) {
    assert_eq!(
        matrix.cols,
        input.cols(),
        "product: columns of the weights and of the activations"
    );
    match isa.0 {
        Kind::Scalar(_) => scalar::group(matrix, group, input, first, results),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2(avx2) => x86::group(avx2, matrix, group, input, first, panel, results),
        #[cfg(target_arch = "x86_64")]
        Kind::Vnni(vnni) => x86::group_with_vnni(vnni, matrix, group, input, first, panel, results),
    }
}

/// A buffer of rows that the outputs of a matrix go to, or are added to.
#[derive(Clone, Copy)]
pub(crate) struct Columns<'a> {
    rows: Shared<'a, f32>,
    width: usize,
}

impl<'a> Columns<'a> {
    /// Rows of `width` floats.
    pub(crate) fn new(rows: Shared<'a, f32>, width: usize) -> Columns<'a> {
        Columns { rows, width }
    }

    /// Sets the columns of a group in the rows from `first` on, to the results, with `bias` if there is one.
    ///
    /// # Safety
    /// Nobody else uses these columns of these rows meanwhile.
    pub(crate) unsafe fn set(self, isa: Isa, group: usize, first: usize, results: &[Sixteen], bias: Option<&[f32]>) {
        let mut addend = [0.0; GROUP];
        if let Some(bias) = bias {
            let part = &bias[group * GROUP..((group + 1) * GROUP).min(bias.len())];
            addend[..part.len()].copy_from_slice(part);
        }
        set(isa, self, group, first, results, bias.is_some().then_some(&addend));
    }

    /// Adds the results to the columns of a group in the rows from `first` on.
    ///
    /// # Safety
    /// Nobody else uses these columns of these rows meanwhile.
    pub(crate) unsafe fn add(self, isa: Isa, group: usize, first: usize, results: &[Sixteen]) {
        add(isa, self, group, first, results);
    }

    /// The columns of a group in a row, sixteen or what is left.
    ///
    /// # Safety
    /// Nobody else uses them meanwhile.
    #[inline(always)]
    unsafe fn part(&self, row: usize, group: usize) -> &'a mut [f32] {
        let end = ((group + 1) * GROUP).min(self.width);
        // SAFETY: by the contract.
        unsafe {
            self.rows
                .get_mut(row * self.width + group * GROUP..row * self.width + end)
        }
    }
}

lanes_fn! {
    fn set(l, to: Columns<'_>, group: usize, first: usize, results: &[Sixteen], addend: Option<&Sixteen>) {
        for (row, result) in (first..).zip(results) {
            // SAFETY: only the method of this name comes here, whose caller has these columns for itself.
            let out = unsafe { to.part(row, group) };
            let Some(out) = out.first_chunk_mut::<GROUP>() else {
                for (lane, out) in out.iter_mut().enumerate() {
                    *out = addend.map_or(result[lane], |addend| result[lane] + addend[lane]);
                }
                continue;
            };
            for at in (0..GROUP).step_by(L::WIDE) {
                let mut value = l.load_wide(&result[at..]);
                if let Some(addend) = addend {
                    value = l.add_wide(value, l.load_wide(&addend[at..]));
                }
                l.store_wide(value, &mut out[at..]);
            }
        }
    }
}

lanes_fn! {
    fn add(l, to: Columns<'_>, group: usize, first: usize, results: &[Sixteen]) {
        for (row, result) in (first..).zip(results) {
            // SAFETY: only the method of this name comes here, whose caller has these columns for itself.
            let out = unsafe { to.part(row, group) };
            let Some(out) = out.first_chunk_mut::<GROUP>() else {
                for (out, value) in out.iter_mut().zip(result) {
                    *out += value;
                }
                continue;
            };
            for at in (0..GROUP).step_by(L::WIDE) {
                let sum = l.add_wide(l.load_wide(&out[at..]), l.load_wide(&result[at..]));
                l.store_wide(sum, &mut out[at..]);
            }
        }
    }
}

/// What a thread keeps between groups.
#[cfg(target_arch = "x86_64")]
pub(crate) type Panel = x86::Panel;
#[cfg(not(target_arch = "x86_64"))]
pub(crate) type Panel = ();

/// The number of quads that hold `tokens` tokens, and of the tokens in quad `index` of them.
fn quads(tokens: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..tokens.div_ceil(QUAD)).map(move |index| (index, QUAD.min(tokens - index * QUAD)))
}
