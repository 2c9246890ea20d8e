//! Callers that mean harm: what they send costs a bounded amount, tells them nothing, and reaches nobody else.
//! Which published weakness each test stands for is in docs/develop/advisories.md.
use crate::client::{Connection, ask, post};
use crate::process::Server;
use serde_json::{Value, json};

const COMPLETIONS: &str = "/v1/completions";
const CHUNKED: &str =
    "POST /v1/completions HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n";

fn still_answers(server: &Server) {
    ask(server.address, COMPLETIONS, &json!({"prompt": "a", "max_tokens": 1}));
}

#[test]
fn a_gibibyte_in_chunks_is_cut_at_the_limit_and_takes_no_memory() {
    let server = Server::start(&[]);
    let before = server.peak_memory();
    let mut connection = Connection::open(server.address);
    connection.write(format!("{CHUNKED}\r\n").as_bytes());
    let chunk = [b"100000\r\n".as_slice(), &vec![b' '; 1 << 20], b"\r\n"].concat();
    let sent = (0..1024).take_while(|_| connection.try_write(&chunk)).count();
    assert!(sent < 1024, "all of it was taken");
    let grown = server.peak_memory() - before;
    assert!(grown < 24 << 20, "{grown} bytes for a body of which 4 MiB are allowed");
    still_answers(&server);
}

#[test]
fn the_largest_body_is_refused_for_its_tokens() {
    let server = Server::start(&["--context-length", "128"]);
    let before = server.peak_memory();
    let prompt = "a".repeat((4 << 20) - 1000);
    for body in [
        json!({"prompt": prompt}),
        json!({"prompt": vec!["<"; 64], "cache_salt": prompt}),
    ] {
        let (head, answer) = post(server.address, COMPLETIONS, &body);
        assert_eq!(head.status, 400, "{answer}");
        assert!(answer.to_string().len() < 600, "it repeats what was sent");
    }
    let grown = server.peak_memory() - before;
    assert!(grown < 512 << 20, "{grown} bytes for a prompt of 4 MiB");
    still_answers(&server);
}

#[test]
fn a_request_with_two_lengths_cannot_hide_another_one() {
    let server = Server::start(&[]);
    // The second request is a part of the body for whoever goes by the announced length.
    let hidden = "GET /v1/models/hidden HTTP/1.1\r\nhost: t\r\n\r\n";
    let length = format!("content-length: {}\r\n", 5 + hidden.len());
    let both = [
        format!("{CHUNKED}{length}\r\n0\r\n\r\n{hidden}"),
        CHUNKED.replace("transfer-encoding", &format!("{length}transfer-encoding")) + &format!("\r\n0\r\n\r\n{hidden}"),
    ];
    let others = [
        CHUNKED.replace("chunked", "chunked, identity") + &format!("{length}\r\n0\r\n\r\n{hidden}"),
        CHUNKED.replace("transfer-encoding: chunked", "content-length: 2\r\ncontent-length: 5")
            + &format!("\r\n{{}}{hidden}"),
        CHUNKED.replace("transfer-encoding: chunked", "content-length: +2") + &format!("\r\n{{}}{hidden}"),
        CHUNKED.replace("HTTP/1.1", "HTTP/1.0") + &format!("\r\n0\r\n\r\n{hidden}"),
        CHUNKED.replace("transfer-encoding", "transfer-encoding ") + &format!("\r\n0\r\n\r\n{hidden}"),
    ];
    for request in both.iter().chain(&others) {
        let mut connection = Connection::open(server.address);
        connection.write(request.as_bytes());
        let answers = String::from_utf8(connection.until_closed()).expect("text");
        assert_eq!(answers.matches("HTTP/1.").count(), 1, "{request:?}: {answers}");
        assert!(answers.contains(" 400 "), "{request:?}: {answers}");
        assert!(!answers.contains("hidden"), "{request:?}: {answers}");
    }
    still_answers(&server);
}

#[test]
fn a_head_that_is_too_large_ends_the_connection() {
    let server = Server::start(&[]);
    let long = format!("x-long: {}\r\n", "x".repeat(64 << 10));
    let many: String = (0..200).map(|index| format!("x-{index}: y\r\n")).collect();
    let path = format!("GET /{} HTTP/1.1\r\n", "x".repeat(64 << 10));
    for head in [
        format!("GET /v1/models HTTP/1.1\r\nhost: t\r\n{long}\r\n"),
        format!("GET /v1/models HTTP/1.1\r\nhost: t\r\n{many}\r\n"),
        format!("{path}host: t\r\n\r\n"),
    ] {
        let mut connection = Connection::open(server.address);
        // It may be closed before all of it is sent.
        connection.try_write(head.as_bytes());
        let answer = String::from_utf8(connection.until_reset()).expect("text");
        let status = answer.split(' ').nth(1).unwrap_or("none");
        assert!(["431", "414", "400", "none"].contains(&status), "{answer}");
    }
    still_answers(&server);
}

#[test]
fn no_refusal_tells_an_address_or_a_path_of_ours() {
    // A short context, as some bodies ask for all of it.
    let server = Server::start(&["--context-length", "256"]);
    let folder = fuzz_corpus();
    let mut connection = Connection::open(server.address);
    let mut refused = 0;
    for file in std::fs::read_dir(folder).expect("the corpus") {
        let body = std::fs::read(file.expect("an entry").path()).expect("a file");
        for path in [COMPLETIONS, "/v1/chat/completions"] {
            connection.send(
                "POST",
                path,
                "content-type: application/json\r\nx-request-id: 0xcafe\r\n",
                &body,
            );
            let (head, answer) = connection.answer();
            // What is accepted comes as a stream, or whole, and is the model's business.
            if head.status == 200 {
                continue;
            }
            refused += 1;
            assert!((400..500).contains(&head.status), "{answer}");
            for leak in ["0x", "/root", "/home", "/src/", ".rs", "panicked", "thread '"] {
                assert!(!answer.contains(leak), "{leak:?} in {answer}");
            }
        }
    }
    assert!(refused > 40, "{refused}");
}

fn fuzz_corpus() -> &'static str {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/request")
}

#[test]
fn it_listens_where_it_says_and_nowhere_else() {
    let server = Server::start(&[]);
    assert_eq!(server.listening_ports(), [server.address.port()]);
}

#[test]
fn names_of_special_tokens_in_a_message_are_plain_text() {
    let server = Server::start(&[]);
    let tokens = |content: &str| {
        let request = json!({"messages": [{"role": "user", "content": content}], "max_tokens": 1});
        let answer: Value = ask(server.address, "/v1/chat/completions", &request);
        answer["usage"]["prompt_tokens"].as_u64().expect("a number")
    };
    let empty = tokens("");
    for name in [
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
        "<|image_pad|>",
        "<file_sep>",
    ] {
        assert!(tokens(name) > empty + 1, "{name} is one token");
    }
}
