//! What is measured: a cluster of its own, told from others by its description and its nodes' images.

use super::super::machines::image_of;
use super::super::spec::{self, LONGEST_NAME, Spec};
use crate::cli::cluster::Lab;
use crate::place::Refused;
use anyhow::{Context, Result};
use contract::node::Role;
use std::path::{Path, PathBuf};

/// The same description under a name of its own: disks and VMs of the cluster that it describes are left alone.
pub(super) fn cluster(file: &Path, dir: &Path) -> Result<(PathBuf, Spec)> {
    let spec = spec::read(file)?;
    if !spec.nodes.iter().any(|n| n.roles.contains(&Role::Master)) {
        let text = format!("{}: no node has the role master, and it is the API that is measured", file.display());
        return Err(Refused(vec![text]).into());
    }
    let text = std::fs::read_to_string(file)?;
    let mut table: toml::Table = text.parse()?;
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    if let Some(cluster) = table.get_mut("cluster").and_then(toml::Value::as_table_mut) {
        cluster.insert("name".into(), name(&spec.cluster.name, &stem).into());
    }
    let own = dir.join("cluster.toml");
    crate::store::write_whole(&own, table.to_string().as_bytes())?;
    let spec = spec::read(&own)?;
    Ok((own, spec))
}

/// A name that says whose it is: descriptions that name their clusters alike may lie beside each other, as in `examples`, and
/// each has its saved state at the same time. Two that are alike up to where it is cut are told apart by `bring_up`, which refuses.
fn name(cluster: &str, stem: &str) -> String {
    let stem: String = stem.to_lowercase().chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    let both = if stem.is_empty() || stem == cluster { cluster.to_owned() } else { format!("{cluster}-{stem}") };
    let cut: String = both.chars().take(LONGEST_NAME - "-chaos".len()).collect();
    format!("{}-chaos", cut.trim_end_matches('-'))
}

/// Of the description and the nodes' images: figures of another one are not this one's.
pub(super) fn digest(own: &Path, spec: &Spec, lab: &Lab) -> Result<String> {
    let mut text = std::fs::read_to_string(own)?;
    for node in &spec.nodes {
        let sums = image_of(node, &lab.images)?.join("SHA256SUMS");
        text += &std::fs::read_to_string(&sums).with_context(|| format!("reading {}", sums.display()))?;
    }
    Ok(crate::digest::sha256(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::{LONGEST_NAME, name};
    use proptest::prelude::*;

    #[test]
    fn names_of_descriptions_that_name_their_clusters_alike() {
        assert_eq!(name("demo", "stacked"), "demo-stacked-chaos");
        assert_eq!(name("demo", "external"), "demo-external-chaos");
        assert_eq!(name("demo", "demo"), "demo-chaos");
        assert_eq!(name("demo", "My cluster_2"), "demo-mycluster2-chaos");
        assert_eq!(name("demo", "--"), "demo-chaos");
        assert_eq!(name("a-name-of-just-twenty-six-c", "x"), "a-name-of-just-twenty-six-chaos");
    }

    proptest! {
        #[test]
        fn a_name_is_a_label(cluster in "[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", stem in ".{0,40}") {
            let name = name(&cluster, &stem);
            prop_assert!(name.len() <= LONGEST_NAME && contract::check::is_label(&name), "{name}");
        }
    }
}
