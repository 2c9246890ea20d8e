//! What the model says does not depend on how it is asked: streamed or whole, alone or among others.
use crate::client::{Connection, ask, stream};
use crate::process::Server;
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

fn question(text: &str) -> Value {
    json!({"model": "smol", "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 24})
}

fn with(mut request: Value, fields: Value) -> Value {
    for (name, value) in fields.as_object().expect("an object") {
        request[name] = value.clone();
    }
    request
}

fn chat_text(answer: &Value) -> String {
    answer["choices"][0]["message"]["content"]
        .as_str()
        .expect("text")
        .to_owned()
}

fn streamed_text(events: &[Value]) -> String {
    let choices = events.iter().filter_map(|event| event["choices"].get(0));
    choices
        .filter_map(|choice| choice["delta"]["content"].as_str().or(choice["text"].as_str()))
        .collect()
}

#[test]
fn a_streamed_chat_says_what_a_whole_one_says() {
    let server = Server::start(&[]);
    let request = question("Name three colours.");
    let whole = ask(server.address, CHAT, &request);
    let streamed = with(
        request,
        json!({"stream": true, "stream_options": {"include_usage": true}}),
    );
    let events = stream(server.address, CHAT, &streamed);
    assert!(!chat_text(&whole).is_empty());
    assert_eq!(streamed_text(&events), chat_text(&whole));
    assert_eq!(
        events[0]["choices"][0]["delta"],
        json!({"role": "assistant", "content": ""})
    );
    let closing = &events[events.len() - 2]["choices"][0];
    assert_eq!(closing["finish_reason"], whole["choices"][0]["finish_reason"]);
    let usage = &events[events.len() - 1];
    assert_eq!(usage["choices"], json!([]));
    for count in ["prompt_tokens", "completion_tokens", "total_tokens"] {
        assert_eq!(usage["usage"][count], whole["usage"][count], "{count}");
    }
    assert!(events[..events.len() - 1].iter().all(|event| event["usage"].is_null()));
    assert!(usage["usage"]["prompt_tokens_details"]["cached_tokens"].is_u64());
}

#[test]
fn a_completion_continues_text_token_ids_and_lists_of_both() {
    let server = Server::start(&[]);
    let request = json!({"prompt": "One, two, three,", "temperature": 0, "max_tokens": 8});
    let whole = ask(server.address, COMPLETIONS, &request);
    let text = whole["choices"][0]["text"].as_str().unwrap();
    assert!(!text.is_empty());
    assert_eq!(
        (&whole["object"], &whole["choices"][0]["finish_reason"]),
        (&json!("text_completion"), &json!("length"))
    );
    assert_eq!(whole["usage"]["completion_tokens"], 8);
    let events = stream(
        server.address,
        COMPLETIONS,
        &with(request.clone(), json!({"stream": true})),
    );
    assert_eq!(streamed_text(&events), text);

    let two = ask(
        server.address,
        COMPLETIONS,
        &with(request.clone(), json!({"prompt": ["One, two, three,", "A, B,"]})),
    );
    assert_eq!(two["choices"][0]["text"], whole["choices"][0]["text"]);
    assert_eq!(
        (
            two["choices"][1]["index"].as_u64(),
            two["choices"].as_array().unwrap().len()
        ),
        (Some(1), 2)
    );
    assert_eq!(two["usage"]["completion_tokens"], 16);
    let events = stream(
        server.address,
        COMPLETIONS,
        &with(
            request.clone(),
            json!({"prompt": ["One, two, three,", "A, B,"], "stream": true}),
        ),
    );
    for index in [0, 1] {
        let own: Vec<Value> = events
            .iter()
            .filter(|event| event["choices"][0]["index"] == index)
            .cloned()
            .collect();
        assert_eq!(json!(streamed_text(&own)), two["choices"][index]["text"]);
    }

    let ids = ask(
        server.address,
        COMPLETIONS,
        &with(request.clone(), json!({"prompt": [65, 66, 67]})),
    );
    let lists = ask(
        server.address,
        COMPLETIONS,
        &with(request, json!({"prompt": [[65, 66, 67]]})),
    );
    assert_eq!(
        (&ids["usage"]["prompt_tokens"], &ids["choices"]),
        (&json!(3), &lists["choices"])
    );
}

#[test]
fn a_stop_text_ends_the_answer_before_it_wherever_tokens_end() {
    let server = Server::start(&[]);
    let request = with(
        question("Write a sentence about the sea."),
        json!({"max_tokens": 40, "ignore_eos": true}),
    );
    let text = chat_text(&ask(server.address, CHAT, &request));
    let chars: Vec<char> = text.chars().collect();
    // Short and long pieces of the text, at places that fall inside tokens as well as between them.
    for (from, length) in [(4, 1), (7, 2), (11, 5), (14, 9), (20, 3)] {
        let stop: String = chars[from..from + length].iter().collect();
        let expected = &text[..text.find(&stop).unwrap()];
        let stopping = with(request.clone(), json!({"stop": ["never in the answer", stop]}));
        let whole = ask(server.address, CHAT, &stopping);
        assert_eq!(chat_text(&whole), expected, "stop {stop:?}");
        assert_eq!(whole["choices"][0]["finish_reason"], "stop");
        let used = whole["usage"]["completion_tokens"].as_u64().unwrap();
        assert!(used <= 40, "{used} tokens for a part of the answer");
        let events = stream(server.address, CHAT, &with(stopping, json!({"stream": true})));
        assert_eq!(streamed_text(&events), expected, "stop {stop:?}, streamed");
        assert_eq!(events[events.len() - 1]["choices"][0]["finish_reason"], "stop");
    }
}

#[test]
fn equal_seeds_give_equal_answers_and_other_seeds_others() {
    let server = Server::start(&[]);
    let draw = |seed: i64| {
        let sampling = json!({"temperature": 1.5, "seed": seed, "max_tokens": 30, "ignore_eos": true});
        chat_text(&ask(
            server.address,
            CHAT,
            &with(question("Tell me a story."), sampling),
        ))
    };
    assert_eq!(draw(1), draw(1));
    assert_eq!(draw(-1), draw(-1));
    assert_ne!(draw(1), draw(2));
}

#[test]
fn eight_at_once_say_what_they_say_one_after_the_other() {
    let server = Server::start(&[]);
    let requests: Vec<Value> = [
        "bread", "rivers", "stars", "trees", "clocks", "snow", "bridges", "songs",
    ]
    .map(|topic| question(&format!("Tell me about {topic}.")))
    .to_vec();
    let serial: Vec<String> = requests
        .iter()
        .map(|request| chat_text(&ask(server.address, CHAT, request)))
        .collect();
    let address = server.address;
    let parallel: Vec<String> = std::thread::scope(|scope| {
        let asked = |request| scope.spawn(move || chat_text(&ask(address, CHAT, request)));
        let threads: Vec<_> = requests.iter().map(asked).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(parallel, serial);
}

#[test]
fn a_system_message_and_text_parts_are_part_of_the_prompt() {
    let server = Server::start(&[]);
    let tokens = |messages: Value| {
        let answer = ask(server.address, CHAT, &json!({"messages": messages, "max_tokens": 1}));
        answer["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    let parts = json!([{"type": "text", "text": "Hello "}, {"type": "text", "text": "you"}]);
    assert_eq!(
        tokens(json!([{"role": "user", "content": parts}])),
        tokens(json!([{"role": "user", "content": "Hello you"}])),
    );
    let system = |role: &str| {
        tokens(json!([{"role": role, "content": "Answer in rhyme."}, {"role": "user", "content": "Hello you"}]))
    };
    assert_eq!(system("developer"), system("system"));
}

#[test]
fn models_are_listed_by_their_served_name() {
    let server = Server::start(&["--context-length", "512"]);
    let mut connection = Connection::open(server.address);
    let (head, body) = connection.get("/v1/models");
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((head.status, &body["data"][0]["id"]), (200, &json!("smol")));
    assert_eq!(body["data"][0]["max_model_len"], 512);
    assert_eq!(connection.get("/v1/models/smol").0.status, 200);
    assert_eq!(connection.get("/v1/models/other").0.status, 404);
}

#[test]
fn a_prefix_that_was_seen_before_comes_from_the_cache_and_changes_nothing() {
    let server = Server::start(&[]);
    let words = "The quick brown fox jumps over the lazy dog. ".repeat(12);
    let request = json!({"prompt": words, "temperature": 0, "max_tokens": 12, "cache_salt": "a"});
    let cached = |answer: &Value| {
        answer["usage"]["prompt_tokens_details"]["cached_tokens"]
            .as_u64()
            .unwrap()
    };
    let first = ask(server.address, COMPLETIONS, &request);
    let again = ask(server.address, COMPLETIONS, &request);
    let other = ask(server.address, COMPLETIONS, &with(request, json!({"cache_salt": "b"})));
    assert_eq!(again["choices"], first["choices"]);
    assert_eq!(
        (cached(&first), cached(&other)),
        (0, 0),
        "nothing is shared between salts"
    );
    assert!(cached(&again) >= 64, "{again}");
}
