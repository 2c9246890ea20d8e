//! Answers of a real model that must obey a grammar.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
#[path = "support/cache.rs"]
mod cache;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use windlass_engine::grammar::{Constraint, Grammar, Grammars};
use windlass_engine::request::{EngineOptions, Event, FinishReason, Request, RequestId, Sampling};
use windlass_engine::{Engine, LoadError};

const SMOLLM2: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

fn load(options: &EngineOptions) -> Result<Engine, LoadError> {
    Engine::load(&cache::model(SMOLLM2), options)
}

fn options() -> EngineOptions {
    EngineOptions {
        threads: 2,
        context_length: Some(512),
        max_sequences: 8,
        max_batch_tokens: 256,
        ..EngineOptions::default()
    }
}

fn request(engine: &Engine, id: u64, temperature: f32) -> Request {
    let prompt = engine
        .tokenizer()
        .encode_prompt("Ada Lovelace, 36, as JSON or as a number:\n");
    Request {
        sampling: Sampling {
            temperature,
            seed: id,
            ..Sampling::default()
        },
        cache_salt: id,
        ..Request::new(RequestId(id), prompt, 400)
    }
}

/// Text, tokens and end of each request that runs, by id.
fn finish(engine: &mut Engine) -> BTreeMap<u64, (String, usize, FinishReason)> {
    let tokenizer = engine.tokenizer();
    let mut tokens: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut ends = BTreeMap::new();
    let mut events = Vec::new();
    while engine.has_work() {
        engine.step(&mut events);
        for event in events.drain(..) {
            match event {
                Event::Started { id, .. } => drop(tokens.insert(id.0, Vec::new())),
                Event::Prompt { .. } | Event::Ended { .. } => unreachable!("nobody asks for them"),
                Event::Token { id, token, .. } => tokens.get_mut(&id.0).unwrap().extend(tokenizer.piece(token)),
                Event::Finished { id, reason, usage } => drop(ends.insert(id.0, (usage.completion_tokens, reason))),
            }
        }
    }
    let text = |(id, bytes)| {
        let (tokens, reason) = ends[&id];
        (id, (String::from_utf8(bytes).unwrap(), tokens, reason))
    };
    tokens.into_iter().map(text).collect()
}

fn submit(engine: &mut Engine, request: Request, constraint: Constraint) {
    let constraint = Some(constraint);
    engine.submit(Request { constraint, ..request }).unwrap();
}

#[test]
fn answers_fit_their_schema_greedily_and_drawn_and_leave_the_others_as_they_are() {
    let mut engine = load(&options()).unwrap();
    let grammars = Grammars::new(&engine.tokenizer()).unwrap();
    let free = request(&engine, 1, 0.0);
    engine.submit(free.clone()).unwrap();
    let alone = finish(&mut engine);
    let grammar = Grammar::JsonSchema(json!({
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "minimum": 1, "maximum": 99}},
        "required": ["name", "age"], "additionalProperties": false, "x-guidance": {"whitespace_pattern": " "},
    }));
    engine.submit(free).unwrap();
    for (id, temperature) in [(2, 0.0), (3, 1.0), (4, 2.0)] {
        let request = Request {
            ignore_eos: id == 4,
            ..request(&engine, id, temperature)
        };
        submit(&mut engine, request, grammars.constraint(&grammar).unwrap());
    }
    let answers = finish(&mut engine);
    assert_eq!(answers[&1], alone[&1]);
    for id in 2..=4 {
        let (text, _, reason) = &answers[&id];
        let answer: Value = serde_json::from_str(text).unwrap();
        assert_eq!(answer.as_object().unwrap().len(), 2, "{text}");
        assert!(answer["name"].as_str().unwrap().chars().count() <= 20, "{text}");
        assert!((1..=99).contains(&answer["age"].as_i64().unwrap()), "{text}");
        assert_eq!(*reason, FinishReason::Stop);
    }
}

#[test]
fn penalties_and_a_minimum_of_tokens_give_way_to_the_grammar() {
    let mut engine = load(&options()).unwrap();
    let grammars = Grammars::new(&engine.tokenizer()).unwrap();
    let constraint = |regex: &str| grammars.constraint(&Grammar::Regex(regex.into())).unwrap();
    for (id, regex) in [(1, "yes|no"), (2, "(ab)+"), (3, "a{12}")] {
        let mut request = request(&engine, id, 0.0);
        request.sampling.min_tokens = 50;
        request.sampling.frequency_penalty = 2.0;
        submit(&mut engine, request, constraint(regex));
    }
    let answers = finish(&mut engine);
    assert!(["yes", "no"].contains(&answers[&1].0.as_str()), "{answers:?}");
    let (text, tokens, _) = &answers[&2];
    assert!(*tokens >= 50 && text.replace("ab", "").is_empty(), "{answers:?}");
    assert_eq!(answers[&3].0, "a".repeat(12));
}

#[test]
fn a_sequence_that_lost_its_blocks_goes_on_where_its_grammar_was() {
    // The least memory that one sequence fits into.
    let mut limit = 160 << 20;
    let mut engine = loop {
        limit += 2 << 20;
        let options = EngineOptions {
            context_length: Some(160),
            memory_limit: Some(limit),
            ..options()
        };
        match load(&options) {
            Ok(engine) => break engine,
            Err(error) => assert!(matches!(error, LoadError::Memory { .. }), "{error}"),
        }
    };
    let grammars = Grammars::new(&engine.tokenizer()).unwrap();
    let grammar = Grammar::Regex("([0-9]{3}, ){25}end".into());
    for id in 1..=4 {
        let request = request(&engine, id, 1.0);
        submit(&mut engine, request, grammars.constraint(&grammar).unwrap());
    }
    let answers = finish(&mut engine);
    assert!(engine.stats().preemptions > 0, "{:?}", engine.stats());
    for (text, tokens, reason) in answers.values() {
        let parts: Vec<&str> = text.split(", ").collect();
        assert_eq!(
            (parts.len(), parts[25], *reason),
            (26, "end", FinishReason::Stop),
            "{text}"
        );
        assert!(
            parts[..25]
                .iter()
                .all(|part| part.len() == 3 && part.parse::<u16>().is_ok())
        );
        assert!(*tokens > 50);
    }
}
