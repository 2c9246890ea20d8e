//! The embedder on a thread of its own, and the handle that tasks hold. What waits is computed together, up to a number of
//! tokens a batch, one input of every request in turn: a request with a thousand inputs does not hold up a request with
//! one. The queue is bounded in tokens; a request whose caller is gone is dropped. Dropping the last handle ends the thread.
use crate::model_thread::{self, ModelThread};
use crate::progress::Progress;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use windlass_engine::embed::EmbedError;
use windlass_engine::request::Stats;

/// A vector for each input of a batch, or why it has none.
pub type Vectors = Vec<Result<Vec<f32>, EmbedError>>;

/// What a request gets: a vector for each input, or the first input that has none.
pub type Answer = Result<Vec<Vec<f32>>, (usize, EmbedError)>;

/// Bounds of the queue and of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Tokens that run and wait together. A longer request takes the whole queue.
    pub queue_tokens: usize,
    /// Tokens of a batch, unless a single input has more.
    pub batch_tokens: usize,
}

struct Job {
    inputs: Vec<Vec<u32>>,
    vectors: Vec<Vec<f32>>,
    /// Tokens without a vector.
    left: usize,
    place: OwnedSemaphorePermit,
    reply: oneshot::Sender<Answer>,
    progress: InFlight,
}

/// Counts a request for as long as it lives.
struct InFlight(Arc<Shared>);

impl InFlight {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.progress.begin();
        Self(shared.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.progress.end();
    }
}

/// State that both sides see.
#[derive(Debug)]
struct Shared {
    progress: Progress,
    /// Requests with inputs in the batch that runs.
    running: AtomicUsize,
    tokens: AtomicU64,
}

/// How tasks reach the embedder.
#[derive(Debug, Clone)]
pub struct EmbedHandle {
    jobs: Sender<Job>,
    places: Arc<Semaphore>,
    capacity: usize,
    shared: Arc<Shared>,
}

/// Starts the thread. `load` runs on it and gives what computes a batch, the bounds, and whatever the tasks need.
pub fn start<F, T, E>(
    load: impl FnOnce() -> Result<(F, Limits, T), E> + Send + 'static,
) -> std::io::Result<ModelThread<(EmbedHandle, T), E>>
where
    F: FnMut(&[&[u32]]) -> Vectors,
    T: Send + 'static,
    E: Send + 'static,
{
    model_thread::start("embedder", move || {
        let (embed, limits, extra) = load()?;
        let (jobs, received) = channel();
        let shared = Arc::new(Shared {
            progress: Progress::new(),
            running: AtomicUsize::new(0),
            tokens: AtomicU64::new(0),
        });
        let capacity = limits
            .queue_tokens
            .clamp(1, (u32::MAX as usize).min(Semaphore::MAX_PERMITS));
        let handle = EmbedHandle {
            jobs,
            places: Arc::new(Semaphore::new(capacity)),
            capacity,
            shared: shared.clone(),
        };
        let serve = move || run(embed, limits.batch_tokens, &received, &shared);
        Ok(((handle, extra), serve))
    })
}

impl EmbedHandle {
    /// Whether a request would be refused, whatever its size.
    pub fn is_full(&self) -> bool {
        self.places.available_permits() == 0
    }

    /// Queues a request; `None` when it does not fit. The answer comes through the receiver, and dropping that cancels it.
    pub fn submit(&self, inputs: Vec<Vec<u32>>) -> Option<oneshot::Receiver<Answer>> {
        let tokens: usize = inputs.iter().map(Vec::len).sum();
        let count = u32::try_from(tokens.clamp(1, self.capacity)).ok()?;
        let place = self.places.clone().try_acquire_many_owned(count).ok()?;
        let (reply, answer) = oneshot::channel();
        let job = Job {
            vectors: Vec::with_capacity(inputs.len()),
            inputs,
            left: tokens,
            place,
            reply,
            progress: InFlight::new(&self.shared),
        };
        // When the thread is gone, so is the sender of the answer, which its reader reports.
        drop(self.jobs.send(job));
        Some(answer)
    }

