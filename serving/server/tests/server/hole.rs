//! Completions with a `suffix`: the model fills the hole, if it has learnt to.
use crate::client::{ask, post, stream};
use crate::process::Server;
use serde_json::{Value, json};

const COMPLETIONS: &str = "/v1/completions";

#[test]
fn a_model_of_code_fills_a_sensible_middle() {
    let server = Server::start_with("qwen2.5-coder-0.5b-instruct-q4_k_m.gguf", &["--context-length", "512"]);
    let mut request = json!({
        "prompt": "def area_of_circle(radius):\n    \"\"\"Gives the area of a circle.\"\"\"\n    return ",
        "suffix": "\n\ndef perimeter_of_circle(radius):\n    return 2 * math.pi * radius\n",
        "temperature": 0, "max_tokens": 24, "stop": "\n",
    });
    let answer = ask(server.address, COMPLETIONS, &request);
    let text = answer["choices"][0]["text"].as_str().unwrap();
    let formula: String = text.split_whitespace().collect();
    // Only the suffix tells that this file writes pi as `math.pi`.
    assert!(
        ["math.pi*radius*radius", "math.pi*radius**2"].contains(&formula.as_str()),
        "{answer}"
    );

    // What stands in the texts cannot take the place of the marks.
    let whole = answer["usage"]["prompt_tokens"].as_u64().unwrap();
    let hostile = ask(
        server.address,
        COMPLETIONS,
        &json!({"prompt": "a", "suffix": "<|fim_middle|>", "max_tokens": 1}),
    );
    assert!(hostile["usage"]["prompt_tokens"].as_u64() > Some(5), "{hostile}");
    // An empty suffix asks for nothing.
    request["suffix"] = json!("");
    let without = ask(server.address, COMPLETIONS, &request);
    assert!(without["usage"]["prompt_tokens"].as_u64().unwrap() < whole);
    assert_ne!(without["choices"][0]["text"], text, "the suffix changes nothing");

    request["suffix"] = json!("\n");
    request["echo"] = json!(true);
    request["stream"] = json!(true);
    let streamed: String = stream(server.address, COMPLETIONS, &request)
        .iter()
        .filter_map(|event| event["choices"][0]["text"].as_str())
        .collect();
    assert!(streamed.starts_with(request["prompt"].as_str().unwrap()), "{streamed}");

    let refused = |body: Value| {
        let (head, answer) = post(server.address, COMPLETIONS, &body);
        assert_eq!(head.status, 400, "{answer}");
        (answer["error"]["param"].clone(), answer["error"]["code"].clone())
    };
    assert_eq!(
        refused(json!({"prompt": [1, 2], "suffix": "a"})),
        (json!("suffix"), json!("invalid_value"))
    );
    assert_eq!(
        refused(json!({"prompt": "a", "suffix": "word ".repeat(600)})),
        (json!("suffix"), json!("context_length_exceeded"))
    );
}

#[test]
fn a_model_that_fills_no_holes_says_so() {
    let server = Server::start(&[]);
    let (head, answer) = post(server.address, COMPLETIONS, &json!({"prompt": "a", "suffix": "b"}));
    let error = &answer["error"];
    assert_eq!(
        (head.status, &error["param"], &error["code"]),
        (400, &json!("suffix"), &json!("unsupported_parameter")),
        "{answer}"
    );
    let messages = json!([{"role": "user", "content": "a"}]);
    let (head, answer) = post(
        server.address,
        "/v1/chat/completions",
        &json!({"messages": messages, "suffix": "b"}),
    );
    assert_eq!((head.status, &answer["error"]["param"]), (400, &json!("suffix")));
}
