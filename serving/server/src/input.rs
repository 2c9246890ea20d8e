//! From messages or prompts to token ids: what may stand in them, and how long they may be.
//! Runs on a blocking thread, because a long text takes long.
use crate::error::ApiError;
use crate::tools::Tools;
use serde_json::{Value, json};
use windlass_api::openai::{ChatMessage, Content, ContentPart, GenerateRequest, Prompt as WirePrompt, ToolCall};
use windlass_engine::chat::{ChatTemplate, RenderOptions, TemplateError};
use windlass_engine::shortened;
use windlass_engine::tokenizer::Tokenizer;

/// Messages of a conversation.
pub const MAX_MESSAGES: usize = 2048;
/// Parts of a message's content.
pub const MAX_PARTS: usize = 1024;
/// Calls of one message.
pub const MAX_CALLS: usize = 128;
/// Prompts of one request.
pub const MAX_PROMPTS: usize = 64;
/// Bytes of a template's own complaint that are repeated.
const MAX_QUOTED_BYTES: usize = 200;

/// What one sequence, or several that differ in chance alone, begins with.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// At least one.
    pub tokens: Vec<u32>,
    /// For answers that begin with their prompt. Empty for a chat, which has no such answers.
    pub text: String,
}

/// What to answer, checked and not yet tokenised.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Messages, and tools if there are any, as the template takes them.
    Chat(Value, Option<Value>),
    /// Texts, one sequence each.
    Texts(Vec<String>),
    /// Texts, one sequence each, and what follows after the answer to each.
    Holes(Vec<String>, String),
    /// Token ids, one sequence each.
    Tokens(Vec<Vec<u32>>),
}

impl Input {
    /// The input of a chat. `calls_tools`: whether the template knows tools and calls of them.
    pub fn chat(request: &mut GenerateRequest, tools: Option<&Tools>, calls_tools: bool) -> Result<Self, ApiError> {
        if request.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty()) {
            return Err(ApiError::invalid("suffix", "it is for completions only"));
        }
        if let (Some(tools), false) = (tools, calls_tools) {
            return Err(no_calls(tools.param().to_owned()));
        }
        let messages = messages(request.messages.take(), calls_tools)?;
        Ok(Self::Chat(messages, tools.map(Tools::for_template)))
    }

    /// The input of a completion.
    pub fn completion(request: &mut GenerateRequest) -> Result<Self, ApiError> {
        let input = match request.prompt.take().ok_or_else(|| missing("prompt"))? {
            WirePrompt::Text(text) => Self::Texts(vec![text]),
            WirePrompt::Texts(texts) => Self::Texts(texts),
            WirePrompt::Tokens(tokens) => Self::Tokens(vec![tokens]),
            WirePrompt::TokenLists(lists) => Self::Tokens(lists),
        };
        if !(1..=MAX_PROMPTS).contains(&input.prompts()) {
            return Err(ApiError::invalid(
                "prompt",
                format!("1 to {MAX_PROMPTS} prompts are allowed"),
            ));
        }
        match (input, request.suffix.take().filter(|suffix| !suffix.is_empty())) {
            (input, None) => Ok(input),
            (Self::Texts(texts), Some(suffix)) => Ok(Self::Holes(texts, suffix)),
            (_, Some(_)) => Err(ApiError::invalid("suffix", "it needs a `prompt` of text")),
        }
    }

    /// How many prompts it has.
    pub fn prompts(&self) -> usize {
        match self {
            Self::Chat(..) => 1,
            Self::Texts(texts) | Self::Holes(texts, _) => texts.len(),
            Self::Tokens(lists) => lists.len(),
        }
    }

    /// The field that it came from.
    fn param(&self) -> &'static str {
        match self {
            Self::Chat(..) => "messages",
            Self::Texts(_) | Self::Holes(..) | Self::Tokens(_) => "prompt",
        }
    }

    /// The prompts, of which each leaves room for an answer in `context` tokens.
    /// `now` is the time that a template may print.
    pub fn encode(
        self,
        tokenizer: &Tokenizer,
        template: &ChatTemplate,
        context: usize,
        now: u64,
    ) -> Result<Vec<Prompt>, ApiError> {
        let param = self.param();
        let prompts: Vec<Prompt> = match self {
            Self::Chat(messages, tools) => vec![Prompt {
                tokens: render(&messages, tools.as_ref(), tokenizer, template, true, now)?,
                text: String::new(),
            }],
            Self::Texts(texts) => {
                let prompt = |text: String| Prompt {
                    tokens: tokenizer.encode_prompt(&text),
                    text,
                };
                texts.into_iter().map(prompt).collect()
            }
            Self::Holes(texts, suffix) => {
                // Texts of strangers: no control tokens, as in messages.
                let suffix = tokenizer.encode(&suffix, false);
                check_length(suffix.len(), context, "suffix")?;
                let prompt = |text: String| {
                    let tokens = tokenizer.around_hole(&tokenizer.encode(&text, false), &suffix);
                    let tokens = tokens.ok_or_else(|| ApiError::Unsupported {
                        param: "suffix".to_owned(),
                        reason: " with this model: it has no tokens for filling in",
                    })?;
                    Ok(Prompt { tokens, text })
                };
                texts.into_iter().map(prompt).collect::<Result<_, ApiError>>()?
            }
            Self::Tokens(lists) => {
                let prompt = |tokens: Vec<u32>| Prompt {
                    text: tokenizer.decode(&tokens),
                    tokens,
                };
                lists.into_iter().map(prompt).collect()
            }
        };
        for prompt in &prompts {
            check_tokens(&prompt.tokens, tokenizer.vocab_size(), context, param)?;
        }
        Ok(prompts)
    }
}

