#![no_main]
//! Whatever the bytes: an answer or an error, never a panic, a hang or much memory.

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) { let _ = metadata::cloud_config::parse(text); }
});
