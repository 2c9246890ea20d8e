//! The choice of the next token. Randomness is a function of seed and position, so a request draws the
//! same tokens alone, in a crowd, and after it lost its place and started over.
use windlass_kernels::{argmax, logsumexp};

use crate::request::Sampling;

/// Candidates that are sorted first: nearly always enough for the nucleus.
const FIRST: usize = 64;

/// Chooses from the logits of the token at `position`; `None` if they are not finite.
pub fn sample(logits: &[f32], sampling: &Sampling, position: usize) -> Option<u32> {
    let best = argmax(logits);
    // A row whose arithmetic failed is NaN as a whole; an infinite logit makes the largest infinite.
    if !logits.get(best)?.is_finite() {
        return None;
    }
    if sampling.temperature <= 0.0 || sampling.top_k == 1 {
        return Some(best as u32);
    }
    let scaled: Vec<f32> = logits.iter().map(|logit| logit / sampling.temperature).collect();
    if !scaled[best].is_finite() {
        // A temperature so low that the division overflows is greedy.
        return Some(best as u32);
    }
    let nucleus = Nucleus::new(&scaled, sampling);
    Some(nucleus.draw(uniform(sampling.seed, position as u64)))
}

/// The tokens that may be drawn, most likely first, with their weights.
struct Nucleus {
    tokens: Vec<u32>,
    weights: Vec<f64>,
}

impl Nucleus {
    fn new(scaled: &[f32], sampling: &Sampling) -> Self {
        let most = match sampling.top_k {
            0 => scaled.len(),
            k => k.min(scaled.len()),
        };
        let mut tokens: Vec<u32> = (0..scaled.len() as u32).collect();
        // Equal logits rank by id, so that the order is one.
        let order = |a: &u32, b: &u32| scaled[*b as usize].total_cmp(&scaled[*a as usize]).then(a.cmp(b));
        // top_p counts among the tokens that top_k left: their total comes first.
        let (total, mut sorted) = if most < scaled.len() {
            tokens.select_nth_unstable_by(most - 1, order);
            tokens.truncate(most);
            tokens.sort_unstable_by(order);
            let kept: Vec<f32> = tokens.iter().map(|&token| scaled[token as usize]).collect();
            (logsumexp(&kept), most)
        } else {
            (logsumexp(scaled), 0)
        };
        let weight = |token: u32| f64::from(scaled[token as usize] - total).exp();
        if sampling.top_p >= 1.0 {
            // Everything counts, and then the order does not matter.
            let weights = tokens.iter().map(|&token| weight(token)).collect();
            return Self { tokens, weights };
        }
        let mut nucleus = Self {
            tokens,
            weights: Vec::new(),
        };
        let mut reached = 0.0;
        for index in 0..most {
            if index == sorted {
                sorted = (sorted * 4).clamp(FIRST, most);
                let rest = &mut nucleus.tokens[index..];
                if sorted < most {
                    rest.select_nth_unstable_by(sorted - index - 1, order);
                }
                rest[..sorted - index].sort_unstable_by(order);
            }
            let weight = weight(nucleus.tokens[index]);
            nucleus.weights.push(weight);
            reached += weight;
            if reached >= f64::from(sampling.top_p) {
                break;
            }
        }
        nucleus.tokens.truncate(nucleus.weights.len());
        nucleus
    }

    fn draw(&self, uniform: f64) -> u32 {
        let total: f64 = self.weights.iter().sum();
        let mut left = uniform * total;
        for (&token, weight) in self.tokens.iter().zip(&self.weights) {
            left -= weight;
            if left < 0.0 {
                return token;
            }
        }
        // Rounding can leave a trace; the nucleus is never empty.
        self.tokens[self.tokens.len() - 1]
    }
}

/// A number in [0, 1) from a seed and a counter (SplitMix64's finaliser over both; Steele et al., 2014).
fn uniform(seed: u64, counter: u64) -> f64 {
    let bits = mix(mix(seed).wrapping_add(counter.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling(temperature: f32, top_p: f32, top_k: usize, seed: u64) -> Sampling {
        Sampling {
            temperature,
            top_p,
            top_k,
            seed,
        }
    }

    /// How often each token is drawn in `draws` positions.
    fn counts(logits: &[f32], sampling: &Sampling, draws: usize) -> Vec<usize> {
        let mut counts = vec![0; logits.len()];
        for position in 0..draws {
            counts[sample(logits, sampling, position).unwrap() as usize] += 1;
        }
        counts
    }

    #[test]
    fn temperature_zero_takes_the_first_of_the_largest() {
        assert_eq!(sample(&[1.0, 3.0, 3.0], &sampling(0.0, 1.0, 0, 7), 0), Some(1));
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let logits = [0.0f32, (2.0f32).ln(), (5.0f32).ln()];
        let counts = counts(&logits, &sampling(1.0, 1.0, 0, 1), 80_000);
        for (count, expected) in counts.iter().zip([10_000.0, 20_000.0, 50_000.0]) {
            assert!((*count as f64 - expected).abs() < 600.0, "{counts:?}");
        }
    }

    #[test]
    fn a_higher_temperature_flattens() {
        let logits = [0.0f32, (9.0f32).ln()];
        let counts = counts(&logits, &sampling(2.0, 1.0, 0, 1), 40_000);
        // The odds are 1 to the root of 9.
        assert!((counts[0] as f64 - 10_000.0).abs() < 500.0, "{counts:?}");
    }

    #[test]
    fn only_the_k_most_likely_are_drawn() {
        let logits: Vec<f32> = (0..1000).map(|token| ((token * 7919) % 1000) as f32 * 1e-3).collect();
        let counts = counts(&logits, &sampling(1.0, 1.0, 3, 5), 3_000);
        for (token, &count) in counts.iter().enumerate() {
            assert_eq!(count > 0, logits[token] >= 0.997, "token {token}: {count}");
        }
    }

    #[test]
    fn the_nucleus_is_the_smallest_set_that_reaches_top_p() {
        let logits = [(0.5f32).ln(), (0.3f32).ln(), (0.15f32).ln(), (0.05f32).ln()];
        let drawn = |top_p| {
            counts(&logits, &sampling(1.0, top_p, 0, 3), 2_000)
                .iter()
                .filter(|&&count| count > 0)
                .count()
        };
        assert_eq!([drawn(0.4), drawn(0.6), drawn(0.9), drawn(1.0)], [1, 2, 3, 4]);
    }

    #[test]
    fn a_wide_nucleus_is_drawn_from_as_a_whole() {
        let logits = vec![0.25f32; 5_000];
        let counts = counts(&logits, &sampling(1.0, 1.0, 0, 3), 20_000);
        assert!(counts.iter().filter(|&&count| count > 0).count() > 4_500);
    }

    #[test]
    fn the_draw_depends_on_seed_and_position_alone() {
        let logits: Vec<f32> = (0..100).map(|token| token as f32 * 0.01).collect();
        let draws = |seed| {
            (0..50)
                .map(|position| sample(&logits, &sampling(1.0, 0.95, 0, seed), position))
                .collect::<Vec<_>>()
        };
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
    }

    #[test]
    fn arithmetic_that_failed_yields_no_token() {
        assert_eq!(sample(&[f32::NAN, f32::NAN], &sampling(0.0, 1.0, 0, 0), 0), None);
        assert_eq!(sample(&[f32::INFINITY, 0.0], &sampling(1.0, 1.0, 0, 0), 0), None);
        assert_eq!(sample(&[], &sampling(0.0, 1.0, 0, 0), 0), None);
    }
}
