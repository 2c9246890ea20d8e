//! A server that cannot work says why and ends; one that can says when.
use crate::client::Connection;
use crate::process::{Server, model, run_to_end, until};
use std::net::TcpListener;

#[test]
fn a_model_file_that_is_none_ends_the_process_with_a_message() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.gguf");
    std::fs::write(&text, "this is not a model\n".repeat(1000)).unwrap();
    let cut = folder.path().join("cut.gguf");
    let whole = std::fs::read(model()).unwrap();
    std::fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let header = folder.path().join("header.gguf");
    std::fs::write(&header, &whole[..1000]).unwrap();
    let empty = folder.path().join("empty.gguf");
    std::fs::write(&empty, "").unwrap();
    for file in [
        text,
        cut,
        header,
        empty,
        folder.path().join("missing.gguf"),
        folder.path().to_owned(),
    ] {
        let (status, stderr) = run_to_end(&file, &["--listen", "127.0.0.1:0"]);
        assert_eq!(status.code(), Some(1), "{}: {stderr}", file.display());
        let last = stderr.lines().last().unwrap();
        assert!(last.starts_with("windlass-server: cannot load the model"), "{stderr}");
        assert!(
            last.contains(file.file_name().unwrap().to_str().unwrap()),
            "the file is named: {stderr}"
        );
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}

#[test]
fn an_address_in_use_ends_the_process_with_a_message() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (status, stderr) = run_to_end(&model(), &["--listen", &address]);
    assert_eq!(status.code(), Some(1));
    assert!(
        stderr.contains(&format!("cannot listen on {address}")) && stderr.contains("in use"),
        "{stderr}"
    );
}

#[test]
fn a_context_that_does_not_fit_into_memory_ends_the_process_with_a_message() {
    let (status, stderr) = run_to_end(
        &model(),
        &[
            "--listen",
            "127.0.0.1:0",
            "--memory-limit",
            "100Mi",
            "--context-length",
            "8192",
        ],
    );
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(
        stderr
            .lines()
            .last()
            .unwrap()
            .starts_with("windlass-server: cannot load the model"),
        "{stderr}"
    );
    assert!(stderr.contains("memory") && !stderr.contains("panicked"), "{stderr}");
}

#[test]
fn it_is_live_while_it_loads_and_ready_only_after_a_token() {
    let server = Server::launch(&[]);
    let mut connection = Connection::open(server.address);
    assert_eq!(connection.get("/health/live").0.status, 200);
    // Whichever comes first, readiness implies a generated token and an answer.
    loop {
        let ready = connection.get("/health/ready").0.status;
        if ready == 200 {
            break;
        }
        assert_eq!(ready, 503);
    }
    assert!(server.metric("vllm:generation_tokens_total") >= 1.0);
    connection.post("/v1/completions", r#"{"prompt":"a","max_tokens":1}"#);
    assert_eq!(connection.answer().0.status, 200);
}

#[test]
fn liveness_fails_only_while_there_is_work_without_a_step() {
    // With no patience at all, every moment between two steps is a stall.
    let server = Server::start(&["--stall-timeout", "0s"]);
    let live = || Connection::open(server.address).get("/health/live").0.status;
    assert_eq!(live(), 200);
    let mut work = Connection::open(server.address);
    work.post(
        "/v1/completions",
        r#"{"prompt":"a","max_tokens":2000,"ignore_eos":true}"#,
    );
    until("the stall is seen", || live() == 503);
    drop(work);
    until("there is no work any more", || live() == 200);
}

#[test]
fn metrics_carry_the_names_that_autoscalers_read() {
    let server = Server::start(&[]);
    let mut connection = Connection::open(server.address);
    connection.post("/v1/completions", r#"{"prompt":"a","max_tokens":3,"ignore_eos":true}"#);
    assert_eq!(connection.answer().0.status, 200);
    let (head, text) = connection.get("/metrics");
    assert!(
        head.header("content-type")
            .unwrap()
            .starts_with("text/plain; version=0.0.4")
    );
    for name in [
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
        "vllm:cache_config_info",
        "vllm:prefix_cache_queries_total",
        "vllm:prefix_cache_hits_total",
        "vllm:prompt_tokens_total",
        "vllm:generation_tokens_total",
        "vllm:num_preemptions_total",
        "vllm:request_success_total",
        "vllm:time_to_first_token_seconds_count",
        "vllm:inter_token_latency_seconds_count",
        "vllm:e2e_request_latency_seconds_count",
        "vllm:request_queue_time_seconds_count",
    ] {
        let line = text.lines().find(|line| line.starts_with(&format!("{name}{{")));
        assert!(
            line.is_some_and(|line| line.contains(r#"model_name="smol""#)),
            "{name} in\n{text}"
        );
    }
    assert_eq!(server.metric("vllm:time_to_first_token_seconds_count"), 1.0);
    assert_eq!(server.metric("vllm:inter_token_latency_seconds_count"), 2.0);
    assert_eq!(server.metric("vllm:request_queue_time_seconds_count"), 1.0);
}
