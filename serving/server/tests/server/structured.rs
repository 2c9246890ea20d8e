//! Answers in a form that the request asks for.
use crate::client::{Connection, ask, post, stream};
use crate::process::Server;
use serde_json::{Value, json};

/// Its template knows tools.
const QWEN: &str = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf";
const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

fn with(mut request: Value, fields: Value) -> Value {
    for (name, value) in fields.as_object().expect("an object") {
        request[name] = value.clone();
    }
    request
}

fn person(answer: &str) {
    let person: Value = serde_json::from_str(answer).expect(answer);
    let fields: Vec<_> = person.as_object().expect("an object").keys().cloned().collect();
    assert_eq!(fields, ["name", "born", "fields"], "{answer}");
    assert!(person["name"].is_string() && person["fields"].is_array(), "{answer}");
    assert!(
        (1000..=2000).contains(&person["born"].as_i64().expect("a year")),
        "{answer}"
    );
}

#[test]
fn answers_fit_their_schema_streamed_or_whole_greedy_or_drawn() {
    let server = Server::start_with(QWEN, &["--context-length", "1024"]);
    let schema = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 40},
            "born": {"type": "integer", "minimum": 1000, "maximum": 2000},
            "fields": {"type": "array", "items": {"enum": ["mathematics", "poetry"]}, "minItems": 1, "maxItems": 2},
        },
        "required": ["name", "born", "fields"],
        "additionalProperties": false,
    });
    let format = json!({"type": "json_schema", "json_schema": {"name": "person", "strict": true, "schema": schema}});
    let question = json!({
        "messages": [{"role": "user", "content": "Who was Ada Lovelace? Answer as JSON."}],
        "temperature": 0, "max_tokens": 200, "response_format": format,
    });
    let whole = ask(server.address, CHAT, &question);
    let text = whole["choices"][0]["message"]["content"].as_str().expect("a text");
    person(text);
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    let events = stream(server.address, CHAT, &with(question.clone(), json!({"stream": true})));
    let pieces = events
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str());
    assert_eq!(pieces.collect::<String>(), text);
    for seed in 1..4 {
        let drawn = json!({"temperature": 1.5, "seed": seed, "ignore_eos": true});
        let answer = ask(server.address, CHAT, &with(question.clone(), drawn));
        person(answer["choices"][0]["message"]["content"].as_str().expect("a text"));
    }
}

#[test]
fn expressions_choices_and_grammars_bind_completions() {
    let server = Server::start(&[]);
    let complete = |form: Value| {
        let request = json!({"prompt": ["The year was", "In the year"], "temperature": 1, "seed": 1, "max_tokens": 60});
        let answer = ask(server.address, COMPLETIONS, &with(request, form));
        let texts = answer["choices"].as_array().expect("choices").iter().map(|choice| {
            assert_eq!(choice["finish_reason"], "stop");
            choice["text"].as_str().expect("a text").to_owned()
        });
        texts.collect::<Vec<_>>()
    };
    for regex in [
        json!({"structured_outputs": {"regex": " [12][0-9]{3}\\."}}),
        json!({"guided_regex": " [12][0-9]{3}\\."}),
    ] {
        for text in complete(regex) {
            let year = text
                .strip_prefix(' ')
                .and_then(|text| text.strip_suffix('.'))
                .expect(&text);
            assert!((1000..3000).contains(&year.parse().expect(year)), "{text}");
        }
    }
    for text in complete(json!({"guided_choice": ["red", "blue \"x\"\n"]})) {
        assert!(["red", "blue \"x\"\n"].contains(&text.as_str()), "{text}");
    }
    let numbers: Vec<String> = (0..1000).map(|number| format!(" {number}!")).collect();
    for text in complete(json!({ "guided_choice": numbers })) {
        assert!(numbers.contains(&text), "{text}");
    }
    let grammar = "start: inner{2}\ninner: \"<\" NAME \">\" (\"-\" inner)? \"</>\"\nNAME: /[a-f]{1,3}/";
    for text in complete(json!({"structured_outputs": {"grammar": grammar}, "max_tokens": 400})) {
        assert!(text.starts_with('<') && text.ends_with("</>"), "{text}");
        assert_eq!(text.matches("</>").count() * 2, text.matches('<').count(), "{text}");
    }
    let gbnf = "root ::= inner{2}\ninner ::= \"<\" a-f \">\" (\"-\" inner)? \"</>\"\na-f ::= [a-f]{1,3}";
    for form in [json!({ "grammar": gbnf }), json!({ "guided_grammar": gbnf })] {
        for text in complete(with(form, json!({"max_tokens": 400}))) {
            assert!(text.starts_with('<') && text.ends_with("</>"), "{text}");
            assert_eq!(text.matches("</>").count() * 2, text.matches('<').count(), "{text}");
        }
    }
    let object = json!({"prompt": "As JSON:", "max_tokens": 8, "response_format": {"type": "json_object"}});
    let answer = ask(server.address, COMPLETIONS, &object);
    assert!(answer["choices"][0]["text"].as_str().expect("a text").starts_with('{'));
}

