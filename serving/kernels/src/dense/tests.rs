use super::*;
use crate::sample::{Random, bits};

/// Shapes with and without tails in outputs, inputs and rows.
const SHAPES: [(usize, usize); 5] = [(384, 384), (48, 1536), (16, 130), (50, 4), (7, 33)];

/// Groups of these tests: rows have one or several, whole ones or not.
const GROUP: usize = 128;

fn dense(precision: Precision, outputs: usize, inputs: usize, weights: &[f32]) -> Dense {
    let size = Dense::packed_bytes(precision, outputs, inputs).unwrap();
    Dense::pack(
        &mut Store::new(size).unwrap(),
        precision,
        GROUP,
        inputs,
        weights,
        vec![0.0; outputs],
    )
    .unwrap()
}

/// All outputs of all rows.
fn product(isa: Isa, dense: &Dense, rows: &[f32]) -> Vec<f32> {
    let inputs = dense.inputs();
    let count = rows.len() / inputs;
    let (stride, groups) = (padded(inputs), groups(inputs, GROUP));
    let (mut bytes, mut scales) = (vec![0; count * stride], vec![0.0; count * groups]);
    let mut offsets = scales.clone();
    for (row, values) in rows.chunks_exact(inputs).enumerate() {
        let at = row * groups..(row + 1) * groups;
        let bytes = &mut bytes[row * stride..][..stride];
        quantize_row(isa, GROUP, values, bytes, &mut scales[at.clone()], &mut offsets[at]);
    }
    let activations = match dense.precision() {
        Precision::F32 => Activations::Floats(Rows {
            data: rows,
            stride: inputs,
            count,
        }),
        Precision::Int8 => Activations::Bytes(ByteRows {
            bytes: &bytes,
            scales: &scales,
            offsets: &offsets,
            count,
        }),
    };
    let mut out = vec![f32::NAN; count * dense.outputs()];
    let mut results = vec![[f32::NAN; LANES * TOGETHER]; count];
    for index in 0..dense.pieces() {
        dense.product(isa, index, activations, &mut results);
        let piece = dense.piece(index);
        for (row, result) in results.iter().enumerate() {
            out[row * dense.outputs()..][piece.clone()].copy_from_slice(&result[..piece.len()]);
        }
    }
    out
}

#[test]
fn products_equal_plain_arithmetic_within_the_precision() {
    for precision in [Precision::F32, Precision::Int8] {
        for (outputs, inputs) in SHAPES {
            let weights = Random::new(50).floats(outputs * inputs);
            let rows: Vec<f32> = Random::new(51).floats(11 * inputs).iter().map(|x| x + 0.7).collect();
            let got = product(Isa::detect(), &dense(precision, outputs, inputs, &weights), &rows);
            let tolerance = match precision {
                Precision::F32 => 1e-6 * inputs as f64,
                Precision::Int8 => 0.02 * (inputs as f64).sqrt(),
            };
            for (got, (x, w)) in got.iter().zip(pairs(&rows, &weights, inputs)) {
                let want: f64 = x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
                assert!(
                    (f64::from(*got) - want).abs() <= tolerance,
                    "{precision:?} {outputs} x {inputs}: {got}, not {want}"
                );
            }
        }
    }
}

#[test]
fn every_instruction_set_gives_the_same_bits_for_every_number_of_rows() {
    for precision in [Precision::F32, Precision::Int8] {
        for (outputs, inputs) in SHAPES {
            let weights = Random::new(52).floats(outputs * inputs);
            let dense = dense(precision, outputs, inputs, &weights);
            let rows = Random::new(53).floats(17 * inputs);
            let all = product(Isa::scalar(), &dense, &rows);
            for isa in Isa::all() {
                for count in 1..=17 {
                    let some = product(isa, &dense, &rows[..count * inputs]);
                    assert_eq!(
                        bits(&some),
                        bits(&all[..count * outputs]),
                        "{precision:?}, {}",
                        isa.name()
                    );
                }
            }
        }
    }
}

#[test]
fn a_weight_far_above_the_others_of_its_row_does_not_make_them_coarse() {
    for (outputs, inputs) in [(50, 384), (7, 1536)] {
        let mut plain = Random::new(55).floats(outputs * inputs);
        for output in [0, 3, outputs - 1] {
            plain[output * inputs + 5 * output] = 40.0;
        }
        // No square of these is an f32.
        plain[inputs..2 * inputs].fill(1e-30);
        let weights = dense(Precision::Int8, outputs, inputs, &plain);
        assert_eq!(weights.outliers.len(), 3);
        let rows = Random::new(56).floats(2 * inputs);
        for isa in Isa::all() {
            let got = product(isa, &weights, &rows);
            for (got, (x, w)) in got.iter().zip(pairs(&rows, &plain, inputs)) {
                let want: f64 = x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
                let tolerance = 0.01 * (inputs as f64).sqrt() + 40.0 / 250.0;
                assert!(
                    (f64::from(*got) - want).abs() < tolerance,
                    "{}: {got}, not {want}",
                    isa.name()
                );
            }
            assert_eq!(
                bits(&got),
                bits(&product(Isa::scalar(), &weights, &rows)),
                "{}",
                isa.name()
            );
        }
    }
}

/// Each row with the weights of each output.
fn pairs<'a>(rows: &'a [f32], weights: &'a [f32], inputs: usize) -> impl Iterator<Item = (&'a [f32], &'a [f32])> {
    let rows = rows.chunks_exact(inputs);
    rows.flat_map(move |row| weights.chunks_exact(inputs).map(move |weights| (row, weights)))
}

#[test]
fn the_largest_bytes_do_not_overflow() {
    // Every weight is +-127, and the activations reach both ends of their range.
    for sign in [1.0, -1.0] {
        let weights = vec![sign; 16 * 1536];
        let dense = dense(Precision::Int8, 16, 1536, &weights);
        let rows: Vec<f32> = (0..8 * 1536).map(|i| if i % 128 == 0 { -1.0 } else { 252.0 }).collect();
        for isa in Isa::all() {
            for got in product(isa, &dense, &rows) {
                let want = sign * (1536.0 / 128.0) * (127.0 * 252.0 - 1.0);
                assert!(
                    (got - want).abs() <= want.abs() * 1e-5,
                    "{}: {got}, not {want}",
                    isa.name()
                );
            }
        }
    }
}

#[test]
fn zero_is_exact_in_bytes_and_a_value_that_is_not_finite_reaches_every_output() {
    for isa in Isa::all() {
        let mut values = Random::new(54).floats(200);
        values[..100].fill(0.0);
        values[130..].fill(0.25);
        let (mut bytes, mut scales, mut offsets) = (vec![0; 224], [0.0; 2], [0.0; 2]);
        quantize_row(isa, GROUP, &values, &mut bytes, &mut scales, &mut offsets);
        for (i, value) in values.iter().enumerate() {
            let got = scales[i / GROUP].mul_add(f32::from(bytes[i]), offsets[i / GROUP]);
            assert!(
                (got - value).abs() <= scales[i / GROUP] * 0.5001 + 1e-6,
                "{i}: {got}, not {value}"
            );
            assert!(*value != 0.0 || got.abs() < 1e-6);
        }
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            values[150] = bad;
            quantize_row(isa, GROUP, &values, &mut bytes, &mut scales, &mut offsets);
            assert!(!scales[0].is_nan() && scales[1].is_nan() && offsets[1].is_nan());
        }
    }
}
