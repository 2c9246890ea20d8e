//! What every reconcile shares: clients, settings, the writer, the cache, the counters.
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use kube::Client;

pub use crate::args::Settings;
use crate::{
    cluster::{
        apply::Writer,
        cache::{Cache, ObjectKey},
        progress::Progress,
        schema_skew::SchemaSkew,
        watch::Triggers,
    },
    kind::Look,
    metrics::Metrics,
};

/// First and last delay after failures of the same object: 1, 2, 4, … 256, 300 s.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(300);

/// What every reconcile shares.
pub struct Context {
    pub client: Client,
    pub writer: Writer,
    pub cache: Cache,
    pub triggers: Triggers,
    pub progress: Progress,
    pub settings: Settings,
    pub metrics: Metrics,
    pub backoff: Backoff,
    pub pace: Pace,
    pub skew: SchemaSkew,
}

/// How long the operator waits before it looks again although nothing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// At a settled object.
    pub settled: Duration,
    /// While something is under way that no watch shows.
    pub busy: Duration,
    /// While people or the cluster have to act.
    pub waiting: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            settled: Duration::from_secs(720),
            busy: Duration::from_secs(10),
            waiting: Duration::from_secs(120),
        }
    }
}

impl Pace {
    /// All waits at most so long, for tests that observe the operator at rest.
    pub fn at_most(self, limit: Duration) -> Self {
        Self {
            settled: self.settled.min(limit),
            busy: self.busy.min(limit),
            waiting: self.waiting.min(limit),
        }
    }

    /// The wait.
    pub fn of(self, look: Look) -> Duration {
        match look {
            Look::Settled => self.settled,
            Look::Busy => self.busy,
            Look::Waiting => self.waiting,
            Look::Within(limit) => self.waiting.min(limit),
        }
    }
}

/// Failures in a row, for each object.
#[derive(Default)]
pub struct Backoff(Mutex<HashMap<ObjectKey, u32>>);

impl Backoff {
    /// The delay after one more failure of this object.
    pub fn failed(&self, object: &ObjectKey) -> Duration {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(object.clone()).or_default();
        let delay = FIRST_RETRY.saturating_mul(1_u32.checked_shl(*count).unwrap_or(u32::MAX));
        *count = count.saturating_add(1).min(16);
        delay.min(LAST_RETRY)
    }

    /// The object was reconciled, or is gone.
    pub fn succeeded(&self, object: &ObjectKey) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(object);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(kind: &str, name: &str) -> ObjectKey {
        ObjectKey {
            kind: kind.to_owned(),
            namespace: "ns".to_owned(),
            name: name.to_owned(),
        }
    }

    #[test]
    fn delays_double_up_to_a_limit_and_a_success_forgets_them() {
        let backoff = Backoff::default();
        let chat = object("ModelDeployment", "chat");
        let delays: Vec<u64> = (0..40).map(|_| backoff.failed(&chat).as_secs()).collect();
        assert_eq!(&delays[..4], &[1, 2, 4, 8]);
        assert!(delays[10..].iter().all(|delay| *delay == 300));
        assert_eq!(backoff.failed(&object("RagPipeline", "chat")).as_secs(), 1);
        backoff.succeeded(&chat);
        assert_eq!(backoff.failed(&chat).as_secs(), 1);
    }

    #[test]
    fn a_limit_shortens_every_wait() {
        let pace = Pace::default().at_most(Duration::from_secs(5));
        for look in [
            Look::Settled,
            Look::Busy,
            Look::Waiting,
            Look::Within(Duration::from_secs(50)),
        ] {
            assert_eq!(pace.of(look), Duration::from_secs(5));
        }
    }
}
