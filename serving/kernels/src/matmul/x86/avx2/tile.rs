//! One half of a tile, 8 rows x 32 columns: unpacking it into byte vectors, and what its product with some tokens becomes in
//! floats. Loops are over constants and unroll.

use super::super::{Packed, VECTORS, format::Format};
use crate::activations::{QUAD, Quad};
use crate::lanes::x86::Avx2;
use crate::layout::{GROUP, Quants, SUPER, Scales, VECTOR, scale_bytes};
use crate::matmul::Sixteen;
use std::arch::x86_64::*;

/// An unpacked tile: a byte a quant.
#[derive(Clone, Copy)]
pub(in crate::matmul::x86) struct Tile {
    /// Vector `j`: columns `4j..4j+4` of row 0, of row 1, ….
    pub(super) quants: [__m256i; VECTORS],
    /// The f32 scale of each row.
    pub(super) scale: __m256,
    /// The f32 minimum of each row; for halves, bits of a pair of i16 sub-scales a row; else nothing.
    pub(super) extra: __m256,
}

/// Reads half `half` of tile `index` of a group.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::matmul::x86) fn unpack<F: Format>(_proof: Avx2, packed: Packed<'_>, half: usize, index: usize) -> Tile {
    let (scale, extra) = unpack_scales::<F>(packed.scales, half, index);
    Tile {
        quants: unpack_quants::<F>(packed.tile::<F>(index), half),
        scale,
        extra,
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn unpack_quants<F: Format>(packed: &[[u8; VECTOR]], half: usize) -> [__m256i; VECTORS] {
    let mut quants = [_mm256_setzero_si256(); VECTORS];
    if F::QUANTS == Quants::S8 {
        for j in 0..VECTORS {
            quants[j] = load(&packed[j], half);
        }
        return quants;
    }
    let mask = _mm256_set1_epi8(15);
    for j in 0..4 {
        let both = load(&packed[j], half);
        quants[j] = _mm256_and_si256(both, mask);
        quants[j + 4] = _mm256_and_si256(_mm256_srli_epi16::<4>(both), mask);
    }
    if F::QUANTS == Quants::U5 {
        // Bit j of the fifth vector becomes bit 4: masked alone, then moved without leaving its byte.
        let high = load(&packed[4], half);
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
        for second in 0..2 {
            let high = load(&packed[4 + second], half);
            let pair = |shift: i32| _mm256_and_si256(high, _mm256_set1_epi8((3u8 << shift) as i8));
            let moved = [
                _mm256_slli_epi16::<4>(pair(0)),
                _mm256_slli_epi16::<2>(pair(2)),
                pair(4),
                _mm256_srli_epi16::<2>(pair(6)),
            ];
            for j in 0..4 {
                quants[second * 4 + j] = _mm256_or_si256(quants[second * 4 + j], moved[j]);
            }
        }
    }
    quants
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn unpack_scales<F: Format>(scales: &[u8], half: usize, index: usize) -> (__m256, __m256) {
    let shared = match F::SCALES {
        Scales::Plain | Scales::Min => 1,
        Scales::SuperMin | Scales::SuperHalves => SUPER,
    };
    let run = &scales[index / shared * scale_bytes(F::SCALES)..][..scale_bytes(F::SCALES)];
    let words = run.as_chunks::<{ 2 * GROUP }>().0;
    let d = _mm256_cvtph_ps(load_half(&words[0], half));
    match F::SCALES {
        Scales::Plain => (d, _mm256_setzero_ps()),
        Scales::Min => (d, _mm256_cvtph_ps(load_half(&words[1], half))),
        Scales::SuperMin => {
            let m = _mm256_cvtph_ps(load_half(&words[1], half));
            let sub = &words[2 + index % SUPER];
            // SAFETY: 16 scales, then 16 minima; the reads of eight of them need no alignment.
            let (scale, min) = unsafe {
                let first = sub.as_ptr().add(half * 8);
                (_mm_loadl_epi64(first.cast()), _mm_loadl_epi64(first.add(GROUP).cast()))
            };
            let scale = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(scale));
            let min = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(min));
            let negative = _mm256_xor_ps(_mm256_mul_ps(m, min), _mm256_set1_ps(-0.0));
            (_mm256_mul_ps(d, scale), negative)
        }
        Scales::SuperHalves => {
            let pairs = _mm256_cvtepi8_epi16(load_half(&words[1 + index % SUPER], half));
            (d, _mm256_castsi256_ps(pairs))
        }
    }
}

/// Scales the exact integer part of each token and adds it, and the part of the minimum.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::matmul::x86) fn finish<F: Format, const N: usize>(
    tile: &Tile,
    quads: [&Quad; 2],
    integers: [__m256; N],
    sums: &mut [__m256; N],
) {
    for n in 0..N {
        let (quad, lane) = (quads[n / QUAD], n % QUAD);
        let scale = _mm256_mul_ps(tile.scale, _mm256_set1_ps(quad.scale[lane]));
        sums[n] = _mm256_fmadd_ps(scale, integers[n], sums[n]);
        if matches!(F::SCALES, Scales::Min | Scales::SuperMin) {
            sums[n] = _mm256_fmadd_ps(tile.extra, _mm256_set1_ps(quad.sum[lane]), sums[n]);
        }
    }
}

/// The sums of each token, for half `half` of its results.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::matmul::x86) fn store(sums: &[__m256], half: usize, results: &mut [Sixteen]) {
    for (sum, result) in sums.iter().zip(results) {
        // SAFETY: each half of a result is eight floats.
        unsafe { _mm256_storeu_ps(result.as_chunks_mut::<8>().0[half].as_mut_ptr(), *sum) };
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load(bytes: &[u8; VECTOR], half: usize) -> __m256i {
    // SAFETY: the reference is to 32 bytes, and the load needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_chunks::<32>().0[half].as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_half(bytes: &[u8; 2 * GROUP], half: usize) -> __m128i {
    // SAFETY: the reference is to 16 bytes, and the load needs no alignment.
    unsafe { _mm_loadu_si128(bytes.as_chunks::<16>().0[half].as_ptr().cast()) }
}
