//! What a recorded answer says: when its texts came, and how many tokens they are.
//!
//! A token is counted where the server counts it, in the stream's `usage`; an event may carry several tokens or,
//! while a character is incomplete, none. Only a server that sends no usage has its events counted.
use crate::client::Recording;
use crate::sse::{Event, events};
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use serde::Deserialize;
use std::time::{Duration, Instant};
use windlass_api::openai::DONE;

/// One answer in numbers; times are in milliseconds, from the moment at which the request was due.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Until the first text.
    pub ttft: f64,
    /// Until the end of the body.
    pub latency: f64,
    /// Between events with text.
    pub gaps: Vec<f64>,
    /// (last text - first text) / (tokens - 1), as vLLM defines it; nothing for a single token.
    pub tpot: Option<f64>,
    /// Generated tokens.
    pub tokens: u64,
    /// Whether the server counted them; otherwise they are events with text.
    pub counted_by_server: bool,
    /// Events with text.
    pub events: usize,
    /// Tokens of the prompt, if the server says.
    pub prompt_tokens: u64,
    /// Those of them that came from a cache, if the server says.
    pub cached_tokens: u64,
}

impl Sample {
    /// Reads a recording of a streamed answer.
    pub fn new(recording: &Recording) -> Result<Self> {
        if let Some(failure) = &recording.failure {
            bail!("{failure}");
        }
        let pieces = recording
            .pieces
            .iter()
            .map(|(at, piece): &(Instant, Bytes)| (*at, piece));
        Self::read(recording.due, recording.end, events(pieces))
    }

    fn read(due: Instant, end: Instant, mut events: Vec<Event<Instant>>) -> Result<Self> {
        let last = events.pop().context("an answer without events")?;
        ensure!(last.data == DONE, "the stream ended without {DONE}");
        let (mut texts, mut usage) = (Vec::new(), None);
        for event in &events {
            let chunk: Chunk =
                serde_json::from_str(&event.data).with_context(|| format!("the event {:?}", event.data))?;
            if let Some(error) = chunk.error {
                bail!("an error in the stream: {error}");
            }
            if chunk.choices.iter().any(Choice::has_text) {
                texts.push(event.at);
            }
            usage = chunk.usage.or(usage);
        }
        let (Some(&first), Some(&newest)) = (texts.first(), texts.last()) else {
            bail!("an answer without text");
        };
        let tokens = usage
            .as_ref()
            .map_or(texts.len() as u64, |usage| usage.completion_tokens);
        Ok(Self {
            ttft: millis(first - due),
            latency: millis(end - due),
            gaps: texts.windows(2).map(|pair| millis(pair[1] - pair[0])).collect(),
            tpot: (tokens > 1).then(|| millis(newest - first) / (tokens - 1) as f64),
            tokens,
            counted_by_server: usage.is_some(),
            events: texts.len(),
            prompt_tokens: usage.as_ref().map_or(0, |usage| usage.prompt_tokens),
            cached_tokens: usage
                .and_then(|usage| usage.prompt_tokens_details)
                .and_then(|details| details.cached_tokens)
                .unwrap_or(0),
        })
    }
}

/// A span in milliseconds.
pub fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

/// What we read of an event, from any server; the types of `windlass-api` are stricter than peers are.
#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Choice {
    text: Option<String>,
    delta: Option<Delta>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
    reasoning_content: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    prompt_tokens_details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    cached_tokens: Option<u64>,
}

impl Choice {
    fn has_text(&self) -> bool {
        let delta = self
            .delta
            .iter()
            .flat_map(|delta| [&delta.content, &delta.reasoning_content]);
        delta.chain([&self.text]).flatten().any(|text| !text.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer whose events come at the given milliseconds.
    fn sample(events: &[(u64, &str)]) -> Result<Sample> {
        let due = Instant::now();
        let at = |ms| due + Duration::from_millis(ms);
        let end = at(events.last().unwrap().0);
        let events = events.iter().map(|&(ms, data)| Event {
            at: at(ms),
            data: data.to_owned(),
        });
        Sample::read(due, end, events.collect())
    }

    const TEXT: &str = r#"{"choices":[{"index":0,"text":"a"}]}"#;
    const EMPTY: &str = r#"{"choices":[{"index":0,"text":"","finish_reason":"length"}],"usage":null}"#;
    const USAGE: &str = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":5,"total_tokens":14,"prompt_tokens_details":{"cached_tokens":4}}}"#;

    #[test]
    fn tokens_are_those_of_the_usage_and_times_those_of_the_texts() {
        let sample = sample(&[(10, TEXT), (30, TEXT), (50, TEXT), (60, EMPTY), (61, USAGE), (62, DONE)]).unwrap();
        assert_eq!((sample.ttft, sample.latency), (10.0, 62.0));
        assert_eq!(sample.gaps, [20.0, 20.0]);
        assert_eq!((sample.tokens, sample.counted_by_server, sample.events), (5, true, 3));
        assert_eq!(sample.tpot, Some(10.0));
        assert_eq!((sample.prompt_tokens, sample.cached_tokens), (9, 4));
    }

    #[test]
    fn without_a_usage_events_with_text_are_counted() {
        let sample = sample(&[(10, TEXT), (30, EMPTY), (50, TEXT), (62, DONE)]).unwrap();
        assert_eq!((sample.tokens, sample.counted_by_server), (2, false));
        assert_eq!(sample.tpot, Some(40.0));
    }

    #[test]
    fn the_first_text_of_a_chat_is_not_its_role() {
        let role = r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":null}}]}"#;
        let text = r#"{"choices":[{"index":0,"delta":{"content":"Hi"}}]}"#;
        assert_eq!(sample(&[(10, role), (30, text), (62, DONE)]).unwrap().ttft, 30.0);
    }

    #[test]
    fn an_answer_that_is_not_whole_is_a_failure() {
        let error = r#"{"error":{"message":"out of memory"}}"#;
        for (events, message) in [
            (vec![(10, TEXT)], "without [DONE]"),
            (vec![(10, EMPTY), (11, DONE)], "without text"),
            (vec![(10, TEXT), (11, error), (12, DONE)], "out of memory"),
            (vec![(10, "no json"), (12, DONE)], "no json"),
        ] {
            let failure = sample(&events).unwrap_err().to_string();
            assert!(failure.contains(message), "{failure}");
        }
    }
}
