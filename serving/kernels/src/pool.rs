//! A pool of threads for steps of microseconds: the caller is one of the threads, a job is one
//! barrier, workers spin for a bounded time and then sleep. An idle pool uses no processor time.
//!
//! Each thread works through a fixed share of a job; who is done early takes from the shares of the
//! others, so a worker that the system does not run delays nobody. A job borrows from its caller's
//! stack, so it never returns, not even by a panic, before every worker that entered it has left.

mod shares;

use crate::isa::Isa;
use shares::Chunks;
pub(crate) use shares::OutRows;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long a thread waits awake: longer than the caller's pauses between the barriers of a layer,
/// shorter than anything a scheduler of the system would notice.
const SPIN: Duration = Duration::from_micros(40);

/// A job as the workers see it: a closure over the number of the thread.
type Job = *const (dyn Fn(usize) + Sync);

/// Threads that wait for work, and the instruction set that they use.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    isa: Isa,
}

struct Shared {
    /// The number of the current job, to be watched without a lock.
    epoch: AtomicU64,
    current: Mutex<Current>,
    /// Workers that entered the current job and left it.
    left: AtomicUsize,
    /// Set for as long as a job runs: a second one at the same time runs on its caller alone.
    busy: AtomicBool,
    /// Which workers sleep or are about to.
    asleep: Vec<AtomicBool>,
    /// The caller, when it sleeps or is about to.
    caller: Mutex<Option<Thread>>,
    /// The first panic of a worker in the current job.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
}

/// The job that may be entered now.
struct Current {
    epoch: u64,
    job: Option<JobPointer>,
    /// Workers that entered it.
    entered: usize,
}

#[derive(Clone, Copy)]
struct JobPointer(Job);
// SAFETY: the pointee is Sync, and `Pool::start` keeps it alive until every worker that took it has left.
unsafe impl Send for JobPointer {}

/// What of a thread's share is still to do; on a cache line of its own.
#[repr(align(64))]
struct Cursor(AtomicUsize);

impl Pool {
    /// A pool of `threads` threads (at least one), the caller's included, with the best instructions
    /// of this processor.
    ///
    /// # Errors
    /// If the system starts no more threads.
    pub fn new(threads: usize) -> std::io::Result<Pool> {
        Pool::with_isa(threads, Isa::detect())
    }

    /// As `new`, with chosen instructions.
    ///
    /// # Errors
    /// If the system starts no more threads.
    pub fn with_isa(threads: usize, isa: Isa) -> std::io::Result<Pool> {
        let count = threads.max(1) - 1;
        let shared = Arc::new(Shared {
            epoch: AtomicU64::new(0),
            current: Mutex::new(Current {
                epoch: 0,
                job: None,
                entered: 0,
            }),
            left: AtomicUsize::new(0),
            busy: AtomicBool::new(false),
            asleep: (0..count).map(|_| AtomicBool::new(false)).collect(),
            caller: Mutex::new(None),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
        });
        let mut pool = Pool {
            shared,
            workers: Vec::with_capacity(count),
            isa,
        };
        for index in 0..count {
            let shared = Arc::clone(&pool.shared);
            let thread = std::thread::Builder::new().name(format!("kernels-{}", index + 1));
            pool.workers.push(thread.spawn(move || shared.work(index))?);
        }
        Ok(pool)
    }

    /// Threads that take part in a job.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// The instruction set that the pool's kernels use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Calls `f` once for every index in `0..count`, in parallel, and returns when all are done. Inside a job of
    /// this pool, or while another caller runs one, the calls come one after another.
    ///
    /// # Panics
    /// With the panic of a call, after all threads have stopped.
    pub fn for_each_index(&self, count: usize, f: impl Fn(usize) + Sync) {
        self.for_each_index_with(count, || (), |(), index| f(index));
    }

    /// As `for_each_index`, with a state that each thread makes for itself.
    pub(crate) fn for_each_index_with<S>(
        &self,
        count: usize,
        state: impl Fn() -> S + Sync,
        f: impl Fn(&mut S, usize) + Sync,
    ) {
        let threads = self.threads();
        let start = |share: usize| count * share / threads;
        let cursors: Vec<Cursor> = (0..threads)
            .map(|share| Cursor(AtomicUsize::new(start(share))))
            .collect();
        self.start(count, &|thread| {
            let mut own = None;
            for share in (thread..threads).chain(0..thread) {
                loop {
                    let index = cursors[share].0.fetch_add(1, Ordering::Relaxed);
                    if index >= start(share + 1) {
                        break;
                    }
                    f(own.get_or_insert_with(&state), index);
                }
            }
        });
    }