/// Messages as templates take them: an array of objects.
/// `calls_tools`: whether the template knows calls of tools.
pub fn messages(messages: Option<Vec<ChatMessage>>, calls_tools: bool) -> Result<Value, ApiError> {
    let messages = messages.ok_or_else(|| missing("messages"))?;
    if messages.is_empty() || messages.len() > MAX_MESSAGES {
        return Err(ApiError::invalid(
            "messages",
            format!("1 to {MAX_MESSAGES} messages are allowed"),
        ));
    }
    let numbered = messages.into_iter().enumerate();
    let values: Result<_, _> = numbered
        .map(|(index, message)| message_value(index, message, calls_tools))
        .collect();
    values.map(Value::Array)
}

/// The tokens of such messages, with the beginning of an answer if there is to be one. `now`, in seconds since 1970,
/// is the time that a template may print.
pub fn render(
    messages: &Value,
    tools: Option<&Value>,
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    add_generation_prompt: bool,
    now: u64,
) -> Result<Vec<u32>, ApiError> {
    let options = RenderOptions {
        add_generation_prompt,
        tools,
        now: i64::try_from(now).unwrap_or(i64::MAX),
        ..RenderOptions::default()
    };
    let rendered = template.render(messages, &options).map_err(template_error)?;
    Ok(tokenizer.encode_rendered(&rendered))
}

/// Runs what takes long on a thread for that.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ApiError::Internal {
        detail: error.to_string(),
    })?
}

fn check_tokens(tokens: &[u32], vocabulary: usize, context: usize, param: &'static str) -> Result<(), ApiError> {
    if tokens.is_empty() {
        return Err(ApiError::invalid(param, "there is nothing to continue"));
    }
    check_length(tokens.len(), context, param)?;
    check_vocabulary(tokens, vocabulary, param)
}

fn check_length(prompt: usize, context: usize, param: &'static str) -> Result<(), ApiError> {
    if prompt < context {
        return Ok(());
    }
    Err(ApiError::ContextLengthExceeded { param, prompt, context })
}

/// Whether all ids are those of tokens.
pub fn check_vocabulary(tokens: &[u32], vocabulary: usize, param: &str) -> Result<(), ApiError> {
    match tokens.iter().find(|&&token| token as usize >= vocabulary) {
        Some(token) => Err(ApiError::invalid(
            param,
            format!("token id {token} is not in the vocabulary"),
        )),
        None => Ok(()),
    }
}

