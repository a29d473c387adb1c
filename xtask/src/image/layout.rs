//! One image: its root file system, made a layer by umoci, in an archive that is both OCI's and Docker's.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use roost_programs::{DATE, TAR, UMOCI};
use serde_json::{Value, json};

use super::empty;
use crate::process::{self, run_quietly};

/// The tag inside of the layout, while umoci works on it.
const TAG: &str = "image";

/// What an image is made of.
pub struct Image {
    /// Its name and tag.
    pub reference: String,
    /// The program's name, also in the image: /usr/bin/TITLE.
    pub title: &'static str,
    /// The program.
    pub binary: PathBuf,
    /// Seconds since 1970.
    pub created: u64,
}

/// What was built.
pub struct Built {
    /// Of the manifest: what the image is known by.
    pub digest: String,
    /// Of the archive, in bytes.
    pub size: u64,
}

impl Image {
    /// Writes the archive; `work` is a directory to work in.
    pub fn write(&self, archive: &Path, work: &Path) -> Result<Built> {
        empty(work)?;
        let root = self.root(&work.join("root"))?;
        let layout = work.join("layout");
        self.layout(&root, &layout)?;
        let digest = self.name(&layout)?;
        if let Some(parent) = archive.parent() {
            fs::create_dir_all(parent)?;
        }
        let partial = archive.with_extension("partial");
        self.tar(&partial, &layout, &["blobs", "index.json", "manifest.json", "oci-layout"])?;
        fs::rename(&partial, archive).with_context(|| format!("naming {}", archive.display()))?;
        let size = fs::metadata(archive)?.len();
        fs::remove_dir_all(work).with_context(|| format!("removing {}", work.display()))?;
        Ok(Built { digest, size })
    }

    /// Files of a directory in one order, all of one date and nobody's: the same bytes each time.
    fn tar(&self, archive: &Path, directory: &Path, files: &[&str]) -> Result<()> {
        let mut tar = TAR.command()?;
        tar.args(["--create", "--file"]).arg(archive);
        tar.arg("--sort=name").arg(format!("--mtime=@{}", self.created));
        tar.args(["--owner=0", "--group=0", "--numeric-owner", "--mode=u+w,go=rX"]);
        tar.args(["--format=ustar", "--directory"]);
        run_quietly(tar.arg(directory).args(files))
    }

    /// The root file system: one program.
    fn root(&self, root: &Path) -> Result<PathBuf> {
        let bin = root.join("usr/bin");
        fs::create_dir_all(&bin)?;
        let program = bin.join(self.title);
        fs::copy(&self.binary, &program)
            .with_context(|| format!("copying {}", self.binary.display()))?;
        for path in [&program, &bin, &root.join("usr")] {
            // Whatever this user's umask is.
            fs::set_permissions(path, Permissions::from_mode(0o755))?;
        }
        Ok(root.to_path_buf())
    }

    /// The OCI layout of the root file system.
    fn layout(&self, root: &Path, layout: &Path) -> Result<()> {
        let umoci = |list: &[OsString]| run_quietly(UMOCI.command()?.args(list));
        let image = OsString::from(format!("{}:{TAG}", layout.display()));
        umoci(&["init".into(), "--layout".into(), layout.into()])?;
        umoci(&["new".into(), "--image".into(), (&image).into()])?;
        // Made by tar: `umoci insert` leaves the end of the archive out.
        let layer = root.with_extension("tar");
        self.tar(&layer, root, &["usr"])?;
        let mut add = vec!["raw".into(), "add-layer".into(), "--no-history".into()];
        add.extend(["--image".into(), image.clone(), layer.into()]);
        umoci(&add)?;
        let date = date(self.created)?;
        let mut config = vec!["config".into(), "--no-history".into(), "--image".into(), image];
        for (flag, value) in [
            ("--config.entrypoint", format!("/usr/bin/{}", self.title)),
            ("--config.env", "PATH=/usr/bin".to_owned()),
            ("--config.label", format!("org.opencontainers.image.title={}", self.title)),
            (
                "--config.label",
                concat!("org.opencontainers.image.version=", env!("CARGO_PKG_VERSION")).to_owned(),
            ),
            ("--config.label", "org.opencontainers.image.licenses=MIT OR Apache-2.0".to_owned()),
            ("--created", date),
        ] {
            config.push(format!("{flag}={value}").into());
        }
        umoci(&config)?;
        umoci(&["gc".into(), "--layout".into(), layout.into()])
    }

