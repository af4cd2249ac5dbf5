#![no_main]
#[path = "../properties/command_line.rs"]
mod property;

libfuzzer_sys::fuzz_target!(|data: &[u8]| property::check(data));
