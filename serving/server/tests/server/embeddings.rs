//! `/v1/embeddings` over HTTP: vectors in both formats, limits, and what each kind of model refuses.
use crate::client::{Connection, ask, post};
use crate::process::{Server, until};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

const EMBEDDER: &str = "all-MiniLM-L6-v2";

const PATH: &str = "/v1/embeddings";

fn floats(embedding: &Value) -> Vec<f32> {
    let number = |x: &Value| x.as_f64().expect("a number") as f32;
    embedding.as_array().expect("an array").iter().map(number).collect()
}

fn decoded(embedding: &Value) -> Vec<f32> {
    let bytes = STANDARD.decode(embedding.as_str().expect("a text")).expect("base64");
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|&four| f32::from_le_bytes(four))
        .collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

#[test]
fn texts_and_tokens_give_the_same_vectors_in_both_formats() {
    let server = Server::start_with(EMBEDDER, &[]);
    let texts = json!([
        "A man is eating food.",
        "Someone has a meal.",
        "The rocket left the orbit of Mars."
    ]);
    let answer = ask(server.address, PATH, &json!({"model": "smol", "input": texts}));
    assert_eq!((&answer["object"], &answer["model"]), (&json!("list"), &json!("smol")));
    let vectors: Vec<Vec<f32>> = (0..3)
        .map(|index| {
            let item = &answer["data"][index];
            assert_eq!((&item["object"], &item["index"]), (&json!("embedding"), &json!(index)));
            floats(&item["embedding"])
        })
        .collect();
    assert!(
        vectors
            .iter()
            .all(|vector| vector.len() == 384 && (cosine(vector, vector) - 1.0).abs() < 1e-5)
    );
    assert!(cosine(&vectors[0], &vectors[1]) > 0.5 && cosine(&vectors[0], &vectors[2]) < 0.2);
    assert_eq!(answer["usage"]["prompt_tokens"], answer["usage"]["total_tokens"]);

    let encoded = ask(
        server.address,
        PATH,
        &json!({"input": texts, "encoding_format": "base64", "dimensions": 384}),
    );
    for (index, vector) in vectors.iter().enumerate() {
        assert_eq!(&decoded(&encoded["data"][index]["embedding"]), vector);
    }
    let one = ask(
        server.address,
        PATH,
        &json!({"input": texts[1], "encoding_format": "float"}),
    );
    assert_eq!(floats(&one["data"][0]["embedding"]), vectors[1], "alone as in company");
    // [CLS] hello [SEP]
    let tokens = ask(
        server.address,
        PATH,
        &json!({"input": [[101, 7592, 102], [101, 7592, 102]]}),
    );
    let text = ask(server.address, PATH, &json!({"input": "Hello"}));
    assert_eq!(tokens["data"][1]["embedding"], text["data"][0]["embedding"]);
    assert_eq!(
        (&tokens["usage"]["prompt_tokens"], &text["usage"]["prompt_tokens"]),
        (&json!(6), &json!(3))
    );

    assert!(server.metric("vllm:prompt_tokens_total") >= 6.0);
    assert_eq!(server.metric("vllm:num_requests_waiting"), 0.0);
    assert_eq!(server.metric("vllm:request_success_total"), 5.0);
    let (head, models) = Connection::open(server.address).get("/v1/models");
    assert_eq!(head.status, 200);
    let models: Value = serde_json::from_str(&models).expect("JSON");
    assert_eq!(models["data"][0]["max_model_len"], 256);
    server.terminate();
    assert!(server.wait().0.success());
}

#[test]
fn int8_vectors_are_near_those_of_f32() {
    let request = json!({"input": ["What is the weather like on the coast?", "Bread and butter."]});
    let [f32s, int8s] = ["f32", "int8"].map(|precision| {
        let server = Server::start_with(EMBEDDER, &["--embedding-precision", precision]);
        let answer = ask(server.address, PATH, &request);
        [0, 1].map(|index| floats(&answer["data"][index]["embedding"]))
    });
    for (a, b) in f32s.iter().zip(&int8s) {
        assert!((0.995..0.99999).contains(&cosine(a, b)), "{}", cosine(a, b));
    }
}

