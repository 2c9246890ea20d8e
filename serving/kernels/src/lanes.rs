//! Eight f32 lanes, as an array and as an AVX2 register, and wide vectors of as many as registers have: eight, or sixteen
//! with AVX-512. A row operation is written once over [`Lanes`] and compiled for each by [`lanes_fn`]; every method is
//! defined so exactly (order, rounding, what happens to NaN) that all give the same bits.

#[cfg(target_arch = "x86_64")]
pub(crate) mod x86;

use half::f16;

/// Lanes in a vector.
pub(crate) const LANES: usize = 8;

/// Arithmetic on eight lanes. A value of an implementing type is the proof that its instructions exist.
pub(crate) trait Lanes: Copy {
    /// Eight f32.
    type F: Copy;
    /// As many f32 as the widest vectors have.
    type W: Copy;
    /// How many that is: 8 or 16.
    const WIDE: usize;
    /// Vector registers there are.
    const REGISTERS: usize;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::F;
    /// The eight values, in order.
    fn load(self, x: &[f32; LANES]) -> Self::F;
    /// The eight IEEE halves whose bits are given, in order.
    fn load_f16(self, x: &[u16; LANES]) -> Self::F;
    /// The eight small integers, in order.
    fn load_i8(self, x: &[i8; LANES]) -> Self::F;
    /// The lanes in order.
    fn store(self, v: Self::F, out: &mut [f32; LANES]);
    /// `a + b`.
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`.
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`.
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`.
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `if a > b { a } else { b }`: a NaN on either side gives `b`.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `if a < b { a } else { b }`: a NaN on either side gives `b`.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// The largest magnitude; infinite or NaN if one of the values is.
    fn magnitude(self, x: &[f32; 32]) -> f32;
    /// `(x - centre) * inverse` rounded to the nearest integer, ties to even, for 32 values whose products are
    /// within -127.5..127.5.
    fn quantize(self, x: &[f32; 32], centre: f32, inverse: f32, out: &mut [i8; 32]);

    /// The lanes as IEEE halves, rounded to nearest, ties to even.
    fn store_f16(self, v: Self::F, out: &mut [u16; LANES]);
    /// The sums of the first and of the last 16.
    fn half_sums(self, x: &[i8; 32]) -> [i16; 2];

    /// Twice eight lanes; `low` alone where eight are the widest.
    fn join(self, low: Self::F, high: Self::F) -> Self::W;
    /// The first eight lanes.
    fn low(self, v: Self::W) -> Self::F;
    /// The last eight lanes, which are the first where eight are the widest.
    fn high(self, v: Self::W) -> Self::F;
    /// All lanes `x`.
    fn splat_wide(self, x: f32) -> Self::W;
    /// The first values, in order.
    fn load_wide(self, x: &[f32]) -> Self::W;
    /// The first IEEE halves whose bits are given, in order.
    fn load_f16_wide(self, x: &[u16]) -> Self::W;
    /// The first of the small integers, in order.
    fn load_i8_wide(self, x: &[i8]) -> Self::W;
    /// The lanes in order, to the first places.
    fn store_wide(self, v: Self::W, out: &mut [f32]);
    /// `a + b`.
    fn add_wide(self, a: Self::W, b: Self::W) -> Self::W;
    /// `a - b`.
    fn sub_wide(self, a: Self::W, b: Self::W) -> Self::W;
    /// `a * b`.
    fn mul_wide(self, a: Self::W, b: Self::W) -> Self::W;
    /// `a * b + c`, rounded once.
    fn fma_wide(self, a: Self::W, b: Self::W, c: Self::W) -> Self::W;
    /// `a / b`.
    fn div_wide(self, a: Self::W, b: Self::W) -> Self::W;
    /// As `max`.
    fn max_wide(self, a: Self::W, b: Self::W) -> Self::W;
    /// As `min`.
    fn min_wide(self, a: Self::W, b: Self::W) -> Self::W;
    /// The nearest integer, ties to even.
    fn round(self, a: Self::W) -> Self::W;
    /// 2 to the power of an integral `n` in -126..=127; anything for other `n`.
    fn exp2_int(self, n: Self::W) -> Self::W;
    /// `if a < b { 0 } else { x }`; a NaN gives `x`.
    fn zero_if_less(self, a: Self::W, b: Self::W, x: Self::W) -> Self::W;

    /// A hint that `count` values are read soon, but not at once: they may go to the second-level cache, which takes more at
    /// a time. Nothing is read, so others may be writing there.
    fn prefetch<T>(self, start: *const T, count: usize);

    /// Up to eight values; the missing lanes are `fill`.
    #[inline(always)]
    fn load_part(self, x: &[f32], fill: f32) -> Self::F {
        let mut full = [fill; LANES];
        full[..x.len()].copy_from_slice(x);
        self.load(&full)
    }

    /// The lanes as an array.
    #[inline(always)]
    fn to_array(self, v: Self::F) -> [f32; LANES] {
        let mut out = [0.0; LANES];
        self.store(v, &mut out);
        out
    }

    /// The sum of the lanes, as a tree of fixed shape.
    #[inline(always)]
    fn sum(self, v: Self::F) -> f32 {
        let x = self.to_array(v);
        ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]))
    }

    /// The largest lane, as `max` over a tree of the same shape; anything if a lane is NaN.
    #[inline(always)]
    fn max_of(self, v: Self::F) -> f32 {
        let max = |a: f32, b: f32| if a > b { a } else { b };
        let x = self.to_array(v);
        max(
            max(max(x[0], x[4]), max(x[2], x[6])),
            max(max(x[1], x[5]), max(x[3], x[7])),
        )
    }

    /// e to the power of `x`, to within 2 units of the last place: 0 below -87.3, capped above 88.3 (still
    /// finite), NaN for NaN. Range reduction by ln 2 in two parts and a polynomial of degree 6
    /// (Cephes `expf`, S. Moshier).
    #[inline(always)]
    fn exp(self, x: Self::W) -> Self::W {
        let lowest = self.splat_wide(-87.3);
        let capped = self.min_wide(self.splat_wide(88.3), x);
        let n = self.round(self.mul_wide(capped, self.splat_wide(std::f32::consts::LOG2_E)));
        // ln 2 = 0.693359375 - 2.12194440e-4; the first part has 9 bits, so n times it is exact.
        let r = self.fma_wide(n, self.splat_wide(-0.693_359_4), capped);
        let r = self.fma_wide(n, self.splat_wide(2.121_944_4e-4), r);
        let mut p = self.splat_wide(1.987_569_1e-4);
        for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_6e-1, 0.5] {
            p = self.fma_wide(p, r, self.splat_wide(c));
        }
        let y = self.add_wide(self.fma_wide(p, self.mul_wide(r, r), r), self.splat_wide(1.0));
        self.zero_if_less(x, lowest, self.mul_wide(y, self.exp2_int(n)))
    }

    /// `exp` of eight lanes.
    #[inline(always)]
    fn exp_eight(self, x: Self::F) -> Self::F {
        self.low(self.exp(self.join(x, x)))
    }

    /// Adds a wide vector to eight sums: first its first eight lanes, then the last.
    #[inline(always)]
    fn add_to_eight(self, sum: Self::F, v: Self::W) -> Self::F {
        let sum = self.add(sum, self.low(v));
        if Self::WIDE == LANES {
            return sum;
        }
        self.add(sum, self.high(v))
    }
}

/// `y = f(x, y)` for each place of two slices of equal length, in bodies over lanes `l: L`; `f` is a function over wide
/// vectors. A macro, because what is not inlined loses its instruction set.
macro_rules! for_each_wide {
    ($l:ident, $f:ident, $x:expr, $y:expr) => {{
        let (x, y): (&[f32], &mut [f32]) = ($x, $y);
        let whole = x.len() / L::WIDE * L::WIDE;
        for at in (0..whole).step_by(L::WIDE) {
            let v = $f($l, $l.load_wide(&x[at..]), $l.load_wide(&y[at..]));
            $l.store_wide(v, &mut y[at..]);
        }
        let rest = x.len() - whole;
        if rest > 0 {
            let mut last = [[0.0; 2 * crate::lanes::LANES]; 2];
            last[0][..rest].copy_from_slice(&x[whole..]);
            last[1][..rest].copy_from_slice(&y[whole..]);
            let v = $f($l, $l.load_wide(&last[0]), $l.load_wide(&last[1]));
            $l.store_wide(v, &mut last[0]);
            y[whole..].copy_from_slice(&last[0][..rest]);
        }
    }};
}
pub(crate) use for_each_wide;

/// The wide methods where eight lanes are the widest.
macro_rules! eight_are_wide {
    () => {
        type W = Self::F;
        const WIDE: usize = LANES;

        #[inline(always)]
        fn join(self, low: Self::F, _: Self::F) -> Self::W {
            low
        }
        #[inline(always)]
        fn low(self, v: Self::W) -> Self::F {
            v
        }
        #[inline(always)]
        fn high(self, v: Self::W) -> Self::F {
            v
        }
        #[inline(always)]
        fn splat_wide(self, x: f32) -> Self::W {
            self.splat(x)
        }
        #[inline(always)]
        fn load_wide(self, x: &[f32]) -> Self::W {
            self.load(&x.as_chunks().0[0])
        }
        #[inline(always)]
        fn load_f16_wide(self, x: &[u16]) -> Self::W {
            self.load_f16(&x.as_chunks().0[0])
        }
        #[inline(always)]
        fn load_i8_wide(self, x: &[i8]) -> Self::W {
            self.load_i8(&x.as_chunks().0[0])
        }
        #[inline(always)]
        fn store_wide(self, v: Self::W, out: &mut [f32]) {
            self.store(v, &mut out.as_chunks_mut().0[0]);
        }
        #[inline(always)]
        fn add_wide(self, a: Self::W, b: Self::W) -> Self::W {
            self.add(a, b)
        }
        #[inline(always)]
        fn sub_wide(self, a: Self::W, b: Self::W) -> Self::W {
            self.sub(a, b)
        }
        #[inline(always)]
        fn mul_wide(self, a: Self::W, b: Self::W) -> Self::W {
            self.mul(a, b)
        }
        #[inline(always)]
        fn fma_wide(self, a: Self::W, b: Self::W, c: Self::W) -> Self::W {
            self.fma(a, b, c)
        }
        #[inline(always)]
        fn div_wide(self, a: Self::W, b: Self::W) -> Self::W {
            self.div(a, b)
        }
        #[inline(always)]
        fn max_wide(self, a: Self::W, b: Self::W) -> Self::W {
            self.max(a, b)
        }
        #[inline(always)]
        fn min_wide(self, a: Self::W, b: Self::W) -> Self::W {
            self.min(a, b)
        }
    };
}
#[cfg(target_arch = "x86_64")]
pub(crate) use eight_are_wide;

/// The portable lanes, and the definition of what every other kind of lanes computes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scalar;

#[inline(always)]
fn each(f: impl Fn(usize) -> f32) -> [f32; LANES] {
    std::array::from_fn(f)
}

impl Lanes for Scalar {
    type F = [f32; LANES];
    const REGISTERS: usize = 16;
    eight_are_wide!();

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::F {
        *x
    }
    #[inline(always)]
    fn load_f16(self, x: &[u16; LANES]) -> Self::F {
        each(|i| f16::from_bits(x[i]).to_f32())
    }
    #[inline(always)]
    fn load_i8(self, x: &[i8; LANES]) -> Self::F {
        each(|i| f32::from(x[i]))
    }
    #[inline(always)]
    fn store(self, v: Self::F, out: &mut [f32; LANES]) {
        *out = v;
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        each(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        each(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        each(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        each(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        each(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        each(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        each(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn round(self, a: Self::F) -> Self::F {
        each(|i| a[i].round_ties_even())
    }
    #[inline(always)]
    fn exp2_int(self, n: Self::F) -> Self::F {
        each(|i| f32::from_bits((n[i] as i32).wrapping_add(127).wrapping_shl(23) as u32))
    }
    #[inline(always)]
    fn zero_if_less(self, a: Self::F, b: Self::F, x: Self::F) -> Self::F {
        each(|i| if a[i] < b[i] { 0.0 } else { x[i] })
    }
    #[inline(always)]
    fn magnitude(self, x: &[f32; 32]) -> f32 {
        // Without their signs, floats are ordered as their bits are, and what is not finite is above all others.
        f32::from_bits(x.iter().fold(0, |largest, x| largest.max(x.abs().to_bits())))
    }
    #[inline(always)]
    fn quantize(self, x: &[f32; 32], centre: f32, inverse: f32, out: &mut [i8; 32]) {
        for (q, x) in out.iter_mut().zip(x) {
            *q = ((x - centre) * inverse).round_ties_even() as i8;
        }
    }
    #[inline(always)]
    fn store_f16(self, v: Self::F, out: &mut [u16; LANES]) {
        *out = std::array::from_fn(|i| f16::from_f32(v[i]).to_bits());
    }
    #[inline(always)]
    fn half_sums(self, x: &[i8; 32]) -> [i16; 2] {
        let sum = |half: &[i8]| half.iter().map(|&x| i16::from(x)).sum();
        [sum(&x[..16]), sum(&x[16..])]
    }
    #[inline(always)]
    fn prefetch<T>(self, _: *const T, _: usize) {}
}

/// Defines `fn name(isa: Isa, …)` from a body over any lanes `l`, compiled once for each kind.
macro_rules! lanes_fn {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($l:ident $(, $arg:ident: $ty:ty)* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments, reason = "the macro adds one argument to what the caller wrote")]
        $vis fn $name(isa: crate::isa::Isa $(, $arg: $ty)*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments, reason = "the macro adds one argument to what the caller wrote")]
            fn body<L: crate::lanes::Lanes>($l: L $(, $arg: $ty)*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            #[allow(clippy::too_many_arguments, reason = "the macro adds one argument to what the caller wrote")]
            fn avx2(lanes: crate::lanes::x86::Avx2 $(, $arg: $ty)*) $(-> $ret)? {
                body(lanes $(, $arg)*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512vl")]
            #[allow(clippy::too_many_arguments, reason = "the macro adds one argument to what the caller wrote")]
            fn avx512(lanes: crate::lanes::x86::Avx512 $(, $arg: $ty)*) $(-> $ret)? {
                body(lanes $(, $arg)*)
            }
            match isa.0 {
                crate::isa::Kind::Scalar(lanes) => body(lanes $(, $arg)*),
                #[cfg(target_arch = "x86_64")]
                // SAFETY: a value of `Avx2` exists only where the processor has the three features.
                crate::isa::Kind::Avx2(lanes) => unsafe { avx2(lanes $(, $arg)*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above, and a value of `Avx512` only where there are AVX512F and AVX512VL too.
                crate::isa::Kind::Vnni(vnni) => unsafe { avx512(vnni.lanes $(, $arg)*) },
            }
        }
    };
}
pub(crate) use lanes_fn;
