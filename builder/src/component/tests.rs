//! Recipes that fetch, from a server of this process.

use super::*;
use crate::debian::mirror::Mirrors;
use crate::digest::sha256;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

/// A web server and registry: answers by path; manifests and blobs only to who has the token.
struct Server {
    at: String,
    pages: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = listener.local_addr().expect("its address").to_string();
        let (pages, asked) = (Arc::<Mutex<BTreeMap<String, Vec<u8>>>>::default(), Arc::<Mutex<Vec<String>>>::default());
        let (answers, log, own) = (Arc::clone(&pages), Arc::clone(&asked), at.clone());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut head = Vec::new();
                let mut reader = BufReader::new(&stream);
                while !head.ends_with(b"\r\n\r\n") && reader.read_until(b'\n', &mut head).is_ok_and(|n| n > 0) {}
                let head = String::from_utf8_lossy(&head).to_lowercase();
                let path = head.split_whitespace().nth(1).unwrap_or_default().to_owned();
                log.lock().expect("the log").push(path.clone());
                let (status, more, body) = match answers.lock().expect("the pages").get(&path) {
                    _ if path.starts_with("/v2/") && !head.contains("authorization: bearer let-me-in") => (
                        "401 Unauthorized",
                        format!(
                            "WWW-Authenticate: Bearer realm=\"http://{own}/token\",service=\"here\",scope=\"repository:a/b:pull\"\r\n"
                        ),
                        Vec::new(),
                    ),
                    Some(body) => ("200 OK", String::new(), body.clone()),
                    None => ("404 Not Found", String::new(), Vec::new()),
                };
                let head =
                    format!("HTTP/1.1 {status}\r\n{more}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                // Whoever asks may have heard enough.
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
            }
        });
        let server = Self { at, pages, asked };
        server.page("/token?service=here&scope=repository%3aa%2fb%3apull", br#"{"token":"let-me-in"}"#);
        server
    }

    fn page(&self, path: &str, body: &[u8]) -> String {
        self.pages.lock().expect("the pages").insert(path.to_lowercase(), body.to_vec());
        sha256(body)
    }

    fn blob(&self, kind: &str, body: &[u8]) -> String {
        let digest = format!("sha256:{}", sha256(body));
        self.page(&format!("/v2/a/b/{kind}/{digest}"), body);
        digest
    }

    fn asked(&self) -> usize {
        self.asked.lock().expect("the log").len()
    }
}

fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(text.len() as u64);
        tar.append_data(&mut header, path, text.as_bytes()).expect("appended");
    }
    tar.into_inner().expect("a tar")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(bytes).expect("compressed");
    gz.finish().expect("compressed")
}

struct Workshop {
    dir: tempfile::TempDir,
    store: Store,
}

impl Workshop {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::at(dir.path().join("store")).expect("a store");
        Self { dir, store }
    }

    fn recipe(&self, text: &str) -> Result<Recipe> {
        let dir = self.dir.path().join("components/mine");
        std::fs::create_dir_all(&dir).expect("made");
        std::fs::write(dir.join("recipe.toml"), format!("version = \"1\"\n{text}")).expect("written");
        Recipe::read(self.dir.path(), "mine")
    }

    fn make(&self, text: &str, offline: bool) -> Result<BTreeMap<String, Vec<u8>>> {
        let made = self.recipe(text)?.make(None, &Fetcher::new(Mirrors::default(), offline), &self.store)?;
        Ok(made.into_iter().map(|(n, d)| (n, self.store.get(&d).expect("in the store"))).collect())
    }

    fn error(&self, text: &str) -> String {
        format!("{:#}", self.make(text, false).expect_err("refused"))
    }
}

