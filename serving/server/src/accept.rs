//! What becomes of a request's body on its way to the engine, as far as it depends on nothing but the body and the
//! model. Pure: tests and fuzzing reach all of it without a server.
use crate::body;
use crate::error::ApiError;
use crate::input::Input;
use crate::reply::Endpoint;
use crate::settings::{Bounds, Settings};
use crate::unsupported::refuse_unsupported;
use windlass_api::openai::{ErrorBody, GenerateRequest};
use windlass_engine::chat::ChatTemplate;
use windlass_engine::tokenizer::Tokenizer;

/// Settings and input of a request. `random_seed` serves requests that name none.
pub fn accept(mut request: GenerateRequest, bounds: Bounds, random_seed: u64) -> Result<(Settings, Input), ApiError> {
    refuse_unsupported(&request.other)?;
    let settings = Settings::new(&mut request, bounds, random_seed)?;
    let input = match bounds.endpoint {
        Endpoint::Chat => Input::chat(&mut request, settings.tools.as_ref(), bounds.calls_tools)?,
        Endpoint::Completions => Input::completion(&mut request)?,
    };
    Ok((settings, input))
}

/// The status and the body of an answer that refuses a request.
pub type Refusal = (u16, ErrorBody);

/// Settings and token ids of each sequence that a body asks for.
///
/// # Errors
/// If the request is refused.
pub fn read(
    bytes: &[u8],
    endpoint: Endpoint,
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    context: usize,
) -> Result<(Settings, Vec<Vec<u32>>), Refusal> {
    let accepted = || {
        let bounds = Bounds {
            endpoint,
            context,
            vocabulary: tokenizer.vocab_size(),
            calls_tools: template.calls_tools(),
        };
        let (settings, input) = accept(body::parse(bytes)?, bounds, 0)?;
        let prompts = input.encode(tokenizer, template, context, 0)?;
        Ok((settings, prompts.into_iter().map(|prompt| prompt.tokens).collect()))
    };
    accepted().map_err(|error: ApiError| (error.status().as_u16(), error.body()))
}
