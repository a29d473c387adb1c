//! `cargo xtask manifests`: the objects as YAML, rendered by `kubectl kustomize`.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use super::kubectl::{ClusterOptions, Kubectl};
use crate::workspace::Workspace;

/// Print the objects of deploy/ as YAML.
#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    what: What,
}

/// What is rendered.
#[derive(Args, Clone)]
pub struct What {
    /// Take deploy/overlays/NAME.
    #[arg(long, value_name = "NAME", default_value = "privileged")]
    pub overlay: String,
    /// Take the image REF: NAME:TAG, NAME@DIGEST [default: localhost/roost with this version].
    #[arg(long, value_name = "REF")]
    pub image: Option<String>,
    /// The chat of deploy/example, too.
    #[arg(long)]
    pub example: bool,
    /// Take this image for the chat of the example [default: localhost/roost-chat with this version].
    #[arg(long, value_name = "REF", requires = "example")]
    pub example_image: Option<String>,
}

/// The images of the manifests, which are given others.
const IMAGE: &str = "localhost/roost";
const EXAMPLE_IMAGE: &str = "localhost/roost-chat";

/// Runs the subcommand.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let kubectl = Kubectl::find(&ClusterOptions::default())?;
    let text = render(workspace, &kubectl, &options.what)?;
    std::io::stdout().write_all(text.as_bytes()).context("writing the objects")
}

/// Everything that was asked for, as one YAML text.
pub fn render(workspace: &Workspace, kubectl: &Kubectl, what: &What) -> Result<String> {
    let overlays = overlays(workspace)?;
    ensure!(
        overlays.contains(&what.overlay),
        "--overlay {:?}: there is no such directory in deploy/overlays; there are: {}",
        what.overlay,
        overlays.join(", ")
    );
    let mut parts = vec![(format!("overlays/{}", what.overlay), IMAGE, &what.image)];
    if what.example {
        parts.push(("example".to_owned(), EXAMPLE_IMAGE, &what.example_image));
    }
    let mut texts = Vec::new();
    for (directory, name, image) in parts {
        texts.push(part(workspace, kubectl, &directory, name, image.as_deref())?);
    }
    Ok(texts.join("---\n"))
}

/// Of a YAML text of many objects those of one kind.
pub fn of_kind(objects: &str, kind: &str) -> String {
    let line = format!("kind: {kind}");
    // The kinds of objects within others are indented.
    let is_it = |object: &&str| object.lines().any(|it| it == line);
    objects.split("---\n").filter(is_it).collect::<Vec<_>>().join("---\n")
}

fn part(
    workspace: &Workspace,
    kubectl: &Kubectl,
    directory: &str,
    name: &str,
    image: Option<&str>,
) -> Result<String> {
    let mut root = workspace.root.join("deploy");
    // Others may render at the same time.
    let made = Made(workspace.target.join("deploy").join(process::id().to_string()));
    let is_old = kubectl.is_old()?;
    if is_old {
        let copy = made.0.join("old");
        copy_for_old(&root, &copy)?;
        root = copy;
    }
    let mut from = root.join(directory);
    if let Some(image) = image {
        let image = Image::parse(image)?;
        // Relative: kustomize takes no other paths.
        let to_root = if is_old { "../old" } else { "../../../../deploy" };
        let field = if is_old { "bases" } else { "resources" };
        from = made.0.join("image");
        fs::create_dir_all(&from).with_context(|| format!("creating {}", from.display()))?;
        let text = image.kustomization(field, &format!("{to_root}/{directory}"), name);
        write(&from.join("kustomization.yaml"), &text)?;
    }
    let from = from.to_str().context("the checkout's path is not UTF-8")?;
    kubectl.read(&["kustomize", from])
}

/// A directory for kustomize that goes with this.
struct Made(PathBuf);

