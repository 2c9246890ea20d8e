//! What the operator counts, in the Prometheus text format.
use std::time::Duration;

use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
    core::Collector,
};

/// Seconds of a reconcile: most take milliseconds, the limit is 30 s.
const DURATION_BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 2.0, 10.0, 30.0];

/// The counters; clones share them.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    reconciles: IntCounterVec,
    failures: IntCounterVec,
    duration: HistogramVec,
    writes: IntCounterVec,
    leader: IntGauge,
    schema_skew: IntGaugeVec,
}

impl Metrics {
    /// All counters at zero.
    ///
    /// # Errors
    /// When a name or label is not one that Prometheus accepts: a bug.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let name = |name: &str, help: &str| Opts::new(format!("windlass_operator_{name}"), help);
        let reconciles = IntCounterVec::new(name("reconciles_total", "Reconciles that ended, by kind"), &["kind"])?;
        let failures = IntCounterVec::new(
            name("failures_total", "Reconciles that failed, by kind and reason"),
            &["kind", "reason"],
        )?;
        let duration = HistogramVec::new(
            HistogramOpts::from(name("reconcile_duration_seconds", "Duration of reconciles, by kind"))
                .buckets(DURATION_BUCKETS.to_vec()),
            &["kind"],
        )?;
        let writes = IntCounterVec::new(
            name(
                "writes_total",
                "Writes to the API server, by kind of the object, verb and result",
            ),
            &["kind", "verb", "result"],
        )?;
        let leader = IntGauge::with_opts(name("leader", "1 while this process holds the lease"))?;
        let schema_skew = IntGaugeVec::new(
            name(
                "crd_schema_skew",
                "1 while the installed CRD is not the one of this build, by kind",
            ),
            &["kind"],
        )?;
        let collectors: [Box<dyn Collector>; 6] = [
            Box::new(reconciles.clone()),
            Box::new(failures.clone()),
            Box::new(duration.clone()),
            Box::new(writes.clone()),
            Box::new(leader.clone()),
            Box::new(schema_skew.clone()),
        ];
        for collector in collectors {
            registry.register(collector)?;
        }
        Ok(Self {
            registry,
            reconciles,
            failures,
            duration,
            writes,
            leader,
            schema_skew,
        })
    }

    /// One reconcile ended.
    pub fn observe_reconcile(&self, kind: &str, duration: Duration, failure: Option<&'static str>) {
        self.reconciles.with_label_values(&[kind]).inc();
        self.duration.with_label_values(&[kind]).observe(duration.as_secs_f64());
        if let Some(reason) = failure {
            self.failures.with_label_values(&[kind, reason]).inc();
        }
    }

    /// One write was answered.
    pub fn count_write(&self, kind: &str, verb: &'static str, is_ok: bool) {
        let result = if is_ok { "ok" } else { "error" };
        self.writes.with_label_values(&[kind, verb, result]).inc();
    }

    /// The process leads, or not.
    pub fn set_leader(&self, is_leader: bool) {
        self.leader.set(is_leader.into());
    }

    /// The installed CRD of a kind differs, or not.
    pub fn set_schema_skew(&self, kind: &str, is_skewed: bool) {
        self.schema_skew.with_label_values(&[kind]).set(is_skewed.into());
    }

    /// Everything, as Prometheus reads it.
    ///
    /// # Errors
    /// When formatting fails.
    pub fn encode(&self) -> prometheus::Result<String> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_counted_by_kind_and_reason() {
        let metrics = Metrics::new().expect("metrics");
        metrics.observe_reconcile("ModelDeployment", Duration::from_millis(20), Some("write"));
        metrics.count_write("Service", "apply", true);
        metrics.set_leader(true);
        metrics.set_schema_skew("ModelDeployment", false);
        let text = metrics.encode().expect("text");
        for line in [
            "windlass_operator_reconciles_total{kind=\"ModelDeployment\"} 1",
            "windlass_operator_failures_total{kind=\"ModelDeployment\",reason=\"write\"} 1",
            "windlass_operator_reconcile_duration_seconds_bucket{kind=\"ModelDeployment\",le=\"0.025\"} 1",
            "windlass_operator_writes_total{kind=\"Service\",result=\"ok\",verb=\"apply\"} 1",
            "windlass_operator_leader 1",
            "windlass_operator_crd_schema_skew{kind=\"ModelDeployment\"} 0",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
