//! Decides what a step computes: no phases, every sequence has `computed` chasing its known tokens under
//! one budget of tokens (the loop of vLLM's V1 scheduler) and, while answers are being written, of predicted time.
//! Running sequences go first, each with at least one token, so that a long prompt never stops those that decode;
//! then waiting ones are admitted in order. Both queues are ordered by priority, then by arrival; without blocks the
//! last running sequence loses its own and is computed again later.
//! Nothing here knows of tensors.
use std::cell::RefCell;
use std::collections::{HashSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use crate::kv::pool::BlockPool;
use crate::kv::prefix::PrefixHash;
use crate::pace::{Load, Pace};
use crate::request::{Request, RequestId};
use crate::sequence::Sequence;

/// The sizes that do not change while the engine lives.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Tokens a sequence may have.
    pub context: usize,
    /// Sequences that run at once; at most `batch_tokens`, so that each can move in every step.
    pub sequences: usize,
    /// Tokens of a step.
    pub batch_tokens: usize,
    /// Tokens of a block.
    pub block_tokens: usize,
    /// How long a step should take in which prompts are read beside answers.
    pub step_time: Option<Duration>,
    /// Tokens that are guessed for an answer at most, where few run.
    pub speculate: usize,
}

/// Rows of a step up to which more of them cost little: the weights are read once for all. Guesses fill it.
const CHEAP_ROWS: usize = 8;

/// Outputs of a step beside one for each sequence, for guesses and for prompts of which all logits are wanted. Logits
/// take memory, a megabyte for a large vocabulary, and 16 rows together already keep the arithmetic busy.
const SPARE_OUTPUTS: usize = 15;

/// A step in which prompts are read may take this many times what its answers take. With twice, reading is what holds
/// up all others: where clients ask again as soon as they have their answer, half of them wait to be read.
const PROMPTS_BESIDE: f64 = 3.0;

impl Limits {
    /// Rows of a step that may give a token or logits.
    pub fn outputs(&self) -> usize {
        self.sequences.saturating_add(SPARE_OUTPUTS)
    }
}

/// A part of a step: `count` tokens of running sequence `index`, from its `computed` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Position in [`Scheduler::running`].
    pub index: usize,
    /// Tokens, at least one.
    pub count: usize,
}

/// What a step may still take on.
struct Budget<'a> {
    pace: &'a Pace,
    tokens: usize,
    /// Outputs beside one for each sequence.
    outputs: usize,
    /// Predicted seconds of the whole step.
    seconds: f64,
    /// What is planned, and what is kept for the answers.
    load: Load,
}

impl Budget<'_> {
    /// Tokens of a prompt from `position` on that fit.
    fn fitting(&self, position: usize, need: usize, tokens: usize) -> usize {
        self.pace.fitting(self.load, position, need.min(tokens), self.seconds)
    }

    /// Tokens of this prompt that fit, if there are `tokens` in all.
    fn fitting_of(&self, sequence: &Sequence, tokens: usize) -> usize {
        let need = match sequence.scores() {
            true => sequence.need().min(1 + self.outputs),
            false => sequence.need(),
        };
        self.fitting(sequence.computed, need, tokens)
    }

    fn spend(&mut self, position: usize, count: usize) {
        self.tokens -= count;
        self.load = self.load.and(Load::of(position, count));
    }
}

/// The sequences that live, in two queues, and the blocks that they share.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    pool: Rc<RefCell<BlockPool>>,
    running: Vec<Sequence>,
    waiting: VecDeque<Sequence>,
    preemptions: u64,
    prefix_queries: u64,
    prefix_hits: u64,
}

impl Scheduler {
    /// Nothing to do yet. One sequence of `limits.context` tokens must fit into `blocks`.
    pub fn new(limits: Limits, blocks: u32) -> Self {
        Self {
            limits,
            pool: Rc::new(RefCell::new(BlockPool::new(blocks))),
            running: Vec::new(),
            waiting: VecDeque::new(),
            preemptions: 0,
            prefix_queries: 0,
            prefix_hits: 0,
        }
    }

