//! Weights and activations as bytes.

use super::GROUP;
use crate::isa::Isa;
use crate::lanes::{LANES, lanes_fn};

/// Steps between the smallest and the largest value of a group: two less than there are, because the middle is moved to
/// a multiple of the step, so that zero is exact.
const STEPS: f32 = 253.0;
/// A group whose values differ by less is constant: the number of steps over the difference must stay finite.
const TINY: f32 = 1e-30;

/// The scale of a row of weights.
pub(super) fn weight_scale(row: &[f32]) -> f32 {
    row.iter().fold(0.0f32, |most, weight| most.max(weight.abs())) / 127.0
}

/// A weight in -127..=127; what is not finite makes the scale so, and with it every output.
pub(super) fn weight(weight: f32, scale: f32) -> i8 {
    if scale > 0.0 {
        (weight / scale).round_ties_even() as i8
    } else {
        0
    }
}

/// Quantises a row; `bytes` has whole 32s, and what is beyond the row is of no meaning (its weights are zero). A group
/// with a value that is not finite gets the scale NaN, which makes every output NaN.
pub(crate) fn quantize_row(isa: Isa, row: &[f32], bytes: &mut [u8], scales: &mut [f32], offsets: &mut [f32]) {
    let groups = row.chunks(GROUP).zip(bytes.chunks_mut(GROUP));
    for ((group, bytes), (scale, offset)) in groups.zip(scales.iter_mut().zip(offsets)) {
        (*scale, *offset) = quantize_group(isa, group, bytes);
    }
}

lanes_fn! {
    /// The scale and the offset of a group: `value = scale * byte + offset`.
    fn quantize_group(l, values: &[f32], bytes: &mut [u8]) -> (f32, f32) {
        let (mut largest, mut smallest) = (l.splat_wide(f32::NEG_INFINITY), l.splat_wide(f32::INFINITY));
        // x - x is NaN exactly for what is not finite.
        let mut wrong = l.splat_wide(0.0);
        let wide = values.chunks_exact(L::WIDE);
        let mut last = [values[0]; 2 * LANES];
        let rest = wide.remainder();
        last[..rest.len()].copy_from_slice(rest);
        for v in wide.chain((!rest.is_empty()).then_some(&last[..])) {
            let v = l.load_wide(v);
            largest = l.max_wide(v, largest);
            smallest = l.min_wide(v, smallest);
            wrong = l.add_wide(wrong, l.sub_wide(v, v));
        }
        let largest = l.max(l.low(largest), l.high(largest));
        let smallest = l.min(l.low(smallest), l.high(smallest));
        let (high, low) = (l.max_of(largest), -l.max_of(l.sub(l.splat(0.0), smallest)));
        let range = high - low;
        if l.sum(l.add_to_eight(l.splat(0.0), wrong)) != 0.0 || !range.is_finite() {
            bytes.fill(128);
            return (f32::NAN, f32::NAN);
        }
        // Which of the two zeros is the largest depends on the width of the lanes.
        let middle = (high + low) * 0.5 + 0.0;
        if range < TINY {
            bytes.fill(128);
            return (0.0, middle);
        }
        let (scale, inverse) = (range / STEPS, STEPS / range);
        let middle = (middle * inverse).round_ties_even() * scale;
        let (whole, rest) = values.as_chunks::<32>();
        let mut last = [middle; 32];
        last[..rest.len()].copy_from_slice(rest);
        let last = (!rest.is_empty()).then_some(&last);
        for (values, bytes) in whole.iter().chain(last).zip(bytes.as_chunks_mut::<32>().0) {
            let mut signed = [0i8; 32];
            l.quantize(values, middle, inverse, &mut signed);
            *bytes = signed.map(|signed| signed as u8 ^ 128);
        }
        (scale, middle - 128.0 * scale)
    }
}
