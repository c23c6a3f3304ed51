#![no_main]
//! Whatever the bytes: an answer or an error, never a panic, a hang or much memory.

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = metadata::seed_media::read(&mut std::io::Cursor::new(data));
});
