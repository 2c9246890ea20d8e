//! The synchronous engine on a thread of its own, and the cheap handle that tasks hold. The thread
//! only steps and passes token ids on; text, JSON and sockets belong to the tasks. A sequence's
//! channel holds at most one update a token of prompt and answer, so a slow reader neither blocks a step nor grows
//! without bound; the number of sequences is bounded by permits. Dropping a `Ticket` cancels its
//! sequence; dropping the last handle ends the thread.
use crate::model_thread::{self, ModelThread};
use crate::progress::Progress;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use windlass_engine::request::{AdmitError, Event, FinishReason, Logprobs, Request, RequestId, Stats, Usage};

/// What the thread needs of an engine; the seam where tests put one that is slow on purpose.
pub trait Backend {
    /// Queues a sequence.
    fn submit(&mut self, request: Request) -> Result<(), AdmitError>;
    /// Forgets a sequence, whatever its state; unknown ids are ignored.
    fn cancel(&mut self, id: RequestId);
    /// Whether `step` has something to do.
    fn has_work(&self) -> bool;
    /// Computes one step and appends what it produced.
    fn step(&mut self, events: &mut Vec<Event>);
    /// How long the last step took.
    fn learn(&mut self, took: Duration);
    /// Counters and gauges.
    fn stats(&self) -> Stats;
}

/// What happens to a sequence, in order: `Admitted` or `Refused`; `Started`; its prompt's probabilities, tokens and what
/// ended them; `Finished`.
#[derive(Debug, Clone, PartialEq)]
pub enum Update {
    /// The engine has queued it.
    Admitted,
    /// The engine does not take it; nothing follows.
    Refused(AdmitError),
    /// It is part of a step for the first time.
    Started {
        /// Prompt tokens that the prefix cache served.
        cached_tokens: usize,
        /// When this step began.
        at: Instant,
    },
    /// How likely the next tokens of the prompt were, from its second on; if they were asked for.
    Prompt(Vec<Logprobs>),
    /// The token that ended the answer and is no part of it; if the prompt's probabilities were asked for.
    Ended {
        /// Its id.
        token: u32,
        /// How likely it was.
        logprobs: Box<Logprobs>,
    },
    /// The next token.
    Token {
        /// Its id.
        token: u32,
        /// If they were asked for.
        logprobs: Option<Box<Logprobs>>,
        /// When its step ended.
        at: Instant,
    },
    /// Nothing follows.
    Finished {
        /// Why.
        reason: FinishReason,
        /// What it used.
        usage: Usage,
        /// When its step ended.
        at: Instant,
    },
}

enum Command {
    Submit { request: Box<Request>, sequence: Sequence },
    Cancel(RequestId),
}

/// The thread's side of a sequence. The permit frees a place in the queue when this is dropped.
struct Sequence {
    updates: UnboundedSender<Update>,
    _permit: OwnedSemaphorePermit,
}

/// State that both sides see.
#[derive(Debug)]
struct Shared {
    stats: Mutex<Stats>,
    /// Of the sequences submitted and not ended.
    progress: Progress,
}

/// How tasks reach the engine.
#[derive(Debug, Clone)]
pub struct EngineHandle {
    commands: Sender<Command>,
    permits: Arc<Semaphore>,
    shared: Arc<Shared>,
    next_id: Arc<AtomicU64>,
}

/// A submitted sequence. Dropping it cancels it.
#[derive(Debug)]
pub struct Ticket {
    id: RequestId,
    updates: UnboundedReceiver<Update>,
    commands: Sender<Command>,
    ended: bool,
}

/// Starts the thread. `load` runs on it and gives the backend and whatever the tasks need.
/// `capacity` is the number of sequences that may run and wait together.
pub fn start<B, T, E>(
    capacity: usize,
    load: impl FnOnce() -> Result<(B, T), E> + Send + 'static,
) -> std::io::Result<ModelThread<(EngineHandle, T), E>>
where
    B: Backend,
    T: Send + 'static,
    E: Send + 'static,
{
    model_thread::start("engine", move || {
        let (backend, extra) = load()?;
        let (commands, received) = channel();
        let stats = Stats {
            running: 0,
            ..backend.stats()
        };
        let shared = Arc::new(Shared {
            stats: Mutex::new(stats),
            progress: Progress::new(),
        });
        let handle = EngineHandle {
            commands,
            permits: Arc::new(Semaphore::new(capacity.min(Semaphore::MAX_PERMITS))),
            shared: shared.clone(),
            next_id: Arc::new(AtomicU64::new(1)),
        };
        let engine = EngineLoop {
            backend,
            commands: received,
            shared,
            live: HashMap::new(),
        };
        Ok(((handle, extra), move || engine.run()))
    })
}

impl EngineHandle {
    /// Places for `count` sequences at once, or nothing.
    pub fn reserve(&self, count: u32) -> Option<OwnedSemaphorePermit> {
        self.permits.clone().try_acquire_many_owned(count).ok()
    }

