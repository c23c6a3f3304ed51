//! Container images as OCI archives (image-spec 1.1: `image-layout.md`, `manifest.md`, `config.md`), and the one that every
//! pod of quorate's own is made of: one layer with one program. Byte-identical for the same contents.

use crate::digest::sha256;
use anyhow::{Context, Result};
use contract::kube::PAUSE_IMAGE;
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

/// Links of a merged /usr: a pod that mounts the node's `/usr` finds its loader and its libraries where they are looked for.
const LINKS: [(&str, &str); 4] = [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")];

fn entry(tar: &mut Builder<Vec<u8>>, kind: EntryType, path: &str, mode: u32, link: &str, bytes: &[u8]) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(bytes.len() as u64);
    if kind == EntryType::Symlink {
        return tar.append_link(&mut header, path, link).context("writing a link");
    }
    tar.append_data(&mut header, path, bytes).with_context(|| format!("writing {path}"))
}

fn layer(program: &[u8]) -> Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    for dir in ["usr", "etc", "tmp"] {
        let mode = if dir == "tmp" { 0o1777 } else { 0o755 };
        entry(&mut tar, EntryType::Directory, dir, mode, "", &[])?;
    }
    for (path, target) in LINKS {
        entry(&mut tar, EntryType::Symlink, path, 0o777, target, &[])?;
    }
    entry(&mut tar, EntryType::Regular, "pause", 0o755, "", program)?;
    Ok(tar.into_inner()?)
}

fn descriptor(kind: &str, bytes: &[u8]) -> Value {
    json!({
        "mediaType": format!("application/vnd.oci.image.{kind}"),
        "digest": format!("sha256:{}", sha256(bytes)),
        "size": bytes.len(),
    })
}

/// The image with our program.
pub(crate) fn pause(program: &[u8]) -> Result<Vec<u8>> {
    let layer = layer(program)?;
    let text = |value: &Value| value.to_string().into_bytes();
    let config = text(&json!({
        "architecture": "amd64", "os": "linux",
        "config": { "Entrypoint": ["/pause"], "WorkingDir": "/", "User": "65534:65534" },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer))] },
    }));
    let manifest = text(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", &config),
        "layers": [descriptor("layer.v1.tar", &layer)],
    }));
    archive(PAUSE_IMAGE, &manifest, &[config, layer])
}

/// An image under a name, of its manifest and the blobs that this one names.
pub(crate) fn archive(name: &str, manifest: &[u8], blobs: &[Vec<u8>]) -> Result<Vec<u8>> {
    let mut named = descriptor("manifest.v1+json", manifest);
    // Docker's manifests are OCI's by another name; who reads the index must know which it is.
    if let Some(own) =
        serde_json::from_slice::<Value>(manifest).ok().and_then(|m| m["mediaType"].as_str().map(Value::from))
    {
        named["mediaType"] = own;
    }
    let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    named["annotations"] = json!({ "io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag });
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [named],
    });
    let mut tar = Builder::new(Vec::new());
    let mut file = |path: &str, bytes: &[u8]| entry(&mut tar, EntryType::Regular, path, 0o644, "", bytes);
    file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    file("index.json", index.to_string().as_bytes())?;
    let mut written = std::collections::BTreeSet::new();
    for blob in std::iter::once(manifest).chain(blobs.iter().map(Vec::as_slice)) {
        let digest = sha256(blob);
        // An image may have the same layer twice.
        if written.insert(digest.clone()) {
            file(&format!("blobs/sha256/{digest}"), blob)?;
        }
    }
    Ok(tar.into_inner()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::io::Read;

    #[test]
    fn every_blob_is_there_under_its_digest() {
        let bytes = pause(b"a program").expect("an archive");
        assert_eq!(bytes, pause(b"a program").expect("again"), "the same");
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(&bytes[..]).entries().expect("a tar") {
            let mut entry = entry.expect("an entry");
            let path = entry.path().expect("a path").display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("read");
            files.insert(path, content);
        }
        let json = |path: &str| -> Value { serde_json::from_slice(&files[path]).expect(path) };
        let blob = |d: &Value| format!("blobs/{}", d["digest"].as_str().expect("a digest").replace(':', "/"));
        let manifest = json(&blob(&json("index.json")["manifests"][0]));
        let layer = &files[&blob(&manifest["layers"][0])];
        assert_eq!(json(&blob(&manifest["config"]))["rootfs"]["diff_ids"][0], format!("sha256:{}", sha256(layer)));
        for (path, content) in files.iter().filter(|(p, _)| p.starts_with("blobs/")) {
            assert!(path.ends_with(&sha256(content)), "{path}");
        }
    }
}
