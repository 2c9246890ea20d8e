//! Rotary position embedding (Su et al., "RoFormer", 2021). The angles of a position are computed
//! once, in f64, and shared by all heads and layers; the rotation itself is plain f32.

use crate::isa::Isa;
use crate::lanes::lanes_fn;

/// Which two elements of a head are a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeStyle {
    /// `(2i, 2i+1)`: the order of GGUF files of the Llama family.
    Interleaved,
    /// `(i, i + dims/2)`: the NeoX order, as in Qwen2.
    Halves,
}

/// The given dimensions or frequencies make no rotation.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum RopeError {
    /// Pairs need an even number, at most the head's size.
    #[error("cannot rotate {dims} of {head_dim} dimensions: the number must be even and not above the head's")]
    Dimensions {
        /// Rotated dimensions.
        dims: usize,
        /// Dimensions of a head.
        head_dim: usize,
    },
    /// The base must be a positive finite number.
    #[error("rope frequency base {0} is not a positive number")]
    Base(f32),
    /// There must be one positive finite factor a pair.
    #[error("{given} rope factors for {pairs} pairs, or one that is not a positive number")]
    Factors {
        /// Factors given.
        given: usize,
        /// Pairs of rotated dimensions.
        pairs: usize,
    },
}

/// The rotation of one model.
#[derive(Debug, Clone)]
pub struct Rope {
    style: RopeStyle,
    head_dim: usize,
    /// Radians a position, one for each pair.
    frequencies: Vec<f64>,
}

impl Rope {
    /// Rotates the first `dims` of the `head_dim` elements of each head with frequencies
    /// `base^(-2i/dims)`, each divided by its factor where the model has them (`rope_freqs`).
    pub fn new(
        style: RopeStyle,
        head_dim: usize,
        dims: usize,
        base: f32,
        factors: Option<&[f32]>,
    ) -> Result<Rope, RopeError> {
        if dims == 0 || !dims.is_multiple_of(2) || dims > head_dim {
            return Err(RopeError::Dimensions { dims, head_dim });
        }
        if !(base.is_finite() && base > 0.0) {
            return Err(RopeError::Base(base));
        }
        let pairs = dims / 2;
        let mut frequencies: Vec<f64> = (0..pairs)
            .map(|i| f64::from(base).powf(-2.0 * i as f64 / dims as f64))
            .collect();
        if let Some(factors) = factors {
            if factors.len() != pairs || !factors.iter().all(|f| f.is_finite() && *f > 0.0) {
                return Err(RopeError::Factors {
                    given: factors.len(),
                    pairs,
                });
            }
            for (frequency, factor) in frequencies.iter_mut().zip(factors) {
                *frequency /= f64::from(*factor);
            }
        }
        Ok(Rope {
            style,
            head_dim,
            frequencies,
        })
    }

    /// Floats that `angles` writes: a cosine and a sine for each pair.
    pub fn angles_len(&self) -> usize {
        2 * self.frequencies.len()
    }

    /// Writes the cosines of a position, then its sines, to `out` of `angles_len()` floats.
    ///
    /// # Panics
    /// If `out` has another length.
    pub fn angles(&self, position: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.angles_len(), "rope: table of another size");
        let (cos, sin) = out.split_at_mut(self.frequencies.len());
        for ((cos, sin), frequency) in cos.iter_mut().zip(sin).zip(&self.frequencies) {
            let (s, c) = (position as f64 * frequency).sin_cos();
            (*cos, *sin) = (c as f32, s as f32);
        }
    }

    /// Rotates all heads of one token in place; `heads` is heads x head_dim, `angles` comes from `angles`.
    ///
    /// # Panics
    /// If `heads` is not whole heads or `angles` has another length than `angles_len()`.
    pub(crate) fn rotate(&self, isa: Isa, heads: &mut [f32], angles: &[f32]) {
        assert_eq!(angles.len(), self.angles_len(), "rope: table of another size");
        assert!(heads.len().is_multiple_of(self.head_dim), "rope: not whole heads");
        let (cos, sin) = angles.split_at(self.frequencies.len());
        match self.style {
            RopeStyle::Interleaved => rotate_interleaved(isa, heads, self.head_dim, cos, sin),
            RopeStyle::Halves => rotate_halves(isa, heads, self.head_dim, cos, sin),
        }
    }
}

lanes_fn! {
    fn rotate_interleaved(_l, heads: &mut [f32], dim: usize, cos: &[f32], sin: &[f32]) {
        for head in heads.chunks_exact_mut(dim) {
            for ((pair, c), s) in head.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
                let [a, b] = *pair;
                *pair = [a * c - b * s, a * s + b * c];
            }
        }
    }
}

lanes_fn! {
    fn rotate_halves(_l, heads: &mut [f32], dim: usize, cos: &[f32], sin: &[f32]) {
        for head in heads.chunks_exact_mut(dim) {
            let (low, high) = head[..2 * cos.len()].split_at_mut(cos.len());
            for (((a, b), c), s) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                (*a, *b) = (*a * c - *b * s, *a * s + *b * c);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rotated(style: RopeStyle, position: usize, factors: Option<&[f32]>) -> Vec<f32> {
        let rope = Rope::new(style, 6, 4, 100.0, factors).unwrap();
        let mut angles = vec![0.0; rope.angles_len()];
        rope.angles(position, &mut angles);
        let mut head = vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        rope.rotate(Isa::detect(), &mut head, &angles);
        head
    }

    #[test]
    fn position_zero_changes_nothing() {
        assert_eq!(rotated(RopeStyle::Interleaved, 0, None), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(rotated(RopeStyle::Halves, 0, None), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    }

    #[test]
    fn each_style_turns_its_own_pairs_and_leaves_the_rest() {
        // Frequencies are 1 and 100^(-1/2) = 0.1, so position 2 turns by 2 and 0.2 radians.
        let turn = |a: f32, b: f32, t: f32| [a * t.cos() - b * t.sin(), a * t.sin() + b * t.cos()];
        let close = |got: &[f32], want: &[f32]| got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-5);
        let ([a, b], [c, d]) = (turn(1.0, 2.0, 2.0), turn(3.0, 4.0, 0.2));
        assert!(close(
            &rotated(RopeStyle::Interleaved, 2, None),
            &[a, b, c, d, 5.0, 6.0]
        ));
        let ([a, c], [b, d]) = (turn(1.0, 3.0, 2.0), turn(2.0, 4.0, 0.2));
        assert!(close(&rotated(RopeStyle::Halves, 2, None), &[a, b, c, d, 5.0, 6.0]));
    }

    #[test]
    fn factors_divide_the_frequencies() {
        assert_eq!(
            rotated(RopeStyle::Halves, 4, Some(&[2.0, 2.0])),
            rotated(RopeStyle::Halves, 2, None)
        );
    }

    #[test]
    fn impossible_rotations_are_refused() {
        let new = |dims, base, factors| Rope::new(RopeStyle::Halves, 64, dims, base, factors).map(|_| ());
        for dims in [0, 3, 66] {
            assert_eq!(new(dims, 1e4, None), Err(RopeError::Dimensions { dims, head_dim: 64 }));
        }
        assert_eq!(new(64, 0.0, None), Err(RopeError::Base(0.0)));
        assert!(new(64, f32::NAN, None).is_err());
        assert_eq!(
            new(4, 1e4, Some(&[1.0])),
            Err(RopeError::Factors { given: 1, pairs: 2 })
        );
        assert_eq!(
            new(4, 1e4, Some(&[1.0, -1.0])),
            Err(RopeError::Factors { given: 2, pairs: 2 })
        );
    }
}
