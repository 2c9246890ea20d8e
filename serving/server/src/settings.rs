//! From a request's fields to settings that the engine may trust: ranges and combinations.
//! Types were checked on parsing; the input (messages, prompts) is checked in `input`.
use crate::error::ApiError;
use crate::reply::Endpoint;
use crate::sampling::sampling;
use crate::structured::{Form, form};
use crate::tools::Tools;
use std::ops::RangeInclusive;
use windlass_api::openai::{GenerateRequest, Stop};
use windlass_engine::grammar::Grammar;
use windlass_engine::request::Sampling;

/// Stop texts of a request.
pub const MAX_STOPS: usize = 4;
/// Bytes of a stop text: what is held back and searched for each token stays small.
pub const MAX_STOP_BYTES: usize = 1024;
/// Answers for each prompt: OpenAI's own limit.
pub const MAX_CHOICES: usize = 128;
/// What a request may ask for; 0 without.
const PRIORITIES: RangeInclusive<i32> = -100..=100;
/// Bytes of a cache salt.
pub const MAX_CACHE_SALT_BYTES: usize = 256;

/// What a request is measured against.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Who was asked.
    pub endpoint: Endpoint,
    /// The longest sequence in tokens.
    pub context: usize,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// The model's template knows tools.
    pub calls_tools: bool,
}

/// How to answer, validated.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// As server-sent events.
    pub stream: bool,
    /// With an event for the usage.
    pub include_usage: bool,
    /// The engine ends sooner where the context does.
    pub max_tokens: usize,
    /// For the engine.
    pub sampling: Sampling,
    /// For the engine.
    pub ignore_eos: bool,
    /// Answers for each prompt.
    pub choices: usize,
    /// The text begins with the prompt, and with its probabilities if those of the answer are asked for.
    pub echo: bool,
    /// None of them empty.
    pub stops: Vec<String>,
    /// The text ends with the stop text that ended it.
    pub includes_stop: bool,
    /// Control tokens are part of the text.
    pub shows_special: bool,
    /// Separates prefix caches.
    pub cache_salt: Option<String>,
    /// Lower goes first.
    pub priority: i32,
    /// What the answer must be, or its text where it may call tools.
    pub form: Option<Form>,
    /// What the model may call.
    pub tools: Option<Tools>,
}

impl Settings {
    /// `random_seed` serves requests that name none.
    pub fn new(request: &mut GenerateRequest, bounds: Bounds, random_seed: u64) -> Result<Self, ApiError> {
        let stream = request.stream.unwrap_or(false);
        if request.stream_options.is_some() && !stream {
            return Err(ApiError::invalid(
                "stream_options",
                "it is allowed only with `stream`: true",
            ));
        }
        // A completion without a limit is short, a chat's answer ends by itself: OpenAI's defaults.
        let default_tokens = match bounds.endpoint {
            Endpoint::Completions => 16,
            Endpoint::Chat => bounds.context,
        };
        let echo = echo(request, bounds.endpoint)?;
        let least_tokens = if echo { 0 } else { 1 };
        let max_tokens = max_tokens(request, least_tokens..=bounds.context)?.unwrap_or(default_tokens);
        let sampling = sampling(request, max_tokens, bounds, random_seed)?;
        let has_suffix = request.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty());
        if echo && sampling.logprobs.is_some() && has_suffix {
            // The tokens are those of text, suffix and marks; the text is only a part of them.
            let message = "it is not supported together with `logprobs` and `suffix`";
            return Err(ApiError::invalid("echo", message));
        }
        let (form, tools) = (form(request)?, Tools::new(request)?);
        if let (Some(form), Some(_)) = (&form, &tools)
            && !matches!(form.grammar, Grammar::JsonSchema(_))
        {
            let message = "it cannot be combined with `tools`; a JSON schema can";
            return Err(ApiError::invalid(form.param, message));
        }
        if let (Some(tools), Endpoint::Completions) = (&tools, bounds.endpoint) {
            return Err(ApiError::invalid(tools.param(), "they are for chats only"));
        }
        Ok(Self {
            stream,
            include_usage: request
                .stream_options
                .and_then(|options| options.include_usage)
                .unwrap_or(false),
            max_tokens,
            choices: choices(request)?,
            echo,
            sampling,
            ignore_eos: request.ignore_eos.unwrap_or(false),
            stops: stops(request.stop.take())?,
            includes_stop: request.include_stop_str_in_output.unwrap_or(false),
            shows_special: !request.skip_special_tokens.unwrap_or(true),
            cache_salt: cache_salt(request.cache_salt.take())?,
            priority: priority(request.priority)?,
            form,
            tools,
        })
    }
}

