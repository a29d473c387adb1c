//! The images that `cargo xtask image --debug` makes: what is in them, and that they work without anything
//! else.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use roost_programs::{CHROOT, SHA256SUM, TAR, UNSHARE};
use roost_tests::lab::{
    ChatServer, Clients, Config, Family, Lab, REPLICA_PORT, Roost, VIP_PORT, run,
};
use serde_json::Value;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(30);

/// An image, unpacked.
struct Image {
    directory: TempDir,
    index: Value,
    manifest: Value,
    config: Value,
}

impl Image {
    fn open(program: &str) -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let name = format!("target/image/debug/{program}-{}.tar", env!("CARGO_PKG_VERSION"));
        let archive = root.join(&name);
        ensure!(archive.exists(), "{name} is missing: cargo xtask image --debug");
        let directory = TempDir::with_prefix("roost-image-")?;
        let into = directory.path().join("layout");
        unpack(&archive, &into)?;
        let read = |path: PathBuf| -> Result<Value> {
            let text = fs::read(&path).with_context(|| format!("{}", path.display()))?;
            Ok(serde_json::from_slice(&text)?)
        };
        let index = read(into.join("index.json"))?;
        let manifest = read(into.join(blob(&index["manifests"][0])?))?;
        let config = read(into.join(blob(&manifest["config"])?))?;
        Ok(Self { directory, index, manifest, config })
    }

    fn layout(&self) -> PathBuf {
        self.directory.path().join("layout")
    }

    /// The root file system that a container gets.
    fn root(&self) -> Result<PathBuf> {
        let root = self.directory.path().join("root");
        let layers = self.manifest["layers"].as_array().context("no layers")?;
        for layer in layers {
            unpack(&self.layout().join(blob(layer)?), &root)?;
        }
        Ok(root)
    }
}

fn unpack(archive: &Path, into: &Path) -> Result<()> {
    fs::create_dir_all(into)?;
    let [archive, into] = [archive, into].map(|path| path.to_str().context("not UTF-8"));
    run(TAR, &["--extract", "--file", archive?, "--directory", into?]).map(drop)
}

/// Where the blob of a descriptor is.
fn blob(descriptor: &Value) -> Result<String> {
    let digest = descriptor["digest"].as_str().context("no digest")?;
    Ok(format!("blobs/{}", digest.replace(':', "/")))
}

fn files(root: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(root)? {
        let path = entry?.path();
        if path.is_dir() { files(&path, found)? } else { found.push(path) }
    }
    Ok(())
}

#[test]
fn an_image_is_one_program_with_its_name() -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    for program in ["roost", "roost-chat"] {
        let image = Image::open(program)?;
        let reference = format!("localhost/{program}:{version}");
        let annotations = &image.index["manifests"][0]["annotations"];
        assert_eq!(annotations["io.containerd.image.name"], reference);
        assert_eq!(annotations["org.opencontainers.image.ref.name"], reference);
        // Docker's way to say the same.
        let docker = fs::read(image.layout().join("manifest.json"))?;
        let docker: Value = serde_json::from_slice(&docker)?;
        assert_eq!(docker[0]["RepoTags"][0], reference);
        assert_eq!(docker[0]["Config"], blob(&image.manifest["config"])?);
        assert_eq!(docker[0]["Layers"][0], blob(&image.manifest["layers"][0])?);
        // Every blob is what it is called, and none is there that nobody refers to.
        let mut blobs = Vec::new();
        files(&image.layout().join("blobs"), &mut blobs)?;
        assert_eq!(blobs.len(), 3);
        for blob in blobs {
            let sum = run(SHA256SUM, &[blob.to_str().context("not UTF-8")?])?;
            let name = blob.file_name().context("no name")?.to_string_lossy().into_owned();
            assert_eq!(sum.split_whitespace().next(), Some(name.as_str()));
        }
        let config = &image.config["config"];
        assert_eq!(config["Entrypoint"][0], format!("/usr/bin/{program}"));
        assert_eq!(config["Env"][0], "PATH=/usr/bin");
        assert_eq!(image.config["created"], "1970-01-01T00:00:00Z");
        assert_eq!(image.config["os"], "linux");
        let root = image.root()?;
        let mut found = Vec::new();
        files(&root, &mut found)?;
        assert_eq!(found, [root.join("usr/bin").join(program)]);
    }
    Ok(())
}

