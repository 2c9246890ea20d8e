//! Which instructions the arithmetic may use. Found once at run time; a value that names an extension
//! exists only where the processor has it, so holding one is the proof that its code may run.

use crate::lanes::Scalar;
#[cfg(target_arch = "x86_64")]
use crate::lanes::avx2::Avx2;

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
}

impl Isa {
    /// The best that this processor has.
    pub fn detect() -> Isa {
        #[cfg(target_arch = "x86_64")]
        if let Some(avx2) = Avx2::detect() {
            return Isa(Kind::Avx2(avx2));
        }
        Isa::scalar()
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
        }
    }
}

/// The instruction set that a pool uses unless told otherwise.
pub fn cpu() -> Isa {
    Isa::detect()
}
