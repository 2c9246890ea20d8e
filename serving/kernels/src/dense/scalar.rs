//! The portable products, and the definition of what every other one computes.

use super::{ByteRows, Bytes, Floats, LANES, Outputs, Rows, STEP};

pub(super) fn floats(panels: Floats<'_>, rows: Rows<'_>, results: &mut [Outputs]) {
    for (row, result) in results[..rows.count].iter_mut().enumerate() {
        for (panel, sums) in (0..panels.count()).zip(result.as_chunks_mut::<LANES>().0) {
            *sums = [0.0; LANES];
            for (weights, &x) in panels.panel(panel).iter().zip(rows.row(row, panels.steps)) {
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    *sum = weight.mul_add(x, *sum);
                }
            }
        }
    }
}

pub(super) fn bytes(panels: Bytes<'_>, rows: ByteRows<'_>, results: &mut [Outputs]) {
    for (row, result) in results[..rows.count].iter_mut().enumerate() {
        for (panel, sums) in (0..panels.count()).zip(result.as_chunks_mut::<LANES>().0) {
            *sums = [0.0; LANES];
            for group in 0..panels.groups() {
                let (weights, weight_sums) = panels.group(panel, group);
                let (fours, scale, offset) = rows.group(row, panels.steps, group);
                let mut integers = [0i32; LANES];
                for (weights, four) in weights.iter().zip(fours) {
                    for (byte, &weight) in weights.iter().enumerate() {
                        integers[byte / STEP] += i32::from(weight) * i32::from(four[byte % STEP]);
                    }
                }
                for lane in 0..LANES {
                    let sum = scale.mul_add(integers[lane] as f32, sums[lane]);
                    sums[lane] = offset.mul_add(weight_sums[lane], sum);
                }
            }
            for (sum, scale) in sums.iter_mut().zip(&panels.scales[panel]) {
                *sum *= scale;
            }
        }
    }
}
