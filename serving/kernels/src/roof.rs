//! What the processor can do at best, for `bench roof`: no kernel can be faster than these loops.
//! They are assembly, because a compiler moves repeated work out of loops, and spills registers: here
//! every iteration does what is written, in registers alone. Results are the time that calls take.

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;

use crate::buffer::{HUGE, OutOfMemory, advise};

/// A loop of arithmetic on registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// `vfmadd231ps`: 8 f32 products an instruction, 16 with AVX-512.
    F32,
    /// `vpmaddubsw`, `vpmaddwd`, `vpaddd`: 32 products of bytes in three instructions, as for 8-bit weights.
    S8,
    /// `vpmaddubsw`, `vpaddw`: sums stay in 16 bits, as for 4-bit weights.
    U4,
    /// As `U4`, with a `vpbroadcastd` load of the activations for every `vpmaddubsw`, as a matrix product needs.
    U4Load,
    /// `vpdpbusd` of AVX-512 VNNI, which reads the activations itself: 64 products of bytes an instruction.
    Vnni,
}

impl Arithmetic {
    /// All loops.
    pub const ALL: [Arithmetic; 5] = [Self::F32, Self::S8, Self::U4, Self::U4Load, Self::Vnni];

    /// For tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32 fma",
            Self::S8 => "int8 maddubs + madd + add",
            Self::U4 => "u4 maddubs + add",
            Self::U4Load => "u4 maddubs + add, a broadcast load each",
            Self::Vnni => "int8 dpbusd with a broadcast load",
        }
    }

    /// Runs the loop and says how many multiply-adds that were; nothing where the processor lacks its instructions.
    pub fn run(self, iterations: u64) -> Option<u64> {
        #[cfg(target_arch = "x86_64")]
        if self == Self::Vnni && !matches!(crate::cpu().0, crate::isa::Kind::Vnni(_)) {
            return None;
        }
        #[cfg(target_arch = "x86_64")]
        if let crate::isa::Kind::Avx2(_) | crate::isa::Kind::Vnni(_) = crate::cpu().0
            && iterations > 0
        {
            // SAFETY: a value of `Avx2` exists only where the processor has AVX2 and FMA, one of `Vnni` only where it
            // has what that needs; iterations are not 0.
            return Some(unsafe {
                match self {
                    Self::F32 if matches!(crate::cpu().0, crate::isa::Kind::Vnni(_)) => avx2::f32_wide(iterations),
                    Self::F32 => avx2::f32(iterations),
                    Self::S8 => avx2::s8(iterations),
                    Self::U4 => avx2::u4(iterations),
                    Self::U4Load => avx2::u4_load(iterations),
                    Self::Vnni => avx2::vnni(iterations),
                }
            });
        }
        let _ = iterations;
        None
    }
}

/// Reads all whole 256 bytes of `data` once, in order; the result depends on every one of them.
pub fn read(data: &[u8]) -> u64 {
    let (blocks, _) = data.as_chunks::<256>();
    #[cfg(target_arch = "x86_64")]
    if let crate::isa::Kind::Avx2(_) | crate::isa::Kind::Vnni(_) = crate::cpu().0
        && !blocks.is_empty()
    {
        // SAFETY: a value of `Avx2` exists only where the processor has AVX2; there is at least one block.
        return unsafe { avx2::read(blocks) };
    }
    let words = blocks.iter().flat_map(|block| block.as_chunks::<8>().0);
    words.fold(0, |all, word| all | u64::from_le_bytes(*word))
}