fn max_tokens(request: &GenerateRequest, range: RangeInclusive<usize>) -> Result<Option<usize>, ApiError> {
    let fields = [
        ("max_completion_tokens", request.max_completion_tokens),
        ("max_tokens", request.max_tokens),
    ];
    let mut wanted = None;
    for (param, value) in fields {
        let Some(value) = value else { continue };
        let fits = usize::try_from(value).ok().filter(|tokens| range.contains(tokens));
        let tokens = fits.ok_or_else(|| {
            let message = format!(
                "it must be {} to {}, the context of this model",
                range.start(),
                range.end()
            );
            ApiError::invalid(param, message)
        })?;
        if wanted.is_some_and(|other| other != tokens) {
            return Err(ApiError::invalid(
                param,
                "`max_completion_tokens` says something else; send one of them",
            ));
        }
        wanted = Some(tokens);
    }
    Ok(wanted)
}

fn priority(value: Option<i64>) -> Result<i32, ApiError> {
    let priority = i32::try_from(value.unwrap_or(0)).ok();
    priority
        .filter(|priority| PRIORITIES.contains(priority))
        .ok_or_else(|| ApiError::invalid("priority", "it must be -100 to 100; lower goes first"))
}

fn choices(request: &GenerateRequest) -> Result<usize, ApiError> {
    let wanted = request.n.unwrap_or(1);
    let choices = usize::try_from(wanted)
        .ok()
        .filter(|&n| 0 < n && n <= MAX_CHOICES)
        .ok_or_else(|| ApiError::invalid("n", format!("it must be 1 to {MAX_CHOICES}")))?;
    match request.best_of {
        Some(best_of) if best_of != wanted => {
            let message = format!("it must be {wanted}, as `n` is: every answer is given");
            Err(ApiError::invalid("best_of", message))
        }
        _ => Ok(choices),
    }
}

fn echo(request: &GenerateRequest, endpoint: Endpoint) -> Result<bool, ApiError> {
    let echo = request.echo.unwrap_or(false);
    if echo && endpoint == Endpoint::Chat {
        return Err(ApiError::invalid("echo", "it is for completions only"));
    }
    Ok(echo)
}

fn stops(stop: Option<Stop>) -> Result<Vec<String>, ApiError> {
    let stops = match stop {
        None => return Ok(Vec::new()),
        Some(Stop::One(stop)) => vec![stop],
        Some(Stop::Many(stops)) => stops,
    };
    if stops.len() > MAX_STOPS {
        return Err(ApiError::invalid(
            "stop",
            format!("at most {MAX_STOPS} texts are allowed"),
        ));
    }
    if stops.iter().any(|stop| stop.is_empty() || stop.len() > MAX_STOP_BYTES) {
        return Err(ApiError::invalid(
            "stop",
            format!("each text must have 1 to {MAX_STOP_BYTES} bytes"),
        ));
    }
    Ok(stops)
}