    /// Queues a request whose prompt has been checked.
    pub fn add(&mut self, request: Request) {
        let sequence = self.sequence(request);
        let behind = |other: &Sequence| other.request.priority <= sequence.request.priority;
        let place = self.waiting.partition_point(behind);
        self.waiting.insert(place, sequence);
    }

    /// A sequence outside of the queues, with blocks of the same pool.
    pub fn sequence(&self, request: Request) -> Sequence {
        let pool = Rc::clone(&self.pool);
        Sequence::new(request, self.limits.context, self.limits.block_tokens, pool)
    }

    /// Whether a request lives.
    pub fn contains(&self, id: RequestId) -> bool {
        self.running
            .iter()
            .chain(&self.waiting)
            .any(|sequence| sequence.request.id == id)
    }

    /// Forgets a request, whatever its state; its blocks are free at once.
    pub fn cancel(&mut self, id: RequestId) -> bool {
        let before = self.len();
        self.running.retain(|sequence| sequence.request.id != id);
        self.waiting.retain(|sequence| sequence.request.id != id);
        self.len() < before
    }

    /// Sequences that live.
    pub fn len(&self) -> usize {
        self.running.len() + self.waiting.len()
    }

    /// The running sequences; each step begins with the most urgent, and among equals the oldest, first.
    pub fn running(&self) -> &[Sequence] {
        &self.running
    }

    /// A running sequence.
    pub fn running_mut(&mut self, index: usize) -> &mut Sequence {
        &mut self.running[index]
    }

    /// Sequences in the queue.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Takes the finished sequences (rising positions in [`Scheduler::running`]) out.
    pub fn remove(&mut self, finished: &[usize]) {
        for &index in finished.iter().rev() {
            self.running.remove(index);
        }
    }

    /// Blocks held, and in all.
    pub fn blocks(&self) -> (usize, usize) {
        let pool = self.pool.borrow();
        (pool.total() - pool.free(), pool.total())
    }

    /// Since the start: preemptions, prompt tokens looked up in the prefix cache, and found there.
    pub fn counters(&self) -> (u64, u64, u64) {
        (self.preemptions, self.prefix_queries, self.prefix_hits)
    }

    /// Fills `plan` with the next step, blocks allocated, and gives its load. Empty only without work.
    pub fn plan(&mut self, plan: &mut Vec<Work>, pace: &Pace) -> Load {
        plan.clear();
        // Admission put the new ones behind all others. Equal priorities keep their order.
        if !self.running.is_sorted_by_key(|sequence| sequence.request.priority) {
            self.running.sort_by_key(|sequence| sequence.request.priority);
        }
        self.speculate();
        let mut budget = self.budget(pace);
        let preempted = self.plan_running(plan, &mut budget);
        if !preempted {
            self.admit(plan, &mut budget);
        }
        let load = |work: &Work| Load::of(self.running[work.index].computed, work.count);
        plan.iter().map(load).fold(Load::default(), Load::and)
    }

    /// Guesses for all answers, as far as they cost little.
    fn speculate(&mut self) {
        if self.limits.speculate == 0 {
            return;
        }
        let running = self.running.len();
        let each = CHEAP_ROWS.saturating_sub(running) / running.max(1);
        for sequence in &mut self.running {
            sequence.speculate(each.min(self.limits.speculate));
        }
    }

