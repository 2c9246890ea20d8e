//! A bounded queue: what does not fit is told to come back, and what waits gets its turn.
use crate::client::{Connection, ask, post};
use crate::process::{Server, until};
use serde_json::json;

#[test]
fn a_full_queue_answers_429_with_retry_after_and_recovers() {
    let server = Server::start(&["--max-sequences", "1", "--queue", "1"]);
    let long = json!({"prompt": "a", "max_tokens": 2000, "ignore_eos": true, "stream": true}).to_string();
    let mut running = Connection::open(server.address);
    running.post("/v1/completions", &long);
    until("one runs", || server.metric("vllm:num_requests_running") == 1.0);
    let mut waiting = Connection::open(server.address);
    waiting.post("/v1/completions", &long);
    until("one waits", || server.metric("vllm:num_requests_waiting") == 1.0);

    let (head, answer) = post(server.address, "/v1/completions", &json!({"prompt": "a"}));
    assert_eq!((head.status, &answer["error"]["code"]), (429, &json!("queue_full")));
    assert!(head.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);

    drop(running);
    drop(waiting);
    until("both are gone", || {
        server.metric("vllm:num_requests_running") + server.metric("vllm:num_requests_waiting") == 0.0
    });
    ask(
        server.address,
        "/v1/completions",
        &json!({"prompt": "a", "max_tokens": 1}),
    );
}

#[test]
fn more_prompts_than_places_can_never_fit() {
    let server = Server::start(&["--max-sequences", "1", "--queue", "1"]);
    let (head, answer) = post(server.address, "/v1/completions", &json!({"prompt": ["a", "b", "c"]}));
    assert_eq!(
        (head.status, &answer["error"]["param"]),
        (400, &json!("prompt")),
        "{answer}"
    );
}