fn cache_salt(salt: Option<String>) -> Result<Option<String>, ApiError> {
    if salt
        .as_ref()
        .is_some_and(|salt| salt.is_empty() || salt.len() > MAX_CACHE_SALT_BYTES)
    {
        return Err(ApiError::invalid(
            "cache_salt",
            format!("it must have 1 to {MAX_CACHE_SALT_BYTES} bytes"),
        ));
    }
    Ok(salt)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(json: &str) -> Result<Settings, String> {
        let mut request: GenerateRequest = serde_json::from_str(json).unwrap();
        let bounds = Bounds {
            endpoint: Endpoint::Completions,
            context: 2048,
            vocabulary: 100,
            calls_tools: false,
        };
        Settings::new(&mut request, bounds, 7).map_err(|error| error.body().error.param.unwrap_or_default())
    }

    #[test]
    fn an_empty_request_gets_openais_defaults() {
        let settings = settings("{}").unwrap();
        let sampling = Sampling {
            temperature: 1.0,
            seed: 7,
            ..Sampling::default()
        };
        assert_eq!(settings.sampling, sampling);
        assert_eq!(
            (settings.stream, settings.max_tokens, settings.ignore_eos),
            (false, 16, false)
        );
    }

    #[test]
    fn the_edges_of_every_range_are_allowed() {
        for json in [
            r#"{"temperature":0,"top_p":0,"top_k":-1,"seed":-9223372036854775808,"max_tokens":1,"n":1}"#,
            r#"{"temperature":2,"top_p":1,"top_k":2147483647,"seed":9007199254740993,"max_tokens":2048,"stop":[]}"#,
            r#"{"max_tokens":5,"max_completion_tokens":5,"stop":["a","b","c","d"],"cache_salt":"t"}"#,
            r#"{"n":128,"best_of":128,"logprobs":5}"#,
            r#"{"echo":true,"logprobs":5,"max_tokens":0,"suffix":""}"#,
            r#"{"echo":true,"max_tokens":0,"suffix":"a"}"#,
            r#"{"echo":true,"include_stop_str_in_output":true,"skip_special_tokens":false}"#,
            r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
        ] {
            assert!(settings(json).is_ok(), "{json}");
        }
        assert!(settings(r#"{"top_p":0}"#).unwrap().sampling.top_p > 0.0);
    }

    #[test]
    fn what_is_beyond_a_range_is_refused_by_name() {
        for (json, param) in [
            (r#"{"temperature":-0.1}"#, "temperature"),
            (r#"{"temperature":2.1}"#, "temperature"),
            (r#"{"top_p":-1}"#, "top_p"),
            (r#"{"top_p":1.1}"#, "top_p"),
            (r#"{"top_k":-2}"#, "top_k"),
            (r#"{"top_k":2147483648}"#, "top_k"),
            (r#"{"max_tokens":0}"#, "max_tokens"),
            (r#"{"max_tokens":2049}"#, "max_tokens"),
            (r#"{"max_tokens":18446744073709551615}"#, "max_tokens"),
            (r#"{"max_completion_tokens":0}"#, "max_completion_tokens"),
            (r#"{"max_tokens":5,"max_completion_tokens":6}"#, "max_tokens"),
            (r#"{"n":0}"#, "n"),
            (r#"{"n":-1}"#, "n"),
            (r#"{"n":129}"#, "n"),
            (r#"{"n":1000000000}"#, "n"),
            (r#"{"n":9007199254740993}"#, "n"),
            (r#"{"n":2,"best_of":1}"#, "best_of"),
            (r#"{"best_of":2}"#, "best_of"),
            (r#"{"priority":-101}"#, "priority"),
            (r#"{"priority":4294967296}"#, "priority"),
            (r#"{"n":2,"best_of":1000000000}"#, "best_of"),
            (r#"{"logprobs":6}"#, "logprobs"),
            (r#"{"logprobs":0,"echo":true,"suffix":"a"}"#, "echo"),
            (r#"{"max_tokens":0,"echo":false}"#, "max_tokens"),
            (r#"{"stop":""}"#, "stop"),
            (r#"{"stop":["a","b","c","d","e"]}"#, "stop"),
            (r#"{"stop":["a",""]}"#, "stop"),
            (r#"{"stream_options":{"include_usage":true}}"#, "stream_options"),
            (r#"{"cache_salt":""}"#, "cache_salt"),
        ] {
            assert_eq!(settings(json).err().as_deref(), Some(param), "{json}");
        }
        let long = serde_json::json!({"stop": "x".repeat(MAX_STOP_BYTES + 1)}).to_string();
        assert_eq!(settings(&long).err().as_deref(), Some("stop"));
    }
}
