//! How a request wants its tokens chosen, checked for the engine: chance, penalties, biases, and which tokens end
//! the answer.
use crate::error::ApiError;
use crate::logprobs;
use crate::settings::Bounds;
use std::collections::BTreeMap;
use windlass_api::openai::GenerateRequest;
use windlass_engine::request::Sampling;

/// Tokens with a bias: they are visited for each token of the answer.
pub const MAX_BIASES: usize = 1024;
/// Stop tokens of a request.
pub const MAX_STOP_TOKENS: usize = 128;
/// Below it, a repetition penalty (a divisor) would be a reward beyond any use.
const MIN_REPETITION: f64 = 0.01;

/// The engine's form of it. `max_tokens` is the answer's limit; `random_seed` serves
/// requests that name none.
pub fn sampling(
    request: &mut GenerateRequest,
    max_tokens: usize,
    bounds: Bounds,
    random_seed: u64,
) -> Result<Sampling, ApiError> {
    Ok(Sampling {
        temperature: number("temperature", request.temperature, 1.0, 0.0..=2.0)?,
        // 0 means the most likely token alone; the engine wants a number above 0 for that.
        top_p: number("top_p", request.top_p, 1.0, 0.0..=1.0)?.max(f32::MIN_POSITIVE),
        top_k: top_k(request.top_k)?,
        seed: request.seed.map_or(random_seed, i64::cast_unsigned),
        min_p: number("min_p", request.min_p, 0.0, 0.0..=1.0)?,
        presence_penalty: number("presence_penalty", request.presence_penalty, 0.0, -2.0..=2.0)?,
        frequency_penalty: number("frequency_penalty", request.frequency_penalty, 0.0, -2.0..=2.0)?,
        repetition_penalty: number(
            "repetition_penalty",
            request.repetition_penalty,
            1.0,
            MIN_REPETITION..=100.0,
        )?,
        logit_bias: logit_bias(request.logit_bias.take().unwrap_or_default(), bounds.vocabulary)?,
        min_tokens: min_tokens(request.min_tokens, max_tokens)?,
        stop_tokens: stop_tokens(request.stop_token_ids.take().unwrap_or_default(), bounds.vocabulary)?,
        logprobs: logprobs::wanted(request, bounds.endpoint)?,
    })
}

/// A number in its range.
fn number(
    param: &str,
    value: Option<f64>,
    default: f64,
    range: std::ops::RangeInclusive<f64>,
) -> Result<f32, ApiError> {
    let value = value.unwrap_or(default);
    if !range.contains(&value) {
        let message = format!("it must be {} to {}", range.start(), range.end());
        return Err(ApiError::invalid(param, message));
    }
    Ok(value as f32)
}

fn top_k(value: Option<i64>) -> Result<usize, ApiError> {
    match value.unwrap_or(0) {
        -1 | 0 => Ok(0),
        value => i32::try_from(value)
            .ok()
            .and_then(|value| usize::try_from(value).ok())
            .ok_or_else(|| ApiError::invalid("top_k", "it must be -1 or 0 for all tokens, or 1 to 2147483647")),
    }
}

fn logit_bias(biases: BTreeMap<String, f64>, vocabulary: usize) -> Result<Vec<(u32, f32)>, ApiError> {
    const PARAM: &str = "logit_bias";
    if biases.len() > MAX_BIASES {
        return Err(ApiError::invalid(
            PARAM,
            format!("at most {MAX_BIASES} tokens are allowed"),
        ));
    }
    let checked = |(key, bias): (String, f64)| {
        let token = key.parse().ok().filter(|&token: &u32| (token as usize) < vocabulary);
        let token = token
            .ok_or_else(|| ApiError::invalid(PARAM, format!("its keys must be token ids, 0 to {}", vocabulary - 1)))?;
        Ok((token, number(PARAM, Some(bias), 0.0, -100.0..=100.0)?))
    };
    biases.into_iter().map(checked).collect()
}