/// Written memory on pages of a chosen size.
#[derive(Debug)]
pub struct Pages {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the memory is owned alone, and shared access only reads.
unsafe impl Sync for Pages {}

impl Pages {
    /// At least `bytes`, rounded up to 2 MB, with huge pages or without them, as far as the kernel obeys.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn new(bytes: usize, huge: bool) -> Result<Pages, OutOfMemory> {
        let error = OutOfMemory { bytes };
        let size = bytes.max(1).checked_next_multiple_of(HUGE).ok_or(error)?;
        let layout = Layout::from_size_align(size, HUGE).map_err(|_| error)?;
        // SAFETY: the layout has a size above zero.
        let start = NonNull::new(unsafe { alloc(layout) }).ok_or(error)?;
        advise(start, size, huge);
        // SAFETY: `size` bytes were just allocated at `start`. This write is what makes the kernel choose pages.
        unsafe { start.write_bytes(1, size) };
        Ok(Pages { start, layout })
    }

    /// The memory.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `new` allocated and wrote that many bytes, and they live as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.layout.size()) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with this layout, freed once.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::asm;

    /// A loop of `$line!(n)` for the numbers 0 to `$n`, `count` times, with all vector registers zeroed before it:
    /// neither denormals nor NaN slow it down.
    macro_rules! repeat {
        ($line:ident, [$($n:literal)*], $count:ident $(, $operand:ident = $value:expr)?) => {
            asm!(
                "vzeroall", "2:", $($line!($n),)* "dec {count}", "jnz 2b",
                count = inout(reg) $count => _, $($operand = in(reg) $value,)?
                out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _,
                out("ymm6") _, out("ymm7") _, out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
                out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _, options(readonly, nostack)
            )
        };
    }

    macro_rules! fma {
        ($n:literal) => {
            concat!("vfmadd231ps ymm", $n, ", ymm14, ymm15")
        };
    }

    /// Ten sums hide the latency of 4 cycles at two instructions a cycle.
    ///
    /// # Safety
    /// The processor has AVX2 and FMA; `count` is not 0.
    pub(super) unsafe fn f32(count: u64) -> u64 {
        // SAFETY: registers only, all named as changed.
        unsafe { repeat!(fma, [0 1 2 3 4 5 6 7 8 9], count) };
        count * 10 * 8
    }

    macro_rules! fma_wide {
        ($n:literal) => {
            concat!("vfmadd231ps zmm", $n, ", zmm14, zmm15")
        };
    }

    /// # Safety
    /// The processor has AVX512F; `count` is not 0.
    pub(super) unsafe fn f32_wide(count: u64) -> u64 {
        // SAFETY: as in `f32`; the names of half a register stand for the whole.
        unsafe { repeat!(fma_wide, [0 1 2 3 4 5 6 7 8 9], count) };
        count * 10 * 16
    }

    macro_rules! bytes {
        ($n:literal) => {
            concat!(
                "vpmaddubsw ymm12, ymm14, ymm15\n",
                "vpmaddwd ymm12, ymm12, ymm13\n",
                "vpaddd ymm",
                $n,
                ", ymm",
                $n,
                ", ymm12"
            )
        };
    }

    /// # Safety
    /// As for `f32`.
    pub(super) unsafe fn s8(count: u64) -> u64 {
        // SAFETY: as in `f32`.
        unsafe { repeat!(bytes, [0 1 2 3 4 5 6 7], count) };
        count * 8 * 32
    }

    macro_rules! nibbles {
        ($n:literal) => {
            concat!(
                "vpmaddubsw ymm12, ymm14, ymm15\nvpaddw ymm",
                $n,
                ", ymm",
                $n,
                ", ymm12"
            )
        };
    }

    /// # Safety
    /// As for `f32`.
    pub(super) unsafe fn u4(count: u64) -> u64 {
        // SAFETY: as in `f32`.
        unsafe { repeat!(nibbles, [0 1 2 3 4 5 6 7], count) };
        count * 8 * 32
    }

    macro_rules! nibbles_load {
        ($n:literal) => {
            concat!(
                "vpbroadcastd ymm13, dword ptr [{data} + 4*",
                $n,
                "]\n",
                "vpmaddubsw ymm12, ymm14, ymm13\n",
                "vpaddw ymm",
                $n,
                ", ymm",
                $n,
                ", ymm12"
            )
        };
    }

