//! The JSON around an answer's text: whole answers and stream events of both endpoints.
use crate::answer::End;
use serde::Serialize;
use windlass_api::openai::{
    ChatChoice, ChatChunk, ChatChunkChoice, ChatDelta, ChatResponse, ChatResponseMessage, CompletionChoice,
    CompletionResponse, FinishReason, Usage,
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
}

impl Reply {
    /// A whole reply: text and end of each choice.
    pub fn whole(&self, choices: Vec<(String, End)>) -> Body {
        let usage = total(choices.iter().map(|(_, end)| end));
        match self.endpoint {
            Endpoint::Chat => Body::Chat(ChatResponse {
                id: self.id.clone(),
                object: "chat.completion".to_owned(),
                created: self.created,
                model: self.model.clone(),
                choices: numbered(choices, |index, (content, end)| ChatChoice {
                    index,
                    message: ChatResponseMessage {
                        role: "assistant".to_owned(),
                        content,
                    },
                    finish_reason: end.reason,
                }),
                usage,
            }),
            Endpoint::Completions => Body::Completion(self.completion(
                numbered(choices, |index, (text, end)| CompletionChoice {
                    index,
                    text,
                    finish_reason: Some(end.reason),
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
        };
        (self.endpoint == Endpoint::Chat).then(|| self.chat_event(index, delta, None))
    }

    /// An event with new text.
    pub fn text(&self, index: u32, text: String) -> Body {
        match self.endpoint {
            Endpoint::Chat => self.chat_event(
                index,
                ChatDelta {
                    role: None,
                    content: Some(text),
                },
                None,
            ),
            Endpoint::Completions => self.completion_event(index, text, None),
        }
    }

    /// The last event of a choice.
    pub fn closing(&self, index: u32, reason: FinishReason) -> Body {
        match self.endpoint {
            Endpoint::Chat => self.chat_event(index, ChatDelta::default(), Some(reason)),
            Endpoint::Completions => self.completion_event(index, String::new(), Some(reason)),
        }
    }

    /// The event with the usage of all choices, when it was asked for.
    pub fn usage(&self, ends: &[End]) -> Option<Body> {
        let usage = Some(Some(total(ends.iter())));
        self.include_usage.then(|| match self.endpoint {
            Endpoint::Chat => Body::ChatChunk(self.chat_chunk(Vec::new(), usage)),
            Endpoint::Completions => Body::Completion(self.completion(Vec::new(), usage)),
        })
    }

    fn chat_event(&self, index: u32, delta: ChatDelta, finish_reason: Option<FinishReason>) -> Body {
        Body::ChatChunk(self.chat_chunk(
            vec![ChatChunkChoice {
                index,
                delta,
                finish_reason,
            }],
            self.no_usage(),
        ))
    }

    fn completion_event(&self, index: u32, text: String, finish_reason: Option<FinishReason>) -> Body {
        Body::Completion(self.completion(
            vec![CompletionChoice {
                index,
                text,
                finish_reason,
            }],
            self.no_usage(),
        ))
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

fn total<'a>(ends: impl Iterator<Item = &'a End>) -> Usage {
    let mut sum = Usage::default();
    for End { usage, .. } in ends {
        sum.prompt_tokens += usage.prompt_tokens;
        sum.completion_tokens += usage.completion_tokens;
        sum.prompt_tokens_details.cached_tokens += usage.cached_tokens;
    }
    Usage {
        total_tokens: sum.prompt_tokens + sum.completion_tokens,
        ..sum
    }
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
        let body = value(reply(Endpoint::Chat, false).whole(vec![("hi".into(), end())]));
        let expected = json!({
            "id": "x-1", "object": "chat.completion", "created": 5, "model": "m",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "length"}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13,
                      "prompt_tokens_details": {"cached_tokens": 8}},
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn several_prompts_give_numbered_choices_and_one_sum() {
        let whole = reply(Endpoint::Completions, false).whole(vec![("a".into(), end()), ("b".into(), end())]);
        let body = value(whole);
        assert_eq!(
            body["choices"][1],
            json!({"index": 1, "text": "b", "finish_reason": "length"})
        );
        assert_eq!(body["usage"]["total_tokens"], 26);
        assert_eq!(body["usage"]["prompt_tokens_details"]["cached_tokens"], 16);
    }

    #[test]
    fn a_chat_stream_begins_with_the_role_and_ends_with_a_reason() {
        let reply = reply(Endpoint::Chat, false);
        assert_eq!(
            value(reply.opening(0))["choices"][0]["delta"],
            json!({"role": "assistant", "content": ""})
        );
        let text = value(reply.text(0, "hi".into()));
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
            assert_eq!(value(with.text(0, "a".into())).get("usage"), Some(&Value::Null));
            let usage = value(with.usage(&[end()]));
            assert_eq!(
                (&usage["choices"], &usage["usage"]["completion_tokens"]),
                (&json!([]), &json!(3))
            );
            assert_eq!(reply(endpoint, false).usage(&[end()]), None);
        }
    }
}
