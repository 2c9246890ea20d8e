//! The JSON around an answer's text: whole answers and stream events of both endpoints.
use crate::answer::End;
use crate::logprobs::{self, Scored};
use serde::Serialize;
use windlass_api::openai::{
    ChatChoice, ChatChunk, ChatChunkChoice, ChatDelta, ChatLogprobs, ChatResponse, ChatResponseMessage,
    CompletionChoice, CompletionLogprobs, CompletionResponse, FinishReason, FunctionCall, FunctionCallDelta, ToolCall,
    ToolCallDelta, Usage,
};

/// Which endpoint answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
}

/// A whole reply or one event.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Body {
    /// A whole chat reply.
    Chat(ChatResponse),
    /// An event of a chat reply.
    ChatChunk(ChatChunk),
    /// Either, for completions.
    Completion(CompletionResponse),
}

/// A complete answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// All of it.
    pub text: String,
    /// Its tokens, if their probabilities were asked for.
    pub tokens: Vec<Scored>,
    /// Tool calls.
    pub calls: Vec<ToolCall>,
    /// How it ended.
    pub end: End,
}

/// What is the same in all parts of one reply.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Whose shapes to use.
    pub endpoint: Endpoint,
    /// With its prefix.
    pub id: String,
    /// Unix seconds.
    pub created: u64,
    /// The served name.
    pub model: String,
    /// Whether events have a `usage` field.
    pub include_usage: bool,
    /// Whether choices have a `logprobs` field.
    pub logprobs: bool,
    /// Choices of each prompt; its tokens are counted once.
    pub choices: usize,
    /// Calls have their older form, which has room for one.
    pub older_calls: bool,
}

/// Puts calls together from what a stream sends of them.
pub fn add_calls(calls: &mut Vec<ToolCall>, deltas: Vec<ToolCallDelta>) {
    for delta in deltas {
        if let Some(name) = delta.function.name {
            calls.push(ToolCall {
                id: delta.id.unwrap_or_default(),
                kind: delta.kind.unwrap_or_default(),
                function: FunctionCall {
                    name,
                    arguments: String::new(),
                },
            });
        }
        if let Some(call) = calls.last_mut() {
            call.function.arguments += &delta.function.arguments;
        }
    }
}

impl Reply {
    /// A whole reply.
    pub fn whole(&self, choices: Vec<Choice>) -> Body {
        let usage = self.total((0..).zip(choices.iter().map(|choice| &choice.end)));
        match self.endpoint {
            Endpoint::Chat => Body::Chat(ChatResponse {
                id: self.id.clone(),
                object: "chat.completion".to_owned(),
                created: self.created,
                model: self.model.clone(),
                choices: numbered(choices, |index, choice| ChatChoice {
                    index,
                    finish_reason: self.reason(choice.end.reason),
                    message: self.message(choice.text, choice.calls),
                    logprobs: self.logprobs.then(|| logprobs::chat(choice.tokens)),
                }),
                usage,
            }),
            Endpoint::Completions => Body::Completion(self.completion(
                numbered(choices, |index, choice| CompletionChoice {
                    index,
                    text: choice.text,
                    finish_reason: Some(choice.end.reason),
                    logprobs: self.logprobs.then(|| logprobs::completion(choice.tokens)),
                }),
                Some(Some(usage)),
            )),
        }
    }

    /// The event before a choice's first text; completions have none.
    pub fn opening(&self, index: u32) -> Option<Body> {
        let delta = ChatDelta {
            role: Some("assistant".to_owned()),
            content: Some(String::new()),
            ..ChatDelta::default()
        };
        (self.endpoint == Endpoint::Chat).then(|| self.chat_event(index, delta, None, None))
    }

    /// An event with new text, and its tokens if their probabilities were asked for.
    pub fn text(&self, index: u32, text: String, tokens: Vec<Scored>) -> Body {
        match self.endpoint {
            Endpoint::Chat => {
                let delta = ChatDelta {
                    content: Some(text),
                    ..ChatDelta::default()
                };
                let logprobs = self.logprobs.then(|| logprobs::chat(tokens));
                self.chat_event(index, delta, logprobs, None)
            }
            Endpoint::Completions => {
                let logprobs = self.logprobs.then(|| logprobs::completion(tokens));
                self.completion_event(index, text, logprobs, None)
            }
        }
    }

