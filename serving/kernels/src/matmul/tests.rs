//! The product against plain arithmetic, at the bounds of the integer sums, and against itself on
//! other instruction sets, batches and numbers of threads.

use super::{Columns, Items, Scratch};
use crate::activations::Activations;
use crate::dequantize::dequantize;
use crate::isa::Isa;
use crate::matrix::Matrix;
use crate::pool::{Pool, Shared, Stages};
use crate::sample::{Random, bits, pack, scale_places, weights};
use crate::tensor_type::TensorType;
use half::f16;

const QUANTISED: [TensorType; 8] = [
    TensorType::Q4_0,
    TensorType::Q4_1,
    TensorType::Q5_0,
    TensorType::Q5_1,
    TensorType::Q8_0,
    TensorType::Q4K,
    TensorType::Q5K,
    TensorType::Q6K,
];

fn activations(data: &[f32], cols: usize) -> Activations {
    let rows = data.len() / cols;
    let mut activations = Activations::new(rows, cols, true).unwrap();
    let target = activations.target(rows);
    for (row, values) in data.chunks_exact(cols).enumerate() {
        // SAFETY: one thread.
        unsafe { target.write(Isa::detect(), row, 0, values) };
    }
    activations
}

/// Products of the activations with several matrices, computed as a step does.
fn products<const N: usize>(
    pool: &Pool,
    matrices: [&Matrix; N],
    rows: usize,
    activations: &mut Activations,
) -> [Vec<f32>; N] {
    let mut outs = matrices.map(|matrix| vec![f32::NAN; rows * matrix.rows()]);
    let mut parts = outs.iter_mut().map(|out| Shared::new(out));
    let shared: [Shared<'_, f32>; N] = std::array::from_fn(|_| parts.next().unwrap());
    let target = activations.target(rows);
    let items = Items::new(matrices, rows);
    pool.run(&mut Stages::new(pool, 1), |member| {
        let mut scratch = Scratch::new();
        member.stage(items.count(), |index| {
            let item = items.get(index);
            let matrix = matrices[item.matrix];
            // SAFETY: nobody writes the activations any more.
            let input = unsafe { target.input() };
            let out = Columns::new(shared[item.matrix], matrix.rows());
            item.products(member.isa(), matrix, input, &mut scratch, |group, tokens, results| {
                // SAFETY: no other item has this group and these tokens.
                unsafe { out.set(member.isa(), group, tokens.start, results, None) };
            });
        });
    });
    outs
}

fn product(pool: &Pool, matrix: &Matrix, rows: usize, activations: &mut Activations) -> Vec<f32> {
    let [out] = products(pool, [matrix], rows, activations);
    out
}

/// The product in f64 over the reference values of the weights and the given activations.
fn exact(ty: TensorType, rows: usize, cols: usize, bytes: &[u8], data: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let mut plain = vec![0.0; rows * cols];
    dequantize(ty, bytes, &mut plain).unwrap();
    let (mut sums, mut magnitudes) = (Vec::new(), Vec::new());
    for x in data.chunks_exact(cols) {
        for w in plain.chunks_exact(cols) {
            let products = || w.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x));
            sums.push(products().sum());
            magnitudes.push(products().map(f64::abs).sum());
        }
    }
    (sums, magnitudes)
}

/// Activations that quantise without error: whole numbers with a 127 in each block.
fn whole_numbers(random: &mut Random, rows: usize, cols: usize) -> Vec<f32> {
    let mut data: Vec<f32> = (0..rows * cols).map(|_| (random.float() * 127.0).round()).collect();
    data.iter_mut().step_by(32).for_each(|x| *x = 127.0);
    data
}

#[test]
fn products_equal_plain_arithmetic_for_every_type() {
    let mut random = Random::new(10);
    for ty in TensorType::ALL {
        for isa in Isa::all() {
            let pool = Pool::with_isa(2, isa).unwrap();
            for (tokens, rows, cols) in [(1, 8, 256), (3, 13, 768), (9, 21, 512)] {
                let bytes = weights(ty, rows, cols, &mut random);
                let data = whole_numbers(&mut random, tokens, cols);
                let matrix = pack(ty, rows, cols, &bytes).unwrap();
                let got = product(&pool, &matrix, tokens, &mut activations(&data, cols));
                let (want, magnitude) = exact(ty, rows, cols, &bytes, &data);
                for ((got, want), magnitude) in got.iter().zip(want).zip(magnitude) {
                    let error = (f64::from(*got) - want).abs();
                    assert!(error <= magnitude * 2e-6, "{ty} on {}: {got}, not {want}", isa.name());
                }
            }
        }
    }
}

