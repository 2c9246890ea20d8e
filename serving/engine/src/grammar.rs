//! Answers that must obey a grammar: what the caller wrote is compiled once, off the engine's thread, and
//! each sequence follows its own copy, which says after every token what may come next. The parsing is
//! `llguidance`'s. Grammars are a stranger's: size, depth and the work for each token are bounded, and
//! what goes beyond a bound fails alone.
use std::sync::Mutex;

use llguidance::api::{GrammarInit, GrammarWithLexer, ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{InferenceCapabilities, SimpleVob, TokEnv};
use llguidance::{Logger, Matcher, ParserFactory};
use serde_json::Value;

use crate::tokenizer::Tokenizer;

mod cache;
mod check;
mod gbnf;
mod vocabulary;

use cache::Cache;
pub use check::{MAX_DEPTH, MAX_GRAMMAR_BYTES};

/// Compiled grammars that are kept; the worst that the limits allow take 7 MB each, sensible ones some 100 kB.
const CACHED: usize = 16;
/// Of the thread that compiles: the library recurses over rules and references, and a grammar of the allowed size
/// can chain some thousand. Only what is used takes memory.
const STACK_BYTES: usize = 256 << 20;

/// Parallel ways to read an answer: the work for a token grows with their square. A schema has about three for each
/// optional property of an object, and one for each alternative that is still possible.
const MAX_WAYS_OF_A_SCHEMA: usize = 1_000;
/// The same for grammars in Lark and GBNF, which can be ambiguous everywhere.
const MAX_WAYS: usize = 300;

/// What one grammar, and one token of an answer, may cost. About: 50 units of `initial_lexer_fuel`, 14 of
/// `step_lexer_fuel` and 20 of `step_max_items` take a microsecond, and a lexer state takes 2 kB.
fn limits(ways: usize) -> ParserLimits {
    ParserLimits {
        max_items_in_row: ways,
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 100_000,
        step_max_items: 10 * ways,
        max_lexer_states: 10_000,
        max_grammar_size: 100_000,
        precompute_large_lexemes: true,
        verbose_errors: false,
    }
}

/// What an answer must be.
#[derive(Debug, Clone, PartialEq)]
pub enum Grammar {
    /// JSON that fits a schema.
    JsonSchema(Value),
    /// A text that matches the whole expression (syntax of the crate `regex`).
    Regex(String),
    /// A text of a context-free grammar in `llguidance`'s dialect of Lark.
    Lark(String),
    /// The same in GBNF, llama.cpp's notation, without references to tokens.
    Gbnf(String),
}

/// Why there is no constraint. Display is for the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// Longer than any sensible one.
    #[error("it has {bytes} bytes; at most {MAX_GRAMMAR_BYTES} are allowed")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Nested too deeply.
    #[error("it is nested more than {MAX_DEPTH} levels deep")]
    TooDeep,
    /// It combines expressions in a way whose cost has no bound.
    #[error("the operators `&` and `~` are not supported")]
    Operator,
    /// It is no grammar, or needs something that is not supported.
    #[error("{0}")]
    Invalid(String),
    /// The model's vocabulary does not fit what computes the masks.
    #[error("this model's vocabulary does not allow it: {0}")]
    Vocabulary(&'static str),
    /// The system starts no thread to compile it on.
    #[error("this server has no thread for it")]
    NoThread,
}

/// The grammars of one model: its vocabulary as a trie, and what was compiled last.
pub struct Grammars {
    factory: ParserFactory,
    compiled: Mutex<Cache<Matcher>>,
}

impl Grammars {
    /// Sorts the vocabulary into a trie, which takes about a second for one of 150,000 tokens.
    pub fn new(tokenizer: &Tokenizer) -> Result<Self, GrammarError> {
        Self::over(&vocabulary::environment(tokenizer)?, CACHED)
    }

    fn over(vocabulary: &TokEnv, capacity: usize) -> Result<Self, GrammarError> {
        Ok(Self {
            factory: ParserFactory::new_simple(vocabulary).map_err(invalid)?,
            compiled: Mutex::new(Cache::new(capacity)),
        })
    }

    /// A constraint at its beginning. Takes milliseconds for a grammar that was not seen lately.
    pub fn constraint(&self, grammar: &Grammar) -> Result<Constraint, GrammarError> {
        let key = check::key(grammar)?;
        let mut cache = self.compiled.lock().unwrap_or_else(|broken| broken.into_inner());
        if let Some(matcher) = cache.get(&key) {
            return Ok(Constraint::of(matcher));
        }
        drop(cache);
        let matcher = self.compile(grammar)?;
        let constraint = Constraint::of(&matcher);
        cache = self.compiled.lock().unwrap_or_else(|broken| broken.into_inner());
        cache.insert(key, matcher);
        Ok(constraint)
    }

    fn compile(&self, grammar: &Grammar) -> Result<Matcher, GrammarError> {
        let (grammar, ways) = match grammar {
            Grammar::JsonSchema(schema) => (GrammarWithLexer::from_json_schema(schema.clone()), MAX_WAYS_OF_A_SCHEMA),
            Grammar::Regex(regex) => (GrammarWithLexer::from_regex(regex), MAX_WAYS),
            Grammar::Lark(text) => (GrammarWithLexer::from_lark(text.clone()), MAX_WAYS),
            Grammar::Gbnf(text) => (GrammarWithLexer::from_lark(gbnf::lark(text)?), MAX_WAYS),
        };
        let compile = || {
            let grammar = GrammarInit::Serialized(TopLevelGrammar::from_grammar(grammar));
            let capabilities = InferenceCapabilities::default();
            let parser =
                self.factory
                    .create_parser_from_init_ext(grammar, Logger::new(0, 0), capabilities, limits(ways));
            let mut matcher = Matcher::new(parser);
            // What breaks at the first token is refused here, and its tables are ready for all sequences.
            matcher.compute_mask().map(|_| matcher)
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
            let thread = thread
                .spawn_scoped(scope, compile)
                .map_err(|_| GrammarError::NoThread)?;
            thread.join().map_err(|_| GrammarError::NoThread)?.map_err(invalid)
        })
    }
}

