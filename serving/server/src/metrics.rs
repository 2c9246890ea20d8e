//! `GET /metrics`: what tasks count themselves, and at each scrape the engine's own counters.
//! Every name is in `windlass_api::metrics`.
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};
use windlass_api::metrics as names;
use windlass_engine::request::Stats;

/// The format that `encode` writes.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

// Bucket bounds that dashboards for these names expect.
const FIRST_TOKEN: [f64; 22] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
];
const BETWEEN_TOKENS: [f64; 19] = [
    0.002, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
];
const WHOLE_REQUEST: [f64; 21] = [
    0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0,
    960.0,
];
const TOKENS: [f64; 16] = [
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0, 20_000.0, 50_000.0,
    100_000.0,
];

/// How a sequence ended, as the label `finished_reason` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// By the model or a stop text.
    Stop,
    /// By its limit.
    Length,
    /// The caller went away.
    Abort,
    /// By a failure.
    Error,
}

impl Ending {
    const ALL: [Self; 4] = [Self::Stop, Self::Length, Self::Abort, Self::Error];

    fn reason(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Abort => "abort",
            Self::Error => "error",
        }
    }
}

/// All metrics of the process. What is counted for each token is resolved once.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    model: String,
    engine: Mutex<Option<EngineMetrics>>,
    /// By `Ending`, in the order of `Ending::ALL`.
    endings: [IntCounter; 4],
    responses: IntCounterVec,
    queue_time: Histogram,
    first_token: Histogram,
    between_tokens: Histogram,
    whole_request: Histogram,
    prompt_tokens: Histogram,
    generation_tokens: Histogram,
}

impl Metrics {
    /// For the served name, which labels every metric.
    ///
    /// # Errors
    /// When a name or label is not one that Prometheus accepts: a bug.
    pub fn new(model: &str) -> prometheus::Result<Self> {
        let registry = Registry::new();
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            let options = HistogramOpts::from(opts(model, name, help)).buckets(buckets.to_vec());
            registered(&registry, Histogram::with_opts(options)?)
        };
        let endings = IntCounterVec::new(
            opts(model, names::REQUEST_SUCCESS, "Sequences that ended, by reason"),
            &[names::FINISHED_REASON_LABEL],
        )?;
        let responses = IntCounterVec::new(
            opts(model, names::HTTP_RESPONSES, "Answers over HTTP, by route and status"),
            &["route", "code"],
        )?;
        Ok(Self {
            model: model.to_owned(),
            engine: Mutex::default(),
            // Present from the start, as 0.
            endings: Ending::ALL.map(|ending| endings.with_label_values(&[ending.reason()])),
            queue_time: histogram(names::QUEUE_TIME, "From arrival to the first step", &WHOLE_REQUEST)?,
            first_token: histogram(
                names::TIME_TO_FIRST_TOKEN,
                "From arrival to the first token",
                &FIRST_TOKEN,
            )?,
            between_tokens: histogram(
                names::INTER_TOKEN_LATENCY,
                "Between two tokens of a sequence",
                &BETWEEN_TOKENS,
            )?,
            whole_request: histogram(names::E2E_LATENCY, "From arrival to the last token", &WHOLE_REQUEST)?,
            prompt_tokens: histogram(names::REQUEST_PROMPT_TOKENS, "Length of the prompts", &TOKENS)?,
            generation_tokens: histogram(names::REQUEST_GENERATION_TOKENS, "Length of the answers", &TOKENS)?,
            responses: registered(&registry, responses)?,
            registry: {
                registered(&registry, endings)?;
                registry
            },
        })
    }

    /// From now on the engine's counters are part of every scrape.
    ///
    /// # Errors
    /// When it is called a second time.
    pub fn watch(
        &self,
        stats: impl Fn() -> Stats + Send + Sync + 'static,
        block_tokens: usize,
    ) -> prometheus::Result<()> {
        let cache = opts(&self.model, names::CACHE_CONFIG_INFO, "Sizes of the KV cache")
            .const_label("block_size", block_tokens.to_string())
            .const_label("num_gpu_blocks", stats().blocks_total.to_string());
        registered(&self.registry, IntGauge::with_opts(cache)?)?.set(1);
        let engine = EngineMetrics::new(&self.registry, &self.model, Box::new(stats))?;
        *self.engine.lock().unwrap_or_else(PoisonError::into_inner) = Some(engine);
        Ok(())
    }

    /// The exposition.
    ///
    /// # Errors
    /// When formatting fails.
    pub fn encode(&self) -> prometheus::Result<String> {
        if let Some(engine) = &*self.engine.lock().unwrap_or_else(PoisonError::into_inner) {
            engine.read();
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// An answer was sent (its head, when it is a stream).
    pub fn response(&self, route: &str, status: u16) {
        self.responses.with_label_values(&[route, &status.to_string()]).inc();
    }

    /// A sequence's first step began.
    pub fn started(&self, after: Duration) {
        self.queue_time.observe(after.as_secs_f64());
    }

    /// A sequence's first token came.
    pub fn first_token(&self, after: Duration) {
        self.first_token.observe(after.as_secs_f64());
    }

    /// A sequence's next token came.
    pub fn next_token(&self, after: Duration) {
        self.between_tokens.observe(after.as_secs_f64());
    }

    /// A sequence ended.
    pub fn ended(&self, ending: Ending, after: Duration, prompt_tokens: usize, generated_tokens: usize) {
        if let Some(at) = Ending::ALL.iter().position(|one| *one == ending) {
            self.endings[at].inc();
        }
        self.whole_request.observe(after.as_secs_f64());
        self.prompt_tokens.observe(prompt_tokens as f64);
        self.generation_tokens.observe(generated_tokens as f64);
    }
}

/// The engine's own numbers, copied when somebody asks for them.
struct EngineMetrics {
    stats: Box<dyn Fn() -> Stats + Send + Sync>,
    running: IntGauge,
    waiting: IntGauge,
    cache_usage: Gauge,
    /// In the order of `totals`.
    counters: [IntCounter; 7],
}

/// What the engine counts, with its name and its description.
fn totals(stats: &Stats) -> [(&'static str, &'static str, u64); 7] {
    [
        (
            names::PREFIX_CACHE_QUERIES,
            "Prompt tokens looked up in the prefix cache",
            stats.prefix_queries,
        ),
        (
            names::PREFIX_CACHE_HITS,
            "Prompt tokens served by the prefix cache",
            stats.prefix_hits,
        ),
        (
            names::PREEMPTIONS,
            "Sequences computed again after losing their blocks",
            stats.preemptions,
        ),
        (names::PROMPT_TOKENS, "Prompt tokens computed", stats.prompt_tokens),
        (names::GENERATION_TOKENS, "Tokens generated", stats.generated_tokens),
        (names::DRAFT_TOKENS, "Tokens guessed", stats.guessed_tokens),
        (
            names::ACCEPTED_TOKENS,
            "Guessed tokens that were right",
            stats.right_guesses,
        ),
    ]
}

impl EngineMetrics {
    fn new(registry: &Registry, model: &str, stats: Box<dyn Fn() -> Stats + Send + Sync>) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str| registered(registry, IntGauge::with_opts(opts(model, name, help))?);
        let mut counters = Vec::new();
        for (name, help, _) in totals(&Stats::default()) {
            counters.push(registered(registry, IntCounter::with_opts(opts(model, name, help))?)?);
        }
        let count = counters.len();
        Ok(Self {
            stats,
            running: gauge(names::REQUESTS_RUNNING, "Sequences in the last step")?,
            waiting: gauge(names::REQUESTS_WAITING, "Sequences that wait")?,
            cache_usage: registered(
                registry,
                Gauge::with_opts(opts(model, names::KV_CACHE_USAGE, "Share of KV blocks in use, 0 to 1"))?,
            )?,
            counters: counters
                .try_into()
                .map_err(|_| prometheus::Error::Msg(format!("{count} counters of the engine")))?,
        })
    }

    fn read(&self) {
        let stats = (self.stats)();
        let gauge = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        self.running.set(gauge(stats.running));
        self.waiting.set(gauge(stats.waiting));
        self.cache_usage.set(usage(&stats));
        for (counter, (_, _, total)) in self.counters.iter().zip(totals(&stats)) {
            counter.inc_by(total.saturating_sub(counter.get()));
        }
    }
}

