//! The product on x86: bit for bit what the portable one computes, because all sums of a tile are exact integers.
#![allow(
    clippy::needless_range_loop,
    reason = "an index over a constant runs through several arrays and unrolls"
)]

mod avx2;
mod avx512;
mod floats;
mod format;

use super::{CHUNK, Sixteen};
use crate::activations::{Input, QUAD, Quad};
use crate::isa::Vnni;
use crate::lanes::x86::Avx2;
use crate::layout::{GROUP, Quants, VECTOR};
use crate::matrix::Matrix;
use crate::tensor_type::TensorType;
use format::{Format, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
use std::arch::x86_64::*;

/// How far ahead of what is unpacked weights are asked for, in bytes.
const FETCH: usize = 8192;
/// Vectors of a tile: four columns of each row.
const VECTORS: usize = 8;

/// What a thread keeps between groups: the unpacked tiles of the current ones.
#[derive(Default)]
pub(crate) struct Panel {
    avx2: Vec<avx2::Tile>,
    avx512: Vec<avx512::Tile>,
}

/// The packed tiles of a group.
#[derive(Clone, Copy)]
struct Packed<'a> {
    quants: &'a [[u8; VECTOR]],
    scales: &'a [u8],
}

impl<'a> Packed<'a> {
    fn new(matrix: &'a Matrix, group: usize) -> Self {
        Packed {
            quants: matrix.group_quants(group).as_chunks::<VECTOR>().0,
            scales: matrix.group_scales(group),
        }
    }

    /// The quants of tile `index`.
    #[inline(always)]
    fn tile<F: Format>(&self, index: usize) -> &'a [[u8; VECTOR]] {
        &self.quants[index * F::VECTORS..][..F::VECTORS]
    }

    /// Asks for what lies `FETCH` bytes after tile `index`, wherever that is: the processor's own foresight is short
    /// of what a step needs, whose groups are a few pages each.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn fetch<F: Format>(&self, index: usize) {
        let ahead = self.tile::<F>(index).as_ptr().cast::<u8>().wrapping_add(FETCH);
        for vector in 0..F::VECTORS {
            _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(vector * VECTOR).cast());
        }
    }

    /// Asks for tile `index`, quants and scales.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn prefetch<F: Format>(&self, index: usize) {
        for vector in self.tile::<F>(index) {
            _mm_prefetch::<_MM_HINT_T0>(vector.as_ptr().cast());
        }
        // Where a type has fewer scales than a line for each tile, some lines are asked for twice.
        if let Some(scale) = self.scales.get(index * VECTOR) {
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(scale).cast());
        }
    }
}

