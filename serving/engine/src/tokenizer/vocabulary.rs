//! The token table of a GGUF file: text and kind of each token, with the ids checked once so that
//! everything behind this may index.
use std::collections::HashMap;

use crate::load::gguf::{Gguf, GgufError};

/// Tokens by id.
#[derive(Debug)]
pub struct Vocabulary {
    texts: Vec<String>,
    kinds: Vec<TokenKind>,
}

/// What a token is for (the numbers of `tokenizer.ggml.token_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Ordinary text.
    Normal,
    /// Stands for text that has no token.
    Unknown,
    /// Steers the model; never the meaning of a user's text.
    Control,
    /// Text that is always one token, wherever it occurs.
    UserDefined,
    /// A hole in the table.
    Unused,
    /// One byte, written `<0xNN>`.
    Byte,
}

impl Vocabulary {
    /// Reads texts and kinds.
    pub fn read(gguf: &Gguf) -> Result<Self, GgufError> {
        const TEXTS: &str = "tokenizer.ggml.tokens";
        const KINDS: &str = "tokenizer.ggml.token_type";
        let texts = gguf.texts(TEXTS)?.to_vec();
        if texts.is_empty() {
            return Err(gguf.metadata_error(TEXTS, "is empty"));
        }
        let kinds = match gguf.find_numbers(KINDS)? {
            None => vec![TokenKind::Normal; texts.len()],
            Some(numbers) if numbers.len() != texts.len() => {
                let problem = format!("has {} entries for {} tokens", numbers.len(), texts.len());
                return Err(gguf.metadata_error(KINDS, problem));
            }
            Some(numbers) => numbers
                .to_i64s()
                .and_then(|ids| ids.into_iter().map(TokenKind::by_id).collect())
                .ok_or_else(|| gguf.metadata_error(KINDS, "holds something else than the numbers 1 to 6"))?,
        };
        Ok(Self { texts, kinds })
    }

    /// Tokens in all.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// The text in the file's own notation.
    pub fn text(&self, token: u32) -> Option<&str> {
        self.texts.get(token as usize).map(String::as_str)
    }

    /// What the token is for; a hole for an id outside the table.
    pub fn kind(&self, token: u32) -> TokenKind {
        self.kinds.get(token as usize).copied().unwrap_or(TokenKind::Unused)
    }

    /// All tokens: id, text, kind.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &str, TokenKind)> {
        self.texts
            .iter()
            .zip(&self.kinds)
            .enumerate()
            .map(|(id, (text, &kind))| (id as u32, text.as_str(), kind))
    }

    /// The tokens that ordinary text may become, by text. The first of equal texts counts.
    pub fn ordinary_ids(&self) -> HashMap<&str, u32> {
        let mut ids = HashMap::with_capacity(self.len());
        for (id, text, kind) in self.iter() {
            if matches!(kind, TokenKind::Normal | TokenKind::UserDefined) {
                ids.entry(text).or_insert(id);
            }
        }
        ids
    }

    /// Makes these tokens control tokens: converters forget to mark some that end a turn.
    pub fn mark_control(&mut self, tokens: impl IntoIterator<Item = u32>) {
        for token in tokens {
            if let Some(kind) = self.kinds.get_mut(token as usize) {
                *kind = TokenKind::Control;
            }
        }
    }
}

impl TokenKind {
    fn by_id(id: i64) -> Option<Self> {
        Some(match id {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }
}
