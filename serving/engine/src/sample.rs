//! The next token from logits. Chance comes from (seed, position) alone, so equal requests get equal
//! tokens whatever else runs.
use crate::request::Sampling;
use std::cmp::Ordering;
use windlass_kernels::{WEIGHTS, weights};

/// A token and its weight beside the most likely token, which has 1.
type Candidate = (f32, u32);

/// Shares of the largest weight above which candidates are looked for, one after the other until they suffice: mostly
/// few tokens have almost all of the probability, and only those are listed.
const LIKELY: [f32; 3] = [1e-2, 1e-4, 0.0];

/// Working memory of [`pick`], kept between calls.
#[derive(Debug, Default)]
pub struct Candidates {
    weights: Vec<f32>,
    /// Of `WEIGHTS` tokens each.
    sums: Vec<f32>,
    list: Vec<Candidate>,
}

/// The token for `position`, from logits that are finite or minus infinity; `best` is the most likely token.
pub fn pick(logits: &[f32], best: u32, sampling: &Sampling, position: usize, candidates: &mut Candidates) -> u32 {
    if sampling.is_greedy() {
        return best;
    }
    candidates.weigh(logits, logits[best as usize], sampling.temperature);
    let point = uniform(sampling.seed, position);
    candidates.draw(sampling, point).unwrap_or(best)
}

impl Candidates {
    fn weigh(&mut self, logits: &[f32], largest: f32, temperature: f32) {
        self.weights.resize(logits.len(), 0.0);
        self.sums.resize(logits.len().div_ceil(WEIGHTS), 0.0);
        weights(logits, largest, temperature, &mut self.weights, &mut self.sums);
    }

    /// The token at `point` (in 0..1) of what may be drawn, in the order of the tokens.
    fn draw(&mut self, sampling: &Sampling, point: f64) -> Option<u32> {
        if (sampling.top_k == 0 || sampling.top_k >= self.weights.len())
            && sampling.top_p >= 1.0
            && sampling.min_p <= 0.0
        {
            let mut point = point * total(self.sums.iter());
            let mut block = 0;
            while block + 1 < self.sums.len() && point >= f64::from(self.sums[block]) {
                point -= f64::from(self.sums[block]);
                block += 1;
            }
            let first = block * WEIGHTS;
            let weights = self.weights[first..].iter().take(WEIGHTS).copied();
            return at(point, weights.zip(first as u32..));
        }
        let least = self.least(sampling)?;
        self.gather(least.0);
        self.list
            .retain(|candidate| order(candidate, &least) != Ordering::Greater);
        let point = point * total(self.list.iter().map(|(weight, _)| weight));
        at(point, self.list.iter().copied())
    }

    /// The least likely candidate that may still be drawn: of the `top_k` most likely tokens those that are at least
    /// `min_p` beside the first, and of these as few as have `top_p` of the probability.
    fn least(&mut self, sampling: &Sampling) -> Option<Candidate> {
        let floor = sampling.min_p.max(f32::MIN_POSITIVE);
        let is_top_k = sampling.top_k > 0;
        // Of `top_k` tokens it is known once they are found.
        let all = match (is_top_k, sampling.min_p > 0.0) {
            (true, _) => None,
            (false, true) => Some(total(self.weights.iter().filter(|weight| **weight >= floor))),
            (false, false) => Some(total(self.sums.iter())),
        };
        for likely in LIKELY {
            let threshold = floor.max(likely);
            let is_last = threshold == floor;
            self.gather(threshold);
            if is_top_k && self.list.len() < sampling.top_k && !is_last {
                continue;
            }
            if is_top_k && self.list.len() > sampling.top_k {
                self.list.select_nth_unstable_by(sampling.top_k - 1, order);
                self.list.truncate(sampling.top_k);
            }
            let mass = total(self.list.iter().map(|(weight, _)| weight));
            let wanted = f64::from(sampling.top_p) * all.unwrap_or(mass);
            if mass >= wanted || is_last {
                return last_of(&mut self.list, wanted);
            }
        }
        None
    }

