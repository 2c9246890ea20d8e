//! Weights and activations as bytes.

use crate::isa::Isa;
use crate::lanes::{LANES, lanes_fn};

/// Steps between the smallest and the largest value of a group: two less than there are, because the middle is moved to
/// a multiple of the step, so that zero is exact.
const STEPS: f32 = 253.0;
/// A group whose values differ by less is constant: the number of steps over the difference must stay finite.
const TINY: f32 = 1e-30;

/// How many times the root mean square of its row a weight may have. At most one of 256 has more than 16 times.
const LARGEST: f32 = 16.0;

/// What the bytes of a row of weights can be.
pub(super) struct WeightRange {
    /// A step.
    pub(super) scale: f32,
    /// The largest magnitude that is not left out.
    limit: f32,
}

impl WeightRange {
    pub(super) fn of(row: &[f32]) -> WeightRange {
        // In f64, where the square of no f32 is lost: else all weights of a row could be left out.
        let squares: f64 = row.iter().map(|&weight| f64::from(weight) * f64::from(weight)).sum();
        let mut range = WeightRange {
            scale: 0.0,
            limit: LARGEST * (squares / row.len() as f64).sqrt() as f32,
        };
        let kept = row.iter().filter(|weight| !range.leaves_out(**weight));
        range.scale = kept.fold(0.0f32, |most, weight| most.max(weight.abs())) / 127.0;
        range
    }

    /// Whether a weight is no byte.
    pub(super) fn leaves_out(&self, weight: f32) -> bool {
        weight.abs() > self.limit
    }

    /// A weight in -127..=127; what is not finite makes the scale so, and with it every output.
    pub(super) fn byte(&self, weight: f32) -> i8 {
        if self.scale > 0.0 && !self.leaves_out(weight) {
            (weight / self.scale).round_ties_even() as i8
        } else {
            0
        }
    }
}

/// Quantises a row in groups of `group`; `bytes` has whole 32s, and what is beyond the row is of no meaning (its weights are zero). A group
/// with a value that is not finite gets the scale NaN, which makes every output NaN.
pub(crate) fn quantize_row(
    isa: Isa,
    group: usize,
    row: &[f32],
    bytes: &mut [u8],
    scales: &mut [f32],
    offsets: &mut [f32],
) {
    let groups = row.chunks(group).zip(bytes.chunks_mut(group));
    for ((group, bytes), (scale, offset)) in groups.zip(scales.iter_mut().zip(offsets)) {
        (*scale, *offset) = quantize_group(isa, group, bytes);
    }
}

lanes_fn! {
    /// The scale and the offset of a group: `value = scale * byte + offset`.
    fn quantize_group(l, values: &[f32], bytes: &mut [u8]) -> (f32, f32) {
        // Two of each side by side: each waits for itself alone.
        let mut largest = [l.splat_wide(f32::NEG_INFINITY); 2];
        let mut smallest = [l.splat_wide(f32::INFINITY); 2];
        // x - x is NaN exactly for what is not finite.
        let mut wrong = [l.splat_wide(0.0); 2];
        let pairs = values.chunks_exact(2 * L::WIDE);
        let mut last = [values[0]; 4 * LANES];
        let rest = pairs.remainder();
        last[..rest.len()].copy_from_slice(rest);
        for pair in pairs.chain((!rest.is_empty()).then_some(&last[..2 * L::WIDE])) {
            for i in 0..2 {
                let v = l.load_wide(&pair[i * L::WIDE..]);
                largest[i] = l.max_wide(v, largest[i]);
                smallest[i] = l.min_wide(v, smallest[i]);
                wrong[i] = l.add_wide(wrong[i], l.sub_wide(v, v));
            }
        }
        let largest = l.max_wide(largest[0], largest[1]);
        let smallest = l.min_wide(smallest[0], smallest[1]);
        let wrong = l.add_wide(wrong[0], wrong[1]);
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
