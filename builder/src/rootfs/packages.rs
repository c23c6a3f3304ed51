//! From the locked debs only the files a profile takes, and what those need: the closure of their ELF headers
//! (`DT_NEEDED`, the interpreter), and for links their targets.

use crate::profile::Take;
use crate::tree::{Kind, Node, Tree, merged};
use anyhow::{Context, Result, bail};
use contract::image::glob;
use contract::nearest::nearest;
use object::elf;
use object::read::elf::{Dyn, ElfFile64, FileHeader, ProgramHeader};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::Read;
use std::sync::Arc;

/// Where the dynamic linker looks (ld.so(8), Debian's multiarch path first).
const LIBRARY_DIRS: [&str; 3] = ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"];

/// The files of all locked packages, by merged path.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    files: BTreeMap<String, (usize, Node)>,
    names: Vec<String>,
}

impl Pool {
    /// Adds a package's `data.tar`. The first package that ships a path keeps it.
    pub(crate) fn add(&mut self, package: &str, tar: &[u8]) -> Result<()> {
        let owner = self.names.len();
        self.names.push(package.into());
        let mut archive = tar::Archive::new(tar);
        for entry in archive.entries().context("reading data.tar")? {
            let mut entry = entry.context("reading data.tar")?;
            let header = entry.header();
            let path = merged(&String::from_utf8_lossy(&entry.path_bytes()));
            let mode = u16::try_from(header.mode()? & 0o7777)?;
            let (uid, gid) = (u32::try_from(header.uid()?)?, u32::try_from(header.gid()?)?);
            let kind = match header.entry_type() {
                tar::EntryType::Directory => Kind::Dir,
                tar::EntryType::Symlink => {
                    let target = entry.link_name_bytes().context("a link without a target")?;
                    Kind::Link(String::from_utf8_lossy(&target).into_owned())
                }
                tar::EntryType::Link => {
                    // A hard link is a second name; the file came before it.
                    let target = merged(&String::from_utf8_lossy(&entry.link_name_bytes().context("a hard link")?));
                    match self.files.get(&target) {
                        Some((_, node)) => node.kind.clone(),
                        None => bail!("{path}: a hard link to {target}, which is not there"),
                    }
                }
                tar::EntryType::Regular => {
                    let mut bytes = Vec::with_capacity(usize::try_from(entry.size())?);
                    entry.read_to_end(&mut bytes)?;
                    Kind::File(Arc::new(bytes))
                }
                _ => continue,
            };
            if path != "/" {
                self.files.entry(path).or_insert((owner, Node { mode, uid, gid, xattrs: BTreeMap::new(), kind }));
            }
        }
        Ok(())
    }

    /// A file's bytes, links followed.
    pub(crate) fn file(&self, path: &str) -> Option<&Arc<Vec<u8>>> {
        let mut path = path.to_owned();
        for _ in 0..16 {
            match &self.files.get(&path)?.1.kind {
                Kind::File(bytes) => return Some(bytes),
                Kind::Link(target) => path = resolve(&path, target),
                Kind::Dir => return None,
            }
        }
        None
    }

    /// Paths that begin with a prefix.
    pub(crate) fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.files.range(prefix.to_owned()..).map(|(p, _)| p.as_str()).take_while(move |p| p.starts_with(prefix))
    }
}

fn resolve(link: &str, target: &str) -> String {
    if target.starts_with('/') {
        merged(target)
    } else {
        merged(&format!("{}/{target}", link.rsplit_once('/').map_or("", |(d, _)| d)))
    }
}

/// Takes what the profile names and what that needs into `tree`; returns how many files came from each package.
pub(crate) fn take(pool: &Pool, takes: &BTreeMap<String, Take>, tree: &mut Tree) -> Result<BTreeMap<String, usize>> {
    let mut queue: VecDeque<(String, String)> = VecDeque::new();
    for (package, take) in takes {
        for pattern in take.take.iter().chain(&take.dlopen) {
            let wanted = merged(pattern);
            let owner = pool.names.iter().position(|n| n == package);
            let found: Vec<_> = pool
                .files
                .iter()
                .filter(|(p, (o, _))| Some(*o) == owner && glob(wanted.as_bytes(), p.as_bytes()))
                .map(|(p, _)| p.clone())
                .collect();
            if found.is_empty() {
                let own = pool.files.iter().filter(|(_, (o, _))| Some(*o) == owner).map(|(p, _)| p.as_str());
                let hint = nearest(&wanted, own).map(|p| format!("; did you mean `{p}`?")).unwrap_or_default();
                bail!("packages.{package}: it has no file `{pattern}`{hint}");
            }
            queue.extend(found.into_iter().map(|p| (p, format!("packages.{package}"))));
        }
    }
    let mut seen = BTreeSet::new();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    while let Some((path, why)) = queue.pop_front() {
        if !seen.insert(path.clone()) {
            continue;
        }
        let (owner, node) =
            pool.files.get(&path).with_context(|| format!("{why} needs {path}, which no locked package has"))?;
        match &node.kind {
            Kind::Dir => {}
            Kind::Link(target) => queue.push_back((resolve(&path, target), path.clone())),
            Kind::File(bytes) => {
                for needed in elf_needs(bytes).with_context(|| format!("reading the ELF header of {path}"))? {
                    queue.push_back((library(pool, &needed, &path)?, path.clone()));
                }
            }
        }
        *counts.entry(pool.names[*owner].clone()).or_default() += 1;
        tree.put(&path, node.clone())?;
    }
    Ok(counts)
}

