//! Integer products with AVX-512's `vpdpbusd` on 256-bit registers: four unsigned times signed products and a 32-bit sum
//! in one instruction, which also reads and spreads the activations. It does not saturate, so signed bytes become
//! unsigned by adding 128, which is taken back like the offsets of the other types.

use super::format::Format;
use super::tile::{self, Tile, VECTORS, four, halves};
use crate::activations::Quad;
use crate::isa::Vnni;
use crate::layout::{Quants, Scales};
use std::arch::x86_64::*;

/// As `tile::unpack`, with every quant unsigned.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512vl,avx512vnni")]
pub(super) fn unpack<F: Format>(packed: &[[u8; 32]], scales: &[u8], index: usize) -> Tile {
    let mut tile = tile::unpack::<F>(packed, scales, index);
    if F::QUANTS == Quants::S8 {
        for j in 0..VECTORS {
            tile.quants[j] = _mm256_xor_si256(tile.quants[j], _mm256_set1_epi8(-128));
        }
    }
    tile
}

/// One or more intrinsics, allowed because a `Vnni` in scope is the proof that the processor has them. Functions made of
/// these are always inlined: eight tokens are more code than the compiler would inline by itself, and outside the loop
/// their sums would go through memory.
macro_rules! has {
    ($e:expr) => {
        // SAFETY: a `Vnni` exists only where AVX2, FMA, F16C and the two parts of AVX-512 do.
        unsafe { $e }
    };
}

/// The exact integer part of each token, offsets and sub-scales included; below 2^24, so exact as a float too.
#[inline(always)]
pub(super) fn integers<F: Format, const N: usize>(proof: Vnni, tile: &Tile, quads: [&Quad; 2]) -> [__m256; N] {
    let offset = if F::QUANTS == Quants::S8 { 128 } else { F::OFFSET };
    if F::SCALES == Scales::SuperHalves {
        // Vectors 0..4 are the first half of the columns, 4..8 the second, each with its own sub-scale.
        let pairs = has!(_mm256_castps_si256(tile.extra));
        let (low, high) = has!((_mm256_slli_epi32::<16>(pairs), pairs));
        let scales = [low, high].map(|pair| has!(_mm256_cvtepi32_ps(_mm256_srai_epi32::<16>(pair))));
        let offset = i32::from(-offset);
        let first = dots::<N>(proof, tile, quads, 0..4, offset & 0xffff);
        let second = dots::<N>(proof, tile, quads, 4..8, offset << 16);
        let mut out = has!([_mm256_setzero_ps(); N]);
        for n in 0..N {
            let sums = has!([_mm256_cvtepi32_ps(first[n]), _mm256_cvtepi32_ps(second[n])]);
            out[n] = has!(_mm256_fmadd_ps(sums[0], scales[0], _mm256_mul_ps(sums[1], scales[1])));
        }
        return out;
    }
    let both = i32::from(-offset) & 0xffff;
    let sums = dots::<N>(proof, tile, quads, 0..VECTORS, both << 16 | both);
    let mut out = has!([_mm256_setzero_ps(); N]);
    for n in 0..N {
        out[n] = has!(_mm256_cvtepi32_ps(sums[n]));
    }
    out
}

/// The products of some vectors with each token, and of `offsets`, a pair of i16, with the sums of the token's halves.
/// The tokens take turns: a sum waits for the one before it longer than an instruction takes, and the processor does
/// not look far enough ahead to find that much other work by itself.
#[inline(always)]
fn dots<const N: usize>(
    _proof: Vnni,
    tile: &Tile,
    quads: [&Quad; 2],
    vectors: std::ops::Range<usize>,
    offsets: i32,
) -> [__m256i; N] {
    let mut sums = has!([_mm256_setzero_si256(); N]);
    if offsets != 0 {
        for n in 0..N {
            sums[n] = has!(_mm256_dpwssd_epi32(
                sums[n],
                halves(quads, n),
                _mm256_set1_epi32(offsets)
            ));
        }
    }
    for j in vectors {
        for n in 0..N {
            sums[n] = has!(_mm256_dpbusd_epi32(sums[n], tile.quants[j], four(quads, n, j)));
        }
    }
    sums
}
