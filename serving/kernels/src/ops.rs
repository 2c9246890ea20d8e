//! Operations on single rows: norm, activation, sum, and what sampling needs. Each is deterministic
//! and the same on every instruction set; none allocates.

use crate::isa::Isa;
use crate::lanes::{LANES, Lanes, for_each_wide, lanes_fn};

/// `x += y`, element by element.
///
/// # Panics
/// If the lengths differ.
pub(crate) fn add(x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "add: lengths differ");
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

/// The index of the largest element, the first of equals. NaN never wins; 0 if there is nothing else.
pub fn argmax(x: &[f32]) -> usize {
    let best = largest_on(Isa::detect(), x);
    x.iter().position(|&v| v == best).unwrap_or(0)
}

/// `ln(sum(exp(x)))`, without overflow; minus infinity for an empty slice.
pub fn logsumexp(x: &[f32]) -> f32 {
    logsumexp_on(Isa::detect(), x)
}

/// Elements of which [`weights`] gives a sum.
pub const WEIGHTS: usize = 256;

/// How likely each element is beside the largest one, which gets 1: `out = exp((x - largest) / temperature)`; and the sums
/// of `WEIGHTS` of them at a time, the last perhaps of fewer.
///
/// # Panics
/// If the lengths do not fit together.
pub fn weights(x: &[f32], largest: f32, temperature: f32, out: &mut [f32], sums: &mut [f32]) {
    weights_on(Isa::detect(), x, largest, temperature, out, sums);
}

/// Replaces logits by probabilities: `exp(x - max) / sum`.
pub fn softmax(x: &mut [f32]) {
    softmax_on(Isa::detect(), x);
}

lanes_fn! {
    /// `out = x / sqrt(mean(x²) + eps) * weight`, over one row; the three slices are equally long.
    pub(crate) fn rmsnorm_on(l, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        assert!(x.len() == weight.len() && x.len() == out.len(), "rmsnorm: lengths differ");
        let (eights, rest) = x.as_chunks::<LANES>();
        let mut squares = l.splat(0.0);
        for eight in eights {
            let v = l.load(eight);
            squares = l.fma(v, v, squares);
        }
        let v = l.load_part(rest, 0.0);
        squares = l.fma(v, v, squares);
        let scale = 1.0 / (l.sum(squares) / x.len() as f32 + eps).sqrt();
        // Element by element: there is no order to keep, the compiler widens it.
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * scale * weight;
        }
    }
}

lanes_fn! {
    /// `up = gate / (1 + exp(-gate)) * up`, element by element.
    pub(crate) fn silu_mul_on(l, gate: &[f32], up: &mut [f32]) {
        assert_eq!(gate.len(), up.len(), "silu_mul: lengths differ");
        for_each_wide!(l, silu_mul_wide, gate, up);
    }
}

#[inline(always)]
fn silu_mul_wide<L: Lanes>(l: L, gate: L::W, up: L::W) -> L::W {
    let grown = l.exp(l.sub_wide(l.splat_wide(0.0), gate));
    l.mul_wide(l.div_wide(gate, l.add_wide(l.splat_wide(1.0), grown)), up)
}

lanes_fn! {
    /// `up = gelu(gate) * up`, element by element, with the tanh form of GELU (Hendrycks and Gimpel, "Gaussian error
    /// linear units", 2016): `x / 2 * (1 + tanh(u))` is `x / (1 + exp(-2u))`, with u = sqrt(2 / pi) * (x + 0.044715 x^3).
    pub(crate) fn gelu_mul_on(l, gate: &[f32], up: &mut [f32]) {
        assert_eq!(gate.len(), up.len(), "gelu_mul: lengths differ");
        for_each_wide!(l, gelu_mul_wide, gate, up);
    }
}

#[inline(always)]
fn gelu_mul_wide<L: Lanes>(l: L, gate: L::W, up: L::W) -> L::W {
    // -2 sqrt(2 / pi), and that times 0.044715.
    let (linear, cubic) = (l.splat_wide(-1.595_769), l.splat_wide(-0.071_354_82));
    let exponent = l.mul_wide(gate, l.fma_wide(l.mul_wide(gate, gate), cubic, linear));
    l.mul_wide(l.div_wide(gate, l.add_wide(l.splat_wide(1.0), l.exp(exponent))), up)
}

