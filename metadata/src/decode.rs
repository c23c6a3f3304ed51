//! How user-data is packed: a byte order mark, base64, gzip, each at most once (cloud-init does the same in this order).

use crate::FILE_MAX;
use base64::Engine;
use std::io::Read;
use thiserror::Error;

/// Why bytes are not readable user-data.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DecodeError {
    /// More than [`FILE_MAX`].
    #[error("is longer than {FILE_MAX} bytes")]
    TooLong,
    /// gzip that does not unpack.
    #[error("is gzip, but does not unpack: {0}")]
    Gzip(String),
    /// Not UTF-8.
    #[error("is not UTF-8 text; it begins with {0}")]
    NotText(String),
}

/// The text inside.
pub fn decode(bytes: &[u8]) -> Result<String, DecodeError> {
    if bytes.len() > FILE_MAX {
        return Err(DecodeError::TooLong);
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let unpacked = unbase64(bytes);
    let bytes = unpacked.as_deref().unwrap_or(bytes);
    let bytes = if bytes.starts_with(&[0x1f, 0x8b]) { gunzip(bytes)? } else { bytes.to_vec() };
    String::from_utf8(bytes).map_err(|e| {
        let head = &e.as_bytes()[..e.as_bytes().len().min(32)];
        DecodeError::NotText(head.escape_ascii().to_string())
    })
}

/// Base64 only when what is inside is something we know: plain text is valid base64 now and then.
fn unbase64(bytes: &[u8]) -> Option<Vec<u8>> {
    let packed: Vec<u8> = bytes.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
    let inner = base64::engine::general_purpose::STANDARD.decode(packed).ok()?;
    (inner.starts_with(&[0x1f, 0x8b]) || inner.starts_with(b"#")).then_some(inner)
}

fn gunzip(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let mut out = Vec::new();
    let limit = FILE_MAX as u64 + 1;
    flate2::read::GzDecoder::new(bytes)
        .take(limit)
        .read_to_end(&mut out)
        .map_err(|e| DecodeError::Gzip(e.to_string()))?;
    if out.len() as u64 >= limit { Err(DecodeError::TooLong) } else { Ok(out) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        e.write_all(text).expect("packed");
        e.finish().expect("packed")
    }

    #[test]
    fn unpacks_what_platforms_pack() {
        let text = "#cloud-config\nquorate: {}\n";
        let b64 = |b: &[u8]| base64::engine::general_purpose::STANDARD.encode(b).into_bytes();
        for packed in [
            text.as_bytes().to_vec(),
            [b"\xef\xbb\xbf", text.as_bytes()].concat(),
            gzip(text.as_bytes()),
            b64(text.as_bytes()),
            b64(&gzip(text.as_bytes())),
        ] {
            assert_eq!(decode(&packed).as_deref(), Ok(text));
        }
    }

    #[test]
    fn refuses_bombs_and_binaries() {
        assert_eq!(decode(&gzip(&vec![0; FILE_MAX + 1])), Err(DecodeError::TooLong));
        assert_eq!(decode(&vec![b'a'; FILE_MAX + 1]), Err(DecodeError::TooLong));
        assert!(matches!(decode(&[0x1f, 0x8b, 1, 2]), Err(DecodeError::Gzip(_))));
        assert_eq!(decode(&[0xff, 0xfe, b'#']), Err(DecodeError::NotText("\\xff\\xfe#".into())));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn text_comes_back(text in "#cloud-config[ -~\n]{0,100}") {
            prop_assert_eq!(decode(&gzip(text.as_bytes())).expect("text"), text);
        }
    }
}