    /// # Safety
    /// As for `f32`.
    pub(super) unsafe fn u4_load(count: u64) -> u64 {
        let words = [0x0101_0101u32; 8];
        // SAFETY: as in `f32`; the loads stay within the eight words.
        unsafe { repeat!(nibbles_load, [0 1 2 3 4 5 6 7], count, data = words.as_ptr()) };
        count * 8 * 32
    }

    macro_rules! dot {
        ($n:literal) => {
            concat!(
                "vpdpbusd zmm",
                $n,
                ", zmm14, dword ptr [{data} + 4*",
                $n,
                "]{{1to16}}"
            )
        };
    }

    /// # Safety
    /// The processor has AVX512F and AVX512_VNNI; `count` is not 0.
    pub(super) unsafe fn vnni(count: u64) -> u64 {
        let words = [0x0101_0101u32; 10];
        // SAFETY: as in `f32`; the loads stay within the ten words.
        unsafe { repeat!(dot, [0 1 2 3 4 5 6 7 8 9], count, data = words.as_ptr()) };
        count * 10 * 64
    }

    macro_rules! load {
        ($n:literal) => {
            concat!(
                "vpor ymm",
                $n,
                ", ymm",
                $n,
                ", ymmword ptr [{data} + 32*",
                $n,
                "]"
            )
        };
    }

    /// # Safety
    /// The processor has AVX2; there is at least one block.
    pub(super) unsafe fn read(blocks: &[[u8; 256]]) -> u64 {
        let result: u64;
        // SAFETY: each iteration reads the next block, and there are as many iterations as blocks.
        unsafe {
            asm!(
                "vzeroall",
                "2:",
                load!(0), load!(1), load!(2), load!(3), load!(4), load!(5), load!(6), load!(7),
                "add {data}, 256", "dec {count}", "jnz 2b",
                "vpor ymm0, ymm0, ymm1", "vpor ymm2, ymm2, ymm3", "vpor ymm4, ymm4, ymm5", "vpor ymm6, ymm6, ymm7",
                "vpor ymm0, ymm0, ymm2", "vpor ymm4, ymm4, ymm6", "vpor ymm0, ymm0, ymm4",
                "vextracti128 xmm1, ymm0, 1", "vpor xmm0, xmm0, xmm1", "vpshufd xmm1, xmm0, 0xee",
                "vpor xmm0, xmm0, xmm1", "vmovq {result}, xmm0",
                data = inout(reg) blocks.as_ptr() => _, count = inout(reg) blocks.len() => _, result = out(reg) result,
                out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _,
                out("ymm6") _, out("ymm7") _, out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
                out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _, options(readonly, nostack),
            );
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_meets_every_byte_of_whole_blocks() {
        let mut data = vec![0u8; 1024 + 17];
        assert_eq!(read(&data), 0);
        for place in [0, 31, 255, 256, 700, 1023] {
            data[place] = 1;
            assert_eq!(read(&data), 1 << (place % 8 * 8), "byte {place}");
            data[place] = 0;
        }
        assert_eq!(read(&[1; 255]), 0);
    }

    #[test]
    fn pages_are_whole_aligned_and_written() {
        for huge in [false, true] {
            let pages = Pages::new(HUGE + 1, huge).unwrap();
            assert_eq!(
                (pages.bytes().len(), pages.bytes().as_ptr() as usize % HUGE),
                (2 * HUGE, 0)
            );
            assert_eq!(read(pages.bytes()), 0x0101_0101_0101_0101);
        }
        assert!(Pages::new(usize::MAX, true).is_err());
    }

    #[test]
    fn arithmetic_grows_with_the_iterations() {
        for arithmetic in Arithmetic::ALL {
            let (one, ten) = (arithmetic.run(1), arithmetic.run(10));
            assert_eq!(one.map(|count| count * 10), ten, "{}", arithmetic.name());
        }
    }
}
