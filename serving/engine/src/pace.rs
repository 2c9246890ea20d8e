//! How long a step will take, learned from steps that were measured, and how many prompt tokens fit into one: a
//! prompt that is read beside answers being written must not stop them. Reads no clock; results do not depend on it,
//! as no chunking changes a token.
use std::time::Duration;

/// What a step has to do.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Load {
    /// Tokens computed.
    pub tokens: usize,
    /// Pairs of a token and an earlier one that it attends to.
    pub pairs: usize,
}

impl Load {
    /// Of `count` tokens of a sequence, the first at `position`.
    pub fn of(position: usize, count: usize) -> Self {
        Self {
            tokens: count,
            pairs: count * position + count * (count + 1) / 2,
        }
    }

    /// Both together.
    pub fn and(self, other: Self) -> Self {
        Self {
            tokens: self.tokens + other.tokens,
            pairs: self.pairs + other.pairs,
        }
    }

    /// In units that make the parts of a step's time about equally large.
    fn features(self) -> [f64; 3] {
        [1.0, self.tokens as f64 / 32.0, self.pairs as f64 / 32_768.0]
    }
}

/// A linear model of a step's time, corrected after each one (normalised least mean squares: Widrow and Stearns,
/// "Adaptive signal processing", 1985): time = a + b * tokens + c * pairs, none of them negative.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace {
    /// Seconds for each feature of a load; `None` before the first measurement.
    weights: Option<[f64; 3]>,
}

impl Pace {
    /// Share of an error that a measurement corrects: a few steps suffice, and one that was disturbed moves little.
    const RATE: f64 = 0.25;
    /// How far a single measurement may be off the prediction and still count in full.
    const OUTLIER: f64 = 2.0;

    /// A step with this load took so long.
    pub fn learn(&mut self, load: Load, took: Duration) {
        let features = load.features();
        let norm: f64 = features.iter().map(|feature| feature * feature).sum();
        let (took, predicted) = (took.as_secs_f64(), self.seconds(load));
        let Some(weights) = &mut self.weights else {
            self.weights = Some(features.map(|feature| took * feature / norm));
            return;
        };
        let plausible = took.clamp(predicted / Self::OUTLIER, (predicted * Self::OUTLIER).max(1e-6));
        let correction = Self::RATE * (plausible - predicted) / norm;
        for (weight, feature) in weights.iter_mut().zip(features) {
            *weight = (*weight + correction * feature).max(0.0);
        }
    }

    /// Predicted seconds of a step; 0 before anything was measured.
    pub fn seconds(&self, load: Load) -> f64 {
        let weights = self.weights.unwrap_or_default();
        weights
            .iter()
            .zip(load.features())
            .map(|(weight, feature)| weight * feature)
            .sum()
    }

    /// Tokens from `position` on, at most `most`, that can join a step with `load` so that it ends within `limit`
    /// seconds. Whole multiples of four where that is possible: the kernels compute four at once.
    pub fn fitting(&self, load: Load, position: usize, most: usize, limit: f64) -> usize {
        let fits = |count: usize| self.seconds(load.and(Load::of(position, count))) <= limit;
        if fits(most) {
            return most;
        }
        // The time grows with the count: halving finds the largest that fits.
        let (mut fitting, mut over) = (0, most);
        while over - fitting > 1 {
            let middle = fitting.midpoint(over);
            if fits(middle) { fitting = middle } else { over = middle }
        }
        if fitting > 4 { fitting / 4 * 4 } else { fitting }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine: 2 ms for the weights, 0.7 ms a token, 1 ms for 8,192 pairs.
    fn machine(load: Load) -> Duration {
        Duration::from_secs_f64(0.002 + 0.0007 * load.tokens as f64 + 0.001 * load.pairs as f64 / 8192.0)
    }

    /// Loads as they come: a prompt, and answers of 1 to 8 sequences with a chunk now and then.
    fn trained(disturbance: impl Fn(usize) -> f64) -> Pace {
        let mut pace = Pace::default();
        for step in 0..300 {
            let running = step / 20 % 8 + 1;
            let mut load = (0..running).fold(Load::default(), |load, index| load.and(Load::of(100 * index + step, 1)));
            if step % 7 == 0 {
                load = load.and(Load::of(step % 3 * 200, 16 + step % 100));
            }
            pace.learn(load, machine(load).mul_f64(disturbance(step)));
        }
        pace
    }

    fn assert_close(pace: &Pace, load: Load, within: f64) {
        let (found, real) = (pace.seconds(load), machine(load).as_secs_f64());
        assert!((found / real - 1.0).abs() < within, "{load:?}: {found} for {real}");
    }

    #[test]
    fn nothing_is_predicted_before_a_step_was_measured() {
        let pace = Pace::default();
        assert_eq!(pace.seconds(Load::of(0, 512)), 0.0);
        assert_eq!(pace.fitting(Load::default(), 0, 512, 0.04), 512);
    }

    #[test]
    fn the_time_of_a_step_is_learned_within_a_tenth() {
        let pace = trained(|_| 1.0);
        for load in [Load::of(300, 1), Load::of(0, 48), Load::of(400, 96)] {
            assert_close(&pace, load, 0.1);
        }
    }

    #[test]
    fn steps_that_were_disturbed_do_not_spoil_the_prediction() {
        let pace = trained(|step| if step % 25 == 0 { 50.0 } else { 1.0 });
        assert_close(&pace, Load::of(0, 48), 0.3);
    }

    #[test]
    fn a_machine_that_became_slower_is_noticed() {
        let mut pace = trained(|_| 1.0);
        let load = Load::of(200, 32);
        for _ in 0..20 {
            pace.learn(load, machine(load) * 6);
        }
        let ratio = pace.seconds(load) / machine(load).as_secs_f64();
        assert!(ratio > 5.5, "{ratio}");
    }

    #[test]
    fn what_fits_stays_within_the_limit_and_one_more_would_not() {
        let pace = trained(|_| 1.0);
        let answers = (0..8).fold(Load::default(), |load, index| load.and(Load::of(150 + index, 1)));
        for position in [0, 500, 4000] {
            let count = pace.fitting(answers, position, 512, 0.04);
            let seconds = |count| pace.seconds(answers.and(Load::of(position, count)));
            assert!(count.is_multiple_of(4) && count > 0, "{count}");
            assert!(
                seconds(count) <= 0.04 && seconds(count + 4) > 0.04,
                "{count} at {position}"
            );
        }
        assert_eq!(pace.fitting(answers, 0, 512, 0.0), 0, "no time, no tokens");
    }
}