    /// Gives the only image of the layout its name, in the ways of all who read such archives: OCI's
    /// annotation, containerd's, and Docker's manifest.json. Returns its digest.
    fn name(&self, layout: &Path) -> Result<String> {
        let index = layout.join("index.json");
        let read = read(&index)?;
        let tagged = |m: &&Value| m["annotations"]["org.opencontainers.image.ref.name"] == TAG;
        let entry = read["manifests"].as_array().and_then(|list| list.iter().find(tagged));
        let mut entry = entry.context("umoci has made no image")?.clone();
        entry["annotations"] = json!({
            "io.containerd.image.name": self.reference,
            "org.opencontainers.image.ref.name": self.reference,
        });
        let digest = entry["digest"].as_str().context("the image has no digest")?.to_owned();
        let media_type = "application/vnd.oci.image.index.v1+json";
        let named = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": [entry]});
        write(&index, &named)?;
        let manifest = self::read(&layout.join(blob(&digest)?))?;
        let path = |value: &Value| blob(value["digest"].as_str().unwrap_or_default());
        let layers = manifest["layers"].as_array().context("the image has no layers")?;
        let layers = layers.iter().map(path).collect::<Result<Vec<_>>>()?;
        let config = path(&manifest["config"])?;
        write(
            &layout.join("manifest.json"),
            &json!([{"Config": config, "RepoTags": [self.reference], "Layers": layers}]),
        )?;
        Ok(digest)
    }
}

/// Where a blob is in a layout.
fn blob(digest: &str) -> Result<String> {
    let (kind, hash) = digest.split_once(':').with_context(|| format!("no digest: {digest:?}"))?;
    Ok(format!("blobs/{kind}/{hash}"))
}

fn read(path: &Path) -> Result<Value> {
    let text = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", path.display()))
}

fn write(path: &Path, value: &Value) -> Result<()> {
    fs::write(path, value.to_string()).with_context(|| format!("writing {}", path.display()))
}

/// As RFC 3339 has it.
fn date(seconds: u64) -> Result<String> {
    let mut date = DATE.command()?;
    date.arg("--utc").arg(format!("--date=@{seconds}")).arg("+%Y-%m-%dT%H:%M:%SZ");
    Ok(process::read(&mut date)?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::process::id as process_id;

    use super::*;

    #[test]
    fn the_same_program_gives_the_same_archive() {
        let directory = env::temp_dir().join(format!("roost-layout-{}", process_id()));
        empty(&directory).unwrap();
        let build = |name: &str, program: &str| {
            // Made at another moment, with other rights, somewhere else.
            let binary = directory.join(format!("{name}-program"));
            fs::write(&binary, program).unwrap();
            fs::set_permissions(&binary, Permissions::from_mode(0o600 | name.len() as u32))
                .unwrap();
            let reference = "localhost/x:1".to_owned();
            let image = Image { reference, title: "x", binary, created: 0 };
            let archive = directory.join(name).join("x.tar");
            let built = image.write(&archive, &directory.join(format!("{name}-work"))).unwrap();
            assert_eq!(built.size, fs::metadata(&archive).unwrap().len());
            (built.digest, fs::read(archive).unwrap())
        };
        let (one, other) = (build("one", "program"), build("other", "program"));
        let changed = build("changed", "another program");
        fs::remove_dir_all(&directory).unwrap();
        assert!(one == other, "{} and {}", one.0, other.0);
        assert_ne!(one.0, changed.0);
    }

    #[test]
    fn dates_are_as_in_rfc_3339() {
        assert_eq!(date(0).unwrap(), "1970-01-01T00:00:00Z");
        assert_eq!(date(1_790_000_000).unwrap(), "2026-09-21T14:13:20Z");
    }
}
