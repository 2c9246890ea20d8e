//! Tiny models with random weights against `transformers` (tests/tiny/make.py) and against themselves, and the
//! sentences that refuse what cannot be computed.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may stop at the first surprise, and has to find the models"
)]
use std::path::{Path, PathBuf};

use serde_json::Value;
use windlass_kernels::{Batch, Decoder, KvCache, KvType, Pool, Want, Workspace};

use super::{Family, Shape, family, llama, load};
use crate::load::gguf::Gguf;
use crate::tokenizer::Tokenizer;

mod metadata;

const TINY: [&str; 3] = ["gemma3", "qwen3", "mistral"];

/// Weights are halves and activations of their products f32, as in the golden; keys and values of the cache are halves,
/// which moves logits (standard deviation 1.2 to 1.8) by up to 0.004.
const TOLERANCE: f64 = 0.01;

fn tiny(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tiny").join(name)
}

struct Model {
    decoder: Decoder,
    shape: Shape,
    golden: Value,
    tokens: Vec<u32>,
}

fn model(name: &str) -> Model {
    changed(name, |_, _| ())
}

/// A model that is computed with something changed in what is known of it.
fn changed(name: &str, change: impl Fn(&mut Family, &mut Shape)) -> Model {
    let (gguf, file) = Gguf::open(&tiny(&format!("{name}.gguf"))).unwrap();
    let mut family = family(&gguf).unwrap();
    let mut shape = Shape::read(&gguf, &family, Tokenizer::from_gguf(&gguf).unwrap().vocab_size()).unwrap();
    change(&mut family, &mut shape);
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(tiny(&format!("{name}.json"))).unwrap()).unwrap();
    let tokens = golden["tokens"].as_array().unwrap();
    Model {
        decoder: load(&gguf, &file, &family, &shape).unwrap(),
        tokens: tokens.iter().map(|token| token.as_u64().unwrap() as u32).collect(),
        shape,
        golden,
    }
}

impl Model {
    /// The logits after each chunk of the prompt, which end before `ends`, of `sequences` equal sequences at once.
    fn logits(&self, threads: usize, block_tokens: usize, sequences: usize, ends: &[usize]) -> Vec<Vec<f32>> {
        let pool = Pool::new(threads).unwrap();
        let each = self.tokens.len().div_ceil(block_tokens);
        let mut cache = KvCache::new(self.shape.cache(block_tokens, KvType::F16), sequences * each).unwrap();
        let mut work = Workspace::new(&self.decoder, &pool, sequences * self.tokens.len(), sequences).unwrap();
        let mut batch = Batch::default();
        let (mut from, mut results) = (0, Vec::new());
        for &end in ends {
            batch.clear();
            for sequence in 0..sequences {
                // Blocks of a sequence do not lie side by side.
                let blocks: Vec<u32> = (0..each).map(|block| (block * sequences + sequence) as u32).collect();
                batch.push(&self.tokens[from..end], from, &blocks, Want::Logits);
            }
            self.decoder.forward(&pool, &mut cache, &mut work, &batch);
            for sequence in 1..sequences {
                assert_eq!(
                    work.logits(0),
                    work.logits(sequence),
                    "equal sequences, different logits"
                );
            }
            results.push(work.logits(0).unwrap().to_vec());
            from = end;
        }
        results
    }

    /// The largest distance of these logits, one row for each position, from the golden's.
    fn distance(&self, logits: &[Vec<f32>]) -> f64 {
        let distances = self.positions().into_iter().flat_map(|at| {
            let golden = self.golden["logits"][at.to_string()].as_array().unwrap();
            assert_eq!(golden.len(), logits[at].len());
            let pairs = logits[at].iter().zip(golden);
            pairs.map(|(got, want)| (f64::from(*got) - want.as_f64().unwrap()).abs())
        });
        distances.fold(0.0, f64::max)
    }

