//! A caller that goes away costs nothing more, wherever its request is.
use crate::client::Connection;
use crate::process::{Server, until};
use serde_json::json;

fn idle(server: &Server) -> bool {
    server.metric("vllm:num_requests_running") + server.metric("vllm:num_requests_waiting") == 0.0
}

#[test]
fn a_broken_connection_frees_its_slot_streaming_or_not() {
    let server = Server::start(&["--max-sequences", "1"]);
    for stream in [true, false] {
        let request = json!({"prompt": "a", "max_tokens": 2000, "ignore_eos": true, "stream": stream});
        let mut running = Connection::open(server.address);
        running.post("/v1/completions", &request.to_string());
        until("it runs", || server.metric("vllm:num_requests_running") == 1.0);
        let mut waiting = Connection::open(server.address);
        waiting.post("/v1/completions", &request.to_string());
        until("another waits", || server.metric("vllm:num_requests_waiting") == 1.0);
        drop(waiting);
        until("it is forgotten", || server.metric("vllm:num_requests_waiting") == 0.0);
        assert_eq!(server.metric("vllm:num_requests_running"), 1.0);
        drop(running);
        until("the slot is free", || idle(&server));
    }
    assert_eq!(server.metric(r"vllm:request_success_total"), 4.0);
    // 4 sequences of 2000 tokens were cancelled; had one gone on, its tokens would be here.
    assert!(server.metric("vllm:generation_tokens_total") < 4000.0);
    until("the used blocks are free again", || {
        server.metric("vllm:kv_cache_usage_perc") == 0.0
    });
}

#[test]
fn a_reader_that_stops_reading_does_not_stop_the_others() {
    let server = Server::start(&[]);
    let request = json!({"prompt": "a", "max_tokens": 1000, "ignore_eos": true, "stream": true}).to_string();
    let mut deaf = Connection::open(server.address);
    deaf.post("/v1/completions", &request);
    let mut other = Connection::open(server.address);
    other.post("/v1/completions", &request);
    assert_eq!(other.head().status, 200);
    let events = std::iter::from_fn(|| other.event()).count();
    assert!(events > 1, "the stream that is read comes to its end");
    until("both have ended", || idle(&server));
}
