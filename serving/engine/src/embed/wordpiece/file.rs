//! What a `tokenizer.json` says, and the tokenizer that it makes.
use std::collections::HashMap;

use serde::Deserialize;

use super::WordPiece;
use super::pieces::Pieces;
use super::rules::Rules;
use crate::tokenizer::special::SpecialTokens;

/// Characters of a word that is cut into pieces, whatever the file says: the time of a word grows with the square of its
/// length when its pieces are long beginnings of each other. Models have 100.
const MAX_WORD_CHARS: usize = 256;
/// Bytes of a text that is a token wherever it stands: such texts are looked for at every byte.
const MAX_ADDED_BYTES: usize = 256;
/// Tokens around a text. Models have two; a file can ask for the product of two lists.
const MAX_FRAME: usize = 64;

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    normalizer: Normalizer,
    pre_tokenizer: PreTokenizer,
    post_processor: Option<PostProcessor>,
    model: Model,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    normalized: bool,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum Normalizer {
    BertNormalizer(Rules),
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum PreTokenizer {
    BertPreTokenizer,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum PostProcessor {
    TemplateProcessing {
        single: Vec<Piece>,
        special_tokens: HashMap<String, Special>,
    },
    BertProcessing {
        cls: (String, u32),
        sep: (String, u32),
    },
}

#[derive(Deserialize)]
enum Piece {
    SpecialToken { id: String },
    Sequence {},
}

#[derive(Deserialize)]
struct Special {
    ids: Vec<u32>,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum Model {
    WordPiece {
        vocab: HashMap<String, u32>,
        unk_token: String,
        continuing_subword_prefix: String,
        max_input_chars_per_word: usize,
    },
}

impl WordPiece {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// What is wrong with it, or not supported.
    pub fn from_json(json: &[u8]) -> Result<Self, String> {
        let file: File = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let Normalizer::BertNormalizer(rules) = file.normalizer;
        let PreTokenizer::BertPreTokenizer = file.pre_tokenizer;
        let Model::WordPiece {
            vocab,
            unk_token,
            continuing_subword_prefix: prefix,
            max_input_chars_per_word: max_word_chars,
        } = file.model;
        if max_word_chars > MAX_WORD_CHARS {
            return Err(format!(
                "has words of up to {max_word_chars} characters; {MAX_WORD_CHARS} are supported"
            ));
        }
        let unknown = *vocab
            .get(&unk_token)
            .ok_or(format!("the vocabulary has no {unk_token}"))?;
        let (mut first, mut next) = (Vec::new(), Vec::new());
        let mut largest_token = 0;
        for (piece, token) in vocab {
            largest_token = largest_token.max(token);
            match piece.strip_prefix(prefix.as_str()) {
                Some(rest) if !prefix.is_empty() => next.push((Box::from(rest), token)),
                _ => first.push((piece.into_boxed_str(), token)),
            };
        }
        for added in &file.added_tokens {
            let content = &added.content;
            if !(1..=MAX_ADDED_BYTES).contains(&content.len()) {
                return Err(format!(
                    "the added token {} has {} bytes; 1 to {MAX_ADDED_BYTES} are supported",
                    added.id,
                    content.len()
                ));
            }
            if added.single_word || added.normalized {
                return Err(format!(
                    "the added token `{content}` is to be found in a way that is not supported"
                ));
            }
            largest_token = largest_token.max(added.id);
        }
        let added = file.added_tokens.iter();
        let special = SpecialTokens::new(added.map(|added| (added.id, added.content.as_str(), true)));
        let (before, after) = around(file.post_processor)?;
        largest_token = before.iter().chain(&after).copied().fold(largest_token, u32::max);
        Ok(Self {
            first: Pieces::new(first, max_word_chars),
            next: Pieces::new(next, max_word_chars),
            unknown,
            max_word_chars,
            rules,
            special,
            before,
            after,
            largest_token,
        })
    }
}

/// The tokens before and after those of a text.
fn around(processor: Option<PostProcessor>) -> Result<(Vec<u32>, Vec<u32>), String> {
    let (single, special) = match processor {
        None => return Ok((Vec::new(), Vec::new())),
        Some(PostProcessor::BertProcessing { cls, sep }) => return Ok((vec![cls.1], vec![sep.1])),
        Some(PostProcessor::TemplateProcessing { single, special_tokens }) => (single, special_tokens),
    };
    let (mut before, mut after, mut seen) = (Vec::new(), Vec::new(), 0);
    for piece in single {
        match piece {
            Piece::Sequence {} => seen += 1,
            Piece::SpecialToken { id } => {
                let tokens = special
                    .get(&id)
                    .ok_or(format!("the template's token {id} is not defined"))?;
                (if seen == 0 { &mut before } else { &mut after }).extend(&tokens.ids);
            }
        }
        if before.len() + after.len() > MAX_FRAME {
            return Err(format!("the template has more than {MAX_FRAME} tokens around a text"));
        }
    }
    match seen {
        1 => Ok((before, after)),
        _ => Err(format!(
            "the template has {seen} places for the text, and one is needed"
        )),
    }
}
