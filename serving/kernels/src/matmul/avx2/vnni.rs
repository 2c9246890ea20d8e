//! Integer products with AVX-512's `vpdpbusd` on 256-bit registers: four unsigned times signed products and a 32-bit sum
//! in one instruction, which also reads and spreads the activations. It does not saturate, so signed bytes become
//! unsigned by adding 128, which is taken back like the offsets of the other types.

use super::format::Format;
use super::tile::{self, Tile, VECTORS, four, halves};
use crate::activations::Quad;
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

/// The exact integer part of each token: offsets and sub-scales included.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512vl,avx512vnni")]
pub(super) fn integers<F: Format, const N: usize>(tile: &Tile, quad: &Quad) -> [__m256i; N] {
    let offset = if F::QUANTS == Quants::S8 { 128 } else { F::OFFSET };
    let mut out = [_mm256_setzero_si256(); N];
    if F::SCALES == Scales::SuperHalves {
        // Vectors 0..4 are the first half of the columns, 4..8 the second, each with its own sub-scale.
        let pairs = _mm256_castps_si256(tile.extra);
        let scales = [
            _mm256_srai_epi32::<16>(_mm256_slli_epi32::<16>(pairs)),
            _mm256_srai_epi32::<16>(pairs),
        ];
        let factors = _mm256_mullo_epi16(pairs, _mm256_set1_epi16(offset));
        for n in 0..N {
            let first = dot(tile, quad, n, 0..4, _mm256_setzero_si256());
            let second = dot(tile, quad, n, 4..8, _mm256_setzero_si256());
            let sum = _mm256_add_epi32(
                _mm256_mullo_epi32(first, scales[0]),
                _mm256_mullo_epi32(second, scales[1]),
            );
            out[n] = _mm256_sub_epi32(sum, _mm256_madd_epi16(halves(quad, n), factors));
        }
        return out;
    }
    for n in 0..N {
        let start = match offset {
            0 => _mm256_setzero_si256(),
            _ => _mm256_madd_epi16(halves(quad, n), _mm256_set1_epi16(-offset)),
        };
        out[n] = dot(tile, quad, n, 0..VECTORS, start);
    }
    out
}

/// Adds the products of some vectors with token `n`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512vl,avx512vnni")]
fn dot(tile: &Tile, quad: &Quad, n: usize, vectors: std::ops::Range<usize>, mut sum: __m256i) -> __m256i {
    for j in vectors {
        sum = _mm256_dpbusd_epi32(sum, tile.quants[j], four(quad, n, j));
    }
    sum
}