#[test]
fn nothing_in_the_programs_is_of_this_machine() -> Result<()> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no parent")?;
    let mut paths = vec![workspace.to_str().context("not UTF-8")?.to_owned()];
    for variable in ["CARGO_HOME", "RUSTUP_HOME", "HOME"] {
        // `/` and the like would be found anywhere.
        let path = std::env::var(variable).ok().filter(|path| path.len() > 4);
        paths.extend(path.map(|path| format!("{path}/")));
    }
    // Where compilers have the sources of the standard library; `/usr/src/rustc-` is Debian's.
    paths.extend(["/lib/rustlib/src/".to_owned(), "/usr/src/rustc-".to_owned()]);
    for program in ["roost", "roost-chat"] {
        let image = Image::open(program)?;
        let bytes = fs::read(image.root()?.join("usr/bin").join(program))?;
        for path in &paths {
            let at = bytes.windows(path.len()).position(|window| window == path.as_bytes());
            if let Some(at) = at {
                let end = bytes.len().min(at + 100);
                let found = String::from_utf8_lossy(&bytes[at..end]);
                panic!("{program} has a path of the machine that built it: {found}");
            }
        }
    }
    Ok(())
}

#[test]
fn the_programs_run_with_nothing_around_them() -> Result<()> {
    for program in ["roost", "roost-chat"] {
        let image = Image::open(program)?;
        let root = image.root()?;
        let output = CHROOT
            .command()?
            .arg(&root)
            .args([&format!("/usr/bin/{program}"), "--version"])
            .env_clear()
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(said.trim(), format!("{program} {}", env!("CARGO_PKG_VERSION")));
    }
    Ok(())
}

/// As a runtime does it: the image as the root, read-only, with what the DaemonSet mounts.
const CONTAINER: &str = r#"
# The third word is the program that the lab would run by itself.
root=$0 files=$1; shift 2
mount --bind "$root" "$root"
for directory in /proc /sys /sys/fs/bpf /run/roost "$files"; do
    mkdir -p "$root$directory"
    mount --bind "$directory" "$root$directory"
done
mount -o remount,bind,ro "$root"
exec chroot "$root" /usr/bin/roost "$@"
"#;

#[test]
fn the_image_routes_chats_with_what_the_daemon_set_mounts() -> Result<()> {
    let image = Image::open("roost")?;
    let root = image.root()?;
    let lab = Lab::builder("image").replicas(2).build()?;
    let _servers = ChatServer::start_all(&lab, REPLICA_PORT)?;
    // The lock's directory is the kubelet's to make.
    fs::create_dir_all("/run/roost")?;
    let wrapper = ["--mount", "--propagation", "private", "sh", "-ec", CONTAINER];
    let [root, files] = [root.as_path(), lab.dir()].map(|path| path.to_str().context("not UTF-8"));
    let words: Vec<&str> = wrapper.into_iter().chain([root?, files?]).collect();
    let mut roost = Roost::start_under(&lab, &Config::new(&lab).to_string(), UNSHARE, &words)?;
    let clients = Clients::new(&lab.client)?;
    for family in Family::BOTH {
        let vip = (lab.vip(family), VIP_PORT).into();
        let one = clients.tab(vip, "image")?;
        let two = clients.tab(vip, "image")?;
        ensure!(one.replica() == two.replica(), "{} and {}", one.replica(), two.replica());
    }
    let status = roost.json(&["status"])?;
    ensure!(status["daemon_pid"].is_u64(), "{status}");
    roost.process().terminate(LIMIT)?;
    let removed = roost.json(&["detach"])?;
    ensure!(removed["removed"].as_array().is_some_and(|list| !list.is_empty()), "{removed}");
    Ok(())
}
