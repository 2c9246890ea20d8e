//! What every reconcile shares: clients, settings, the writer, the counters.
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use kube::{Client, runtime::events::Recorder};

use crate::{apply::Writer, args::BuildConfig, metrics::Metrics, model_deployment::prove::PodClient};

/// First and last delay after failures of the same object: 1, 2, 4, … 256, 300 s.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(300);

/// What every reconcile shares.
pub struct Context {
    pub client: Client,
    pub writer: Writer,
    pub recorder: Recorder,
    pub pods: PodClient,
    pub config: BuildConfig,
    pub metrics: Metrics,
    pub backoff: Backoff,
    /// What is to be said about the installed CRD, when it is not the one of this build.
    pub schema_skew: Option<String>,
}

/// Failures in a row, for each object.
#[derive(Default)]
pub struct Backoff(Mutex<HashMap<String, u32>>);

impl Backoff {
    /// The delay after one more failure of this object.
    pub fn failed(&self, object: &str) -> Duration {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(object.to_owned()).or_default();
        let delay = FIRST_RETRY.saturating_mul(1_u32.checked_shl(*count).unwrap_or(u32::MAX));
        *count = count.saturating_add(1).min(16);
        delay.min(LAST_RETRY)
    }

    /// The object was reconciled, or is gone.
    pub fn succeeded(&self, object: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(object);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_limit_and_a_success_forgets_them() {
        let backoff = Backoff::default();
        let delays: Vec<u64> = (0..40).map(|_| backoff.failed("a/b").as_secs()).collect();
        assert_eq!(&delays[..4], &[1, 2, 4, 8]);
        assert!(delays[10..].iter().all(|delay| *delay == 300));
        assert_eq!(backoff.failed("a/c").as_secs(), 1);
        backoff.succeeded("a/b");
        assert_eq!(backoff.failed("a/b").as_secs(), 1);
    }
}
