//! How much work there is, and when it last went on: what `/health/live` judges.
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The progress of one thread that computes.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    in_flight: AtomicUsize,
    /// Milliseconds after `started` of the last sign of life: a step, or the first work after none.
    last: AtomicU64,
}

impl Progress {
    /// Without work.
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
            in_flight: AtomicUsize::new(0),
            last: AtomicU64::new(0),
        }
    }

    /// There is more work by one.
    pub fn begin(&self) {
        if self.in_flight.fetch_add(1, Ordering::AcqRel) == 0 {
            self.step();
        }
    }

    /// There is less work by one.
    pub fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
    }

    /// Something was computed.
    pub fn step(&self) {
        let millis = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(millis, Ordering::Release);
    }

    /// Work that has begun and not ended.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    /// How long there has been work and no step; `None` without work.
    pub fn stalled_for(&self) -> Option<Duration> {
        if self.in_flight() == 0 {
            return None;
        }
        let last = Duration::from_millis(self.last.load(Ordering::Acquire));
        Some(self.started.elapsed().saturating_sub(last))
    }
}