#[test]
fn what_cannot_be_embedded_is_refused_by_name() {
    let server = Server::start_with(EMBEDDER, &[]);
    let long = "word ".repeat(300);
    for (request, param) in [
        (json!({}), "input"),
        (json!({"input": []}), "input"),
        (json!({"input": vec!["a"; 2049]}), "input"),
        (json!({"input": ["a", long]}), "input[1]"),
        (json!({"input": [[]]}), "input[0]"),
        (json!({"input": [30_522]}), "input[0]"),
        (json!({"input": {"text": "a"}}), "input"),
        (json!({"input": "a", "dimensions": 128}), "dimensions"),
        (json!({"input": "a", "encoding_format": "int8"}), "encoding_format"),
        (
            json!({"input": "a", "truncate_prompt_tokens": 257}),
            "truncate_prompt_tokens",
        ),
    ] {
        let (head, answer) = post(server.address, PATH, &request);
        assert_eq!(
            (head.status, answer["error"]["param"].as_str()),
            (400, Some(param)),
            "{answer}"
        );
    }
    let cut = ask(
        server.address,
        PATH,
        &json!({"input": long, "truncate_prompt_tokens": -1}),
    );
    assert_eq!(cut["usage"]["prompt_tokens"], 256);
    let (head, answer) = post(
        server.address,
        "/v1/chat/completions",
        &json!({"messages": [{"role": "user", "content": "a"}]}),
    );
    assert_eq!(
        (head.status, &answer["error"]["code"]),
        (404, &json!("model_not_supported")),
        "{answer}"
    );
    let (head, answer) = post(server.address, PATH, &json!({"input": "a", "model": "other"}));
    assert_eq!(
        (head.status, &answer["error"]["code"]),
        (404, &json!("model_not_found"))
    );
}

#[test]
fn a_model_of_text_makes_no_vectors() {
    let server = Server::start(&[]);
    let (head, answer) = post(server.address, PATH, &json!({"input": "a"}));
    assert_eq!(
        (head.status, &answer["error"]["code"]),
        (404, &json!("model_not_supported")),
        "{answer}"
    );
}

#[test]
fn a_full_queue_of_embeddings_answers_429_with_retry_after_and_recovers() {
    let server = Server::start_with(EMBEDDER, &["--max-sequences", "1", "--queue", "0", "--threads", "1"]);
    // Larger than the queue: it takes all of it, for as long as it is computed.
    let large = json!({"input": vec!["word ".repeat(250); 200]}).to_string();
    let mut running = Connection::open(server.address);
    running.post(PATH, &large);
    until("the large request runs", || {
        server.metric("vllm:num_requests_running") > 0.0
    });
    let (head, answer) = post(server.address, PATH, &json!({"input": "a"}));
    assert_eq!((head.status, &answer["error"]["code"]), (429, &json!("queue_full")));
    assert!(head.header("retry-after").is_some());
    drop(running);
    until("the queue is free", || {
        post(server.address, PATH, &json!({"input": "a"})).0.status == 200
    });
}

#[test]
fn a_client_that_goes_away_before_it_has_its_vectors_is_an_abort() {
    let server = Server::start_with(EMBEDDER, &["--threads", "1"]);
    let endings = |reason: &str| server.metric_of("vllm:request_success_total", &format!("finished_reason={reason:?}"));
    let alive = || server.metric("vllm:num_requests_running") + server.metric("vllm:num_requests_waiting");
    // Much more than a batch: the first is not done before the second waits for the next one.
    let request = json!({"input": vec!["word ".repeat(250); 100]}).to_string();
    let mut running = Connection::open(server.address);
    running.post(PATH, &request);
    until("it runs", || server.metric("vllm:num_requests_running") == 1.0);
    let mut waiting = Connection::open(server.address);
    waiting.post(PATH, &request);
    until("another came", || alive() == 2.0);
    drop(waiting);
    until("it counts as aborted", || endings("abort") == 1.0);
    drop(running);
    until("so does the first", || endings("abort") == 2.0);
    until("nothing is left of them", || alive() == 0.0);
    assert_eq!(endings("stop") + endings("length") + endings("error"), 0.0);
}
