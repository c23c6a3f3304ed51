//! Which files hold the log of a service, or of a container of the cluster's own pods: what an apiserver says that does not come
//! up cannot be asked of the API.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Of each file as much of the end is read: all of a service's (`logs.rs`), most of a container's, which may have ten mebibytes.
pub(super) const END: u64 = 8 << 20;
/// Whose pods, as the kubelet names their directories: `NAMESPACE_POD_UID/CONTAINER/RESTARTS.log`.
const OWN_PODS: &str = "kube-system_";

/// Where logs are kept on a node.
#[derive(Clone, Debug)]
pub(super) struct Places {
    /// Of each service a directory with `previous` and `current`.
    pub(super) services: PathBuf,
    /// Of each pod a directory, as the kubelet has it (`podLogsDir`).
    pub(super) pods: PathBuf,
}

/// A log that there is: a directory whose files are turned over, or one more.
#[derive(Clone, Debug)]
pub(super) enum Log {
    Service(PathBuf),
    Container(PathBuf),
}

impl Places {
    /// The service's log; else, of the pods with such a container, that of the one that wrote last.
    pub(super) fn find(&self, name: &str) -> io::Result<Log> {
        let service = self.services.join(name);
        if service.exists() {
            return Ok(Log::Service(service));
        }
        let containers = self.containers().into_iter().filter(|dir| dir.ends_with(name)).map(Log::Container);
        let written = |log: &Log| log.current().and_then(|(_, f)| f.metadata().ok()?.modified().ok());
        let newest = containers.max_by_key(|log| written(log).unwrap_or(SystemTime::UNIX_EPOCH));
        newest.ok_or_else(|| {
            let known = self.names().join(", ");
            let text =
                if known.is_empty() { "there is none yet".into() } else { format!("there is none; there are {known}") };
            io::Error::new(io::ErrorKind::NotFound, text)
        })
    }

    fn containers(&self) -> Vec<PathBuf> {
        let own = |pod: &PathBuf| pod.file_name().is_some_and(|n| n.to_string_lossy().starts_with(OWN_PODS));
        within(&self.pods).into_iter().filter(own).flat_map(|pod| within(&pod)).collect()
    }

    fn names(&self) -> Vec<String> {
        let all = within(&self.services).into_iter().chain(self.containers());
        let mut names: Vec<String> =
            all.filter_map(|dir| Some(dir.file_name()?.to_string_lossy().into_owned())).collect();
        names.sort();
        names.dedup();
        names
    }
}

impl Log {
    /// Where to watch for what is added.
    pub(super) fn dir(&self) -> &Path {
        let (Self::Service(dir) | Self::Container(dir)) = self;
        dir
    }

    /// The last two files, the older first, each with its place in that order. One may be gone when it is read.
    pub(super) fn files(&self) -> Vec<(u64, PathBuf)> {
        match self {
            Self::Service(dir) => vec![(0, dir.join("previous")), (1, dir.join("current"))],
            Self::Container(dir) => {
                let runs = within(dir).into_iter().filter_map(|file| {
                    let name = file.file_name()?.to_str()?;
                    // What was turned over has its time behind that.
                    let run = name.strip_suffix(".log")?.parse().ok()?;
                    // containerd makes files; what is read for a link or waited for at a pipe is no log.
                    file.symlink_metadata().is_ok_and(|m| m.is_file()).then_some((run, file))
                });
                let mut runs: Vec<_> = runs.collect();
                runs.sort();
                let from = runs.len().saturating_sub(2);
                runs.split_off(from)
            }
        }
    }

    /// The one that is written to.
    pub(super) fn current(&self) -> Option<(u64, PathBuf)> {
        self.files().pop()
    }
}

/// The end of a file, at `most` so many bytes that begin with a line, and how long the file is.
pub(super) fn end(mut file: &File, most: u64) -> io::Result<(Vec<u8>, u64)> {
    let length = file.metadata()?.len();
    let from = length.saturating_sub(most);
    file.seek(SeekFrom::Start(from))?;
    let mut text = Vec::new();
    file.take(length - from).read_to_end(&mut text)?;
    let begun = if from == 0 { 0 } else { text.iter().position(|b| *b == b'\n').map_or(text.len(), |at| at + 1) };
    text.drain(..begun);
    Ok((text, length))
}

fn within(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_a_containers_last_two_runs_and_what_there_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let places = Places { services: dir.path().join("log"), pods: dir.path().join("pods") };
        assert_eq!(places.find("etcd").expect_err("no directory").to_string(), "there is none yet");
        let write = |path: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("one")).expect("made");
            fs::write(path, "a\n").expect("written");
        };
        let apiserver = "pods/kube-system_kube-apiserver-a_uid/kube-apiserver";
        write("log/etcd/current");
        for name in ["2.log", "9.log", "10.log", "10.log.20261129-120000", "readme"] {
            write(&format!("{apiserver}/{name}"));
        }
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join(apiserver).join("11.log")).expect("linked");
        write("pods/default_own_uid/own/0.log");
        let files = |name: &str| {
            let files = places.find(name).expect("there is").files();
            files.into_iter().map(|(_, file)| file).collect::<Vec<_>>()
        };
        assert_eq!(files("etcd"), ["previous", "current"].map(|n| dir.path().join("log/etcd").join(n)));
        assert_eq!(files("kube-apiserver"), ["9.log", "10.log"].map(|n| dir.path().join(apiserver).join(n)));
        let e = places.find("own").expect_err("a user's").to_string();
        assert_eq!(e, "there is none; there are etcd, kube-apiserver");

        // A static pod that was described anew has another directory.
        let newer = "pods/kube-system_kube-apiserver-a_anew/kube-apiserver/0.log";
        write(newer);
        let file = File::options().append(true).open(dir.path().join(newer)).expect("opened");
        let written = file.metadata().and_then(|m| m.modified()).expect("a time");
        file.set_modified(written + std::time::Duration::from_secs(5)).expect("set");
        assert_eq!(files("kube-apiserver"), [dir.path().join(newer)]);
    }

    #[test]
    fn of_a_long_file_the_end_in_whole_lines() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("0.log");
        let line = format!("{}\n", "x".repeat(99));
        fs::write(&path, line.repeat(20)).expect("written");
        let read = |most| end(&File::open(&path).expect("opened"), most).expect("read");
        let (text, length) = read(1050);
        assert_eq!((text.len(), length), (1000, 2000));
        fs::write(&path, "x".repeat(2000)).expect("written");
        assert_eq!(read(1050), (Vec::new(), 2000), "no line begins there");
        fs::write(&path, "short\nunfin").expect("written");
        assert_eq!(read(END), (b"short\nunfin".to_vec(), 11));
        fs::write(&path, "").expect("written");
        assert_eq!(read(END), (Vec::new(), 0));
    }
}