    /// An event with new calls, or pieces of their arguments.
    pub fn calls(&self, index: u32, tool_calls: Vec<ToolCallDelta>) -> Body {
        let mut delta = ChatDelta::default();
        if self.older_calls {
            let call = delta.function_call.insert(FunctionCallDelta::default());
            for part in tool_calls {
                call.name = call.name.take().or(part.function.name);
                call.arguments += &part.function.arguments;
            }
        } else {
            delta.tool_calls = tool_calls;
        }
        self.chat_event(index, delta, None, None)
    }

    /// The last event of a choice.
    pub fn closing(&self, index: u32, reason: FinishReason) -> Body {
        match self.endpoint {
            Endpoint::Chat => self.chat_event(index, ChatDelta::default(), None, Some(self.reason(reason))),
            Endpoint::Completions => self.completion_event(index, String::new(), None, Some(reason)),
        }
    }

    /// The event with the usage of all choices, when it was asked for.
    pub fn usage(&self, ends: &[(u32, End)]) -> Option<Body> {
        let usage = Some(Some(self.total(ends.iter().map(|(index, end)| (*index, end)))));
        self.include_usage.then(|| match self.endpoint {
            Endpoint::Chat => Body::ChatChunk(self.chat_chunk(Vec::new(), usage)),
            Endpoint::Completions => Body::Completion(self.completion(Vec::new(), usage)),
        })
    }

    fn message(&self, text: String, mut calls: Vec<ToolCall>) -> ChatResponseMessage {
        let content = (calls.is_empty() || !text.is_empty()).then_some(text);
        // Its grammar gives such an answer one call.
        let function_call = match self.older_calls {
            true => calls.drain(..).next().map(|call| call.function),
            false => None,
        };
        ChatResponseMessage {
            role: "assistant".to_owned(),
            content,
            tool_calls: calls,
            function_call,
        }
    }

    fn reason(&self, reason: FinishReason) -> FinishReason {
        match reason {
            FinishReason::ToolCalls if self.older_calls => FinishReason::FunctionCall,
            reason => reason,
        }
    }

    fn chat_event(
        &self,
        index: u32,
        delta: ChatDelta,
        logprobs: Option<ChatLogprobs>,
        finish_reason: Option<FinishReason>,
    ) -> Body {
        Body::ChatChunk(self.chat_chunk(
            vec![ChatChunkChoice {
                index,
                delta,
                finish_reason,
                logprobs,
            }],
            self.no_usage(),
        ))
    }

    fn completion_event(
        &self,
        index: u32,
        text: String,
        logprobs: Option<CompletionLogprobs>,
        finish_reason: Option<FinishReason>,
    ) -> Body {
        Body::Completion(self.completion(
            vec![CompletionChoice {
                index,
                text,
                finish_reason,
                logprobs,
            }],
            self.no_usage(),
        ))
    }

    /// What all choices cost, given with their numbers.
    fn total<'a>(&self, ends: impl Iterator<Item = (u32, &'a End)>) -> Usage {
        let mut sum = Usage::default();
        for (index, End { usage, .. }) in ends {
            if (index as usize).is_multiple_of(self.choices) {
                sum.prompt_tokens += usage.prompt_tokens;
                sum.prompt_tokens_details.cached_tokens += usage.cached_tokens;
            }
            sum.completion_tokens += usage.completion_tokens;
        }
        sum.total_tokens = sum.prompt_tokens + sum.completion_tokens;
        sum
    }

    fn no_usage(&self) -> Option<Option<Usage>> {
        self.include_usage.then_some(None)
    }

    fn chat_chunk(&self, choices: Vec<ChatChunkChoice>, usage: Option<Option<Usage>>) -> ChatChunk {
        let object = "chat.completion.chunk".to_owned();
        ChatChunk {
            id: self.id.clone(),
            object,
            created: self.created,
            model: self.model.clone(),
            choices,
            usage,
        }
    }

    fn completion(&self, choices: Vec<CompletionChoice>, usage: Option<Option<Usage>>) -> CompletionResponse {
        let object = "text_completion".to_owned();
        CompletionResponse {
            id: self.id.clone(),
            object,
            created: self.created,
            model: self.model.clone(),
            choices,
            usage,
        }
    }
}

