//! `POST /v1/embeddings`: check, tokenise, queue, and answer with a vector for each input.
use crate::app::{App, EmbeddingModel};
use crate::error::ApiError;
use crate::generate::check_model;
use crate::metrics::Ending;
use crate::record::Record;
use axum::Json;
use axum::extract::{Request, State};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::sync::Arc;
use std::time::Instant;
use windlass_api::openai::{Embedding, EmbeddingRequest, EmbeddingResponse, EmbeddingUsage, Prompt, Vector};
use windlass_engine::embed::{EmbedError, EmbedderInfo, Matryoshka, WordPiece};

/// Inputs of a request: OpenAI's limit.
const MAX_INPUTS: usize = 2048;

/// How vectors are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Float,
    Base64,
}

/// What to embed, not yet tokenised.
enum Inputs {
    Texts(Vec<String>),
    Tokens(Vec<Vec<u32>>),
}

/// The endpoint.
pub async fn embeddings(State(app): State<Arc<App>>, request: Request) -> Result<Json<EmbeddingResponse>, ApiError> {
    let arrived = Instant::now();
    let model = app.embedder()?;
    let mut request: EmbeddingRequest = app.bodies.json(request).await?;
    check_model(&app, request.model.take())?;
    let format = format(request.encoding_format.as_deref())?;
    let length = length(request.dimensions, &model.info)?;
    let limit = limit(request.truncate_prompt_tokens, &model.info)?;
    let inputs = inputs(request.input.take())?;
    if model.thread.is_full() {
        return Err(ApiError::QueueFull);
    }
    let inputs = encode(model, inputs, limit).await?;
    let prompt_tokens = inputs.iter().map(Vec::len).sum();
    let answer = model.thread.submit(inputs).ok_or(ApiError::QueueFull)?;
    let mut record = Record::new(app.metrics.clone(), prompt_tokens, arrived);
    let answer = answer.await.map_err(|_| ApiError::Internal {
        detail: "the embedder ended without an answer".to_owned(),
    });
    let vectors = answer.and_then(|answer| answer.map_err(|(index, error)| refusal(index, &error)));
    let ending = if vectors.is_ok() { Ending::Stop } else { Ending::Error };
    record.end(ending, Instant::now());
    let data = vectors?.into_iter().enumerate().map(|(index, vector)| Embedding {
        object: "embedding".to_owned(),
        index,
        embedding: written(cut(vector, length), format),
    });
    Ok(Json(EmbeddingResponse {
        object: "list".to_owned(),
        data: data.collect(),
        model: app.served_name.clone(),
        usage: EmbeddingUsage {
            prompt_tokens,
            total_tokens: prompt_tokens,
        },
    }))
}

fn format(asked: Option<&str>) -> Result<Format, ApiError> {
    match asked {
        None | Some("float") => Ok(Format::Float),
        Some("base64") => Ok(Format::Base64),
        Some(_) => Err(ApiError::invalid("encoding_format", "`float` and `base64` are allowed")),
    }
}

/// The elements of a vector, if it is to be cut: only where the model says that a beginning of its vectors is one.
fn length(asked: Option<u64>, info: &EmbedderInfo) -> Result<Option<usize>, ApiError> {
    let Some(asked) = asked else { return Ok(None) };
    let whole = info.dimensions;
    let refuse = |message: String| Err(ApiError::invalid("dimensions", message));
    match (usize::try_from(asked), &info.matryoshka) {
        (Ok(asked), _) if asked == whole => Ok(None),
        (_, Matryoshka::No) => refuse(format!("this model's vectors have {whole} elements and cannot be cut")),
        (Ok(asked), Matryoshka::Any) if (1..whole).contains(&asked) => Ok(Some(asked)),
        (Ok(asked), Matryoshka::At(lengths)) if (1..whole).contains(&asked) && lengths.contains(&asked) => {
            Ok(Some(asked))
        }
        (_, Matryoshka::Any) => refuse(format!("1 to {whole} are allowed")),
        (_, Matryoshka::At(lengths)) => refuse(format!("this model's vectors can be cut to {lengths:?} elements")),
    }
}

/// Tokens to which longer inputs are cut, if they are.
fn limit(asked: Option<i64>, info: &EmbedderInfo) -> Result<Option<usize>, ApiError> {
    let limit = info.max_length;
    match asked {
        None => Ok(None),
        Some(-1) => Ok(Some(limit)),
        Some(asked) => match usize::try_from(asked) {
            Ok(asked) if (1..=limit).contains(&asked) => Ok(Some(asked)),
            _ => Err(ApiError::invalid(
                "truncate_prompt_tokens",
                format!("-1 and 1 to {limit} are allowed"),
            )),
        },
    }
}

