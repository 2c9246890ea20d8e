//! Text to tokens and back, from the vocabulary inside a model file. Texts may be hostile and long:
//! time is n log n, and text never becomes a control token unless the caller says it may.
use std::collections::HashSet;

use crate::load::gguf::{Gguf, GgufError};

mod bpe;
mod hole;
mod merge;
pub mod protect;
pub(crate) mod special;
mod split;
mod spm;
mod vocabulary;

use bpe::Bpe;
use hole::HoleMarks;
use merge::Merger;
use protect::RenderedPrompt;
use special::{Segment, SpecialTokens};
use split::SplitRule;
use spm::Spm;
pub use vocabulary::TokenKind;
use vocabulary::Vocabulary;

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";

/// The tokenizer of one model.
#[derive(Debug)]
pub struct Tokenizer {
    vocabulary: Vocabulary,
    special: SpecialTokens,
    model: Model,
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
    end_of_generation: HashSet<u32>,
    hole: Option<HoleMarks>,
    pieces: Pieces,
}

#[derive(Debug)]
enum Model {
    Bpe(Bpe),
    Spm(Spm),
}

/// The bytes of all tokens, one after the other.
#[derive(Debug, Default)]
struct Pieces {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Tokenizer {
    /// Reads the tokenizer of a model file.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, GgufError> {
        let mut vocabulary = Vocabulary::read(gguf)?;
        let id = |key: &str| token_id(gguf, key, &vocabulary);
        let eos = id("tokenizer.ggml.eos_token_id")?;
        let mut bos = id("tokenizer.ggml.bos_token_id")?;
        let mut end_of_generation = HashSet::new();
        for key in END_KEYS {
            end_of_generation.extend(id(key)?);
        }
        let named_ends: Vec<u32> = vocabulary
            .iter()
            .filter(|(_, text, _)| END_TEXTS.contains(text))
            .map(|(token, ..)| token)
            .collect();
        vocabulary.mark_control(named_ends.iter().copied());
        end_of_generation.extend(named_ends);

        let (model, adds_bos) = match gguf.text(MODEL)? {
            "gpt2" => {
                let (rule, whole_first) = split_rule(gguf)?;
                // The family that looks for whole pieces first is also the one that begins with BOS.
                (
                    Model::Bpe(Bpe::read(gguf, &vocabulary, rule, whole_first)?),
                    whole_first,
                )
            }
            "llama" => {
                // SentencePiece's own numbering, for files that leave it out.
                bos = bos.or_else(|| (vocabulary.text(1) == Some("<s>")).then_some(1));
                (Model::Spm(Spm::read(gguf, &vocabulary)?), true)
            }
            other => {
                let problem = format!("is `{other}`; `gpt2` (byte-pair) and `llama` (SentencePiece) are supported");
                return Err(gguf.metadata_error(MODEL, problem));
            }
        };
        let add_bos = gguf.find_bool("tokenizer.ggml.add_bos_token")?.unwrap_or(adds_bos);
        if add_bos && bos.is_none() {
            return Err(gguf.metadata_error("tokenizer.ggml.bos_token_id", "is missing, and this model needs it"));
        }
        let hole = HoleMarks::read(gguf, &vocabulary)?;
        let special = SpecialTokens::of(&vocabulary);
        let pieces = Pieces::new(&vocabulary, &model);
        Ok(Self {
            vocabulary,
            special,
            model,
            bos,
            eos,
            add_bos,
            end_of_generation,
            hole,
            pieces,
        })
    }

    /// The tokens of `text` (less than 4 GiB) and nothing else. Control tokens in it are recognised only
    /// with `parse_special`; user-defined tokens always.
    pub fn encode(&self, text: &str, parse_special: bool) -> Vec<u32> {
        let mut tokens = Vec::with_capacity(text.len() / 3);
        self.encode_segments(text, parse_special, |text| text, &mut tokens);
        tokens
    }

    /// The tokens of a raw prompt: control tokens are recognised, and BOS comes first if the model wants
    /// it and it is not there yet.
    pub fn encode_prompt(&self, text: &str) -> Vec<u32> {
        self.with_bos(self.encode(text, true))
    }

    /// The tokens of a rendered chat: only the template's control tokens are recognised, not those that
    /// stand in the messages; BOS as in [`Tokenizer::encode_prompt`].
    pub fn encode_rendered(&self, prompt: &RenderedPrompt) -> Vec<u32> {
        let mut tokens = Vec::with_capacity(prompt.protected().len() / 3);
        self.encode_segments(prompt.protected(), true, protect::unprotect, &mut tokens);
        self.with_bos(tokens)
    }

    /// The prompt that asks for what stands between two texts, given as tokens; BOS as in
    /// [`Tokenizer::encode_prompt`]. `None` if the model has no tokens for that.
    pub fn around_hole(&self, prefix: &[u32], suffix: &[u32]) -> Option<Vec<u32>> {
        Some(self.with_bos(self.hole?.around(prefix, suffix)))
    }

    /// The bytes of a token as output: not always UTF-8 on their own, empty for control tokens.
    pub fn piece(&self, token: u32) -> &[u8] {
        match self.vocabulary.kind(token) {
            TokenKind::Control | TokenKind::Unknown => &[],
            _ => self.pieces.get(token),
        }
    }

    /// The bytes of a token, control tokens by their names.
    pub fn piece_with_special(&self, token: u32) -> &[u8] {
        self.pieces.get(token)
    }

