//! The network: the only place of the builder that opens a socket, and none does under `--offline`.

use crate::debian::mirror::Mirrors;
use crate::digest::sha256;
use crate::progress::Step;
use crate::store::Store;
use anyhow::{Context, Result, bail, ensure};
use std::io::Read;
use std::time::Duration;

/// A mirror that accepts and then says nothing is given up on after this long.
const SILENCE: Duration = Duration::from_secs(30);

/// Fetches from mirrors.
#[derive(Debug)]
pub(crate) struct Fetcher {
    agent: ureq::Agent,
    mirrors: Mirrors,
    offline: bool,
}

/// An answer over HTTP.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// `WWW-Authenticate`.
    pub(crate) challenge: Option<String>,
    pub(crate) bytes: Vec<u8>,
}

/// How a download ended.
#[derive(Debug)]
pub(crate) enum Got {
    /// The bytes.
    Bytes(Vec<u8>),
    /// No mirror has it (404, 403 or 410 everywhere).
    Gone,
}

impl Fetcher {
    /// Over these mirrors; proxies as the environment says.
    pub(crate) fn new(mirrors: Mirrors, offline: bool) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(SILENCE))
            .timeout_recv_response(Some(SILENCE))
            .user_agent(concat!("quorate/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { agent: config.into(), mirrors, offline }
    }

    /// A file of an archive, at most `max` bytes.
    pub(crate) fn get(&self, archive: &str, path: &str, max: u64, step: Option<&Step>) -> Result<Got> {
        ensure!(!self.offline, "{archive}: {path} is not in the store, and --offline forbids fetching it");
        let mut last = None;
        let mut gone = true;
        for base in self.mirrors.of(archive)? {
            match self.url(&format!("{base}/{path}"), max, step) {
                Ok(Some(bytes)) => return Ok(Got::Bytes(bytes)),
                Ok(None) => {}
                Err(e) => {
                    gone = false;
                    last = Some(e);
                }
            }
        }
        match last {
            Some(e) if !gone => Err(e.context(format!("fetching {path} of the archive {archive}"))),
            _ => Ok(Got::Gone),
        }
    }

    /// A file of the web's, at most `max` bytes; none when it is not there.
    pub(crate) fn url(&self, url: &str, max: u64, step: Option<&Step>) -> Result<Option<Vec<u8>>> {
        let answer = self.ask(url, &[], max, step)?;
        match answer.status {
            200 => Ok(Some(answer.bytes)),
            403 | 404 | 410 => Ok(None),
            status => bail!("the server answered {status}"),
        }
    }

    /// What a server answers; a body of at most `max` bytes.
    pub(crate) fn ask(&self, url: &str, headers: &[(&str, &str)], max: u64, step: Option<&Step>) -> Result<Answer> {
        ensure!(!self.offline, "{url} is not in the store, and --offline forbids fetching it");
        let request = headers.iter().fold(self.agent.get(url), |r, (key, value)| r.header(*key, *value));
        let response = request.call()?;
        let status = response.status().as_u16();
        let challenge = response.headers().get("www-authenticate").and_then(|v| v.to_str().ok()).map(String::from);
        let name = url.rsplit('/').next().unwrap_or("").to_owned();
        let mut reader = response.into_body().into_reader();
        let mut bytes = Vec::new();
        let mut chunk = vec![0; 256 << 10];
        loop {
            let n = reader.read(&mut chunk)?;
            if n == 0 {
                return Ok(Answer { status, challenge, bytes });
            }
            bytes.extend_from_slice(&chunk[..n]);
            ensure!(bytes.len() as u64 <= max, "longer than the {max} bytes expected");
            if let Some(step) = step {
                step.advance(n as u64, &name);
            }
        }
    }

    /// A blob of known digest and size: from the store, else from the archive, verified and kept.
    pub(crate) fn blob(&self, store: &Store, want: &Wanted<'_>, step: Option<&Step>) -> Result<Option<Vec<u8>>> {
        if let Some(bytes) = store.get(want.sha256) {
            return Ok(Some(bytes));
        }
        let Got::Bytes(bytes) = self.get(want.archive, want.path, want.size, step)? else { return Ok(None) };
        ensure!(bytes.len() as u64 == want.size, "{}: has {} bytes, expected {}", want.path, bytes.len(), want.size);
        let digest = sha256(&bytes);
        ensure!(digest == want.sha256, "{}: its sha256 is {digest}, expected {}", want.path, want.sha256);
        store.put(&bytes).with_context(|| format!("keeping {}", want.path))?;
        Ok(Some(bytes))
    }
}

/// A file of an archive with what is known of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// Archive name.
    pub(crate) archive: &'a str,
    /// Path in it.
    pub(crate) path: &'a str,
    /// Bytes.
    pub(crate) size: u64,
    /// Digest.
    pub(crate) sha256: &'a str,
}
