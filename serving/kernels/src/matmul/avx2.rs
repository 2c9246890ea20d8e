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

use super::{CHUNK, Eight};
use crate::activations::{Input, QUAD, Quad};
use crate::isa::Vnni;
use crate::lanes::avx2::Avx2;
use crate::layout::{GROUP, Quants};
use crate::matrix::Matrix;
use crate::tensor_type::TensorType;
use format::{Format, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
use std::arch::x86_64::*;
use tile::{Ahead, Tile, finish};

/// How far ahead of what is unpacked weights are asked for, in bytes.
const FETCH: usize = 2048;

/// What a thread keeps between groups: the unpacked tiles of the current one.
pub(super) type Panel = Vec<Tile>;

/// Defines a function that computes a group with the integer products of one module, compiled for its instructions;
/// `few` and `most` count the tokens that its registers hold at once.
macro_rules! group_with {
    ($(#[$meta:meta])* $name:ident, $proof:ident, $arithmetic:ident, $features:literal, few: $($few:literal)*, most: $most:literal) => {
        $(#[$meta])*
        #[target_feature(enable = $features)]
        fn $name(
            proof: $proof,
            matrix: &Matrix,
            group: usize,
            input: Input<'_>,
            first: usize,
            panel: &mut Panel,
            results: &mut [Eight],
        ) {
            /// Takes as many tokens at a time as registers hold, with tiles that are unpacked each time, or once to a
            /// panel.
            #[target_feature(enable = $features)]
            fn quantised<F: Format>(
                proof: $proof,
                matrix: &Matrix,
                group: usize,
                input: Input<'_>,
                first: usize,
                panel: &mut Panel,
                results: &mut [Eight],
            ) {
                let quants = matrix.group_quants(group).as_chunks::<32>().0;
                let scales = matrix.group_scales(group);
                if results.len() <= straight::<F>($most) {
                    for (index, results) in results.chunks_mut($most).enumerate() {
                        let quads = two_quads(input, first + index * $most, results.len());
                        match results.len() {
                            $($few => few::<F, $few>(proof, quants, scales, quads, results),)*
                            _ => few::<F, $most>(proof, quants, scales, quads, results),
                        }
                    }
                    return;
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
                for (index, results) in results.chunks_mut($most).enumerate() {
                    let quads = two_quads(input, first + index * $most, results.len());
                    match results.len() {
                        $($few => many::<F, $few>(proof, panel, quads, ahead, results),)*
                        _ => many::<F, $most>(proof, panel, quads, ahead, results),
                    }
                    ahead = Ahead::default();
                }
            }

            /// `N` tokens against packed tiles, each unpacked to registers.
            #[inline]
            #[target_feature(enable = $features)]
            fn few<F: Format, const N: usize>(
                proof: $proof,
                quants: &[[u8; 32]],
                scales: &[u8],
                quads: [&[Quad]; 2],
                results: &mut [Eight],
            ) {
                let mut sums = [_mm256_setzero_ps(); N];
                let quads = quads[0].iter().zip(quads[1]);
                for (index, (quants, quads)) in quants.chunks_exact(F::VECTORS).zip(quads).enumerate() {
                    // A single token goes at the pace of memory, and there the processor's own foresight is better.
                    if N > 1 {
                        fetch(quants);
                    }
                    let (tile, quads) = ($arithmetic::unpack::<F>(quants, scales, index), [quads.0, quads.1]);
                    finish::<F, N>(&tile, quads, $arithmetic::integers::<F, N>(proof, &tile, quads), &mut sums);
                }
                store(&sums, results);
            }

            /// `N` tokens against unpacked tiles.
            #[inline]
            #[target_feature(enable = $features)]
            fn many<F: Format, const N: usize>(
                proof: $proof,
                panel: &[Tile],
                quads: [&[Quad]; 2],
                ahead: Ahead<'_>,
                results: &mut [Eight],
            ) {
                let mut sums = [_mm256_setzero_ps(); N];
                let quads = quads[0].iter().zip(quads[1]);
                for (index, (tile, quads)) in panel.iter().zip(quads).enumerate() {
                    ahead.prefetch::<F>(index);
                    let quads = [quads.0, quads.1];
                    finish::<F, N>(tile, quads, $arithmetic::integers::<F, N>(proof, tile, quads), &mut sums);
                }
                store(&sums, results);
            }

            match matrix.ty {
                TensorType::Q4_0 => quantised::<Q4_0>(proof, matrix, group, input, first, panel, results),
                TensorType::Q4_1 => quantised::<Q4_1>(proof, matrix, group, input, first, panel, results),
                TensorType::Q5_0 => quantised::<Q5_0>(proof, matrix, group, input, first, panel, results),
                TensorType::Q5_1 => quantised::<Q5_1>(proof, matrix, group, input, first, panel, results),
                TensorType::Q8_0 => quantised::<Q8_0>(proof, matrix, group, input, first, panel, results),
                TensorType::Q4K => quantised::<Q4K>(proof, matrix, group, input, first, panel, results),
                TensorType::Q5K => quantised::<Q5K>(proof, matrix, group, input, first, panel, results),
                TensorType::Q6K => quantised::<Q6K>(proof, matrix, group, input, first, panel, results),
                TensorType::F32 | TensorType::F16 | TensorType::BF16 => {
                    floats::group(matrix, group, input, first, results);
                }
            }
        }
    };
}
group_with!(group_maddubs, Avx2, maddubs, "avx2,fma,f16c", few: 1 2 3, most: 4);
group_with!(group_vnni, Vnni, vnni, "avx2,fma,f16c,avx512vl,avx512vnni", few: 1 2 3 4 5 6 7, most: 8);

/// Tokens up to which unpacking a group again and again costs less than writing it out once: with eight tokens to share
/// the work, all of them for the types that unpack in a few instructions.
fn straight<F: Format>(at_once: usize) -> usize {
    match F::QUANTS {
        _ if at_once <= QUAD => at_once,
        Quants::U4 | Quants::S8 => CHUNK,
        Quants::U5 | Quants::U6 => 4 * at_once,
    }
}

/// The blocks of up to eight tokens from `first` (a multiple of 4) on; of up to four, twice the same.
fn two_quads(input: Input<'_>, first: usize, tokens: usize) -> [&[Quad]; 2] {
    let quad = first / QUAD;
    [quad, quad + usize::from(tokens > QUAD)].map(|quad| input.quads(quad))
}

/// Outputs of group `group` for the tokens from `first` (a multiple of 4) on.
pub(super) fn group(
    proof: Avx2,
    matrix: &Matrix,
    group: usize,
    input: Input<'_>,
    first: usize,
    panel: &mut Panel,
    results: &mut [Eight],
) {
    // SAFETY: an `Avx2` exists only where AVX2, FMA and F16C do.
    unsafe { group_maddubs(proof, matrix, group, input, first, panel, results) }
}

/// As `group`.
pub(super) fn group_with_vnni(
    proof: Vnni,
    matrix: &Matrix,
    group: usize,
    input: Input<'_>,
    first: usize,
    panel: &mut Panel,
    results: &mut [Eight],
) {
    // SAFETY: a `Vnni` exists only where AVX2, FMA, F16C and the two parts of AVX-512 do.
    unsafe { group_vnni(proof, matrix, group, input, first, panel, results) }
}

/// Asks for the tile some places after `tile`, wherever that ends: the processor's own foresight is short of what
/// several tokens need.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fetch(tile: &[[u8; 32]]) {
    let ahead = tile.as_ptr().cast::<u8>().wrapping_add(FETCH);
    for line in 0..(tile.len() * 32).div_ceil(64) {
        _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(line * 64).cast());
    }
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
