//! Text to tokens as BERT does it, from a `tokenizer.json`: text is cleaned and split at white space and punctuation,
//! and each word is cut greedily into the longest pieces of the vocabulary. Whatever else the file asks for is refused by
//! name: other tokens would be a wrong answer.
use std::collections::HashMap;

use serde::Deserialize;
use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};

use crate::tokenizer::special::{Segment, SpecialTokens};

/// Characters of a word that is cut into pieces, whatever the file says: the time of a word grows with the cube of its
/// length when a piece of the vocabulary is as long. Models have 100.
const MAX_WORD_CHARS: usize = 256;
/// Bytes of a text that is a token wherever it stands: such texts are looked for at every byte.
const MAX_ADDED_BYTES: usize = 256;
/// Tokens around a text. Models have two; a file can ask for the product of two lists.
const MAX_FRAME: usize = 64;

/// A tokenizer.
#[derive(Debug)]
pub struct WordPiece {
    /// Pieces that begin a word.
    first: HashMap<Box<str>, u32>,
    /// Pieces that continue one, without their prefix.
    next: HashMap<Box<str>, u32>,
    /// Bytes of the longest piece.
    longest: usize,
    unknown: u32,
    max_word_chars: usize,
    rules: Rules,
    /// Texts that are tokens wherever they stand.
    special: SpecialTokens,
    before: Vec<u32>,
    after: Vec<u32>,
    largest_token: u32,
}

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

#[derive(Debug, Clone, Copy, Deserialize)]
struct Rules {
    clean_text: bool,
    handle_chinese_chars: bool,
    strip_accents: Option<bool>,
    lowercase: bool,
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
        let (mut first, mut next): (HashMap<Box<str>, u32>, HashMap<Box<str>, u32>) = Default::default();
        let mut largest_token = 0;
        for (piece, token) in vocab {
            largest_token = largest_token.max(token);
            match piece.strip_prefix(prefix.as_str()) {
                Some(rest) if !prefix.is_empty() => next.insert(rest.into(), token),
                _ => first.insert(piece.into_boxed_str(), token),
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
        let lengths = first.keys().chain(next.keys()).map(|piece| piece.len());
        Ok(Self {
            longest: lengths.max().unwrap_or(0),
            first,
            next,
            unknown,
            max_word_chars,
            rules,
            special,
            before,
            after,
            largest_token,
        })
    }

    /// The largest token that a text can have.
    pub fn largest_token(&self) -> u32 {
        self.largest_token
    }

    /// Tokens that every text has around its own.
    pub fn frame(&self) -> usize {
        self.before.len() + self.after.len()
    }

    /// The tokens of a text, those around it included.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut tokens = self.before.clone();
        self.special.split(text, true, |segment| match segment {
            Segment::Text(text) => self.plain(text, &mut tokens),
            Segment::Special(token) => tokens.push(token),
        });
        tokens.extend(&self.after);
        tokens
    }

    /// Shortens the tokens of a text to `limit` from the end, but for those around it. For a limit that these alone
    /// exceed, they stay.
    pub fn truncate(&self, tokens: &mut Vec<u32>, limit: usize) {
        let after = tokens.len() - self.after.len();
        let keep = limit.max(self.frame()) - self.after.len();
        if keep < after {
            tokens.drain(keep..after);
        }
    }

    fn plain(&self, text: &str, tokens: &mut Vec<u32>) {
        let text = self.rules.apply(text);
        for word in text.split(char::is_whitespace) {
            let mut rest = word;
            while let Some(char) = rest.chars().next() {
                let end = if is_punctuation(char) {
                    char.len_utf8()
                } else {
                    rest.find(is_punctuation).unwrap_or(rest.len())
                };
                self.word(&rest[..end], tokens);
                rest = &rest[end..];
            }
        }
    }

