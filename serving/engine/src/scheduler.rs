//! Who computes how much in the next step. One loop for everything (the design of vLLM's second engine):
//! a budget of tokens goes to those who run, in order of arrival, then to those who wait; who finds no
//! block takes those of the newest. Counts and block numbers only: no tensor, no token's meaning.
use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex};

use crate::kv::{BlockPool, SharedPool, lock};
use crate::request::{AdmitError, Event, FinishReason, Request, RequestId, Stats};
use crate::sequence::Sequence;

/// Sizes that the scheduler keeps to; all at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Sequences that run at once.
    pub max_sequences: usize,
    /// Tokens of a step.
    pub max_batch_tokens: usize,
    /// Tokens of a sequence; a sequence of this length must fit into the pool.
    pub context: usize,
    /// Tokens of a block.
    pub block_tokens: usize,
    /// Token ids are below it.
    pub vocabulary: usize,
}

/// What one sequence computes in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Index into [`Scheduler::running`].
    pub sequence: usize,
    /// Tokens.
    pub count: usize,
    /// Whether the chunk reaches the last known token, so that the next one is chosen from its logits.
    pub wants_next: bool,
}

/// The two queues and the pool.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    pool: SharedPool,
    // Oldest first in both: the newest runner is the last, the next to run is the first.
    running: Vec<Sequence>,
    waiting: VecDeque<Sequence>,
    ids: HashSet<RequestId>,
    plan: Vec<Chunk>,
    counters: Stats,
}

impl Scheduler {
    /// A scheduler over a pool of `blocks` blocks.
    pub fn new(mut limits: Limits, blocks: u32) -> Self {
        // Every runner gets at least one token a step, and a sequence alone always fits.
        limits.max_sequences = limits.max_sequences.min(limits.max_batch_tokens);
        limits.context = limits.context.min(blocks as usize * limits.block_tokens);
        Self {
            limits,
            pool: Arc::new(Mutex::new(BlockPool::new(blocks))),
            running: Vec::new(),
            waiting: VecDeque::new(),
            ids: HashSet::new(),
            plan: Vec::new(),
            counters: Stats::default(),
        }
    }

    /// Queues a request, or says why it could never run.
    pub fn submit(&mut self, request: Request) -> Result<(), AdmitError> {
        let (prompt, context) = (request.prompt.len(), self.limits.context);
        if prompt == 0 {
            return Err(AdmitError::EmptyPrompt);
        }
        if prompt >= context {
            return Err(AdmitError::PromptTooLong { prompt, context });
        }
        if let Some(&token) = request
            .prompt
            .iter()
            .find(|&&token| token as usize >= self.limits.vocabulary)
        {
            return Err(AdmitError::InvalidToken(token));
        }
        if !self.ids.insert(request.id) {
            return Err(AdmitError::DuplicateId(request.id.0));
        }
        let limit = prompt + request.max_tokens.clamp(1, context - prompt);
        self.waiting
            .push_back(Sequence::new(request, limit, self.limits.block_tokens, &self.pool));
        Ok(())
    }

    /// Forgets a request wherever it is; whether there was one. It has no further event.
    pub fn cancel(&mut self, id: RequestId) -> bool {
        if !self.ids.remove(&id) {
            return false;
        }
        self.waiting.retain(|sequence| sequence.id() != id);
        self.running.retain(|sequence| sequence.id() != id);
        true
    }

    /// Whether anything runs or waits.
    pub fn has_work(&self) -> bool {
        !self.ids.is_empty()
    }

    /// Sequences that run, oldest first.
    pub fn running(&self) -> &[Sequence] {
        &self.running
    }

    /// The step that `schedule` planned.
    pub fn plan(&self) -> &[Chunk] {
        &self.plan
    }

    /// Plans a step. Each chunk's blocks are reserved; [`Scheduler::commit`] must follow.
    pub fn schedule(&mut self) {
        self.plan.clear();
        let mut budget = self.limits.max_batch_tokens;
        let preempted = self.schedule_running(&mut budget);
        if !preempted {
            self.admit(&mut budget);
        }
    }