impl std::fmt::Debug for EngineMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("EngineMetrics").field(&(self.stats)()).finish()
    }
}

fn opts(model: &str, name: &str, help: &str) -> Opts {
    Opts::new(name, help).const_label(names::MODEL_NAME_LABEL, model)
}

fn registered<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> prometheus::Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn usage(stats: &Stats) -> f64 {
    if stats.blocks_total == 0 {
        0.0
    } else {
        stats.blocks_used as f64 / stats.blocks_total as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_labels_are_the_ones_that_dashboards_read() {
        let metrics = Metrics::new("m\"1").unwrap();
        metrics.ended(Ending::Length, Duration::from_millis(400), 10, 20);
        metrics.first_token(Duration::from_millis(30));
        metrics.response("/v1/models", 200);
        let stats = || Stats {
            running: 2,
            prompt_tokens: 7,
            ..Stats::default()
        };
        metrics.watch(stats, 16).unwrap();
        metrics.encode().unwrap();
        let text = metrics.encode().unwrap();
        for line in [
            r#"vllm:num_requests_running{model_name="m\"1"} 2"#,
            r#"vllm:prompt_tokens_total{model_name="m\"1"} 7"#,
            r#"vllm:cache_config_info{block_size="16",model_name="m\"1",num_gpu_blocks="0"} 1"#,
            r#"vllm:request_success_total{finished_reason="length",model_name="m\"1"} 1"#,
            r#"vllm:request_success_total{finished_reason="abort",model_name="m\"1"} 0"#,
            r#"vllm:time_to_first_token_seconds_bucket{le="0.04",model_name="m\"1"} 1"#,
            r#"vllm:time_to_first_token_seconds_bucket{le="0.02",model_name="m\"1"} 0"#,
            r#"vllm:e2e_request_latency_seconds_count{model_name="m\"1"} 1"#,
            r#"windlass:http_responses_total{route="/v1/models",code="200",model_name="m\"1"} 1"#,
        ] {
            let sorted = |line: &str| {
                let (labels, rest) = line
                    .split_once('{')
                    .and_then(|(_, l)| l.split_once("} "))
                    .unwrap_or(("", line));
                let mut labels: Vec<String> = labels.split(',').map(str::to_owned).collect();
                labels.sort();
                (line.split('{').next().map(str::to_owned), labels, rest.to_owned())
            };
            assert!(
                text.lines().any(|l| sorted(l) == sorted(line)),
                "{line} is not in\n{text}"
            );
        }
    }

    #[test]
    fn the_share_of_used_blocks_is_a_fraction() {
        assert_eq!(
            usage(&Stats {
                blocks_used: 1,
                blocks_total: 4,
                ..Stats::default()
            }),
            0.25
        );
        assert_eq!(usage(&Stats::default()), 0.0);
    }
}
