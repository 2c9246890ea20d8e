//! SIGTERM: nothing new is accepted, everything accepted is answered, then exit 0.
use crate::client::Connection;
use crate::process::{Server, until};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};

fn start_stream(server: &Server, max_tokens: u32) -> Connection {
    stream_over(Connection::open(server.address), max_tokens)
}

fn stream_over(mut stream: Connection, max_tokens: u32) -> Connection {
    let request = json!({"prompt": "a", "max_tokens": max_tokens, "ignore_eos": true, "stream": true});
    stream.post("/v1/completions", &request.to_string());
    stream
}

#[test]
fn a_running_and_a_queued_stream_finish_and_new_connections_are_refused() {
    let server = Server::start(&["--max-sequences", "1"]);
    let mut kept = Connection::open(server.address);
    assert_eq!(kept.get("/health/ready").0.status, 200);
    let mut running = start_stream(&server, 300);
    assert_eq!(running.head().status, 200);
    running.event().unwrap();
    let mut queued = start_stream(&server, 5);
    until("one waits", || server.metric("vllm:num_requests_waiting") == 1.0);

    server.terminate();
    until("new connections are refused", || {
        Connection::try_open(server.address).is_err()
    });

    // A connection that was open gets an answer, and is asked to go.
    let (head, body) = kept.get("/health/ready");
    assert_eq!((head.status, head.header("connection")), (503, Some("close")), "{body}");
    assert_eq!(kept.until_closed(), b"");

    finish(running);
    assert_eq!(queued.head().status, 200);
    finish(queued);
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(0), "{log}");
}

/// Reads the rest of a stream, which must be complete, up to the end of its connection.
fn finish(mut stream: Connection) {
    let events: Vec<String> = std::iter::from_fn(|| stream.event()).collect();
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    let closing: Value = serde_json::from_str(&events[events.len() - 2]).expect("JSON");
    assert_eq!(closing["choices"][0]["finish_reason"], "length");
    assert_eq!(stream.until_closed(), b"");
}

#[test]
fn idle_connections_do_not_hold_a_drain_up() {
    let server = Server::start(&[]);
    let mut idle = Connection::open(server.address);
    assert_eq!(idle.get("/health/live").0.status, 200);
    let mut silent = Connection::open(server.address);
    server.terminate();
    assert_eq!((idle.until_closed(), silent.until_closed()), (Vec::new(), Vec::new()));
    assert_eq!(server.wait().0.code(), Some(0));
}

#[test]
fn a_drain_that_runs_out_of_time_says_what_it_cut() {
    let server = Server::start(&["--drain-timeout", "50ms"]);
    let mut stream = start_stream(&server, 2000);
    assert_eq!(stream.head().status, 200);
    server.terminate();
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(1));
    assert!(log.contains("1 connections were still open"), "{log}");
}

#[test]
fn an_answer_that_the_client_has_not_taken_yet_is_still_open() {
    // Above the 2 s after which idle connections are closed.
    let server = Server::start(&["--drain-timeout", "3s"]);
    // 50 KB: more than this client's kernel takes unread, and less than the server's holds.
    let narrow = Connection::open_narrow(server.address).unwrap();
    let _unread = stream_over(narrow, 300);
    until("all of it is written", || {
        server.metric("vllm:request_success_total") == 1.0
    });
    server.terminate();
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(1));
    assert!(log.contains("1 connections were still open"), "{log}");
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    let server = Server::start(&[]);
    let mut stream = start_stream(&server, 2000);
    assert_eq!(stream.head().status, 200);
    server.terminate();
    until("it drains", || Connection::try_open(server.address).is_err());
    server.terminate();
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(1));
    assert!(log.contains("second signal"), "{log}");
}

#[test]
fn clients_that_keep_their_connections_busy_lose_no_request() {
    let server = Server::start(&[]);
    let answered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let client = || {
            let mut connection = Connection::open(server.address);
            loop {
                connection.post("/v1/completions", r#"{"prompt":"a","max_tokens":2}"#);
                let (head, body) = connection.answer();
                assert_eq!(head.status, 200, "{body}");
                answered.fetch_add(1, Ordering::Relaxed);
                if head.header("connection") == Some("close") {
                    return;
                }
            }
        };
        for _ in 0..6 {
            scope.spawn(client);
        }
        until("all are at it", || answered.load(Ordering::Relaxed) > 30);
        server.terminate();
        // Each client ends by an answer that tells it to go; a lost request panics in its thread.
    });
    assert_eq!(server.wait().0.code(), Some(0));
}
