//! The model's tokens as the trie that masks are computed with. What has no text of its own, or must never
//! be written as text, gets a name behind a byte that no text has; grammars can ask for it by that name.
use std::sync::Arc;

use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};

use super::GrammarError;
use crate::tokenizer::{TokenKind, Tokenizer};

/// Bytes of a token: the trie is at most 1024 deep. Longer ones are never allowed.
const MAX_TOKEN_BYTES: usize = 512;
/// Nodes of the trie, of which each byte needs at most one.
const MAX_BYTES: usize = 4_000_000;
/// Marks of a tool call. Where the vocabulary has them, they mean nothing else, though many files call them text.
const NAMED: [&str; 2] = ["<tool_call>", "</tool_call>"];

/// Builds the trie.
pub fn environment(tokenizer: &Tokenizer) -> Result<TokEnv, GrammarError> {
    let size = tokenizer.vocab_size();
    let words: Vec<Vec<u8>> = (0..size as u32).map(|token| word(tokenizer, token)).collect();
    if words.iter().map(Vec::len).sum::<usize>() > MAX_BYTES {
        return Err(GrammarError::Vocabulary("it is too large"));
    }
    let mut ends: Vec<u32> = tokenizer.end_tokens().collect();
    ends.sort_unstable();
    let Some(&end) = ends.first() else {
        return Err(GrammarError::Vocabulary("it has no token that ends an answer"));
    };
    let trie = TokTrie::from(&TokRxInfo::new(size as u32, end), &words).with_eos_tokens(&ends);
    Ok(Arc::new(ApproximateTokEnv::new(trie)))
}

fn word(tokenizer: &Tokenizer, token: u32) -> Vec<u8> {
    let name = tokenizer.token_text(token).unwrap_or_default();
    let (named, text) = match tokenizer.token_kind(token) {
        TokenKind::Control => (true, false),
        TokenKind::UserDefined => (NAMED.contains(&name), true),
        TokenKind::Normal | TokenKind::Byte => (false, true),
        TokenKind::Unknown | TokenKind::Unused => (false, false),
    };
    let piece = tokenizer.piece(token);
    if text && !named && (1..=MAX_TOKEN_BYTES).contains(&piece.len()) {
        return piece.to_vec();
    }
    let mut word = vec![TokTrie::SPECIAL_TOKEN_MARKER];
    if named && name.len() <= MAX_TOKEN_BYTES {
        word.extend(name.as_bytes());
    } else {
        word.extend(format!("<token {token}>").into_bytes());
    }
    word
}
