//! The products with AVX-512: a tile is up to eight rows x three panels, 24 sums in registers.
#![allow(
    clippy::needless_range_loop,
    reason = "an index over a constant runs through several arrays and unrolls"
)]

use super::{ByteRows, Bytes, Floats, LANES, Outputs, Rows, STEP, TOGETHER, padded};
use crate::isa::Vnni;
use std::arch::x86_64::*;

const _: () = assert!(TOGETHER == 3, "the largest `P`");

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

/// All steps with the sums in registers. All loops but that over the steps are over constants and have neither calls nor
/// checks in them, so that they unroll.
#[target_feature(enable = "avx512f,avx512vl,avx512vnni")]
fn float_tile<const M: usize, const P: usize>(
    panels: Floats<'_>,
    rows: Rows<'_>,
    first: usize,
    results: &mut [Outputs],
) {
    let Some(results) = results.first_chunk_mut::<M>() else {
        unreachable!("a tile of other rows")
    };
    let steps = panels.steps;
    let mut weights: [&[[f32; LANES]]; P] = [&[]; P];
    for p in 0..P {
        weights[p] = panels.panel(p);
    }
    let mut values: [&[f32]; M] = [&[]; M];
    for m in 0..M {
        values[m] = rows.row(first + m, steps);
    }
    assert!(weights.iter().all(|panel| panel.len() == steps) && values.iter().all(|row| row.len() == steps));
    let mut sums = [[_mm512_setzero_ps(); P]; M];
    for step in 0..steps {
        let mut w = [_mm512_setzero_ps(); P];
        for p in 0..P {
            // SAFETY: each of the slices has `steps` elements.
            w[p] = unsafe { _mm512_loadu_ps(weights[p].as_ptr().add(step).cast()) };
        }
        for m in 0..M {
            // SAFETY: as above.
            let x = _mm512_set1_ps(unsafe { *values[m].as_ptr().add(step) });
            for p in 0..P {
                sums[m][p] = _mm512_fmadd_ps(w[p], x, sums[m][p]);
            }
        }
    }
    for m in 0..M {
        for p in 0..P {
            // SAFETY: a result has room for `P` times 16 floats.
            unsafe { _mm512_storeu_ps(results[m].as_mut_ptr().add(p * LANES), sums[m][p]) };
        }
    }
}

/// A group after the other: its exact sums, and what they add to the results. All loops but that over the steps are over
/// constants and have neither calls nor checks in them, so that they unroll and the sums stay in registers.
#[target_feature(enable = "avx512f,avx512vl,avx512vnni")]
fn byte_tile<const M: usize, const P: usize>(
    panels: Bytes<'_>,
    rows: ByteRows<'_>,
    first: usize,
    results: &mut [Outputs],
) {
    let Some(results) = results.first_chunk_mut::<M>() else {
        unreachable!("a tile of other rows")
    };
    let (steps, groups) = (panels.steps, panels.groups());
    let stride = padded(steps * STEP);
    // One slice for all rows: a pointer and a stride fit into registers where `M` pointers do not.
    let values = &rows.bytes[first * stride..][..M * stride];
    let scales = &rows.scales[first * groups..][..M * groups];
    let offsets = &rows.offsets[first * groups..][..M * groups];
    let mut weights: [&[[i8; LANES * STEP]]; P] = [&[]; P];
    let mut totals: [&[[f32; LANES]]; P] = [&[]; P];
    for p in 0..P {
        (weights[p], totals[p]) = panels.panel(p);
    }
    assert!(weights.iter().all(|panel| panel.len() == steps) && totals.iter().all(|panel| panel.len() == groups));
    let mut after = [[_mm512_setzero_ps(); P]; M];
    for group in 0..groups {
        let mut sums = [[_mm512_setzero_si512(); P]; M];
        for step in panels.steps_of(group) {
            let mut w = [_mm512_setzero_si512(); P];
            for p in 0..P {
                // SAFETY: each of the slices has `steps` elements.
                w[p] = unsafe { _mm512_loadu_si512(weights[p].as_ptr().add(step).cast()) };
            }
            for m in 0..M {
                // SAFETY: a row has `steps` fours; the read needs no alignment.
                let four = unsafe {
                    values
                        .as_ptr()
                        .add(m * stride + step * STEP)
                        .cast::<i32>()
                        .read_unaligned()
                };
                let x = _mm512_set1_epi32(four);
                for p in 0..P {
                    sums[m][p] = _mm512_dpbusd_epi32(sums[m][p], x, w[p]);
                }
            }
        }
        let mut total = [_mm512_setzero_ps(); P];
        for p in 0..P {
            // SAFETY: each of the slices has `groups` elements, of sixteen floats.
            total[p] = unsafe { _mm512_loadu_ps(totals[p].as_ptr().add(group).cast()) };
        }
        for m in 0..M {
            let at = m * groups + group;
            // SAFETY: a row has `groups` of them.
            let (scale, offset) = unsafe { (*scales.as_ptr().add(at), *offsets.as_ptr().add(at)) };
            let (scale, offset) = (_mm512_set1_ps(scale), _mm512_set1_ps(offset));
            for p in 0..P {
                after[m][p] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(sums[m][p]), after[m][p]);
                after[m][p] = _mm512_fmadd_ps(offset, total[p], after[m][p]);
            }
        }
    }
    for m in 0..M {
        for p in 0..P {
            // SAFETY: a result has room for `P` times 16 floats, and the scales are 16 floats.
            unsafe {
                let scale = _mm512_loadu_ps(panels.scales[p].as_ptr());
                _mm512_storeu_ps(
                    results[m].as_mut_ptr().add(p * LANES),
                    _mm512_mul_ps(after[m][p], scale),
                );
            }
        }
    }
}
