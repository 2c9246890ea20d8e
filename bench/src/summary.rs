//! Many answers in a few numbers.
use crate::client::Recording;
use crate::sample::{Sample, millis};
use crate::scenario::Scenario;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Failures that are kept in words.
const WORDS: usize = 5;

/// One run of a scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Requests with a whole answer.
    pub completed: usize,
    /// All others; no other number counts them.
    pub failed: usize,
    /// The first of their reasons.
    pub failures: Vec<String>,
    /// From the first request to the last end.
    pub wall_s: f64,
    /// Generated tokens of all answers.
    pub output_tokens: u64,
    /// Who counted them: `usage`, `events`, or `both`.
    pub counted_from: String,
    /// Events that carried text.
    pub events: usize,
    /// Answers shorter than asked for: the server does not obey `ignore_eos`.
    pub short_answers: usize,
    /// Tokens of all prompts, if the server says.
    pub prompt_tokens: u64,
    /// Those of them that came from a cache, if the server says.
    pub cached_tokens: u64,
    /// `output_tokens / wall_s`.
    pub output_tokens_per_s: f64,
    /// Answers a second that kept the goal.
    pub goodput_per_s: f64,
    /// Answers that kept the goal, of all requests, 0 to 1.
    pub good_share: f64,
    /// Time to the first text.
    pub ttft_ms: Spread,
    /// Gap between two events with text.
    pub itl_ms: Spread,
    /// (last text - first text) / (tokens - 1), an answer each.
    pub tpot_ms: Spread,
    /// Until the body was complete.
    pub latency_ms: Spread,
    /// The largest delay between a request's due time and its sending: the generator's own fault.
    pub late_ms: f64,
    /// Processor time of the generator, from the first request to the last end.
    pub client_cpu_s: f64,
}

/// Percentiles of a sample.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Half is below.
    pub p50: f64,
    /// 95 % are below.
    pub p95: f64,
    /// 99 % are below.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// All zero for an empty sample.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self {
            p50: percentile(&values, 50.0),
            p95: percentile(&values, 95.0),
            p99: percentile(&values, 99.0),
            max: percentile(&values, 100.0),
        }
    }
}

/// Of sorted values, interpolated between the two nearest (as NumPy's default); 0 if there are none.
pub fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    let place = percent / 100.0 * last as f64;
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    low + (high - low) * place.fract()
}

/// The middle of values in any order.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    percentile(&values, 50.0)
}

impl Summary {
    /// Of all requests of a run.
    pub fn new(scenario: &Scenario, recordings: &[Recording], client_cpu: Duration) -> Self {
        let start = recordings.iter().map(|recording| recording.due).min();
        let end = recordings.iter().map(|recording| recording.end).max();
        let wall_s = start.zip(end).map_or(0.0, |(start, end)| (end - start).as_secs_f64());
        let late = recordings
            .iter()
            .map(|recording| millis(recording.sent - recording.due));
        let (mut samples, mut failures) = (Vec::new(), Vec::new());
        for recording in recordings {
            match Sample::new(recording) {
                Ok(sample) => samples.push(sample),
                Err(error) => failures.push(format!("{error:#}")),
            }
        }
        let failed = failures.len();
        failures.truncate(WORDS);
        let mut summary = Self::of_samples(scenario, &samples, wall_s, recordings.len());
        summary.failed = failed;
        summary.failures = failures;
        summary.late_ms = late.fold(0.0, f64::max);
        summary.client_cpu_s = client_cpu.as_secs_f64();
        summary
    }

