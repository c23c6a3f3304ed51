//! An image is the same bytes wherever and however it is built; it is built without privileges and, once its inputs
//! are in the store, without a network; a package that vanished from the mirror is named, and replaced when asked.

use qemu_tests::cores::Turn;
use qemu_tests::{cache, checkout, program, read};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

/// `quorate image …` in a directory, with the checkout's profiles.
fn quorate(dir: &Path, arguments: &[&str]) -> Command {
    let mut c = Command::new(program("quorate"));
    c.current_dir(dir).arg("image").args(arguments).arg("--profiles").arg(checkout().join("profiles"));
    c
}

fn text(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

fn digests(dir: &Path) -> String {
    read(&dir.join("out/etcd/SHA256SUMS"))
}

#[test]
fn two_builds_are_byte_identical() {
    let _turn = Turn::both();
    let mut sums = Vec::new();
    for (i, (umask, zone, locale, threads)) in
        [(0o022, "UTC", "C", "1"), (0o077, "Asia/Tokyo", "de_DE.UTF-8", "4")].into_iter().enumerate()
    {
        let dir = tempfile::Builder::new().prefix(&"x".repeat(1 + 20 * i)).tempdir().expect("a directory");
        let mut c = quorate(dir.path(), &["build", "etcd", "--offline", "--locked"]);
        c.env("TZ", zone).env("LC_ALL", locale).env("LANG", locale).env("RAYON_NUM_THREADS", threads);
        set_umask(&mut c, umask);
        let out = c.output().expect("run");
        assert!(out.status.success(), "{}", text(&out));
        sums.push(digests(dir.path()));
    }
    assert_eq!(sums[0], sums[1]);
    assert_eq!(sums[0], read(&checkout().join("out/etcd/SHA256SUMS")), "and the one that `make` built");
}

/// The Go component, built again elsewhere with empty caches: the whole way, not the store's or the compiler's answer.
#[test]
fn a_component_is_byte_identical_from_another_directory() {
    let _turn = Turn::both();
    let dir = tempfile::tempdir().expect("a directory");
    let work = dir.path().join("another/place");
    // A store of its own that has the packages but nothing that was built.
    let store = work.join("cache/quorate");
    std::fs::create_dir_all(&store).expect("made");
    std::os::unix::fs::symlink(cache().join("quorate/sha256"), store.join("sha256")).expect("linked");
    let mut c = quorate(&work, &["build", "etcd", "--locked"]);
    c.env("XDG_CACHE_HOME", work.join("cache")).env("GOTMPDIR", &work).env("GOCACHE", work.join("go-build"));
    let out = c.output().expect("run");
    assert!(out.status.success(), "{}", text(&out));
    assert!(text(&out).contains("building etcd"), "{}", text(&out));
    let built = |dir: &Path| -> serde_json::Value {
        let manifest: serde_json::Value =
            serde_json::from_str(&read(&dir.join("out/etcd/manifest.json"))).expect("json");
        manifest["components"][0]["binaries"].clone()
    };
    let own = built(&work);
    assert!(own["etcd"].is_string());
    assert_eq!(own, built(&checkout()));
}

/// As nobody, with the system calls denied that containers and chroots are made of; the PATH leads to `go` alone.
#[test]
fn builds_without_privileges() {
    let _turn = Turn::both();
    if !nix::unistd::geteuid().is_root() {
        return qemu_tests::missing("root, to become nobody");
    }
    let dir = tempfile::tempdir_in("/tmp").expect("a directory");
    let nobody = 65534;
    std::os::unix::fs::chown(dir.path(), Some(nobody), Some(nobody)).expect("given");
    // What nobody may read: the programs, the profiles, the store.
    let own = |name: &str| dir.path().join(name);
    for (from, to) in [(cache().join("quorate"), own("cache/quorate")), (checkout().join("profiles"), own("profiles"))]
    {
        std::fs::create_dir_all(to.parent().expect("a parent")).expect("made");
        let out = Command::new("cp").arg("-r").arg(from).arg(&to).output().expect("cp");
        assert!(out.status.success(), "{}", text(&out));
    }
    for name in ["quorate", "quorate-init", "quorate-agent"] {
        std::fs::copy(program(name), own(name)).expect("copied");
    }
    let out = Command::new("chown").args(["-R", "nobody:nogroup"]).arg(dir.path()).output().expect("chown");
    assert!(out.status.success(), "{}", text(&out));
    let go = Command::new("go").args(["env", "GOROOT"]).output().expect("go");
    let go = format!("{}/bin", String::from_utf8_lossy(&go.stdout).trim());
    // Of `go` only its version is asked here: the component itself comes from the store, and is compiled by the test above.
    let mut c = Command::new(own("quorate"));
    c.current_dir(dir.path()).args(["image", "build", "etcd", "--offline", "--profiles"]).arg(own("profiles"));
    c.env_clear().env("PATH", go).env("HOME", dir.path()).env("XDG_CACHE_HOME", own("cache"));
    c.uid(nobody).gid(nobody);
    deny(&mut c);
    let out = c.output().expect("run");
    assert!(out.status.success(), "{}", text(&out));
    assert_eq!(read(&own("out/etcd/SHA256SUMS")), read(&checkout().join("out/etcd/SHA256SUMS")));
    // The filter does what it says.
    let mut c = Command::new("/usr/bin/unshare");
    c.args(["--user", "true"]);
    deny(&mut c);
    assert!(!c.output().expect("run").status.success());
}

#[test]
fn offline_needs_no_socket_and_says_what_is_missing() {
    let _turn = Turn::both();
    let dir = tempfile::tempdir().expect("a directory");
    let mut c = quorate(dir.path(), &["build", "etcd", "--offline"]);
    c.env("XDG_CACHE_HOME", dir.path());
    let out = c.output().expect("run");
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out).contains("is not in the store, and --offline forbids fetching it"), "{}", text(&out));
    assert!(!dir.path().join("out").exists(), "nothing half-written");
}

