//! One step as each thread runs it. Every access to a shared buffer is inside an item of a stage: an item has the part
//! that it writes for itself, and what it reads was written in stages that are over.

use super::workspace::{Buffers, Own};
use super::{Decoder, Layer, Projection};
use crate::activations::{BLOCK, Input, QUAD, Target};
use crate::attention::{Rows, attend, rows_together};
use crate::batch::Batch;
use crate::isa::Isa;
use crate::kv::SharedKv;
use crate::layout::GROUP;
use crate::matmul::{CHUNK, Items, product};
use crate::matrix::Matrix;
use crate::ops::{add, rmsnorm_on, silu_mul_on};
use crate::pool::{Member, Shared};

/// What the threads of a step share.
pub(super) struct Pass<'a> {
    decoder: &'a Decoder,
    batch: &'a Batch,
    cache: SharedKv<'a>,
    buffers: Buffers<'a>,
    /// No sequence has more than one row: each attention item rotates and stores its own key and value.
    is_decoding: bool,
    /// KV heads of an attention item: their results are whole blocks.
    heads_together: usize,
}

impl<'a> Pass<'a> {
    pub(super) fn new(decoder: &'a Decoder, batch: &'a Batch, cache: SharedKv<'a>, buffers: Buffers<'a>) -> Pass<'a> {
        assert!(
            cache.kv_heads() == decoder.kv_heads && cache.head_dim() == decoder.head_dim,
            "a cache of another model"
        );
        let span = decoder.heads / decoder.kv_heads * decoder.head_dim;
        // span * together is a multiple of 32: span has all but these factors of two.
        let together = BLOCK >> span.trailing_zeros().min(BLOCK.trailing_zeros());
        Pass {
            decoder,
            batch,
            cache,
            buffers,
            is_decoding: batch.parts.iter().all(|part| part.rows.len() == 1),
            heads_together: together,
        }
    }

    pub(super) fn run(&self, member: &Member<'_>) {
        // SAFETY: each member has another number, so each has its own.
        let own = unsafe { &mut self.buffers.threads.get_mut(member.thread()..member.thread() + 1)[0] };
        self.embed(member);
        for (index, layer) in self.decoder.layers.iter().enumerate() {
            let rows = |row| row;
            self.norm_stage(
                member,
                own,
                self.batch.len(),
                rows,
                &layer.attention_norm,
                self.buffers.inputs,
            );
            self.project(member, own, layer);
            if !self.is_decoding {
                self.store(member, index);
            }
            self.attention(member, own, index);
            self.residual(member, own, &layer.o, self.buffers.attended);
            self.norm_stage(
                member,
                own,
                self.batch.len(),
                rows,
                &layer.feed_forward_norm,
                self.buffers.inputs,
            );
            self.feed_forward(member, own, layer);
            self.residual(member, own, &layer.down, self.buffers.inner);
        }
        self.head(member, own);
    }

    /// Hidden states from the embeddings, and the angles of each row's position.
    fn embed(&self, member: &Member<'_>) {
        let (width, angles) = (self.decoder.width(), self.decoder.rope.angles_len());
        member.stage(self.batch.len(), |row| {
            let Buffers {
                hidden, angles: table, ..
            } = &self.buffers;
            // SAFETY: an item is a row.
            let (hidden, table) = unsafe { (of_row(*hidden, row, width), of_row(*table, row, angles)) };
            let row = self.batch.rows[row];
            self.decoder.embedding.row(row.token as usize, hidden);
            self.decoder.rope.angles(row.position, table);
        });
    }

    /// Normalises `count` hidden states into `target`, if they are too many for each thread to do alone.
    fn norm_stage(
        &self,
        member: &Member<'_>,
        own: &mut Own,
        count: usize,
        row_of: impl Fn(usize) -> usize,
        norm: &[f32],
        target: Target<'_>,
    ) {
        if count <= QUAD {
            return;
        }
        member.stage(count.div_ceil(QUAD), |quad| {
            for index in quad * QUAD..((quad + 1) * QUAD).min(count) {
                // SAFETY: an item is four rows of the target; the hidden states are not written in this stage.
                unsafe { self.normalise(member, &mut own.row, row_of(index), norm, target, index) };
            }
        });
    }

    /// # Safety
    /// Nobody writes the hidden state of `row`, nobody else uses row `index` of the target.
    unsafe fn normalise(
        &self,
        member: &Member<'_>,
        buffer: &mut [f32],
        row: usize,
        norm: &[f32],
        target: Target<'_>,
        index: usize,
    ) {
        let width = self.decoder.width();
        let buffer = &mut buffer[..width];
        // SAFETY: by the contract.
        unsafe {
            let hidden = self.buffers.hidden.get(row * width..(row + 1) * width);
            rmsnorm_on(member.isa(), hidden, norm, self.decoder.norm_epsilon, buffer);
            target.write(member.isa(), index, 0, buffer);
        }
    }

    /// The normalised hidden states for an item: from `norm_stage`, or this thread's own, made with its first item.
    ///
    /// # Safety
    /// Inside an item of a stage in which neither hidden states nor `target` are written.
    #[allow(
        clippy::too_many_arguments,
        reason = "the private and the shared way have this in common"
    )]
    unsafe fn normed<'s>(
        &self,
        member: &Member<'_>,
        (own, row): (Target<'s>, &mut [f32]),
        is_made: &mut bool,
        count: usize,
        row_of: impl Fn(usize) -> usize,
        norm: &[f32],
        target: Target<'s>,
    ) -> Input<'s> {
        if count > QUAD {
            // SAFETY: by the contract.
            return unsafe { target.input() };
        }
        if !*is_made {
            for index in 0..count {
                // SAFETY: `own` belongs to this thread; the hidden states by the contract.
                unsafe { self.normalise(member, row, row_of(index), norm, own, index) };
            }
            *is_made = true;
        }
        // SAFETY: `own` belongs to this thread.
        unsafe { own.input() }
    }

    /// q, k and v with their biases.
    fn project(&self, member: &Member<'_>, own: &mut Own, layer: &Layer) {
        let count = self.batch.len();
        let projections = [&layer.q, &layer.k, &layer.v];
        let outputs = [self.buffers.q, self.buffers.k, self.buffers.v];
        let items = Items::new(projections.map(|projection| &projection.matrix), count);
        let (private, mut is_made) = (own.normed.target(count.min(QUAD)), false);
        member.stage(items.count(), |index| {
            let item = items.get(index);
            let Projection { matrix, bias } = projections[item.matrix];
            // SAFETY: hidden states and inputs are not written in this stage.
            let input = unsafe {
                let (norm, target) = (&layer.attention_norm, self.buffers.inputs);
                self.normed(
                    member,
                    (private, &mut own.row),
                    &mut is_made,
                    count,
                    |row| row,
                    norm,
                    target,
                )
            };
            for group in item.groups {
                let lanes = GROUP.min(matrix.rows() - group * GROUP);
                let results = product(
                    member.isa(),
                    matrix,
                    group,
                    input,
                    item.tokens.clone(),
                    &mut own.product,
                );
                for (row, eight) in item.tokens.clone().zip(results) {
                    let at = row * matrix.rows() + group * GROUP;
                    // SAFETY: no other item has this group and these tokens.
                    let out = unsafe { outputs[item.matrix].get_mut(at..at + lanes) };
                    match out.first_chunk_mut::<GROUP>() {
                        Some(out) => *out = *eight,
                        None => out.copy_from_slice(&eight[..lanes]),
                    }
                    if let Some(bias) = bias {
                        add(out, &bias[group * GROUP..][..lanes]);
                    }
                }
            }
        });
    }

    /// Rotates the keys, and keys and values to the cache.
    fn store(&self, member: &Member<'_>, layer: usize) {
        let (width, dim) = (self.decoder.kv_width(), self.decoder.head_dim);
        member.stage(self.batch.len(), |row| {
            // SAFETY: an item is a row, and rows have different slots.
            unsafe {
                let keys = of_row(self.buffers.k, row, width);
                self.decoder.rope.rotate(member.isa(), keys, self.angles(row));
                let values = self.buffers.v.get(row * width..(row + 1) * width);
                for (head, (keys, values)) in keys.chunks_exact(dim).zip(values.chunks_exact(dim)).enumerate() {
                    self.store_head(member.isa(), layer, row, head, keys, values);
                }
            }
        });
    }

    /// # Safety
    /// Nobody else uses the slot of the row in this head.
    unsafe fn store_head(&self, isa: Isa, layer: usize, row: usize, head: usize, keys: &[f32], values: &[f32]) {
        let row = self.batch.rows[row];
        let blocks = self.batch.blocks(&self.batch.parts[row.part]);
        let tokens = self.cache.block_tokens();
        let (block, slot) = (blocks[row.position / tokens], row.position % tokens);
        // SAFETY: by the contract.
        unsafe { self.cache.write(isa, layer, block, head, slot, keys, values) };
    }

    /// # Safety
    /// After the first stage.
    unsafe fn angles(&self, row: usize) -> &'a [f32] {
        let len = self.decoder.rope.angles_len();
        // SAFETY: only the first stage writes them.
        unsafe { self.buffers.angles.get(row * len..(row + 1) * len) }
    }

    /// Attention; its results are quantised for the output projection.
    fn attention(&self, member: &Member<'_>, own: &mut Own, layer: usize) {
        let Decoder {
            heads,
            kv_heads,
            head_dim: dim,
            ..
        } = *self.decoder;
        let ratio = heads / kv_heads;
        let runs = Runs::new(self.batch, rows_together(ratio));
        let columns = kv_heads.div_ceil(self.heads_together);
        let scale = 1.0 / (dim as f32).sqrt();
        member.stage(runs.count * columns, |index| {
            let (run, first_head) = (index / columns, index % columns * self.heads_together);
            let (first, rows) = runs.get(self.batch, run);
            let last_head = (first_head + self.heads_together).min(kv_heads);
            let span = ratio * dim;
            let results = &mut own.results;
            results.resize(rows.count * (last_head - first_head) * span, 0.0);
            for head in first_head..last_head {
                if self.is_decoding {
                    let at = first * self.decoder.kv_width() + head * dim;
                    let key = &mut own.row[..dim];
                    // SAFETY: k and v are not written in this stage; the slot belongs to this row and head.
                    unsafe {
                        key.copy_from_slice(self.buffers.k.get(at..at + dim));
                        self.decoder.rope.rotate(member.isa(), key, self.angles(first));
                        self.store_head(member.isa(), layer, first, head, key, self.buffers.v.get(at..at + dim));
                    }
                }
                let queries = own.attention.begin(rows.count, ratio, dim);
                for (row, query) in (first..).zip(queries.chunks_exact_mut(span)) {
                    let at = row * self.decoder.query_width() + head * span;
                    // SAFETY: q is not written in this stage.
                    unsafe {
                        query.copy_from_slice(self.buffers.q.get(at..at + span));
                        self.decoder.rope.rotate(member.isa(), query, self.angles(row));
                    }
                    query.iter_mut().for_each(|x| *x *= scale);
                }
                // SAFETY: of this head, the blocks of the sequence are written by this item alone, or in the stage before.
                unsafe { attend(member.isa(), self.cache, layer, head, rows, &mut own.attention) };
                let width = (last_head - first_head) * span;
                for row in 0..rows.count {
                    results[row * width + (head - first_head) * span..][..span]
                        .copy_from_slice(own.attention.result(row));
                }
            }
            let width = (last_head - first_head) * span;
            for (row, result) in (first..).zip(results.chunks_exact(width)) {
                // SAFETY: no other item has these rows and heads.
                unsafe {
                    self.buffers
                        .attended
                        .write(member.isa(), row, first_head * span, result)
                };
            }
        });
    }

    /// Adds the product of `matrix` to the hidden states.
    fn residual(&self, member: &Member<'_>, own: &mut Own, matrix: &Matrix, input: Target<'_>) {
        let items = Items::new([matrix], self.batch.len());
        let width = self.decoder.width();
        member.stage(items.count(), |index| {
            let item = items.get(index);
            // SAFETY: what was written there before is not written in this stage.
            let input = unsafe { input.input() };
            for group in item.groups {
                let lanes = GROUP.min(width - group * GROUP);
                let results = product(
                    member.isa(),
                    matrix,
                    group,
                    input,
                    item.tokens.clone(),
                    &mut own.product,
                );
                for (row, eight) in item.tokens.clone().zip(results) {
                    let at = row * width + group * GROUP;
                    // SAFETY: no other item has this group and these tokens.
                    add(unsafe { self.buffers.hidden.get_mut(at..at + lanes) }, &eight[..lanes]);
                }
            }
        });
    }

    /// `silu(gate) * up`, 32 columns an item, quantised for the down projection.
    fn feed_forward(&self, member: &Member<'_>, own: &mut Own, layer: &Layer) {
        let (count, inner) = (self.batch.len(), self.decoder.feed_forward());
        let columns = inner.div_ceil(BLOCK);
        let (private, mut is_made) = (own.normed.target(count.min(QUAD)), false);
        member.stage(count.div_ceil(CHUNK) * columns, |index| {
            let first = index / columns * CHUNK;
            let tokens = first..(first + CHUNK).min(count);
            let column = index % columns * BLOCK;
            let width = BLOCK.min(inner - column);
            // SAFETY: hidden states and inputs are not written in this stage.
            let input = unsafe {
                let (norm, target) = (&layer.feed_forward_norm, self.buffers.inputs);
                self.normed(
                    member,
                    (private, &mut own.row),
                    &mut is_made,
                    count,
                    |row| row,
                    norm,
                    target,
                )
            };
            for part in (0..width).step_by(GROUP) {
                let group = (column + part) / GROUP;
                for (matrix, out) in [(&layer.gate, &mut own.gate), (&layer.up, &mut own.up)] {
                    let results = product(member.isa(), matrix, group, input, tokens.clone(), &mut own.product);
                    for (out, eight) in out.iter_mut().zip(results) {
                        if let Some(out) = out[part..].first_chunk_mut::<GROUP>() {
                            *out = *eight;
                        }
                    }
                }
            }
            for (row, (gate, up)) in tokens.zip(own.gate.iter().zip(&own.up)) {
                let mut out = [0.0; BLOCK];
                silu_mul_on(member.isa(), &gate[..width], &up[..width], &mut out[..width]);
                // SAFETY: no other item has these columns and rows.
                unsafe { self.buffers.inner.write(member.isa(), row, column, &out[..width]) };
            }
        });
    }

    /// The largest logit of each output, and all of them where they are wanted.
    fn head(&self, member: &Member<'_>, own: &mut Own) {
        let outputs = &self.batch.outputs;
        let count = outputs.len();
        if count == 0 {
            return;
        }
        let (norm, target) = (&self.decoder.final_norm, self.buffers.inputs);
        let row_of = |index: usize| outputs[index].row;
        self.norm_stage(member, own, count, row_of, norm, target);
        let matrix = self.decoder.head();
        let items = Items::new([matrix], count);
        let (private, mut is_made) = (own.normed.target(count.min(QUAD)), false);
        member.stage(items.count(), |index| {
            let item = items.get(index);
            // SAFETY: hidden states and inputs are not written in this stage.
            let input = unsafe {
                self.normed(
                    member,
                    (private, &mut own.row),
                    &mut is_made,
                    count,
                    row_of,
                    norm,
                    target,
                )
            };
            for group in item.groups {
                let lanes = GROUP.min(matrix.rows() - group * GROUP);
                let results = product(
                    member.isa(),
                    matrix,
                    group,
                    input,
                    item.tokens.clone(),
                    &mut own.product,
                );
                for (output, eight) in item.tokens.clone().zip(results) {
                    own.best[output].see(group, eight, lanes);
                    if let Some(index) = outputs[output].logits {
                        let at = index * matrix.rows() + group * GROUP;
                        // SAFETY: no other item has this group and these outputs.
                        let out = unsafe { self.buffers.logits.get_mut(at..at + lanes) };
                        out.copy_from_slice(&eight[..lanes]);
                    }
                }
            }
        });
    }
}

