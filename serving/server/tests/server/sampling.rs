//! Parameters that bend the choice of tokens, or say when an answer may and must end.
use crate::client::ask;
use crate::process::Server;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const COMPLETIONS: &str = "/v1/completions";

fn complete(server: &Server, fields: Value) -> Value {
    let mut request = json!({"prompt": "One, two, three,", "temperature": 0, "max_tokens": 32, "ignore_eos": true});
    for (name, value) in fields.as_object().expect("an object") {
        request[name] = value.clone();
    }
    ask(server.address, COMPLETIONS, &request)
}

fn text(answer: &Value) -> &str {
    answer["choices"][0]["text"].as_str().expect("a text")
}

fn words(answer: &Value) -> usize {
    text(answer).split_whitespace().collect::<BTreeSet<_>>().len()
}

#[test]
fn biases_and_penalties_bend_greedy_answers_and_defaults_do_not() {
    let server = Server::start(&[]);
    let plain = complete(&server, json!({}));
    let defaults = json!({
        "presence_penalty": 0, "frequency_penalty": 0, "repetition_penalty": 1, "logit_bias": {}, "min_p": 0.5,
    });
    assert_eq!(text(&complete(&server, defaults)), text(&plain));

    let forced = complete(&server, json!({"logit_bias": {"40": 100}, "max_tokens": 4}));
    let once = complete(&server, json!({"logit_bias": {"40": 100}, "max_tokens": 1}));
    assert_eq!(text(&forced), text(&once).repeat(4));
    let penalised = complete(
        &server,
        json!({"logit_bias": {"40": 30}, "frequency_penalty": 2, "max_tokens": 100}),
    );
    assert!(
        words(&penalised) > 1,
        "a frequency penalty gives way to no other: {penalised}"
    );
    // Drawn, because the best token often wins in spite of a penalty.
    let draw = |penalty: Value| {
        let mut request = json!({"temperature": 1, "seed": 1});
        if let Some(name) = penalty.as_str() {
            request[name] = json!(2);
        }
        text(&complete(&server, request)).to_owned()
    };
    for penalty in ["presence_penalty", "frequency_penalty", "repetition_penalty"] {
        assert_ne!(draw(json!(penalty)), draw(Value::Null), "{penalty}");
        assert_eq!(draw(json!(penalty)), draw(json!(penalty)), "{penalty}");
    }
}

#[test]
fn min_p_of_one_is_greedy_at_any_temperature() {
    let server = Server::start(&[]);
    let plain = complete(&server, json!({}));
    let answer = complete(&server, json!({"min_p": 1, "temperature": 2, "seed": 1}));
    assert_eq!(text(&answer), text(&plain));
}

#[test]
fn a_stop_token_ends_the_answer_and_is_not_part_of_it() {
    let server = Server::start(&[]);
    let stop = json!({"logit_bias": {"40": 100}, "stop_token_ids": [7, 40]});
    let answer = complete(&server, stop.clone());
    assert_eq!(
        (text(&answer), &answer["choices"][0]["finish_reason"]),
        ("", &json!("stop"))
    );
    assert_eq!(answer["usage"]["completion_tokens"], 1);

    let mut later = stop;
    later["min_tokens"] = json!(3);
    let answer = complete(&server, later);
    assert_ne!(text(&answer), "");
    assert_eq!(answer["usage"]["completion_tokens"], 4, "{answer}");
}

#[test]
fn min_tokens_holds_back_the_end_of_a_chat_and_stop_texts() {
    let server = Server::start(&[]);
    let chat = |fields: Value| {
        let mut request = json!({"messages": [{"role": "user", "content": "Say hi."}], "temperature": 0});
        for (name, value) in fields.as_object().expect("an object") {
            request[name] = value.clone();
        }
        ask(server.address, "/v1/chat/completions", &request)
    };
    let tokens = |answer: &Value| answer["usage"]["completion_tokens"].as_u64().expect("a count");
    let plain = chat(json!({"max_tokens": 200}));
    assert_eq!(plain["choices"][0]["finish_reason"], "stop", "{plain}");
    let longer = tokens(&plain) + 5;
    let answer = chat(json!({"max_tokens": longer, "min_tokens": longer}));
    assert_eq!(
        (tokens(&answer), &answer["choices"][0]["finish_reason"]),
        (longer, &json!("length"))
    );

    let stop = complete(&server, json!({"logit_bias": {"40": 100}, "max_tokens": 1}));
    let stopped = complete(
        &server,
        json!({"logit_bias": {"40": 100}, "stop": text(&stop), "min_tokens": 3}),
    );
    assert_eq!(text(&stopped), text(&stop).repeat(3));
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
}
