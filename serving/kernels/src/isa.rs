//! Which instructions the arithmetic may use. Found once at run time; a value that names an extension
//! exists only where the processor has it, so holding one is the proof that its code may run.

use crate::lanes::Scalar;
#[cfg(target_arch = "x86_64")]
use crate::lanes::x86::{Avx2, Avx512};

/// An instruction set that this processor has.
#[derive(Debug, Clone, Copy)]
pub struct Isa(pub(crate) Kind);

/// The code paths there are.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// Portable code.
    Scalar(Scalar),
    /// AVX2 with FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// The same, with the byte products of AVX-512.
    #[cfg(target_arch = "x86_64")]
    Vnni(Vnni),
}

/// Proof that the processor has AVX2, FMA, F16C, AVX512F, AVX512BW, AVX512VL and AVX512_VNNI: `detect` is the only way
/// to a value.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vnni {
    pub(crate) lanes: Avx512,
}

#[cfg(target_arch = "x86_64")]
impl Vnni {
    fn detect() -> Option<Vnni> {
        let lanes = Avx512::detect()?;
        let has_products = is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vnni");
        has_products.then_some(Vnni { lanes })
    }
}

impl Isa {
    /// The best that this processor has.
    pub fn detect() -> Isa {
        #[cfg(target_arch = "x86_64")]
        if let Some(vnni) = Vnni::detect() {
            return Isa(Kind::Vnni(vnni));
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(avx2) = Avx2::detect() {
            return Isa(Kind::Avx2(avx2));
        }
        Isa::scalar()
    }

    /// All that this processor has, the best last.
    pub fn all() -> Vec<Isa> {
        #[allow(unused_mut, reason = "other processors have only the portable code")]
        let mut all = vec![Isa::scalar()];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(Avx2::detect().map(|avx2| Isa(Kind::Avx2(avx2))));
            all.extend(Vnni::detect().map(|vnni| Isa(Kind::Vnni(vnni))));
        }
        all
    }

    /// Portable code, whatever the processor has: the same results, slower.
    pub fn scalar() -> Isa {
        Isa(Kind::Scalar(Scalar))
    }

    /// For logs.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Scalar(_) => "scalar",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(_) => "avx2+fma+f16c",
            #[cfg(target_arch = "x86_64")]
            Kind::Vnni(_) => "avx2+fma+f16c+avx512bw+avx512vl+avx512vnni",
        }
    }
}

/// The instruction set that a pool uses unless told otherwise.
pub fn cpu() -> Isa {
    Isa::detect()
}
