//! `POST /tokenize` and `POST /detokenize`: the tokens that the other routes would compute, without computing them.
use crate::app::{App, Model, unix_seconds};
use crate::error::ApiError;
use crate::generate::check_model;
use crate::input::{self, blocking, check_vocabulary, missing};
use crate::unsupported::refuse_unsupported;
use axum::Json;
use axum::extract::{Request, State};
use serde_json::Value;
use std::sync::Arc;
use windlass_api::tokenize::{DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse};

/// Of these routes at once: few answers are as large as `MAX_TOKENS` allows, some tens of MiB.
pub const MAX_AT_ONCE: usize = 4;
/// Tokens of a text, of which each may have a hundred bytes: longer than the context of most models.
pub const MAX_TOKENS: usize = 1 << 18;

enum Text {
    Plain { text: String, special: bool },
    Messages { messages: Value, generation_prompt: bool },
}

impl Text {
    fn param(&self) -> &'static str {
        match self {
            Self::Plain { .. } => "prompt",
            Self::Messages { .. } => "messages",
        }
    }
}

/// Text or messages to tokens.
pub async fn tokenize(State(app): State<Arc<App>>, request: Request) -> Result<Json<TokenizeResponse>, ApiError> {
    let model = app.model()?;
    let _place = place(&app).await?;
    let mut request: TokenizeRequest = app.bodies.json(request).await?;
    check_model(&app, request.model.take())?;
    refuse_unsupported(&request.other)?;
    for param in ["tools", "functions"] {
        let tools = request.other.get(param).filter(|tools| !tools.is_null());
        if tools.is_some_and(|tools| tools.as_array().is_none_or(|tools| !tools.is_empty())) {
            return Err(ApiError::Unsupported {
                param: param.to_owned(),
                reason: " here",
            });
        }
    }
    let names = request.return_token_strs.unwrap_or(false);
    let text = text(request, model.template.calls_tools())?;
    let param = text.param();
    let tokens = encode(model, text).await?;
    check_count(tokens.len(), param)?;
    let tokenizer = &model.tokenizer;
    let name = |&token: &u32| tokenizer.token_text(token).unwrap_or_default().to_owned();
    Ok(Json(TokenizeResponse {
        count: tokens.len(),
        max_model_len: model.context,
        token_strs: names.then(|| tokens.iter().map(name).collect()),
        tokens,
    }))
}

/// Tokens to text.
pub async fn detokenize(State(app): State<Arc<App>>, request: Request) -> Result<Json<DetokenizeResponse>, ApiError> {
    let model = app.model()?;
    let _place = place(&app).await?;
    let request: DetokenizeRequest = app.bodies.json(request).await?;
    check_model(&app, request.model)?;
    let tokens = request.tokens.ok_or_else(|| missing("tokens"))?;
    check_count(tokens.len(), "tokens")?;
    check_vocabulary(&tokens, model.tokenizer.vocab_size(), "tokens")?;
    Ok(Json(DetokenizeResponse {
        prompt: model.tokenizer.decode(&tokens),
    }))
}

async fn place(app: &App) -> Result<tokio::sync::SemaphorePermit<'_>, ApiError> {
    app.tokenizing.acquire().await.map_err(|error| ApiError::Internal {
        detail: error.to_string(),
    })
}

fn check_count(count: usize, param: &str) -> Result<(), ApiError> {
    if count <= MAX_TOKENS {
        return Ok(());
    }
    let message = format!("{count} tokens are too many: at most {MAX_TOKENS} are allowed");
    Err(ApiError::invalid(param, message))
}

fn text(request: TokenizeRequest, calls_tools: bool) -> Result<Text, ApiError> {
    match (request.prompt, request.messages) {
        (Some(_), Some(_)) => Err(ApiError::invalid("messages", "send `prompt` or `messages`, not both")),
        (None, None) => Err(missing("prompt")),
        (Some(text), None) => Ok(Text::Plain {
            text,
            special: request.add_special_tokens.unwrap_or(true),
        }),
        (None, Some(_)) if request.add_special_tokens == Some(true) => {
            let message = "it is for `prompt`; with `messages` the chat template brings special tokens";
            Err(ApiError::invalid("add_special_tokens", message))
        }
        (None, messages) => Ok(Text::Messages {
            messages: input::messages(messages, calls_tools)?,
            generation_prompt: request.add_generation_prompt.unwrap_or(true),
        }),
    }
}

async fn encode(model: &Model, text: Text) -> Result<Vec<u32>, ApiError> {
    let (tokenizer, template) = (model.tokenizer.clone(), model.template.clone());
    let now = unix_seconds();
    blocking(move || match text {
        Text::Plain { text, special: true } => Ok(tokenizer.encode_prompt(&text)),
        Text::Plain { text, special: false } => Ok(tokenizer.encode(&text, true)),
        Text::Messages {
            messages,
            generation_prompt,
        } => input::render(&messages, None, &tokenizer, &template, generation_prompt, now),
    })
    .await
}
