//! A pool of threads for steps of microseconds: the caller is one of the threads, a job is one
//! barrier, workers spin for a bounded time and then sleep. An idle pool uses no processor time.
//!
//! A job borrows from its caller's stack, so `run` never returns, not even by a panic, before every
//! worker has left the job.

use crate::isa::Isa;
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
    /// The number of the current job; it grows when a job is there to be taken, and a worker takes each once.
    epoch: AtomicU64,
    /// The current job. Written only while no worker is in a job.
    job: Mutex<Option<JobPointer>>,
    /// Workers that have not finished the current job.
    pending: AtomicUsize,
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

#[derive(Clone, Copy)]
struct JobPointer(Job);
// SAFETY: the pointee is Sync, and `run` keeps it alive until the last worker is done with it.
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
        let shared = Arc::new(Shared {
            epoch: AtomicU64::new(0),
            job: Mutex::new(None),
            pending: AtomicUsize::new(0),
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

    /// Calls `f` once for every number in `0..threads()`, at the same time, and returns when all are done.
    /// Inside a job of this pool, or while another caller runs one, the calls come one after another.
    ///
    /// # Panics
    /// With the panic of a call, after all have ended.
    pub fn run(&self, f: impl Fn(usize) + Sync) {
        if self.workers.is_empty() || self.shared.busy.swap(true, Ordering::Acquire) {
            (0..self.threads()).for_each(f);
            return;
        }
        let job: &(dyn Fn(usize) + Sync) = &f;
        // SAFETY: only the lifetime changes. `Shared::run` returns when no worker holds the pointer any more.
        let job = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(job) };
        let own = self.shared.run(JobPointer(job), &self.workers, || f(0));
        let theirs = lock(&self.shared.panic).take();
        self.shared.busy.store(false, Ordering::Release);
        if let Some(panic) = own.err().or(theirs) {
            resume_unwind(panic);
        }
    }

    /// Calls `f` once for every index in `0..count`; a free thread takes the next index.
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
        let next = AtomicUsize::new(0);
        let work = |_| {
            let mut own = None;
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return;
                }
                f(own.get_or_insert_with(&state), index);
            }
        };
        // One item is not worth a barrier.
        if count <= 1 { work(0) } else { self.run(work) }
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
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches every panic of a job, so there is nothing to report here.
            drop(worker.join());
        }
    }
}

