//! Operations on rows that decoders do not have. Each is the same on every instruction set; none allocates.

use crate::dense::Outputs;
use crate::lanes::{LANES, Lanes, lanes_fn};

lanes_fn! {
    /// `x = (x - mean) / sqrt(variance + eps) * weight + bias`, over one row; the slices are equally long.
    pub(super) fn layer_norm(l, x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
        assert!(x.len() == weight.len() && x.len() == bias.len(), "layer norm: lengths differ");
        let len = x.len() as f32;
        // Four sums side by side: each waits for itself alone.
        let (whole, rest) = x.as_chunks::<{ 4 * LANES }>();
        let mut sums = [l.splat(0.0); 4];
        for part in whole {
            for (sum, eight) in sums.iter_mut().zip(part.as_chunks().0) {
                *sum = l.add(*sum, l.load(eight));
            }
        }
        for (sum, part) in sums.iter_mut().zip(rest.chunks(LANES)) {
            *sum = l.add(*sum, load(l, part, 0.0));
        }
        let mean = sum_of(l, sums) / len;
        let centre = l.splat(mean);
        let mut squares = [l.splat(0.0); 4];
        for part in whole {
            for (sum, eight) in squares.iter_mut().zip(part.as_chunks().0) {
                let v = l.sub(l.load(eight), centre);
                *sum = l.fma(v, v, *sum);
            }
        }
        for (sum, part) in squares.iter_mut().zip(rest.chunks(LANES)) {
            let v = l.sub(load(l, part, mean), centre);
            *sum = l.fma(v, v, *sum);
        }
        let scale = 1.0 / (sum_of(l, squares) / len + eps).sqrt();
        // Element by element: there is no order to keep, the compiler widens it.
        for ((x, weight), bias) in x.iter_mut().zip(weight).zip(bias) {
            *x = ((*x - mean) * scale).mul_add(*weight, *bias);
        }
    }
}

lanes_fn! {
    /// `out = word + position`, and a hint that `next` comes next: which words do is nothing that a processor could guess.
    pub(super) fn embedding(l, word: &[f32], position: &[f32], next: &[f32], out: &mut [f32]) {
        l.prefetch(next.as_ptr(), next.len());
        for ((out, word), position) in out.iter_mut().zip(word).zip(position) {
            *out = word + position;
        }
    }
}

/// `out = $f(x, bias, out)` for the elements of rows; `bias` says how long they are.
macro_rules! each_row {
    ($l:ident, $f:ident, $results:expr, $bias:expr, $outs:expr) => {
        let (bias, wide) = ($bias, $bias.len() / L::WIDE * L::WIDE);
        for (x, out) in $results.iter().zip($outs) {
            let (x, out) = (&x[..bias.len()], &mut out[..bias.len()]);
            for at in (0..wide).step_by(L::WIDE) {
                let y = $f(
                    $l,
                    $l.load_wide(&x[at..]),
                    $l.load_wide(&bias[at..]),
                    $l.load_wide(&out[at..]),
                );
                $l.store_wide(y, &mut out[at..]);
            }
            if wide < bias.len() {
                let [x, bias, last] = [&x[wide..], &bias[wide..], &out[wide..]].map(|part| {
                    let mut last = [0.0; 2 * LANES];
                    last[..part.len()].copy_from_slice(part);
                    last
                });
                let mut y = [0.0; 2 * LANES];
                $l.store_wide(
                    $f($l, $l.load_wide(&x), $l.load_wide(&bias), $l.load_wide(&last)),
                    &mut y,
                );
                let rest = &mut out[wide..];
                rest.copy_from_slice(&y[..rest.len()]);
            }
        }
    };
}

lanes_fn! {
    /// `out = x + bias`, row by row.
    pub(super) fn biased(l, results: &[Outputs], bias: &[f32], outs: &mut [&mut [f32]]) {
        each_row!(l, biased_wide, results, bias, outs);
    }
}

#[inline(always)]
fn biased_wide<L: Lanes>(l: L, x: L::W, bias: L::W, _: L::W) -> L::W {
    l.add_wide(x, bias)
}

