//! How much room the state disk has left, said before there is none: etcd stops on a full disk, and the kubelet evicts pods
//! before that. The rule is pure; [`look`] asks the kernel.

use nix::sys::statvfs::statvfs;

/// Per cent of the disk, each told once on the way down. At the first the kubelet begins to evict pods
/// (`nodefs.available`, Kubernetes' "Node-pressure Eviction").
const SCARCE: [u64; 3] = [10, 5, 1];
/// With so many per cent again there is nothing to say any more.
const PLENTY: u64 = 15;
const MIB: u64 = 1 << 20;

/// What was said last: how many of [`SCARCE`].
#[derive(Debug, Default)]
pub(crate) struct Space {
    said: usize,
}

/// What there is to say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// For the console and the report.
    Scarce(String),
    /// It is over.
    Plenty(String),
}

impl Space {
    /// Takes what is free of all, in bytes.
    pub(crate) fn step(&mut self, free: u64, all: u64) -> Option<Said> {
        let percent = free.saturating_mul(100).checked_div(all)?;
        let below = SCARCE.iter().filter(|s| percent < **s).count();
        let room = format!("{} of {} MiB are free", free / MIB, all / MIB);
        if below > self.said {
            self.said = below;
            return Some(Said::Scarce(format!(
                "the state disk is nearly full: {room}; the kubelet evicts pods below {} %, and etcd stops without any; hint: a \
                 larger disk, or fewer and smaller pods here",
                SCARCE[0]
            )));
        }
        if self.said > 0 && percent >= PLENTY {
            self.said = 0;
            return Some(Said::Plenty(format!("the state disk has room again: {room}")));
        }
        None
    }
}

/// What a pod's or etcd's next byte would find, and the whole: bytes.
pub(crate) fn look(path: &str) -> Result<(u64, u64), String> {
    let s = statvfs(path).map_err(|e| format!("{path}: {e}"))?;
    let size = s.fragment_size();
    Ok((s.blocks_available().saturating_mul(size), s.blocks().saturating_mul(size)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_down_is_told_once_and_that_it_is_over() {
        let mut space = Space::default();
        let mut step = |free| space.step(free * MIB, 1000 * MIB);
        assert_eq!(step(120), None);
        assert!(
            matches!(step(99), Some(Said::Scarce(t)) if t.starts_with("the state disk is nearly full: 99 of 1000 MiB are free;"))
        );
        assert_eq!((step(99), step(101), step(60)), (None, None, None));
        assert!(matches!(step(4), Some(Said::Scarce(_))));
        assert_eq!((step(30), step(140)), (None, None));
        assert!(matches!(step(150), Some(Said::Plenty(_))));
        assert_eq!(step(150), None);
        assert!(matches!(step(99), Some(Said::Scarce(_))));
    }

    #[test]
    fn no_disk_is_nothing_to_speak_of() {
        assert_eq!(Space::default().step(0, 0), None);
        let (free, all) = look("/").expect("a file system");
        assert!(free <= all && all > 0);
    }
}