/// A field that must be there.
pub fn missing(param: &str) -> ApiError {
    ApiError::invalid(param, "it is missing")
}

/// A message as templates know it.
fn message_value(index: usize, message: ChatMessage, calls_tools: bool) -> Result<Value, ApiError> {
    let at = |field: &str| format!("messages[{index}].{field}");
    let role = match message.role.as_str() {
        // The newer name of the same role; templates know the older one.
        "system" | "developer" => "system",
        "user" => "user",
        "assistant" => "assistant",
        // The second is the older name of the same role.
        "tool" | "function" => "tool",
        _ => {
            return Err(ApiError::invalid(
                at("role"),
                "it must be system, developer, user, assistant, tool or function",
            ));
        }
    };
    let mut calls = message.tool_calls.unwrap_or_default();
    let older = message.function_call;
    if older.is_some() && !calls.is_empty() {
        let message = "it is the older form of `tool_calls`; send one of them";
        return Err(ApiError::invalid(at("function_call"), message));
    }
    let field = if older.is_some() { "function_call" } else { "tool_calls" };
    calls.extend(older.map(|function| ToolCall {
        kind: "function".to_owned(),
        function,
        ..ToolCall::default()
    }));
    if !calls.is_empty() && !calls_tools {
        return Err(no_calls(at(field)));
    }
    if calls.len() > MAX_CALLS || !calls.is_empty() && role != "assistant" {
        let message = format!("at most {MAX_CALLS} are allowed, and only of the assistant");
        return Err(ApiError::invalid(at(field), message));
    }
    let content = match message.content {
        Some(content) => content_text(index, content)?,
        // A message of calls alone.
        None if !calls.is_empty() => String::new(),
        None => return Err(ApiError::invalid(at("content"), "it is missing")),
    };
    let mut value = json!({ "role": role, "content": content });
    if !calls.is_empty() {
        let calls = calls.into_iter().enumerate().map(|(number, call)| {
            let at = |part: &str| match field {
                "function_call" => at(&part.replacen("function.", "function_call.", 1)),
                _ => at(&format!("{field}[{number}].{part}")),
            };
            call_value(call, at)
        });
        value["tool_calls"] = calls.collect::<Result<Vec<_>, _>>()?.into();
    }
    for (field, text) in [("name", message.name), ("tool_call_id", message.tool_call_id)] {
        if let Some(text) = text {
            value[field] = Value::String(text);
        }
    }
    Ok(value)
}

/// A call as templates know it: its arguments are JSON and not a text of it.
fn call_value(call: ToolCall, at: impl Fn(&str) -> String) -> Result<Value, ApiError> {
    if call.kind != "function" {
        return Err(ApiError::invalid(at("type"), "it must be function"));
    }
    match serde_json::from_str(&call.function.arguments) {
        Ok(arguments @ Value::Object(_)) => Ok(json!({
            "id": call.id,
            "type": call.kind,
            "function": {"name": call.function.name, "arguments": arguments},
        })),
        _ => Err(ApiError::invalid(
            at("function.arguments"),
            "it must be the text of a JSON object",
        )),
    }
}

fn no_calls(param: String) -> ApiError {
    ApiError::Unsupported {
        param,
        reason: ": the chat template of this model knows no tools, or calls them in a form that is not supported",
    }
}

fn content_text(index: usize, content: Content) -> Result<String, ApiError> {
    let parts = match content {
        Content::Text(text) => return Ok(text),
        Content::Parts(parts) => parts,
    };
    if parts.is_empty() || parts.len() > MAX_PARTS {
        return Err(ApiError::invalid(
            format!("messages[{index}].content"),
            format!("1 to {MAX_PARTS} parts are allowed"),
        ));
    }
    let text = |(number, part): (usize, ContentPart)| {
        let at = |field: &str| format!("messages[{index}].content[{number}].{field}");
        match part {
            ContentPart { kind, text: Some(text) } if kind == "text" => Ok(text),
            ContentPart { kind, text: None } if kind == "text" => Err(missing(&at("text"))),
            _ => Err(ApiError::invalid(
                at("type"),
                "this model takes parts of type `text` only",
            )),
        }
    };
    parts.into_iter().enumerate().map(text).collect()
}