#[test]
fn a_file_of_the_web_and_a_member_of_a_tar() {
    let (server, shop) = (Server::start(), Workshop::new());
    let plain = server.page("/tool", b"a program");
    let archive = tar(&[("v1/README", "no"), ("v1/tool", "another")]);
    let packed = [gzip(&archive), zstd::encode_all(&archive[..], 3).expect("packed"), archive];
    let at = &server.at;
    let one = format!("[[binary]]\nname = \"one\"\nurl = \"http://{at}/tool\"\nsha256 = \"{plain}\"\n");
    assert_eq!(shop.make(&one, false).expect("made")["one"], b"a program");
    for (i, packed) in packed.iter().enumerate() {
        let sha = server.page(&format!("/{i}.tar"), packed);
        let two = format!(
            "[[binary]]\nname = \"two\"\nurl = \"http://{at}/{i}.tar\"\nsha256 = \"{sha}\"\nmember = \"v1/tool\"\n"
        );
        assert_eq!(shop.make(&two, false).expect("made")["two"], b"another");
        let asked = server.asked();
        assert_eq!(shop.make(&two, true).expect("offline, out of the store")["two"], b"another");
        assert_eq!(server.asked(), asked);
        let none = two.replace("v1/tool", "v2/tool");
        let text = shop.error(&none);
        assert!(text.contains("no `v2/tool` among its 2 members; did you mean `v1/tool`?"), "{text}");
    }
    let other = one.replace(&plain, &"0".repeat(64));
    assert!(shop.error(&other).contains(&format!("its sha256 is {plain}, expected 000")), "{}", shop.error(&other));
    let gone = one.replace("/tool", "/gone").replace(&plain, &"1".repeat(64));
    assert!(shop.error(&gone).contains("is not there"), "{}", shop.error(&gone));
    let text = format!("{:#}", shop.make(&gone, true).expect_err("offline"));
    assert!(text.contains("--offline forbids fetching it"), "{text}");
}

/// An index of two platforms, an image of two layers: the upper one replaces a file and removes another.
fn image(server: &Server) -> String {
    let lower =
        gzip(&tar(&[("usr/bin/tool", "old"), ("usr/bin/kept", "kept"), ("usr/bin/gone", "gone"), ("opt/a/b", "b")]));
    let upper = tar(&[("usr/bin/tool", "new"), ("usr/bin/.wh.gone", ""), ("opt/a/.wh..wh..opq", "")]);
    let upper = zstd::encode_all(&upper[..], 3).expect("packed");
    let blob = |kind: &str, bytes: &[u8]| serde_json::json!({ "mediaType": kind, "size": bytes.len(), "digest": server.blob("blobs", bytes) });
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob("application/vnd.oci.image.config.v1+json", b"{}"),
        "layers": [
            blob("application/vnd.oci.image.layer.v1.tar+gzip", &lower),
            blob("application/vnd.oci.image.layer.v1.tar+zstd", &upper),
        ],
    });
    let digest = server.blob("manifests", manifest.to_string().as_bytes());
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [
        { "digest": format!("sha256:{}", "2".repeat(64)), "size": 2, "platform": { "os": "linux", "architecture": "arm64" } },
        { "digest": digest, "size": 2, "platform": { "os": "linux", "architecture": "amd64" } },
    ]});
    format!("{}/a/b:v1@{}", server.at, server.blob("manifests", index.to_string().as_bytes()))
}

#[test]
fn a_file_of_an_image() {
    let (server, shop) = (Server::start(), Workshop::new());
    let image = image(&server);
    let of = |path: &str| format!("[[binary]]\nname = \"it\"\noci = \"{image}\"\npath = \"{path}\"\n");
    assert_eq!(shop.make(&of("/usr/bin/tool"), false).expect("made")["it"], b"new");
    assert_eq!(shop.make(&of("/usr/bin/kept"), false).expect("made")["it"], b"kept");
    for gone in ["/usr/bin/gone", "/opt/a/b", "/usr/bin/never"] {
        assert!(shop.error(&of(gone)).contains("the image has no such file"), "{gone}: {}", shop.error(&of(gone)));
    }
    assert_eq!(shop.make(&of("/usr/bin/kept"), true).expect("offline, out of the store")["it"], b"kept");
    // A registry that answers with something else.
    let (server, shop) = (Server::start(), Workshop::new());
    let image = self::image(&server);
    for page in server.pages.lock().expect("the pages").iter_mut().filter(|(path, _)| path.contains("/manifests/")) {
        page.1.push(b' ');
    }
    let text = shop.error(&format!("[[binary]]\nname = \"it\"\noci = \"{image}\"\npath = \"/usr/bin/tool\"\n"));
    assert!(text.contains("its sha256 is"), "{text}");
}

