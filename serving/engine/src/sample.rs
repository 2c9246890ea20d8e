//! The next token from logits. Chance comes from (seed, position) alone, so equal requests get equal
//! tokens whatever else runs.
use crate::request::Sampling;

/// Working memory of [`pick`], kept between calls.
#[derive(Debug, Default)]
pub struct Candidates(Vec<(f32, u32)>);

/// The token for `position`, from logits that are finite or minus infinity; `best` is the most likely token.
pub fn pick(logits: &[f32], best: u32, sampling: &Sampling, position: usize, candidates: &mut Candidates) -> u32 {
    if sampling.is_greedy() {
        return best;
    }
    let largest = logits[best as usize];
    // Weights relative to the most likely token; what underflows has no chance anyway.
    let weight = |logit: f32| ((logit - largest) / sampling.temperature).exp();
    let list = &mut candidates.0;
    list.clear();
    list.extend((0..).zip(logits).map(|(token, &logit)| (weight(logit), token)));
    let order = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    if sampling.top_k > 0 && sampling.top_k < list.len() {
        list.select_nth_unstable_by(sampling.top_k - 1, order);
        list.truncate(sampling.top_k);
    }
    list.retain(|(weight, _)| *weight > 0.0 && *weight >= sampling.min_p);
    list.sort_unstable_by(order);
    let total: f64 = list.iter().map(|(weight, _)| f64::from(*weight)).sum();
    let nucleus = total * f64::from(sampling.top_p);
    let mut mass = 0.0;
    let kept = list.iter().position(|(weight, _)| {
        mass += f64::from(*weight);
        mass >= nucleus
    });
    list.truncate(kept.map_or(list.len(), |last| last + 1));
    let mut point = uniform(sampling.seed, position) * mass.min(total);
    for (weight, token) in list.iter() {
        point -= f64::from(*weight);
        if point < 0.0 {
            return *token;
        }
    }
    list.last().map_or(best, |(_, token)| *token)
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