impl std::fmt::Debug for Grammars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammars").finish_non_exhaustive()
    }
}

/// What one answer may still become.
pub struct Constraint(Box<Matcher>);

/// The constraint cannot go on: a limit was reached, or the parser broke. Only its sequence ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken;

/// The tokens that may come next.
#[derive(Debug)]
pub struct Allowed(SimpleVob);

impl Constraint {
    /// A deep copy: what a sequence adds to the lexer's tables, or breaks in them, stays its own.
    fn of(matcher: &Matcher) -> Self {
        Self(Box::new(matcher.deep_clone()))
    }

    /// What may come next, an end of the answer included where the grammar may end.
    pub fn allowed(&mut self) -> Result<Allowed, Broken> {
        self.0.compute_mask_or_eos().map(Allowed).map_err(|_| Broken)
    }

    /// Takes a token that was allowed. True when nothing may follow but the end.
    pub fn take(&mut self, token: u32) -> Result<bool, Broken> {
        self.0.consume_token(token).map_err(|_| Broken)?;
        Ok(self.0.is_stopped())
    }
}

impl Clone for Constraint {
    fn clone(&self) -> Self {
        Self::of(&self.0)
    }
}

impl std::fmt::Debug for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Constraint").finish_non_exhaustive()
    }
}

impl Allowed {
    /// Whether it holds this token.
    pub fn contains(&self, token: u32) -> bool {
        (token as usize) < self.0.len() && self.0.is_allowed(token)
    }

    /// Makes every other token impossible.
    pub fn apply(&self, logits: &mut [f32]) {
        for (logits, &word) in logits.chunks_mut(32).zip(self.0.as_slice()) {
            match word {
                u32::MAX => {}
                0 => logits.fill(f32::NEG_INFINITY),
                word => {
                    for (bit, logit) in logits.iter_mut().enumerate() {
                        if word & (1 << bit) == 0 {
                            *logit = f32::NEG_INFINITY;
                        }
                    }
                }
            }
        }
    }
}

/// The library's words, without what it adds for its own developers.
fn invalid(error: impl std::fmt::Display) -> GrammarError {
    let text = format!("{error:#}");
    let words = ["<non-verbose/>", "<backtrace>"]
        .iter()
        .fold(text.as_str(), |text, mark| text.split(mark).next().unwrap_or_default());
    match words.trim().trim_end_matches('.') {
        // The name of a reason to stop: at the beginning, where a grammar has just been compiled.
        "NoExtensionBias" => GrammarError::Invalid("no answer fits it".to_owned()),
        words => GrammarError::Invalid(words.to_owned()),
    }
}

#[cfg(test)]
mod tests;
