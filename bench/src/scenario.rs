//! What is asked of a server: read from TOML, checked once, then only obeyed.
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// One pattern of requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// For tables.
    pub name: String,
    /// How requests arrive.
    pub arrivals: Arrivals,
    /// Sequences that a server should be ready to run at once (`{slots}` of its command line).
    pub slots: usize,
    /// Tokens that a prompt and its answer may have together (`{context}` is this times `{slots}`).
    pub context: usize,
    /// Measured requests.
    pub requests: usize,
    /// Requests before them, not measured, with prompts of another seed.
    #[serde(default)]
    pub warmup: usize,
    /// Which route is asked.
    #[serde(default)]
    pub api: Api,
    /// Words of a prompt that no other request has.
    pub own_words: usize,
    /// Words before them that all requests have.
    #[serde(default)]
    pub shared_words: usize,
    /// Tokens of every answer (`ignore_eos` is set, so an answer is as long as it may be).
    pub max_tokens: u64,
    /// Of prompts and arrivals.
    pub seed: u64,
    /// When an answer is a good one.
    #[serde(default)]
    pub goal: Goal,
}

/// How requests arrive.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Arrivals {
    /// Closed loop: so many clients, each of which asks again as soon as it is answered.
    Clients(usize),
    /// Open loop: Poisson arrivals, so many a second, however long the answers take.
    PerSecond(f64),
}

/// A route with streamed answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Api {
    /// `/v1/completions`
    #[default]
    Completions,
    /// `/v1/chat/completions`
    Chat,
}

/// An answer counts for goodput when it keeps both.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Goal {
    /// Time to the first token, in milliseconds.
    pub ttft_ms: f64,
    /// Mean time for each token after the first, in milliseconds.
    pub tpot_ms: f64,
}

impl Default for Goal {
    fn default() -> Self {
        Self {
            ttft_ms: 1000.0,
            tpot_ms: 40.0,
        }
    }
}

impl Scenario {
    /// Reads and checks a file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> Result<Self> {
        let scenario: Self = toml::from_str(text)?;
        match scenario.arrivals {
            Arrivals::Clients(clients) => ensure!(
                (1..=scenario.requests).contains(&clients),
                "`arrivals.clients` must be 1 to `requests`"
            ),
            Arrivals::PerSecond(rate) => {
                ensure!(rate.is_finite() && rate > 0.0, "`arrivals.per_second` must be above 0")
            }
        }
        ensure!(scenario.requests > 0, "`requests` must be above 0");
        ensure!(
            scenario.slots > 0 && scenario.context > 0,
            "`slots` and `context` must be above 0"
        );
        ensure!(scenario.max_tokens > 0, "`max_tokens` must be above 0");
        ensure!(scenario.own_words > 0, "`own_words` must be above 0");
        Ok(scenario)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "name='a'\narrivals.clients=8\nslots=8\ncontext=512\nrequests=32\nown_words=96\nmax_tokens=64\nseed=1";

    #[test]
    fn a_scenario_needs_few_words() {
        let scenario = Scenario::parse(TEXT).unwrap();
        assert_eq!(scenario.arrivals, Arrivals::Clients(8));
        assert_eq!(
            (scenario.api, scenario.shared_words, scenario.warmup),
            (Api::Completions, 0, 0)
        );
        let open = Scenario::parse(&TEXT.replace("clients=8", "per_second=1.5")).unwrap();
        assert_eq!(open.arrivals, Arrivals::PerSecond(1.5));
    }

    #[test]
    fn nonsense_is_refused() {
        for (from, to) in [
            ("clients=8", "clients=0"),
            ("clients=8", "clients=33"),
            ("clients=8", "per_second=0.0"),
            ("clients=8", "per_second=nan"),
            ("clients=8", "sometimes=1"),
            ("requests=32", "requests=0"),
            ("max_tokens=64", "max_tokens=0"),
            ("own_words=96", "own_words=0"),
            ("seed=1", "sed=1"),
        ] {
            assert!(Scenario::parse(&TEXT.replace(from, to)).is_err(), "{to}");
        }
    }

    #[test]
    fn the_scenarios_that_ship_are_well_formed() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let mut count = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            Scenario::read(&entry.unwrap().path()).unwrap();
            count += 1;
        }
        assert!(count >= 5);
    }
}
