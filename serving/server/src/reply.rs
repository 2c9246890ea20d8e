//! The JSON around an answer's text: whole answers and stream events of both endpoints.
use crate::answer::End;
use crate::logprobs::{self, Scored};
use serde::Serialize;
use windlass_api::openai::{
    ChatChoice, ChatChunk, ChatChunkChoice, ChatDelta, ChatLogprobs, ChatResponse, ChatResponseMessage,
    CompletionChoice, CompletionLogprobs, CompletionResponse, FinishReason, FunctionCallDelta, ToolCall, ToolCallDelta,
    Usage,
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
        ChatChunk {
            id: self.id.clone(),
            object: "chat.completion.chunk".to_owned(),
            created: self.created,
            model: self.model.clone(),
            choices,
            usage,
        }
    }

    fn completion(&self, choices: Vec<CompletionChoice>, usage: Option<Option<Usage>>) -> CompletionResponse {
        CompletionResponse {
            id: self.id.clone(),
            object: "text_completion".to_owned(),
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
mod tests;
