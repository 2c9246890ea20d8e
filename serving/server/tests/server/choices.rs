//! Several answers to one prompt, answers that begin with their prompt, and what of a text is shown.
use crate::client::{ask, post, stream};
use crate::process::{Server, until};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const COMPLETIONS: &str = "/v1/completions";

fn with(request: &Value, fields: Value) -> Value {
    let mut request = request.clone();
    for (name, value) in fields.as_object().expect("an object") {
        request[name] = value.clone();
    }
    request
}

fn text(answer: &Value, choice: usize) -> &str {
    answer["choices"][choice]["text"].as_str().expect("a text")
}

#[test]
fn n_answers_differ_by_seed_alone_and_the_prompt_is_computed_once() {
    let server = Server::start(&[]);
    let words = "The quick brown fox jumps over the lazy dog. ".repeat(12);
    let request = json!({"prompt": words, "temperature": 1, "seed": 5, "max_tokens": 12, "ignore_eos": true});
    let four = ask(
        server.address,
        COMPLETIONS,
        &with(&request, json!({"n": 4, "best_of": 4})),
    );
    let texts: BTreeSet<&str> = (0..4).map(|choice| text(&four, choice)).collect();
    assert_eq!(
        (texts.len(), four["choices"].as_array().unwrap().len()),
        (4, 4),
        "{four}"
    );
    let prompt_tokens = four["usage"]["prompt_tokens"].as_f64().unwrap();
    let computed = server.metric("vllm:prompt_tokens_total");
    assert!(
        computed < 1.0 + prompt_tokens + 4.0 * 32.0,
        "{computed} prompt tokens were computed, for one prompt of {prompt_tokens}"
    );
    for choice in 0..4 {
        let alone = ask(
            server.address,
            COMPLETIONS,
            &with(&request, json!({"seed": 5 + choice})),
        );
        assert_eq!(text(&alone, 0), text(&four, choice), "choice {choice}");
        assert_eq!(alone["usage"]["prompt_tokens"], four["usage"]["prompt_tokens"]);
    }
    assert_eq!(four["usage"]["completion_tokens"], 48);

    let two = with(
        &request,
        json!({"n": 2, "prompt": [words, "One, two,"], "stream": true}),
    );
    let whole = ask(server.address, COMPLETIONS, &with(&two, json!({"stream": false})));
    assert_eq!([text(&whole, 0), text(&whole, 1)], [text(&four, 0), text(&four, 1)]);
    let events = stream(
        server.address,
        COMPLETIONS,
        &with(&two, json!({"stream_options": {"include_usage": true}})),
    );
    for choice in 0..4 {
        let streamed: String = events
            .iter()
            .filter(|event| event["choices"][0]["index"] == choice)
            .filter_map(|event| event["choices"][0]["text"].as_str())
            .collect();
        assert_eq!(streamed, text(&whole, choice), "choice {choice}");
    }
    let usage = &events.last().unwrap()["usage"];
    assert_eq!(usage["prompt_tokens"], whole["usage"]["prompt_tokens"]);
}

#[test]
fn places_are_taken_for_all_answers_or_for_none() {
    let server = Server::start(&["--max-sequences", "2", "--queue", "2"]);
    let (head, answer) = post(server.address, COMPLETIONS, &json!({"prompt": "a", "n": 5}));
    assert_eq!((head.status, &answer["error"]["param"]), (400, &json!("n")), "{answer}");
    let (head, answer) = post(server.address, COMPLETIONS, &json!({"prompt": "a", "n": 1_000_000_000}));
    assert_eq!((head.status, &answer["error"]["param"]), (400, &json!("n")), "{answer}");

    let long = json!({"prompt": "a", "max_tokens": 2000, "ignore_eos": true, "stream": true, "n": 3});
    let mut busy = crate::client::Connection::open(server.address);
    busy.post(COMPLETIONS, &long.to_string());
    until("two run and one waits", || {
        server.metric("vllm:num_requests_running") == 2.0 && server.metric("vllm:num_requests_waiting") == 1.0
    });
    let (head, answer) = post(server.address, COMPLETIONS, &json!({"prompt": "a", "n": 2}));
    assert_eq!((head.status, &answer["error"]["code"]), (429, &json!("queue_full")));
    drop(busy);
    until("all are gone", || {
        server.metric("vllm:num_requests_running") + server.metric("vllm:num_requests_waiting") == 0.0
    });
    let four = ask(
        server.address,
        COMPLETIONS,
        &json!({"prompt": "a", "n": 4, "max_tokens": 1}),
    );
    assert_eq!(four["choices"].as_array().unwrap().len(), 4);
}

#[test]
fn an_echo_puts_the_prompt_before_the_answer() {
    let server = Server::start(&[]);
    let request = json!({"prompt": "One, two, three,", "temperature": 0, "max_tokens": 8});
    let plain = ask(server.address, COMPLETIONS, &request);
    let expected = format!("One, two, three,{}", text(&plain, 0));
    let echo = ask(server.address, COMPLETIONS, &with(&request, json!({"echo": true})));
    assert_eq!(
        (text(&echo, 0), &echo["usage"]["completion_tokens"]),
        (expected.as_str(), &json!(8))
    );
    let events = stream(
        server.address,
        COMPLETIONS,
        &with(&request, json!({"echo": true, "stream": true})),
    );
    let streamed: String = events
        .iter()
        .filter_map(|event| event["choices"][0]["text"].as_str())
        .collect();
    assert_eq!(streamed, expected);
    // A stop text in the prompt ends nothing.
    let stopped = ask(
        server.address,
        COMPLETIONS,
        &with(&request, json!({"echo": true, "stop": "One"})),
    );
    assert_eq!(text(&stopped, 0), expected);
    let tokens = ask(
        server.address,
        COMPLETIONS,
        &json!({"prompt": [65, 66], "echo": true, "max_tokens": 1}),
    );
    assert!(text(&tokens, 0).len() > 1, "{tokens}");
    let (head, answer) = post(
        server.address,
        "/v1/chat/completions",
        &json!({"messages": [{"role": "user", "content": "a"}], "echo": true}),
    );
    assert_eq!((head.status, &answer["error"]["param"]), (400, &json!("echo")));
}

#[test]
fn stop_texts_and_control_tokens_are_shown_on_demand() {
    let server = Server::start(&[]);
    let request = json!({"prompt": "One, two, three,", "temperature": 0, "max_tokens": 16, "stop": "seven"});
    let without = ask(server.address, COMPLETIONS, &request);
    let shown = ask(
        server.address,
        COMPLETIONS,
        &with(&request, json!({"include_stop_str_in_output": true})),
    );
    assert_eq!(text(&shown, 0), format!("{}seven", text(&without, 0)));

    // Token 2 of this model is `<|im_end|>`.
    let forced =
        json!({"prompt": "a", "logit_bias": {"2": 100}, "ignore_eos": true, "max_tokens": 2, "temperature": 0});
    assert_eq!(text(&ask(server.address, COMPLETIONS, &forced), 0), "");
    let shown = ask(
        server.address,
        COMPLETIONS,
        &with(&forced, json!({"skip_special_tokens": false})),
    );
    assert_eq!(text(&shown, 0), "<|im_end|><|im_end|>");
}
