//! One tile of 8 rows x 32 columns: unpacking it into byte vectors, and multiplying it with up to four
//! tokens. Loops are over constants and unroll; at most 12 registers are live in the product.

use super::format::Format;
use crate::activations::Quad;
use crate::layout::{Quants, SUPER, Scales, scale_bytes};
use std::arch::x86_64::*;

/// Vectors of a tile: four columns of eight rows each.
const VECTORS: usize = 8;

/// An unpacked tile: a byte a quant.
#[derive(Clone, Copy)]
pub(in crate::matmul) struct Tile {
    /// Vector `j`: columns `4j..4j+4` of row 0, of row 1, ….
    quants: [__m256i; VECTORS],
    /// The f32 scale of each row.
    scale: __m256,
    /// The f32 minimum of each row; for halves, bits of a pair of i16 sub-scales a row; else nothing.
    extra: __m256,
}

/// Reads tile `index` of a group from its packed quants and the scales of the group.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn unpack<F: Format>(packed: &[[u8; 32]], scales: &[u8], index: usize) -> Tile {
    let (scale, extra) = unpack_scales::<F>(scales, index);
    Tile {
        quants: unpack_quants::<F>(packed),
        scale,
        extra,
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn unpack_quants<F: Format>(packed: &[[u8; 32]]) -> [__m256i; VECTORS] {
    let mut quants = [_mm256_setzero_si256(); VECTORS];
    if F::QUANTS == Quants::S8 {
        for j in 0..VECTORS {
            quants[j] = load(&packed[j]);
        }
        return quants;
    }
    let mask = _mm256_set1_epi8(15);
    for j in 0..4 {
        let both = load(&packed[j]);
        quants[j] = _mm256_and_si256(both, mask);
        quants[j + 4] = _mm256_and_si256(_mm256_srli_epi16::<4>(both), mask);
    }
    if F::QUANTS == Quants::U5 {
        // Bit j of the fifth vector becomes bit 4: masked alone, then moved without leaving its byte.
        let high = load(&packed[4]);
        let bit = |j: i32| _mm256_and_si256(high, _mm256_set1_epi8((1u8 << j) as i8));
        let moved = [
            _mm256_slli_epi16::<4>(bit(0)),
            _mm256_slli_epi16::<3>(bit(1)),
            _mm256_slli_epi16::<2>(bit(2)),
            _mm256_slli_epi16::<1>(bit(3)),
            bit(4),
            _mm256_srli_epi16::<1>(bit(5)),
            _mm256_srli_epi16::<2>(bit(6)),
            _mm256_srli_epi16::<3>(bit(7)),
        ];
        for j in 0..VECTORS {
            quants[j] = _mm256_or_si256(quants[j], moved[j]);
        }
    }
    if F::QUANTS == Quants::U6 {
        // Two bits of a byte of vector 4 or 5 become bits 4 and 5.
        for half in 0..2 {
            let high = load(&packed[4 + half]);
            let pair = |shift: i32| _mm256_and_si256(high, _mm256_set1_epi8((3u8 << shift) as i8));
            let moved = [
                _mm256_slli_epi16::<4>(pair(0)),
                _mm256_slli_epi16::<2>(pair(2)),
                pair(4),
                _mm256_srli_epi16::<2>(pair(6)),
            ];
            for j in 0..4 {
                quants[half * 4 + j] = _mm256_or_si256(quants[half * 4 + j], moved[j]);
            }
        }
    }
    quants
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn unpack_scales<F: Format>(scales: &[u8], index: usize) -> (__m256, __m256) {
    let shared = match F::SCALES {
        Scales::Plain | Scales::Min => 1,
        Scales::SuperMin | Scales::SuperHalves => SUPER,
    };
    let run = &scales[index / shared * scale_bytes(F::SCALES)..][..scale_bytes(F::SCALES)];
    let words = run.as_chunks::<16>().0;
    let d = _mm256_cvtph_ps(load_half(&words[0]));
    match F::SCALES {
        Scales::Plain => (d, _mm256_setzero_ps()),
        Scales::Min => (d, _mm256_cvtph_ps(load_half(&words[1]))),
        Scales::SuperMin => {
            let m = _mm256_cvtph_ps(load_half(&words[1]));
            let sub = load_half(&words[2 + index % SUPER]);
            let scale = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(sub));
            let min = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128::<8>(sub)));
            let negative = _mm256_xor_ps(_mm256_mul_ps(m, min), _mm256_set1_ps(-0.0));
            (_mm256_mul_ps(d, scale), negative)
        }
        Scales::SuperHalves => {
            let pairs = _mm256_cvtepi8_epi16(load_half(&words[1 + index % SUPER]));
            (d, _mm256_castsi256_ps(pairs))
        }
    }
}

