//! The products with AVX2: a tile is up to six rows x one panel (four for bytes), whose sums stay in registers.
#![allow(
    clippy::needless_range_loop,
    reason = "an index over a constant runs through several arrays and unrolls"
)]

use super::{ByteRows, Bytes, Floats, LANES, Outputs, Rows, STEP};
use crate::lanes::x86::Avx2;
use std::arch::x86_64::*;

/// Rows of a tile of floats: twelve sums, two registers of weights and one of activations.
const FLOAT_TILE: usize = 6;
/// Rows of a tile of bytes: eight sums, and four registers of weights, because each is widened to two.
const BYTE_TILE: usize = 4;

pub(super) fn floats(_proof: Avx2, panels: Floats<'_>, rows: Rows<'_>, results: &mut [Outputs]) {
    for p in 0..panels.count() {
        let panel = panels.panel(p);
        for (tile, results) in results[..rows.count].chunks_mut(FLOAT_TILE).enumerate() {
            let first = tile * FLOAT_TILE;
            // SAFETY: an `Avx2` exists only where the processor has AVX2 and FMA.
            unsafe {
                match results.len() {
                    1 => float_tile::<1>(panel, rows, first, p, results),
                    2 => float_tile::<2>(panel, rows, first, p, results),
                    3 => float_tile::<3>(panel, rows, first, p, results),
                    4 => float_tile::<4>(panel, rows, first, p, results),
                    5 => float_tile::<5>(panel, rows, first, p, results),
                    _ => float_tile::<6>(panel, rows, first, p, results),
                }
            }
        }
    }
}

pub(super) fn bytes(_proof: Avx2, panels: Bytes<'_>, rows: ByteRows<'_>, results: &mut [Outputs]) {
    for p in 0..panels.count() {
        for (tile, results) in results[..rows.count].chunks_mut(BYTE_TILE).enumerate() {
            let first = tile * BYTE_TILE;
            // SAFETY: as above.
            unsafe {
                match results.len() {
                    1 => byte_tile::<1>(panels, rows, first, p, results),
                    2 => byte_tile::<2>(panels, rows, first, p, results),
                    3 => byte_tile::<3>(panels, rows, first, p, results),
                    _ => byte_tile::<4>(panels, rows, first, p, results),
                }
            }
        }
    }
}

#[target_feature(enable = "avx2,fma")]
fn float_tile<const M: usize>(panel: &[[f32; LANES]], rows: Rows<'_>, first: usize, p: usize, results: &mut [Outputs]) {
    let mut values: [&[f32]; M] = [&[]; M];
    for m in 0..M {
        values[m] = rows.row(first + m, panel.len());
    }
    let mut sums = [[_mm256_setzero_ps(); 2]; M];
    for (step, weights) in panel.iter().enumerate() {
        // SAFETY: `weights` is 16 floats.
        let w = unsafe {
            [
                _mm256_loadu_ps(weights.as_ptr()),
                _mm256_loadu_ps(weights.as_ptr().add(8)),
            ]
        };
        for m in 0..M {
            // SAFETY: each row has as many values as the panel has steps.
            let x = _mm256_set1_ps(unsafe { *values[m].get_unchecked(step) });
            sums[m][0] = _mm256_fmadd_ps(w[0], x, sums[m][0]);
            sums[m][1] = _mm256_fmadd_ps(w[1], x, sums[m][1]);
        }
    }
    for (sums, result) in sums.iter().zip(results) {
        let out = &mut result.as_chunks_mut::<LANES>().0[p];
        // SAFETY: `out` is 16 floats.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), sums[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), sums[1]);
        }
    }
}

/// Bytes widened to 16 bits, those at even and at odd places apart, so that no sum of products saturates.
#[target_feature(enable = "avx2,fma")]
fn byte_tile<const M: usize>(panels: Bytes<'_>, rows: ByteRows<'_>, first: usize, p: usize, results: &mut [Outputs]) {
    let groups = panels.groups();
    let low = _mm256_set1_epi16(255);
    let (weights, weight_sums) = panels.panel(p);
    let mut values: [&[[u8; STEP]]; M] = [&[]; M];
    let (mut row_scales, mut row_offsets) = ([&[0.0; 0][..]; M], [&[0.0; 0][..]; M]);
    for m in 0..M {
        (values[m], row_scales[m], row_offsets[m]) = rows.row(first + m, &panels);
    }
    assert!(values.iter().all(|row| row.len() == weights.len()));
    for group in 0..groups {
        let mut sums = [[_mm256_setzero_si256(); 2]; M];
        for step in panels.steps_of(group) {
            let weights = &weights[step];
            let mut even = [_mm256_setzero_si256(); 2];
            let mut odd = [_mm256_setzero_si256(); 2];
            for half in 0..2 {
                // SAFETY: `weights` is 64 bytes.
                let w = unsafe { _mm256_loadu_si256(weights.as_ptr().add(half * 32).cast()) };
                even[half] = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(w));
                odd[half] = _mm256_srai_epi16::<8>(w);
            }
            for m in 0..M {
                // SAFETY: each row has as many fours as there are steps.
                let x = _mm256_set1_epi32(i32::from_ne_bytes(unsafe { *values[m].get_unchecked(step) }));
                let (x_even, x_odd) = (_mm256_and_si256(x, low), _mm256_srli_epi16::<8>(x));
                for half in 0..2 {
                    let both = _mm256_add_epi32(
                        _mm256_madd_epi16(even[half], x_even),
                        _mm256_madd_epi16(odd[half], x_odd),
                    );
                    sums[m][half] = _mm256_add_epi32(sums[m][half], both);
                }
            }
        }
        for m in 0..M {
            let scale = _mm256_set1_ps(row_scales[m][group]);
            let offset = _mm256_set1_ps(row_offsets[m][group]);
            for half in 0..2 {
                let out = &mut results[m].as_chunks_mut::<8>().0[2 * p + half];
                let sum = &weight_sums[group].as_chunks::<8>().0[half];
                let scales = &panels.scales[p].as_chunks::<8>().0[half];
                // SAFETY: `out`, the sums and the scales are eight floats each.
                unsafe {
                    let before = if group == 0 {
                        _mm256_setzero_ps()
                    } else {
                        _mm256_loadu_ps(out.as_ptr())
                    };
                    let after = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(sums[m][half]), before);
                    let mut after = _mm256_fmadd_ps(offset, _mm256_loadu_ps(sum.as_ptr()), after);
                    if group + 1 == groups {
                        after = _mm256_mul_ps(after, _mm256_loadu_ps(scales.as_ptr()));
                    }
                    _mm256_storeu_ps(out.as_mut_ptr(), after);
                }
            }
        }
    }
}
