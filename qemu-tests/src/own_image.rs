//! An image as a user makes one: a profile that extends a shipped one and puts a container image of the user's registry into
//! the root, locked beside the shipped lock.

use crate::{checkout, program, read};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::Command;

/// By this name pods ask for the container image: no such registry is there.
pub const BOX_IMAGE: &str = "registry.example/box:1";

/// Builds `own`, which is the shipped profile `base` and [`BOX_IMAGE`] with the test program in it. The directory of images
/// that holds it, below `dir`, where nothing else stays.
pub fn with_the_box(base: &str, dir: &Path) -> PathBuf {
    let _ = std::fs::remove_dir_all(dir);
    std::fs::create_dir_all(dir).expect("made");
    let profiles = dir.join("profiles");
    done(Command::new("cp").arg("-r").arg(checkout().join("profiles")).arg(&profiles));
    let registry = dir.join("registry");
    let reference = push(&registry);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = listener.local_addr().expect("an address");
    crate::serve(listener, registry, None);
    let recipe = format!("version = \"1\"\n\n[[image]]\nname = \"{BOX_IMAGE}\"\noci = \"{at}/{reference}\"\n");
    let mine = profiles.join("components/mine");
    std::fs::create_dir_all(&mine).expect("made");
    std::fs::write(mine.join("recipe.toml"), recipe).expect("written");
    // Roles are a profile's own.
    let text = read(&profiles.join(format!("{base}.toml")));
    let roles = text.lines().find(|l| l.starts_with("roles = ")).expect("its roles");
    let own = format!("name = \"own\"\nextends = [\"{base}\"]\n{roles}\n\n[components]\nmine = {{ take = [] }}\n");
    std::fs::write(profiles.join("own.toml"), own).expect("written");
    std::fs::copy(profiles.join(format!("{base}.lock")), profiles.join("own.lock")).expect("copied");
    for words in [&["lock", "own", "--update", "mine"][..], &["build", "own", "--locked"]] {
        done(
            Command::new(program("quorate")).current_dir(dir).arg("image").args(words).arg("--profiles").arg(&profiles),
        );
    }
    dir.join("out")
}

/// Puts the image into a registry's files; `NAME:TAG@DIGEST` of it.
fn push(registry: &Path) -> String {
    let mut layer = tar::Builder::new(Vec::new());
    let bytes = std::fs::read(program("quorate-box")).expect("the program");
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o755);
    header.set_size(bytes.len() as u64);
    layer.append_data(&mut header, "quorate-box", &bytes[..]).expect("a file");
    let layer = layer.into_inner().expect("a layer");
    let blob = |kind: &str, bytes: &[u8]| {
        let digest = put(registry, "blobs", bytes);
        json!({ "mediaType": format!("application/vnd.oci.image.{kind}"), "size": bytes.len(), "digest": digest })
    };
    let config: Value = json!({
        "os": "linux", "architecture": "amd64",
        "config": { "Entrypoint": ["/quorate-box"], "Cmd": ["serve", "8080"], "Env": ["BOX_TEXT=from its own image"], "User": "65532:65532" },
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
    });
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob("config.v1+json", config.to_string().as_bytes()), "layers": [blob("layer.v1.tar", &layer)],
    });
    format!("mine/box:1@{}", put(registry, "manifests", manifest.to_string().as_bytes()))
}

fn put(registry: &Path, kind: &str, bytes: &[u8]) -> String {
    let (dir, digest) = (registry.join("v2/mine/box").join(kind), digest(bytes));
    std::fs::create_dir_all(&dir).expect("made");
    std::fs::write(dir.join(&digest), bytes).expect("written");
    digest
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

fn done(command: &mut Command) {
    let out = command.output().expect("run");
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
}