/// Adds the products of a tile with the first `N` tokens of a quad.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn accumulate<F: Format, const N: usize>(tile: &Tile, quad: &Quad, sums: &mut [__m256; N]) {
    let integers = integers::<F, N>(tile, quad);
    for n in 0..N {
        let scale = _mm256_mul_ps(tile.scale, _mm256_set1_ps(quad.scale[n]));
        sums[n] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(integers[n]), sums[n]);
        if matches!(F::SCALES, Scales::Min | Scales::SuperMin) {
            sums[n] = _mm256_fmadd_ps(tile.extra, _mm256_set1_ps(quad.sum[n]), sums[n]);
        }
    }
}

/// The exact integer part of each token: offsets and sub-scales included.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn integers<F: Format, const N: usize>(tile: &Tile, quad: &Quad) -> [__m256i; N] {
    let ones = _mm256_set1_epi16(1);
    let zero = [_mm256_setzero_si256(); N];
    let mut out = zero;
    match F::QUANTS {
        Quants::U4 => {
            let sums = products(tile, quad, 0..8, zero);
            for n in 0..N {
                out[n] = _mm256_madd_epi16(sums[n], ones);
            }
        }
        Quants::U5 => {
            let (low, high) = (products(tile, quad, 0..4, zero), products(tile, quad, 4..8, zero));
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
                let sums = products(tile, quad, [from, from + 2].into_iter(), zero);
                for n in 0..N {
                    out[n] = _mm256_add_epi32(out[n], _mm256_madd_epi16(sums[n], scale));
                }
            }
        }
        Quants::S8 => {
            for j in 0..VECTORS {
                let (weight, size) = (tile.quants[j], _mm256_abs_epi8(tile.quants[j]));
                for n in 0..N {
                    let product = _mm256_maddubs_epi16(size, _mm256_sign_epi8(four(quad, n, j), weight));
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
        // SAFETY: the reference is to two 16-bit halves, and the read needs no alignment.
        let halves = _mm256_set1_epi32(unsafe { quad.halves[n].as_ptr().cast::<i32>().read_unaligned() });
        out[n] = _mm256_sub_epi32(out[n], _mm256_madd_epi16(halves, factors));
    }
    out
}

/// 16-bit sums of the products of some vectors; the caller knows how many fit.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn products<const N: usize>(
    tile: &Tile,
    quad: &Quad,
    vectors: impl Iterator<Item = usize>,
    mut sums: [__m256i; N],
) -> [__m256i; N] {
    for j in vectors {
        for n in 0..N {
            sums[n] = _mm256_add_epi16(sums[n], _mm256_maddubs_epi16(tile.quants[j], four(quad, n, j)));
        }
    }
    sums
}

/// Activations `4j..4j+4` of token `n`, for every row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn four(quad: &Quad, n: usize, j: usize) -> __m256i {
    let four = &quad.quants[n].as_chunks::<4>().0[j];
    // SAFETY: the reference is to four bytes, and the read needs no alignment.
    _mm256_set1_epi32(unsafe { four.as_ptr().cast::<i32>().read_unaligned() })
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: the reference is to 32 bytes, and the load needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_half(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: the reference is to 16 bytes, and the load needs no alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}