lanes_fn! {
    /// The largest element; minus infinity if there is none but NaN.
    pub(crate) fn largest_on(l, x: &[f32]) -> f32 {
        let (eights, rest) = x.as_chunks::<LANES>();
        let mut best = l.splat(f32::NEG_INFINITY);
        for eight in eights {
            best = l.max(l.load(eight), best);
        }
        l.max_of(l.max(l.load_part(rest, f32::NEG_INFINITY), best))
    }
}

lanes_fn! {
    pub(crate) fn logsumexp_on(l, x: &[f32]) -> f32 {
        let mut best = l.splat(f32::NEG_INFINITY);
        for part in x.chunks(LANES) {
            best = l.max(l.load_part(part, f32::NEG_INFINITY), best);
        }
        let best = l.max_of(best);
        if best == f32::NEG_INFINITY {
            return best;
        }
        let mut sum = l.splat(0.0);
        for part in x.chunks(LANES) {
            sum = l.add(sum, l.exp_eight(l.sub(l.load_part(part, f32::NEG_INFINITY), l.splat(best))));
        }
        best + l.sum(sum).ln()
    }
}

lanes_fn! {
    fn weights_on(l, x: &[f32], largest: f32, temperature: f32, out: &mut [f32], sums: &mut [f32]) {
        assert!(x.len() == out.len() && x.len().div_ceil(WEIGHTS) == sums.len(), "weights: lengths differ");
        let (largest, temperature) = (l.splat_wide(largest), l.splat_wide(temperature));
        for ((x, out), total) in x.chunks(WEIGHTS).zip(out.chunks_mut(WEIGHTS)).zip(sums) {
            let mut sum = l.splat(0.0);
            let (wide, mut outs) = (x.chunks_exact(L::WIDE), out.chunks_exact_mut(L::WIDE));
            let rest = wide.remainder();
            for (x, out) in wide.zip(&mut outs) {
                let weights = l.exp(l.div_wide(l.sub_wide(l.load_wide(x), largest), temperature));
                sum = l.add_to_eight(sum, weights);
                l.store_wide(weights, out);
            }
            if !rest.is_empty() {
                let mut last = [f32::NEG_INFINITY; 2 * LANES];
                last[..rest.len()].copy_from_slice(rest);
                let weights = l.exp(l.div_wide(l.sub_wide(l.load_wide(&last), largest), temperature));
                sum = l.add_to_eight(sum, weights);
                l.store_wide(weights, &mut last);
                outs.into_remainder().copy_from_slice(&last[..rest.len()]);
            }
            *total = l.sum(sum);
        }
    }
}

lanes_fn! {
    pub(crate) fn softmax_on(l, x: &mut [f32]) {
        let mut best = l.splat(f32::NEG_INFINITY);
        for part in x.chunks(LANES) {
            best = l.max(l.load_part(part, f32::NEG_INFINITY), best);
        }
        let best = l.splat(l.max_of(best));
        let mut sum = l.splat(0.0);
        for part in x.chunks_mut(LANES) {
            let e = l.exp_eight(l.sub(l.load_part(part, f32::NEG_INFINITY), best));
            sum = l.add(sum, e);
            part.copy_from_slice(&l.to_array(e)[..part.len()]);
        }
        let sum = l.sum(sum);
        for x in x.iter_mut() {
            *x /= sum;
        }
    }
}

