//! `GET /metrics`: what tasks count themselves, and at each scrape the engine's own counters.
//! Every name is in `windlass_api::metrics`.
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use windlass_api::metrics as names;
use windlass_engine::request::Stats;

/// The format that `encode` writes.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

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

type Labels<const N: usize> = [(&'static str, Cow<'static, str>); N];

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    model: String,
    endings: Family<Labels<1>, Counter>,
    responses: Family<Labels<2>, Counter>,
    queue_time: Histogram,
    first_token: Histogram,
    between_tokens: Histogram,
    whole_request: Histogram,
    prompt_tokens: Histogram,
    generation_tokens: Histogram,
}

impl Metrics {
    /// For the served name, which labels every metric.
    pub fn new(model: &str) -> Self {
        let mut registry = Registry::default();
        let metrics = Self {
            model: model.to_owned(),
            endings: Family::default(),
            responses: Family::default(),
            queue_time: Histogram::new(WHOLE_REQUEST),
            first_token: Histogram::new(FIRST_TOKEN),
            between_tokens: Histogram::new(BETWEEN_TOKENS),
            whole_request: Histogram::new(WHOLE_REQUEST),
            prompt_tokens: Histogram::new(TOKENS),
            generation_tokens: Histogram::new(TOKENS),
            registry: Mutex::default(),
        };
        for ending in [Ending::Stop, Ending::Length, Ending::Abort, Ending::Error] {
            drop(metrics.endings.get_or_create(&ending.labels())); // present from the start, as 0
        }
        let labelled = labelled(&mut registry, model);
        labelled.register(
            base(names::REQUEST_SUCCESS),
            "Sequences that ended, by reason",
            metrics.endings.clone(),
        );
        labelled.register(
            base(names::HTTP_RESPONSES),
            "Answers over HTTP, by route and status",
            metrics.responses.clone(),
        );
        for (name, help, histogram) in [
            (names::QUEUE_TIME, "From arrival to the first step", &metrics.queue_time),
            (
                names::TIME_TO_FIRST_TOKEN,
                "From arrival to the first token",
                &metrics.first_token,
            ),
            (
                names::INTER_TOKEN_LATENCY,
                "Between two tokens of a sequence",
                &metrics.between_tokens,
            ),
            (
                names::E2E_LATENCY,
                "From arrival to the last token",
                &metrics.whole_request,
            ),
            (
                names::REQUEST_PROMPT_TOKENS,
                "Length of the prompts",
                &metrics.prompt_tokens,
            ),
            (
                names::REQUEST_GENERATION_TOKENS,
                "Length of the answers",
                &metrics.generation_tokens,
            ),
        ] {
            labelled.register(base(name), help, histogram.clone());
        }
        Self {
            registry: Mutex::new(registry),
            ..metrics
        }
    }

    /// From now on the engine's counters are part of every scrape.
    pub fn watch(&self, stats: impl Fn() -> Stats + Send + Sync + 'static, block_tokens: usize) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let blocks = stats().blocks_total;
        let cache = [
            ("block_size", block_tokens.to_string()),
            ("num_gpu_blocks", blocks.to_string()),
        ];
        let labelled = labelled(&mut registry, &self.model);
        labelled.register(
            base(names::CACHE_CONFIG_INFO),
            "Sizes of the KV cache",
            Info::new(cache.to_vec()),
        );
        labelled.register_collector(Box::new(EngineMetrics(Box::new(stats))));
    }

    /// The exposition.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }

    /// An answer was sent (its head, when it is a stream).
    pub fn response(&self, route: &str, status: u16) {
        let labels = [("route", route.to_owned().into()), ("code", status.to_string().into())];
        self.responses.get_or_create(&labels).inc();
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
        self.endings.get_or_create(&ending.labels()).inc();
        self.whole_request.observe(after.as_secs_f64());
        self.prompt_tokens.observe(prompt_tokens as f64);
        self.generation_tokens.observe(generated_tokens as f64);
    }
}

impl Ending {
    fn labels(self) -> Labels<1> {
        let reason = match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Abort => "abort",
            Self::Error => "error",
        };
        [(names::FINISHED_REASON_LABEL, reason.into())]
    }
}

/// The engine's counters, read when asked for.
struct EngineMetrics(Box<dyn Fn() -> Stats + Send + Sync>);

impl std::fmt::Debug for EngineMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("EngineMetrics").field(&(self.0)()).finish()
    }
}

impl Collector for EngineMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let stats = (self.0)();
        let mut write = |name: &str, help: &str, metric: &dyn EncodeMetricDyn| metric.write(&mut encoder, name, help);
        for (name, help, value) in [
            (names::REQUESTS_RUNNING, "Sequences in the last step", stats.running),
            (names::REQUESTS_WAITING, "Sequences that wait", stats.waiting),
        ] {
            write(name, help, &ConstGauge::new(gauge(value)))?;
        }
        write(
            names::KV_CACHE_USAGE,
            "Share of KV blocks in use, 0 to 1",
            &ConstGauge::new(usage(&stats)),
        )?;
        for (name, help, value) in [
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
        ] {
            write(name, help, &ConstCounter::new(value))?;
        }
        Ok(())
    }
}

/// `EncodeMetric` with its descriptor, callable on different kinds in one list.
trait EncodeMetricDyn {
    fn write(&self, encoder: &mut DescriptorEncoder, name: &str, help: &str) -> Result<(), std::fmt::Error>;
}

impl<M: EncodeMetric> EncodeMetricDyn for M {
    fn write(&self, encoder: &mut DescriptorEncoder, name: &str, help: &str) -> Result<(), std::fmt::Error> {
        self.encode(encoder.encode_descriptor(base(name), help, None, self.metric_type())?)
    }
}

fn labelled<'a>(registry: &'a mut Registry, model: &str) -> &'a mut Registry {
    registry.sub_registry_with_label((names::MODEL_NAME_LABEL.into(), model.to_owned().into()))
}

/// The encoder adds `_total` to counters and `_info` to infos by itself.
fn base(name: &str) -> &str {
    name.strip_suffix("_total")
        .or_else(|| name.strip_suffix("_info"))
        .unwrap_or(name)
}

fn gauge(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
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
        let metrics = Metrics::new("m\"1");
        metrics.ended(Ending::Length, Duration::from_millis(400), 10, 20);
        metrics.first_token(Duration::from_millis(30));
        metrics.response("/v1/models", 200);
        let text = metrics.encode().unwrap();
        for line in [
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
