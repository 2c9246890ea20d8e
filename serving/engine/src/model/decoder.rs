//! The forward pass: a batch of tokens from any number of sequences through all layers, and logits for the
//! rows that need them. The result of a row depends on its own sequence alone.
use windlass_kernels::{Activations, KvCache, Matrix, OutOfMemory, Pool, Query, add, rmsnorm, silu_mul};

use super::{Projection, Weights};

/// One token of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// The token.
    pub token: u32,
    /// Where it stands, and the blocks of its sequence, which have room for it.
    pub at: Query<'a>,
}

/// Working memory for batches of up to a number of rows.
pub struct Buffers {
    hidden: Vec<f32>,
    inputs: Activations,
    inner: Activations,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    attended: Vec<f32>,
    delta: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    angles: Vec<f32>,
    logits: Vec<f32>,
}

impl Buffers {
    /// For batches of `rows` rows, of which `outputs` need logits.
    pub fn new(weights: &Weights, rows: usize, outputs: usize) -> Result<Self, OutOfMemory> {
        let shape = &weights.shape;
        let widest = shape.width.max(shape.query_width());
        Ok(Self {
            hidden: floats(rows, shape.width)?,
            inputs: Activations::new(rows, widest)?,
            inner: Activations::new(rows, shape.feed_forward)?,
            q: floats(rows, shape.query_width())?,
            k: floats(rows, shape.kv_width())?,
            v: floats(rows, shape.kv_width())?,
            attended: floats(rows, shape.query_width())?,
            delta: floats(rows, shape.width)?,
            gate: floats(rows, shape.feed_forward)?,
            up: floats(rows, shape.feed_forward)?,
            angles: floats(rows, weights.rope.angles_len())?,
            logits: floats(outputs, shape.vocabulary)?,
        })
    }

    /// Bytes of the buffers for a model of this shape, or somewhat more.
    pub fn bytes(shape: &super::Shape, rows: usize, outputs: usize) -> u64 {
        // Activations hold a row as floats and as blocks of 32 bytes with about 32 bytes of scales and sums.
        let activations = 6 * (shape.width.max(shape.query_width()) + shape.feed_forward);
        let plain = 2 * shape.width + 2 * shape.query_width() + 2 * shape.kv_width() + 2 * shape.feed_forward;
        let row = activations + 4 * (plain + shape.rope_dims);
        let (rows, outputs) = (rows as u64, outputs as u64);
        (rows * row as u64).saturating_add(outputs.saturating_mul(4 * shape.vocabulary as u64))
    }
}