    fn budget<'a>(&self, pace: &'a Pace) -> Budget<'a> {
        let answers = self.running.iter().filter(|sequence| sequence.is_writing());
        let load = answers
            .map(|sequence| Load::of(sequence.computed, 1 + sequence.guess.len()))
            .fold(Load::default(), Load::and);
        let seconds = match self.limits.step_time {
            Some(time) if load.tokens > 0 => time.as_secs_f64().max(PROMPTS_BESIDE * pace.seconds(load)),
            _ => f64::INFINITY,
        };
        Budget {
            pace,
            tokens: self.limits.batch_tokens,
            outputs: SPARE_OUTPUTS,
            seconds,
            load,
        }
    }

    /// One part for each running sequence; true if one lost its blocks.
    fn plan_running(&mut self, plan: &mut Vec<Work>, budget: &mut Budget<'_>) -> bool {
        let before = self.preemptions;
        let mut index = 0;
        while index < self.running.len() {
            // One token is kept for each of those behind.
            let behind = self.running.len() - index - 1;
            let sequence = &mut self.running[index];
            let position = sequence.computed;
            let room = (budget.tokens - behind).saturating_sub(1);
            sequence.guess.truncate(room.min(budget.outputs));
            let guessed = (position + 1 + sequence.guess.len()).div_ceil(self.limits.block_tokens);
            if !sequence.guess.is_empty() && !sequence.table.grow(guessed) {
                sequence.guess.clear(); // nobody gives way to a guess
            }
            let count = match sequence.is_writing() {
                true => 1 + sequence.guess.len(),
                false => budget.fitting_of(sequence, budget.tokens - behind).max(1),
            };
            let blocks = (position + count).div_ceil(self.limits.block_tokens);
            if sequence.table.grow(blocks) {
                plan.push(Work { index, count });
                budget.outputs -= sequence.outputs(count) - 1;
                match sequence.is_writing() {
                    true => budget.tokens -= count, // its time is reckoned with from the start
                    false => budget.spend(position, count),
                }
                index += 1;
                continue;
            }
            // The last gives way; if that is this one, nothing is behind it and the loop ends.
            if let Some(mut last) = self.running.pop() {
                last.restart();
                let before = |other: &Sequence| other.request.priority < last.request.priority;
                let place = self.waiting.partition_point(before);
                self.waiting.insert(place, last);
                self.preemptions += 1;
            }
        }
        self.preemptions > before
    }

    fn admit(&mut self, plan: &mut Vec<Work>, budget: &mut Budget<'_>) {
        // Before the set below is built: with no place or no time left this is the common case, in each step.
        let full = self.running.len() >= self.limits.sequences || budget.fitting(0, 1, budget.tokens) == 0;
        if self.waiting.is_empty() || full {
            return;
        }
        let mut underway = self.prefixes_underway();
        let mut position = 0;
        while self.running.len() < self.limits.sequences {
            let Some(sequence) = self.waiting.get_mut(position) else {
                break;
            };
            sequence.share_prefix();
            let shared = sequence.computed / self.limits.block_tokens;
            // What somebody computes right now is there in a later round, and costs nothing then.
            let next = sequence.prefixes[..sequence.shareable()].get(shared);
            if next.is_some_and(|prefix| underway.contains(prefix)) {
                sequence.restart();
                position += 1;
                continue;
            }
            // All known tokens must fit, or admitting would only push others out.
            let blocks = sequence.tokens.len().div_ceil(self.limits.block_tokens);
            if blocks - shared > self.pool.borrow().free() {
                sequence.restart();
                break;
            }
            let count = budget.fitting_of(sequence, budget.tokens);
            if count == 0 {
                sequence.restart();
                break;
            }
            if !sequence
                .table
                .grow((sequence.computed + count).div_ceil(self.limits.block_tokens))
            {
                sequence.restart();
                break;
            }
            if !sequence.started {
                sequence.cached = sequence.computed.min(sequence.prompt_tokens);
                self.prefix_queries += sequence.prompt_tokens as u64;
                self.prefix_hits += sequence.cached as u64;
            }
            underway.extend(&sequence.prefixes[shared..]);
            budget.spend(sequence.computed, count);
            budget.outputs -= sequence.outputs(count) - 1;
            if let Some(sequence) = self.waiting.remove(position) {
                plan.push(Work {
                    index: self.running.len(),
                    count,
                });
                self.running.push(sequence);
            }
        }
    }

    /// Names of the full blocks that running sequences are still computing.
    fn prefixes_underway(&self) -> HashSet<PrefixHash> {
        self.running
            .iter()
            .flat_map(|sequence| &sequence.prefixes[sequence.computed / self.limits.block_tokens..])
            .copied()
            .collect()
    }
}

#[cfg(test)]
mod tests;