    /// Lets every thread that is free call `job` with its number, the caller as number 0. The job must be complete
    /// when one thread has returned from it and those that began have too.
    fn start(&self, count: usize, job: &(dyn Fn(usize) + Sync)) {
        // One item is not worth a barrier.
        if count <= 1 || self.workers.is_empty() || self.shared.busy.swap(true, Ordering::Acquire) {
            return job(0);
        }
        // SAFETY: only the lifetime changes. `Shared::run` returns when no worker holds the pointer any more.
        let erased = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(job) };
        let own = self.shared.run(JobPointer(erased), &self.workers, || job(0));
        let theirs = lock(&self.shared.panic).take();
        self.shared.busy.store(false, Ordering::Release);
        if let Some(panic) = own.err().or(theirs) {
            resume_unwind(panic);
        }
    }

    /// Cuts `data` into chunks of `chunk_len` (the last may be shorter) and calls `f` with each and its index.
    ///
    /// # Panics
    /// If `chunk_len` is 0, or with the panic of a call.
    pub fn for_each_chunk<T: Send>(&self, data: &mut [T], chunk_len: usize, f: impl Fn(usize, &mut [T]) + Sync) {
        let chunks = Chunks::new(data, chunk_len);
        // SAFETY: `for_each_index` hands out every index once, so no two calls share a chunk.
        self.for_each_index(chunks.count(), |index| f(index, unsafe { chunks.get(index) }));
    }

    /// Cuts two slices into equally many chunks and calls `f` with the chunks of the same index.
    ///
    /// # Panics
    /// If a length is 0, if the numbers of chunks differ, or with the panic of a call.
    pub fn for_each_chunk_pair<A: Send, B: Send>(
        &self,
        (a, a_len): (&mut [A], usize),
        (b, b_len): (&mut [B], usize),
        f: impl Fn(usize, &mut [A], &mut [B]) + Sync,
    ) {
        let (a, b) = (Chunks::new(a, a_len), Chunks::new(b, b_len));
        assert_eq!(
            a.count(),
            b.count(),
            "chunk pairs: the slices have different numbers of chunks"
        );
        // SAFETY: `for_each_index` hands out every index once, so no two calls share a chunk.
        self.for_each_index(a.count(), |index| unsafe { f(index, a.get(index), b.get(index)) });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches every panic of a job, so there is nothing to report here.
            drop(worker.join());
        }
    }
}

impl Shared {
    /// Publishes a job, does the caller's part, closes the job and waits for the workers that are in it.
    fn run(&self, job: JobPointer, workers: &[JoinHandle<()>], own: impl FnOnce()) -> std::thread::Result<()> {
        {
            let mut current = lock(&self.current);
            self.left.store(0, Ordering::SeqCst);
            *current = Current {
                epoch: current.epoch + 1,
                job: Some(job),
                entered: 0,
            };
            self.epoch.store(current.epoch, Ordering::SeqCst);
        }
        for (worker, asleep) in workers.iter().zip(&self.asleep) {
            // A worker says that it sleeps before it looks at the epoch for the last time, so either it
            // sees the new epoch or this sees it asleep.
            if asleep.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        let result = catch_unwind(AssertUnwindSafe(own));
        let entered = {
            let mut current = lock(&self.current);
            current.job = None;
            current.entered
        };
        let done = || self.left.load(Ordering::SeqCst) == entered;
        if !spin_until(done) {
            *lock(&self.caller) = Some(std::thread::current());
            while !done() {
                std::thread::park();
            }
            *lock(&self.caller) = None;
        }
        result
    }

    /// The life of worker `index`: enter each job that is still open, until the pool is dropped.
    fn work(&self, index: usize) {
        let mut seen = 0;
        loop {
            let fresh = || self.epoch.load(Ordering::SeqCst) != seen || self.stop.load(Ordering::SeqCst);
            if !spin_until(fresh) {
                self.asleep[index].store(true, Ordering::SeqCst);
                while !fresh() {
                    std::thread::park();
                }
                self.asleep[index].store(false, Ordering::SeqCst);
            }
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            let job = {
                let mut current = lock(&self.current);
                seen = current.epoch;
                current.entered += usize::from(current.job.is_some());
                current.job
            };
            let Some(JobPointer(job)) = job else { continue };
            // SAFETY: this worker has entered, so the caller waits in `run` until it has left: the closure is alive.
            let job = unsafe { &*job };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| job(index + 1))) {
                lock(&self.panic).get_or_insert(panic);
            }
            self.left.fetch_add(1, Ordering::SeqCst);
            if let Some(caller) = &*lock(&self.caller) {
                caller.unpark();
            }
        }
    }
}