    fn of_samples(scenario: &Scenario, samples: &[Sample], wall_s: f64, requests: usize) -> Self {
        let per_second = |count: f64| if wall_s > 0.0 { count / wall_s } else { 0.0 };
        let all = |value: fn(&Sample) -> f64| Spread::of(samples.iter().map(value).collect());
        let output_tokens: u64 = samples.iter().map(|sample| sample.tokens).sum();
        let by_server = samples.iter().filter(|sample| sample.counted_by_server).count();
        let goal = scenario.goal;
        let good =
            |sample: &&Sample| sample.ttft <= goal.ttft_ms && sample.tpot.is_none_or(|tpot| tpot <= goal.tpot_ms);
        let good = samples.iter().filter(good).count() as f64;
        Self {
            completed: samples.len(),
            failed: 0,
            failures: Vec::new(),
            wall_s,
            output_tokens,
            counted_from: match by_server {
                0 => "events",
                count if count == samples.len() => "usage",
                _ => "both",
            }
            .to_owned(),
            events: samples.iter().map(|sample| sample.events).sum(),
            short_answers: samples
                .iter()
                .filter(|sample| sample.tokens < scenario.max_tokens)
                .count(),
            prompt_tokens: samples.iter().map(|sample| sample.prompt_tokens).sum(),
            cached_tokens: samples.iter().map(|sample| sample.cached_tokens).sum(),
            output_tokens_per_s: per_second(output_tokens as f64),
            goodput_per_s: per_second(good),
            good_share: good / requests.max(1) as f64,
            ttft_ms: all(|sample| sample.ttft),
            itl_ms: Spread::of(samples.iter().flat_map(|sample| sample.gaps.iter().copied()).collect()),
            tpot_ms: Spread::of(samples.iter().filter_map(|sample| sample.tpot).collect()),
            latency_ms: all(|sample| sample.latency),
            late_ms: 0.0,
            client_cpu_s: 0.0,
        }
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "answers      {} whole, {} failed, {} shorter than asked for",
            self.completed, self.failed, self.short_answers
        )?;
        for failure in &self.failures {
            writeln!(f, "             {failure}")?;
        }
        writeln!(
            f,
            "tokens       {} generated in {:.2} s (counted from {}; {} events), {} of prompts ({} cached)",
            self.output_tokens, self.wall_s, self.counted_from, self.events, self.prompt_tokens, self.cached_tokens
        )?;
        writeln!(f, "output       {:.1} tokens/s", self.output_tokens_per_s)?;
        writeln!(
            f,
            "goodput      {:.3} answers/s, {:.1} % of all",
            self.goodput_per_s,
            self.good_share * 100.0
        )?;
        writeln!(f, "ms                p50       p95       p99       max")?;
        for (name, spread) in [
            ("TTFT", self.ttft_ms),
            ("ITL", self.itl_ms),
            ("TPOT", self.tpot_ms),
            ("latency", self.latency_ms),
        ] {
            writeln!(
                f,
                "{name:10} {:>9.1} {:>9.1} {:>9.1} {:>9.1}",
                spread.p50, spread.p95, spread.p99, spread.max
            )?;
        }
        write!(
            f,
            "generator    {:.2} s of processor time, {:.1} ms late at most",
            self.client_cpu_s, self.late_ms
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Api, Arrivals, Goal};

    #[test]
    fn percentiles_interpolate_between_neighbours() {
        let values = [10.0, 20.0, 30.0, 40.0, 50.0];
        assert_eq!(percentile(&values, 0.0), 10.0);
        assert_eq!(percentile(&values, 50.0), 30.0);
        assert_eq!(percentile(&values, 95.0), 48.0);
        assert_eq!(percentile(&values, 100.0), 50.0);
        assert_eq!(percentile(&[7.0], 99.0), 7.0);
        assert_eq!(percentile(&[], 50.0), 0.0);
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.5);
    }

    fn sample(ttft: f64, tpot: Option<f64>, tokens: u64) -> Sample {
        Sample {
            ttft,
            latency: ttft + 100.0,
            gaps: vec![1.0; 3],
            tpot,
            tokens,
            counted_by_server: true,
            events: 4,
            prompt_tokens: 10,
            cached_tokens: 2,
        }
    }

    #[test]
    fn goodput_counts_answers_that_keep_both_goals_and_failed_requests_are_not_good() {
        let scenario = Scenario {
            name: String::new(),
            arrivals: Arrivals::Clients(1),
            slots: 1,
            context: 1,
            requests: 1,
            warmup: 0,
            api: Api::Chat,
            own_words: 1,
            shared_words: 0,
            max_tokens: 5,
            seed: 0,
            goal: Goal {
                ttft_ms: 1000.0,
                tpot_ms: 40.0,
            },
        };
        let samples = [
            sample(1000.0, Some(40.0), 5),
            sample(1001.0, Some(1.0), 5),
            sample(1.0, Some(41.0), 4),
            sample(1.0, None, 1),
        ];
        // Four answers, and a fifth request that failed.
        let summary = Summary::of_samples(&scenario, &samples, 2.0, 5);
        assert_eq!((summary.goodput_per_s, summary.good_share), (1.0, 0.4));
        assert_eq!((summary.output_tokens, summary.output_tokens_per_s), (15, 7.5));
        assert_eq!((summary.short_answers, summary.counted_from.as_str()), (2, "usage"));
        assert_eq!((summary.prompt_tokens, summary.cached_tokens), (40, 8));
        assert_eq!(summary.itl_ms.p99, 1.0);
    }
}
