//! What the operator counts, in the Prometheus text format.
use std::{sync::Arc, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// Seconds of a reconcile: most take milliseconds, the limit is 30 s.
const DURATION_BUCKETS: [f64; 8] = [0.01, 0.025, 0.05, 0.1, 0.5, 2.0, 10.0, 30.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failure {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Write {
    kind: String,
    verb: &'static str,
    result: &'static str,
}

/// The counters; clones share them.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    reconciles: Counter,
    failures: Family<Failure, Counter>,
    duration: Histogram,
    writes: Family<Write, Counter>,
    leader: Gauge,
    schema_skew: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("windlass_operator");
        let reconciles = Counter::default();
        let failures = Family::default();
        let duration = Histogram::new(DURATION_BUCKETS);
        let writes = Family::default();
        let leader = Gauge::default();
        let schema_skew = Gauge::default();
        registry.register("reconciles", "Reconciles that were begun", reconciles.clone());
        registry.register("failures", "Reconciles that failed, by reason", failures.clone());
        registry.register("reconcile_duration_seconds", "Duration of reconciles", duration.clone());
        registry.register("writes", "Writes to the API server, by kind and verb", writes.clone());
        registry.register("leader", "1 while this process holds the lease", leader.clone());
        registry.register(
            "crd_schema_skew",
            "1 when the installed CRD is not the one of this build",
            schema_skew.clone(),
        );
        Self {
            registry: Arc::new(registry),
            reconciles,
            failures,
            duration,
            writes,
            leader,
            schema_skew,
        }
    }
}

impl Metrics {
    /// One reconcile ended.
    pub fn observe_reconcile(&self, duration: Duration, failure: Option<&'static str>) {
        self.reconciles.inc();
        self.duration.observe(duration.as_secs_f64());
        if let Some(reason) = failure {
            self.failures.get_or_create(&Failure { reason }).inc();
        }
    }

    /// One write was answered.
    pub fn count_write(&self, kind: &str, verb: &'static str, is_ok: bool) {
        let result = if is_ok { "ok" } else { "error" };
        self.writes
            .get_or_create(&Write {
                kind: kind.to_owned(),
                verb,
                result,
            })
            .inc();
    }

    /// The process leads, or not.
    pub fn set_leader(&self, is_leader: bool) {
        self.leader.set(is_leader.into());
    }

    /// The installed CRD differs, or not.
    pub fn set_schema_skew(&self, is_skewed: bool) {
        self.schema_skew.set(is_skewed.into());
    }

    /// Everything, as Prometheus reads it.
    ///
    /// # Errors
    /// When formatting fails.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_counted_by_kind_and_reason() {
        let metrics = Metrics::default();
        metrics.observe_reconcile(Duration::from_millis(20), Some("api"));
        metrics.count_write("Service", "apply", true);
        metrics.set_leader(true);
        let text = metrics.encode().expect("text");
        for line in [
            "windlass_operator_reconciles_total 1",
            "windlass_operator_failures_total{reason=\"api\"} 1",
            "windlass_operator_writes_total{kind=\"Service\",verb=\"apply\",result=\"ok\"} 1",
            "windlass_operator_leader 1",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
