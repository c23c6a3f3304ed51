#![no_main]
//! Whatever the bytes: an answer or an error, never a panic, a hang or much memory.

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let files = metadata::assemble::Files { user_data: Some(data.to_vec()), meta_data: Some(data.to_vec()), network_config: Some(data.to_vec()), others: vec![] };
    let _ = metadata::assemble::assemble("fuzz", &files, metadata::assemble::Transport::Medium);
});