/// Where a needed library lies.
fn library(pool: &Pool, name: &str, why: &str) -> Result<String> {
    if name.starts_with('/') {
        return Ok(merged(name));
    }
    LIBRARY_DIRS
        .iter()
        .map(|d| format!("{d}/{name}"))
        .find(|p| pool.files.contains_key(p))
        .with_context(|| format!("{why} needs the library {name}, which no locked package has"))
}

/// Interpreter and needed libraries of an ELF file; nothing for other files.
pub(crate) fn elf_needs(bytes: &[u8]) -> Result<Vec<String>> {
    if !bytes.starts_with(b"\x7fELF\x02\x01") {
        return Ok(Vec::new());
    }
    let file = ElfFile64::<object::Endianness>::parse(bytes)?;
    let endian = file.endian();
    let mut needs = Vec::new();
    for segment in file.elf_header().program_headers(endian, bytes)? {
        if let Ok(Some(interpreter)) = segment.interpreter(endian, bytes) {
            needs.push(String::from_utf8_lossy(interpreter).into_owned());
        }
        let Ok(Some(dynamic)) = segment.dynamic(endian, bytes) else { continue };
        let strings = strings(&file, endian, dynamic, bytes)?;
        for entry in dynamic.iter().filter(|d| d.tag(endian) == elf::DT_NEEDED) {
            let offset = usize::try_from(entry.val(endian))?;
            let rest = strings.get(offset..).context("a name outside the string table")?;
            let end = rest.iter().position(|b| *b == 0).context("a name without an end")?;
            needs.push(String::from_utf8_lossy(&rest[..end]).into_owned());
        }
    }
    Ok(needs)
}

/// The dynamic string table: found by address, as the dynamic linker does (section headers may be stripped).
fn strings<'a>(
    file: &ElfFile64<'a, object::Endianness>,
    endian: object::Endianness,
    dynamic: &[elf::Dyn64<object::Endianness>],
    bytes: &'a [u8],
) -> Result<&'a [u8]> {
    let value = |tag| dynamic.iter().find(|d| d.tag(endian) == tag).map(|d| d.val(endian));
    let address = value(elf::DT_STRTAB).context("no string table")?;
    let size = value(elf::DT_STRSZ).context("no string table size")?;
    for segment in file.elf_header().program_headers(endian, bytes)? {
        if let Ok(Some(data)) = segment.data_range(endian, bytes, address, size) {
            return Ok(data);
        }
    }
    bail!("the string table is in no segment")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tar(files: &[(&str, &[u8])], links: &[(&str, &str)]) -> Vec<u8> {
        let mut b = tar::Builder::new(Vec::new());
        for (path, data) in files {
            let mut h = tar::Header::new_ustar();
            h.set_mode(0o755);
            h.set_uid(0);
            h.set_gid(0);
            h.set_size(data.len() as u64);
            b.append_data(&mut h, path, *data).expect("added");
        }
        for (path, target) in links {
            let mut h = tar::Header::new_ustar();
            h.set_entry_type(tar::EntryType::Symlink);
            h.set_mode(0o777);
            h.set_uid(0);
            h.set_gid(0);
            h.set_size(0);
            b.append_link(&mut h, path, target).expect("added");
        }
        b.into_inner().expect("a tar")
    }

    fn takes(package: &str, take: &[&str]) -> BTreeMap<String, Take> {
        let take = Take { take: take.iter().map(ToString::to_string).collect(), dlopen: vec![] };
        [(package.to_owned(), take)].into()
    }

    #[test]
    fn takes_links_with_their_targets_and_says_what_is_missing() {
        let mut pool = Pool::default();
        pool.add("p", &tar(&[("./usr/bin/tool-1", b"x"), ("./usr/share/doc", b"d")], &[("./bin/tool", "tool-1")]))
            .expect("added");
        let mut tree = Tree::default();
        let counts = take(&pool, &takes("p", &["/bin/tool"]), &mut tree).expect("taken");
        assert_eq!(counts["p"], 2);
        assert!(tree.get("/usr/bin/tool-1").is_some() && tree.get("/usr/share/doc").is_none());
        let e = take(&pool, &takes("p", &["/usr/bin/tol"]), &mut tree).expect_err("missing").to_string();
        assert!(e.contains("did you mean `/usr/bin/tool`?"), "{e}");
    }

    #[test]
    fn follows_elf_headers() {
        // The test's own program is an ELF file that needs libc.
        let own = std::fs::read(std::env::current_exe().expect("a path")).expect("read");
        let needs = elf_needs(&own).expect("an ELF file");
        assert!(needs.iter().any(|n| n == "libc.so.6"), "{needs:?}");
        assert!(needs.iter().any(|n| n.contains("/ld-linux")), "{needs:?}");
        let mut pool = Pool::default();
        pool.add("p", &tar(&[("usr/bin/x", &own)], &[])).expect("added");
        let e =
            take(&pool, &takes("p", &["/usr/bin/x"]), &mut Tree::default()).expect_err("libc is missing").to_string();
        assert!(e.contains("/usr/bin/x needs"), "{e}");
    }

    proptest! {
        #[test]
        fn damaged_elf_files_do_not_panic(at in 0_usize..4096, value in any::<u8>(), cut in 64_usize..4096) {
            let own = std::fs::read("/proc/self/exe").expect("read");
            let mut head = own[..own.len().min(4096)].to_vec();
            head[at] = value;
            head.truncate(cut);
            let _ = elf_needs(&head);
        }
    }
}
