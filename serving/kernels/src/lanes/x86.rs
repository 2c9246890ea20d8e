//! The lanes as one AVX2 register, and wide vectors as the same or as one of AVX-512. Results equal those of the portable
//! lanes bit for bit. Every method is inlined into a function compiled for the instructions (see `lanes_fn`), so that the
//! intrinsics become single ones.

use super::{LANES, Lanes, eight_are_wide};
use std::arch::x86_64::*;

/// Proof that the processor has AVX2, FMA and F16C: `detect` is the only way to a value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    pub(crate) fn detect() -> Option<Avx2> {
        let there =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        there.then_some(Avx2(()))
    }
}

/// Proof that the processor has AVX512F and AVX512VL too: `detect` is the only way to a value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    pub(crate) fn detect() -> Option<Avx512> {
        let there = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl");
        Avx2::detect().filter(|_| there).map(|_| Avx512(()))
    }
}

/// One or more intrinsics, allowed because `self` is the proof that the processor has them.
macro_rules! has {
    ($e:expr) => {
        // SAFETY: `Avx2` exists only where AVX2, FMA and F16C do, `Avx512` only where AVX512F and AVX512VL do too; pointers
        // come from references to whole vectors, the loads and stores are the unaligned ones, and a prefetch reads nothing.
        unsafe { $e }
    };
}

/// The largest of four non-negative integers, as the float whose bits it is.
#[inline]
#[target_feature(enable = "avx2")]
fn largest_of(four: __m128i) -> f32 {
    let two = _mm_max_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
    let one = _mm_max_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two));
    _mm_cvtss_f32(_mm_castsi128_ps(one))
}

/// What both kinds do with eight lanes.
macro_rules! eight_lanes {
    () => {
        type F = __m256;

        #[inline(always)]
        fn splat(self, x: f32) -> __m256 {
            has!(_mm256_set1_ps(x))
        }
        #[inline(always)]
        fn load(self, x: &[f32; LANES]) -> __m256 {
            has!(_mm256_loadu_ps(x.as_ptr()))
        }
        #[inline(always)]
        fn load_f16(self, x: &[u16; LANES]) -> __m256 {
            has!(_mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast())))
        }
        #[inline(always)]
        fn load_i8(self, x: &[i8; LANES]) -> __m256 {
            has!(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(
                x.as_ptr().cast()
            ))))
        }
        #[inline(always)]
        fn store(self, v: __m256, out: &mut [f32; LANES]) {
            has!(_mm256_storeu_ps(out.as_mut_ptr(), v))
        }
        #[inline(always)]
        fn add(self, a: __m256, b: __m256) -> __m256 {
            has!(_mm256_add_ps(a, b))
        }
        #[inline(always)]
        fn sub(self, a: __m256, b: __m256) -> __m256 {
            has!(_mm256_sub_ps(a, b))
        }
        #[inline(always)]
        fn mul(self, a: __m256, b: __m256) -> __m256 {
            has!(_mm256_mul_ps(a, b))
        }
        #[inline(always)]
        fn div(self, a: __m256, b: __m256) -> __m256 {
            has!(_mm256_div_ps(a, b))
        }
        #[inline(always)]
        fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
            has!(_mm256_fmadd_ps(a, b, c))
        }
        #[inline(always)]
        fn max(self, a: __m256, b: __m256) -> __m256 {
            has!(_mm256_max_ps(a, b))
        }
        #[inline(always)]
        fn min(self, a: __m256, b: __m256) -> __m256 {
            has!(_mm256_min_ps(a, b))
        }
        #[inline(always)]
        fn store_f16(self, v: __m256, out: &mut [u16; LANES]) {
            has!(_mm_storeu_si128(
                out.as_mut_ptr().cast(),
                _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)
            ))
        }
        #[inline(always)]
        fn half_sums(self, x: &[i8; 32]) -> [i16; 2] {
            has!({
                let bytes = _mm256_loadu_si256(x.as_ptr().cast());
                // Sums of pairs, then of fours: 1 * 127 * 2 fits 16 bits.
                let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
                let fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
                let eights = _mm256_add_epi32(fours, _mm256_shuffle_epi32::<0b01_00_11_10>(fours));
                let halves = _mm256_add_epi32(eights, _mm256_shuffle_epi32::<0b10_11_00_01>(eights));
                [
                    _mm256_extract_epi32::<0>(halves) as i16,
                    _mm256_extract_epi32::<4>(halves) as i16,
                ]
            })
        }
        #[inline(always)]
        fn sum(self, v: __m256) -> f32 {
            has!({
                let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
            })
        }
        #[inline(always)]
        fn max_of(self, v: __m256) -> f32 {
            has!({
                let four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
            })
        }
        #[inline(always)]
        fn prefetch<T>(self, start: *const T, count: usize) {
            // A cache line is 64 bytes. Slowly: with half as many instructions for each of them, scattered reads from memory
            // took a sixth longer.
            let each = (64 / size_of::<T>()).max(1);
            let (mut line, mut left) = (start, count);
            while left > 0 {
                has!(_mm_prefetch::<_MM_HINT_T1>(line.cast()));
                let values = left.min(each);
                line = line.wrapping_add(values);
                left -= values;
            }
        }
    };
}

impl Lanes for Avx2 {
    const REGISTERS: usize = 16;
    eight_lanes!();
    eight_are_wide!();

