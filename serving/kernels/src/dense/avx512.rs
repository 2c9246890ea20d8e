//! The products with AVX-512: a tile is up to eight rows x three panels, 24 sums in registers.
#![allow(
    clippy::needless_range_loop,
    reason = "an index over a constant runs through several arrays and unrolls"
)]

use super::{ByteRows, Bytes, Floats, LANES, Outputs, Rows, STEP};
use crate::isa::Vnni;
use std::arch::x86_64::*;

/// Rows of a tile.
const TILE: usize = 8;

/// Calls `$tile::<rows, panels>` for counts that are known only now.
macro_rules! with_counts {
    ($tile:ident, $rows:expr, $panels:expr, $arguments:tt) => {
        match ($rows, $panels) {
            (1, 1) => with_counts!(@ $tile, 1, 1, $arguments),
            (2, 1) => with_counts!(@ $tile, 2, 1, $arguments),
            (3, 1) => with_counts!(@ $tile, 3, 1, $arguments),
            (4, 1) => with_counts!(@ $tile, 4, 1, $arguments),
            (5, 1) => with_counts!(@ $tile, 5, 1, $arguments),
            (6, 1) => with_counts!(@ $tile, 6, 1, $arguments),
            (7, 1) => with_counts!(@ $tile, 7, 1, $arguments),
            (_, 1) => with_counts!(@ $tile, 8, 1, $arguments),
            (1, 2) => with_counts!(@ $tile, 1, 2, $arguments),
            (2, 2) => with_counts!(@ $tile, 2, 2, $arguments),
            (3, 2) => with_counts!(@ $tile, 3, 2, $arguments),
            (4, 2) => with_counts!(@ $tile, 4, 2, $arguments),
            (5, 2) => with_counts!(@ $tile, 5, 2, $arguments),
            (6, 2) => with_counts!(@ $tile, 6, 2, $arguments),
            (7, 2) => with_counts!(@ $tile, 7, 2, $arguments),
            (_, 2) => with_counts!(@ $tile, 8, 2, $arguments),
            (1, _) => with_counts!(@ $tile, 1, 3, $arguments),
            (2, _) => with_counts!(@ $tile, 2, 3, $arguments),
            (3, _) => with_counts!(@ $tile, 3, 3, $arguments),
            (4, _) => with_counts!(@ $tile, 4, 3, $arguments),
            (5, _) => with_counts!(@ $tile, 5, 3, $arguments),
            (6, _) => with_counts!(@ $tile, 6, 3, $arguments),
            (7, _) => with_counts!(@ $tile, 7, 3, $arguments),
            (_, _) => with_counts!(@ $tile, 8, 3, $arguments),
        }
    };
    (@ $tile:ident, $m:literal, $p:literal, ($($argument:expr),*)) => {
        $tile::<$m, $p>($($argument),*)
    };
}

pub(super) fn floats(_proof: Vnni, panels: Floats<'_>, rows: Rows<'_>, results: &mut [Outputs]) {
    for (tile, results) in results[..rows.count].chunks_mut(TILE).enumerate() {
        let first = tile * TILE;
        // SAFETY: a `Vnni` exists only where the processor has these parts of AVX-512.
        unsafe {
            with_counts!(
                float_tile,
                results.len(),
                panels.count(),
                (panels, rows, first, results)
            )
        }
    }
}

pub(super) fn bytes(_proof: Vnni, panels: Bytes<'_>, rows: ByteRows<'_>, results: &mut [Outputs]) {
    for (tile, results) in results[..rows.count].chunks_mut(TILE).enumerate() {
        let first = tile * TILE;
        // SAFETY: as above.
        unsafe { with_counts!(byte_tile, results.len(), panels.count(), (panels, rows, first, results)) }
    }
}

#[target_feature(enable = "avx512f,avx512vl,avx512vnni")]
fn float_tile<const M: usize, const P: usize>(
    panels: Floats<'_>,
    rows: Rows<'_>,
    first: usize,
    results: &mut [Outputs],
) {
    let steps = panels.steps;
    let mut weights: [&[[f32; LANES]]; P] = [&[]; P];
    for p in 0..P {
        weights[p] = panels.panel(p);
    }
    let mut values: [&[f32]; M] = [&[]; M];
    for m in 0..M {
        values[m] = rows.row(first + m, steps);
    }
    let sums = float_sums(weights, values, steps);
    for (sums, result) in sums.iter().zip(results) {
        for (sum, out) in sums.iter().zip(result.as_chunks_mut::<LANES>().0) {
            // SAFETY: `out` is 16 floats.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), *sum) };
        }
    }
}