fn min_tokens(value: Option<u64>, max_tokens: usize) -> Result<usize, ApiError> {
    let tokens = usize::try_from(value.unwrap_or(0)).ok();
    tokens.filter(|&tokens| tokens <= max_tokens).ok_or_else(|| {
        ApiError::invalid(
            "min_tokens",
            format!("it must be 0 to {max_tokens}, the answer's limit"),
        )
    })
}

fn stop_tokens(tokens: Vec<u32>, vocabulary: usize) -> Result<Vec<u32>, ApiError> {
    const PARAM: &str = "stop_token_ids";
    if tokens.len() > MAX_STOP_TOKENS {
        return Err(ApiError::invalid(
            PARAM,
            format!("at most {MAX_STOP_TOKENS} tokens are allowed"),
        ));
    }
    match tokens.iter().find(|&&token| token as usize >= vocabulary) {
        Some(token) => Err(ApiError::invalid(
            PARAM,
            format!("token id {token} is not in the vocabulary"),
        )),
        None => Ok(tokens),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::Endpoint;
    use serde_json::{Value, json};

    fn checked(body: Value) -> Result<Sampling, String> {
        let bounds = Bounds {
            endpoint: Endpoint::Completions,
            context: 2048,
            vocabulary: 100,
            calls_tools: false,
        };
        let mut request: GenerateRequest = serde_json::from_value(body).unwrap();
        sampling(&mut request, 50, bounds, 7).map_err(|error| error.body().error.param.unwrap_or_default())
    }

    fn nothing() -> Sampling {
        Sampling {
            temperature: 1.0,
            seed: 7,
            ..Sampling::default()
        }
    }

    #[test]
    fn defaults_ask_for_nothing() {
        let defaults = json!({
            "min_p": 0, "presence_penalty": 0, "frequency_penalty": 0.0, "repetition_penalty": 1, "logit_bias": {},
            "min_tokens": 0, "stop_token_ids": [],
        });
        assert_eq!(checked(defaults), Ok(nothing()));
        assert_eq!(checked(json!({"min_p": null, "logit_bias": null})), Ok(nothing()));
    }

    #[test]
    fn the_edges_of_every_range_are_allowed() {
        let wishes = checked(json!({
            "min_p": 1, "presence_penalty": -2, "frequency_penalty": 2, "repetition_penalty": 0.01,
            "logit_bias": {"0": -100, "99": 100}, "min_tokens": 50, "stop_token_ids": [0, 99],
        }));
        let expected = Sampling {
            min_p: 1.0,
            presence_penalty: -2.0,
            frequency_penalty: 2.0,
            repetition_penalty: 0.01,
            logit_bias: vec![(0, -100.0), (99, 100.0)],
            min_tokens: 50,
            stop_tokens: vec![0, 99],
            ..nothing()
        };
        assert_eq!(wishes, Ok(expected));
    }

    #[test]
    fn what_is_beyond_a_range_is_refused_by_name() {
        let many: BTreeMap<String, f64> = (0..=MAX_BIASES).map(|token| (token.to_string(), 1.0)).collect();
        for (param, values) in [
            ("min_p", vec![json!(-0.1), json!(1.1)]),
            ("presence_penalty", vec![json!(-2.1), json!(2.1), json!(1e300)]),
            ("frequency_penalty", vec![json!(-2.1), json!(2.1), json!(-1e300)]),
            (
                "repetition_penalty",
                vec![json!(0), json!(-1), json!(1e-300), json!(1e300)],
            ),
            (
                "logit_bias",
                vec![
                    json!({"100": 1}),
                    json!({"-1": 1}),
                    json!({"a": 1}),
                    json!({"": 1}),
                    json!({"4294967296": 1}),
                    json!({"5": 100.5}),
                    json!({"5": -1e300}),
                    json!(many),
                ],
            ),
            ("min_tokens", vec![json!(51), json!(u64::MAX)]),
            (
                "stop_token_ids",
                vec![json!([100]), json!(vec![1; MAX_STOP_TOKENS + 1])],
            ),
        ] {
            for value in values {
                assert_eq!(checked(json!({ (param): value })), Err(param.to_owned()), "{value}");
            }
        }
    }
}
