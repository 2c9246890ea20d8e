//! How fast products are, for benchmarks: the same code that a step runs, on matrices that no cache holds.

use crate::activations::Activations;
use crate::layout::GROUP;
use crate::matmul::{Items, Scratch, product};
use crate::matrix::{Matrix, PackError};
use crate::pool::{Pool, Shared, Stages};
use crate::store::Store;
use crate::tensor_type::TensorType;

/// Matrices of one shape, and activations for them.
pub struct Products {
    matrices: Vec<Matrix>,
    activations: Activations,
    out: Vec<f32>,
    stages: Stages,
    tokens: usize,
}

impl Products {
    /// `count` matrices of `rows` x `cols` for `tokens` rows of activations.
    ///
    /// # Errors
    /// If the type has no such rows, or the memory is not to be had.
    pub fn new(
        pool: &Pool,
        ty: TensorType,
        rows: usize,
        cols: usize,
        count: usize,
        tokens: usize,
    ) -> Result<Products, PackError> {
        let row = ty.row_bytes(cols).ok_or(PackError::Columns { ty, cols })?;
        // Quants and scales of all kinds, none of them a number that is slow to compute with.
        let pattern = [0x21u8, 0x2c, 0x57, 0x2a];
        let bytes: Vec<u8> = pattern.into_iter().cycle().take(rows * row).collect();
        let size = Matrix::packed_bytes(ty, rows, cols).unwrap_or(usize::MAX);
        let mut store = Store::new(size.saturating_mul(count))?;
        let matrices = (0..count).map(|_| Matrix::pack(&mut store, ty, rows, cols, &bytes));
        let matrices = matrices.collect::<Result<_, _>>()?;
        let mut activations = Activations::new(tokens, cols, ty.is_float())?;
        let target = activations.target(tokens);
        let values: Vec<f32> = (0..cols).map(|i| (i % 255) as f32 - 127.0).collect();
        for token in 0..tokens {
            // SAFETY: one thread.
            unsafe { target.write(pool.isa(), token, 0, &values) };
        }
        Ok(Products {
            matrices,
            activations,
            out: vec![0.0; tokens * rows],
            stages: Stages::new(pool, count),
            tokens,
        })
    }

    /// Multiply-adds of a run.
    pub fn multiply_adds(&self) -> usize {
        let each = self.matrices.iter().map(|matrix| matrix.rows() * matrix.cols());
        each.sum::<usize>() * self.tokens
    }

    /// Bytes of weights that a run reads.
    pub fn bytes(&self) -> usize {
        self.matrices.iter().map(Matrix::bytes).sum()
    }

    /// Multiplies with all matrices, one after the other.
    pub fn run(&mut self, pool: &Pool) {
        let (tokens, target) = (self.tokens, self.activations.target(self.tokens));
        let (matrices, out) = (&self.matrices, Shared::new(&mut self.out));
        pool.run(&mut self.stages, |member| {
            let mut scratch = Scratch::new();
            for matrix in matrices {
                let items = Items::new([matrix], tokens);
                member.stage(items.count(), |index| {
                    let item = items.get(index);
                    // SAFETY: nobody writes the activations.
                    let input = unsafe { target.input() };
                    for group in item.groups {
                        let lanes = GROUP.min(matrix.rows() - group * GROUP);
                        let results = product(member.isa(), matrix, group, input, item.tokens.clone(), &mut scratch);
                        for (token, eight) in item.tokens.clone().zip(results) {
                            let at = token * matrix.rows() + group * GROUP;
                            // SAFETY: no other item has this group and these tokens.
                            unsafe { out.get_mut(at..at + lanes) }.copy_from_slice(&eight[..lanes]);
                        }
                    }
                });
            }
        });
    }
}
