use super::*;
use crate::dense::GROUP_ELSEWHERE;
use crate::isa::Isa;
use crate::sample::{Random, bits};
use crate::store::Store;

const WIDTH: usize = 48;
const INNER: usize = 100;
const HEADS: usize = 3;
const VOCABULARY: usize = 50;
const POSITIONS: usize = 150;
const LAYERS: usize = 2;

/// Plain weights: what the encoder is packed from.
struct Plain {
    words: Vec<f32>,
    positions: Vec<f32>,
    /// For each layer, weights and biases of qkv, output, up and down.
    dense: Vec<[(Vec<f32>, Vec<f32>); 4]>,
    norms: Vec<(Vec<f32>, Vec<f32>)>,
}

impl Plain {
    fn new() -> Plain {
        let mut random = Random::new(70);
        let mut dense = |outputs: usize, inputs: usize| {
            let weights = random.floats(outputs * inputs).iter().map(|x| x * 0.3).collect();
            (weights, random.floats(outputs))
        };
        let shapes = [(3 * WIDTH, WIDTH), (WIDTH, WIDTH), (INNER, WIDTH), (WIDTH, INNER)];
        let dense = (0..LAYERS)
            .map(|_| shapes.map(|(outputs, inputs)| dense(outputs, inputs)))
            .collect();
        let mut random = Random::new(71);
        let mut norm = || {
            let weight = random.floats(WIDTH).iter().map(|x| x + 1.5).collect();
            (weight, random.floats(WIDTH))
        };
        Plain {
            dense,
            norms: (0..1 + 2 * LAYERS).map(|_| norm()).collect(),
            words: Random::new(72).floats(VOCABULARY * WIDTH),
            positions: Random::new(73).floats(POSITIONS * WIDTH),
        }
    }

    fn packed(&self, precision: Precision, pooling: Pooling) -> Encoder {
        let mut store = Store::new(1 << 20).unwrap();
        let norm = |index: usize| {
            let (weight, bias) = self.norms[index].clone();
            Norm { weight, bias }
        };
        let layers = (0..LAYERS).map(|layer| {
            let mut part = 0..4;
            let [qkv, output, up, down] = self.dense[layer].each_ref().map(|(weights, bias)| {
                let inputs = weights.len() / bias.len();
                let group = match part.next() {
                    Some(0 | 2) => GROUP_AFTER_NORM,
                    _ => GROUP_ELSEWHERE,
                };
                Dense::pack(&mut store, precision, group, inputs, weights, bias.clone()).unwrap()
            });
            EncoderLayer {
                qkv,
                output,
                attention_norm: norm(1 + 2 * layer),
                up,
                down,
                feed_forward_norm: norm(2 + 2 * layer),
            }
        });
        Encoder {
            words: self.words.clone(),
            positions: self.positions.clone(),
            embedding_norm: norm(0),
            layers: layers.collect(),
            heads: HEADS,
            epsilon: 1e-12,
            pooling,
            normalize: true,
        }
    }

    /// The vector of a sequence by the definition, in double precision.
    fn vector(&self, tokens: &[u32], pooling: Pooling) -> Vec<f64> {
        let norm = |index: usize, rows: &mut Vec<Vec<f64>>| {
            let (weight, bias) = &self.norms[index];
            for row in rows {
                let mean = row.iter().sum::<f64>() / WIDTH as f64;
                let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / WIDTH as f64;
                for ((x, w), b) in row.iter_mut().zip(weight).zip(bias) {
                    *x = (*x - mean) / (variance + 1e-12).sqrt() * f64::from(*w) + f64::from(*b);
                }
            }
        };
        let dense = |(weights, bias): &(Vec<f32>, Vec<f32>), rows: &[Vec<f64>]| -> Vec<Vec<f64>> {
            let of = |row: &Vec<f64>| {
                let outputs = weights.chunks_exact(row.len()).zip(bias);
                outputs
                    .map(|(w, b)| row.iter().zip(w).map(|(x, &w)| x * f64::from(w)).sum::<f64>() + f64::from(*b))
                    .collect()
            };
            rows.iter().map(of).collect()
        };
        let add = |rows: &mut [Vec<f64>], more: Vec<Vec<f64>>| {
            for (row, more) in rows.iter_mut().zip(more) {
                row.iter_mut().zip(more).for_each(|(x, y)| *x += y);
            }
        };
        let mut rows: Vec<Vec<f64>> = tokens
            .iter()
            .enumerate()
            .map(|(position, &token)| {
                let word = &self.words[token as usize * WIDTH..][..WIDTH];
                let position = &self.positions[position * WIDTH..][..WIDTH];
                word.iter()
                    .zip(position)
                    .map(|(&a, &b)| f64::from(a) + f64::from(b))
                    .collect()
            })
            .collect();
        norm(0, &mut rows);
        for (layer, [qkv, output, up, down]) in self.dense.iter().enumerate() {
            let mixed = dense(qkv, &rows);
            let dim = WIDTH / HEADS;
            let mut attended = vec![vec![0.0; WIDTH]; rows.len()];
            for head in 0..HEADS {
                let part = |row: usize, which: usize| &mixed[row][which * WIDTH + head * dim..][..dim];
                for (row, out) in attended.iter_mut().enumerate() {
                    let score = |key: usize| part(row, 0).iter().zip(part(key, 1)).map(|(a, b)| a * b).sum::<f64>();
                    let scores: Vec<f64> = (0..rows.len())
                        .map(|key| (score(key) / (dim as f64).sqrt()).exp())
                        .collect();
                    let all: f64 = scores.iter().sum();
                    for (key, score) in scores.iter().enumerate() {
                        for (out, v) in out[head * dim..].iter_mut().zip(part(key, 2)) {
                            *out += score / all * v;
                        }
                    }
                }
            }
            add(&mut rows, dense(output, &attended));
            norm(1 + 2 * layer, &mut rows);
            let mut inner = dense(up, &rows);
            inner.iter_mut().flatten().for_each(|x| *x *= normal(*x));
            add(&mut rows, dense(down, &inner));
            norm(2 + 2 * layer, &mut rows);
        }
        rows.truncate(if pooling == Pooling::First { 1 } else { rows.len() });
        let sum: Vec<f64> = (0..WIDTH).map(|i| rows.iter().map(|row| row[i]).sum()).collect();
        let length = sum.iter().map(|x| x * x).sum::<f64>().sqrt();
        sum.iter().map(|x| x / length).collect()
    }
}

