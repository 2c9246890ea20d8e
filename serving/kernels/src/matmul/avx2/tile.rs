//! One tile of 8 rows x 32 columns: unpacking it into byte vectors, and what its product with up to eight tokens
//! (two quads) becomes in floats. Loops are over constants and unroll.

use super::format::Format;
use crate::activations::{QUAD, Quad};
use crate::layout::{Quants, SUPER, Scales, scale_bytes};
use std::arch::x86_64::*;

/// Vectors of a tile: four columns of eight rows each.
pub(super) const VECTORS: usize = 8;

/// An unpacked tile: a byte a quant.
#[derive(Clone, Copy)]
pub(in crate::matmul) struct Tile {
    /// Vector `j`: columns `4j..4j+4` of row 0, of row 1, ….
    pub(super) quants: [__m256i; VECTORS],
    /// The f32 scale of each row.
    pub(super) scale: __m256,
    /// The f32 minimum of each row; for halves, bits of a pair of i16 sub-scales a row; else nothing.
    pub(super) extra: __m256,
}

/// Packed bytes that are needed soon; empty for none.
#[derive(Clone, Copy, Default)]
pub(super) struct Ahead<'a> {
    pub(super) quants: &'a [u8],
    pub(super) scales: &'a [u8],
}

impl Ahead<'_> {
    /// Asks for the quants of tile `index`, and for its scales.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn prefetch<F: Format>(self, index: usize) {
        let size = F::VECTORS * 32;
        if let Some(tile) = self.quants.get(index * size..(index + 1) * size) {
            for line in tile.chunks(64) {
                _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast());
            }
            // Where a type has fewer scales than 32 bytes a tile, some lines are asked for twice.
            if let Some(scale) = self.scales.get(index * 32) {
                _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(scale).cast());
            }
        }
    }
}

/// The sums of the two halves of token `n`, for every row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn halves(quads: [&Quad; 2], n: usize) -> __m256i {
    // SAFETY: the reference is to two 16-bit halves, and the read needs no alignment.
    _mm256_set1_epi32(unsafe { quads[n / QUAD].halves[n % QUAD].as_ptr().cast::<i32>().read_unaligned() })
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

/// Scales the exact integer part of each token and adds it, and the part of the minimum.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn finish<F: Format, const N: usize>(
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

/// Activations `4j..4j+4` of token `n`, for every row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn four(quads: [&Quad; 2], n: usize, j: usize) -> __m256i {
    let four = &quads[n / QUAD].quants[n % QUAD].as_chunks::<4>().0[j];
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