fn inputs(input: Option<Prompt>) -> Result<Inputs, ApiError> {
    let (inputs, count) = match input.ok_or_else(|| ApiError::invalid("input", "it is required"))? {
        Prompt::Text(text) => (Inputs::Texts(vec![text]), 1),
        Prompt::Tokens(tokens) => (Inputs::Tokens(vec![tokens]), 1),
        Prompt::Texts(texts) => {
            let count = texts.len();
            (Inputs::Texts(texts), count)
        }
        Prompt::TokenLists(lists) => {
            let count = lists.len();
            (Inputs::Tokens(lists), count)
        }
    };
    match count {
        1..=MAX_INPUTS => Ok(inputs),
        _ => Err(ApiError::invalid(
            "input",
            format!("1 to {MAX_INPUTS} inputs are allowed"),
        )),
    }
}

/// Token ids that the model can read.
async fn encode(model: &EmbeddingModel, inputs: Inputs, limit: Option<usize>) -> Result<Vec<Vec<u32>>, ApiError> {
    let (tokenizer, info) = (model.tokenizer.clone(), model.info.clone());
    let work = move || tokens(&tokenizer, &info, inputs, limit);
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| ApiError::Internal {
            detail: error.to_string(),
        })?
}

fn tokens(
    tokenizer: &WordPiece,
    info: &EmbedderInfo,
    inputs: Inputs,
    limit: Option<usize>,
) -> Result<Vec<Vec<u32>>, ApiError> {
    let limit_of = |tokens: &Vec<u32>| limit.unwrap_or(tokens.len());
    let inputs: Vec<Vec<u32>> = match inputs {
        Inputs::Texts(texts) => {
            let encode = |text: String| {
                let mut tokens = tokenizer.encode(&text);
                let limit = limit_of(&tokens);
                tokenizer.truncate(&mut tokens, limit);
                tokens
            };
            texts.into_iter().map(encode).collect()
        }
        // Nobody put tokens around these, so there are none to keep.
        Inputs::Tokens(mut lists) => {
            for tokens in &mut lists {
                tokens.truncate(limit_of(tokens));
            }
            lists
        }
    };
    for (index, tokens) in inputs.iter().enumerate() {
        info.check(tokens).map_err(|error| refusal(index, &error))?;
    }
    Ok(inputs)
}

/// Why an input has no vector, for its sender.
fn refusal(index: usize, error: &EmbedError) -> ApiError {
    match error {
        EmbedError::NotFinite => ApiError::NotFinite,
        error => ApiError::invalid(format!("input[{index}]"), error.to_string()),
    }
}

/// The beginning of a vector, with length 1 again.
fn cut(mut vector: Vec<f32>, length: Option<usize>) -> Vec<f32> {
    if let Some(length) = length {
        vector.truncate(length);
        let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
        vector.iter_mut().for_each(|x| *x /= norm);
    }
    vector
}

fn written(vector: Vec<f32>, format: Format) -> Vector {
    match format {
        Format::Float => Vector::Floats(vector),
        Format::Base64 => {
            let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
            Vector::Base64(STANDARD.encode(bytes))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(matryoshka: Matryoshka) -> EmbedderInfo {
        EmbedderInfo {
            architecture: "BertModel",
            dimensions: 8,
            max_length: 16,
            vocab_size: 100,
            matryoshka,
            size_bytes: 0,
            threads: 1,
            multiply_adds: 0,
        }
    }

    #[test]
    fn vectors_are_cut_only_as_the_model_says() {
        let no = info(Matryoshka::No);
        assert_eq!((length(None, &no), length(Some(8), &no)), (Ok(None), Ok(None)));
        let refused = length(Some(4), &no).unwrap_err();
        assert_eq!(refused.body().error.param.as_deref(), Some("dimensions"));
        let any = info(Matryoshka::Any);
        assert_eq!(length(Some(3), &any), Ok(Some(3)));
        assert!(length(Some(0), &any).is_err() && length(Some(9), &any).is_err());
        let some = info(Matryoshka::At(vec![2, 4]));
        assert_eq!(length(Some(4), &some), Ok(Some(4)));
        assert!(length(Some(3), &some).is_err());
        assert_eq!(cut(vec![3.0, 4.0, 7.0], Some(2)), [0.6, 0.8]);
        assert_eq!(cut(vec![0.0, 0.0, 7.0], Some(2)), [0.0, 0.0]);
    }

    #[test]
    fn base64_is_the_little_endian_bytes_of_the_floats() {
        assert_eq!(
            written(vec![1.0, -2.0], Format::Base64),
            Vector::Base64("AACAPwAAAMA=".to_owned())
        );
        assert_eq!(format(Some("base64")), Ok(Format::Base64));
        assert!(format(Some("int8")).is_err());
    }

    #[test]
    fn a_limit_for_truncation_is_within_the_models() {
        let info = info(Matryoshka::No);
        assert_eq!(
            (limit(None, &info), limit(Some(-1), &info), limit(Some(5), &info)),
            (Ok(None), Ok(Some(16)), Ok(Some(5)))
        );
        for bad in [-2, 0, 17] {
            assert!(limit(Some(bad), &info).is_err());
        }
    }
}