lanes_fn! {
    /// `out += x + bias`, row by row.
    pub(super) fn add_biased(l, results: &[Outputs], bias: &[f32], outs: &mut [&mut [f32]]) {
        each_row!(l, add_biased_wide, results, bias, outs);
    }
}

#[inline(always)]
fn add_biased_wide<L: Lanes>(l: L, x: L::W, bias: L::W, out: L::W) -> L::W {
    l.add_wide(out, l.add_wide(x, bias))
}

lanes_fn! {
    /// `out = gelu(x + bias)`, row by row: `x * (1 + erf(x / sqrt(2))) / 2`.
    pub(super) fn gelu(l, results: &[Outputs], bias: &[f32], outs: &mut [&mut [f32]]) {
        each_row!(l, gelu_wide, results, bias, outs);
    }
}

/// erf as `z * P(z²) / Q(z²)` for |z| up to 3.92, where it is 1 to within f32: a rational fit by weighted least squares
/// over the error relative to erf, which is at most 1.9e-8 before rounding.
#[inline(always)]
fn gelu_wide<L: Lanes>(l: L, x: L::W, bias: L::W, _: L::W) -> L::W {
    const P: [f32; 6] = [
        2.050_186_6e-6,
        2.848_721e-4,
        3.765_113e-3,
        5.274_716_8e-2,
        1.903_946_3e-1,
        std::f32::consts::FRAC_2_SQRT_PI,
    ];
    const Q: [f32; 6] = [
        3.809_219_2e-5,
        1.162_414_7e-3,
        1.496_820_7e-2,
        1.141_042_3e-1,
        5.020_656e-1,
        1.0,
    ];
    let x = l.add_wide(x, bias);
    let z = l.mul_wide(x, l.splat_wide(std::f32::consts::FRAC_1_SQRT_2));
    // A NaN comes through: `min` and `max` give their second argument for it.
    let z = l.max_wide(l.splat_wide(-3.92), l.min_wide(l.splat_wide(3.92), z));
    let u = l.mul_wide(z, z);
    let erf = l.div_wide(l.mul_wide(z, polynomial(l, P, u)), polynomial(l, Q, u));
    let half = l.mul_wide(x, l.splat_wide(0.5));
    l.fma_wide(half, erf, half)
}

/// Horner's rule. A loop and no closure: what is not inlined loses its instruction set.
#[inline(always)]
fn polynomial<L: Lanes>(l: L, coefficients: [f32; 6], u: L::W) -> L::W {
    let mut sum = l.splat_wide(coefficients[0]);
    for c in &coefficients[1..] {
        sum = l.fma_wide(sum, u, l.splat_wide(*c));
    }
    sum
}

lanes_fn! {
    /// Replaces `x` by `exp((x - max) * scale)` and returns their sum; `scale` is positive.
    pub(super) fn exponentials(l, x: &mut [f32], scale: f32) -> f32 {
        let (eights, rest) = x.as_chunks::<LANES>();
        let mut best = l.load_part(rest, f32::NEG_INFINITY);
        for eight in eights.iter() {
            best = l.max(l.load(eight), best);
        }
        let (best, scale) = (l.splat_wide(l.max_of(best)), l.splat_wide(scale));
        let mut sum = l.splat(0.0);
        let mut wide = x.chunks_exact_mut(L::WIDE);
        for x in &mut wide {
            let e = l.exp(l.mul_wide(l.sub_wide(l.load_wide(x), best), scale));
            sum = l.add_to_eight(sum, e);
            l.store_wide(e, x);
        }
        let rest = wide.into_remainder();
        if !rest.is_empty() {
            let mut last = [f32::NEG_INFINITY; 2 * LANES];
            last[..rest.len()].copy_from_slice(rest);
            let e = l.exp(l.mul_wide(l.sub_wide(l.load_wide(&last), best), scale));
            sum = l.add_to_eight(sum, e);
            l.store_wide(e, &mut last);
            rest.copy_from_slice(&last[..rest.len()]);
        }
        l.sum(sum)
    }
}

#[inline(always)]
fn sum_of<L: Lanes>(l: L, [a, b, c, d]: [L::F; 4]) -> f32 {
    l.sum(l.add(l.add(a, b), l.add(c, d)))
}