    /// Lists all tokens of at least this weight, in their order.
    fn gather(&mut self, least: f32) {
        self.list.clear();
        for (index, weights) in self.weights.chunks(32).enumerate() {
            // Mostly there is none, which a comparison of all at once says.
            if weights
                .iter()
                .fold(0.0, |most, &weight| if weight > most { weight } else { most })
                >= least
            {
                let tokens = weights.iter().copied().zip(index as u32 * 32..);
                self.list.extend(tokens.filter(|(weight, _)| *weight >= least));
            }
        }
    }
}

/// The most likely first; of equals the first token.
fn order(a: &Candidate, b: &Candidate) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

fn total<'a>(weights: impl Iterator<Item = &'a f32>) -> f64 {
    weights.map(|weight| f64::from(*weight)).sum()
}

/// The token that a running sum of the weights passes `point` with; the last that has a chance if none does.
fn at(mut point: f64, candidates: impl Iterator<Item = Candidate>) -> Option<u32> {
    let mut last = None;
    for (weight, token) in candidates.filter(|(weight, _)| *weight > 0.0) {
        last = Some(token);
        point -= f64::from(weight);
        if point < 0.0 {
            break;
        }
    }
    last
}

/// The last of as many of the most likely candidates as have `mass` together, found without putting all in order.
fn last_of(mut list: &mut [Candidate], mut mass: f64) -> Option<Candidate> {
    while list.len() > 1 {
        let middle = list.len() / 2;
        list.select_nth_unstable_by(middle, order);
        let (first, rest) = list.split_at_mut(middle);
        let of_first = total(first.iter().map(|(weight, _)| weight));
        if of_first >= mass {
            list = first;
        } else {
            mass -= of_first;
            list = rest;
        }
    }
    list.first().copied()
}