    /// The logits of every position, one token after the other.
    fn one_by_one(&self) -> Vec<Vec<f32>> {
        let ends: Vec<usize> = (1..=self.tokens.len()).collect();
        self.logits(1, 16, 1, &ends)
    }

    /// Where the golden has logits.
    fn positions(&self) -> Vec<usize> {
        let mut positions: Vec<usize> = self.golden["logits"]
            .as_object()
            .unwrap()
            .keys()
            .map(|at| at.parse().unwrap())
            .collect();
        positions.sort_unstable();
        positions
    }
}

#[test]
fn every_architecture_computes_what_transformers_computes() {
    for name in TINY {
        let model = model(name);
        let logits = model.one_by_one();
        let distance = model.distance(&logits);
        assert!(distance < TOLERANCE, "{name}: a logit is {distance} from transformers'");
        for (at, (logits, top)) in logits.iter().zip(model.golden["top"].as_array().unwrap()).enumerate() {
            let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let theirs = logits[top.as_u64().unwrap() as usize];
            assert!(
                f64::from(best - theirs) < 2.0 * TOLERANCE,
                "{name}: another token is best at position {at}"
            );
        }
    }
}

#[test]
fn no_way_to_cut_the_work_changes_a_bit_of_a_logit() {
    for name in TINY {
        let model = model(name);
        let one_by_one: Vec<usize> = (1..=model.tokens.len()).collect();
        let expected = model.one_by_one();
        let chunks: Vec<usize> = model.positions().iter().map(|at| at + 1).collect();
        let ways: [(usize, usize, usize, &[usize]); 5] = [
            (2, 32, 1, &chunks),
            (1, 8, 3, &chunks),
            (2, 8, 1, &[3, 7, 8, 290, 294, 300]),
            (2, 16, 1, &[300]),
            (2, 24, 6, &one_by_one),
        ];
        for (threads, block_tokens, sequences, ends) in ways {
            let got = model.logits(threads, block_tokens, sequences, ends);
            for (got, end) in got.iter().zip(ends) {
                assert!(
                    got.iter()
                        .zip(&expected[end - 1])
                        .all(|(a, b)| a.to_bits() == b.to_bits()),
                    "{name}: {threads} threads, blocks of {block_tokens}, {sequences} sequences, position {}",
                    end - 1
                );
            }
        }
    }
}

#[test]
fn nothing_of_an_architecture_can_be_left_out_unnoticed() {
    type Change = fn(&mut Family, &mut Shape);
    let cases: [(&str, &str, Change); 12] = [
        ("gemma3", "no windows", |_, shape| shape.positions.windows.fill(None)),
        ("gemma3", "a window more", |_, shape| {
            shape.positions.windows[5] = shape.positions.windows[0];
        }),
        ("gemma3", "a window of one more", |_, shape| {
            for window in shape.positions.windows.iter_mut().flatten() {
                *window = window.saturating_add(1);
            }
        }),
        ("gemma3", "one rotation", |_, shape| shape.positions.local_rope = None),
        ("gemma3", "no scaling", |_, shape| shape.positions.rope.scale = 1.0),
        ("gemma3", "no post norms", |family, _| family.post_norms = false),
        ("gemma3", "no norms of heads", |family, _| family.head_norms = false),
        ("gemma3", "the embeddings as they are", |family, _| {
            family.scaled_embeddings = false
        }),
        ("gemma3", "SiLU", |family, _| {
            family.activation = llama::FAMILY.activation
        }),
        ("qwen3", "no norms of heads", |family, _| family.head_norms = false),
        ("qwen3", "another rotation", |family, _| {
            family.rope = llama::FAMILY.rope
        }),
        ("mistral", "no window", |_, shape| shape.positions.windows.fill(None)),
    ];
    for (name, what, change) in cases {
        let model = changed(name, change);
        let distance = model.distance(&model.one_by_one());
        assert!(
            distance > 20.0 * TOLERANCE,
            "{name} with {what}: only {distance} from transformers'"
        );
    }
}
