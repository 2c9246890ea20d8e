//! `POST /v1/chat/completions` and `POST /v1/completions`: check, take a place in the queue,
//! tokenise, submit, and answer whole or as a stream.
use crate::accept::accept;
use crate::answer::Answer;
use crate::app::{App, Model, unix_seconds};
use crate::error::ApiError;
use crate::input::{Input, Prompt, blocking};
use crate::reply::{Choice, Endpoint, Reply};
use crate::settings::{Bounds, Settings};
use crate::stream;
use crate::structured::Form;
use crate::tool_calls::{Calls, add_calls};
use crate::tools::Tools;
use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::OwnedSemaphorePermit;
use windlass_api::openai::GenerateRequest;
use windlass_engine::grammar::{Constraint, Grammar, Grammars};
use windlass_engine::request::Request as EngineRequest;
use windlass_engine::shortened;

/// Bytes of the words about a grammar that are repeated: they quote it.
const MAX_QUOTED_GRAMMAR_BYTES: usize = 300;
/// Bytes of an unknown model's name that are repeated.
const MAX_QUOTED_NAME_BYTES: usize = 100;

/// The chat endpoint.
pub async fn chat(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    generate(&app, Endpoint::Chat, request).await
}

/// The completions endpoint.
pub async fn completions(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    generate(&app, Endpoint::Completions, request).await
}

async fn generate(app: &App, endpoint: Endpoint, request: Request) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    let model = app.model()?;
    let mut request: GenerateRequest = app.bodies.json(request).await?;
    check_model(app, request.model.take())?;
    let bounds = Bounds {
        endpoint,
        context: model.context,
        vocabulary: model.tokenizer.vocab_size(),
        calls_tools: model.template.calls_tools(),
    };
    let (settings, input) = accept(request, bounds, app.random())?;
    let place = reserve(model, input.prompts(), settings.choices)?;
    let reply = Reply {
        endpoint,
        id: reply_id(app, endpoint),
        created: unix_seconds(),
        model: app.served_name.clone(),
        include_usage: settings.include_usage,
        logprobs: settings.sampling.logprobs.is_some(),
        choices: settings.choices,
        older_calls: settings.tools.as_ref().is_some_and(Tools::older_form),
    };
    let prompts = encode(model, input, &settings).await?;
    let stream = settings.stream;
    let answers = submit(app, model, place, prompts, &settings, arrived).await?;
    if stream {
        return Ok(stream::events(reply, answers).into_response());
    }
    let mut choices = Vec::with_capacity(answers.len());
    for answer in answers {
        choices.push(whole(answer).await?);
    }
    Ok(Json(reply.whole(choices)).into_response())
}

/// Refuses another model than ours; none named is ours.
pub fn check_model(app: &App, asked: Option<String>) -> Result<(), ApiError> {
    match asked {
        Some(asked) if asked != app.served_name => Err(ApiError::ModelNotFound {
            asked: shortened(&asked, MAX_QUOTED_NAME_BYTES),
            served: app.served_name.clone(),
        }),
        _ => Ok(()),
    }
}

/// Places for all sequences of a request, before anything expensive is done for it.
fn reserve(model: &Model, prompts: usize, choices: usize) -> Result<OwnedSemaphorePermit, ApiError> {
    let sequences = prompts.saturating_mul(choices);
    if sequences > model.capacity {
        let param = if choices > 1 { "n" } else { "prompt" };
        let message = format!("this server takes {} answers at once", model.capacity);
        return Err(ApiError::invalid(param, message));
    }
    let count = u32::try_from(sequences).map_err(|error| ApiError::Internal {
        detail: error.to_string(),
    })?;
    model.engine.reserve(count).ok_or(ApiError::QueueFull)
}

