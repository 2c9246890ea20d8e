//! Text to tokens and back: the tokens that the other routes compute.
use crate::client::{Connection, ask, post};
use crate::process::Server;
use serde_json::{Value, json};

fn tokens(server: &Server, body: &Value) -> Value {
    let answer = ask(server.address, "/tokenize", body);
    let tokens = answer["tokens"].as_array().expect("an array");
    assert_eq!(answer["count"], tokens.len(), "{answer}");
    answer
}

#[test]
fn tokens_are_those_of_a_completion_and_come_back_as_the_text() {
    let server = Server::start(&["--context-length", "512"]);
    let text = "Günther's 3 cats 😀 <|im_end|>\n";
    let answer = tokens(&server, &json!({"model": "smol", "prompt": text}));
    assert_eq!(
        (&answer["max_model_len"], &answer["token_strs"]),
        (&json!(512), &Value::Null)
    );
    let asked = |prompt: &Value| {
        ask(
            server.address,
            "/v1/completions",
            &json!({"prompt": prompt, "max_tokens": 1}),
        )
    };
    let usage = asked(&json!(text))["usage"]["prompt_tokens"].clone();
    assert_eq!(answer["count"], usage);
    assert_eq!(
        ask(server.address, "/detokenize", &json!({"tokens": answer["tokens"]})),
        json!({ "prompt": text })
    );
    let named = tokens(
        &server,
        &json!({"prompt": " two", "return_token_strs": true, "add_special_tokens": false}),
    );
    assert_eq!(named["token_strs"], json!(["Ġtwo"]));
    assert_eq!(tokens(&server, &json!({"prompt": ""}))["count"], 0);
    assert_eq!(
        ask(server.address, "/detokenize", &json!({"tokens": []})),
        json!({"prompt": ""})
    );
    // Longer than the context: counting is what this route is for.
    assert!(tokens(&server, &json!({"prompt": "word ".repeat(600)}))["count"].as_u64() > Some(512));
}

#[test]
fn messages_are_rendered_as_a_chat_renders_them() {
    let server = Server::start(&[]);
    let messages = json!([{"role": "user", "content": "Hello <|im_end|>"}]);
    let answer = tokens(&server, &json!({ "messages": messages }));
    let chat = ask(
        server.address,
        "/v1/chat/completions",
        &json!({"messages": messages, "max_tokens": 1}),
    );
    assert_eq!(answer["count"], chat["usage"]["prompt_tokens"]);
    let whole = ask(server.address, "/detokenize", &json!({"tokens": answer["tokens"]}));
    assert!(
        whole["prompt"].as_str().unwrap().ends_with("<|im_start|>assistant\n"),
        "{whole}"
    );
    let open = tokens(&server, &json!({"messages": messages, "add_generation_prompt": false}));
    assert!(open["count"].as_u64() < answer["count"].as_u64());
}

#[test]
fn what_is_wrong_is_refused_by_name() {
    let server = Server::start(&[]);
    let messages = json!([{"role": "user", "content": "a"}]);
    for (path, body, param) in [
        ("/tokenize", json!({}), "prompt"),
        ("/tokenize", json!({"prompt": 5}), "prompt"),
        ("/tokenize", json!({"prompt": "a", "messages": messages}), "messages"),
        ("/tokenize", json!({"messages": []}), "messages"),
        (
            "/tokenize",
            json!({"messages": [{"role": "root", "content": "a"}]}),
            "messages[0].role",
        ),
        (
            "/tokenize",
            json!({"messages": messages, "add_special_tokens": true}),
            "add_special_tokens",
        ),
        (
            "/tokenize",
            json!({"messages": messages, "chat_template": "x"}),
            "chat_template",
        ),
        (
            "/tokenize",
            json!({"prompt": "a", "return_token_strs": 1}),
            "return_token_strs",
        ),
        ("/detokenize", json!({}), "tokens"),
        ("/detokenize", json!({"tokens": "a"}), "tokens"),
        ("/detokenize", json!({"tokens": [-1]}), "tokens[0]"),
        ("/detokenize", json!({"tokens": [u32::MAX]}), "tokens"),
        ("/detokenize", json!({"tokens": vec![1; (1 << 18) + 1]}), "tokens"),
        ("/tokenize", json!({"prompt": "7".repeat((1 << 18) + 1)}), "prompt"),
    ] {
        let (head, answer) = post(server.address, path, &body);
        assert_eq!(
            (head.status, answer["error"]["param"].as_str()),
            (400, Some(param)),
            "{path} {:.100}: {answer}",
            body.to_string()
        );
    }
    let (head, _) = post(server.address, "/tokenize", &json!({"model": "other", "prompt": "a"}));
    assert_eq!(head.status, 404);
    for path in ["/tokenize", "/detokenize"] {
        let mut connection = Connection::open(server.address);
        let head = format!("POST {path} HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\n");
        connection.write(format!("{head}content-length: 1000000000\r\n\r\n").as_bytes());
        assert_eq!(connection.answer().0.status, 413, "{path}");
    }
}
