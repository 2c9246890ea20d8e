//! The product on AVX2: bit for bit what the portable one computes.
//!
//! Unsigned quants times signed activations go through `vpmaddubsw`, whose 16-bit sums of two products
//! may be added up as long as they cannot overflow: with |activation| <= 127, 4-bit quants allow 8 of
//! them (8 * 2 * 15 * 127 = 30,480), 5-bit quants 4 (4 * 2 * 31 * 127 = 31,496), 6-bit quants 2
//! (2 * 2 * 63 * 127 = 32,004). Signed bytes become |weight| times (activation with the weight's
//! sign), and allow 1 (2 * 128 * 127 = 32,512). Then one `vpmaddwd` widens to 32 bits.
#![allow(
    clippy::needless_range_loop,
    reason = "an index over a constant runs through several arrays and unrolls"
)]

mod floats;
mod format;
mod tile;

use super::{Eight, quads};
use crate::activations::{Input, QUAD, Quad};
use crate::lanes::avx2::Avx2;
use crate::layout::GROUP;
use crate::matrix::Matrix;
use crate::tensor_type::TensorType;
use format::{Format, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
use std::arch::x86_64::*;
use tile::Tile;

/// What a thread keeps between groups: the unpacked tiles of the current one.
pub(super) type Panel = Vec<Tile>;

/// Outputs of group `group` for the tokens from `first` (a multiple of 4) on.
pub(super) fn group(
    _proof: Avx2,
    matrix: &Matrix,
    group: usize,
    activations: Input<'_>,
    first: usize,
    panel: &mut Panel,
    results: &mut [Eight],
) {
    // SAFETY: an `Avx2` exists only where AVX2, FMA and F16C do.
    unsafe {
        match matrix.ty {
            TensorType::Q4_0 => quantised::<Q4_0>(matrix, group, activations, first, panel, results),
            TensorType::Q4_1 => quantised::<Q4_1>(matrix, group, activations, first, panel, results),
            TensorType::Q5_0 => quantised::<Q5_0>(matrix, group, activations, first, panel, results),
            TensorType::Q5_1 => quantised::<Q5_1>(matrix, group, activations, first, panel, results),
            TensorType::Q8_0 => quantised::<Q8_0>(matrix, group, activations, first, panel, results),
            TensorType::Q4K => quantised::<Q4K>(matrix, group, activations, first, panel, results),
            TensorType::Q5K => quantised::<Q5K>(matrix, group, activations, first, panel, results),
            TensorType::Q6K => quantised::<Q6K>(matrix, group, activations, first, panel, results),
            TensorType::F32 | TensorType::F16 | TensorType::BF16 => {
                floats::group(matrix, group, activations, first, results);
            }
        }
    }
}

/// Up to four tokens use each tile as it is unpacked; more go, in fours, over a panel unpacked once.
#[target_feature(enable = "avx2,fma,f16c")]
fn quantised<F: Format>(
    matrix: &Matrix,
    group: usize,
    activations: Input<'_>,
    first: usize,
    panel: &mut Panel,
    results: &mut [Eight],
) {
    let packed = Packed {
        quants: matrix.group_quants(group),
        scales: matrix.group_scales(group),
    };
    if results.len() <= QUAD {
        let quads = activations.quads(first / QUAD);
        return match results.len() {
            1 => packed.row::<F, 1>(quads, results),
            2 => packed.row::<F, 2>(quads, results),
            3 => packed.row::<F, 3>(quads, results),
            _ => packed.row::<F, 4>(quads, results),
        };
    }
    panel.clear();
    for (index, quants) in packed.tiles::<F>().enumerate() {
        panel.push(tile::unpack::<F>(quants, packed.scales, index));
    }
    for (quad, tokens) in quads(results.len()) {
        let results = &mut results[quad * QUAD..][..tokens];
        let quads = activations.quads(first / QUAD + quad);
        match tokens {
            1 => panel_row::<F, 1>(panel, quads, results),
            2 => panel_row::<F, 2>(panel, quads, results),
            3 => panel_row::<F, 3>(panel, quads, results),
            _ => panel_row::<F, 4>(panel, quads, results),
        }
    }
}

/// The tiles of a group as they are stored.
#[derive(Clone, Copy)]
struct Packed<'a> {
    quants: &'a [u8],
    scales: &'a [u8],
}

impl<'a> Packed<'a> {
    fn tiles<F: Format>(self) -> std::slice::ChunksExact<'a, [u8; 32]> {
        self.quants.as_chunks::<32>().0.chunks_exact(F::VECTORS)
    }

    /// `N` tokens against a row of tiles, each unpacked to registers.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn row<F: Format, const N: usize>(self, quads: &[Quad], results: &mut [Eight]) {
        let mut sums = [_mm256_setzero_ps(); N];
        for (index, (quants, quad)) in self.tiles::<F>().zip(quads).enumerate() {
            let tile = tile::unpack::<F>(quants, self.scales, index);
            tile::accumulate::<F, N>(&tile, quad, &mut sums);
        }
        store(&sums, results);
    }
}

/// `N` tokens against a row of unpacked tiles.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn panel_row<F: Format, const N: usize>(panel: &[Tile], quads: &[Quad], results: &mut [Eight]) {
    let mut sums = [_mm256_setzero_ps(); N];
    for (tile, quad) in panel.iter().zip(quads) {
        tile::accumulate::<F, N>(tile, quad, &mut sums);
    }
    store(&sums, results);
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store(sums: &[__m256], results: &mut [Eight]) {
    for (sum, result) in sums.iter().zip(results) {
        // SAFETY: `result` is eight floats.
        unsafe { _mm256_storeu_ps(result.as_mut_ptr(), *sum) };
    }
}

const _: () = assert!(GROUP == 8, "a register holds one output of each row of a group");
