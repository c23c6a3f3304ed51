//! deb822: stanzas of `Key: value` lines with folded continuations (deb822(5)).

use std::collections::BTreeMap;

/// A stanza: lower-cased keys; continuation lines keep their line breaks.
pub(crate) type Stanza = BTreeMap<String, String>;

/// The stanzas of a text. Comment lines are passed over, lines that are neither field nor continuation are ignored.
pub(crate) fn stanzas(text: &str) -> impl Iterator<Item = Stanza> {
    text.split("\n\n").map(stanza).filter(|s| !s.is_empty())
}

/// One stanza.
pub(crate) fn stanza(text: &str) -> Stanza {
    let mut fields = Stanza::new();
    let mut last: Option<String> = None;
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        if line.starts_with([' ', '\t']) {
            if let Some(value) = last.as_ref().and_then(|k| fields.get_mut(k)) {
                value.push('\n');
                value.push_str(line.trim());
            }
        } else if let Some((key, value)) = line.split_once(':') {
            let key = key.trim().to_ascii_lowercase();
            fields.insert(key.clone(), value.trim().to_owned());
            last = Some(key);
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn folds_continuations() {
        let all: Vec<_> = stanzas("# c\nPackage: a\nDepends: b,\n c\n\n\nPackage: d\n").collect();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0]["depends"], "b,\nc");
        assert_eq!(all[1]["package"], "d");
    }

    proptest! {
        #[test]
        fn never_panics(text in "[ -~\n\t]{0,300}") {
            let _ = stanzas(&text).count();
        }
    }
}
