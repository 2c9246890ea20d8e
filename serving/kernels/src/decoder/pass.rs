//! One step as each thread runs it. Every access to a shared buffer is inside an item of a stage: an item has the part
//! that it writes for itself, and what it reads was written in stages that are over.

mod norm;

use super::workspace::{Buffers, Own, see};
use super::{Activation, Decoder, Layer, Projection};
use crate::activations::{BLOCK, Target};
use crate::attention::{Rows, attend, rows_together};
use crate::batch::Batch;
use crate::isa::Isa;
use crate::kv::SharedKv;
use crate::layout::GROUP;
use crate::matmul::{self, CHUNK, Columns, Items};
use crate::matrix::Matrix;
use crate::ops::{gelu_mul_on, rmsnorm_on, silu_mul_on, spread};
use crate::pool::{Member, Shared};
use crate::rope::Rope;
use norm::{Norm, Private, State};
use std::num::NonZeroUsize;

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
            cache.shape().kv_heads == decoder.kv_heads && cache.shape().head_dim == decoder.head_dim,
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
        let mut state = State::default();
        for (index, layer) in self.decoder.layers.iter().enumerate() {
            let norm = Norm::new(&layer.attention_norm, state);
            self.norm_stage(member, own, &norm);
            self.project(member, own, layer, &norm);
            state = state.settled();
            if !self.is_decoding {
                self.store(member, own, index);
            }
            self.attention(member, own, index);
            state.post_norm = layer.post_attention_norm.as_deref();
            self.residual(member, own, &layer.o, self.buffers.attended, state);
            let norm = Norm::new(&layer.feed_forward_norm, state);
            self.norm_stage(member, own, &norm);
            self.feed_forward(member, own, layer, &norm);
            state = state.settled();
            state.post_norm = layer.post_feed_forward_norm.as_deref();
            self.residual(member, own, &layer.down, self.buffers.inner, state);
        }
        self.head(member, own, state);
    }

    /// Hidden states from the embeddings, and the angles of each row's position.
    fn embed(&self, member: &Member<'_>) {
        let (width, angles) = (self.decoder.width(), self.decoder.angles_len());
        let scale = self.decoder.embedding_scale;
        member.stage(self.batch.len(), |row| {
            let (hidden, table) = (self.buffers.hidden[0], self.buffers.angles);
            // SAFETY: an item is a row.
            let (hidden, mut table) = unsafe { (of_row(hidden, row, width), of_row(table, row, angles)) };
            let row = self.batch.rows[row];
            self.decoder.embedding.row(row.token as usize, hidden);
            if scale != 1.0 {
                hidden.iter_mut().for_each(|x| *x *= scale);
            }
            for rope in &self.decoder.ropes {
                let (own, rest) = table.split_at_mut(rope.angles_len());
                rope.angles(row.position, own);
                table = rest;
            }
        });
    }

    /// q, k and v with their biases.
    fn project(&self, member: &Member<'_>, own: &mut Own, layer: &Layer, norm: &Norm<'_>) {
        let count = self.batch.len();
        let projections = [&layer.q, &layer.k, &layer.v];
        let outputs = [self.buffers.q, self.buffers.k, self.buffers.v];
        let items = Items::new(projections.map(|projection| &projection.matrix), count);
        let mut private = Private::new(&mut own.normed, &mut own.row, &mut own.sum, count);
        member.stage(items.count(), |index| {
            let item = items.get(index);
            let Projection { matrix, bias } = projections[item.matrix];
            let out = Columns::new(outputs[item.matrix], matrix.rows());
            // SAFETY: what the norm reads, and its results, are not written in this stage.
            let input = unsafe { self.normed(member, &mut private, index, norm) };
            item.products(
                member.isa(),
                matrix,
                input,
                &mut own.product,
                |group, tokens, results| {
                    // SAFETY: no other item has this group and these tokens.
                    unsafe { out.set(member.isa(), group, tokens.start, results, bias.as_deref()) };
                },
            );
        });
    }

    /// Keys, rotated, and values to the cache.
    fn store(&self, member: &Member<'_>, own: &mut Own, layer: usize) {
        member.stage(self.batch.len(), |row| {
            for head in 0..self.decoder.kv_heads {
                // SAFETY: an item is a row, and rows have different slots; k and v are not written in this stage.
                unsafe { self.store_head(member.isa(), layer, row, head, &mut own.row) };
            }
        });
    }

    /// One key, rotated in `key`, and its value to the cache.
    ///
    /// # Safety
    /// Nobody writes k or v of the row, nobody else uses its slot in this head.
    unsafe fn store_head(&self, isa: Isa, layer: usize, row: usize, head: usize, key: &mut [f32]) {
        let (dim, norm) = (self.decoder.head_dim, &self.decoder.layers[layer].k_norm);
        let at = row * self.decoder.kv_width() + head * dim;
        let key = &mut key[..dim];
        let place = self.batch.rows[row];
        let blocks = self.batch.blocks(&self.batch.parts[place.part]);
        let tokens = self.cache.shape().block_tokens;
        let (block, slot) = (blocks[place.position / tokens], place.position % tokens);
        // SAFETY: by the contract.
        unsafe {
            self.turn(isa, layer, row, self.buffers.k.get(at..at + dim), norm.as_deref(), key);
            let value = self.buffers.v.get(at..at + dim);
            self.cache.write(isa, layer, block, head, slot, key, value);
        }
    }

    /// Heads of a row to `out`: normalised where the model does that, and rotated; spread where keys are kept as bytes.
    ///
    /// # Safety
    /// After the first stage.
    unsafe fn turn(&self, isa: Isa, layer: usize, row: usize, heads: &[f32], norm: Option<&[f32]>, out: &mut [f32]) {
        let Decoder {
            head_dim: dim,
            norm_epsilon,
            ref ropes,
            ..
        } = *self.decoder;
        match norm {
            Some(weight) => {
                for (head, out) in heads.chunks_exact(dim).zip(out.chunks_exact_mut(dim)) {
                    rmsnorm_on(isa, head, weight, norm_epsilon, out);
                }
            }
            None => out.copy_from_slice(heads),
        }
        let which = self.decoder.layers[layer].rope;
        let before: usize = ropes[..which].iter().map(Rope::angles_len).sum();
        let start = row * self.decoder.angles_len() + before;
        // SAFETY: only the first stage writes them.
        let angles = unsafe { self.buffers.angles.get(start..start + ropes[which].angles_len()) };
        ropes[which].rotate(isa, out, angles);
        if let SharedKv::Q8(_) = self.cache {
            out.chunks_exact_mut(dim).for_each(spread);
        }
    }

    /// Attention; its results are quantised for the output projection.
    fn attention(&self, member: &Member<'_>, own: &mut Own, layer: usize) {
        let Decoder {
            heads,
            kv_heads,
            head_dim: dim,
            attention_scale: scale,
            ..
        } = *self.decoder;
        let Layer { q_norm, window, .. } = &self.decoder.layers[layer];
        let ratio = heads / kv_heads;
        let runs = Runs::new(self.batch, rows_together(ratio), *window);
        let columns = kv_heads.div_ceil(self.heads_together);
        member.stage(runs.count * columns, |index| {
            let (run, first_head) = (index / columns, index % columns * self.heads_together);
            let (first, rows) = runs.get(self.batch, run);
            let last_head = (first_head + self.heads_together).min(kv_heads);
            let span = ratio * dim;
            let results = &mut own.results;
            results.resize(rows.count * (last_head - first_head) * span, 0.0);
            for head in first_head..last_head {
                let next = match head + 1 < kv_heads {
                    true => Some((head + 1, rows)),
                    false => (run + 1 < runs.count).then(|| (0, runs.get(self.batch, run + 1).1)),
                };
                if self.is_decoding {
                    // SAFETY: k and v are not written in this stage; the slot belongs to this row and head.
                    unsafe { self.store_head(member.isa(), layer, first, head, &mut own.row) };
                }
                let queries = own.attention.begin(rows.count, ratio, dim);
                for (row, query) in (first..).zip(queries.chunks_exact_mut(span)) {
                    let at = row * self.decoder.query_width() + head * span;
                    // SAFETY: q is not written in this stage.
                    unsafe {
                        let heads = self.buffers.q.get(at..at + span);
                        self.turn(member.isa(), layer, row, heads, q_norm.as_deref(), query);
                    }
                    query.iter_mut().for_each(|x| *x *= scale);
                }
                // SAFETY: of this head, the blocks of the sequence are written by this item alone, or in the stage before.
                unsafe { attend(member.isa(), self.cache, layer, head, rows, next, &mut own.attention) };
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

    /// Adds the product of `matrix` to the hidden states, or leaves it to be normalised and added.
    fn residual(&self, member: &Member<'_>, own: &mut Own, matrix: &Matrix, input: Target<'_>, state: State<'_>) {
        let items = Items::new([matrix], self.batch.len());
        let width = self.decoder.width();
        let hidden = Columns::new(self.buffers.hidden[state.buffer], width);
        let addend = Columns::new(self.buffers.addend, width);
        member.stage(items.count(), |index| {
            let item = items.get(index);
            // SAFETY: what was written there before is not written in this stage.
            let input = unsafe { input.input() };
            item.products(
                member.isa(),
                matrix,
                input,
                &mut own.product,
                |group, tokens, results| {
                    // SAFETY: no other item has this group and these tokens.
                    unsafe {
                        match state.post_norm {
                            None => hidden.add(member.isa(), group, tokens.start, results),
                            Some(_) => addend.set(member.isa(), group, tokens.start, results, None),
                        }
                    }
                },
            );
        });
    }

    /// The activated gate times up, 32 columns an item, quantised for the down projection.
    fn feed_forward(&self, member: &Member<'_>, own: &mut Own, layer: &Layer, norm: &Norm<'_>) {
        let (count, inner) = (self.batch.len(), self.decoder.feed_forward());
        let columns = inner.div_ceil(BLOCK);
        let activate = match self.decoder.activation {
            Activation::Silu => silu_mul_on,
            Activation::Gelu => gelu_mul_on,
        };
        let mut private = Private::new(&mut own.normed, &mut own.row, &mut own.sum, count);
        member.stage(count.div_ceil(CHUNK) * columns, |index| {
            let first = index / columns * CHUNK;
            let tokens = first..(first + CHUNK).min(count);
            let column = index % columns * BLOCK;
            // SAFETY: what the norm reads, and its results, are not written in this stage.
            let input = unsafe { self.normed(member, &mut private, index, norm) };
            for (matrix, outs) in [(&layer.gate, &mut own.gate), (&layer.up, &mut own.up)] {
                for (half, out) in outs.iter_mut().enumerate() {
                    let (group, out) = (column / GROUP + half, &mut out[..tokens.len()]);
                    if group == matrix.groups() {
                        out.fill([0.0; GROUP]); // the last block has one group
                        continue;
                    }
                    matmul::group(member.isa(), matrix, group, input, first, &mut own.product.panel, out);
                }
            }
            for (gate, up) in own.gate.iter().zip(&mut own.up) {
                let gate = gate[..tokens.len()].as_flattened();
                activate(member.isa(), gate, up[..tokens.len()].as_flattened_mut());
            }
            let activated = own.up.each_ref().map(|half| &half[..tokens.len()]);
            // SAFETY: no other item has these columns and rows.
            unsafe { self.buffers.inner.write_block(member.isa(), first, column, activated) };
        });
    }

    /// The largest logit of each output, and all of them where they are wanted.
    fn head(&self, member: &Member<'_>, own: &mut Own, state: State<'_>) {
        let outputs = &self.batch.outputs;
        let count = outputs.len();
        if count == 0 {
            return;
        }
        let norm = Norm::last(&self.decoder.final_norm, state);
        self.norm_stage(member, own, &norm);
        let matrix = self.decoder.head();
        let items = Items::new([matrix], count);
        let mut private = Private::new(&mut own.normed, &mut own.row, &mut own.sum, count);
        member.stage(items.count(), |index| {
            let item = items.get(index);
            // SAFETY: what the norm reads, and its results, are not written in this stage.
            let input = unsafe { self.normed(member, &mut private, index, &norm) };
            item.products(
                member.isa(),
                matrix,
                input,
                &mut own.product,
                |group, tokens, results| {
                    let lanes = GROUP.min(matrix.rows() - group * GROUP);
                    see(member.isa(), &mut own.best[tokens.clone()], group, results, lanes);
                    for (output, sixteen) in tokens.zip(results) {
                        if let Some(index) = outputs[output].logits {
                            let at = index * matrix.rows() + group * GROUP;
                            // SAFETY: no other item has this group and these outputs.
                            let out = unsafe { self.buffers.logits.get_mut(at..at + lanes) };
                            out.copy_from_slice(&sixteen[..lanes]);
                        }
                    }
                },
            );
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
    window: usize,
    count: usize,
}

impl Runs {
    fn new(batch: &Batch, together: usize, window: Option<NonZeroUsize>) -> Runs {
        let count = batch.parts.iter().map(|part| part.rows.len().div_ceil(together)).sum();
        Runs {
            together,
            window: window.map_or(usize::MAX, NonZeroUsize::get),
            count,
        }
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
                window: self.window,
                count: self.together.min(part.rows.len() - skip),
            };
            return (part.rows.start + skip, rows);
        }
    }
}
