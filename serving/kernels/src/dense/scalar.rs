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
        let (fours, scales, offsets) = rows.row(row, &panels);
        for (panel, sums) in (0..panels.count()).zip(result.as_chunks_mut::<LANES>().0) {
            let (weights, weight_sums) = panels.panel(panel);
            *sums = [0.0; LANES];
            for group in 0..panels.groups() {
                let steps = panels.steps_of(group);
                let mut integers = [0i32; LANES];
                for (weights, four) in weights[steps.clone()].iter().zip(&fours[steps]) {
                    for (byte, &weight) in weights.iter().enumerate() {
                        integers[byte / STEP] += i32::from(weight) * i32::from(four[byte % STEP]);
                    }
                }
                for lane in 0..LANES {
                    let sum = scales[group].mul_add(integers[lane] as f32, sums[lane]);
                    sums[lane] = offsets[group].mul_add(weight_sums[group][lane], sum);
                }
            }
            for (sum, scale) in sums.iter_mut().zip(&panels.scales[panel]) {
                *sum *= scale;
            }
        }
    }
}
