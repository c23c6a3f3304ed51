//! The verb `metadata`: reads exactly one source and answers with a validated seed, or with every reason why not.

use crate::channel::Channel;
use crate::net::dns;
use contract::cmdline::NoCloudLine;
use contract::control::{FromAgent, MetadataRequest, ToAgent};
use contract::seed::{NoSeed, NodeSeed};
use metadata::assemble::{Transport, assemble};
use metadata::platform::{Evidence, Place, Platform, choose};
use metadata::seed_media::{self, Medium};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::time::Duration;

/// A seed server that says nothing for this long is asked again later.
const SILENCE: Duration = Duration::from_secs(5);

pub(crate) fn run() -> Result<(), String> {
    let channel = Channel;
    let ToAgent::Metadata { request } = channel.hear()? else { return Err("expected a request".into()) };
    match look(&request) {
        Ok(seed) => channel.say(&FromAgent::Seed { seed: Box::new(seed) }),
        Err(why) => channel.say(&FromAgent::NoSeed { why }),
    }
}

/// Looks at what the request names.
fn look(request: &MetadataRequest) -> Result<NodeSeed, NoSeed> {
    let mut probed = Vec::new();
    let mut problems = Vec::new();
    let media = media(&request.media, &mut probed, &mut problems);
    let evidence = Evidence::new(&request.cmdline, &request.dmi_serial, media);
    let result = match choose(&evidence) {
        Ok(None) => Err(vec![]),
        Err(e) => Err(vec![e]),
        Ok(Some((platform, Place::Medium(device)))) => from_medium(platform, &evidence, &device),
        Ok(Some((platform, Place::Url { base, files, sha256 }))) => {
            probed.push(base.clone());
            from_url(platform, &evidence, &base, files, sha256.as_deref())
        }
    };
    result.map_err(|more| {
        problems.extend(more);
        NoSeed { probed, problems }
    })
}

fn media(devices: &[String], probed: &mut Vec<String>, problems: &mut Vec<String>) -> BTreeMap<String, Medium> {
    let mut media = BTreeMap::new();
    for device in devices {
        let what = match File::open(device) {
            Err(e) => e.to_string(),
            Ok(mut disk) => match seed_media::read(&mut disk) {
                None => "neither FAT nor ISO 9660".into(),
                Some(Ok(medium)) => {
                    let label = format!("label `{}`", medium.label);
                    media.insert(device.clone(), medium);
                    label
                }
                Some(Err(e)) => {
                    problems.push(format!("{device}: {e}"));
                    e
                }
            },
        };
        probed.push(format!("{device} ({what})"));
    }
    media
}

fn from_medium(platform: &dyn Platform, evidence: &Evidence, device: &str) -> Result<NodeSeed, Vec<String>> {
    let medium = &evidence.media[device];
    let files = platform.files(medium.files.clone());
    let long = medium.too_long.iter().map(|f| format!("{device}: {f} is longer than {} bytes", metadata::FILE_MAX));
    let source = format!("{}:{device}", platform.name());
    assemble(&source, &files, Transport::Medium).map_err(|p| p.into_iter().chain(long).collect())
}

fn from_url(
    platform: &dyn Platform,
    evidence: &Evidence,
    base: &str,
    names: &[(&str, bool)],
    sha256: Option<&str>,
) -> Result<NodeSeed, Vec<String>> {
    let mut read = BTreeMap::new();
    for (name, required) in names {
        let url = format!("{base}{name}");
        match get(&url) {
            Ok(bytes) => {
                read.insert((*name).to_owned(), bytes);
            }
            Err(Missing::NotThere) if !required => {}
            Err(Missing::NotThere) => return Err(vec![format!("{url}: the server does not have it")]),
            Err(Missing::Failed(e)) => return Err(vec![format!("{url}: {e}")]),
        }
    }
    if let Some(want) = sha256 {
        let found: String = Sha256::digest(&read["user-data"]).iter().map(|b| format!("{b:02x}")).collect();
        if found != want {
            return Err(vec![format!("{base}user-data: its sha256 is {found}, the ds line pins {want}")]);
        }
    }
    let pinned = sha256.is_some() && base.starts_with("https://");
    let transport =
        if pinned { Transport::Pinned } else { Transport::Clear { allowed: evidence.cmdline.insecure_seed } };
    let mut seed = assemble(&format!("{}:{base}", platform.name()), &platform.files(read), transport)?;
    apply_line(evidence.line.as_ref(), &mut seed);
    Ok(seed)
}

/// `;i=` on the line counts over the meta-data's instance id, as in cloud-init.
fn apply_line(line: Option<&NoCloudLine>, seed: &mut NodeSeed) {
    if let Some(id) = line.and_then(|l| l.instance_id.clone()) {
        seed.instance_id = Some(id);
    }
}

enum Missing {
    NotThere,
    Failed(String),
}

fn get(url: &str) -> Result<Vec<u8>, Missing> {
    // What vouches for the content is the digest on the line, not the server's certificate: the image carries no
    // certification authorities, and a seed server is rarely known to any.
    let tls = ureq::tls::TlsConfig::builder()
        .disable_verification(true)
        .unversioned_rustls_crypto_provider(crate::pki::provider())
        .build();
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(SILENCE))
        .timeout_recv_response(Some(SILENCE))
        .timeout_recv_body(Some(SILENCE))
        .max_redirects(2)
        .user_agent(concat!("quorate/", env!("CARGO_PKG_VERSION")))
        .tls_config(tls)
        .proxy(None)
        .build();
    let agent =
        ureq::Agent::with_parts(config, ureq::unversioned::transport::DefaultConnector::default(), dns::Resolver);
    let response = agent.get(url).call().map_err(|e| Missing::Failed(e.to_string()))?;
    match response.status().as_u16() {
        200 => {}
        404 | 410 => return Err(Missing::NotThere),
        status => return Err(Missing::Failed(format!("the server answered {status}"))),
    }
    let mut bytes = Vec::new();
    let limit = metadata::FILE_MAX as u64 + 1;
    let mut reader = response.into_body().into_reader().take(limit);
    reader.read_to_end(&mut bytes).map_err(|e| Missing::Failed(e.to_string()))?;
    if bytes.len() as u64 == limit {
        return Err(Missing::Failed(format!("is longer than {} bytes", metadata::FILE_MAX)));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_it_probed() {
        let dir = tempfile::tempdir().expect("a directory");
        let device = dir.path().join("vdb").display().to_string();
        std::fs::write(&device, vec![0; 4096]).expect("written");
        let gone = "/nonexistent/vdc".to_owned();
        let why = look(&MetadataRequest {
            cmdline: String::new(),
            dmi_serial: String::new(),
            media: vec![device.clone(), gone.clone()],
        })
        .expect_err("nothing there");
        assert_eq!(why.problems, Vec::<String>::new());
        assert!(why.probed[0].contains("neither FAT nor ISO 9660") && why.probed[1].starts_with(&gone), "{why:?}");
    }

    #[test]
    fn a_server_that_is_not_there_is_a_problem() {
        let why = look(&MetadataRequest {
            cmdline: "ds=nocloud;s=http://127.0.0.1:1/".into(),
            dmi_serial: String::new(),
            media: vec![],
        })
        .expect_err("no server");
        assert!(why.problems[0].starts_with("http://127.0.0.1:1/user-data: "), "{why:?}");
    }
}