fn numbered<A, B>(items: Vec<A>, build: impl Fn(u32, A) -> B) -> Vec<B> {
    (0..).zip(items).map(|(index, item)| build(index, item)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use windlass_engine::request::Usage as EngineUsage;

    fn reply(endpoint: Endpoint, include_usage: bool) -> Reply {
        Reply {
            endpoint,
            id: "x-1".into(),
            created: 5,
            model: "m".into(),
            include_usage,
            logprobs: false,
            choices: 1,
            older_calls: false,
        }
    }

    fn choice(text: &str) -> Choice {
        Choice {
            text: text.into(),
            tokens: Vec::new(),
            calls: Vec::new(),
            end: end(),
        }
    }

    fn end() -> End {
        let usage = EngineUsage {
            prompt_tokens: 10,
            cached_tokens: 8,
            completion_tokens: 3,
        };
        End {
            reason: FinishReason::Length,
            usage,
        }
    }

    fn value(body: impl Serialize) -> Value {
        serde_json::to_value(body).unwrap()
    }

    #[test]
    fn a_whole_chat_reply_has_openais_shape() {
        let body = value(reply(Endpoint::Chat, false).whole(vec![choice("hi")]));
        let expected = json!({
            "id": "x-1", "object": "chat.completion", "created": 5, "model": "m",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "length"}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13,
                      "prompt_tokens_details": {"cached_tokens": 8}},
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn calls_come_whole_or_in_pieces_and_say_the_same() {
        let delta = |index, name: Option<&str>, arguments: &str| ToolCallDelta {
            index,
            id: name.map(|name| format!("id-{name}")),
            kind: name.map(|_| "function".to_owned()),
            function: windlass_api::openai::FunctionCallDelta {
                name: name.map(str::to_owned),
                arguments: arguments.to_owned(),
            },
        };
        let pieces = [
            vec![delta(0, Some("f"), "")],
            vec![delta(0, None, "{}"), delta(1, Some("g"), "{")],
            vec![delta(1, None, "}")],
        ];
        let reply = reply(Endpoint::Chat, false);
        let event = value(reply.calls(0, pieces[1].clone()));
        let expected = json!({"tool_calls": [
            {"index": 0, "function": {"arguments": "{}"}},
            {"index": 1, "id": "id-g", "type": "function", "function": {"name": "g", "arguments": "{"}},
        ]});
        assert_eq!(event["choices"][0]["delta"], expected);
        let mut whole = choice("");
        for deltas in pieces {
            add_calls(&mut whole.calls, deltas);
        }
        let body = value(reply.whole(vec![whole]));
        let expected = json!({"role": "assistant", "content": null, "tool_calls": [
            {"id": "id-f", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            {"id": "id-g", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ]});
        assert_eq!(body["choices"][0]["message"], expected);
    }

    #[test]
    fn a_call_in_the_older_form_is_a_field_of_its_own() {
        let older = Reply {
            older_calls: true,
            ..reply(Endpoint::Chat, false)
        };
        let delta = |name: Option<&str>, arguments: &str| ToolCallDelta {
            function: FunctionCallDelta {
                name: name.map(str::to_owned),
                arguments: arguments.to_owned(),
            },
            ..ToolCallDelta::default()
        };
        let begin = vec![delta(Some("f"), ""), delta(None, "{\"a\"")];
        let event = value(older.calls(0, begin.clone()));
        let expected = json!({"function_call": {"name": "f", "arguments": "{\"a\""}});
        assert_eq!(event["choices"][0]["delta"], expected);
        let event = value(older.calls(0, vec![delta(None, ": 1}")]));
        assert_eq!(
            event["choices"][0]["delta"],
            json!({"function_call": {"arguments": ": 1}"}})
        );
        let closing = value(older.closing(0, FinishReason::ToolCalls));
        assert_eq!(closing["choices"][0]["finish_reason"], "function_call");

        let mut whole = choice("");
        add_calls(&mut whole.calls, begin);
        whole.end.reason = FinishReason::ToolCalls;
        let body = value(older.whole(vec![whole]));
        let call = json!({"name": "f", "arguments": "{\"a\""});
        let expected = json!({"role": "assistant", "content": null, "function_call": call});
        assert_eq!(body["choices"][0]["message"], expected);
        assert_eq!(body["choices"][0]["finish_reason"], "function_call");
        let text = value(older.whole(vec![choice("hi")]));
        assert_eq!(
            text["choices"][0]["message"],
            json!({"role": "assistant", "content": "hi"})
        );
    }

    #[test]
    fn several_prompts_give_numbered_choices_and_one_sum() {
        let whole = reply(Endpoint::Completions, false).whole(vec![choice("a"), choice("b")]);
        let body = value(whole);
        assert_eq!(
            body["choices"][1],
            json!({"index": 1, "text": "b", "finish_reason": "length"})
        );
        assert_eq!(body["usage"]["total_tokens"], 26);
        assert_eq!(body["usage"]["prompt_tokens_details"]["cached_tokens"], 16);
    }

    #[test]
    fn a_prompt_with_several_choices_is_counted_once() {
        let reply = Reply {
            choices: 2,
            include_usage: true,
            ..reply(Endpoint::Completions, false)
        };
        let whole = value(reply.whole(["a", "b", "c", "d"].map(choice).to_vec()));
        let expected = json!({"prompt_tokens": 20, "completion_tokens": 12, "total_tokens": 32,
                              "prompt_tokens_details": {"cached_tokens": 16}});
        assert_eq!(whole["usage"], expected);
        let ends = [3, 1, 0, 2].map(|index| (index, end()));
        assert_eq!(value(reply.usage(&ends))["usage"], expected);
    }

    #[test]
    fn logprobs_are_there_when_asked_for_also_without_a_token() {
        for endpoint in [Endpoint::Chat, Endpoint::Completions] {
            let reply = Reply {
                logprobs: true,
                ..reply(endpoint, false)
            };
            let whole = value(reply.whole(vec![choice("")]));
            assert!(whole["choices"][0]["logprobs"].is_object(), "{whole}");
            let event = value(reply.text(0, String::new(), Vec::new()));
            assert!(event["choices"][0]["logprobs"].is_object(), "{event}");
            assert_eq!(
                value(reply.closing(0, FinishReason::Stop))["choices"][0].get("logprobs"),
                None
            );
        }
    }

    #[test]
    fn a_chat_stream_begins_with_the_role_and_ends_with_a_reason() {
        let reply = reply(Endpoint::Chat, false);
        assert_eq!(
            value(reply.opening(0))["choices"][0]["delta"],
            json!({"role": "assistant", "content": ""})
        );
        let text = value(reply.text(0, "hi".into(), Vec::new()));
        assert_eq!(
            text["choices"][0],
            json!({"index": 0, "delta": {"content": "hi"}, "finish_reason": null})
        );
        assert_eq!(text.get("usage"), None);
        let closing = value(reply.closing(0, FinishReason::Stop));
        assert_eq!(
            closing["choices"][0],
            json!({"index": 0, "delta": {}, "finish_reason": "stop"})
        );
    }

    #[test]
    fn usage_in_a_stream_is_null_until_its_own_event() {
        for endpoint in [Endpoint::Chat, Endpoint::Completions] {
            let with = reply(endpoint, true);
            assert_eq!(
                value(with.text(0, "a".into(), Vec::new())).get("usage"),
                Some(&Value::Null)
            );
            let usage = value(with.usage(&[(0, end())]));
            assert_eq!(
                (&usage["choices"], &usage["usage"]["completion_tokens"]),
                (&json!([]), &json!(3))
            );
            assert_eq!(reply(endpoint, false).usage(&[(0, end())]), None);
        }
    }
}