/// Waits awake for at most `SPIN`; whether the condition came true.
fn spin_until(done: impl Fn() -> bool) -> bool {
    let mut until = None;
    loop {
        // The clock costs about as much as a few pauses, so it is read only now and then.
        for _ in 0..32 {
            if done() {
                return true;
            }
            std::hint::spin_loop();
        }
        let now = Instant::now();
        if now > *until.get_or_insert(now + SPIN) {
            return done();
        }
    }
}

/// No code panics while it holds one of the pool's locks, so a poisoned one is still consistent.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::sync::Barrier;

    fn count_calls(pool: &Pool, count: usize) -> Vec<usize> {
        let calls: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
        pool.for_each_index(count, |i| {
            calls[i].fetch_add(1, Ordering::Relaxed);
        });
        calls.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn every_index_is_called_once_a_job() {
        for threads in [1, 2, 3, 5] {
            let pool = Pool::new(threads).unwrap();
            for count in [0, 1, 2, 7, 64] {
                for _ in 0..200 {
                    assert!(
                        count_calls(&pool, count).iter().all(|&calls| calls == 1),
                        "{threads} threads"
                    );
                }
            }
        }
    }

    #[test]
    fn sleeping_workers_wake_and_all_threads_take_part() {
        let pool = Pool::new(3).unwrap();
        for _ in 0..20 {
            while !pool.shared.asleep.iter().all(|a| a.load(Ordering::SeqCst)) {
                std::thread::yield_now();
            }
            // The barrier opens only when three threads hold an index each.
            let (barrier, ids) = (Barrier::new(3), Mutex::new(HashSet::new()));
            pool.for_each_index(3, |_| {
                barrier.wait();
                lock(&ids).insert(std::thread::current().id());
            });
            assert_eq!(lock(&ids).len(), 3);
        }
    }

    #[test]
    fn a_panic_in_any_thread_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3).unwrap();
        for bad in 0..3 {
            let barrier = Barrier::new(3);
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.for_each_index(3, |i| {
                    barrier.wait();
                    assert!(i != bad, "index {bad} fails");
                });
            }));
            assert_eq!(
                caught.unwrap_err().downcast_ref::<String>().unwrap(),
                &format!("index {bad} fails")
            );
            assert!(count_calls(&pool, 100).iter().all(|&calls| calls == 1));
        }
    }

    #[test]
    fn a_job_inside_a_job_runs_on_its_own_thread() {
        let pool = Pool::new(2).unwrap();
        let calls = AtomicUsize::new(0);
        pool.for_each_index(2, |_| {
            pool.for_each_index(3, |_| {
                calls.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(calls.into_inner(), 6);
    }

    #[test]
    fn two_callers_at_once_both_finish() {
        let pool = Pool::new(2).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..300).for_each(|_| assert_eq!(count_calls(&pool, 5), [1; 5])));
            }
        });
    }

    #[test]
    fn chunks_cover_the_slice_once_with_their_index() {
        for threads in [1, 2, 3] {
            let pool = Pool::new(threads).unwrap();
            let mut data = vec![0usize; 103];
            pool.for_each_chunk(&mut data, 10, |index, chunk| {
                assert_eq!(chunk.len(), if index == 10 { 3 } else { 10 });
                chunk.iter_mut().for_each(|x| *x += index + 1);
            });
            assert!(data.iter().enumerate().all(|(i, &x)| x == i / 10 + 1));
        }
    }

    #[test]
    fn chunk_pairs_go_together() {
        let pool = Pool::new(2).unwrap();
        let (mut a, mut b) = (vec![0; 7], vec![0; 20]);
        pool.for_each_chunk_pair((&mut a, 2), (&mut b, 5), |index, a, b| {
            assert_eq!((a.len(), b.len()), (if index == 3 { 1 } else { 2 }, 5));
            a.fill(index);
            b.fill(index);
        });
        assert_eq!(a, [0, 0, 1, 1, 2, 2, 3]);
        assert_eq!(b[15..], [3; 5]);
    }
}
