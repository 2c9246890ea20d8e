//! One job of many stages: every thread of the pool runs the same program, and a stage is over when all of its
//! items are done. A thread that comes late, or never, delays nobody: what it has not claimed the others do, and
//! it runs through the stages that are over without work.

use super::Pool;
use crate::isa::Isa;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Looks at a stage that is not over before the processor is offered to others: some tens of microseconds.
const LOOKS: u32 = 2000;

/// A number that belongs to one job: the job in the high, the number in the low half. What another job left counts
/// as zero, so nothing has to be cleared between jobs. On cache lines of its own.
#[repr(align(128))]
#[derive(Default)]
struct Counter(AtomicU64);

impl Counter {
    /// Adds, and returns the number before.
    fn add(&self, job: u32, more: u32) -> u32 {
        let mut seen = self.0.load(Ordering::Relaxed);
        while (seen >> 32) as u32 != job {
            let fresh = u64::from(job) << 32 | u64::from(more);
            match self
                .0
                .compare_exchange_weak(seen, fresh, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return 0,
                Err(now) => seen = now,
            }
        }
        self.0.fetch_add(u64::from(more), Ordering::AcqRel) as u32
    }

    /// Whether the job has counted to `number`.
    fn is(&self, job: u32, number: u32) -> bool {
        self.0.load(Ordering::Acquire) == u64::from(job) << 32 | u64::from(number)
    }
}

/// The counters of a program of a bounded number of stages.
pub(crate) struct Stages {
    threads: usize,
    job: u32,
    /// stages x threads: how many items of the share of a thread are claimed.
    claimed: Vec<Counter>,
    /// stages: items that are done.
    done: Vec<Counter>,
    /// A thread panicked: the others must not wait for its items.
    failed: AtomicBool,
}

/// The panic of a thread that found another one failed; never the cause.
pub(super) struct Abandoned;

impl Stages {
    /// For programs of up to `count` stages on `pool`.
    pub(crate) fn new(pool: &Pool, count: usize) -> Stages {
        let counters = |count: usize| (0..count).map(|_| Counter::default()).collect();
        Stages {
            threads: pool.threads(),
            job: 0,
            claimed: counters(count * pool.threads()),
            done: counters(count),
            failed: AtomicBool::new(false),
        }
    }
}

/// A thread that runs a program.
pub(crate) struct Member<'a> {
    stages: &'a Stages,
    thread: usize,
    next: Cell<usize>,
    isa: Isa,
}

impl Pool {
    /// Runs `program` on every thread of the pool that is free, the caller included. All calls must go through the
    /// same stages with the same numbers of items.
    ///
    /// # Panics
    /// With the panic of a call, or if `stages` was made for another pool.
    pub(crate) fn run(&self, stages: &mut Stages, program: impl Fn(&Member<'_>) + Sync) {
        assert_eq!(stages.threads, self.threads(), "stages of another pool");
        stages.job = stages.job.wrapping_add(1).max(1);
        *stages.failed.get_mut() = false;
        let stages = &*stages;
        self.start(usize::MAX, &|thread| {
            program(&Member {
                stages,
                thread,
                next: Cell::new(0),
                isa: self.isa(),
            });
        });
    }
}

impl Member<'_> {
    /// Its number; every member of a running program has another one.
    pub(crate) fn thread(&self) -> usize {
        self.thread
    }

    /// What it computes with.
    pub(crate) fn isa(&self) -> Isa {
        self.isa
    }

    /// Takes part in the next stage: `f` is called for every index in `0..count`, each on one of the threads.
    /// Returns when all calls have returned, and what they wrote is to be seen.
    pub(crate) fn stage(&self, count: usize, mut f: impl FnMut(usize)) {
        let number = self.next.replace(self.next.get() + 1);
        let (stages, threads) = (self.stages, self.stages.threads);
        let job = stages.job;
        let claimed = &stages.claimed[number * threads..][..threads];
        let share = |thread: usize| count * thread / threads;
        let guard = Guard(&stages.failed);
        let mut done = 0u32;
        for thread in (self.thread..threads).chain(0..self.thread) {
            let len = share(thread + 1) - share(thread);
            loop {
                let index = claimed[thread].add(job, 1) as usize;
                if index >= len {
                    break;
                }
                f(share(thread) + index);
                done += 1;
            }
        }
        std::mem::forget(guard);
        if done > 0 {
            stages.done[number].add(job, done);
        }
        if count == 0 {
            return;
        }
        let mut looks = 0;
        while !stages.done[number].is(job, count as u32) {
            if stages.failed.load(Ordering::Relaxed) {
                std::panic::resume_unwind(Box::new(Abandoned));
            }
            if looks < LOOKS {
                looks += 1;
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }
}

/// Marks the program as failed when it is dropped, which only a panic does.
struct Guard<'a>(&'a AtomicBool);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::shared::Shared;
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn every_item_of_every_stage_is_done_once_and_seen_by_the_next() {
        for threads in [1, 2, 3] {
            let pool = Pool::new(threads).unwrap();
            let mut stages = Stages::new(&pool, 40);
            for job in 0..300 {
                let count = [0, 1, 2, 7, 64][job % 5];
                let mut data = vec![0usize; count];
                let shared = Shared::new(&mut data);
                pool.run(&mut stages, |member| {
                    for stage in 0..40 {
                        member.stage(count, |index| {
                            // SAFETY: the element of the mirrored index was written in the stage before, and this
                            // stage's writes are one element an item.
                            let before = unsafe { &mut shared.get_mut(index..index + 1)[0] };
                            assert_eq!(*before, stage);
                            *before += 1;
                        });
                    }
                });
                assert!(data.iter().all(|&x| x == 40), "{threads} threads, {count} items");
            }
        }
    }

    #[test]
    fn a_panic_in_a_stage_reaches_the_caller_with_its_own_words() {
        let pool = Pool::new(3).unwrap();
        let mut stages = Stages::new(&pool, 2);
        for bad in 0..30 {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.run(&mut stages, |member| {
                    member.stage(30, |index| assert!(index != bad, "item {index} fails"));
                    member.stage(30, |_| {});
                });
            }));
            let message = caught.unwrap_err();
            assert_eq!(message.downcast_ref::<String>().unwrap(), &format!("item {bad} fails"));
        }
        pool.run(&mut stages, |member| member.stage(3, |_| {}));
    }

    #[test]
    fn a_program_inside_a_job_runs_on_its_own_thread() {
        let pool = Pool::new(2).unwrap();
        let calls = AtomicU64::new(0);
        pool.for_each_index(2, |_| {
            let mut stages = Stages::new(&pool, 1);
            pool.run(&mut stages, |member| {
                member.stage(3, |_| {
                    calls.fetch_add(1, Ordering::Relaxed);
                });
            });
        });
        assert_eq!(calls.into_inner(), 6);
    }
}
