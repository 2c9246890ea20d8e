//! The forward pass of a decoder-only transformer: a batch of tokens from any number of sequences through all layers,
//! and the next token or the logits of the rows that need one. The result of a row depends on its own sequence alone.
//!
//! A step is one job of the pool (see `pool::team`), with five waits a layer:
//!
//! 1. q, k, v: products with the normalised, quantised hidden state, plus biases;
//! 2. (only where a sequence has several rows: rotation of the keys, and keys and values to the cache;)
//! 3. attention, whose result is quantised where it is made;
//! 4. output projection, added to the hidden state;
//! 5. gate and up, activated and quantised where they are made;
//! 6. down projection, added to the hidden state.
//!
//! The norms before 1 and 5 are a stage of their own only for more than four rows; of few, every thread makes its own
//! copy, which is cheaper than waiting.
//!
//! What some models do besides costs no wait: norms of queries and keys belong to the items that rotate them, and a
//! norm behind 4 or 6 goes, with the addition, to the norm that follows, which needs whole rows anyway.

mod pass;
mod workspace;

pub use workspace::{Workspace, WorkspaceSizes};

use crate::batch::Batch;
use crate::kv::KvCache;
use crate::matrix::Matrix;
use crate::pool::Pool;
use crate::rope::Rope;
use crate::speed::read_all;
use pass::Pass;
use std::num::NonZeroUsize;

/// A matrix, and what is added to its product.
pub struct Projection {
    /// The matrix.
    pub matrix: Matrix,
    /// One number for each output.
    pub bias: Option<Vec<f32>>,
}

/// One layer.
pub struct Layer {
    /// Before the attention.
    pub attention_norm: Vec<f32>,
    /// Of each query head, before it is rotated.
    pub q_norm: Option<Vec<f32>>,
    /// Of each key head, before it is rotated.
    pub k_norm: Option<Vec<f32>>,
    /// Of what the attention adds to the hidden state.
    pub post_attention_norm: Option<Vec<f32>>,
    /// Queries.
    pub q: Projection,
    /// Keys.
    pub k: Projection,
    /// Values.
    pub v: Projection,
    /// Back to the hidden state.
    pub o: Matrix,
    /// Before the feed-forward network.
    pub feed_forward_norm: Vec<f32>,
    /// Gate.
    pub gate: Matrix,
    /// Up.
    pub up: Matrix,
    /// Down.
    pub down: Matrix,
    /// Of what the feed-forward network adds to the hidden state.
    pub post_feed_forward_norm: Option<Vec<f32>>,
    /// Which of the decoder's rotations its queries and keys have.
    pub rope: usize,
    /// How many positions a token attends to, its own and those before; all if there is none.
    pub window: Option<NonZeroUsize>,
}

impl Layer {
    /// In the order of their use.
    fn matrices(&self) -> [&Matrix; 7] {
        let Layer {
            q,
            k,
            v,
            o,
            gate,
            up,
            down,
            ..
        } = self;
        [&q.matrix, &k.matrix, &v.matrix, o, gate, up, down]
    }
}

/// What the gate goes through before it is multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + exp(-x))`.
    Silu,
    /// GELU with the hyperbolic tangent.
    Gelu,
}

/// All weights of a model, and the numbers that its matrices do not say.
pub struct Decoder {
    /// Token embeddings: vocabulary x width.
    pub embedding: Matrix,
    /// From hidden states to logits; absent where the embeddings serve.
    pub head: Option<Matrix>,
    /// The layers, first to last.
    pub layers: Vec<Layer>,
    /// Before the head.
    pub final_norm: Vec<f32>,
    /// The rotations of queries and keys, for heads of this size.
    pub ropes: Vec<Rope>,
    /// Embeddings are multiplied by it.
    pub embedding_scale: f32,
    /// Scores of the attention are multiplied by it.
    pub attention_scale: f32,
    /// Of the feed-forward networks.
    pub activation: Activation,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Added under the root of the norms.
    pub norm_epsilon: f32,
}

impl Decoder {
    /// Elements of a hidden state.
    pub fn width(&self) -> usize {
        self.embedding.cols()
    }

    /// Tokens of the vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.head().rows()
    }

    /// Elements inside the feed-forward network.
    pub fn feed_forward(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.gate.rows())
    }

    /// Computes a batch: keys and values go to the cache, what the outputs gave is in `work` afterwards.
    ///
    /// # Panics
    /// If matrices, cache, workspace and batch do not fit together, or a token or block is outside its range.
    pub fn forward(&self, pool: &Pool, cache: &mut KvCache, work: &mut Workspace, batch: &Batch) {
        if batch.is_empty() {
            return;
        }
        let (stages, buffers) = work.begin(self, batch);
        let pass = Pass::new(self, batch, cache.shared(), buffers);
        pool.run(stages, |member| pass.run(member));
    }

    /// Reads all weights that a step reads, for nothing, with all threads of the pool, and gives their bytes: the time
    /// that it takes is what memory alone asks of a step. For benchmarks.
    pub fn read_weights(&self, pool: &Pool) -> usize {
        let matrices = self.layers.iter().flat_map(Layer::matrices).chain([self.head()]);
        read_all(pool, matrices)
    }

    fn head(&self) -> &Matrix {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    fn angles_len(&self) -> usize {
        self.ropes.iter().map(Rope::angles_len).sum()
    }

    /// Whether anything is normalised between a product and the hidden state.
    fn has_post_norms(&self) -> bool {
        let mut layers = self.layers.iter();
        layers.any(|layer| layer.post_attention_norm.is_some() || layer.post_feed_forward_norm.is_some())
    }

    fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        let layers = self.layers.iter().flat_map(Layer::matrices);
        layers.chain([&self.embedding]).chain(&self.head)
    }

    /// Stages of a step at most.
    fn stages(&self) -> usize {
        1 + 8 * self.layers.len() + 2
    }
}