    /// An id that no other sequence has.
    pub fn next_id(&self) -> RequestId {
        RequestId(self.next_id.fetch_add(1, Ordering::Relaxed))
    }

    /// Hands a sequence to the engine; its fate comes through the ticket.
    pub fn submit(&self, request: Request, place: OwnedSemaphorePermit) -> Ticket {
        let (sender, updates) = unbounded_channel();
        let id = request.id;
        self.shared.progress.begin();
        let sequence = Sequence {
            updates: sender,
            _permit: place,
        };
        let request = Box::new(request);
        if self.commands.send(Command::Submit { request, sequence }).is_err() {
            // The thread is gone; the ticket's channel is closed, which its reader reports.
            self.shared.progress.end();
        }
        Ticket {
            id,
            updates,
            commands: self.commands.clone(),
            ended: false,
        }
    }

    /// Counters and gauges after the last step. `waiting` counts what the thread has not seen yet, too.
    pub fn stats(&self) -> Stats {
        let mut stats = self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner).clone();
        stats.waiting = self.in_flight().saturating_sub(stats.running);
        stats
    }

    /// Sequences submitted and not ended.
    pub fn in_flight(&self) -> usize {
        self.shared.progress.in_flight()
    }

    /// How long there has been work and no step; `None` without work.
    pub fn stalled_for(&self) -> Option<Duration> {
        self.shared.progress.stalled_for()
    }
}

impl Ticket {
    /// The next update; `None` after the last one, or when the engine is gone.
    pub async fn next(&mut self) -> Option<Update> {
        let update = self.updates.recv().await;
        self.ended |= matches!(update, None | Some(Update::Refused(_) | Update::Finished { .. }));
        update
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.ended {
            // Without a thread there is nothing to cancel.
            drop(self.commands.send(Command::Cancel(self.id)));
        }
    }
}

struct EngineLoop<B> {
    backend: B,
    commands: Receiver<Command>,
    shared: Arc<Shared>,
    live: HashMap<RequestId, Sequence>,
}

impl<B: Backend> EngineLoop<B> {
    /// Until every handle and every ticket is gone: then nobody is left to read an answer.
    fn run(mut self) {
        let mut events = Vec::new();
        while self.take_commands() {
            if self.backend.has_work() {
                let begin = Instant::now();
                self.backend.step(&mut events);
                self.shared.progress.step();
                let end = Instant::now();
                self.backend.learn(end - begin);
                events.drain(..).for_each(|event| self.dispatch(event, begin, end));
            }
            self.publish();
        }
    }

    /// Applies what has arrived; without work it waits. False when there will be no more.
    fn take_commands(&mut self) -> bool {
        if !self.backend.has_work() {
            match self.commands.recv() {
                Ok(command) => self.apply(command),
                Err(_) => return false,
            }
        }
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.apply(command),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn apply(&mut self, command: Command) {
        match command {
            Command::Submit { request, sequence } => {
                let id = request.id;
                match self.backend.submit(*request) {
                    Ok(()) => {
                        send(&sequence, Update::Admitted);
                        self.live.insert(id, sequence);
                    }
                    Err(error) => {
                        send(&sequence, Update::Refused(error));
                        self.shared.progress.end();
                    }
                }
            }
            Command::Cancel(id) => {
                if let Some(sequence) = self.live.remove(&id) {
                    self.backend.cancel(id);
                    self.shared.progress.end();
                    drop(sequence); // last, as its place is free from here on
                }
            }
        }
    }

    fn dispatch(&mut self, event: Event, begin: Instant, at: Instant) {
        match event {
            Event::Started { id, cached_tokens } => {
                if let Some(sequence) = self.live.get(&id) {
                    send(
                        sequence,
                        Update::Started {
                            cached_tokens,
                            at: begin,
                        },
                    );
                }
            }
            Event::Prompt { id, logprobs } => {
                if let Some(sequence) = self.live.get(&id) {
                    send(sequence, Update::Prompt(logprobs));
                }
            }
            Event::Ended { id, token, logprobs } => {
                if let Some(sequence) = self.live.get(&id) {
                    send(sequence, Update::Ended { token, logprobs });
                }
            }
            Event::Token { id, token, logprobs } => {
                if let Some(sequence) = self.live.get(&id) {
                    send(sequence, Update::Token { token, logprobs, at });
                }
            }
            Event::Finished { id, reason, usage } => {
                if let Some(sequence) = self.live.remove(&id) {
                    self.shared.progress.end();
                    send(&sequence, Update::Finished { reason, usage, at });
                }
            }
        }
    }

    fn publish(&self) {
        let mut stats = self.backend.stats();
        if self.live.is_empty() {
            // "Part of the last step" is true of a cancelled sequence until the next step, which may never come.
            stats.running = 0;
        }
        *self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }
}

/// A reader that is gone has sent, or will send, a cancellation: nothing to do here.
fn send(sequence: &Sequence, update: Update) {
    drop(sequence.updates.send(update));
}

#[cfg(test)]
mod tests;
