#![no_main]
#[path = "../../serving/engine/tests/support/mod.rs"]
mod support;
#[path = "../../serving/engine/tests/targets/encoder.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| target::run(bytes));