/// The normal distribution: its density added up in small steps.
fn normal(x: f64) -> f64 {
    const STEPS: u32 = 2000;
    let step = x / f64::from(STEPS);
    let density = |x: f64| (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    0.5 + (0..STEPS)
        .map(|i| density((f64::from(i) + 0.5) * step) * step)
        .sum::<f64>()
}

/// Sequences of many lengths, some longer than a group.
fn sequences() -> Vec<Vec<u32>> {
    let mut random = Random::new(74);
    let lengths = [1, 2, 15, 16, 17, 31, 64, 65, 150, 3, 40, 33, 7];
    lengths
        .iter()
        .map(|&len| (0..len).map(|_| (random.bits() % VOCABULARY as u64) as u32).collect())
        .collect()
}

fn embed(encoder: &Encoder, pool: &Pool, sequences: &[Vec<u32>]) -> Vec<f32> {
    let mut work = encoder.work(pool, POSITIONS).unwrap();
    let mut vectors = vec![f32::NAN; sequences.len() * WIDTH];
    let sequences: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
    encoder.embed(pool, &mut work, &sequences, &mut vectors);
    vectors
}

#[test]
fn vectors_are_those_of_the_definition() {
    let plain = Plain::new();
    let pool = Pool::new(2).unwrap();
    for (precision, least) in [(Precision::F32, 0.999_999), (Precision::Int8, 0.999)] {
        for pooling in [Pooling::Mean, Pooling::First] {
            let vectors = embed(&plain.packed(precision, pooling), &pool, &sequences());
            for (vector, tokens) in vectors.chunks_exact(WIDTH).zip(sequences()) {
                let want = plain.vector(&tokens, pooling);
                let cosine: f64 = vector.iter().zip(want).map(|(&x, y)| f64::from(x) * y).sum();
                assert!(cosine > least, "{precision:?}, {} tokens: {cosine}", tokens.len());
            }
        }
    }
}

#[test]
fn vectors_do_not_depend_on_threads_instructions_or_company() {
    let plain = Plain::new();
    for precision in [Precision::F32, Precision::Int8] {
        let encoder = plain.packed(precision, Pooling::Mean);
        let alone: Vec<Vec<f32>> = sequences()
            .into_iter()
            .map(|sequence| embed(&encoder, &Pool::new(1).unwrap(), &[sequence]))
            .collect();
        let want = bits(&alone.concat());
        for isa in Isa::all() {
            for threads in [1, 2, 3] {
                let pool = Pool::with_isa(threads, isa).unwrap();
                let got = embed(&encoder, &pool, &sequences());
                assert_eq!(bits(&got), want, "{precision:?}, {threads} threads, {}", isa.name());
            }
        }
    }
}

#[test]
fn a_sequence_that_overflows_spoils_no_other() {
    let mut plain = Plain::new();
    plain.words[7 * WIDTH] = f32::NAN;
    for precision in [Precision::F32, Precision::Int8] {
        let encoder = plain.packed(precision, Pooling::Mean);
        let sequences = [vec![1, 2, 3], vec![4, 7, 5], vec![6; 20]];
        let vectors = embed(&encoder, &Pool::new(2).unwrap(), &sequences);
        let is_finite: Vec<bool> = vectors
            .chunks(WIDTH)
            .map(|vector| vector.iter().all(|x| x.is_finite()))
            .collect();
        assert_eq!(is_finite, [true, false, true]);
    }
}
