//! The disk that all of the peer's machines begin with: Debian with systemd, as `mmdebstrap` makes it of the suite that our
//! images are made of; containerd, Kubernetes, etcd and CoreDNS out of our own image, the very files; kubeadm of the same
//! version; and in containerd's store the images that kubeadm asks for, made of those files.

use anyhow::{Context, Result, bail, ensure};
use qemu_tests::{checkout, image_of, initrd_facts};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What a machine of the guide has, and Debian's own initramfs.
const PACKAGES: &str = "systemd-sysv,dbus,udev,kmod,iproute2,iptables,nftables,conntrack,ethtool,socat,curl,haproxy,keepalived,crun,\
    ca-certificates,linux-image-cloud-amd64,mount,procps";
const SUITE: &str = "trixie";
/// Bytes; sparse.
const SIZE: &str = "6G";
/// Out of our image's root, and where they go.
const PROGRAMS: [&str; 5] = ["containerd", "containerd-shim-runc-v2", "kubernetes", "etcd", "coredns"];
const SERVERS: [&str; 5] = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet"];
/// containerd on this machine is there within seconds.
const SOON: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);

/// What machines are booted from.
#[derive(Debug)]
pub(crate) struct Base {
    /// Debian's kernel.
    pub(crate) kernel: PathBuf,
    /// Its initramfs.
    pub(crate) initrd: PathBuf,
    /// The root, ext4.
    pub(crate) root: PathBuf,
}

/// Makes it, or takes the one that was made of the same.
pub(crate) fn base() -> Result<Base> {
    let dir = checkout().join("out/test/kubeadm");
    let base = Base { kernel: dir.join("vmlinuz"), initrd: dir.join("initrd.img"), root: dir.join("root.ext4") };
    let key = key()?;
    if std::fs::read_to_string(dir.join("made-of")).is_ok_and(|k| k == key) {
        return Ok(base);
    }
    ensure!(nix::unistd::geteuid().is_root(), "the peer's disk is made by root: mmdebstrap, and containerd's store");
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir)?;
    let work = tempfile::tempdir_in(&dir)?;
    let tree = work.path().join("tree");
    debian(&tree)?;
    programs(&tree, work.path())?;
    boot_files(&tree, &base)?;
    images(&tree, work.path())?;
    println!("the disk ...");
    done(Command::new("mkfs.ext4").args(["-q", "-F", "-d"]).arg(&tree).arg(&base.root).arg(SIZE))?;
    std::fs::write(dir.join("made-of"), key)?;
    Ok(base)
}

/// A digest of what it is made of.
fn key() -> Result<String> {
    let mut hash = Sha256::new();
    // Which programs our image has; what starts them may change.
    hash.update(std::fs::read(checkout().join("profiles/master-etcd.lock"))?);
    hash.update(PACKAGES);
    hash.update(include_str!("disk.rs"));
    for entry in walk(&overlay())? {
        hash.update(std::fs::read(entry)?);
    }
    Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

fn overlay() -> PathBuf {
    checkout().join("qemu-tests/kubeadm/root")
}

fn walk(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut entries = std::fs::read_dir(dir)?.map(|e| Ok(e?.path())).collect::<Result<Vec<_>>>()?;
    entries.sort();
    let mut files = Vec::new();
    for path in entries {
        if path.is_dir() { files.extend(walk(&path)?) } else { files.push(path) }
    }
    Ok(files)
}

fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().display().to_string();
    let hint = match &*name {
        "mmdebstrap" => "; hint: apt-get install mmdebstrap",
        "unsquashfs" => "; hint: apt-get install squashfs-tools",
        "mkfs.ext4" => "; hint: apt-get install e2fsprogs",
        "systemctl" => "; hint: apt-get install systemd",
        _ => "",
    };
    let out = command.stdin(Stdio::null()).output().with_context(|| format!("running {name}{hint}"))?;
    ensure!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr).trim());
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

fn done(command: &mut Command) -> Result<()> {
    output(command).map(|_| ())
}

