//! One request on its way: `computed` tokens chase `known` ones. Whether it is reading its prompt,
//! writing its answer or computing again what it lost makes no difference to anyone but its owner.
use crate::kv::{BlockTable, PrefixChain, SharedPool, lock};
use crate::request::{FinishReason, Request, RequestId, Sampling, Usage};

/// A request with its tokens and its part of the cache.
#[derive(Debug)]
pub struct Sequence {
    id: RequestId,
    tokens: Vec<u32>,
    prompt: usize,
    limit: usize,
    computed: usize,
    published: usize,
    cached: Option<usize>,
    announced: bool,
    table: BlockTable,
    chain: PrefixChain,
    sampling: Sampling,
    ignore_eos: bool,
}

impl Sequence {
    /// A sequence that may grow to `limit` tokens.
    pub fn new(request: Request, limit: usize, block_tokens: usize, pool: &SharedPool) -> Self {
        let mut chain = PrefixChain::new(block_tokens, request.cache_salt);
        chain.extend(&request.prompt);
        Self {
            id: request.id,
            prompt: request.prompt.len(),
            tokens: request.prompt,
            limit,
            computed: 0,
            published: 0,
            cached: None,
            announced: false,
            table: BlockTable::new(pool),
            chain,
            sampling: request.sampling,
            ignore_eos: request.ignore_eos,
        }
    }

    /// Whose it is.
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// Prompt and generated tokens.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens whose keys and values are in the cache.
    pub fn computed(&self) -> usize {
        self.computed
    }

    /// Known tokens that are not computed.
    pub fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Its blocks, in order.
    pub fn blocks(&self) -> &[u32] {
        self.table.blocks()
    }

    /// How its tokens are chosen.
    pub fn sampling(&self) -> &Sampling {
        &self.sampling
    }

    /// What it has used, with `ended` more generated tokens than it keeps.
    pub fn usage(&self, ended: usize) -> Usage {
        Usage {
            prompt_tokens: self.prompt,
            cached_tokens: self.cached.unwrap_or(0),
            completion_tokens: self.tokens.len() - self.prompt + ended,
        }
    }

    /// Names of its full blocks that another sequence may have computed. The last token is always
    /// computed here: its logits are needed.
    pub(crate) fn shareable(&self, block_tokens: usize) -> &[crate::kv::BlockHash] {
        let full = (self.tokens.len() - 1) / block_tokens;
        &self.chain.hashes()[..full.min(self.chain.hashes().len())]
    }

    /// Whether it has yet to compute the block of this name, the `index`th of a sequence.
    pub(crate) fn will_compute(&self, index: usize, hash: crate::kv::BlockHash) -> bool {
        index >= self.published && self.chain.hashes().get(index) == Some(&hash)
    }

    /// Begins behind blocks that are computed already; says how many tokens were asked for and found if
    /// it is the first time.
    pub(crate) fn begin(&mut self, shared: &[u32], block_tokens: usize) -> Option<(usize, usize)> {
        self.table.share(shared.iter().copied());
        self.published = shared.len();
        self.computed = shared.len() * block_tokens;
        if self.cached.is_some() {
            return None;
        }
        self.cached = Some(self.computed);
        Some((self.prompt, self.computed))
    }

    /// Takes blocks for its first `tokens` tokens; whether there were enough.
    pub(crate) fn reserve(&mut self, tokens: usize, block_tokens: usize) -> bool {
        self.table.grow(tokens.div_ceil(block_tokens))
    }

    /// Gives its blocks back and starts over.
    pub(crate) fn restart(&mut self) {
        self.table.clear();
        (self.computed, self.published) = (0, 0);
    }

    /// Tokens that it found in the cache, the first time it is asked.
    pub(crate) fn announce(&mut self) -> Option<usize> {
        let first = !std::mem::replace(&mut self.announced, true);
        first.then_some(self.cached.unwrap_or(0))
    }

    /// `count` more tokens are in the cache; blocks that are full now may be shared.
    pub(crate) fn advance(&mut self, count: usize, block_tokens: usize, pool: &SharedPool) {
        self.computed += count;
        let full = self.computed / block_tokens;
        if full > self.published {
            let mut pool = lock(pool);
            let names = &self.chain.hashes()[self.published..full];
            for (&block, &name) in self.table.blocks()[self.published..full].iter().zip(names) {
                pool.publish(block, name);
            }
            self.published = full;
        }
    }

    /// Adds a generated token; the reason to end, if there is one. An end-of-generation token is not added.
    pub(crate) fn push(&mut self, token: u32, ends: bool) -> Option<FinishReason> {
        if ends && !self.ignore_eos {
            return Some(FinishReason::Stop);
        }
        self.tokens.push(token);
        self.chain.extend(&self.tokens);
        (self.tokens.len() >= self.limit).then_some(FinishReason::Length)
    }
}