/// # Safety
/// Nobody else uses the row meanwhile.
unsafe fn of_row<'a>(buffer: Shared<'a, f32>, row: usize, width: usize) -> &'a mut [f32] {
    // SAFETY: by the contract.
    unsafe { buffer.get_mut(row * width..(row + 1) * width) }
}

/// The parts of a batch, cut into runs of rows that attention takes together.
struct Runs {
    together: usize,
    count: usize,
}

impl Runs {
    fn new(batch: &Batch, together: usize) -> Runs {
        let count = batch.parts.iter().map(|part| part.rows.len().div_ceil(together)).sum();
        Runs { together, count }
    }

    /// The first row of run `index`, and the run.
    fn get<'b>(&self, batch: &'b Batch, mut index: usize) -> (usize, Rows<'b>) {
        let mut parts = batch.parts.iter();
        loop {
            let Some(part) = parts.next() else {
                unreachable!("fewer runs than were counted")
            };
            let runs = part.rows.len().div_ceil(self.together);
            if index >= runs {
                index -= runs;
                continue;
            }
            let skip = index * self.together;
            let rows = Rows {
                blocks: batch.blocks(part),
                position: part.position + skip,
                count: self.together.min(part.rows.len() - skip),
            };
            return (part.rows.start + skip, rows);
        }
    }
}