#[inline(always)]
fn load<L: Lanes>(l: L, part: &[f32], fill: f32) -> L::F {
    match part.as_array::<LANES>() {
        Some(eight) => l.load(eight),
        None => l.load_part(part, fill),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::sample::{Random, bits};

    const LENGTHS: [usize; 6] = [1, 7, 8, 9, 64, 384];

    #[test]
    fn layer_norm_equals_plain_arithmetic_and_itself_everywhere() {
        for len in LENGTHS {
            let x: Vec<f32> = Random::new(60).floats(len).iter().map(|x| x * 3.0 + 1.0).collect();
            let (weight, bias) = (Random::new(61).floats(len), Random::new(62).floats(len));
            let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / len as f64;
            let variance = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / len as f64;
            let [scalar, best] = [Isa::scalar(), Isa::detect()].map(|isa| {
                let mut x = x.clone();
                layer_norm(isa, &mut x, &weight, &bias, 1e-3);
                x
            });
            assert_eq!(bits(&scalar), bits(&best));
            for i in 0..len {
                let want =
                    (f64::from(x[i]) - mean) / (variance + 1e-3).sqrt() * f64::from(weight[i]) + f64::from(bias[i]);
                assert!((f64::from(best[i]) - want).abs() < 1e-5);
            }
        }
    }

    /// erf by its series, which converges quickly enough for |z| < 5.
    fn erf(z: f64) -> f64 {
        let (mut term, mut sum) = (z, z);
        for n in 1..200 {
            term *= -z * z / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    }

    /// Row by row, of so many elements that the last are no whole lanes.
    fn gelus(isa: Isa, x: &[f32]) -> Vec<f32> {
        const COLUMNS: usize = 45;
        let results: Vec<Outputs> = x
            .chunks(COLUMNS)
            .map(|part| {
                let mut row = [0.0; _];
                row[..part.len()].copy_from_slice(part);
                row
            })
            .collect();
        let mut out = vec![f32::NAN; results.len() * COLUMNS];
        let mut rows: Vec<&mut [f32]> = out.chunks_mut(COLUMNS).collect();
        gelu(isa, &results, &[0.0; COLUMNS], &mut rows);
        out.truncate(x.len());
        out
    }

    #[test]
    fn gelu_equals_its_definition_and_itself_everywhere() {
        let x: Vec<f32> = (-7000..7000)
            .map(|i| i as f32 / 1000.0)
            .chain([60.0, -60.0, 1e30])
            .collect();
        let [scalar, best] = [Isa::scalar(), Isa::detect()].map(|isa| gelus(isa, &x));
        assert_eq!(bits(&scalar), bits(&best));
        for (&x, &got) in x.iter().zip(&best).take(14_000) {
            let want = f64::from(x) * 0.5 * (1.0 + erf(f64::from(x) * std::f64::consts::FRAC_1_SQRT_2));
            assert!((f64::from(got) - want).abs() < 1.5e-6, "gelu({x}) is {want}, not {got}");
        }
        assert!((best[14_000] - 60.0).abs() < 1e-5 && best[14_001].abs() < 1e-5 && best[14_002] > 9e29);
        let out = gelus(Isa::detect(), &[f32::NAN, f32::INFINITY]);
        assert!(out[0].is_nan() && out[1] == f32::INFINITY);
    }

    #[test]
    fn exponentials_are_those_of_the_softmax() {
        for len in LENGTHS {
            let x: Vec<f32> = Random::new(63).floats(len).iter().map(|x| x * 100.0).collect();
            let [scalar, best] = [Isa::scalar(), Isa::detect()].map(|isa| {
                let mut x = x.clone();
                let sum = exponentials(isa, &mut x, 0.5);
                x.push(sum);
                x
            });
            assert_eq!(bits(&scalar), bits(&best));
            let mut want: Vec<f32> = x.iter().map(|x| x * 0.5).collect();
            crate::ops::softmax(&mut want);
            for (got, want) in best.iter().zip(&want) {
                assert!((got / best[len] - want).abs() < 1e-6);
            }
        }
    }
}