/// Every quant of every weight at its largest (and, for signed bytes, also at its smallest), with
/// activations of ±127 in patterns that drive every 16-bit sum to its bounds.
#[test]
fn the_largest_quants_against_the_largest_activations_are_exact() {
    let cols = 512;
    let signs: [fn(usize) -> bool; 8] = [
        |_| true,
        |_| false,
        |i| i % 2 == 0,
        |i| i / 2 % 2 == 0,
        |i| i / 4 % 2 == 0,
        |i| i / 8 % 2 == 0,
        |i| i / 16 % 2 == 0,
        |i| i / 32 % 2 == 0,
    ];
    let data: Vec<f32> = signs
        .iter()
        .flat_map(|sign| (0..cols).map(move |i| if sign(i) { 127.0 } else { -127.0 }))
        .collect();
    let mut activations = activations(&data, cols);
    for ty in QUANTISED {
        for fill in [0xff, 0x00, 0x80, 0x7f] {
            let mut bytes = vec![fill; ty.row_bytes(cols).unwrap() * 9];
            for block in bytes.chunks_exact_mut(ty.block_bytes()) {
                for at in scale_places(ty) {
                    block[*at..at + 2].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
                }
            }
            let matrix = pack(ty, 9, cols, &bytes).unwrap();
            let (want, _) = exact(ty, 9, cols, &bytes, &data);
            for isa in Isa::all() {
                let got = product(&Pool::with_isa(1, isa).unwrap(), &matrix, 8, &mut activations);
                for (got, want) in got.iter().zip(&want) {
                    // All parts are whole multiples of 0.5 below 2^24 of them, except the sums of Q6_K.
                    let slack = if ty == TensorType::Q6K { want.abs() * 1e-6 } else { 0.0 };
                    assert!(
                        (f64::from(*got) - want).abs() <= slack,
                        "{ty} of {fill:#x} on {}: {got}, not {want}",
                        isa.name()
                    );
                }
            }
        }
    }
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    let mut random = Random::new(11);
    let scalar = Pool::with_isa(1, Isa::scalar()).unwrap();
    let others = Isa::all().into_iter().map(|isa| Pool::with_isa(1, isa).unwrap());
    let others: Vec<Pool> = others.collect();
    for ty in TensorType::ALL {
        for cols in [32, 256, 576, 896, 1536] {
            if ty.row_bytes(cols).is_none() {
                continue;
            }
            let rows = 27;
            let matrix = pack(ty, rows, cols, &weights(ty, rows, cols, &mut random)).unwrap();
            for tokens in [1, 2, 3, 4, 5, 6, 7, 8, 9, 33] {
                let mut activations = activations(&random.floats(tokens * cols), cols);
                let a = product(&scalar, &matrix, tokens, &mut activations);
                for pool in &others {
                    let b = product(pool, &matrix, tokens, &mut activations);
                    assert_eq!(bits(&a), bits(&b), "{ty}, {tokens} x {cols} on {}", pool.isa().name());
                }
            }
        }
    }
}

#[test]
fn a_float_matrix_may_have_any_number_of_columns() {
    let mut random = Random::new(12);
    let (scalar, detected) = (Pool::with_isa(1, Isa::scalar()).unwrap(), Pool::new(1).unwrap());
    for ty in [TensorType::F32, TensorType::F16, TensorType::BF16] {
        for cols in [1, 2, 7, 33] {
            let matrix = pack(ty, 10, cols, &weights(ty, 10, cols, &mut random)).unwrap();
            let mut activations = activations(&random.floats(6 * cols), cols);
            assert_eq!(
                bits(&product(&scalar, &matrix, 6, &mut activations)),
                bits(&product(&detected, &matrix, 6, &mut activations)),
                "{ty}, {cols} columns"
            );
        }
    }
}

#[test]
fn a_row_does_not_depend_on_batch_threads_or_neighbouring_matrices() {
    let mut random = Random::new(13);
    let (rows, cols, tokens) = (77, 256, 150);
    for ty in TensorType::ALL {
        let matrix = pack(ty, rows, cols, &weights(ty, rows, cols, &mut random)).unwrap();
        let data = random.floats(tokens * cols);
        let all = product(&Pool::new(1).unwrap(), &matrix, tokens, &mut activations(&data, cols));
        for threads in [2, 3] {
            let pool = Pool::new(threads).unwrap();
            let mut activations = activations(&data, cols);
            let other = pack(TensorType::F32, 3, cols, &vec![0; 3 * cols * 4]).unwrap();
            let [a, b, c] = products(&pool, [&matrix, &other, &matrix], tokens, &mut activations);
            assert_eq!(bits(&a), bits(&all), "{ty}, {threads} threads");
            assert_eq!(bits(&c), bits(&all), "{ty}, {threads} threads");
            assert!(b.iter().all(|&x| x == 0.0));
        }
        let pool = Pool::new(2).unwrap();
        for (first, count) in [(0, 1), (1, 1), (2, 2), (3, 5), (127, 3), (140, 10)] {
            let part = product(
                &pool,
                &matrix,
                count,
                &mut activations(&data[first * cols..][..count * cols], cols),
            );
            assert_eq!(
                bits(&part),
                bits(&all[first * rows..][..count * rows]),
                "{ty}, rows {first}+{count}"
            );
        }
    }
}

#[test]
fn a_row_that_is_not_finite_spoils_only_its_own_products() {
    let mut random = Random::new(14);
    for ty in TensorType::ALL {
        let (rows, cols) = (16, 256);
        let matrix = pack(ty, rows, cols, &weights(ty, rows, cols, &mut random)).unwrap();
        let mut data = random.floats(6 * cols);
        let pool = Pool::new(1).unwrap();
        let clean = product(&pool, &matrix, 6, &mut activations(&data, cols));
        data[cols + 77] = f32::INFINITY;
        let dirty = product(&pool, &matrix, 6, &mut activations(&data, cols));
        for token in 0..6 {
            let (clean, dirty) = (&clean[token * rows..][..rows], &dirty[token * rows..][..rows]);
            if token == 1 {
                assert!(dirty.iter().all(|x| x.is_nan()), "{ty}");
            } else {
                assert_eq!(bits(clean), bits(dirty), "{ty}, token {token}");
            }
        }
    }
}
