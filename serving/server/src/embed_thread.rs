//! The embedder on a thread of its own, and the handle that tasks hold. What waits is computed together, up to a number of
//! tokens a batch, one input of every request in turn: a request with a thousand inputs does not hold up a request with
//! one. The queue is bounded in tokens; a request whose caller is gone is dropped. Dropping the last handle ends the thread.
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

/// The started thread, as its owner sees it.
#[derive(Debug)]
pub struct EmbedThread<T, E> {
    /// The result of loading, once; an error of receiving when the thread panicked before.
    pub loaded: oneshot::Receiver<Result<(EmbedHandle, T), E>>,
    /// Resolves, always to an error of receiving, when the thread has ended for whatever reason.
    pub ended: oneshot::Receiver<()>,
}

/// Starts the thread. `load` runs on it and gives what computes a batch, the bounds, and whatever the tasks need.
pub fn start<F, T, E>(
    load: impl FnOnce() -> Result<(F, Limits, T), E> + Send + 'static,
) -> std::io::Result<EmbedThread<T, E>>
where
    F: FnMut(&[&[u32]]) -> Vectors,
    T: Send + 'static,
    E: Send + 'static,
{
    let (report, loaded) = oneshot::channel();
    let (alive, ended) = oneshot::channel::<()>();
    let body = move || {
        let _alive = alive; // dropped at the end of the thread, also by a panic
        let (embed, limits, extra) = match load() {
            Ok(loaded) => loaded,
            // When nobody waits for the result any more, the process is about to end.
            Err(error) => return drop(report.send(Err(error))),
        };
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
        drop(report.send(Ok((handle, extra))));
        run(embed, limits.batch_tokens, &received, &shared);
    };
    std::thread::Builder::new().name("embedder".to_owned()).spawn(body)?;
    Ok(EmbedThread { loaded, ended })
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
mod tests {
    use super::*;

    /// A vector is its input's tokens; the token 666 has none. Batches are told, and wait to be let through.
    fn start_slow(limits: Limits) -> (EmbedHandle, Sender<()>, Receiver<Vec<Vec<u32>>>) {
        let (gate, open) = channel::<()>();
        let (tell, told) = channel();
        let embed = move |inputs: &[&[u32]]| -> Vectors {
            drop(tell.send(inputs.iter().map(|input| input.to_vec()).collect::<Vec<_>>()));
            open.recv().ok(); // a gate that is gone is open
            let vector = |input: &&[u32]| match input.contains(&666) {
                true => Err(EmbedError::NotFinite),
                false => Ok(input.iter().map(|&token| token as f32).collect()),
            };
            inputs.iter().map(vector).collect()
        };
        let thread = start(move || Ok::<_, ()>((embed, limits, ()))).unwrap();
        let (handle, ()) = thread.loaded.blocking_recv().unwrap().unwrap();
        (handle, gate, told)
    }

    const LIMITS: Limits = Limits {
        queue_tokens: 20,
        batch_tokens: 4,
    };

    #[test]
    fn a_small_request_does_not_wait_for_a_large_one() {
        let (handle, gate, told) = start_slow(LIMITS);
        let large = handle.submit((0..8).map(|i| vec![i, i]).collect()).unwrap();
        assert_eq!(told.recv(), Ok(vec![vec![0, 0], vec![1, 1]]));
        let small = handle.submit(vec![vec![9]]).unwrap();
        gate.send(()).unwrap();
        let second = told.recv().unwrap();
        assert!(second.contains(&vec![9]), "{second:?}");
        (0..4).for_each(|_| gate.send(()).unwrap());
        assert_eq!(small.blocking_recv().unwrap(), Ok(vec![vec![9.0]]));
        let want: Vec<Vec<f32>> = (0..8).map(|i| vec![i as f32; 2]).collect();
        assert_eq!(large.blocking_recv().unwrap(), Ok(want));
        assert_eq!((handle.stalled_for(), handle.stats().prompt_tokens), (None, 17));
    }

    #[test]
    fn the_queue_is_bounded_and_frees_what_was_computed() {
        let (handle, gate, told) = start_slow(LIMITS);
        let first = handle.submit(vec![vec![1; 4], vec![2; 4], vec![3; 12]]).unwrap();
        assert!(handle.is_full() && handle.submit(vec![vec![4]]).is_none());
        told.recv().unwrap();
        gate.send(()).unwrap();
        told.recv().unwrap();
        let second = handle.submit(vec![vec![4; 3]]).unwrap();
        // Larger than the whole queue: when that is empty, and only then.
        assert!(handle.submit(vec![vec![5; 50]]).is_none());
        drop(gate);
        assert!(first.blocking_recv().unwrap().is_ok() && second.blocking_recv().unwrap().is_ok());
        let third = handle.submit(vec![vec![5; 50]]).unwrap();
        assert!(third.blocking_recv().unwrap().is_ok());
    }

    #[test]
    fn an_input_without_a_vector_fails_its_own_request_alone() {
        let (handle, gate, _told) = start_slow(LIMITS);
        drop(gate);
        let bad = handle.submit(vec![vec![1], vec![666], vec![2]]).unwrap();
        let good = handle.submit(vec![vec![3]]).unwrap();
        assert_eq!(bad.blocking_recv().unwrap(), Err((1, EmbedError::NotFinite)));
        assert_eq!(good.blocking_recv().unwrap(), Ok(vec![vec![3.0]]));
    }

    #[test]
    fn a_request_whose_caller_is_gone_is_not_computed() {
        let (handle, gate, told) = start_slow(LIMITS);
        let first = handle.submit(vec![vec![1]]).unwrap();
        told.recv().unwrap();
        drop(handle.submit(vec![vec![2]]).unwrap());
        let third = handle.submit(vec![vec![3]]).unwrap();
        drop(gate);
        assert!(first.blocking_recv().unwrap().is_ok() && third.blocking_recv().unwrap().is_ok());
        assert_eq!(told.recv(), Ok(vec![vec![3]]));
    }
}
