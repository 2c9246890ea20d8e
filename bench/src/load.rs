//! The load generator: sends the requests of a scenario as it says, and sums up what came back.
use crate::client::{Connection, Recording, Target};
use crate::prompt::prompt;
use crate::random::Random;
use crate::scenario::{Api, Arrivals, Scenario};
use crate::summary::Summary;
use anyhow::Result;
use bytes::Bytes;
use rustix::time::{ClockId, clock_gettime};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use windlass_api::openai::{ChatMessage, Content, GenerateRequest, Prompt, StreamOptions};

/// Added to the seed of requests that only warm the server up.
const WARMUP_SEED: u64 = 1 << 32;

/// Runs a scenario once. `round` goes into the seed: no round meets the cached prompts of another.
pub async fn run(url: &str, scenario: &Scenario, model: Option<&str>, round: u64) -> Result<Summary> {
    let path = match scenario.api {
        Api::Completions => "/v1/completions",
        Api::Chat => "/v1/chat/completions",
    };
    let target = Arc::new(Target::new(url, path)?);
    let bodies = |seed: u64, count: usize| -> Result<Vec<Bytes>> {
        (0..count as u64)
            .map(|number| body(scenario, model, seed, number))
            .collect()
    };
    let seed = scenario.seed.wrapping_add(round << 16);
    if scenario.warmup > 0 {
        let warmup = bodies(seed.wrapping_add(WARMUP_SEED), scenario.warmup)?;
        closed(&target, warmup, scenario.slots).await?;
    }
    let bodies = bodies(seed, scenario.requests)?;
    let cpu = cpu_time();
    let recordings = match scenario.arrivals {
        Arrivals::Clients(clients) => closed(&target, bodies, clients).await?,
        Arrivals::PerSecond(rate) => {
            let schedule = arrivals(seed, rate, scenario.requests);
            open(&target, bodies, schedule).await?
        }
    };
    let cpu = cpu_time().saturating_sub(cpu);
    Ok(Summary::new(scenario, &recordings, cpu))
}

fn body(scenario: &Scenario, model: Option<&str>, seed: u64, number: u64) -> Result<Bytes> {
    let text = prompt(seed, number, scenario.shared_words, scenario.own_words);
    let mut request = GenerateRequest {
        model: model.map(str::to_owned),
        stream: Some(true),
        stream_options: Some(StreamOptions {
            include_usage: Some(true),
        }),
        max_tokens: Some(scenario.max_tokens),
        temperature: Some(0.0),
        ignore_eos: Some(true),
        ..GenerateRequest::default()
    };
    match scenario.api {
        Api::Completions => request.prompt = Some(Prompt::Text(text)),
        Api::Chat => {
            request.messages = Some(vec![ChatMessage {
                role: "user".to_owned(),
                content: Some(Content::Text(text)),
                ..ChatMessage::default()
            }]);
        }
    }
    Ok(serde_json::to_vec(&request)?.into())
}

/// When the requests of an open loop are due: a Poisson process of `rate` a second.
fn arrivals(seed: u64, rate: f64, count: usize) -> Vec<Duration> {
    // Requests have the streams from 0, shared words the last one.
    let mut random = Random::new(seed, u64::MAX - 1);
    let mut due = 0.0;
    std::iter::repeat_with(|| {
        due += random.exponential() / rate;
        Duration::from_secs_f64(due)
    })
    .take(count)
    .collect()
}

/// Each client takes the next request when its last one is answered.
async fn closed(target: &Arc<Target>, bodies: Vec<Bytes>, clients: usize) -> Result<Vec<Recording>> {
    let (bodies, next) = (Arc::new(bodies), Arc::new(AtomicUsize::new(0)));
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let (target, bodies, next) = (Arc::clone(target), Arc::clone(&bodies), Arc::clone(&next));
        tasks.spawn(async move {
            let (mut connection, mut recordings) = (Connection::default(), Vec::new());
            while let Some(body) = bodies.get(next.fetch_add(1, Ordering::Relaxed)) {
                recordings.push(connection.record(&target, body.clone(), Instant::now()).await);
            }
            recordings
        });
    }
    let mut recordings = Vec::with_capacity(bodies.len());
    while let Some(done) = tasks.join_next().await {
        recordings.extend(done?);
    }
    Ok(recordings)
}

/// Each request is sent when it is due, on an idle connection if there is one.
async fn open(target: &Arc<Target>, bodies: Vec<Bytes>, schedule: Vec<Duration>) -> Result<Vec<Recording>> {
    let idle: Arc<Mutex<Vec<Connection>>> = Arc::default();
    let mut tasks = JoinSet::new();
    let start = Instant::now();
    for (body, offset) in bodies.into_iter().zip(schedule) {
        let due = start + offset;
        tokio::time::sleep_until(due.into()).await;
        let (target, idle) = (Arc::clone(target), Arc::clone(&idle));
        tasks.spawn(async move {
            let mut connection = lock(&idle).pop().unwrap_or_default();
            let recording = connection.record(&target, body, due).await;
            lock(&idle).push(connection);
            recording
        });
    }
    let mut recordings = Vec::new();
    while let Some(done) = tasks.join_next().await {
        recordings.push(done?);
    }
    Ok(recordings)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Processor time of this process so far.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_seeded_ordered_and_as_frequent_as_asked_for() {
        let schedule = arrivals(1, 4.0, 10_000);
        assert_eq!(schedule, arrivals(1, 4.0, 10_000));
        assert_ne!(schedule, arrivals(2, 4.0, 10_000));
        assert!(schedule.is_sorted());
        let seconds = schedule.last().unwrap().as_secs_f64();
        assert!((2400.0..2600.0).contains(&seconds), "{seconds}");
    }

    #[test]
    fn gaps_between_arrivals_vary_as_those_of_a_poisson_process() {
        let schedule = arrivals(1, 1.0, 10_000);
        let short = schedule
            .windows(2)
            .filter(|pair| pair[1] - pair[0] < Duration::from_millis(100));
        // P(gap < 0.1 s) = 1 - exp(-0.1) = 0.0952
        let share = short.count() as f64 / 9_999.0;
        assert!((0.085..0.105).contains(&share), "{share}");
    }
}
