//! How commands ask the keeper.

use super::{Answer, Request, Status};
use crate::cluster::machines::state_dir;
use crate::cluster::spec::{self, Spec};
use anyhow::{Context, Error, Result, anyhow, bail};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// A line of an answer is at most this long, in bytes.
const LINE_MAX: u64 = 16 << 20;

/// A unix socket's path has 108 bytes at most, so it lies in the runtime directory under a short name.
pub(crate) fn socket(name: &str) -> PathBuf {
    let dir = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let key = crate::digest::sha256(state_dir(name).as_os_str().as_encoded_bytes());
    dir.join(format!("quorate-{name}-{}.sock", &key[..8]))
}

/// The answers to a request.
#[derive(Debug)]
pub(crate) struct Answers(BufReader<UnixStream>);

/// Asks the keeper of a cluster.
pub(crate) fn ask(name: &str, request: &Request) -> Result<Answers> {
    let mut stream = UnixStream::connect(socket(name)).map_err(|e| match e.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            anyhow!("the cluster {name} is not up; hint: `quorate cluster up`")
        }
        _ => Error::from(e).context(format!("asking the keeper of the cluster {name}")),
    })?;
    writeln!(stream, "{}", serde_json::to_string(request)?)?;
    Ok(Answers(BufReader::new(stream)))
}

impl Answers {
    /// The next one; none after the last. A failure is an error.
    pub(crate) fn next(&mut self) -> Result<Option<Answer>> {
        let mut line = Vec::new();
        self.0.by_ref().take(LINE_MAX).read_until(b'\n', &mut line).context("waiting for the keeper")?;
        if line.is_empty() {
            bail!("the keeper ended before it had answered");
        }
        match serde_json::from_slice(&line).context("reading the keeper's answer")? {
            Answer::Done => Ok(None),
            Answer::Failed { why } => bail!("{why}"),
            other => Ok(Some(other)),
        }
    }

    /// Reads to the end.
    pub(crate) fn finish(mut self) -> Result<()> {
        while self.next()?.is_some() {}
        Ok(())
    }
}

/// Asks for something that is only done.
pub(crate) fn tell(name: &str, request: &Request) -> Result<()> {
    ask(name, request)?.finish()
}

/// What runs.
pub(crate) fn status(name: &str) -> Result<Status> {
    match ask(name, &Request::Status)?.next()? {
        Some(Answer::Status(s)) => Ok(*s),
        other => bail!("the keeper answered something else: {other:?}"),
    }
}

/// The cluster a command means: the file that was named, ./cluster.toml, or the only one that is up.
pub(crate) fn which(file: Option<&Path>) -> Result<(PathBuf, Spec)> {
    let path = match file {
        Some(f) => f.to_owned(),
        None if Path::new("cluster.toml").exists() => "cluster.toml".into(),
        None => only_one_up()?,
    };
    let spec = spec::read(&path)?;
    Ok((path, spec))
}

fn only_one_up() -> Result<PathBuf> {
    let clusters = crate::dirs::state().join("quorate");
    let names = std::fs::read_dir(clusters).into_iter().flatten().flatten();
    let mut up: Vec<Status> = names.filter_map(|e| status(&e.file_name().to_string_lossy()).ok()).collect();
    up.sort_by(|a, b| a.cluster.cmp(&b.cluster));
    match &up[..] {
        [one] => Ok(one.file.clone()),
        [] => bail!("no cluster is up, and there is no ./cluster.toml; hint: name the cluster's file"),
        many => {
            let names: Vec<_> = many.iter().map(|s| s.file.display().to_string()).collect();
            bail!("several clusters are up: name one of {}", names.join(", "))
        }
    }
}