/// A mirror that has the indices as they are now, but not one package of the lock.
#[test]
fn a_vanished_package_is_named_and_replaced() {
    let _turn = Turn::both();
    let dir = tempfile::tempdir().expect("a directory");
    let profiles = dir.path().join("profiles");
    let out = Command::new("cp").arg("-r").arg(checkout().join("profiles")).arg(&profiles).output().expect("cp");
    assert!(out.status.success());
    // The lock names a version that no mirror has: as after weeks.
    let lock = profiles.join("etcd.lock");
    let stale: String = {
        let text = read(&lock);
        let at = text.find("name = \"chrony\"").expect("chrony");
        let (before, entry) = text.split_at(at);
        let (entry, after) = entry.split_at(entry.find("\n\n").unwrap_or(entry.len()));
        let entry: String = entry
            .lines()
            .map(|l| match l.split_once(" = ") {
                Some(("version", _)) => "version = \"4.0-1\"\n".into(),
                Some(("path", _)) => "path = \"pool/main/c/chrony/chrony_4.0-1_amd64.deb\"\n".into(),
                Some(("sha256", _)) => format!("sha256 = \"{}\"\n", "0".repeat(64)),
                _ => format!("{l}\n"),
            })
            .collect();
        format!("{before}{}{after}", entry.trim_end())
    };
    std::fs::write(&lock, &stale).expect("written");
    let run = |extra: &[&str]| {
        let mut c = Command::new(program("quorate"));
        c.current_dir(dir.path()).args(["image", "build", "etcd", "--profiles"]).arg(&profiles).args(extra);
        c.output().expect("run")
    };
    for extra in [&[][..], &["--locked"]] {
        let out = run(extra);
        assert_eq!(out.status.code(), Some(1));
        let said = text(&out);
        assert!(said.contains("chrony 4.0-1 is gone from the mirrors; there is 4."), "{said}");
        assert!(said.contains("hint: run `quorate image lock etcd --update chrony`"), "{said}");
        assert_eq!(read(&lock), stale, "the lock is left alone");
    }
    let out = run(&["--update-vanished"]);
    assert!(out.status.success(), "{}", text(&out));
    assert!(text(&out).contains("~ chrony 4.0-1 -> 4."), "{}", text(&out));
    let changed = read(&lock);
    assert!(changed != stale && !changed.contains("4.0-1\""), "the lock is left changed");
    // Only that entry, and what it needs, is another one.
    let kernel = |t: &str| t.lines().find(|l| l.contains("linux-image-6")).map(String::from);
    assert_eq!(kernel(&changed), kernel(&stale));
}

