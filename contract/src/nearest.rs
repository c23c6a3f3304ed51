//! The nearest known word, for hints.

/// The candidate closest to `word`, if one is close enough to be a typo of it.
///
/// ```
/// assert_eq!(contract::nearest::nearest("rolse", ["roles", "node"]), Some("roles"));
/// assert_eq!(contract::nearest::nearest("quux", ["roles", "node"]), None);
/// ```
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|c| (strsim::osa_distance(word, c), c))
        .filter(|(d, c)| *d <= 1 + c.len().min(word.len()) / 3)
        .min()
        .map(|(_, c)| c)
}

/// The hint for serde's "unknown field `x`, expected one of `a`, `b`" (also "unknown variant"), else nothing.
///
/// serde lists what it knows in the message and nowhere else, so the words are read back from it.
pub fn hint(serde_message: &str) -> Option<String> {
    let at = serde_message.find("unknown field `").or_else(|| serde_message.find("unknown variant `"))?;
    let message = &serde_message[at..];
    let wrong = message.split('`').nth(1)?;
    let (_, known) = message.split_once("expected ")?;
    let known = known.split(" at line ").next()?;
    let words = known.split([',', '`', ' ']).filter(|w| !["", "one", "of", "or"].contains(w));
    nearest(wrong, words).map(|w| format!("did you mean `{w}`?"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn reads_the_words_back_from_serde() {
        let m = "unknown field `adress`, expected one of `name`, `address` at line 3 column 2";
        assert_eq!(super::hint(m).as_deref(), Some("did you mean `address`?"));
        assert_eq!(
            super::hint("unknown field `rolse`, expected one of roles, node").as_deref(),
            Some("did you mean `roles`?")
        );
        assert_eq!(super::hint("missing field `name`"), None);
    }
}