    fn word(&self, word: &str, tokens: &mut Vec<u32>) {
        let start = tokens.len();
        if word.chars().count() > self.max_word_chars {
            return tokens.push(self.unknown);
        }
        let mut rest = word;
        let mut pieces = &self.first;
        while !rest.is_empty() {
            let mut end = rest.floor_char_boundary(self.longest);
            let token = loop {
                match pieces.get(&rest[..end]) {
                    _ if end == 0 => break None,
                    Some(&token) => break Some(token),
                    None => end = rest.floor_char_boundary(end - 1),
                }
            };
            let Some(token) = token else {
                tokens.truncate(start);
                return tokens.push(self.unknown);
            };
            tokens.push(token);
            rest = &rest[end..];
            pieces = &self.next;
        }
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

impl Rules {
    /// Cleans, sets Chinese characters apart, removes accents, lowers the case: in this order.
    fn apply(self, text: &str) -> String {
        let kept = text.chars().filter(|&char| !self.clean_text || !is_removed(char));
        let mut out = String::with_capacity(text.len());
        let spaced = kept.flat_map(|char| {
            let space = (self.handle_chinese_chars && is_chinese(char)).then_some(' ');
            space.into_iter().chain([char]).chain(space)
        });
        let mut push = |char: char| {
            if self.lowercase {
                out.extend(char.to_lowercase());
            } else {
                out.push(char);
            }
        };
        if self.strip_accents.unwrap_or(self.lowercase) {
            let is_accent = |char: &char| char.general_category() == GeneralCategory::NonspacingMark;
            spaced.nfd().filter(|char| !is_accent(char)).for_each(&mut push);
        } else {
            spaced.for_each(&mut push);
        }
        out
    }
}

/// Whether cleaning drops it.
fn is_removed(char: char) -> bool {
    let is_space = matches!(char, '\t' | '\n' | '\r');
    let is_other = matches!(
        char.general_category(),
        GeneralCategory::Control | GeneralCategory::Format | GeneralCategory::PrivateUse
    );
    char == '\u{fffd}' || is_other && !is_space
}

fn is_punctuation(char: char) -> bool {
    char.is_ascii_punctuation() || char.general_category_group() == GeneralCategoryGroup::Punctuation
}

/// The blocks of CJK ideographs.
fn is_chinese(char: char) -> bool {
    matches!(u32::from(char),
        0x4e00..=0x9fff | 0x3400..=0x4dbf | 0x2_0000..=0x2_a6df | 0x2_a700..=0x2_b73f | 0x2_b740..=0x2_b81f
        | 0x2_b920..=0x2_ceaf | 0xf900..=0xfaff | 0x2_f800..=0x2_fa1f)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn file() -> Value {
        json!({
            "added_tokens": [{"id": 1, "content": "[CLS]", "special": true}, {"id": 2, "content": "[SEP]"}],
            "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                "strip_accents": null, "lowercase": true},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                    {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
                "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [1], "tokens": ["[CLS]"]},
                    "[SEP]": {"id": "[SEP]", "ids": [2], "tokens": ["[SEP]"]}}},
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 8,
                "vocab": {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "un": 3, "##aff": 4, "##able": 5, "cafe": 6, "!": 7,
                    "東": 8, "a": 9, "##a": 10}},
        })
    }

    fn read(file: &Value) -> Result<WordPiece, String> {
        WordPiece::from_json(file.to_string().as_bytes())
    }

    #[test]
    fn words_are_cut_into_the_longest_pieces() {
        let tokenizer = read(&file()).unwrap();
        for (text, tokens) in [
            ("unaffable", &[0][..]), // too long
            ("unaff  able", &[3, 4, 0]),
            ("Caf\u{e9}!!", &[6, 7, 7]),
            ("aaa\ta\u{200b}a", &[9, 10, 10, 9, 10]),
            ("a東a", &[9, 8, 9]),
            ("unx", &[0]),
            ("a[SEP]a", &[9, 2, 9]),
            ("", &[]),
        ] {
            assert_eq!(tokenizer.encode(text), [&[1], tokens, &[2]].concat(), "{text}");
        }
        assert_eq!((tokenizer.largest_token(), tokenizer.frame()), (10, 2));
    }

    #[test]
    fn hostile_texts_take_no_quadratic_time() {
        let tokenizer = read(&file()).unwrap();
        // Of the special tokens, some are never found: looking for them again behind each that is would take hours.
        for (unit, count) in [("[SEP]", 1), ("[CLS", 2), ("a", 0), (" \u{301}", 0)] {
            let repeated = (4 << 20) / unit.len();
            let tokens = tokenizer.encode(&unit.repeat(repeated)).len() - tokenizer.frame();
            assert!(tokens >= count * repeated, "{unit}: {tokens}");
        }
    }

    #[test]
    fn truncation_keeps_the_tokens_around_a_text() {
        let tokenizer = read(&file()).unwrap();
        for (limit, want) in [
            (9, &[1, 9, 9, 9, 2][..]),
            (4, &[1, 9, 9, 2]),
            (2, &[1, 2]),
            (0, &[1, 2]),
        ] {
            let mut tokens = tokenizer.encode("a a a");
            tokenizer.truncate(&mut tokens, limit);
            assert_eq!(tokens, want);
        }
    }

    #[test]
    fn what_the_file_asks_beyond_this_is_refused_by_name() {
        for (pointer, value, words) in [
            ("/model/type", json!("BPE"), "BPE"),
            ("/normalizer/type", json!("NFKC"), "NFKC"),
            ("/pre_tokenizer/type", json!("Metaspace"), "Metaspace"),
            ("/post_processor/type", json!("ByteLevel"), "ByteLevel"),
            ("/model/unk_token", json!("<unk>"), "<unk>"),
            ("/model/max_input_chars_per_word", json!(1_u64 << 40), "words of up to"),
            ("/added_tokens/1/single_word", json!(true), "[SEP]"),
            ("/added_tokens/1/content", json!(""), "0 bytes"),
            ("/added_tokens/1/content", json!("a".repeat(257)), "257 bytes"),
            (
                "/post_processor/special_tokens/[SEP]/ids",
                json!(vec![2; 64]),
                "more than 64 tokens around a text",
            ),
            ("/post_processor/single/0/SpecialToken/id", json!("[X]"), "[X]"),
            (
                "/post_processor/single/1",
                json!({"SpecialToken": {"id": "[SEP]"}}),
                "0 places",
            ),
        ] {
            let mut file = file();
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            match file.pointer_mut(parent).unwrap() {
                Value::Array(items) => items[key.parse::<usize>().unwrap()] = value,
                object => object[key] = value,
            }
            let error = read(&file).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
