//! The forward pass of a BERT-class encoder: sequences of tokens in, one vector for each out. A vector depends on its own
//! sequence alone: neither on threads nor on what is computed beside it.
//!
//! Sequences are packed, without padding, into groups of some tens of rows. As long as there is a group for every thread,
//! each thread takes whole groups through all layers by itself, with no wait and everything in its own cache; groups
//! that are left, and a few long sequences, are computed by all threads together, stage by stage. The code is the same
//! (see `pass`): who takes part in a stage is all that differs.

mod attention;
mod ops;
mod pass;
#[cfg(test)]
mod tests;
mod work;

use crate::buffer::OutOfMemory;
use crate::dense::{Dense, GROUP_AFTER_NORM, Precision};
use crate::pool::{Pool, Shared};
use pass::{Alone, Job};
pub use work::EncoderWork;

/// How the rows of a sequence become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The first.
    First,
}

/// `(x - mean) / sqrt(variance + epsilon) * weight + bias`.
pub struct Norm {
    /// One number for each element.
    pub weight: Vec<f32>,
    /// As many.
    pub bias: Vec<f32>,
}

/// One layer; the norms come after the sums.
pub struct EncoderLayer {
    /// Queries, keys and values, one after the other: 3 x width outputs.
    pub qkv: Dense,
    /// From the heads back to the hidden state.
    pub output: Dense,
    /// After the attention.
    pub attention_norm: Norm,
    /// Into the feed-forward network, whose activation is GELU in its exact form.
    pub up: Dense,
    /// Out of it.
    pub down: Dense,
    /// After the feed-forward network.
    pub feed_forward_norm: Norm,
}

impl EncoderLayer {
    /// All its weights.
    fn dense(&self) -> [&Dense; 4] {
        [&self.qkv, &self.output, &self.up, &self.down]
    }
}

/// All weights of a model, and the numbers that its matrices do not say.
pub struct Encoder {
    /// Token embeddings, vocabulary x width.
    pub words: Vec<f32>,
    /// Position embeddings with the embedding of the first token type added, positions x width.
    pub positions: Vec<f32>,
    /// After the embeddings.
    pub embedding_norm: Norm,
    /// The layers, first to last.
    pub layers: Vec<EncoderLayer>,
    /// Heads; divides the width.
    pub heads: usize,
    /// Added under the root of the norms.
    pub epsilon: f32,
    /// From rows to a vector.
    pub pooling: Pooling,
    /// Whether vectors get the length 1.
    pub normalize: bool,
}

impl Encoder {
    /// Elements of a hidden state, and of the vectors.
    pub fn width(&self) -> usize {
        self.embedding_norm.weight.len()
    }

    /// Tokens of the vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.words.len() / self.width()
    }

    /// Multiply-adds with weights that a token takes.
    pub fn multiply_adds(&self) -> usize {
        let dense = self.layers.iter().flat_map(EncoderLayer::dense);
        dense.map(|dense| dense.inputs() * dense.outputs()).sum()
    }

    /// Positions that a sequence may have.
    pub fn max_positions(&self) -> usize {
        self.positions.len() / self.width()
    }

    /// Writes the vector of each sequence to `vectors`, sequences x width. One that overflows is not finite.
    ///
    /// # Panics
    /// If a sequence is empty or longer than `work` was made for, a token is outside the vocabulary, or `vectors` has
    /// another length.
    pub fn embed(&self, pool: &Pool, work: &mut EncoderWork, sequences: &[&[u32]], vectors: &mut [f32]) {
        assert_eq!(
            vectors.len(),
            sequences.len() * self.width(),
            "encoder: length of the vectors"
        );
        let parts = work.begin(self, sequences);
        // As many groups as are whole rounds of all threads; the rest together.
        let alone = parts.groups.len() / pool.threads() * pool.threads();
        let job = Job {
            encoder: self,
            sequences,
            order: parts.order,
            buffers: parts.buffers,
            vectors: Shared::new(vectors),
        };
        pool.run(parts.stages, |member| {
            let crew = Alone(member);
            // SAFETY: a group is an item, and a thread computes its items one after another, in its own room.
            member.stage(alone, |index| unsafe {
                job.run(&crew, &parts.groups[index], member.thread())
            });
        });
        for group in &parts.groups[alone..] {
            // SAFETY: nothing else runs, and members of a pool's job have different numbers.
            pool.run(parts.stages, |member| unsafe { job.run(member, group, 0) });
        }
    }

    /// Elements inside the feed-forward network.
    fn inner(&self) -> usize {
        self.layers.iter().map(|layer| layer.up.outputs()).max().unwrap_or(0)
    }

    fn is_bytes(&self) -> bool {
        self.layers.iter().any(|layer| layer.up.precision() == Precision::Int8)
    }

    /// Stages of a group at most.
    fn stages(&self) -> usize {
        2 + 9 * self.layers.len()
    }

    /// Working memory for sequences of up to `longest` tokens.
    ///
    /// # Errors
    /// If the memory is not to be had.
    ///
    /// # Panics
    /// If the model has fewer positions, or the inputs of a layer are not of the groups that they come in.
    pub fn work(&self, pool: &Pool, longest: usize) -> Result<EncoderWork, OutOfMemory> {
        let fit = |layer: &EncoderLayer| [&layer.qkv, &layer.up].map(Dense::group) == [GROUP_AFTER_NORM; 2];
        assert!(self.layers.iter().all(fit), "encoder: groups after a norm");
        EncoderWork::new(self, pool, longest)
    }
}
