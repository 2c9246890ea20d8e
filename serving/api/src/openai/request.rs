//! The body of `POST /v1/chat/completions` and of `POST /v1/completions`: one type, because they
//! differ only in their input. Types are checked here, ranges by the server.
use super::{
    FunctionCall, FunctionChoice, FunctionTool, LogprobsWish, ResponseFormat, StructuredOutputs, Tool, ToolCall,
    ToolChoice,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A request for text. Absent fields take the server's defaults.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, expecting = "a JSON object")]
pub struct GenerateRequest {
    /// The served name; absent means the server's only model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Chat only: the conversation so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<ChatMessage>>,
    /// Completions only: the text to continue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<Prompt>,
    /// Completions only: what follows after the text that is wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suffix: Option<String>,
    /// Answer as server-sent events, token by token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// Only with `stream`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_options: Option<StreamOptions>,
    /// Tokens to generate at most; 0 only with `echo`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u64>,
    /// The newer name of `max_tokens`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_completion_tokens: Option<u64>,
    /// 0 (greedy) to 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Nucleus sampling, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// Only the k most likely tokens; 0 and -1 mean all. Not part of OpenAI's API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<i64>,
    /// Only tokens at least this likely beside the most likely one, 0 to 1. Not part of OpenAI's API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f64>,
    /// Against every token that the answer has, -2 to 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<f64>,
    /// Against a token for each time that the answer has it, -2 to 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<f64>,
    /// Against tokens of prompt and answer, above 0; 1 is none. Not part of OpenAI's API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f64>,
    /// Added to the logits of tokens, by id, -100 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logit_bias: Option<BTreeMap<String, f64>>,
    /// Equal seeds give equal answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    /// Texts at which the answer ends; they are not part of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop: Option<Stop>,
    /// The answer contains the stop text that ended it. Not part of OpenAI's API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub include_stop_str_in_output: Option<bool>,
    /// Control tokens are not part of the text; true unless said otherwise. Not part of OpenAI's API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skip_special_tokens: Option<bool>,
    /// Tokens at which the answer ends; they are not part of it. Not part of OpenAI's API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_token_ids: Option<Vec<u32>>,
    /// Nothing ends the answer before it has so many tokens. Not part of OpenAI's API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_tokens: Option<u64>,
    /// Go on after an end-of-generation token (for benchmarks). Not part of OpenAI's API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignore_eos: Option<bool>,
    /// Answers for each prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n: Option<i64>,
    /// As `n`: nothing is chosen among more answers than are given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best_of: Option<i64>,
    /// Lower goes first, among requests that wait and in the time of a step (vLLM's).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i64>,
    /// How likely the tokens of the answer were: in a chat whether, in a completion for how many at each place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<LogprobsWish>,
    /// Chat only: how many tokens at each place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_logprobs: Option<u64>,
    /// Completions only: the text of the answer begins with the prompt, and so do its `logprobs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub echo: Option<bool>,
    /// Requests share cached prefixes only with requests of the same salt. Not part of OpenAI's API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_salt: Option<String>,
    /// The form of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_format: Option<ResponseFormat>,
    /// The form of the answer, in more ways. Not part of OpenAI's API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub structured_outputs: Option<StructuredOutputs>,
    /// The older name of `structured_outputs.json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guided_json: Option<Value>,
    /// The older name of `structured_outputs.regex`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guided_regex: Option<String>,
    /// The older name of `structured_outputs.choice`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guided_choice: Option<Vec<String>>,
    /// The older name of `structured_outputs.grammar`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guided_grammar: Option<String>,
    /// llama.cpp's name of `structured_outputs.json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json_schema: Option<Value>,
    /// llama.cpp's name of `structured_outputs.grammar`, always in GBNF; empty is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grammar: Option<String>,
    /// Chat only: what the model may call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<Tool>>,
    /// Whether, or which, tools are to be called; `auto` unless said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<ToolChoice>,
    /// Whether an answer may have several calls; it may unless said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallel_tool_calls: Option<bool>,
    /// The older form of `tools`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub functions: Option<Vec<FunctionTool>>,
    /// The older form of `tool_choice`, for `functions`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function_call: Option<FunctionChoice>,
    /// Everything else, so that the server can refuse by name what it knows and does not support.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// What a stream carries besides text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamOptions {
    /// One more event before the end, with the usage and no choices.
    pub include_usage: Option<bool>,
}

/// One text or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a string or an array of strings")]
pub enum Stop {
    /// One text.
    One(String),
    /// Several; the first to appear ends the answer.
    Many(Vec<String>),
}

/// What to continue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a string, an array of strings, an array of token ids, or an array of arrays of token ids"
)]
pub enum Prompt {
    /// One text.
    Text(String),
    /// Several texts, each with an answer of its own.
    Texts(Vec<String>),
    /// One prompt as token ids.
    Tokens(Vec<u32>),
    /// Several prompts as token ids.
    TokenLists(Vec<Vec<u32>>),
}

/// One message of a conversation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// `system`, `developer`, `user`, `assistant`, `tool` or, with the older form of calls, `function`.
    pub role: String,
    /// What was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// Tells participants of the same role apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// In a `tool` message: the call that it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// In an `assistant` message: the calls that it made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCall>>,
    /// The older form of `tool_calls`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function_call: Option<FunctionCall>,
}

/// The content of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a string or an array of content parts")]
pub enum Content {
    /// Plain text.
    Text(String),
    /// Parts; the server joins those of type `text` and refuses others.
    Parts(Vec<ContentPart>),
}

/// One part of a content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentPart {
    /// `text`, or a type that the server refuses by name.
    #[serde(rename = "type")]
    pub kind: String,
    /// Set when `kind` is `text`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_object_is_a_request_without_wishes_and_writes_back_empty() {
        let request: GenerateRequest = serde_json::from_str("{}").unwrap();
        assert_eq!(request, GenerateRequest::default());
        assert_eq!(serde_json::to_string(&request).unwrap(), "{}");
    }

    #[test]
    fn unknown_fields_are_kept_by_name() {
        let request: GenerateRequest = serde_json::from_str(r#"{"n":1,"no_such_thing":{"5":1}}"#).unwrap();
        assert_eq!(request.n, Some(1));
        assert_eq!(request.other["no_such_thing"]["5"], 1);
    }

    #[test]
    fn every_form_of_prompt_is_told_apart() {
        let prompt = |json: &str| serde_json::from_str::<Prompt>(json).map_err(|e| e.to_string());
        assert_eq!(prompt(r#""a""#), Ok(Prompt::Text("a".into())));
        assert_eq!(prompt(r#"["a","b"]"#), Ok(Prompt::Texts(vec!["a".into(), "b".into()])));
        assert_eq!(prompt("[1,2]"), Ok(Prompt::Tokens(vec![1, 2])));
        assert_eq!(prompt("[[1],[2]]"), Ok(Prompt::TokenLists(vec![vec![1], vec![2]])));
        for bad in ["[1,-2]", "[1,4294967296]", "[1.5]", "{}", "[1,\"a\"]", "true"] {
            assert!(
                prompt(bad).unwrap_err().starts_with("expected a string, an array"),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_field_that_comes_twice_is_refused() {
        let twice = serde_json::from_str::<GenerateRequest>(r#"{"n":1,"n":2}"#);
        assert!(twice.unwrap_err().to_string().contains("duplicate field `n`"));
    }
}
