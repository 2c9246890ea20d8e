//! Log-probabilities: how many a request may ask for, and a text's in the shapes of both endpoints.
use crate::error::ApiError;
use crate::reply::Endpoint;
use std::collections::BTreeMap;
use windlass_api::openai::{ChatLogprobs, CompletionLogprobs, GenerateRequest, Logprob, LogprobsWish, TokenLogprob};
use windlass_engine::request::Logprobs;
use windlass_engine::tokenizer::Tokenizer;

/// Most likely tokens at each place of a chat's answer.
pub const MAX_CHAT: u64 = 20;
/// The same for completions.
pub const MAX_COMPLETION: u64 = 5;

/// A token of an answer, or of the prompt that it begins with.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    bytes: Vec<u8>,
    /// Characters of the text before it.
    pub offset: usize,
    /// Nothing comes before the first token of a prompt that would make it likely.
    logprob: Option<f32>,
    top: Vec<(Vec<u8>, f32)>,
}

impl Scored {
    /// With the bytes of its tokens, control tokens by their names.
    pub fn new(tokenizer: &Tokenizer, token: u32, offset: usize, logprobs: Option<&Logprobs>) -> Self {
        let bytes = |token| tokenizer.piece_with_special(token).to_vec();
        let top = logprobs.map_or(&[][..], |logprobs| &logprobs.top);
        Self {
            bytes: bytes(token),
            offset,
            logprob: logprobs.map(|logprobs| logprobs.chosen),
            top: top.iter().map(|&(token, logprob)| (bytes(token), logprob)).collect(),
        }
    }
}

/// How many tokens of each place a request asks for; `None`: not even the chosen one.
pub fn wanted(request: &GenerateRequest, endpoint: Endpoint) -> Result<Option<usize>, ApiError> {
    match endpoint {
        Endpoint::Chat => {
            let chosen = match request.logprobs {
                None => false,
                Some(LogprobsWish::Chosen(chosen)) => chosen,
                Some(LogprobsWish::Top(_)) => {
                    let message = "it must be true or false; `top_logprobs` says how many";
                    return Err(ApiError::invalid("logprobs", message));
                }
            };
            let count = at_most("top_logprobs", request.top_logprobs.unwrap_or(0), MAX_CHAT)?;
            if count > 0 && !chosen {
                return Err(ApiError::invalid("top_logprobs", "it needs `logprobs`: true"));
            }
            Ok(chosen.then_some(count))
        }
        Endpoint::Completions => {
            if request.top_logprobs.is_some_and(|count| count > 0) {
                let message = "it is for chats; `logprobs` says how many";
                return Err(ApiError::invalid("top_logprobs", message));
            }
            match request.logprobs {
                None | Some(LogprobsWish::Chosen(false)) => Ok(None),
                Some(LogprobsWish::Chosen(true)) => Err(beyond("logprobs", MAX_COMPLETION)),
                Some(LogprobsWish::Top(count)) => at_most("logprobs", count, MAX_COMPLETION).map(Some),
            }
        }
    }
}

fn at_most(param: &str, count: u64, max: u64) -> Result<usize, ApiError> {
    let count = usize::try_from(count).ok().filter(|&count| count as u64 <= max);
    count.ok_or_else(|| beyond(param, max))
}

fn beyond(param: &str, max: u64) -> ApiError {
    ApiError::invalid(param, format!("it must be 0 to {max}"))
}

/// In a chat's shape.
pub fn chat(tokens: Vec<Scored>) -> ChatLogprobs {
    let one = |(bytes, logprob): (Vec<u8>, f32)| Logprob {
        token: String::from_utf8_lossy(&bytes).into_owned(),
        logprob,
        bytes,
    };
    let scored = |scored: Scored| TokenLogprob {
        // Chats have no tokens of prompts, and so none without a probability.
        token: one((scored.bytes, scored.logprob.unwrap_or_default())),
        top_logprobs: scored.top.into_iter().map(one).collect(),
    };
    ChatLogprobs {
        content: tokens.into_iter().map(scored).collect(),
    }
}

