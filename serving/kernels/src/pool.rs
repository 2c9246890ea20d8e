//! A pool of threads for steps of microseconds: the caller is one of the threads, workers spin for a
//! bounded time and then sleep. An idle pool uses no processor time.
//!
//! A job is one closure that every free thread calls; what it shares out, and how often the threads
//! wait for each other, is its own business (see `team`). A worker that the system does not run delays
//! nobody. A job borrows from its caller's stack, so it never returns, not even by a panic, before
//! every worker that entered it has left.

mod shared;
mod team;

use crate::isa::Isa;
pub(crate) use shared::Shared;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};
pub(crate) use team::{Member, Stages};

/// How long a thread waits awake: longer than the caller's pauses between the barriers of a layer,
/// shorter than anything a scheduler of the system would notice.
const SPIN: Duration = Duration::from_micros(40);

/// A job as the workers see it: a closure over the number of the thread.
type Job = *const (dyn Fn(usize) + Sync);

/// Threads that wait for work, and the instruction set that they use.
pub struct Pool {
    shared: Arc<State>,
    workers: Vec<JoinHandle<()>>,
    isa: Isa,
}

struct State {
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
        let shared = Arc::new(State {
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
        let next = AtomicUsize::new(0);
        self.start(count, &|_| {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    break;
                }
                f(index);
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
        // SAFETY: only the lifetime changes. `State::run` returns when no worker holds the pointer any more.
        let erased = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(job) };
        let own = self.shared.run(JobPointer(erased), &self.workers, || job(0));
        let theirs = lock(&self.shared.panic).take();
        self.shared.busy.store(false, Ordering::Release);
        // The cause, not what follows from it.
        let is_cause = |panic: &Box<dyn Any + Send>| !panic.is::<team::Abandoned>();
        if let Some(panic) = own.err().filter(is_cause).or(theirs) {
            resume_unwind(panic);
        }
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

impl State {
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
                let mut first = lock(&self.panic);
                if first.as_ref().is_none_or(|first| first.is::<team::Abandoned>()) {
                    *first = Some(panic);
                }
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
}