/// A template that fails on messages is the caller's to fix: the words come from the model file.
fn template_error(error: TemplateError) -> ApiError {
    match error {
        TemplateError::Thread(error) => ApiError::Internal {
            detail: format!("no thread for a template: {error}"),
        },
        TemplateError::TooSlow => ApiError::Internal {
            detail: error.to_string(),
        },
        error => ApiError::invalid("messages", shortened(&error.to_string(), MAX_QUOTED_BYTES)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(messages: Value) -> Result<Value, String> {
        let mut request: GenerateRequest = serde_json::from_value(json!({ "messages": messages })).unwrap();
        match Input::chat(&mut request, None, true) {
            Ok(Input::Chat(messages, None)) => Ok(messages),
            Ok(other) => unreachable!("{other:?}"),
            Err(error) => Err(error.body().error.param.unwrap_or_default()),
        }
    }

    fn call(arguments: &str) -> Value {
        json!({"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}})
    }

    #[test]
    fn tools_and_calls_need_a_template_that_knows_them() {
        let messages = json!([{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [call("{}")]}]);
        let tools = json!([{"type": "function", "function": {"name": "f"}}]);
        let mut request: GenerateRequest =
            serde_json::from_value(json!({"messages": messages, "tools": tools})).unwrap();
        let tools = Tools::new(&mut request).unwrap();
        for (tools, param) in [(tools.as_ref(), "tools"), (None, "messages[1].tool_calls")] {
            let error = Input::chat(&mut request.clone(), tools, false)
                .unwrap_err()
                .body()
                .error;
            assert_eq!(error.param.as_deref(), Some(param));
            assert_eq!(error.code.as_deref(), Some("unsupported_parameter"));
        }
        let input = Input::chat(&mut request, tools.as_ref(), true).unwrap();
        assert!(matches!(input, Input::Chat(_, Some(tools)) if tools[0]["function"]["name"] == "f"));
    }

    fn completion(prompt: Value) -> Result<Input, String> {
        let mut request: GenerateRequest = serde_json::from_value(json!({ "prompt": prompt })).unwrap();
        Input::completion(&mut request).map_err(|error| error.body().error.param.unwrap_or_default())
    }

    #[test]
    fn roles_and_parts_become_what_templates_know() {
        let messages = chat(json!([
            {"role": "developer", "content": "d"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "n"},
            {"role": "assistant", "content": "", "tool_calls": []},
            {"role": "assistant", "tool_calls": [call(r#"{"a": 1}"#)]},
            {"role": "tool", "content": "t", "tool_call_id": "1"},
            {"role": "assistant", "content": null, "function_call": {"name": "g", "arguments": "{}"}},
            {"role": "function", "content": "r", "name": "g"},
        ]));
        let expected = json!([
            {"role": "system", "content": "d"},
            {"role": "user", "content": "ab", "name": "n"},
            {"role": "assistant", "content": ""},
            {"role": "assistant", "content": "", "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}},
            ]},
            {"role": "tool", "content": "t", "tool_call_id": "1"},
            {"role": "assistant", "content": "", "tool_calls": [
                {"id": "", "type": "function", "function": {"name": "g", "arguments": {}}},
            ]},
            {"role": "tool", "content": "r", "name": "g"},
        ]);
        assert_eq!(messages, Ok(expected));
    }

    #[test]
    fn the_message_at_fault_is_named() {
        let ok = json!({"role": "user", "content": "a"});
        for (bad, param) in [
            (json!({"role": "root", "content": "a"}), "messages[1].role"),
            (json!({"role": "user"}), "messages[1].content"),
            (json!({"role": "user", "content": []}), "messages[1].content"),
            (
                json!({"role": "user", "content": [{"type": "text"}]}),
                "messages[1].content[0].text",
            ),
            (
                json!({"role": "user", "content": [{"type": "image_url"}]}),
                "messages[1].content[0].type",
            ),
            (
                json!({"role": "user", "content": "", "tool_calls": [call("{}")]}),
                "messages[1].tool_calls",
            ),
            (
                json!({"role": "assistant", "tool_calls": vec![call("{}"); MAX_CALLS + 1]}),
                "messages[1].tool_calls",
            ),
            (
                json!({"role": "assistant", "tool_calls": [call("{}"), call("[]")]}),
                "messages[1].tool_calls[1].function.arguments",
            ),
            (
                json!({"role": "assistant", "tool_calls": [call("{")]}),
                "messages[1].tool_calls[0].function.arguments",
            ),
            (
                json!({"role": "assistant", "function_call": {"name": "f", "arguments": "{"}}),
                "messages[1].function_call.arguments",
            ),
            (
                json!({"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}, "tool_calls": [call("{}")]}),
                "messages[1].function_call",
            ),
            (
                json!({"role": "user", "content": "", "function_call": {"name": "f", "arguments": "{}"}}),
                "messages[1].function_call",
            ),
        ] {
            assert_eq!(chat(json!([ok, bad])), Err(param.to_owned()), "{bad}");
        }
        assert_eq!(chat(json!([])), Err("messages".into()));
        assert_eq!(chat(Value::Array(vec![ok; MAX_MESSAGES + 1])), Err("messages".into()));
        assert_eq!(chat(Value::Null), Err("messages".into()));
    }

    #[test]
    fn one_prompt_or_several_are_taken_and_none_or_too_many_are_refused() {
        assert_eq!(completion(json!("a")), Ok(Input::Texts(vec!["a".into()])));
        assert_eq!(completion(json!(["a"])), Ok(Input::Texts(vec!["a".into()])));
        assert_eq!(completion(json!([1, 2])), Ok(Input::Tokens(vec![vec![1, 2]])));
        assert_eq!(completion(json!([[1], [2]])).map(|input| input.prompts()), Ok(2));
        for bad in [json!([]), json!(vec!["a"; MAX_PROMPTS + 1]), Value::Null] {
            assert_eq!(completion(bad), Err("prompt".into()));
        }
    }

    #[test]
    fn a_suffix_belongs_to_texts_and_an_empty_one_asks_for_nothing() {
        let input = |body: Value| {
            let mut request: GenerateRequest = serde_json::from_value(body).unwrap();
            let input = match request.messages {
                Some(_) => Input::chat(&mut request, None, true),
                None => Input::completion(&mut request),
            };
            input.map_err(|error| error.body().error.param.unwrap_or_default())
        };
        let hole = Input::Holes(vec!["a".into(), "b".into()], "c".into());
        assert_eq!(hole.prompts(), 2);
        assert_eq!(input(json!({"prompt": ["a", "b"], "suffix": "c"})), Ok(hole));
        let plain = Ok(Input::Texts(vec!["a".into()]));
        assert_eq!(input(json!({"prompt": "a", "suffix": ""})), plain);
        assert_eq!(input(json!({"prompt": "a", "suffix": null})), plain);
        assert_eq!(input(json!({"prompt": [1], "suffix": "c"})), Err("suffix".into()));
        let messages = json!([{"role": "user", "content": "a"}]);
        assert_eq!(
            input(json!({"messages": messages, "suffix": "c"})),
            Err("suffix".into())
        );
        assert!(input(json!({"messages": messages, "suffix": ""})).is_ok());
    }

    #[test]
    fn tokens_are_checked_before_the_engine_sees_them() {
        let check = |tokens: &[u32]| check_tokens(tokens, 10, 4, "prompt").map_err(|e| e.body().error.code.unwrap());
        assert_eq!(check(&[9, 0, 1]), Ok(()));
        assert_eq!(check(&[]), Err("invalid_value".into()));
        assert_eq!(check(&[10]), Err("invalid_value".into()));
        assert_eq!(check(&[u32::MAX]), Err("invalid_value".into()));
        assert_eq!(check(&[1, 1, 1, 1]), Err("context_length_exceeded".into()));
    }
}
