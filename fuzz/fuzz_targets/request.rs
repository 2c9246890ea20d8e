#![no_main]
#[path = "../../serving/engine/tests/support/mod.rs"]
mod support;
#[path = "../../serving/server/tests/targets/request.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| drop(target::outcomes(bytes)));