    /// The text of tokens, control tokens by their names; what is not UTF-8 is replaced, unknown ids are left out.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let bytes: Vec<u8> = tokens
            .iter()
            .flat_map(|&token| self.pieces.get(token))
            .copied()
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Whether the model ends its answer with this token.
    pub fn is_eog(&self, token: u32) -> bool {
        self.end_of_generation.contains(&token)
    }

    /// The tokens for which `is_eog` holds, in no order.
    pub fn end_tokens(&self) -> impl Iterator<Item = u32> {
        self.end_of_generation.iter().copied()
    }

    /// Tokens in all; ids are below it.
    pub fn vocab_size(&self) -> usize {
        self.vocabulary.len()
    }

    /// The token in the file's own notation.
    pub fn token_text(&self, token: u32) -> Option<&str> {
        self.vocabulary.text(token)
    }

    /// The token's kind.
    pub fn token_kind(&self, token: u32) -> TokenKind {
        self.vocabulary.kind(token)
    }

    /// The token that begins a text, if the model has one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text, if the model has one.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Whether `rest` begins with a control token or is the beginning of one.
    pub(crate) fn begins_control(&self, rest: &str) -> bool {
        self.special.begins_control(rest.as_bytes())
    }

    fn encode_segments<'a, T: AsRef<str>>(
        &self,
        text: &'a str,
        control: bool,
        plain: impl Fn(&'a str) -> T,
        tokens: &mut Vec<u32>,
    ) {
        let mut merger = Merger::default();
        let mut after_special = true;
        self.special.split(text, control, |segment| match segment {
            Segment::Special(token) => {
                tokens.push(token);
                after_special = true;
            }
            Segment::Text(text) => {
                let text = plain(text);
                match &self.model {
                    Model::Bpe(bpe) => bpe.encode(text.as_ref(), &mut merger, tokens),
                    Model::Spm(spm) => spm.encode(text.as_ref(), after_special, &mut merger, tokens),
                }
                after_special = false;
            }
        });
    }

    fn with_bos(&self, mut tokens: Vec<u32>) -> Vec<u32> {
        if let (true, Some(bos)) = (self.add_bos, self.bos)
            && tokens.first() != Some(&bos)
        {
            tokens.insert(0, bos);
        }
        tokens
    }
}

impl Pieces {
    fn new(vocabulary: &Vocabulary, model: &Model) -> Self {
        let mut pieces = Self::default();
        for (_, text, kind) in vocabulary.iter() {
            match (kind, model) {
                (TokenKind::Byte, _) => pieces.bytes.extend(spm::byte_of(text)),
                (TokenKind::Normal, Model::Bpe(_)) => match bpe::decode(text) {
                    Some(bytes) => pieces.bytes.extend(bytes),
                    None => pieces.bytes.extend(text.as_bytes()),
                },
                (TokenKind::Normal | TokenKind::UserDefined, Model::Spm(_)) => {
                    pieces.bytes.extend(text.replace(spm::SPACE_MARK, " ").as_bytes());
                }
                _ => pieces.bytes.extend(text.as_bytes()),
            }
            pieces.ends.push(pieces.bytes.len());
        }
        pieces
    }

    fn get(&self, token: u32) -> &[u8] {
        let token = token as usize;
        let Some(&end) = self.ends.get(token) else { return &[] };
        let start = if token == 0 { 0 } else { self.ends[token - 1] };
        &self.bytes[start..end]
    }
}

fn token_id(gguf: &Gguf, key: &str, vocabulary: &Vocabulary) -> Result<Option<u32>, GgufError> {
    let Some(id) = gguf.find_u64(key)? else { return Ok(None) };
    // Converters write -1 as u32 for "none".
    if id == u64::from(u32::MAX) {
        return Ok(None);
    }
    if id >= vocabulary.len() as u64 {
        return Err(gguf.metadata_error(
            key,
            format!("is {id}, and the vocabulary has {} tokens", vocabulary.len()),
        ));
    }
    Ok(Some(id as u32))
}

/// The split rule by the name in the file, and whether whole pieces come first.
fn split_rule(gguf: &Gguf) -> Result<(SplitRule, bool), GgufError> {
    Ok(match gguf.find_text(PRE)? {
        Some("smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone") => {
            (SplitRule::DigitsThenGpt2, false)
        }
        Some("qwen2" | "deepseek-r1-qwen" | "megrez" | "stablelm2") => (SplitRule::Words { max_digits: 1 }, false),
        Some("llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "pixtral" | "lfm2") => {
            (SplitRule::Words { max_digits: 3 }, true)
        }
        Some("tekken") => (SplitRule::Tekken, true),
        // Files from before the key existed hold GPT-2's vocabulary or one made like it.
        Some("gpt-2" | "phi-2" | "mpt" | "olmo" | "default") | None => (SplitRule::Gpt2, false),
        Some(other) => {
            let problem =
                format!("is `{other}`; gpt-2, smollm, qwen2, llama-bpe and tekken (and their aliases) are supported");
            return Err(gguf.metadata_error(PRE, problem));
        }
    })
}

/// Keys whose tokens end the generation.
const END_KEYS: [&str; 6] = [
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.eom_token_id",
    "tokenizer.ggml.fim_pad_token_id",
    "tokenizer.ggml.fim_rep_token_id",
    "tokenizer.ggml.fim_sep_token_id",
];

/// Tokens that end a turn or a text in the published vocabularies; most files name one of theirs and
/// use several.
const END_TEXTS: [&str; 16] = [
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endofturn|>",
    "<|end_of_turn|>",
    "<|return|>",
    "<|call|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<｜end▁of▁sentence｜>",
    "<EOT>",
];
