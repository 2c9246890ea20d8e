//! Integer products with AVX-512's `vpdpbusd` for a whole group: four unsigned times signed products and a 32-bit sum
//! for each of 16 rows in one instruction, which also reads and spreads the activations. It does not saturate, so
//! signed bytes become unsigned by adding 128, which is taken back like the offsets of the other types.

/// One or more intrinsics, allowed because a `Vnni` in scope is the proof that the processor has them. Functions made of
/// these are always inlined: eight tokens are more code than the compiler would inline by itself, and outside the loop
/// tiles and sums would go through memory.
macro_rules! has {
    ($e:expr) => {
        // SAFETY: a `Vnni` exists only where AVX2, FMA, F16C and the four parts of AVX-512 do.
        unsafe { $e }
    };
}

mod tile;

use super::format::Format;
use super::{VECTORS, four, halves};
use crate::activations::{QUAD, Quad};
use crate::isa::Vnni;
use crate::layout::{Quants, Scales};
use std::arch::x86_64::*;
pub(super) use tile::{Tile, finish, store, unpack};

/// A group is computed as a whole.
pub(super) const HALVES: usize = 1;
/// The sums of 16 rows.
pub(super) type Sums = __m512;

/// No sums yet.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn zero() -> Sums {
    _mm512_setzero_ps()
}

/// The exact integer part of each token, offsets and sub-scales included; below 2^24, so exact as a float too.
#[inline(always)]
pub(super) fn integers<F: Format, const N: usize>(proof: Vnni, tile: &Tile, quads: [&Quad; 2]) -> [__m512; N] {
    let mut out = has!([_mm512_setzero_ps(); N]);
    if F::SCALES == Scales::SuperHalves {
        // Vectors 0..4 are the first half of the columns, 4..8 the second, each with its own sub-scale.
        let pairs = has!(_mm512_castps_si512(tile.extra));
        let low = has!(_mm512_cvtepi32_ps(_mm512_srai_epi32::<16>(_mm512_slli_epi32::<16>(
            pairs
        ))));
        let high = has!(_mm512_cvtepi32_ps(_mm512_srai_epi32::<16>(pairs)));
        let offset = i32::from(-F::OFFSET);
        let first = dots::<N>(proof, tile, quads, 0..4, from_halves(proof, quads, offset & 0xffff));
        let second = dots::<N>(proof, tile, quads, 4..8, from_halves(proof, quads, offset << 16));
        for n in 0..N {
            let (first, second) = has!((_mm512_cvtepi32_ps(first[n]), _mm512_cvtepi32_ps(second[n])));
            out[n] = has!(_mm512_fmadd_ps(first, low, _mm512_mul_ps(second, high)));
        }
        return out;
    }
    let sums = match (F::QUANTS, F::OFFSET) {
        (Quants::S8, _) => dots::<N>(proof, tile, quads, 0..VECTORS, from_sums::<N, 4>(proof, quads)),
        (_, 16) => dots::<N>(proof, tile, quads, 0..VECTORS, from_sums::<N, 1>(proof, quads)),
        (_, 8) => dots::<N>(proof, tile, quads, 0..VECTORS, from_sums::<N, 0>(proof, quads)),
        _ => dots::<N>(proof, tile, quads, 0..VECTORS, has!([_mm512_setzero_si512(); N])),
    };
    for n in 0..N {
        out[n] = has!(_mm512_cvtepi32_ps(sums[n]));
    }
    out
}

/// What quants that are `8 << SHIFT` too large bring too much, as the first addend. A load: the units that multiply are
/// what the sums wait for.
#[inline(always)]
fn from_sums<const N: usize, const SHIFT: u32>(_proof: Vnni, quads: [&Quad; 2]) -> [__m512i; N] {
    let mut sums = has!([_mm512_setzero_si512(); N]);
    for n in 0..N {
        let surplus = has!(_mm512_set1_epi32(quads[n / QUAD].surplus[n % QUAD]));
        sums[n] = has!(_mm512_slli_epi32::<SHIFT>(surplus));
    }
    sums
}

/// As `from_sums`, for one half of the columns, or both: `offsets` is a pair of i16.
#[inline(always)]
fn from_halves<const N: usize>(_proof: Vnni, quads: [&Quad; 2], offsets: i32) -> [__m512i; N] {
    let mut sums = has!([_mm512_setzero_si512(); N]);
    for n in 0..N {
        let halves = has!(_mm512_set1_epi32(halves(quads, n)));
        sums[n] = has!(_mm512_dpwssd_epi32(sums[n], halves, _mm512_set1_epi32(offsets)));
    }
    sums
}

/// `sums` and the products of some vectors with each token. The tokens take turns: a sum waits for the one before it
/// longer than an instruction takes, and the processor does not look far enough ahead to find that much other work by
/// itself.
#[inline(always)]
fn dots<const N: usize>(
    _proof: Vnni,
    tile: &Tile,
    quads: [&Quad; 2],
    vectors: std::ops::Range<usize>,
    mut sums: [__m512i; N],
) -> [__m512i; N] {
    for j in vectors {
        for n in 0..N {
            let four = has!(_mm512_set1_epi32(four(quads, n, j)));
            sums[n] = has!(_mm512_dpbusd_epi32(sums[n], tile.quants[j], four));
        }
    }
    sums
}
