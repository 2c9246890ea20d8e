//! What the small files of a model folder say: the shape of the encoder, and what becomes of its rows. A model that asks for
//! anything beyond this is refused by name.
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use windlass_kernels::Pooling;

use super::{EmbedLoadError, Matryoshka, WordPiece};
use crate::shortened;

/// `architectures` of the models that this reads.
pub(super) const ARCHITECTURE: &str = "BertModel";
/// The largest of the small files.
const MAX_CONFIG_BYTES: u64 = 1 << 20;
/// The largest tokenizer: a vocabulary of some hundred thousand tokens.
const MAX_TOKENIZER_BYTES: u64 = 64 << 20;
/// Bytes of a problem that an error repeats: it may quote the file.
const MAX_PROBLEM_BYTES: usize = 300;
/// Any size in a configuration: products of three of them fit 64 bits.
const MAX_SIZE: usize = 1 << 20;

/// The shape of an encoder, and its pooling.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) width: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) inner: usize,
    pub(super) positions: usize,
    pub(super) token_types: usize,
    pub(super) vocabulary: usize,
    pub(super) epsilon: f32,
    pub(super) pooling: Pooling,
    pub(super) normalize: bool,
    pub(super) matryoshka: Matryoshka,
    /// `max_seq_length` of sentence-transformers.
    trained_length: Option<usize>,
}

#[derive(Deserialize)]
struct ModelFile {
    architectures: Vec<String>,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    hidden_act: String,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    vocab_size: usize,
    layer_norm_eps: f32,
    position_embedding_type: Option<String>,
    #[serde(default)]
    is_matryoshka: bool,
    matryoshka_dimensions: Option<Vec<usize>>,
}

