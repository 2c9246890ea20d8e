//! What the tests learn from their environment, read in this one place. `make test` sets all of it;
//! whoever starts the tests in another way gets an error that names what is missing.
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The surroundings of a test run.
#[derive(Debug, Clone)]
pub struct Env {
    /// A kubeconfig with the rights of an administrator.
    pub kubeconfig: PathBuf,
    /// The API server's audit log, one JSON event a line.
    pub audit_log: PathBuf,
    /// Names of images by what they are (`server`, `registry`, `hub`, `client`, …).
    pub images: BTreeMap<String, String>,
    /// Their archives.
    pub archives: BTreeMap<String, PathBuf>,
    /// Folder for the statuses that the kstatus program judges.
    pub status_dir: PathBuf,
    /// The operator's executable, for tests that start processes of their own.
    pub operator: PathBuf,
    /// The load generator's executable, which goes into the client pod.
    pub traffic: PathBuf,
    /// The script that made the cluster, for tests that take a node away; absent with a given cluster.
    pub cluster: Option<PathBuf>,
    /// What `e2e/next` built: the release that comes after this one.
    pub next: PathBuf,
    /// Folder for evidence of failed tests, `target/e2e`.
    pub evidence: PathBuf,
    /// True to leave namespaces of failed tests in the cluster.
    pub keep: bool,
}

impl Env {
    /// Reads the environment. Fails with all that is missing at once.
    pub fn read() -> Result<Self> {
        Self::from(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn from(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let mut missing = Vec::new();
        let mut path = |name: &'static str| {
            variable(name).map(PathBuf::from).unwrap_or_else(|| {
                missing.push(name);
                PathBuf::new()
            })
        };
        let kubeconfig = path("KUBECONFIG");
        let audit_log = path("WINDLASS_AUDIT_LOG");
        let images_file = path("WINDLASS_IMAGES");
        if !missing.is_empty() {
            bail!(
                "{} not set: the cluster tests are started by `make test`",
                missing.join(", ")
            );
        }
        let target = target_dir();
        let images = read_images(&images_file)?;
        let or = |name: &str, default: PathBuf| variable(name).map(PathBuf::from).unwrap_or(default);
        Ok(Self {
            kubeconfig,
            audit_log,
            archives: images
                .iter()
                .map(|(name, image)| (name.clone(), image.archive.clone()))
                .collect(),
            images: images
                .into_iter()
                .map(|(name, image)| (name, image.reference))
                .collect(),
            status_dir: or("WINDLASS_STATUS_DIR", target.join("e2e/statuses")),
            operator: or("WINDLASS_OPERATOR", target.join("debug/windlass-operator")),
            traffic: or("WINDLASS_TRAFFIC", target.join("debug/traffic")),
            cluster: variable("WINDLASS_CLUSTER").map(PathBuf::from),
            next: or("WINDLASS_NEXT", target.join("next")),
            evidence: target.join("e2e"),
            keep: variable("WINDLASS_KEEP").is_some(),
        })
    }

    /// The reference of an image.
    pub fn image(&self, name: &str) -> Result<&str> {
        let found = self.images.get(name).map(String::as_str);
        found.with_context(|| self.unknown_image(name))
    }

    /// The archive of an image.
    pub fn archive(&self, name: &str) -> Result<&Path> {
        let found = self.archives.get(name).map(PathBuf::as_path);
        found.with_context(|| self.unknown_image(name))
    }

    /// Image and archive of the next release's operator.
    pub fn next_operator(&self) -> Result<(String, PathBuf)> {
        let mut images = read_images(&self.next.join("images.json")).context("`e2e/next` builds it")?;
        let image = images.remove("operator").context("e2e/next built no operator")?;
        Ok((image.reference, image.archive))
    }

    fn unknown_image(&self, name: &str) -> String {
        let known = self.images.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        format!("no image {name:?} in WINDLASS_IMAGES (it has: {known})")
    }
}

/// The workspace's target folder.
fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map(PathBuf::from)
        .unwrap_or_else(|| workspace().join("target"))
}

/// The root of the workspace.
pub fn workspace() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

fn read_images(file: &Path) -> Result<BTreeMap<String, Image>> {
    let text =
        fs::read_to_string(file).with_context(|| format!("reading the images' names from {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} lists no images", file.display()))
}

/// One line of `images.json`, as `deploy/images/build` writes it.
#[derive(serde::Deserialize)]
struct Image {
    #[serde(rename = "ref")]
    reference: String,
    archive: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_variables_are_all_named_together_with_the_way_to_set_them() {
        let error = Env::from(|name| (name == "KUBECONFIG").then(|| "k".into()))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("WINDLASS_AUDIT_LOG") && error.contains("WINDLASS_IMAGES"),
            "{error}"
        );
        assert!(error.contains("make test") && !error.contains("KUBECONFIG"), "{error}");
    }
}
