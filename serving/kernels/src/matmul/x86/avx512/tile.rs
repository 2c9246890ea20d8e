//! One tile of 16 rows x 32 columns: unpacking it into byte vectors, and what its product with some tokens becomes in
//! floats. Loops are over constants and unroll.

use super::super::{Packed, VECTORS, format::Format};
use crate::activations::{QUAD, Quad};
use crate::isa::Vnni;
use crate::layout::{GROUP, Quants, SUPER, Scales, VECTOR, scale_bytes};
use crate::matmul::Sixteen;
use std::arch::x86_64::*;

/// An unpacked tile: a byte a quant, all of them unsigned.
#[derive(Clone, Copy)]
pub(in crate::matmul::x86) struct Tile {
    /// Vector `j`: columns `4j..4j+4` of row 0, of row 1, ….
    pub(super) quants: [__m512i; VECTORS],
    /// The f32 scale of each row.
    pub(super) scale: __m512,
    /// The f32 minimum of each row; for halves, bits of a pair of i16 sub-scales a row; else nothing.
    pub(super) extra: __m512,
}

/// Reads tile `index` of a group.
#[inline(always)]
pub(in crate::matmul::x86) fn unpack<F: Format>(proof: Vnni, packed: Packed<'_>, _half: usize, index: usize) -> Tile {
    let (scale, extra) = unpack_scales::<F>(proof, packed.scales, index);
    Tile {
        quants: unpack_quants::<F>(proof, packed.tile::<F>(index)),
        scale,
        extra,
    }
}

#[inline(always)]
fn unpack_quants<F: Format>(proof: Vnni, packed: &[[u8; VECTOR]]) -> [__m512i; VECTORS] {
    let mut quants = has!([_mm512_setzero_si512(); VECTORS]);
    if F::QUANTS == Quants::S8 {
        for j in 0..VECTORS {
            let signed = load(proof, &packed[j]);
            quants[j] = has!(_mm512_xor_si512(signed, _mm512_set1_epi8(-128)));
        }
        return quants;
    }
    let mask = has!(_mm512_set1_epi8(15));
    for j in 0..4 {
        let nibbles = load(proof, &packed[j]);
        quants[j] = has!(_mm512_and_si512(nibbles, mask));
        quants[j + 4] = has!(_mm512_and_si512(_mm512_srli_epi16::<4>(nibbles), mask));
    }
    /// Some bits of each byte of a vector, moved without leaving their byte, join those that are there.
    macro_rules! join {
        ($j:expr, $high:expr, $bits:expr, $shift:ident $by:literal) => {
            quants[$j] = has!({
                let bits = _mm512_and_si512($high, _mm512_set1_epi8($bits as u8 as i8));
                _mm512_or_si512(quants[$j], $shift::<$by>(bits))
            })
        };
    }
    if F::QUANTS == Quants::U5 {
        // Bit j of the fifth vector becomes bit 4.
        let high = load(proof, &packed[4]);
        join!(0, high, 1, _mm512_slli_epi16 4);
        join!(1, high, 1 << 1, _mm512_slli_epi16 3);
        join!(2, high, 1 << 2, _mm512_slli_epi16 2);
        join!(3, high, 1 << 3, _mm512_slli_epi16 1);
        join!(4, high, 1 << 4, _mm512_slli_epi16 0);
        join!(5, high, 1 << 5, _mm512_srli_epi16 1);
        join!(6, high, 1 << 6, _mm512_srli_epi16 2);
        join!(7, high, 1 << 7, _mm512_srli_epi16 3);
    }
    if F::QUANTS == Quants::U6 {
        // Two bits of a byte of vector 4 or 5 become bits 4 and 5.
        for half in 0..2 {
            let high = load(proof, &packed[4 + half]);
            join!(half * 4, high, 3, _mm512_slli_epi16 4);
            join!(half * 4 + 1, high, 3 << 2, _mm512_slli_epi16 2);
            join!(half * 4 + 2, high, 3 << 4, _mm512_slli_epi16 0);
            join!(half * 4 + 3, high, 3 << 6, _mm512_srli_epi16 2);
        }
    }
    quants
}

#[inline(always)]
fn unpack_scales<F: Format>(proof: Vnni, scales: &[u8], index: usize) -> (__m512, __m512) {
    let shared = match F::SCALES {
        Scales::Plain | Scales::Min => 1,
        Scales::SuperMin | Scales::SuperHalves => SUPER,
    };
    let run = &scales[index / shared * scale_bytes(F::SCALES)..][..scale_bytes(F::SCALES)];
    let words = run.as_chunks::<{ 2 * GROUP }>().0;
    let d = has!(_mm512_cvtph_ps(load_half(proof, &words[0])));
    match F::SCALES {
        Scales::Plain => (d, has!(_mm512_setzero_ps())),
        Scales::Min => (d, has!(_mm512_cvtph_ps(load_half(proof, &words[1])))),
        Scales::SuperMin => {
            let (m, sub) = (load_half(proof, &words[1]), load_half(proof, &words[2 + index % SUPER]));
            // 16 scales, then 16 minima.
            has!({
                let scale = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm256_castsi256_si128(sub)));
                let min = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm256_extracti128_si256::<1>(sub)));
                let min = _mm512_castps_si512(_mm512_mul_ps(_mm512_cvtph_ps(m), min));
                let negative = _mm512_xor_si512(min, _mm512_set1_epi32(i32::MIN));
                (_mm512_mul_ps(d, scale), _mm512_castsi512_ps(negative))
            })
        }
        Scales::SuperHalves => {
            let pairs = load_half(proof, &words[1 + index % SUPER]);
            (d, has!(_mm512_castsi512_ps(_mm512_cvtepi8_epi16(pairs))))
        }
    }
}

/// Scales the exact integer part of each token and adds it, and the part of the minimum.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(in crate::matmul::x86) fn finish<F: Format, const N: usize>(
    tile: &Tile,
    quads: [&Quad; 2],
    integers: [__m512; N],
    sums: &mut [__m512; N],
) {
    for n in 0..N {
        let (quad, lane) = (quads[n / QUAD], n % QUAD);
        let scale = _mm512_mul_ps(tile.scale, _mm512_set1_ps(quad.scale[lane]));
        sums[n] = _mm512_fmadd_ps(scale, integers[n], sums[n]);
        if matches!(F::SCALES, Scales::Min | Scales::SuperMin) {
            sums[n] = _mm512_fmadd_ps(tile.extra, _mm512_set1_ps(quad.sum[lane]), sums[n]);
        }
    }
}

/// The sums of each token.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(in crate::matmul::x86) fn store(sums: &[__m512], _half: usize, results: &mut [Sixteen]) {
    for (sum, result) in sums.iter().zip(results) {
        // SAFETY: a result is sixteen floats.
        unsafe { _mm512_storeu_ps(result.as_mut_ptr(), *sum) };
    }
}

#[inline(always)]
fn load(_proof: Vnni, bytes: &[u8; VECTOR]) -> __m512i {
    // The reference is to 64 bytes, and the load needs no alignment.
    has!(_mm512_loadu_si512(bytes.as_ptr().cast()))
}

#[inline(always)]
fn load_half(_proof: Vnni, bytes: &[u8; 2 * GROUP]) -> __m256i {
    // The reference is to 32 bytes, and the load needs no alignment.
    has!(_mm256_loadu_si256(bytes.as_ptr().cast()))
}