/// A mirror that lies is refused, and nothing is written.
#[test]
fn a_tampered_index_is_refused() {
    let _turn = Turn::both();
    let dir = tempfile::tempdir().expect("a directory");
    let profiles = dir.path().join("profiles");
    assert!(
        Command::new("cp").arg("-r").arg(checkout().join("profiles")).arg(&profiles).status().expect("cp").success()
    );
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = server.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in server.incoming().flatten() {
            let mut stream = stream;
            let mut line = String::new();
            let _ = BufReader::new(&stream).read_line(&mut line);
            let body = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nSuite: trixie\n-----BEGIN PGP SIGNATURE-----\n\nxxxx\n-----END PGP SIGNATURE-----\n";
            let _ =
                write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        }
    });
    let config = dir.path().join("config/quorate");
    std::fs::create_dir_all(&config).expect("made");
    let mirrors = format!(
        "[mirrors]\ndebian = \"http://127.0.0.1:{port}/debian\"\ndebian-security = \"http://127.0.0.1:{port}/debian-security\"\n"
    );
    std::fs::write(config.join("mirrors.toml"), mirrors).expect("written");
    let before = read(&profiles.join("etcd.lock"));
    let mut c = Command::new(program("quorate"));
    c.args(["image", "lock", "etcd", "--profiles"]).arg(&profiles).env("XDG_CONFIG_HOME", dir.path().join("config"));
    let out = c.output().expect("run");
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out).contains("archive debian, suite trixie"), "{}", text(&out));
    assert_eq!(read(&profiles.join("etcd.lock")), before);
}

#[expect(unsafe_code, reason = "umask between fork and exec")]
fn set_umask(c: &mut Command, mask: u32) {
    // SAFETY: umask(2) is async-signal-safe.
    unsafe {
        c.pre_exec(move || {
            libc::umask(mask);
            Ok(())
        });
    }
}

/// Denies mounting, changing the root, namespaces.
#[expect(unsafe_code, reason = "a seccomp filter between fork and exec")]
fn deny(c: &mut Command) {
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    };
    let always: [i64; 9] = [
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_chroot,
        libc::SYS_pivot_root,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_fsopen,
        libc::SYS_open_tree,
        libc::SYS_move_mount,
    ];
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = always.into_iter().map(|n| (n, vec![])).collect();
    let new_user = u64::try_from(libc::CLONE_NEWUSER).expect("a flag");
    let condition = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(new_user), new_user);
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![condition.expect("a condition")]).expect("a rule")]);
    let arch = std::env::consts::ARCH.try_into().expect("an architecture");
    let eperm = SeccompAction::Errno(u32::try_from(libc::EPERM).expect("a number"));
    let filter: BpfProgram =
        SeccompFilter::new(rules, SeccompAction::Allow, eperm, arch).expect("a filter").try_into().expect("a program");
    // clone3 has its flags in memory, where no filter sees them: as on an old kernel it is not there, and callers fall
    // back to clone.
    let enosys = SeccompAction::Errno(u32::try_from(libc::ENOSYS).expect("a number"));
    let clone3: BpfProgram =
        SeccompFilter::new([(libc::SYS_clone3, vec![])].into(), SeccompAction::Allow, enosys, arch)
            .expect("a filter")
            .try_into()
            .expect("a program");
    // SAFETY: the filters were made before; installing them is a few system calls.
    unsafe {
        c.pre_exec(move || {
            let install = |f: &BpfProgram| seccompiler::apply_filter(f).map_err(std::io::Error::other);
            install(&filter).and_then(|()| install(&clone3))
        });
    }
}