/// Computes a batch: keys and values go to the cache; the logits of `outputs` (positions in `rows`, each
/// once) come back, `outputs.len()` x vocabulary. A row whose numbers are not finite gets NaN logits.
pub fn forward<'b>(
    weights: &Weights,
    pool: &Pool,
    cache: &mut KvCache,
    buffers: &'b mut Buffers,
    rows: &[Row<'_>],
    outputs: &[usize],
) -> &'b [f32] {
    let shape = weights.shape;
    let (count, width) = (rows.len(), shape.width);
    let b = buffers;
    let hidden = &mut b.hidden[..count * width];
    pool.for_each_chunk(hidden, width, |row, out| {
        weights.embedding.row(rows[row].token as usize, out)
    });
    let angles_len = weights.rope.angles_len();
    let angles = &mut b.angles[..count * angles_len];
    pool.for_each_chunk(angles, angles_len, |row, out| {
        weights.rope.angles(rows[row].at.position, out)
    });
    let queries: Vec<Query<'_>> = rows.iter().map(|row| row.at).collect();
    let scale = 1.0 / (shape.head_dim as f32).sqrt();

    let q = &mut b.q[..count * shape.query_width()];
    let k = &mut b.k[..count * shape.kv_width()];
    let v = &mut b.v[..count * shape.kv_width()];
    let attended = &mut b.attended[..count * shape.query_width()];
    let delta = &mut b.delta[..count * width];
    let gate = &mut b.gate[..count * shape.feed_forward];
    let up = &mut b.up[..count * shape.feed_forward];

    for (index, layer) in weights.layers.iter().enumerate() {
        normalise(
            pool,
            &mut b.inputs,
            hidden,
            width,
            &layer.attention_norm,
            shape.norm_epsilon,
        );
        pool.matmul(
            &mut [
                (&layer.q.matrix, &mut *q),
                (&layer.k.matrix, &mut *k),
                (&layer.v.matrix, &mut *v),
            ],
            &b.inputs,
        );
        finish(pool, q, &layer.q, |row, out| {
            weights.rope.rotate(out, &angles[row * angles_len..][..angles_len])
        });
        finish(pool, k, &layer.k, |row, out| {
            weights.rope.rotate(out, &angles[row * angles_len..][..angles_len])
        });
        finish(pool, v, &layer.v, |_, _| ());
        let kv = k.chunks_exact(shape.kv_width()).zip(v.chunks_exact(shape.kv_width()));
        for (row, (keys, values)) in rows.iter().zip(kv) {
            let (block, slot) = (
                row.at.position / cache.block_tokens(),
                row.at.position % cache.block_tokens(),
            );
            cache.write(index, row.at.blocks[block], slot, keys, values);
        }
        pool.attention(cache, index, shape.heads, scale, &queries, q, attended);
        b.inputs.fill(pool, count, shape.query_width(), |row, out| {
            out.copy_from_slice(&attended[row * shape.query_width()..][..shape.query_width()]);
        });
        product(pool, &layer.o, &b.inputs, delta, hidden);

        normalise(
            pool,
            &mut b.inputs,
            hidden,
            width,
            &layer.feed_forward_norm,
            shape.norm_epsilon,
        );
        pool.matmul(&mut [(&layer.gate, &mut *gate), (&layer.up, &mut *up)], &b.inputs);
        b.inner.fill(pool, count, shape.feed_forward, |row, out| {
            let part = row * shape.feed_forward..(row + 1) * shape.feed_forward;
            silu_mul(&gate[part.clone()], &up[part], out);
        });
        product(pool, &layer.down, &b.inner, delta, hidden);
    }

    let logits = &mut b.logits[..outputs.len() * shape.vocabulary];
    if !outputs.is_empty() {
        b.inputs.fill(pool, outputs.len(), width, |row, out| {
            let from = &hidden[outputs[row] * width..][..width];
            rmsnorm(from, &weights.final_norm, shape.norm_epsilon, out);
        });
        pool.matmul(&mut [(weights.head(), &mut *logits)], &b.inputs);
    }
    logits
}

fn normalise(pool: &Pool, inputs: &mut Activations, hidden: &[f32], width: usize, norm: &[f32], epsilon: f32) {
    inputs.fill(pool, hidden.len() / width, width, |row, out| {
        rmsnorm(&hidden[row * width..][..width], norm, epsilon, out);
    });
}

/// Adds the bias, if there is one, and applies `then` to each row.
fn finish(pool: &Pool, out: &mut [f32], projection: &Projection, then: impl Fn(usize, &mut [f32]) + Sync) {
    pool.for_each_chunk(out, projection.matrix.rows(), |row, out| {
        if let Some(bias) = &projection.bias {
            add(out, bias);
        }
        then(row, out);
    });
}

/// `hidden += matrix x inputs`.
fn product(pool: &Pool, matrix: &Matrix, inputs: &Activations, delta: &mut [f32], hidden: &mut [f32]) {
    pool.matmul(&mut [(matrix, &mut *delta)], inputs);
    let width = matrix.rows();
    pool.for_each_chunk(hidden, width, |row, hidden| add(hidden, &delta[row * width..][..width]));
}

fn floats(rows: usize, cols: usize) -> Result<Vec<f32>, OutOfMemory> {
    let len = rows.checked_mul(cols).ok_or(OutOfMemory { bytes: usize::MAX })?;
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(len).map_err(|_| OutOfMemory {
        bytes: len.saturating_mul(size_of::<f32>()),
    })?;
    buffer.resize(len, 0.0);
    Ok(buffer)
}