/// From the mirror that this machine's own apt uses.
fn debian(tree: &Path) -> Result<()> {
    println!("Debian ...");
    let asks = ["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian", "Component: main"];
    let mirrors = output(Command::new("apt-get").args(asks))?;
    let mirror = mirrors.lines().find(|m| !m.contains("security")).context("no archive of Debian in apt's settings")?;
    let source = format!("deb {mirror} {SUITE} main");
    let include = format!("--include={PACKAGES}");
    done(Command::new("mmdebstrap").args(["--variant=minbase", &include, SUITE]).arg(tree).arg(source))?;
    done(Command::new("cp").arg("-rT").arg(overlay()).arg(tree))?;
    let systemctl =
        |words: &[&str]| done(Command::new("systemctl").arg(format!("--root={}", tree.display())).args(words));
    // Debian enables what it installs; only two of the machines are load balancers.
    systemctl(&["disable", "haproxy.service", "keepalived.service"])?;
    let ours = ["containerd.service", "kubelet.service", "peer.service"];
    let network = ["systemd-networkd.service", "systemd-network-generator.service"];
    systemctl(&[&["enable"], &ours[..], &network[..]].concat())?;
    std::fs::write(tree.join("etc/hosts"), "127.0.0.1 localhost\n")?;
    std::fs::write(tree.join("etc/resolv.conf"), "nameserver 10.77.0.3\n")?;
    // Each machine is another one.
    std::fs::write(tree.join("etc/machine-id"), "")?;
    Ok(())
}

/// Our image's programs, and kubeadm.
fn programs(tree: &Path, work: &Path) -> Result<()> {
    println!("programs ...");
    let initrd = std::fs::read(image_of("master-etcd").join("initrd"))?;
    let (_, root) = initrd_facts(&initrd)?;
    let (file, out) = (work.join("root.img"), work.join("ours"));
    std::fs::write(&file, &initrd[root])?;
    done(Command::new("unsquashfs").args(["-q", "-n", "-d"]).arg(&out).arg(&file).args([
        "usr/bin",
        "usr/libexec/cni",
        "usr/lib/quorate/init",
    ]))?;
    // A program that waits, under that name.
    std::fs::copy(out.join("usr/lib/quorate/init"), tree.join("pause"))?;
    std::fs::create_dir_all(tree.join("opt/cni/bin"))?;
    done(Command::new("cp").arg("-r").arg(out.join("usr/libexec/cni/.")).arg(tree.join("opt/cni/bin")))?;
    for name in PROGRAMS {
        std::fs::copy(out.join("usr/bin").join(name), tree.join("usr/bin").join(name)).context(name)?;
    }
    for name in SERVERS {
        std::os::unix::fs::symlink("kubernetes", tree.join("usr/bin").join(name))?;
    }
    // kubeadm's manifests call it so.
    std::os::unix::fs::symlink("/usr/bin/kube-proxy", tree.join("usr/local/bin/kube-proxy"))?;
    kubeadm(work, &tree.join("usr/bin/kubeadm"))
}

/// Builds it in the module that our Kubernetes is built in.
fn kubeadm(work: &Path, to: &Path) -> Result<()> {
    println!("kubeadm ...");
    let module = work.join("kubeadm");
    std::fs::create_dir_all(&module)?;
    for name in ["go.mod", "go.sum"] {
        std::fs::copy(checkout().join("profiles/components/kubernetes").join(name), module.join(name))?;
    }
    let package = "k8s.io/kubernetes/cmd/kubeadm";
    done(Command::new("go").current_dir(&module).args(["get", "-tool", package]))?;
    let version = super::node::version();
    let mut parts = version.split('.');
    let (major, minor) = parts.next().zip(parts.next()).context("Kubernetes' version")?;
    let of = "-X k8s.io/component-base/version";
    let stamps = format!("-s -w {of}.gitVersion=v{version} {of}.gitMajor={major} {of}.gitMinor={minor}");
    let build = ["build", "-trimpath", "-ldflags", &stamps, "-o"];
    done(Command::new("go").current_dir(&module).env("CGO_ENABLED", "0").args(build).arg(to).arg(package))
}

fn boot_files(tree: &Path, base: &Base) -> Result<()> {
    let boot = |prefix: &str| -> Result<PathBuf> {
        let found = walk(&tree.join("boot"))?;
        let is = |p: &&PathBuf| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix));
        found.iter().find(is).cloned().with_context(|| format!("Debian's kernel package has no {prefix}*"))
    };
    std::fs::copy(boot("vmlinuz-")?, &base.kernel)?;
    std::fs::copy(boot("initrd.img-")?, &base.initrd)?;
    Ok(())
}