/// A number in [0, 1) from a counter (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
fn uniform(seed: u64, position: usize) -> f64 {
    let mut z = mix(seed).wrapping_add((position as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = mix(z);
    (z >> 11) as f64 / (1u64 << 53) as f64
}

fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_kernels::argmax;

    fn sampling(temperature: f32, top_p: f32, top_k: usize) -> Sampling {
        Sampling {
            temperature,
            top_p,
            top_k,
            seed: 42,
            ..Sampling::default()
        }
    }

    fn draw(logits: &[f32], sampling: &Sampling, position: usize, candidates: &mut Candidates) -> u32 {
        pick(logits, argmax(logits) as u32, sampling, position, candidates)
    }

    fn share(logits: &[f32], sampling: &Sampling, token: u32) -> f64 {
        let mut candidates = Candidates::default();
        let hits = (0..20_000).filter(|&at| draw(logits, sampling, at, &mut candidates) == token);
        hits.count() as f64 / 20_000.0
    }

    #[test]
    fn greedy_takes_the_most_likely_token_as_it_is_given() {
        let mut candidates = Candidates::default();
        assert_eq!(pick(&[0.0, 2.0, 2.0], 1, &sampling(0.0, 1.0, 0), 0, &mut candidates), 1);
    }

    #[test]
    fn tokens_come_as_often_as_their_probability_says() {
        let logits = [0.0, 1.0, 2.0, -1.0];
        let total: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
        for (token, &logit) in (0u32..).zip(&logits) {
            let expected = f64::from(logit).exp() / total;
            let found = share(&logits, &sampling(1.0, 1.0, 0), token);
            assert!(
                (found - expected).abs() < 0.012,
                "token {token}: {found} for {expected}"
            );
        }
    }

    #[test]
    fn top_k_and_top_p_leave_only_the_most_likely() {
        let logits = [0.0, 3.0, 2.9, -1.0];
        assert_eq!(share(&logits, &sampling(1.0, 1.0, 2), 0), 0.0);
        assert!(share(&logits, &sampling(1.0, 1.0, 2), 2) > 0.4);
        assert_eq!(share(&logits, &sampling(1.0, 0.4, 0), 1), 1.0);
        assert_eq!(share(&logits, &sampling(2.0, 1.0, 1), 1), 1.0);
    }

    #[test]
    fn min_p_leaves_only_what_is_likely_enough_beside_the_most_likely() {
        // Probabilities 8 : 4 : 2 : 1 beside each other; with temperature 2 their roots.
        let logits = [8f32, 4.0, 2.0, 1.0].map(f32::ln);
        let drawn = |temperature, min_p| {
            let mut candidates = Candidates::default();
            let sampling = Sampling {
                min_p,
                ..sampling(temperature, 1.0, 0)
            };
            let draw = |at| pick(&logits, 0, &sampling, at, &mut candidates);
            (0..4000).map(draw).collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(drawn(1.0, 0.3), [0, 1].into());
        assert_eq!(drawn(2.0, 0.4), [0, 1, 2].into());
        assert_eq!(drawn(1.0, 1.0), [0].into());
        assert_eq!(drawn(1.0, 0.0).len(), 4);
    }

    /// What may be drawn, by putting all tokens in order, in the order of the tokens.
    fn kept(weights: &[f32], sampling: &Sampling) -> Vec<Candidate> {
        let mut list: Vec<Candidate> = weights.iter().copied().zip(0..).collect();
        list.sort_unstable_by(order);
        if sampling.top_k > 0 {
            list.truncate(sampling.top_k);
        }
        list.retain(|(weight, _)| *weight > 0.0 && *weight >= sampling.min_p);
        let wanted = f64::from(sampling.top_p) * total(list.iter().map(|(weight, _)| weight));
        let mut mass = 0.0;
        let last = list.iter().position(|(weight, _)| {
            mass += f64::from(*weight);
            mass >= wanted
        });
        list.truncate(last.map_or(list.len(), |last| last + 1));
        list.sort_unstable_by_key(|(_, token)| *token);
        list
    }

    #[test]
    fn what_is_drawn_is_what_sorting_all_tokens_gives() {
        let mut candidates = Candidates::default();
        for (seed, spread) in [(1, 0.0), (2, 1.0), (3, 8.0), (4, 60.0)] {
            // Equal logits among them, and one that is masked.
            let mut logits: Vec<f32> = (0..3000).map(|at| (uniform(seed, at / 2) * spread) as f32).collect();
            logits[7] = f32::NEG_INFINITY;
            let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            for (top_k, top_p, min_p) in [
                (0, 0.9, 0.0),
                (0, 0.2, 0.0),
                (40, 1.0, 0.0),
                (1, 1.0, 0.0),
                (2500, 0.99, 0.0),
                (0, 1.0, 0.1),
                (0, 0.95, 0.02),
                (50, 0.5, 0.3),
                (0, 0.0, 0.0),
            ] {
                let sampling = Sampling {
                    min_p,
                    ..sampling(0.8, top_p, top_k)
                };
                candidates.weigh(&logits, largest, 0.8);
                let kept = kept(&candidates.weights, &sampling);
                let mass = total(kept.iter().map(|(weight, _)| weight));
                for step in 0..40 {
                    let point = f64::from(step) / 40.0;
                    let expected = at(point * mass, kept.iter().copied());
                    assert_eq!(
                        candidates.draw(&sampling, point),
                        expected,
                        "{top_k} {top_p} {min_p}, {spread} at {point}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_draw_from_a_whole_vocabulary_finds_each_token_at_its_point() {
        let mut candidates = Candidates::default();
        let logits = vec![0.0; 1000];
        candidates.weigh(&logits, 0.0, 1.0);
        for token in 0..1000 {
            let point = (f64::from(token) + 0.5) / 1000.0;
            assert_eq!(candidates.draw(&sampling(1.0, 1.0, 0), point), Some(token));
        }
        assert_eq!(
            candidates.draw(&sampling(1.0, 1.0, 0), 1.0),
            Some(999),
            "a rounded point is still inside"
        );
    }

    #[test]
    fn what_is_masked_is_never_drawn() {
        let logits = [f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY, 0.0];
        assert_eq!(share(&logits, &sampling(2.0, 1.0, 0), 0), 0.0);
        assert_eq!(share(&logits, &sampling(2.0, 1.0, 3), 2), 0.0);
    }

    #[test]
    fn the_same_seed_and_position_give_the_same_token_and_others_differ() {
        let logits = [0.0; 64];
        let mut candidates = Candidates::default();
        let mut draw = |seed, position| {
            let sampling = Sampling {
                seed,
                ..sampling(1.0, 1.0, 0)
            };
            pick(&logits, 0, &sampling, position, &mut candidates)
        };
        assert_eq!(draw(1, 5), draw(1, 5));
        let distinct: std::collections::BTreeSet<_> = (0..200).map(|at| draw(at / 100, (at % 100) as usize)).collect();
        assert!(distinct.len() > 40);
    }
}