impl Drop for Made {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The names of the overlays.
fn overlays(workspace: &Workspace) -> Result<Vec<String>> {
    let root = workspace.root.join("deploy/overlays");
    let entries = fs::read_dir(&root).with_context(|| format!("reading {}", root.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// An image's name, and what says which of them.
#[derive(Debug, PartialEq, Eq)]
struct Image<'a> {
    name: &'a str,
    tag: Option<&'a str>,
    digest: Option<&'a str>,
}

impl<'a> Image<'a> {
    fn parse(text: &'a str) -> Result<Self> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        let end = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[end..].split_once(':') {
            Some((last, tag)) => (&rest[..end + last.len()], Some(tag)),
            None => (rest, None),
        };
        let is_plain = |text: &str| {
            !text.is_empty()
                && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-/:".contains(c))
        };
        let parts = [Some(name), tag, digest];
        if !parts.iter().flatten().all(|part| is_plain(part)) || (tag.is_none() && digest.is_none())
        {
            bail!(
                "--image {text:?}: write NAME:TAG or NAME@sha256:DIGEST, for example \
                 registry.example/roost:0.1.0"
            );
        }
        Ok(Self { name, tag, digest })
    }

    /// A kustomization that replaces the image `name` of `directory` by this one.
    fn kustomization(&self, field: &str, directory: &str, name: &str) -> String {
        let which = match (self.digest, self.tag) {
            // A digest says everything; kustomize takes one of the two.
            (Some(digest), _) => format!("digest: {digest}"),
            (None, tag) => format!("newTag: \"{}\"", tag.unwrap_or_default()),
        };
        format!(
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n{field}:\n- {directory}\n\
             images:\n- name: {name}\n  newName: {}\n  {which}\n",
            self.name
        )
    }
}

/// A copy of deploy/ in the words of kustomize before 2.1.
fn copy_for_old(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("creating {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let (path, copy): (PathBuf, PathBuf) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy_for_old(&path, &copy)?;
            continue;
        }
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let is_kustomization = entry.file_name() == "kustomization.yaml";
        write(&copy, &if is_kustomization { old_words(&text) } else { text })?;
    }
    Ok(())
}

/// Directories are `bases`, and patches are named without `path:`.
fn old_words(text: &str) -> String {
    let mut words = String::new();
    for line in text.lines() {
        let line = match line {
            "resources:" if text.lines().any(|line| line.starts_with("- ../")) => "bases:",
            "patches:" => "patchesStrategicMerge:",
            line => line,
        };
        words.push_str(&line.replacen("- path: ", "- ", 1));
        words.push('\n');
    }
    words
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_names_with_a_tag_or_a_digest() {
        let image = |name, tag, digest| Image { name, tag, digest };
        let parsed = [
            ("roost:1", image("roost", Some("1"), None)),
            ("localhost:5000/a/roost:1", image("localhost:5000/a/roost", Some("1"), None)),
            ("r.io/roost@sha256:ab", image("r.io/roost", None, Some("sha256:ab"))),
            ("r.io/roost:1@sha256:ab", image("r.io/roost", Some("1"), Some("sha256:ab"))),
        ];
        for (text, image) in parsed {
            assert_eq!(Image::parse(text).expect(text), image);
        }
        for wrong in ["", "roost", "r.io:5000/roost", "roost:", ":1", "a b:1", "a:1\nx: y"] {
            let error = Image::parse(wrong).expect_err(wrong).to_string();
            assert!(error.contains("NAME:TAG"), "{error}");
        }
    }

    #[test]
    fn objects_are_found_by_their_kind() {
        let objects = "kind: A\nb:\n  kind: B\n---\nkind: B\n---\nkind: A\nc: 1\n";
        assert_eq!(of_kind(objects, "B"), "kind: B\n");
        assert_eq!(of_kind(objects, "A"), "kind: A\nb:\n  kind: B\n---\nkind: A\nc: 1\n");
    }

    #[test]
    fn a_digest_comes_before_a_tag() {
        let text = Image::parse("a:1@sha256:ab").unwrap().kustomization("resources", "../x", IMAGE);
        assert!(text.contains("newName: a\n  digest: sha256:ab\n"), "{text}");
        assert!(!text.contains("newTag"), "{text}");
    }

    #[test]
    fn old_kustomize_is_told_in_its_own_words() {
        let new = "kind: Kustomization\nresources:\n- ../../base\npatches:\n- path: a.yaml\n";
        let old = "kind: Kustomization\nbases:\n- ../../base\npatchesStrategicMerge:\n- a.yaml\n";
        assert_eq!(old_words(new), old);
        let base = "resources:\n- a.yaml\n";
        assert_eq!(old_words(base), base);
    }
}
