//! The decoder: tokens in, logits out, keys and values into the paged cache. A row's result depends on
//! its own sequence alone, bit for bit, whatever else is in the batch.
use windlass_kernels::{Activations, KvCache, OutOfMemory, Pool, Query, Rope, RopeError, add, rmsnorm, silu_mul};

use super::batch::Batch;
use super::weights::{Layer, Projection, Weights};
use super::{Architecture, Hyperparameters};

/// A model in memory.
pub struct Decoder {
    hyper: Hyperparameters,
    weights: Weights,
    rope: Rope,
}

/// Buffers of a step, for as many rows as they were made for.
pub struct Workspace {
    activations: Activations,
    // Each rows x its width.
    stream: Vec<f32>,
    delta: Vec<f32>,
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    attended: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    angles: Vec<f32>,
    // Rows that need logits x vocabulary.
    logits: Vec<f32>,
}

impl Decoder {
    /// Puts weights and shape together.
    pub fn new(architecture: &Architecture, hyper: Hyperparameters, weights: Weights) -> Result<Self, RopeError> {
        let pairs = hyper.rope_dims / 2;
        let mut factors = weights.rope_factors.clone().unwrap_or_else(|| vec![1.0; pairs]);
        factors.iter_mut().for_each(|factor| *factor *= hyper.rope_factor);
        let rope = Rope::new(
            architecture.rope,
            hyper.head_dim,
            hyper.rope_dims,
            hyper.rope_base,
            Some(&factors),
        )?;
        Ok(Self { hyper, weights, rope })
    }

    /// Computes the rows of `batch`, writes their keys and values to `cache`, and returns the logits of
    /// the wanted rows, one after the other. Logits of a row whose arithmetic is not finite are NaN.
    ///
    /// # Panics
    /// If a token, position or block is outside vocabulary, sequence or cache, or the batch is larger than
    /// the workspace: the scheduler's bugs, not data.
    pub fn forward<'w>(
        &self,
        pool: &Pool,
        batch: &Batch<'_>,
        cache: &mut KvCache,
        workspace: &'w mut Workspace,
    ) -> &'w [f32] {
        let rows = batch.rows.len();
        let queries: Vec<Query<'_>> = batch
            .rows
            .iter()
            .map(|row| Query {
                blocks: row.blocks,
                position: row.position,
            })
            .collect();
        let work = workspace;
        self.embed(pool, batch, work);
        for (index, layer) in self.weights.layers.iter().enumerate() {
            self.attend(pool, batch, &queries, index, layer, cache, work);
            self.feed_forward(pool, rows, layer, work);
        }
        self.head(pool, &batch.wanted, work)
    }

    fn embed(&self, pool: &Pool, batch: &Batch<'_>, work: &mut Workspace) {
        let rows = batch.rows.len();
        let (width, angles) = (self.hyper.width, self.rope.angles_len());
        let (stream, table) = (&mut work.stream[..rows * width], &mut work.angles[..rows * angles]);
        pool.for_each_chunk_pair((stream, width), (table, angles), |row, stream, table| {
            let row = &batch.rows[row];
            self.weights.embedding.row(row.token as usize, stream);
            self.rope.angles(row.position, table);
        });
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "one layer of the paper's figure; a struct would only rename it"
    )]
    fn attend(
        &self,
        pool: &Pool,
        batch: &Batch<'_>,
        queries: &[Query<'_>],
        index: usize,
        layer: &Layer,
        cache: &mut KvCache,
        work: &mut Workspace,
    ) {
        let hyper = &self.hyper;
        let rows = queries.len();
        let (query_width, kv_width) = (hyper.query_width(), hyper.kv_width());
        let query = &mut work.query[..rows * query_width];
        let key = &mut work.key[..rows * kv_width];
        let value = &mut work.value[..rows * kv_width];

        self.normed(pool, rows, &layer.attention_norm, &work.stream, &mut work.activations);
        pool.matmul(
            &mut [
                (&layer.query.matrix, &mut *query),
                (&layer.key.matrix, &mut *key),
                (&layer.value.matrix, &mut *value),
            ],
            &work.activations,
        );
        let angles = self.rope.angles_len();
        let table = &work.angles[..rows * angles];
        pool.for_each_chunk_pair((&mut *query, query_width), (&mut *key, kv_width), |row, query, key| {
            let table = &table[row * angles..][..angles];
            layer.query.add_bias(query);
            layer.key.add_bias(key);
            self.rope.rotate(query, table);
            self.rope.rotate(key, table);
        });
        let block_tokens = cache.block_tokens();
        for (row, (key, value)) in batch
            .rows
            .iter()
            .zip(key.chunks_exact(kv_width).zip(value.chunks_exact_mut(kv_width)))
        {
            layer.value.add_bias(value);
            let (block, slot) = (row.blocks[row.position / block_tokens], row.position % block_tokens);
            cache.write(index, block, slot, key, value);
        }

        let scale = 1.0 / (hyper.head_dim as f32).sqrt();
        let attended = &mut work.attended[..rows * query_width];
        pool.attention(cache, index, hyper.heads, scale, queries, query, attended);
        let attended = &*attended;
        work.activations.fill(pool, rows, query_width, |row, out| {
            out.copy_from_slice(&attended[row * query_width..][..query_width]);
        });
        let delta = &mut work.delta[..rows * hyper.width];
        pool.matmul(&mut [(&layer.output.matrix, &mut *delta)], &work.activations);
        self.add_delta(pool, rows, delta, &mut work.stream, Some(&layer.output));
    }

    fn feed_forward(&self, pool: &Pool, rows: usize, layer: &Layer, work: &mut Workspace) {
        let inner = self.hyper.feed_forward;
        let gate = &mut work.gate[..rows * inner];
        let up = &mut work.up[..rows * inner];
        self.normed(
            pool,
            rows,
            &layer.feed_forward_norm,
            &work.stream,
            &mut work.activations,
        );
        pool.matmul(
            &mut [(&layer.gate, &mut *gate), (&layer.up, &mut *up)],
            &work.activations,
        );
        let (gate, up) = (&*gate, &*up);
        work.activations.fill(pool, rows, inner, |row, out| {
            silu_mul(&gate[row * inner..][..inner], &up[row * inner..][..inner], out);
        });
        let delta = &mut work.delta[..rows * self.hyper.width];
        pool.matmul(&mut [(&layer.down, &mut *delta)], &work.activations);
        self.add_delta(pool, rows, delta, &mut work.stream, None);
    }

    fn head<'w>(&self, pool: &Pool, wanted: &[usize], work: &'w mut Workspace) -> &'w [f32] {
        if wanted.is_empty() {
            return &[];
        }
        let width = self.hyper.width;
        let (stream, norm) = (&work.stream, &self.weights.head_norm);
        work.activations.fill(pool, wanted.len(), width, |index, out| {
            rmsnorm(
                &stream[wanted[index] * width..][..width],
                norm,
                self.hyper.norm_epsilon,
                out,
            );
        });
        let head = self.weights.head.as_ref().unwrap_or(&self.weights.embedding);
        let logits = &mut work.logits[..wanted.len() * self.hyper.vocabulary];
        pool.matmul(&mut [(head, &mut *logits)], &work.activations);
        logits
    }

    fn normed(&self, pool: &Pool, rows: usize, norm: &[f32], stream: &[f32], activations: &mut Activations) {
        let width = self.hyper.width;
        activations.fill(pool, rows, width, |row, out| {
            rmsnorm(&stream[row * width..][..width], norm, self.hyper.norm_epsilon, out);
        });
    }

    fn add_delta(&self, pool: &Pool, rows: usize, delta: &mut [f32], stream: &mut [f32], bias: Option<&Projection>) {
        let width = self.hyper.width;
        pool.for_each_chunk_pair(
            (&mut stream[..rows * width], width),
            (delta, width),
            |_, stream, delta| {
                if let Some(projection) = bias {
                    projection.add_bias(delta);
                }
                add(stream, delta);
            },
        );
    }
}