#[test]
fn a_chat_follows_a_grammar_of_llama_cpp() {
    let server = Server::start_with(QWEN, &["--context-length", "1024"]);
    let gbnf = r##"root ::= "The answer is " sum " = " number "." # nothing else
sum ::= term (" " [-+*] " " term)*
term ::= number | "(" sum ")"
number ::= "0" | [1-9] [0-9]{0,3}"##;
    let question = json!({
        "messages": [{"role": "user", "content": "How much is (2 + 3) * 4?"}],
        "temperature": 0, "max_tokens": 60, "grammar": gbnf,
    });
    let answer = ask(server.address, CHAT, &question);
    let text = answer["choices"][0]["message"]["content"].as_str().expect("a text");
    let (sum, number) = text
        .strip_prefix("The answer is ")
        .and_then(|text| text.strip_suffix('.')?.rsplit_once(" = "))
        .expect(text);
    assert!(number.parse::<u16>().is_ok_and(|number| number < 10_000), "{text}");
    assert!(sum.chars().all(|c| " -+*()0123456789".contains(c)), "{text}");
    assert_eq!(sum.matches('(').count(), sum.matches(')').count(), "{text}");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
}

#[test]
fn forms_that_cannot_be_are_refused_by_name() {
    let server = Server::start(&[]);
    let schema = |schema: Value| json!({"response_format": {"type": "json_schema", "json_schema": {"strict": true, "schema": schema}}});
    let deep = (0..100).fold(json!({"type": "string"}), |schema, _| json!({ "items": schema }));
    let names: Vec<String> = (0..20_000).map(|number| format!("name {number}")).collect();
    const SCHEMA: &str = "response_format.json_schema.schema";
    for (form, param) in [
        (json!({"response_format": {"type": "xml"}}), "response_format.type"),
        (json!({"response_format": {}}), "response_format"),
        (json!({"response_format": 5}), "response_format"),
        (schema(json!({"type": "nonsense"})), SCHEMA),
        (schema(json!({"type": "string", "format": "nonsense"})), SCHEMA),
        (schema(json!({"not": {"type": "string"}})), SCHEMA),
        (schema(json!({"$ref": "https://example.com/x"})), SCHEMA),
        (schema(deep), SCHEMA),
        (schema(json!({ "enum": names })), SCHEMA),
        (json!({"guided_json": "{"}), "guided_json"),
        (json!({"guided_regex": "a("}), "guided_regex"),
        (json!({"guided_regex": "x".repeat(100_000)}), "guided_regex"),
        (json!({"guided_choice": []}), "guided_choice"),
        (
            json!({"structured_outputs": {"grammar": "start: nowhere"}}),
            "structured_outputs.grammar",
        ),
        (
            json!({"structured_outputs": {"grammar": "start: A\nA: /a/ & /b/"}}),
            "structured_outputs.grammar",
        ),
        (json!({"structured_outputs": {"regex": 5}}), "structured_outputs.regex"),
        (json!({"guided_regex": "a", "guided_json": {}}), "guided_regex"),
        (json!({"grammar": "root ::= a"}), "grammar"),
        (json!({"grammar": 5}), "grammar"),
        (json!({"grammar": "root ::= \"a\"", "guided_regex": "a"}), "grammar"),
        (json!({"guided_grammar": "root ::= <[7]>"}), "guided_grammar"),
    ] {
        let (head, answer) = post(server.address, COMPLETIONS, &with(json!({"prompt": "a"}), form.clone()));
        let error = &answer["error"];
        assert_eq!((head.status, error["param"].as_str()), (400, Some(param)), "{answer}");
        assert!(error["message"].as_str().expect("a message").len() < 500, "{answer}");
    }
    let lenient = json!({"type": "json_schema", "json_schema": {"schema": {"type": "string", "format": "nonsense", "maxLength": 3}}});
    let answer = ask(
        server.address,
        COMPLETIONS,
        &json!({"prompt": "a", "response_format": lenient}),
    );
    assert!(answer["choices"][0]["text"].as_str().expect("a text").starts_with('"'));
}

#[test]
fn an_answer_whose_form_becomes_too_complex_ends_alone() {
    let server = Server::start(&[]);
    let ends: String = (0..400).map(|number| format!("b{number}: \"{number}\"\n")).collect();
    let ways: Vec<String> = (0..400).map(|number| format!("\"a\" b{number}")).collect();
    let grammar = format!("start: \"x\" s\ns: {}\n{ends}", ways.join(" | "));
    let request = json!({"prompt": "ab", "temperature": 0, "max_tokens": 50, "guided_grammar": grammar});
    let mut plain = Connection::open(server.address);
    plain.post(
        COMPLETIONS,
        &json!({"prompt": "a", "max_tokens": 50, "ignore_eos": true}).to_string(),
    );
    let (head, answer) = post(server.address, COMPLETIONS, &request);
    assert_eq!(
        (head.status, &answer["error"]["code"]),
        (400, &json!("grammar_too_complex")),
        "{answer}"
    );
    let (head, answer) = plain.answer();
    assert_eq!(head.status, 200, "{answer}");
    let mut streamed = Connection::open(server.address);
    streamed.post(COMPLETIONS, &with(request, json!({"stream": true})).to_string());
    assert_eq!(streamed.head().status, 200);
    let last = std::iter::from_fn(|| streamed.event()).last().expect("an event");
    assert!(last.contains("grammar_too_complex"), "{last}");
}