/// In a completion's shape.
pub fn completion(tokens: Vec<Scored>) -> CompletionLogprobs {
    let mut lists = CompletionLogprobs::default();
    for scored in tokens {
        let name = name(&scored.bytes);
        let mut top = BTreeMap::new();
        for (bytes, logprob) in scored.top {
            // Best first: of tokens with the same text the likelier one stays.
            top.entry(self::name(&bytes)).or_insert(logprob);
        }
        if let Some(logprob) = scored.logprob {
            top.entry(name.clone()).or_insert(logprob);
        }
        lists.tokens.push(name);
        lists.token_logprobs.push(scored.logprob);
        lists.top_logprobs.push(scored.logprob.map(|_| top));
        lists.text_offset.push(scored.offset);
    }
    lists
}

/// OpenAI's way to write a token into JSON that is not a text.
fn name(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => {
            let escaped: String = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
            format!("bytes:{escaped}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn wish(body: Value, endpoint: Endpoint) -> Result<Option<usize>, String> {
        let request: GenerateRequest = serde_json::from_value(body).unwrap();
        wanted(&request, endpoint).map_err(|error| error.body().error.param.unwrap_or_default())
    }

    #[test]
    fn a_chat_says_whether_and_how_many() {
        for (body, expected) in [
            (json!({}), Ok(None)),
            (json!({"logprobs": false, "top_logprobs": 0}), Ok(None)),
            (json!({"logprobs": true}), Ok(Some(0))),
            (json!({"logprobs": true, "top_logprobs": 20}), Ok(Some(20))),
            (json!({"logprobs": true, "top_logprobs": 21}), Err("top_logprobs")),
            (json!({"logprobs": true, "top_logprobs": u64::MAX}), Err("top_logprobs")),
            (json!({"top_logprobs": 1}), Err("top_logprobs")),
            (json!({"logprobs": 1}), Err("logprobs")),
        ] {
            assert_eq!(
                wish(body.clone(), Endpoint::Chat),
                expected.map_err(str::to_owned),
                "{body}"
            );
        }
    }

    #[test]
    fn a_completion_says_how_many() {
        for (body, expected) in [
            (json!({}), Ok(None)),
            (json!({"logprobs": false}), Ok(None)),
            (json!({"logprobs": 0}), Ok(Some(0))),
            (json!({"logprobs": 5, "top_logprobs": 0}), Ok(Some(5))),
            (json!({"logprobs": 6}), Err("logprobs")),
            (json!({"logprobs": true}), Err("logprobs")),
            (json!({"logprobs": 1, "top_logprobs": 1}), Err("top_logprobs")),
        ] {
            assert_eq!(
                wish(body.clone(), Endpoint::Completions),
                expected.map_err(str::to_owned),
                "{body}"
            );
        }
    }

    fn scored() -> Vec<Scored> {
        vec![
            Scored {
                bytes: b"a".to_vec(),
                offset: 0,
                logprob: Some(-1.0),
                top: vec![(b"b".to_vec(), -0.5)],
            },
            Scored {
                bytes: b"\xe2\x82".to_vec(),
                offset: 1,
                logprob: Some(-0.25),
                top: vec![(b"\xe2\x82".to_vec(), -0.25)],
            },
        ]
    }

    #[test]
    fn a_chats_tokens_have_openais_shape() {
        let expected = json!({"content": [
            {"token": "a", "logprob": -1.0, "bytes": [97],
             "top_logprobs": [{"token": "b", "logprob": -0.5, "bytes": [98]}]},
            {"token": "\u{FFFD}", "logprob": -0.25, "bytes": [0xe2, 0x82],
             "top_logprobs": [{"token": "\u{FFFD}", "logprob": -0.25, "bytes": [0xe2, 0x82]}]},
        ]});
        assert_eq!(serde_json::to_value(chat(scored())).unwrap(), expected);
    }

    #[test]
    fn a_completions_tokens_are_lists_that_always_have_the_chosen_token() {
        let expected = json!({
            "tokens": ["a", "bytes:\\xe2\\x82"], "token_logprobs": [-1.0, -0.25], "text_offset": [0, 1],
            "top_logprobs": [{"a": -1.0, "b": -0.5}, {"bytes:\\xe2\\x82": -0.25}],
        });
        assert_eq!(serde_json::to_value(completion(scored())).unwrap(), expected);
    }
}
