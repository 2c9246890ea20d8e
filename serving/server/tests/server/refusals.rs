//! What is wrong is refused with a status, a code and the field at fault, and harms nobody.
use crate::client::{Connection, ask, post};
use crate::process::Server;
use serde_json::{Value, json};

#[test]
fn every_bad_value_is_a_400_that_names_its_field() {
    let server = Server::start(&["--context-length", "256"]);
    let numbers = [
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "top_k",
        "seed",
        "n",
        "min_p",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "min_tokens",
    ];
    let mut bodies: Vec<(String, &str)> = Vec::new();
    for name in numbers {
        for value in [
            "1e309",
            "-1e309",
            "NaN",
            "\"5\"",
            "[]",
            "{}",
            "true",
            "99999999999999999999",
        ] {
            bodies.push((format!(r#"{{"prompt":"a","{name}":{value}}}"#), name));
        }
    }
    for name in ["max_tokens", "max_completion_tokens", "n"] {
        for value in [
            "-1",
            "0",
            "9007199254740993",
            "-9223372036854775808",
            "18446744073709551615",
            "1.5",
        ] {
            bodies.push((format!(r#"{{"prompt":"a","{name}":{value}}}"#), name));
        }
    }
    for (field, name) in [
        (r#""max_tokens":257"#, "max_tokens"),
        (r#""temperature":2.01"#, "temperature"),
        (r#""top_p":-0.1"#, "top_p"),
        (r#""top_k":-2"#, "top_k"),
        (r#""stop":["a","b","c","d","e"]"#, "stop"),
        (r#""stop":"""#, "stop"),
        (r#""stream":1"#, "stream"),
        (r#""stream_options":{}"#, "stream_options"),
        (r#""logprobs":6"#, "logprobs"),
        (r#""logprobs":-1"#, "logprobs"),
        (r#""logprobs":1000000000"#, "logprobs"),
        (r#""logprobs":1,"echo":true,"suffix":"a""#, "echo"),
        (r#""max_tokens":-1,"echo":true"#, "max_tokens"),
        (r#""max_tokens":257,"echo":true"#, "max_tokens"),
        (r#""top_logprobs":1"#, "top_logprobs"),
        (r#""top_logprobs":-1"#, "top_logprobs"),
        (r#""echo":1"#, "echo"),
        (r#""skip_special_tokens":"no""#, "skip_special_tokens"),
        (r#""include_stop_str_in_output":1"#, "include_stop_str_in_output"),
        (r#""best_of":1000000000"#, "best_of"),
        (r#""frequency_penalty":2.1"#, "frequency_penalty"),
        (r#""presence_penalty":-2.1"#, "presence_penalty"),
        (r#""repetition_penalty":0"#, "repetition_penalty"),
        (r#""min_p":1.1"#, "min_p"),
        (r#""min_tokens":17"#, "min_tokens"),
        (r#""max_tokens":4,"min_tokens":5"#, "min_tokens"),
        (r#""logit_bias":{"5":101}"#, "logit_bias"),
        (r#""logit_bias":{"4294967295":1}"#, "logit_bias"),
        (r#""logit_bias":{"5":"1"}"#, "logit_bias.5"),
        (r#""logit_bias":[1]"#, "logit_bias"),
        (r#""stop_token_ids":[4294967295]"#, "stop_token_ids"),
        (r#""stop_token_ids":[-1]"#, "stop_token_ids[0]"),
        (r#""stop_token_ids":5"#, "stop_token_ids"),
        (
            r#""chat_template":"{% for a in range(1000000000) %}{% endfor %}""#,
            "chat_template",
        ),
        (r#""chat_template_kwargs":{"a":1}"#, "chat_template_kwargs"),
        (r#""n":129"#, "n"),
        (r#""n":1000000000"#, "n"),
        (r#""n":1e9"#, "n"),
        (r#""n":2,"best_of":3"#, "best_of"),
    ] {
        bodies.push((format!(r#"{{"prompt":"a",{field}}}"#), name));
    }
    for prompt in [
        "-1",
        "[-1]",
        "[4294967295]",
        "[4294967296]",
        "[1.5]",
        "[]",
        "[[]]",
        "[[],[1]]",
        "{}",
        "null",
        "[null]",
    ] {
        bodies.push((format!(r#"{{"prompt":{prompt}}}"#), "prompt"));
    }
    bodies.push(("{}".to_owned(), "prompt"));

    let mut connection = Connection::open(server.address);
    for (body, param) in &bodies {
        connection.post("/v1/completions", body);
        let (head, answer) = connection.answer();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(
            (head.status, answer["error"]["param"].as_str()),
            (400, Some(*param)),
            "{body}: {answer}"
        );
        assert_eq!(answer["error"]["type"], "invalid_request_error");
        assert!(answer["error"]["message"].as_str().unwrap().len() < 500, "{answer}");
    }
    // All on one connection, and the server still answers.
    connection.post("/v1/completions", r#"{"prompt":"a","max_tokens":1}"#);
    assert_eq!(connection.answer().0.status, 200);
}

#[test]
fn bad_messages_are_refused_by_place() {
    let server = Server::start(&[]);
    for (messages, param) in [
        (json!([]), "messages"),
        (json!("hi"), "messages"),
        (json!([{"role": "root", "content": "a"}]), "messages[0].role"),
        (
            json!([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
            "messages[0].content[0].type",
        ),
        (json!([{"role": "user", "content": 5}]), "messages[0].content"),
    ] {
        let (head, answer) = post(server.address, "/v1/chat/completions", &json!({"messages": messages}));
        assert_eq!(
            (head.status, answer["error"]["param"].as_str()),
            (400, Some(param)),
            "{answer}"
        );
    }
}

#[test]
fn too_long_a_prompt_says_how_long_it_may_be() {
    let server = Server::start(&["--context-length", "128"]);
    let long = "word ".repeat(1000);
    for (path, body) in [
        ("/v1/completions", json!({"prompt": long})),
        (
            "/v1/chat/completions",
            json!({"messages": [{"role": "user", "content": long}], "stream": true}),
        ),
    ] {
        let (head, answer) = post(server.address, path, &body);
        assert_eq!(
            (head.status, &answer["error"]["code"]),
            (400, &json!("context_length_exceeded"))
        );
        assert!(answer["error"]["message"].as_str().unwrap().contains("128"), "{answer}");
    }
    // A prompt that fits gets what is left of the context.
    let answer = ask(
        server.address,
        "/v1/completions",
        &json!({"prompt": "a", "max_tokens": 128, "ignore_eos": true}),
    );
    assert_eq!(answer["usage"]["total_tokens"], 128);
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
}

#[test]
fn unknown_models_routes_methods_and_media_types_have_their_own_status() {
    let server = Server::start(&[]);
    let json_type = "content-type: application/json\r\n";
    let other_model = br#"{"model":"gpt-4","prompt":"a"}"#;
    let mut connection = Connection::open(server.address);
    for (request, status, code) in [
        (
            ("POST", "/v1/completions", json_type, other_model.as_slice()),
            404,
            "model_not_found",
        ),
        (("POST", "/v1/nothing", json_type, b"{}"), 404, "unknown_url"),
        (("GET", "/", "", b""), 404, "unknown_url"),
        (("GET", "/v1/completions", "", b""), 405, "method_not_allowed"),
        (("DELETE", "/v1/models", "", b""), 405, "method_not_allowed"),
        (
            ("POST", "/v1/completions", "content-type: text/plain\r\n", b"{}"),
            415,
            "unsupported_media_type",
        ),
        (("POST", "/v1/completions", "", b"{}"), 415, "unsupported_media_type"),
        (("POST", "/v1/completions", json_type, b"{"), 400, "invalid_json"),
        (("POST", "/v1/completions", json_type, b""), 400, "invalid_json"),
        (("POST", "/v1/completions", json_type, b"\xFF"), 400, "invalid_json"),
    ] {
        let (method, path, headers, body) = request;
        connection.send(method, path, headers, body);
        let (head, answer) = connection.answer();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(
            (head.status, answer["error"]["code"].as_str()),
            (status, Some(code)),
            "{method} {path}"
        );
    }
}

#[test]
fn a_body_that_is_too_large_is_refused_before_it_is_read() {
    let server = Server::start(&[]);
    let mut connection = Connection::open(server.address);
    connection.write(
        b"POST /v1/completions HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ncontent-length: 1000000000\r\n\r\n",
    );
    let (head, answer) = connection.answer();
    assert_eq!(head.status, 413, "{answer}");
}

#[test]
fn a_request_id_is_ours_and_never_the_callers() {
    let server = Server::start(&[]);
    let mut connection = Connection::open(server.address);
    connection.write(b"GET /v1/models HTTP/1.1\r\nhost: t\r\nx-request-id: mine\r\n\r\n");
    let first = connection.answer().0;
    let second = connection.get("/v1/models").0;
    let id = first.header("x-request-id").unwrap();
    assert!(
        id.starts_with("req-") && second.header("x-request-id") != Some(id),
        "{id}"
    );
    drop(connection);
    server.terminate();
    let (_, log) = server.wait();
    assert!(
        log.contains(&format!("request=\"{id}\"")) || log.contains(id),
        "the log knows the id:\n{log}"
    );
    assert!(!log.contains("mine"));
}

#[test]
fn prompts_and_answers_are_not_in_the_log() {
    let server = Server::start(&[]);
    let secret = "xylophone-4711";
    let requests = [
        json!({"prompt": secret, "max_tokens": 4}),
        json!({"prompt": secret, "max_tokens": secret}),
        json!({"prompt": secret, "model": secret}),
        json!({"prompt": [secret, 5]}),
    ];
    for request in &requests {
        post(server.address, "/v1/completions", request);
    }
    Connection::open(server.address).get(&format!("/{secret}"));
    server.terminate();
    let (_, log) = server.wait();
    assert!(log.contains("/v1/completions"), "{log}");
    assert!(!log.contains(secret), "{log}");
}
