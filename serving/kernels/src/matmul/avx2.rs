//! The product on x86: bit for bit what the portable one computes, because all sums of a tile are exact integers.
#![allow(
    clippy::needless_range_loop,
    reason = "an index over a constant runs through several arrays and unrolls"
)]

mod floats;
mod format;
mod maddubs;
mod tile;
mod vnni;

use super::{Eight, quads};
use crate::activations::{Input, QUAD, Quad};
use crate::isa::Vnni;
use crate::lanes::avx2::Avx2;
use crate::layout::GROUP;
use crate::matrix::Matrix;
use crate::tensor_type::TensorType;
use format::{Format, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
use std::arch::x86_64::*;
use tile::{Ahead, Tile, finish};

/// What a thread keeps between groups: the unpacked tiles of the current one.
pub(super) type Panel = Vec<Tile>;

/// Defines a function that computes a group with the integer products of one module, compiled for its instructions.
macro_rules! group_with {
    ($(#[$meta:meta])* $name:ident, $arithmetic:ident, $features:literal) => {
        $(#[$meta])*
        #[target_feature(enable = $features)]
        pub(super) fn $name(
            matrix: &Matrix,
            group: usize,
            input: Input<'_>,
            first: usize,
            panel: &mut Panel,
            results: &mut [Eight],
        ) {
            /// Up to four tokens use each tile as it is unpacked; more go, in fours, over a panel unpacked once.
            #[target_feature(enable = $features)]
            fn quantised<F: Format>(
                matrix: &Matrix,
                group: usize,
                input: Input<'_>,
                first: usize,
                panel: &mut Panel,
                results: &mut [Eight],
            ) {
                let quants = matrix.group_quants(group).as_chunks::<32>().0;
                let scales = matrix.group_scales(group);
                if results.len() <= QUAD {
                    let quads = input.quads(first / QUAD);
                    return match results.len() {
                        1 => few::<F, 1>(quants, scales, quads, results),
                        2 => few::<F, 2>(quants, scales, quads, results),
                        3 => few::<F, 3>(quants, scales, quads, results),
                        _ => few::<F, 4>(quants, scales, quads, results),
                    };
                }
                panel.clear();
                for (index, quants) in quants.chunks_exact(F::VECTORS).enumerate() {
                    panel.push($arithmetic::unpack::<F>(quants, scales, index));
                }
                // The first tokens ask for the next group, which comes while this one is multiplied.
                let mut ahead = Ahead::default();
                if group + 1 < matrix.groups() {
                    (ahead.quants, ahead.scales) = (matrix.group_quants(group + 1), matrix.group_scales(group + 1));
                }
                for (quad, tokens) in quads(results.len()) {
                    let results = &mut results[quad * QUAD..][..tokens];
                    let quads = input.quads(first / QUAD + quad);
                    match tokens {
                        1 => many::<F, 1>(panel, quads, ahead, results),
                        2 => many::<F, 2>(panel, quads, ahead, results),
                        3 => many::<F, 3>(panel, quads, ahead, results),
                        _ => many::<F, 4>(panel, quads, ahead, results),
                    }
                    ahead = Ahead::default();
                }
            }

            /// `N` tokens against packed tiles, each unpacked to registers.
            #[inline]
            #[target_feature(enable = $features)]
            fn few<F: Format, const N: usize>(
                quants: &[[u8; 32]],
                scales: &[u8],
                quads: &[Quad],
                results: &mut [Eight],
            ) {
                let mut sums = [_mm256_setzero_ps(); N];
                for (index, (quants, quad)) in quants.chunks_exact(F::VECTORS).zip(quads).enumerate() {
                    let tile = $arithmetic::unpack::<F>(quants, scales, index);
                    finish::<F, N>(&tile, quad, $arithmetic::integers::<F, N>(&tile, quad), &mut sums);
                }
                store(&sums, results);
            }

            /// `N` tokens against unpacked tiles.
            #[inline]
            #[target_feature(enable = $features)]
            fn many<F: Format, const N: usize>(
                panel: &[Tile],
                quads: &[Quad],
                ahead: Ahead<'_>,
                results: &mut [Eight],
            ) {
                let mut sums = [_mm256_setzero_ps(); N];
                for (index, (tile, quad)) in panel.iter().zip(quads).enumerate() {
                    ahead.prefetch::<F>(index);
                    finish::<F, N>(tile, quad, $arithmetic::integers::<F, N>(tile, quad), &mut sums);
                }
                store(&sums, results);
            }

            match matrix.ty {
                TensorType::Q4_0 => quantised::<Q4_0>(matrix, group, input, first, panel, results),
                TensorType::Q4_1 => quantised::<Q4_1>(matrix, group, input, first, panel, results),
                TensorType::Q5_0 => quantised::<Q5_0>(matrix, group, input, first, panel, results),
                TensorType::Q5_1 => quantised::<Q5_1>(matrix, group, input, first, panel, results),
                TensorType::Q8_0 => quantised::<Q8_0>(matrix, group, input, first, panel, results),
                TensorType::Q4K => quantised::<Q4K>(matrix, group, input, first, panel, results),
                TensorType::Q5K => quantised::<Q5K>(matrix, group, input, first, panel, results),
                TensorType::Q6K => quantised::<Q6K>(matrix, group, input, first, panel, results),
                TensorType::F32 | TensorType::F16 | TensorType::BF16 => {
                    floats::group(matrix, group, input, first, results);
                }
            }
        }
    };
}
group_with!(group_maddubs, maddubs, "avx2,fma,f16c");
group_with!(group_vnni, vnni, "avx2,fma,f16c,avx512vl,avx512vnni");

/// Outputs of group `group` for the tokens from `first` (a multiple of 4) on.
pub(super) fn group(
    _proof: Avx2,
    matrix: &Matrix,
    group: usize,
    input: Input<'_>,
    first: usize,
    panel: &mut Panel,
    results: &mut [Eight],
) {
    // SAFETY: an `Avx2` exists only where AVX2, FMA and F16C do.
    unsafe { group_maddubs(matrix, group, input, first, panel, results) }
}

/// As `group`.
pub(super) fn group_with_vnni(
    _proof: Vnni,
    matrix: &Matrix,
    group: usize,
    input: Input<'_>,
    first: usize,
    panel: &mut Panel,
    results: &mut [Eight],
) {
    // SAFETY: a `Vnni` exists only where AVX2, FMA, F16C and the two parts of AVX-512 do.
    unsafe { group_vnni(matrix, group, input, first, panel, results) }
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