#[target_feature(enable = "avx512f,avx512vl,avx512vnni")]
fn byte_tile<const M: usize, const P: usize>(
    panels: Bytes<'_>,
    rows: ByteRows<'_>,
    first: usize,
    results: &mut [Outputs],
) {
    let groups = panels.groups();
    for group in 0..groups {
        let steps = panels.group(0, group).0.len();
        let mut weights: [&[[i8; LANES * STEP]]; P] = [&[]; P];
        for p in 0..P {
            weights[p] = &panels.group(p, group).0[..steps];
        }
        let mut values: [&[[u8; STEP]]; M] = [&[]; M];
        for m in 0..M {
            values[m] = &rows.group(first + m, panels.steps, group).0[..steps];
        }
        let sums = byte_sums(weights, values, steps);
        for m in 0..M {
            let (_, scale, offset) = rows.group(first + m, panels.steps, group);
            let (scale, offset) = (_mm512_set1_ps(scale), _mm512_set1_ps(offset));
            for p in 0..P {
                let out = &mut results[m].as_chunks_mut::<LANES>().0[p];
                let sum = panels.group(p, group).1;
                // SAFETY: `out`, the sums and the scales are 16 floats each.
                unsafe {
                    let before = if group == 0 {
                        _mm512_setzero_ps()
                    } else {
                        _mm512_loadu_ps(out.as_ptr())
                    };
                    let after = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(sums[m][p]), before);
                    let mut after = _mm512_fmadd_ps(offset, _mm512_loadu_ps(sum.as_ptr()), after);
                    if group + 1 == groups {
                        after = _mm512_mul_ps(after, _mm512_loadu_ps(panels.scales[p].as_ptr()));
                    }
                    _mm512_storeu_ps(out.as_mut_ptr(), after);
                }
            }
        }
    }
}

/// The sums over all steps, in registers: a function of its own, because sums that are indexed by a number known only at
/// run time, as the caller does, would lie in memory here too.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512vl,avx512vnni")]
fn float_sums<const M: usize, const P: usize>(
    weights: [&[[f32; LANES]]; P],
    values: [&[f32]; M],
    steps: usize,
) -> [[__m512; P]; M] {
    assert!(weights.iter().all(|panel| panel.len() == steps) && values.iter().all(|row| row.len() == steps));
    let (weights, values) = (weights.map(<[_]>::as_ptr), values.map(<[_]>::as_ptr));
    let mut sums = [[_mm512_setzero_ps(); P]; M];
    for step in 0..steps {
        let mut w = [_mm512_setzero_ps(); P];
        for p in 0..P {
            // SAFETY: each of the slices has `steps` elements.
            w[p] = unsafe { _mm512_loadu_ps(weights[p].add(step).cast()) };
        }
        for m in 0..M {
            // SAFETY: as above.
            let x = _mm512_set1_ps(unsafe { *values[m].add(step) });
            for p in 0..P {
                sums[m][p] = _mm512_fmadd_ps(w[p], x, sums[m][p]);
            }
        }
    }
    sums
}

/// As `float_sums`, of products of four bytes a step.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512vl,avx512vnni")]
fn byte_sums<const M: usize, const P: usize>(
    weights: [&[[i8; LANES * STEP]]; P],
    values: [&[[u8; STEP]]; M],
    steps: usize,
) -> [[__m512i; P]; M] {
    assert!(weights.iter().all(|panel| panel.len() == steps) && values.iter().all(|row| row.len() == steps));
    let (weights, values) = (weights.map(<[_]>::as_ptr), values.map(<[_]>::as_ptr));
    let mut sums = [[_mm512_setzero_si512(); P]; M];
    for step in 0..steps {
        let mut w = [_mm512_setzero_si512(); P];
        for p in 0..P {
            // SAFETY: each of the slices has `steps` elements.
            w[p] = unsafe { _mm512_loadu_si512(weights[p].add(step).cast()) };
        }
        for m in 0..M {
            // SAFETY: as above; the read needs no alignment.
            let x = _mm512_set1_epi32(unsafe { values[m].add(step).cast::<i32>().read_unaligned() });
            for p in 0..P {
                sums[m][p] = _mm512_dpbusd_epi32(sums[m][p], x, w[p]);
            }
        }
    }
    sums
}
