//! The shapes of replies and events.
use super::*;
use crate::tool_calls::add_calls;
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
