//! Integer products on AVX2: unsigned quants times signed activations go through `vpmaddubsw`, whose 16-bit sums of two
//! products may be added up as long as they cannot overflow: with |activation| <= 127, 4-bit quants allow 8 of them
//! (8 * 2 * 15 * 127 = 30,480), 5-bit quants 4 (4 * 2 * 31 * 127 = 31,496), 6-bit quants 2 (2 * 2 * 63 * 127 =
//! 32,004). Signed bytes become |weight| times (activation with the weight's sign), and allow 1 (2 * 128 * 127 =
//! 32,512). Then one `vpmaddwd` widens to 32 bits. At most 12 registers are live.

mod tile;

use super::format::Format;
use super::{VECTORS, four, halves};
use crate::activations::Quad;
use crate::lanes::x86::Avx2;
use crate::layout::{Quants, Scales};
use std::arch::x86_64::*;
pub(super) use tile::{Tile, finish, store, unpack};

/// Halves of a group that are computed one after the other.
pub(super) const HALVES: usize = 2;
/// The sums of eight rows.
pub(super) type Sums = __m256;

/// No sums yet.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn zero() -> Sums {
    _mm256_setzero_ps()
}

/// The exact integer part of each token, offsets and sub-scales included; below 2^24, so exact as a float too.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn integers<F: Format, const N: usize>(_proof: Avx2, tile: &Tile, quads: [&Quad; 2]) -> [__m256; N] {
    let sums = sums::<F, N>(tile, quads);
    let mut out = [_mm256_setzero_ps(); N];
    for n in 0..N {
        out[n] = _mm256_cvtepi32_ps(sums[n]);
    }
    out
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sums<F: Format, const N: usize>(tile: &Tile, quads: [&Quad; 2]) -> [__m256i; N] {
    let ones = _mm256_set1_epi16(1);
    let zero = [_mm256_setzero_si256(); N];
    let mut out = zero;
    match F::QUANTS {
        Quants::U4 => {
            let sums = products(tile, quads, 0..8, zero);
            for n in 0..N {
                out[n] = _mm256_madd_epi16(sums[n], ones);
            }
        }
        Quants::U5 => {
            let (low, high) = (products(tile, quads, 0..4, zero), products(tile, quads, 4..8, zero));
            for n in 0..N {
                out[n] = _mm256_add_epi32(_mm256_madd_epi16(low[n], ones), _mm256_madd_epi16(high[n], ones));
            }
        }
        Quants::U6 => {
            // Vectors 0..4 are the first half of the columns, 4..8 the second; the widening multiplies by the sub-scale.
            let pairs = _mm256_castps_si256(tile.extra);
            let first = _mm256_or_si256(
                _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff)),
                _mm256_slli_epi32::<16>(pairs),
            );
            let second = _mm256_or_si256(
                _mm256_andnot_si256(_mm256_set1_epi32(0xffff), pairs),
                _mm256_srli_epi32::<16>(pairs),
            );
            for (from, scale) in [(0, first), (1, first), (4, second), (5, second)] {
                let sums = products(tile, quads, [from, from + 2].into_iter(), zero);
                for n in 0..N {
                    out[n] = _mm256_add_epi32(out[n], _mm256_madd_epi16(sums[n], scale));
                }
            }
        }
        Quants::S8 => {
            for j in 0..VECTORS {
                let (weight, size) = (tile.quants[j], _mm256_abs_epi8(tile.quants[j]));
                for n in 0..N {
                    let product =
                        _mm256_maddubs_epi16(size, _mm256_sign_epi8(_mm256_set1_epi32(four(quads, n, j)), weight));
                    out[n] = _mm256_add_epi32(out[n], _mm256_madd_epi16(product, ones));
                }
            }
        }
    }
    if F::OFFSET == 0 {
        return out;
    }
    // offset * sum of the activations, each half times its sub-scale where there are such; 32 * 128 fits 16 bits.
    let factors = match F::SCALES {
        Scales::SuperHalves => _mm256_slli_epi16::<5>(_mm256_castps_si256(tile.extra)),
        _ => _mm256_set1_epi16(F::OFFSET),
    };
    for n in 0..N {
        out[n] = _mm256_sub_epi32(out[n], _mm256_madd_epi16(_mm256_set1_epi32(halves(quads, n)), factors));
    }
    out
}

/// 16-bit sums of the products of some vectors; the caller knows how many fit.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn products<const N: usize>(
    tile: &Tile,
    quads: [&Quad; 2],
    vectors: impl Iterator<Item = usize>,
    mut sums: [__m256i; N],
) -> [__m256i; N] {
    for j in vectors {
        for n in 0..N {
            sums[n] = _mm256_add_epi16(
                sums[n],
                _mm256_maddubs_epi16(tile.quants[j], _mm256_set1_epi32(four(quads, n, j))),
            );
        }
    }
    sums
}