/// The images that kubeadm asks for, in containerd's store: one layer, which is the tree, under each of their names.
fn images(tree: &Path, work: &Path) -> Result<()> {
    println!("images ...");
    let names = output(Command::new(tree.join("usr/bin/kubeadm")).args([
        "config",
        "images",
        "list",
        "--kubernetes-version",
        &super::node::version(),
    ]))?;
    // containerd makes sandboxes of the one that kubeadm asks for.
    let pause = names.lines().find(|n| n.contains("/pause:")).context("kubeadm asks for no pause")?;
    let config = tree.join("etc/containerd/config.toml");
    std::fs::write(&config, std::fs::read_to_string(&config)?.replace("${PAUSE}", pause))?;
    let archive = work.join("archive");
    std::fs::create_dir_all(archive.join("blobs/sha256"))?;
    let layer = work.join("layer.tar");
    done(
        Command::new("tar")
            .arg("-C")
            .arg(tree)
            .args(["--exclude=./boot", "--exclude=./lib/modules", "--exclude=./usr/lib/modules", "-cf"])
            .arg(&layer)
            .arg("."),
    )?;
    let layer_digest = file_digest(&layer)?;
    let size = std::fs::metadata(&layer)?.len();
    std::fs::rename(&layer, archive.join("blobs/sha256").join(&layer_digest))?;
    let mut manifests = Vec::new();
    for name in names.lines() {
        let entry = match name {
            n if n.contains("/coredns:") => json!(["/usr/bin/coredns"]),
            n if n.contains("/pause:") => json!(["/pause"]),
            _ => json!([]),
        };
        let config = json!({
            "os": "linux", "architecture": "amd64", "config": { "Entrypoint": entry, "Env": ["PATH=/usr/local/bin:/usr/sbin:/usr/bin"] },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer_digest}")] },
        });
        let layers = json!([{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "size": size, "digest": format!("sha256:{layer_digest}") }]);
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": blob(&archive, "application/vnd.oci.image.config.v1+json", &config)?, "layers": layers,
        });
        let mut listed = blob(&archive, "application/vnd.oci.image.manifest.v1+json", &manifest)?;
        listed["annotations"] = json!({ "io.containerd.image.name": name });
        manifests.push(listed);
    }
    std::fs::write(archive.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    std::fs::write(archive.join("index.json"), json!({ "schemaVersion": 2, "manifests": manifests }).to_string())?;
    let into = work.join("import");
    std::fs::create_dir_all(&into)?;
    done(Command::new("tar").arg("-C").arg(&archive).arg("-cf").arg(into.join("kubeadm.tar")).arg("."))?;
    import(tree, work, &into)
}

fn blob(archive: &Path, kind: &str, value: &Value) -> Result<Value> {
    let text = value.to_string();
    let digest: String = Sha256::digest(&text).iter().map(|b| format!("{b:02x}")).collect();
    std::fs::write(archive.join("blobs/sha256").join(&digest), &text)?;
    Ok(json!({ "mediaType": kind, "size": text.len(), "digest": format!("sha256:{digest}") }))
}

fn file_digest(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    let mut file = std::fs::File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match std::io::Read::read(&mut file, &mut buffer)? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

/// Ends with its value.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// By a containerd of this machine, whose store is the tree's.
fn import(tree: &Path, work: &Path, archives: &Path) -> Result<()> {
    let (socket, config) = (work.join("containerd.sock"), work.join("containerd.toml"));
    let path = |p: &Path| p.display().to_string();
    let text = format!(
        "version = 4\nroot = '{}'\nstate = '{}'\ndisabled_plugins = ['io.containerd.nri.v1.nri']\n\
         [plugins.'io.containerd.server.v1.grpc']\naddress = '{}'\n[plugins.'io.containerd.server.v1.ttrpc']\naddress = '{}.ttrpc'\n",
        path(&tree.join("var/lib/containerd")),
        path(&work.join("state")),
        path(&socket),
        path(&socket)
    );
    std::fs::write(&config, text)?;
    let log = work.join("containerd.log");
    let mut command = Command::new(tree.join("usr/bin/containerd"));
    command
        .arg("--config")
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log)?);
    lab::vm::die_with_parent(&mut command);
    let mut running = Ends(command.spawn()?);
    let deadline = Instant::now() + SOON;
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        if Instant::now() > deadline || running.0.try_wait()?.is_some() {
            bail!("containerd on this machine: {}", qemu_tests::read(&log));
        }
        std::thread::sleep(LOOK);
    }
    let client = work.join("cri-import");
    std::os::unix::fs::symlink(tree.join("usr/bin/containerd"), &client)?;
    let said = output(Command::new(client).arg(&socket).arg(archives))?;
    println!("{}", said.trim());
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(running.0.id())?),
        nix::sys::signal::Signal::SIGTERM,
    )?;
    running.0.wait()?;
    Ok(())
}