#[test]
fn a_whole_image_for_pods() {
    let (server, shop) = (Server::start(), Workshop::new());
    let text = format!("[[image]]\nname = \"registry.example/mine:1\"\noci = \"{}\"\n", image(&server));
    let recipe = shop.recipe(&text).expect("a recipe");
    assert!(!recipe.is_compiled());
    let mut images = recipe.images(&Fetcher::new(Mirrors::default(), false), &shop.store).expect("fetched");
    let (file, bytes) = images.pop().expect("one");
    assert_eq!(file, "registry.example_mine_1.tar");
    let mut names = Vec::new();
    for entry in tar::Archive::new(&bytes[..]).entries().expect("a tar") {
        let mut entry = entry.expect("an entry");
        let path = entry.path().expect("a path").display().to_string();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content).expect("read");
        if path == "index.json" {
            let index: serde_json::Value = serde_json::from_slice(&content).expect("an index");
            let name = &index["manifests"][0]["annotations"]["io.containerd.image.name"];
            assert_eq!(name, "registry.example/mine:1");
        }
        if let Some(digest) = path.strip_prefix("blobs/sha256/") {
            assert_eq!(digest, sha256(&content));
        }
        names.push(path);
    }
    assert_eq!(names.len(), 2 + 4, "a manifest, a configuration and two layers: {names:?}");
}

#[test]
fn a_module_in_anothers_place_is_part_of_what_is_built() {
    let shop = Workshop::new();
    let dir = shop.dir.path().join("components/mine");
    for file in ["main.go", "go.mod", "go.sum", "instead/go.mod", "instead/instead.go", "instead/README", "notes/x.go"]
    {
        let path = dir.join(file);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(path, "one").expect("written");
    }
    let recipe = || shop.recipe("[[binary]]\nname = \"mine\"\npackage = \".\"\n").expect("a recipe");
    let before = recipe();
    let names: Vec<&str> = before.sources().map(|(name, _)| name).collect();
    assert_eq!(names, ["go.mod", "go.sum", "instead/go.mod", "instead/instead.go", "main.go"]);
    std::fs::write(dir.join("instead/instead.go"), "two").expect("written");
    assert_ne!(recipe().digest(), before.digest());
}

proptest::proptest! {
    #[test]
    fn whatever_a_server_answers(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..2000), text in ".{0,80}") {
        // Refused or understood, never a panic.
        let _ = fetched::unpack(&bytes).and_then(|layer| oci::look(layer, "usr/bin/tool"));
        let _ = oci::look(&tar(&[("usr/bin/.wh.tool", ""), ("a", "b")])[..bytes.len().min(2048)], "usr/bin/tool");
        let _ = oci::token_url(&format!("Bearer realm=\"https://a/{text}\",service={text}"));
        let _ = text.parse::<oci::Reference>();
    }
}

#[test]
fn recipes_that_cannot_be() {
    let shop = Workshop::new();
    let sha = "0".repeat(64);
    for (text, want) in [
        ("name = \"x\"".to_owned(), "3:8: binary `x`: expected one of `package`, `url` and `oci`"),
        ("name = \"x\"\nurl = \"http://a/b\"".into(), "expected `sha256`, 64 hex digits, beside `url`"),
        (
            format!("name = \"x\"\nurl = \"http://a/b\"\nsha256 = \"{sha}\"\npath = \"/x\""),
            "`path` says nothing beside `url`",
        ),
        (format!("name = \"x\"\noci = \"a.b/c@sha256:{sha}\""), "expected `path`, absolute, beside `oci`"),
        ("name = \"x\"\noci = \"a.b/c:v1\"\npath = \"/x\"".into(), "a tag may change, so a digest is needed"),
        (format!("name = \"x\"\noci = \"nginx@sha256:{sha}\"\npath = \"/x\""), "expected REGISTRY/NAME@sha256:DIGEST"),
        ("name = \"x\"\npackage = \".\"\nurl = \"http://a/b\"".into(), "expected one of"),
        ("name = \"x\"\nulr = \"http://a/b\"".into(), "did you mean"),
    ] {
        let error = format!("{:#}", shop.recipe(&format!("[[binary]]\n{text}\n")).expect_err("refused"));
        assert!(error.contains("recipe.toml:") && error.contains(want), "{error}\n-- expected: {want}");
    }
}