/// Defines a function that computes a group with one module, compiled for its instructions; `few` and `most` count the
/// tokens that its registers hold at once.
macro_rules! group_with {
    ($(#[$meta:meta])* $name:ident, $proof:ident, $module:ident, $features:literal, few: $($few:literal)*, most: $most:literal) => {
        $(#[$meta])*
        #[target_feature(enable = $features)]
        fn $name(
            proof: $proof,
            matrix: &Matrix,
            group: usize,
            input: Input<'_>,
            first: usize,
            panel: &mut Vec<$module::Tile>,
            results: &mut [Sixteen],
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
                panel: &mut Vec<$module::Tile>,
                results: &mut [Sixteen],
            ) {
                let packed = Packed::new(matrix, group);
                let next = (group + 1 < matrix.groups()).then(|| Packed::new(matrix, group + 1));
                let is_panel = results.len() > straight::<F>($most);
                for half in 0..$module::HALVES {
                    // The first tokens ask for the next group, which comes while this one is multiplied.
                    let mut ahead = next.filter(|_| half == 0);
                    if is_panel {
                        panel.clear();
                        for index in 0..packed.quants.len() / F::VECTORS {
                            panel.push($module::unpack::<F>(proof, packed, half, index));
                        }
                    }
                    for (index, results) in results.chunks_mut($most).enumerate() {
                        let quads = two_quads(input, first + index * $most, results.len());
                        match (is_panel, results.len()) {
                            $((false, $few) => few::<F, $few>(proof, packed, half, quads, results),)*
                            (false, _) => few::<F, $most>(proof, packed, half, quads, results),
                            $((true, $few) => many::<F, $few>(proof, panel, half, quads, ahead.take(), results),)*
                            (true, _) => many::<F, $most>(proof, panel, half, quads, ahead.take(), results),
                        }
                    }
                }
            }

            /// `N` tokens against packed tiles, each unpacked to registers.
            #[inline]
            #[target_feature(enable = $features)]
            fn few<F: Format, const N: usize>(
                proof: $proof,
                packed: Packed<'_>,
                half: usize,
                quads: [&[Quad]; 2],
                results: &mut [Sixteen],
            ) {
                let mut sums = [$module::zero(); N];
                for (index, quads) in quads[0].iter().zip(quads[1]).enumerate() {
                    packed.fetch::<F>(index);
                    let (tile, quads) = ($module::unpack::<F>(proof, packed, half, index), [quads.0, quads.1]);
                    $module::finish::<F, N>(&tile, quads, $module::integers::<F, N>(proof, &tile, quads), &mut sums);
                }
                $module::store(&sums, half, results);
            }

            /// `N` tokens against unpacked tiles.
            #[inline]
            #[target_feature(enable = $features)]
            fn many<F: Format, const N: usize>(
                proof: $proof,
                panel: &[$module::Tile],
                half: usize,
                quads: [&[Quad]; 2],
                ahead: Option<Packed<'_>>,
                results: &mut [Sixteen],
            ) {
                let mut sums = [$module::zero(); N];
                let quads = quads[0].iter().zip(quads[1]);
                for (index, (tile, quads)) in panel.iter().zip(quads).enumerate() {
                    if let Some(ahead) = &ahead {
                        ahead.prefetch::<F>(index);
                    }
                    let quads = [quads.0, quads.1];
                    $module::finish::<F, N>(tile, quads, $module::integers::<F, N>(proof, tile, quads), &mut sums);
                }
                $module::store(&sums, half, results);
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
group_with!(group_avx2, Avx2, avx2, "avx2,fma,f16c", few: 1 2 3, most: 4);
group_with!(group_avx512, Vnni, avx512, "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni", few: 1 2 3 4 5 6 7, most: 8);

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
    results: &mut [Sixteen],
) {
    // SAFETY: an `Avx2` exists only where AVX2, FMA and F16C do.
    unsafe { group_avx2(proof, matrix, group, input, first, &mut panel.avx2, results) }
}

/// As `group`.
pub(super) fn group_with_vnni(
    proof: Vnni,
    matrix: &Matrix,
    group: usize,
    input: Input<'_>,
    first: usize,
    panel: &mut Panel,
    results: &mut [Sixteen],
) {
    // SAFETY: a `Vnni` exists only where AVX2, FMA, F16C and these parts of AVX-512 do.
    unsafe { group_avx512(proof, matrix, group, input, first, &mut panel.avx512, results) }
}

/// Activations `4j..4j+4` of token `n`.
#[inline(always)]
fn four(quads: [&Quad; 2], n: usize, j: usize) -> i32 {
    let [a, b, c, d] = quads[n / QUAD].quants[n % QUAD].as_chunks::<4>().0[j];
    i32::from_le_bytes([a as u8, b as u8, c as u8, d as u8])
}

/// The sums of the two halves of token `n`.
#[inline(always)]
fn halves(quads: [&Quad; 2], n: usize) -> i32 {
    let [first, second] = quads[n / QUAD].halves[n % QUAD];
    i32::from(first) & 0xffff | i32::from(second) << 16
}

const _: () = assert!(
    GROUP == 16,
    "a register holds one output of each row of a group, or of a half"
);
