//! `#cloud-config`: YAML whose key `quorate` is ours; whatever else a platform or an operator put there is passed over.

use contract::nearest::hint;
use contract::node::NodeConfig;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::BTreeMap;

/// What a cloud-config says to us.
#[derive(Debug)]
pub struct CloudConfig {
    /// The value under `quorate`.
    pub node: NodeConfig,
    /// cloud-init's `hostname`.
    pub hostname: Option<String>,
    /// Keys that were passed over, sorted.
    pub ignored: Vec<String>,
}

#[derive(Deserialize)]
struct Document {
    quorate: Option<NodeConfig>,
    hostname: Option<String>,
    #[serde(flatten)]
    rest: BTreeMap<String, IgnoredAny>,
}

/// Reads it. The error is a sentence with line and column.
pub fn parse(text: &str) -> Result<CloudConfig, String> {
    let first = text.lines().next().unwrap_or("").trim_end();
    if !first.starts_with("#cloud-config") {
        return Err(wrong_kind(text, first));
    }
    let document: Option<Document> = yaml(text)?;
    let Some(document) = document else { return Err("has no key `quorate`: the document is empty".into()) };
    let ignored: Vec<String> = document.rest.into_keys().collect();
    let Some(node) = document.quorate else {
        let near = contract::nearest::nearest("quorate", ignored.iter().map(String::as_str));
        let found = if ignored.is_empty() { "nothing".into() } else { ignored.join(", ") };
        let hint = near.map(|n| format!("; `{n}` looks like a typo of it")).unwrap_or_default();
        return Err(format!("has no key `quorate`; found {found}{hint}"));
    };
    Ok(CloudConfig { node, hostname: document.hostname, ignored })
}

fn wrong_kind(text: &str, first: &str) -> String {
    let kind = if text.trim().is_empty() {
        "it is empty".to_owned()
    } else if first.starts_with("#!") {
        "it is a script, and nothing from user-data is ever executed".into()
    } else if text.trim_start().starts_with('<') {
        "it looks like HTML, perhaps a login page of a proxy".into()
    } else if text.contains("\"ignition\"") {
        "it looks like an Ignition configuration".into()
    } else if text.contains("machine:") && text.contains("cluster:") {
        "it looks like a Talos configuration".into()
    } else {
        format!("its first line is `{}`", first.chars().take(40).collect::<String>().escape_debug())
    };
    format!("expected `#cloud-config` as the first line; {kind}")
}

/// Parses YAML; the error says line, column and, for a typo, the nearest known key.
pub(crate) fn yaml<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_saphyr::from_str(text).map_err(|e| {
        let message = e.without_snippet().to_string();
        let message = message.lines().next().unwrap_or("").to_owned();
        let place = e.location().map(|l| format!("line {}, column {}: ", l.line(), l.column())).unwrap_or_default();
        let plain = message.split(" at line ").next().unwrap_or(&message).to_owned();
        let hint = hint(&message).map(|h| format!("; {h}")).unwrap_or_default();
        format!("{place}{plain}{hint}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = include_str!("../tests/samples/etcd-user-data.yaml");

    #[test]
    fn reads_ours_and_passes_over_the_rest() {
        let c = parse(&format!("{GOOD}\nssh_authorized_keys: [a]\npackage_upgrade: true\n")).expect("good");
        assert_eq!(c.node.name(), "etcd-1");
        assert_eq!(c.ignored, ["package_upgrade", "ssh_authorized_keys"]);
    }

    #[test]
    fn says_what_is_wrong() {
        let cases = [
            (GOOD.replace("roles:", "rolse:"), "unknown field `rolse`"),
            (GOOD.replace("roles:", "rolse:"), "did you mean `roles`?"),
            (GOOD.replace("[etcd]", "[ectd]"), "did you mean `etcd`?"),
            (GOOD.replace("quorate:", "quroate:"), "`quroate` looks like a typo"),
            (GOOD[..200].to_owned() + "\n  node: {name: [", "line "),
            (GOOD.replace("state: ephemeral", "state: ram"), "ephemeral"),
            ("#!/bin/sh\n".into(), "ever executed"),
            (String::new(), "it is empty"),
            ("<html>".into(), "HTML"),
            ("#cloud-config\n".into(), "has no key `quorate`"),
            ("#cloud-config\n- a\n".into(), "line "),
        ];
        for (text, want) in cases {
            let e = parse(&text).expect_err(want);
            assert!(e.contains(want), "{e}\n-- expected: {want}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn truncation_never_panics(cut in 0_usize..2000) {
            let _ = parse(&GOOD[..GOOD.floor_char_boundary(cut.min(GOOD.len()))]);
        }

        #[test]
        fn noise_never_panics(text in "[ -~\n]{0,120}") {
            let _ = parse(&format!("#cloud-config\n{text}"));
        }
    }
}