/// The tokens of each prompt, and the constraint that every answer is to follow.
async fn encode(
    model: &Model,
    input: Input,
    settings: &Settings,
) -> Result<(Vec<Prompt>, Option<Constraint>), ApiError> {
    let (tokenizer, template, context) = (model.tokenizer.clone(), model.template.clone(), model.context);
    let now = unix_seconds();
    let grammars = model.grammars.clone();
    let schema = settings.form.as_ref().and_then(|form| match &form.grammar {
        Grammar::JsonSchema(schema) => Some(schema),
        _ => None,
    });
    let calls = |tools: &Tools| Form {
        grammar: tools.grammar(&tokenizer, schema),
        param: tools.param(),
    };
    // The last one binds the answer. A form beside tools is a part of theirs: alone, its faults are named as its own.
    let forms = [settings.form.clone(), settings.tools.as_ref().map(calls)];
    blocking(move || {
        let prompts = input.encode(&tokenizer, &template, context, now)?;
        let mut constraint = None;
        for form in forms.into_iter().flatten() {
            let grammars = grammars.get_or_init(|| Grammars::new(&tokenizer)).as_ref();
            let compiled = grammars
                .map_err(Clone::clone)
                .and_then(|grammars| grammars.constraint(&form.grammar));
            constraint = Some(compiled.map_err(|error| {
                let message = shortened(&error.to_string(), MAX_QUOTED_GRAMMAR_BYTES);
                ApiError::invalid(form.param, message)
            })?);
        }
        Ok((prompts, constraint))
    })
    .await
}

async fn submit(
    app: &App,
    model: &Model,
    mut place: OwnedSemaphorePermit,
    (prompts, constraint): (Vec<Prompt>, Option<Constraint>),
    settings: &Settings,
    arrived: Instant,
) -> Result<Vec<Answer>, ApiError> {
    let cache_salt = app.salt(settings.cache_salt.as_deref());
    let mut answers = Vec::with_capacity(prompts.len() * settings.choices);
    let choices = prompts
        .iter()
        .flat_map(|prompt| (0..settings.choices).map(move |choice| (prompt, choice)));
    for (prompt, choice) in choices {
        let own = place.split(1).ok_or_else(|| ApiError::Internal {
            detail: "a place is missing".to_owned(),
        })?;
        let mut sampling = settings.sampling.clone();
        // The first choice is what the seed gives alone.
        sampling.seed = sampling.seed.wrapping_add(choice as u64);
        let request = EngineRequest {
            id: model.engine.next_id(),
            prompt: prompt.tokens.clone(),
            max_tokens: settings.max_tokens,
            sampling,
            ignore_eos: settings.ignore_eos,
            cache_salt,
            priority: settings.priority,
            constraint: constraint.clone(),
            prompt_logprobs: settings.sampling.logprobs.filter(|_| settings.echo),
        };
        let ticket = model.engine.submit(request, own);
        let (tokenizer, metrics) = (model.tokenizer.clone(), app.metrics.clone());
        answers.push(Answer::new(
            ticket,
            tokenizer,
            metrics,
            settings,
            settings.tools.as_ref().map(|_| Calls::new(app.random())),
            prompt,
            arrived,
        ));
    }
    for answer in &mut answers {
        answer.admitted().await?;
    }
    Ok(answers)
}

async fn whole(mut answer: Answer) -> Result<Choice, ApiError> {
    let (mut text, mut tokens, mut calls) = (String::new(), Vec::new(), Vec::new());
    while let Some(piece) = answer.next().await? {
        text += &piece.text;
        tokens.extend(piece.tokens);
        add_calls(&mut calls, piece.calls);
        if let Some(end) = piece.end {
            return Ok(Choice {
                text,
                tokens,
                calls,
                end,
            });
        }
    }
    Err(ApiError::Internal {
        detail: "an answer has no end".to_owned(),
    })
}

fn reply_id(app: &App, endpoint: Endpoint) -> String {
    let prefix = match endpoint {
        Endpoint::Chat => "chatcmpl",
        Endpoint::Completions => "cmpl",
    };
    format!("{prefix}-{:016x}{:016x}", app.random(), app.random())
}