impl Shared {
    /// Publishes a job, does the caller's part and waits for the workers.
    fn run(&self, job: JobPointer, workers: &[JoinHandle<()>], own: impl FnOnce()) -> std::thread::Result<()> {
        *lock(&self.job) = Some(job);
        self.pending.store(workers.len(), Ordering::SeqCst);
        self.epoch.fetch_add(1, Ordering::SeqCst);
        for (worker, asleep) in workers.iter().zip(&self.asleep) {
            // A worker says that it sleeps before it looks at the epoch for the last time, so either it
            // sees the new epoch or this sees it asleep.
            if asleep.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        let result = catch_unwind(AssertUnwindSafe(own));
        let done = || self.pending.load(Ordering::SeqCst) == 0;
        if !spin_until(done) {
            *lock(&self.caller) = Some(std::thread::current());
            while !done() {
                std::thread::park();
            }
            *lock(&self.caller) = None;
        }
        *lock(&self.job) = None;
        result
    }

    /// The life of worker `index`: take each job once, until the pool is dropped.
    fn work(&self, index: usize) {
        let mut seen = 0;
        loop {
            let fresh = || self.epoch.load(Ordering::SeqCst) != seen;
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
            // The next job cannot start before this worker has finished this one, so there is only one to see.
            seen = self.epoch.load(Ordering::SeqCst);
            let job = *lock(&self.job);
            if let Some(JobPointer(job)) = job {
                // SAFETY: the caller waits in `run` until `pending` is 0, so the closure is alive; it is Sync.
                let job = unsafe { &*job };
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| job(index + 1))) {
                    lock(&self.panic).get_or_insert(panic);
                }
            }
            if self.pending.fetch_sub(1, Ordering::SeqCst) == 1
                && let Some(caller) = &*lock(&self.caller)
            {
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

/// A slice cut into chunks that may be taken out by several threads, each at most once.
struct Chunks<T> {
    start: *mut T,
    len: usize,
    chunk_len: usize,
}

impl<T> Chunks<T> {
    fn new(data: &mut [T], chunk_len: usize) -> Chunks<T> {
        assert!(chunk_len > 0, "chunks of no elements");
        Chunks {
            start: data.as_mut_ptr(),
            len: data.len(),
            chunk_len,
        }
    }

    fn count(&self) -> usize {
        self.len.div_ceil(self.chunk_len)
    }

    /// # Safety
    /// `index` is below `count()`, nobody else holds that chunk, and the slice outlives the use.
    #[allow(clippy::mut_from_ref, reason = "the contract makes chunks disjoint")]
    unsafe fn get(&self, index: usize) -> &mut [T] {
        let from = index * self.chunk_len;
        // SAFETY: the range is inside the slice, and exclusive by the contract above.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), self.chunk_len.min(self.len - from)) }
    }
}
// SAFETY: sharing the chunks hands `&mut [T]` to other threads, which Send elements allow.
unsafe impl<T: Send> Sync for Chunks<T> {}

/// Rows of floats that several threads write, each its own columns.
pub(crate) struct OutRows<'a> {
    start: *mut f32,
    len: usize,
    width: usize,
    borrow: std::marker::PhantomData<&'a mut [f32]>,
}
// SAFETY: the pointer is used only through `write`, whose contract keeps the threads apart.
unsafe impl Sync for OutRows<'_> {}

impl<'a> OutRows<'a> {
    pub(crate) fn new(out: &'a mut [f32], width: usize) -> OutRows<'a> {
        OutRows {
            start: out.as_mut_ptr(),
            len: out.len(),
            width,
            borrow: std::marker::PhantomData,
        }
    }

    /// Writes `values` to row `row` from column `column` on.
    ///
    /// # Safety
    /// No other thread accesses the same elements meanwhile.
    pub(crate) unsafe fn write(&self, row: usize, column: usize, values: &[f32]) {
        let at = row * self.width + column;
        assert!(
            column + values.len() <= self.width && at + values.len() <= self.len,
            "output too short"
        );
        // SAFETY: the assertion keeps the range inside the slice, which stays borrowed; by the contract nobody
        // else is there.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), self.start.add(at), values.len()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_number_is_called_once_a_job() {
        for threads in [1, 2, 3, 5] {
            let pool = Pool::new(threads).unwrap();
            let calls: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
            for _ in 0..2000 {
                pool.run(|i| {
                    calls[i].fetch_add(1, Ordering::Relaxed);
                });
            }
            assert!(
                calls.iter().all(|c| c.load(Ordering::Relaxed) == 2000),
                "{threads} threads"
            );
        }
    }

    #[test]
    fn sleeping_workers_wake_for_a_job() {
        let pool = Pool::new(3).unwrap();
        for _ in 0..20 {
            while !pool.shared.asleep.iter().all(|a| a.load(Ordering::SeqCst)) {
                std::thread::yield_now();
            }
            let sum = AtomicUsize::new(0);
            pool.run(|i| {
                sum.fetch_add(i + 1, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 1 + 2 + 3);
        }
    }

    #[test]
    fn a_panic_in_any_thread_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3).unwrap();
        for bad in 0..3 {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.run(|i| assert!(i != bad, "thread {bad} fails"))
            }));
            let text = caught.unwrap_err();
            assert_eq!(text.downcast_ref::<String>().unwrap(), &format!("thread {bad} fails"));
            let sum = AtomicUsize::new(0);
            pool.run(|i| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 3);
        }
    }

    #[test]
    fn a_job_inside_a_job_runs_on_its_own_thread() {
        let pool = Pool::new(2).unwrap();
        let calls = AtomicUsize::new(0);
        pool.run(|_| {
            pool.run(|_| {
                calls.fetch_add(1, Ordering::Relaxed);
            })
        });
        assert_eq!(calls.into_inner(), 4);
    }

    #[test]
    fn two_callers_at_once_both_finish() {
        let pool = Pool::new(2).unwrap();
        let calls = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    (0..500).for_each(|_| {
                        pool.run(|_| {
                            calls.fetch_add(1, Ordering::Relaxed);
                        })
                    })
                });
            }
        });
        assert_eq!(calls.into_inner(), 2 * 500 * 2);
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
}