#[derive(Deserialize)]
struct Module {
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct PoolingFile {
    #[serde(flatten)]
    fields: serde_json::Map<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct SentenceFile {
    max_seq_length: Option<usize>,
}

impl Config {
    /// Reads the files of a folder, but for the tokenizer.
    pub(super) fn read(folder: &Path) -> Result<Config, EmbedLoadError> {
        let path = folder.join("config.json");
        let file: ModelFile = json(&path)?;
        let wrong = |problem: String| refuse(&path, problem);
        if file.architectures != [ARCHITECTURE] {
            return Err(wrong(format!(
                "is a {:?}; embeddings come from a {ARCHITECTURE}",
                file.architectures
            )));
        }
        if file.hidden_act != "gelu" {
            return Err(wrong(format!(
                "has the activation `{}`; `gelu` is supported",
                file.hidden_act
            )));
        }
        match file.position_embedding_type.as_deref() {
            None | Some("absolute") => {}
            Some(other) => return Err(wrong(format!("has `{other}` positions; `absolute` ones are supported"))),
        }
        for (name, size) in [
            ("hidden_size", file.hidden_size),
            ("num_hidden_layers", file.num_hidden_layers),
            ("num_attention_heads", file.num_attention_heads),
            ("intermediate_size", file.intermediate_size),
            ("max_position_embeddings", file.max_position_embeddings),
            ("type_vocab_size", file.type_vocab_size),
            ("vocab_size", file.vocab_size),
        ] {
            if !(1..=MAX_SIZE).contains(&size) {
                return Err(wrong(format!("has a {name} of {size}; 1 to {MAX_SIZE} are supported")));
            }
        }
        if !file.hidden_size.is_multiple_of(file.num_attention_heads) {
            let (width, heads) = (file.hidden_size, file.num_attention_heads);
            return Err(wrong(format!(
                "has {heads} heads in a hidden_size of {width}, which they do not divide"
            )));
        }
        if !(file.layer_norm_eps.is_finite() && file.layer_norm_eps >= 0.0) {
            return Err(wrong(format!("has a layer_norm_eps of {}", file.layer_norm_eps)));
        }
        let (pooling, normalize) = modules(folder, file.hidden_size)?;
        let sentence: Option<SentenceFile> = optional(&folder.join("sentence_bert_config.json"))?;
        Ok(Config {
            width: file.hidden_size,
            layers: file.num_hidden_layers,
            heads: file.num_attention_heads,
            inner: file.intermediate_size,
            positions: file.max_position_embeddings,
            token_types: file.type_vocab_size,
            vocabulary: file.vocab_size,
            epsilon: file.layer_norm_eps,
            pooling,
            normalize,
            matryoshka: match file.matryoshka_dimensions {
                Some(lengths) => Matryoshka::At(lengths),
                None if file.is_matryoshka => Matryoshka::Any,
                None => Matryoshka::No,
            },
            trained_length: sentence.and_then(|file| file.max_seq_length),
        })
    }

    /// Tokens of an input at most.
    pub(super) fn max_length(&self, asked: Option<usize>) -> Result<usize, EmbedLoadError> {
        match asked {
            Some(asked) if asked > self.positions => Err(EmbedLoadError::Option {
                option: "--context-length",
                problem: format!("is {asked}, and the model has {} positions", self.positions),
            }),
            Some(asked) => Ok(asked),
            None => Ok(self.trained_length.unwrap_or(self.positions).clamp(1, self.positions)),
        }
    }
}

/// Reads `tokenizer.json`.
pub(super) fn read_tokenizer(folder: &Path, config: &Config) -> Result<WordPiece, EmbedLoadError> {
    let path = folder.join("tokenizer.json");
    let tokenizer =
        WordPiece::from_json(&bytes(&path, MAX_TOKENIZER_BYTES)?).map_err(|problem| refuse(&path, problem))?;
    let largest = tokenizer.largest_token();
    if largest as usize >= config.vocabulary {
        let problem = format!(
            "has a token {largest}, and the model's vocabulary has {}",
            config.vocabulary
        );
        return Err(refuse(&path, problem));
    }
    Ok(tokenizer)
}

/// What becomes of the rows. Without `modules.json` it is their mean, as it is with sentence-transformers.
fn modules(folder: &Path, width: usize) -> Result<(Pooling, bool), EmbedLoadError> {
    let path = folder.join("modules.json");
    let Some(modules) = optional::<Vec<Module>>(&path)? else {
        return Ok((Pooling::Mean, false));
    };
    // Newer releases name the same modules by longer paths.
    let kinds: Vec<&str> = modules
        .iter()
        .map(|module| module.kind.rsplit('.').next().unwrap_or_default())
        .collect();
    let normalize = match kinds[..] {
        ["Transformer", "Pooling"] => false,
        ["Transformer", "Pooling", "Normalize"] => true,
        _ => {
            let problem =
                format!("has the modules {kinds:?}; Transformer, Pooling and perhaps Normalize are supported");
            return Err(refuse(&path, problem));
        }
    };
    // A path in the folder, not out of it.
    let place = Path::new(&modules[1].path);
    if !place
        .components()
        .all(|part| matches!(part, std::path::Component::Normal(_)))
    {
        return Err(refuse(&path, format!("has the path {}", place.display())));
    }
    Ok((pooling(&folder.join(place).join("config.json"), width)?, normalize))
}

fn pooling(path: &Path, width: usize) -> Result<Pooling, EmbedLoadError> {
    let PoolingFile { fields } = json(path)?;
    let of_vectors = fields
        .get("word_embedding_dimension")
        .and_then(serde_json::Value::as_u64);
    if of_vectors.is_some_and(|dimension| dimension != width as u64) {
        return Err(refuse(
            path,
            format!("is for vectors of {of_vectors:?} elements, and the model has {width}"),
        ));
    }
    let named = fields.get("pooling_mode").and_then(serde_json::Value::as_str);
    let chosen = fields.iter().filter(|(_, value)| **value == true);
    let modes: Vec<&str> = chosen
        .filter_map(|(name, _)| name.strip_prefix("pooling_mode_"))
        .chain(named)
        .collect();
    match modes[..] {
        ["mean_tokens" | "mean"] => Ok(Pooling::Mean),
        ["cls_token" | "cls"] => Ok(Pooling::First),
        _ => Err(refuse(
            path,
            format!("has the pooling {modes:?}; mean or cls is supported"),
        )),
    }
}

fn refuse(path: &Path, problem: impl Into<String>) -> EmbedLoadError {
    EmbedLoadError::Config {
        path: path.into(),
        problem: shortened(&problem.into(), MAX_PROBLEM_BYTES),
    }
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<T, EmbedLoadError> {
    serde_json::from_slice(&bytes(path, MAX_CONFIG_BYTES)?).map_err(|error| refuse(path, error.to_string()))
}

fn optional<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, EmbedLoadError> {
    match json(path) {
        Err(EmbedLoadError::Io { error, .. }) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// A whole file, if it is not larger than a bound.
fn bytes(path: &Path, limit: u64) -> Result<Vec<u8>, EmbedLoadError> {
    let io = |error| EmbedLoadError::Io {
        path: PathBuf::from(path),
        error,
    };
    let mut bytes = Vec::new();
    File::open(path)
        .map_err(io)?
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(io)?;
    match bytes.len() as u64 > limit {
        true => Err(refuse(path, format!("has more than {limit} bytes"))),
        false => Ok(bytes),
    }
}