    #[inline(always)]
    fn magnitude(self, x: &[f32; 32]) -> f32 {
        has!({
            let bits = _mm256_set1_epi32(i32::MAX);
            let mut largest = _mm256_setzero_si256();
            for at in (0..32).step_by(LANES) {
                let part = _mm256_and_si256(_mm256_loadu_si256(x.as_ptr().add(at).cast()), bits);
                largest = _mm256_max_epi32(largest, part);
            }
            largest_of(_mm_max_epi32(
                _mm256_castsi256_si128(largest),
                _mm256_extracti128_si256::<1>(largest),
            ))
        })
    }
    #[inline(always)]
    fn quantize(self, x: &[f32; 32], centre: f32, inverse: f32, out: &mut [i8; 32]) {
        has!({
            let (centre, inverse) = (_mm256_set1_ps(centre), _mm256_set1_ps(inverse));
            let part = |i: usize| {
                let moved = _mm256_sub_ps(_mm256_loadu_ps(x.as_ptr().add(i * LANES)), centre);
                _mm256_cvtps_epi32(_mm256_mul_ps(moved, inverse))
            };
            let low = _mm256_packs_epi32(part(0), part(1));
            let high = _mm256_packs_epi32(part(2), part(3));
            // The packs work within 128-bit halves and leave the fours in the order 0 2 4 6 1 3 5 7.
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            let bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
            _mm256_storeu_si256(out.as_mut_ptr().cast(), bytes);
        })
    }
    #[inline(always)]
    fn round(self, a: __m256) -> __m256 {
        has!(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn exp2_int(self, n: __m256) -> __m256 {
        has!({
            let biased = _mm256_add_epi32(_mm256_cvttps_epi32(n), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
        })
    }
    #[inline(always)]
    fn zero_if_less(self, a: __m256, b: __m256, x: __m256) -> __m256 {
        has!(_mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(a, b), x))
    }
}

impl Lanes for Avx512 {
    const REGISTERS: usize = 32;
    eight_lanes!();

    type W = __m512;
    const WIDE: usize = 16;

    #[inline(always)]
    fn join(self, low: __m256, high: __m256) -> __m512 {
        has!({
            let low = _mm512_castpd256_pd512(_mm256_castps_pd(low));
            _mm512_castpd_ps(_mm512_insertf64x4::<1>(low, _mm256_castps_pd(high)))
        })
    }
    #[inline(always)]
    fn low(self, v: __m512) -> __m256 {
        has!(_mm512_castps512_ps256(v))
    }
    #[inline(always)]
    fn high(self, v: __m512) -> __m256 {
        has!(_mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(v))))
    }
    #[inline(always)]
    fn load_wide(self, x: &[f32]) -> __m512 {
        let x = &x.as_chunks::<16>().0[0];
        has!(_mm512_loadu_ps(x.as_ptr()))
    }
    #[inline(always)]
    fn splat_wide(self, x: f32) -> __m512 {
        has!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    fn load_f16_wide(self, x: &[u16]) -> __m512 {
        let x = &x.as_chunks::<16>().0[0];
        has!(_mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())))
    }
    #[inline(always)]
    fn load_i8_wide(self, x: &[i8]) -> __m512 {
        let x = &x.as_chunks::<16>().0[0];
        has!(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(
            x.as_ptr().cast()
        ))))
    }
    #[inline(always)]
    fn store_wide(self, v: __m512, out: &mut [f32]) {
        let out = &mut out.as_chunks_mut::<16>().0[0];
        has!(_mm512_storeu_ps(out.as_mut_ptr(), v))
    }
    #[inline(always)]
    fn add_wide(self, a: __m512, b: __m512) -> __m512 {
        has!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub_wide(self, a: __m512, b: __m512) -> __m512 {
        has!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul_wide(self, a: __m512, b: __m512) -> __m512 {
        has!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn fma_wide(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        has!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn div_wide(self, a: __m512, b: __m512) -> __m512 {
        has!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn max_wide(self, a: __m512, b: __m512) -> __m512 {
        has!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min_wide(self, a: __m512, b: __m512) -> __m512 {
        has!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn magnitude(self, x: &[f32; 32]) -> f32 {
        has!({
            let part = |at: usize| _mm512_loadu_si512(x.as_ptr().add(at).cast());
            let bits = _mm512_set1_epi32(i32::MAX);
            let largest = _mm512_max_epi32(_mm512_and_si512(part(0), bits), _mm512_and_si512(part(16), bits));
            let eight = _mm256_max_epi32(_mm512_castsi512_si256(largest), _mm512_extracti64x4_epi64::<1>(largest));
            largest_of(_mm_max_epi32(
                _mm256_castsi256_si128(eight),
                _mm256_extracti128_si256::<1>(eight),
            ))
        })
    }
    #[inline(always)]
    fn quantize(self, x: &[f32; 32], centre: f32, inverse: f32, out: &mut [i8; 32]) {
        has!({
            let (centre, inverse) = (_mm512_set1_ps(centre), _mm512_set1_ps(inverse));
            let moved = _mm512_sub_ps(_mm512_loadu_ps(x.as_ptr()), centre);
            let low = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(moved, inverse)));
            let moved = _mm512_sub_ps(_mm512_loadu_ps(x.as_ptr().add(16)), centre);
            let high = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(moved, inverse)));
            _mm256_storeu_si256(out.as_mut_ptr().cast(), _mm256_set_m128i(high, low));
        })
    }
    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        has!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn exp2_int(self, n: __m512) -> __m512 {
        has!({
            let biased = _mm512_add_epi32(_mm512_cvttps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        })
    }
    #[inline(always)]
    fn zero_if_less(self, a: __m512, b: __m512, x: __m512) -> __m512 {
        has!(_mm512_maskz_mov_ps(!_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), x))
    }
}
