//! Products of activations with packed weights. One barrier serves several matrices over the same
//! activations. A thread computes whole groups of 8 output rows, so an output never depends on the
//! number of threads, and its order is fixed by the columns alone, so never on the other rows.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod scalar;
#[cfg(test)]
mod tests;

use crate::activations::{Activations, QUAD};
use crate::isa::Kind;
use crate::layout::GROUP;
use crate::matrix::Matrix;
use crate::pool::{OutRows, Pool};

/// Tokens that go over the weights together: their activations stay in the second-level cache.
const CHUNK: usize = 128;

/// Multiply-adds that a thread takes at once: a few hundred nanoseconds.
const PIECE: usize = 32 * 1024;
/// Groups of a piece at most: more would share out small matrices unevenly.
const PIECE_GROUPS: usize = 4;

/// Eight outputs of one token.
type Eight = [f32; GROUP];

impl Pool {
    /// `out = activations x matrix^T` for each product: `out` is activations.rows() x matrix.rows(), row-major.
    ///
    /// # Panics
    /// If the columns of a matrix differ from those of the activations or an output has another length.
    pub fn matmul(&self, products: &mut [(&Matrix, &mut [f32])], activations: &Activations) {
        let tokens = activations.rows();
        for (matrix, out) in products.iter() {
            assert_eq!(
                matrix.cols,
                activations.cols(),
                "matmul: columns of the weights and of the activations"
            );
            assert_eq!(out.len(), tokens * matrix.rows, "matmul: length of an output");
        }
        let outputs: Vec<(&Matrix, OutRows<'_>)> = products
            .iter_mut()
            .map(|(matrix, out)| (*matrix, OutRows::new(out, matrix.rows)))
            .collect();
        let chunk = CHUNK.min(tokens);
        let piece = (PIECE / (GROUP * activations.cols() * chunk)).clamp(1, PIECE_GROUPS);
        let pieces = |matrix: &Matrix| matrix.groups().div_ceil(piece);
        let per_chunk: usize = outputs.iter().map(|(matrix, _)| pieces(matrix)).sum();
        let state = || (Panel::default(), [[0.0; GROUP]; CHUNK]);
        self.for_each_index_with(tokens.div_ceil(CHUNK) * per_chunk, state, |(panel, results), index| {
            let first = index / per_chunk * CHUNK;
            let results = &mut results[..CHUNK.min(tokens - first)];
            let mut rest = index % per_chunk;
            for (matrix, out) in &outputs {
                if rest >= pieces(matrix) {
                    rest -= pieces(matrix);
                    continue;
                }
                for group in rest * piece..((rest + 1) * piece).min(matrix.groups()) {
                    self.multiply(matrix, group, activations, first, panel, results);
                    let lanes = GROUP.min(matrix.rows - group * GROUP);
                    for (token, eight) in results.iter().enumerate() {
                        // SAFETY: an index is handed out once, and no other has this group and these tokens.
                        unsafe { out.write(first + token, group * GROUP, &eight[..lanes]) };
                    }
                }
                return;
            }
        });
    }

    /// Outputs of one group for tokens `first..first + results.len()`; `first` is a multiple of 4.
    fn multiply(
        &self,
        matrix: &Matrix,
        group: usize,
        activations: &Activations,
        first: usize,
        panel: &mut Panel,
        results: &mut [Eight],
    ) {
        match self.isa().0 {
            Kind::Scalar(_) => scalar::group(matrix, group, activations, first, results),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(avx2) => avx2::group(avx2, matrix, group, activations, first, panel, results),
        }
    }
}

/// What a thread keeps between groups.
#[cfg(target_arch = "x86_64")]
type Panel = avx2::Panel;
#[cfg(not(target_arch = "x86_64"))]
type Panel = ();

/// The number of quads that hold `tokens` tokens, and of the tokens in quad `index` of them.
fn quads(tokens: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..tokens.div_ceil(QUAD)).map(move |index| (index, QUAD.min(tokens - index * QUAD)))
}
