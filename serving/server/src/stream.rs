//! An answer as server-sent events: opening, texts and closing of each choice, then the usage if
//! asked for, then `[DONE]`. A failure after the first event is an event with an error, and the last.
//! Dropping the stream (the client went away) cancels its answers.
use crate::answer::{Answer, End, Piece};
use crate::error::ApiError;
use crate::reply::Reply;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::stream::{SelectAll, Stream, StreamExt, unfold};
use serde::Serialize;
use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;
use windlass_api::openai::DONE;

/// Proxies cut connections that are silent for a minute or so; a request may wait longer in the queue.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

type Pieces = Pin<Box<dyn Stream<Item = (u32, Result<Piece, ApiError>)> + Send>>;

/// The events of one reply.
pub fn events(reply: Reply, answers: Vec<Answer>) -> Sse<impl Stream<Item = Result<Event, axum::Error>>> {
    let mut ready = VecDeque::new();
    for (index, _) in (0..).zip(&answers) {
        ready.extend(reply.opening(index).map(|body| event(&body)));
    }
    let pieces = (0..)
        .zip(answers)
        .map(|(index, answer)| pieces(index, answer))
        .collect();
    let state = Events {
        reply,
        pieces,
        ready,
        ends: Vec::new(),
        done: false,
    };
    let events = unfold(state, |mut state| async move {
        state.next().await.map(|event| (event, state))
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}

fn pieces(index: u32, answer: Answer) -> Pieces {
    Box::pin(unfold(answer, move |mut answer| async move {
        let piece = answer.next().await.transpose()?;
        Some(((index, piece), answer))
    }))
}

struct Events {
    reply: Reply,
    pieces: SelectAll<Pieces>,
    ready: VecDeque<Result<Event, axum::Error>>,
    ends: Vec<(u32, End)>,
    done: bool,
}

impl Events {
    async fn next(&mut self) -> Option<Result<Event, axum::Error>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.done {
                return None;
            }
            match self.pieces.next().await {
                Some((index, Ok(piece))) => self.piece(index, piece),
                Some((_, Err(error))) => {
                    tracing::error!(detail = error.log_message(), "a stream failed");
                    self.ready.push_back(event(&error.body()));
                    self.pieces.clear();
                    self.done = true;
                }
                None => {
                    self.ready.extend(self.reply.usage(&self.ends).map(|body| event(&body)));
                    self.ready.push_back(Ok(Event::default().data(DONE)));
                    self.done = true;
                }
            }
        }
    }

    fn piece(&mut self, index: u32, piece: Piece) {
        if !piece.text.is_empty() || !piece.tokens.is_empty() {
            self.ready
                .push_back(event(&self.reply.text(index, piece.text, piece.tokens)));
        }
        if !piece.calls.is_empty() {
            self.ready.push_back(event(&self.reply.calls(index, piece.calls)));
        }
        if let Some(end) = piece.end {
            self.ready.push_back(event(&self.reply.closing(index, end.reason)));
            self.ends.push((index, end));
        }
    }
}

fn event(body: &impl Serialize) -> Result<Event, axum::Error> {
    Event::default().json_data(body)
}
