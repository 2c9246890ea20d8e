//! A request on its way: the tokens that are known, how many of them are computed, and its blocks.
use std::cell::RefCell;
use std::rc::Rc;

use crate::kv::pool::BlockPool;
use crate::kv::prefix::{self, PrefixHash};
use crate::kv::table::BlockTable;
use crate::request::{Request, Usage};

/// Tokens that must have occurred before for a guess: two agree by chance too often.
const KEY: usize = 3;

/// A request on its way.
#[derive(Debug)]
pub struct Sequence {
    /// What was asked for; its prompt has moved to `tokens`.
    pub request: Request,
    /// Prompt and answer so far.
    pub tokens: Vec<u32>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens, prompt and answer, that it may have.
    pub limit: usize,
    /// Tokens whose keys and values are in the cache.
    pub computed: usize,
    /// Prompt tokens that came from the cache when it was first admitted.
    pub cached: usize,
    /// Tokens of the prompt, the first left out, for which it is said how likely they were.
    pub scored: usize,
    /// It has been part of a step.
    pub started: bool,
    /// Its blocks; they hold at least `computed` tokens.
    pub table: BlockTable,
    /// Tokens that may follow those known: the next step computes them as well, and keeps what was right.
    pub guess: Vec<u32>,
    /// Names of its full blocks, as far as tokens are known.
    pub prefixes: Vec<PrefixHash>,
    block_tokens: usize,
}

impl Sequence {
    /// A request that waits. `limit` is the number of tokens that it may have in all.
    pub fn new(mut request: Request, limit: usize, block_tokens: usize, pool: Rc<RefCell<BlockPool>>) -> Self {
        let tokens = std::mem::take(&mut request.prompt);
        let mut sequence = Self {
            prompt_tokens: tokens.len(),
            limit: limit.min(tokens.len().saturating_add(request.max_tokens)),
            request,
            tokens,
            computed: 0,
            cached: 0,
            scored: 0,
            started: false,
            table: BlockTable::new(pool),
            guess: Vec::new(),
            prefixes: Vec::new(),
            block_tokens,
        };
        sequence.name_full_blocks();
        sequence
    }

    /// Tokens that are known and not computed; at least one until the sequence ends.
    pub fn need(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Whether it has yet to be said how likely tokens of the prompt were: logits are then wanted of all that is
    /// computed.
    pub fn scores(&self) -> bool {
        self.request.prompt_logprobs.is_some() && self.scored + 1 < self.prompt_tokens
    }

    /// Rows of a step that give a token or logits, if `count` tokens are computed.
    pub fn outputs(&self, count: usize) -> usize {
        if self.scores() { count } else { 1 + self.guess.len() }
    }

    /// Whether it writes its answer: all but its newest token is computed.
    pub fn is_writing(&self) -> bool {
        self.need() == 1 && self.tokens.len() > self.prompt_tokens
    }

    /// Guesses up to `most` tokens of an answer for which the most likely ones are enough: those that followed when its
    /// last three tokens last occurred ("prompt lookup decoding", Saxena, 2023).
    pub fn speculate(&mut self, most: usize) {
        self.guess.clear();
        let room = self.limit.saturating_sub(self.tokens.len() + 1);
        let needs_more = self.request.sampling.wants_logits(self.answered()) || self.request.constraint.is_some();
        if !self.is_writing() || needs_more {
            return;
        }
        let Some((_, key)) = self.tokens.split_last_chunk::<KEY>() else {
            return;
        };
        // Anywhere but at the end; the two may overlap.
        let earlier = &self.tokens[..self.tokens.len() - 1];
        if let Some(at) = earlier.windows(KEY).rposition(|window| window == key) {
            let following = &self.tokens[at + KEY..];
            self.guess.extend(following.iter().take(most.min(room)));
        }
    }

    /// Full blocks that may come from the cache: at least one token has to be computed, and all those whose logits say
    /// how likely the next was.
    pub fn shareable(&self) -> usize {
        let known = if self.scores() {
            self.scored
        } else {
            self.tokens.len() - 1
        };
        known / self.block_tokens
    }

    /// Takes over what the cache holds of its prefix.
    pub fn share_prefix(&mut self) {
        let shareable = self.shareable();
        let shared = self.table.share(&self.prefixes[..shareable]);
        self.computed = shared * self.block_tokens;
    }

    /// `count` more tokens are computed: full blocks become known under their prefixes.
    pub fn advance(&mut self, count: usize) {
        let full_before = self.computed / self.block_tokens;
        self.computed += count;
        for index in full_before..self.computed / self.block_tokens {
            self.table.publish(index, self.prefixes[index]);
        }
    }

    /// A new token follows.
    pub fn push(&mut self, token: u32) {
        self.tokens.push(token);
        self.name_full_blocks();
    }

    /// Loses its blocks; everything is computed, or found in the cache, again.
    pub fn restart(&mut self) {
        self.table.clear();
        self.guess.clear();
        self.computed = 0;
    }

    /// Tokens of the answer so far.
    pub fn answered(&self) -> usize {
        self.tokens.len() - self.prompt_tokens
    }

    /// What it has used; `ended` counts the end-of-generation token that is not part of `tokens`.
    pub fn usage(&self, ended: bool) -> Usage {
        Usage {
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.cached,
            completion_tokens: self.answered() + usize::from(ended),
        }
    }

    fn name_full_blocks(&mut self) {
        for index in self.prefixes.len()..self.tokens.len() / self.block_tokens {
            let before = match index {
                0 => prefix::root(self.request.cache_salt),
                index => self.prefixes[index - 1],
            };
            let tokens = &self.tokens[index * self.block_tokens..][..self.block_tokens];
            self.prefixes.push(prefix::extend(before, tokens));
        }
    }
}
