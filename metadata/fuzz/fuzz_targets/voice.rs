#![no_main]
//! Whatever the host or the node says on the voice's port: an answer or an error, never a panic.

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        if let Ok(word) = contract::voice::ToNode::parse(text) {
            assert_eq!(contract::voice::ToNode::parse(&word.to_string()), Ok(word));
        }
    }
    let _ = serde_json::from_slice::<contract::voice::FromNode>(data);
});