    /// Gauges and counters, as far as an embedder has such.
    pub fn stats(&self) -> Stats {
        let running = self.shared.running.load(Ordering::Acquire);
        Stats {
            running,
            waiting: self.shared.progress.in_flight().saturating_sub(running),
            prompt_tokens: self.shared.tokens.load(Ordering::Acquire),
            ..Stats::default()
        }
    }

    /// How long there has been work and no step; `None` without work.
    pub fn stalled_for(&self) -> Option<Duration> {
        self.shared.progress.stalled_for()
    }
}

/// Until every handle is gone: then nobody is left to read an answer.
fn run(mut embed: impl FnMut(&[&[u32]]) -> Vectors, batch_tokens: usize, received: &Receiver<Job>, shared: &Shared) {
    let mut queue: VecDeque<Job> = VecDeque::new();
    loop {
        if queue.is_empty() {
            match received.recv() {
                Ok(job) => queue.push_back(job),
                Err(_) => return,
            }
        }
        queue.extend(received.try_iter());
        queue.retain(|job| !job.reply.is_closed());
        let batch = choose(&queue, batch_tokens);
        let inputs: Vec<&[u32]> = batch
            .iter()
            .map(|&(job, input)| queue[job].inputs[input].as_slice())
            .collect();
        // A request's first input in the batch is that of its next vector.
        let requests = batch.iter().filter(|&&(job, input)| input == queue[job].vectors.len());
        shared.running.store(requests.count(), Ordering::Release);
        let vectors = embed(&inputs);
        let tokens: usize = inputs.iter().map(|input| input.len()).sum();
        shared.tokens.fetch_add(tokens as u64, Ordering::AcqRel);
        shared.running.store(0, Ordering::Release);
        shared.progress.step();
        let mut failed = vec![None; queue.len()];
        for ((job, input), vector) in batch.into_iter().zip(vectors) {
            match vector {
                Ok(vector) => queue[job].take(vector),
                Err(error) => failed[job] = failed[job].take().or(Some((input, error))),
            }
        }
        // Who was first goes last, so that a small budget reaches everybody.
        for failed in failed {
            if let Some(job) = queue.pop_front() {
                match failed {
                    Some(error) => job.answer(|_| Err(error)),
                    None if job.vectors.len() == job.inputs.len() => job.answer(Ok),
                    None => queue.push_back(job),
                }
            }
        }
        if let Some(first) = queue.pop_front() {
            queue.push_back(first);
        }
    }
}

/// One input of each job in turn, as long as they fit: (job, input). An input that is too long for any batch has its own.
fn choose(queue: &VecDeque<Job>, batch_tokens: usize) -> Vec<(usize, usize)> {
    let (mut batch, mut tokens) = (Vec::new(), 0);
    for turn in 0.. {
        let before = batch.len();
        for (index, job) in queue.iter().enumerate() {
            // Vectors come in the order of the inputs.
            let input = job.vectors.len() + turn;
            let Some(len) = job.inputs.get(input).map(Vec::len) else {
                continue;
            };
            if batch.is_empty() || tokens + len <= batch_tokens {
                batch.push((index, input));
                tokens += len;
            } else {
                // Nothing of a later turn may overtake it.
                return batch;
            }
        }
        if batch.len() == before {
            break;
        }
    }
    batch
}

impl Job {
    /// The next vector. What the rest does not need of the queue is free again.
    fn take(&mut self, vector: Vec<f32>) {
        self.left -= self.inputs[self.vectors.len()].len();
        self.vectors.push(vector);
        let spare = self.place.num_permits().saturating_sub(self.left);
        drop(self.place.split(spare));
    }

    /// The caller may be gone: then nobody misses the answer.
    fn answer(self, make: impl FnOnce(Vec<Vec<f32>>) -> Answer) {
        let Job {
            vectors,
            place,
            reply,
            progress,
            ..
        } = self;
        // Before the answer: whoever has it finds its place free.
        drop((place, progress));
        drop(reply.send(make(vectors)));
    }
}

#[cfg(test)]
mod tests;