impl Projection {
    fn add_bias(&self, row: &mut [f32]) {
        if let Some(bias) = &self.bias {
            add(row, bias);
        }
    }
}

impl Workspace {
    /// Room for `rows` rows, `wanted` of them with logits.
    pub fn new(hyper: &Hyperparameters, rows: usize, wanted: usize) -> Result<Self, OutOfMemory> {
        let widest = hyper.width.max(hyper.query_width()).max(hyper.feed_forward);
        Ok(Self {
            activations: Activations::new(rows, widest)?,
            stream: zeros(rows, hyper.width)?,
            delta: zeros(rows, hyper.width)?,
            query: zeros(rows, hyper.query_width())?,
            key: zeros(rows, hyper.kv_width())?,
            value: zeros(rows, hyper.kv_width())?,
            attended: zeros(rows, hyper.query_width())?,
            gate: zeros(rows, hyper.feed_forward)?,
            up: zeros(rows, hyper.feed_forward)?,
            angles: zeros(rows, hyper.rope_dims)?,
            logits: zeros(wanted, hyper.vocabulary)?,
        })
    }

    /// Bytes that [`Workspace::new`] takes, saturating.
    pub fn bytes(hyper: &Hyperparameters, rows: usize, wanted: usize) -> u64 {
        let widest = hyper.width.max(hyper.query_width()).max(hyper.feed_forward) as u64;
        let floats = 2 * hyper.width + 2 * hyper.query_width() + 2 * hyper.kv_width() + 2 * hyper.feed_forward;
        let float = size_of::<f32>() as u64;
        // Activations: a float, a byte, and per 32 of them 16 bytes of scales and sums.
        let row = float * (floats + hyper.rope_dims) as u64 + widest * 11 / 2;
        let logits = float * hyper.vocabulary as u64;
        (rows as u64)
            .saturating_mul(row)
            .saturating_add((wanted as u64).saturating_mul(logits))
    }
}

fn zeros(rows: usize, width: usize) -> Result<Vec<f32>, OutOfMemory> {
    let overflow = OutOfMemory { bytes: usize::MAX };
    let length = rows.checked_mul(width).ok_or(overflow)?;
    let mut values = Vec::new();
    values.try_reserve_exact(length).map_err(|_| OutOfMemory {
        bytes: length.saturating_mul(size_of::<f32>()),
    })?;
    values.resize(length, 0.0);
    Ok(values)
}
