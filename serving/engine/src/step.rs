//! One step: plan, compute, choose, commit. The only place where the scheduler's numbers meet tensors.
use crate::engine::Engine;
use crate::model::{Batch, Row};
use crate::request::Event;
use crate::sample::sample;
use crate::scheduler::Scheduler;

impl Engine {
    /// Computes one step and appends what it produced to `events`. Without work it does nothing.
    pub fn step(&mut self, events: &mut Vec<Event>) {
        if !self.scheduler.has_work() {
            return;
        }
        self.scheduler.schedule();
        if self.scheduler.plan().is_empty() {
            return;
        }
        let batch = batch(&self.scheduler);
        let logits = self
            .decoder
            .forward(&self.pool, &batch, &mut self.cache, &mut self.workspace);

        let choosing: Vec<_> = self.scheduler.plan().iter().filter(|chunk| chunk.wants_next).collect();
        let mut next_tokens = std::mem::take(&mut self.next_tokens);
        next_tokens.clear();
        next_tokens.resize(choosing.len(), None);
        let vocabulary = logits.len() / choosing.len().max(1);
        let running = self.scheduler.running();
        self.pool.for_each_chunk(&mut next_tokens, 1, |index, next| {
            let sequence = &running[choosing[index].sequence];
            let logits = &logits[index * vocabulary..][..vocabulary];
            next[0] = sample(logits, sequence.sampling(), sequence.tokens().len());
        });
        self.commit(next_tokens, events);
    }

    fn commit(&mut self, next_tokens: Vec<Option<u32>>, events: &mut Vec<Event>) {
        let tokenizer = self.tokenizer();
        self.scheduler
            .commit(next_tokens.iter().copied(), |token| tokenizer.is_eog(token), events);
        self.next_tokens = next_tokens;
    }
}

fn batch(scheduler: &Scheduler) -> Batch<'_> {
    let mut batch = Batch::default();
    for chunk in scheduler.plan() {
        let sequence = &scheduler.running()[chunk.sequence];
        let (first, blocks) = (sequence.computed(), sequence.blocks());
        let tokens = &sequence.tokens()[first..first + chunk.count];
        batch
            .rows
            .extend(tokens.iter().zip(first..).map(|(&token, position)| Row {
                token,
                position,
                blocks,
            }));
        if chunk.wants_next {
            batch.wanted.push(batch.rows.len() - 1);
        }
    }
    batch
}