    /// Takes the results of the planned step: for each chunk that wants one, in order, the next token, or
    /// `None` if its arithmetic failed. Appends what happened to `events`.
    pub fn commit(
        &mut self,
        next_tokens: impl IntoIterator<Item = Option<u32>>,
        ends: impl Fn(u32) -> bool,
        events: &mut Vec<Event>,
    ) {
        let mut next_tokens = next_tokens.into_iter();
        let mut finished = HashSet::new();
        for chunk in &self.plan {
            let sequence = &mut self.running[chunk.sequence];
            let reading = sequence
                .usage(0)
                .prompt_tokens
                .saturating_sub(sequence.computed())
                .min(chunk.count);
            self.counters.prompt_tokens += reading as u64;
            sequence.advance(chunk.count, self.limits.block_tokens, &self.pool);
            let id = sequence.id();
            if let Some(cached_tokens) = sequence.announce() {
                events.push(Event::Started { id, cached_tokens });
            }
            if !chunk.wants_next {
                continue;
            }
            let next = next_tokens.next().flatten();
            let known = sequence.tokens().len();
            let reason = match next {
                None => Some(FinishReason::NonFinite),
                Some(token) => sequence.push(token, ends(token)),
            };
            self.counters.generated_tokens += u64::from(next.is_some());
            if let (Some(token), true) = (next, sequence.tokens().len() > known) {
                events.push(Event::Token { id, token });
            }
            if let Some(reason) = reason {
                let ended = usize::from(reason == FinishReason::Stop);
                events.push(Event::Finished {
                    id,
                    reason,
                    usage: sequence.usage(ended),
                });
                finished.insert(id);
            }
        }
        if !finished.is_empty() {
            self.running.retain(|sequence| !finished.contains(&sequence.id()));
            self.ids.retain(|id| !finished.contains(id));
        }
        self.counters.running = self.plan.len();
        self.counters.steps += 1;
    }

    /// Counters and gauges.
    pub fn stats(&self) -> Stats {
        let blocks = lock(&self.pool).stats();
        Stats {
            waiting: self.waiting.len(),
            running: if self.has_work() { self.counters.running } else { 0 },
            blocks_used: blocks.used,
            blocks_total: blocks.total,
            ..self.counters.clone()
        }
    }

    /// Gives every runner its share; whether one lost its blocks.
    fn schedule_running(&mut self, budget: &mut usize) -> bool {
        let before = self.counters.preemptions;
        let mut index = 0;
        while index < self.running.len() {
            // One token each is kept back for those behind, so nobody stalls behind a long prompt.
            let behind = self.running.len() - 1 - index;
            let count = self.running[index].pending().min(*budget - behind);
            let tokens = self.running[index].computed() + count;
            while index < self.running.len() && !self.running[index].reserve(tokens, self.limits.block_tokens) {
                self.preempt_newest();
            }
            if index == self.running.len() {
                break;
            }
            self.plan_chunk(index, count, budget);
            index += 1;
        }
        self.counters.preemptions > before
    }

    fn preempt_newest(&mut self) {
        if let Some(mut sequence) = self.running.pop() {
            sequence.restart();
            self.waiting.push_front(sequence);
            self.counters.preemptions += 1;
        }
    }

    /// Starts those who wait, as far as sequences, tokens and blocks go.
    fn admit(&mut self, budget: &mut usize) {
        let block_tokens = self.limits.block_tokens;
        let mut index = 0;
        let mut shared = Vec::new();
        while index < self.waiting.len() && *budget > 0 && self.running.len() < self.limits.max_sequences {
            let sequence = &self.waiting[index];
            let wanted = sequence.shareable(block_tokens);
            self.find_shared(wanted, &mut shared);
            // A block that a runner is about to compute is worth a round of waiting: computing it twice
            // would take longer. The runner progresses every step, so the wait ends.
            if let Some(&missing) = wanted.get(shared.len())
                && self
                    .running
                    .iter()
                    .any(|runner| runner.will_compute(shared.len(), missing))
            {
                index += 1;
                continue;
            }
            if !self.fits(sequence, &shared) {
                break;
            }
            let Some(mut sequence) = self.waiting.remove(index) else {
                break;
            };
            if let Some((asked, found)) = sequence.begin(&shared, block_tokens) {
                self.counters.prefix_queries += asked as u64;
                self.counters.prefix_hits += found as u64;
            }
            let count = sequence.pending().min(*budget);
            let reserved = sequence.reserve(sequence.computed() + count, block_tokens);
            debug_assert!(reserved, "`fits` said that there are enough blocks");
            self.running.push(sequence);
            self.plan_chunk(self.running.len() - 1, count, budget);
        }
    }

    fn find_shared(&self, wanted: &[crate::kv::BlockHash], shared: &mut Vec<u32>) {
        let pool = lock(&self.pool);
        shared.clear();
        shared.extend(wanted.iter().map_while(|&hash| pool.find(hash)));
    }

    /// Whether all of a waiting sequence fits beside the runners, with a block for each of them to grow
    /// into: who is admitted earlier is only preempted. Alone, a sequence always fits.
    fn fits(&self, sequence: &Sequence, shared: &[u32]) -> bool {
        let pool = lock(&self.pool);
        let blocks = sequence.tokens().len().div_ceil(self.limits.block_tokens);
        let revived = shared.iter().filter(|&&block| pool.is_free(block)).count();
        let spare = if self.running.is_empty() {
            0
        } else {
            self.running.len() + 1
        };
        blocks - shared.len() + revived + spare <= pool.free()
    }

    fn plan_chunk(&mut self, index: usize, count: usize, budget: &mut usize) {
        let wants_next = count == self.running[index].pending();
        self.plan.push(Chunk {
            sequence: index,
            count,
            wants_next,
        });
        *budget -= count;
    }
}

#[cfg(test)]
mod tests;