/// Spreads what single elements of a head have over all of them: the Walsh-Hadamard transform, which is orthogonal, so
/// that queries and keys that both went through it have the same products as before. Some models have a few elements much
/// larger than the rest, which would leave those nothing of a common scale (Ashkboos et al., "QuaRot", 2024). Heads whose
/// size is no power of two are taken in parts that are.
pub(crate) fn spread(head: &mut [f32]) {
    let size = 1 << head.len().trailing_zeros();
    for part in head.chunks_exact_mut(size) {
        let mut half = 1;
        while half < size {
            for pair in part.chunks_exact_mut(2 * half) {
                let (low, high) = pair.split_at_mut(half);
                for (a, b) in low.iter_mut().zip(high) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            half *= 2;
        }
        let scale = (size as f32).sqrt().recip();
        part.iter_mut().for_each(|x| *x *= scale);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Random, bits};

    const LENGTHS: [usize; 7] = [1, 7, 8, 9, 64, 576, 1001];

    fn both() -> [Isa; 2] {
        [Isa::scalar(), Isa::detect()]
    }

    #[test]
    fn rmsnorm_equals_plain_arithmetic_and_itself_everywhere() {
        for len in LENGTHS {
            let (x, weight) = (Random::new(30).floats(len), Random::new(31).floats(len));
            let mut out = [vec![0.0; len], vec![0.0; len]];
            for (isa, out) in both().into_iter().zip(&mut out) {
                rmsnorm_on(isa, &x, &weight, 1e-5, out);
            }
            assert_eq!(bits(&out[0]), bits(&out[1]));
            let mean = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / len as f64;
            for ((got, x), w) in out[0].iter().zip(&x).zip(&weight) {
                let want = f64::from(*x) / (mean + 1e-5).sqrt() * f64::from(*w);
                assert!((f64::from(*got) - want).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn weights_are_those_of_plain_arithmetic_and_the_same_everywhere() {
        for len in [1, 7, 8, 256, 257, 1001] {
            let mut x: Vec<f32> = Random::new(40).floats(len).iter().map(|x| x * 30.0).collect();
            x[len / 2] = f32::NEG_INFINITY;
            for temperature in [0.1, 1.0, 1.7] {
                let [scalar, best] = both().map(|isa| {
                    let (mut out, mut sums) = (vec![0.0; len], vec![0.0; len.div_ceil(WEIGHTS)]);
                    weights_on(isa, &x, 30.0, temperature, &mut out, &mut sums);
                    (out, sums)
                });
                assert_eq!(bits(&scalar.0), bits(&best.0));
                assert_eq!(bits(&scalar.1), bits(&best.1));
                for (x, got) in x.iter().zip(&best.0) {
                    let want = ((f64::from(*x) - 30.0) / f64::from(temperature)).exp();
                    assert!(
                        (f64::from(*got) - want).abs() <= 1e-4 * want + 1e-37,
                        "{x}: {got}, not {want}"
                    );
                }
                for (out, sum) in best.0.chunks(WEIGHTS).zip(&best.1) {
                    let want: f64 = out.iter().map(|&x| f64::from(x)).sum();
                    assert!((f64::from(*sum) - want).abs() <= 1e-5 * want);
                }
            }
        }
    }

    #[test]
    fn spread_heads_have_the_same_products_and_no_large_element() {
        for len in [32, 64, 96, 128] {
            let (mut query, mut key) = (Random::new(38).floats(len), Random::new(39).floats(len));
            key[5] = 100.0;
            let product =
                |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum() };
            let before = product(&query, &key);
            let original = key.clone();
            spread(&mut query);
            spread(&mut key);
            assert!((product(&query, &key) - before).abs() < 1e-4, "{len}");
            let part = (1 << len.trailing_zeros()) as f32;
            assert!(
                key.iter().all(|x| x.abs() < 100.0 / part.sqrt() + 4.0),
                "{len}: {key:?}"
            );
            spread(&mut key);
            assert!(
                key.iter().zip(&original).all(|(a, b)| (a - b).abs() < 1e-4),
                "{len}: its own inverse"
            );
        }
    }

    #[test]
    fn silu_equals_plain_arithmetic_and_itself_everywhere() {
        for len in LENGTHS {
            let gate: Vec<f32> = Random::new(32).floats(len).iter().map(|x| x * 120.0).collect();
            let up = Random::new(33).floats(len);
            let mut out = [up.clone(), up.clone()];
            for (isa, out) in both().into_iter().zip(&mut out) {
                silu_mul_on(isa, &gate, out);
            }
            assert_eq!(bits(&out[0]), bits(&out[1]));
            for ((got, g), u) in out[0].iter().zip(&gate).zip(&up) {
                let want = f64::from(*g) / (1.0 + (-f64::from(*g)).exp()) * f64::from(*u);
                assert!(
                    (f64::from(*got) - want).abs() <= 1e-6 * want.abs().max(1e-30),
                    "{g}: {got}, not {want}"
                );
            }
        }
    }

    #[test]
    fn gelu_equals_plain_arithmetic_and_itself_everywhere() {
        for len in LENGTHS {
            let mut gate: Vec<f32> = Random::new(36).floats(len).iter().map(|x| x * 12.0).collect();
            gate[0] = -1e20;
            let up = Random::new(37).floats(len);
            let mut out = [up.clone(), up.clone()];
            for (isa, out) in both().into_iter().zip(&mut out) {
                gelu_mul_on(isa, &gate, out);
            }
            assert_eq!(bits(&out[0]), bits(&out[1]));
            assert!(
                out[0][0].abs() < 1e-10,
                "far below zero nothing is left, not {}",
                out[0][0]
            );
            for ((got, g), u) in out[0].iter().zip(&gate).zip(&up).skip(1) {
                let (g, u) = (f64::from(*g), f64::from(*u));
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (g + 0.044715 * g.powi(3));
                let want = 0.5 * g * (1.0 + inner.tanh()) * u;
                assert!((f64::from(*got) - want).abs() < 3e-6, "{g}: {got}, not {want}");
            }
        }
    }

    #[test]
    fn softmax_and_logsumexp_agree_and_are_the_same_everywhere() {
        for len in LENGTHS {
            let x: Vec<f32> = Random::new(34).floats(len).iter().map(|x| x * 50.0 + 1000.0).collect();
            let [a, b] = both().map(|isa| {
                let mut p = x.clone();
                softmax_on(isa, &mut p);
                (p, logsumexp_on(isa, &x))
            });
            assert_eq!(bits(&a.0), bits(&b.0));
            assert_eq!(a.1.to_bits(), b.1.to_bits());
            let sum: f64 = x.iter().map(|&x| (f64::from(x) - 1000.0).exp()).sum();
            assert!((f64::from(a.1) - 1000.0 - sum.ln()).abs() < 1e-4);
            for (p, x) in a.0.iter().zip(&x) {
                assert!((f64::from(*p) - (f64::from(*x) - 1000.0).exp() / sum).abs() < 1e-6);
            }
        }
        assert_eq!(logsumexp(&[]), f32::NEG_INFINITY);
        assert_eq!(logsumexp(&[f32::NEG_INFINITY; 3]), f32::NEG_INFINITY);
    }

    #[test]
    fn argmax_takes_the_first_of_equals_and_never_nan() {
        let mut x = vec![0.0; 100];
        assert_eq!(argmax(&x), 0);
        (x[37], x[60], x[99]) = (2.0, 2.0, 2.0);
        assert_eq!(argmax(&x), 37);
        x[5] = f32::NAN;
        x[98] = f32::NAN;
        assert_eq!(argmax(&x), 37);
        x[99] = f32::INFINITY;
        assert_eq!(argmax(&x), 99);
        assert_eq!(argmax(&[f32::NAN, f32::NAN]), 0);
        assert_eq!(argmax(&[f32::NAN, -5.0]), 1);
        assert_eq!(argmax(&[]), 0);
        for isa in both() {
            assert_eq!(largest_on(isa, &[f32::NAN, -5.0, f32::NAN]), -5.0);
        }
    }

    lanes_fn! {
        fn exp_on(l, x: &[f32; LANES]) -> [f32; LANES] {
            l.to_array(l.exp_eight(l.load(x)))
        }
    }

    #[test]
    fn the_exponential_is_within_two_units_of_the_last_place_and_the_same_everywhere() {
        let mut random = Random::new(35);
        for _ in 0..20_000 {
            let x: [f32; LANES] = std::array::from_fn(|_| random.float() * 88.0);
            let [a, b] = both().map(|isa| exp_on(isa, &x));
            assert_eq!(bits(&a), bits(&b));
            for (got, x) in a.iter().zip(x) {
                let want = f64::from(x).exp();
                let unit = f64::from(f32::EPSILON) * want;
                let unit = if x < -87.3 { want } else { unit };
                assert!(
                    (f64::from(*got) - want).abs() <= 2.0 * unit,
                    "exp({x}) is {want}, not {got}"
                );
            }
        }
        let edges = [
            0.0,
            -0.0,
            f32::NEG_INFINITY,
            f32::INFINITY,
            f32::NAN,
            -87.31,
            1000.0,
            -1e-40,
        ];
        for isa in both() {
            let got = exp_on(isa, &edges);
            assert_eq!([got[0], got[1], got[2], got[5], got[7]], [1.0, 1.0, 0.0, 0.0, 1.0]);
            assert!(got[3].is_finite() && got[3] > 2e38 && got[6] == got[3] && got[4].is_nan());
        }
    }
}
