//! Real operator processes of the test's own, each for the test's namespace alone, with the rights that the
//! chart grants and nothing more, and with a fault proxy between it and the API server.
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command as BlockingCommand, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::Api;
use kube::api::DeleteParams;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use crate::env::workspace;
use crate::fault::Proxy;
use crate::space::Space;
use crate::until::until_some;

/// Long enough for a machine that is busy with many tests; an operator that is started again under its name
/// does not wait for it.
const LEASE_SECONDS: u16 = 60;

/// How an operator process is started.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Tells operators of one test apart: it names the user in the audit log and the holder of the lease.
    pub name: String,
    /// Where `hf://` sources are fetched.
    pub hub_url: String,
    /// The engine's image.
    pub server_image: String,
    /// Seconds for which an unrenewed lease protects its holder.
    pub lease_seconds: u16,
    /// Name of the Lease: operators of one release share it.
    pub lease: String,
    /// More arguments of `run`.
    pub arguments: Vec<String>,
    /// More environment.
    pub environment: Vec<(String, String)>,
}

/// An operator process with its proxy. Dropping it kills the process.
pub struct Operator {
    settings: Settings,
    /// As whom it writes.
    pub user: String,
    /// Between it and the API server.
    pub proxy: Proxy,
    namespace: String,
    registry_image: String,
    executable: PathBuf,
    kubeconfig: PathBuf,
    log: PathBuf,
    process: Arc<Mutex<Option<Child>>>,
}

impl Settings {
    /// The settings of an operator that the chart would install, but for its hub.
    pub fn new(space: &Space, hub_url: impl Into<String>) -> Result<Self> {
        Ok(Self {
            name: "first".into(),
            hub_url: hub_url.into(),
            server_image: space.env.image("server")?.into(),
            lease_seconds: LEASE_SECONDS,
            lease: "windlass-operator".into(),
            arguments: Vec::new(),
            environment: Vec::new(),
        })
    }
}

impl Operator {
    /// Grants the chart's rights, makes a proxy, and starts the process.
    pub async fn start(space: &Space, settings: Settings) -> Result<Self> {
        let operator = Self::prepare(space, settings).await?;
        operator.launch()?;
        Ok(operator)
    }

    /// Everything but the process, so that faults can be planned before it runs.
    pub async fn prepare(space: &Space, settings: Settings) -> Result<Self> {
        let user = grant(space, &settings).await?;
        let proxy = Proxy::start(space.client.clone(), Some(user.clone())).await?;
        let process: Arc<Mutex<Option<Child>>> = Arc::default();
        let killed = process.clone();
        proxy.set_kill(move || {
            if let Some(child) = locked(&killed).as_mut() {
                // SIGKILL; fails only where it is dead already.
                child.start_kill().ok();
            }
        });
        let kubeconfig = space.folder.join(format!("kubeconfig-{}.yaml", settings.name));
        fs::write(&kubeconfig, kubeconfig_text(&proxy.url()))?;
        Ok(Self {
            user,
            proxy,
            namespace: space.namespace.clone(),
            registry_image: space.env.image("registry")?.into(),
            executable: space.env.operator.clone(),
            kubeconfig,
            log: space.folder.join(format!("operator-{}.log", settings.name)),
            process,
            settings,
        })
    }

    /// Starts the process. Its log continues that of an earlier one.
    pub fn launch(&self) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.executable);
        command
            .arg("run")
            .args([
                "--server-image",
                &self.settings.server_image,
                "--registry-image",
                &self.registry_image,
            ])
            .args(["--hub-url", &self.settings.hub_url, "--namespace", &self.namespace])
            .args(["--metrics-listen", "127.0.0.1:0", "--health-listen", "127.0.0.1:0"])
            .args(&self.settings.arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("WINDLASS_LOG", "debug")
            .args([
                "--operator-namespace",
                &self.namespace,
                "--identity",
                &self.settings.name,
            ])
            .args(["--lease-duration", &self.settings.lease_seconds.to_string()])
            .args(["--lease-name", &self.settings.lease])
            .envs(self.settings.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true);
        let child = command.spawn().with_context(|| {
            format!(
                "starting {}: `cargo build -p windlass-operator` makes it",
                self.executable.display()
            )
        })?;
        *locked(&self.process) = Some(child);
        Ok(())
    }

    /// Kills the process, as a lost node would, and waits until it is gone.
    pub async fn kill(&self) -> Result<()> {
        if let Some(child) = locked(&self.process).as_mut() {
            // Fails only where it is dead already, for which the next line waits.
            child.start_kill().ok();
        }
        self.await_end(Duration::from_secs(10)).await
    }

    /// Asks the process to end, as a kubelet does, and waits until it has; fails unless it ends well.
    pub async fn stop(&self) -> Result<()> {
        self.signal("TERM")?;
        self.await_end(Duration::from_secs(20)).await?;
        let status = match locked(&self.process).take() {
            Some(mut child) => child.try_wait()?,
            None => None,
        };
        ensure!(
            status.is_some_and(|status| status.success()),
            "the operator ended with {status:?} on SIGTERM"
        );
        Ok(())
    }

    /// Stops the process and takes its rights away, as `helm uninstall` does.
    pub async fn uninstall(&self, space: &Space) -> Result<()> {
        self.stop().await?;
        rights(space, &self.settings, &["delete", "--wait=true"]).await
    }

    /// Stops it in its tracks, as a node does that hangs.
    pub fn freeze(&self) -> Result<()> {
        self.signal("STOP")
    }

    /// Lets it go on.
    pub fn thaw(&self) -> Result<()> {
        self.signal("CONT")
    }

    /// True while the process lives.
    pub fn runs(&self) -> Result<bool> {
        Ok(match locked(&self.process).as_mut() {
            Some(child) => child.try_wait()?.is_none(),
            None => false,
        })
    }

    /// Returns once the process has ended, however it came to that.
    pub async fn await_end(&self, within: Duration) -> Result<()> {
        until_some("the operator process to end", within, async || {
            Ok((!self.runs()?).then_some(()))
        })
        .await
    }

    /// What it has logged so far.
    pub fn log(&self) -> Result<String> {
        fs::read_to_string(&self.log).with_context(|| format!("reading {}", self.log.display()))
    }

    /// Returns once it has logged a line that contains `text`.
    pub async fn await_log(&self, text: &str, within: Duration) -> Result<()> {
        let what = format!("the operator to log {text:?}");
        until_some(&what, within, async || Ok(self.log()?.contains(text).then_some(()))).await
    }

    fn signal(&self, signal: &str) -> Result<()> {
        let id = locked(&self.process)
            .as_ref()
            .and_then(Child::id)
            .context("the operator does not run")?;
        // The shell's own `kill` needs no package.
        let status = BlockingCommand::new("sh")
            .args(["-c", &format!("kill -{signal} {id}")])
            .status()?;
        ensure!(status.success(), "kill -{signal} {id}: {status}");
        Ok(())
    }
}

/// Applies the rights that the chart gives an operator of this namespace; returns the user who has them.
async fn grant(space: &Space, settings: &Settings) -> Result<String> {
    rights(space, settings, &["apply", "--server-side"]).await?;
    Ok(format!(
        "system:serviceaccount:{}:{}-operator",
        space.namespace, settings.name
    ))
}

/// Runs kubectl on the rights that the chart gives an operator of this namespace.
async fn rights(space: &Space, settings: &Settings, verb: &[&str]) -> Result<()> {
    let name = &settings.name;
    let namespace = &space.namespace;
    let chart = workspace().join("charts/windlass");
    let output = Command::new("helm")
        .args(["template", name])
        .arg(&chart)
        .args([
            "--namespace",
            namespace,
            "--set",
            &format!("watchNamespaces={{{namespace}}}"),
        ])
        .args(["--show-only", "templates/operator-rbac.yaml"])
        .output()
        .await
        .context("running helm: is it on the PATH?")?;
    ensure!(
        output.status.success(),
        "helm template: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    // The chart names the lease after the release; here operators with different rights share one.
    let of_release = format!("resourceNames: [{name}-operator]");
    let shared = format!("resourceNames: [{}]", settings.lease);
    let manifest = String::from_utf8_lossy(&output.stdout).replace(&of_release, &shared);
    let mut kubectl = Command::new("kubectl")
        .env("KUBECONFIG", &space.env.kubeconfig)
        .args(verb)
        .args(["--filename", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = kubectl.stdin.take().context("kubectl has no stdin")?;
    stdin.write_all(manifest.as_bytes()).await?;
    drop(stdin);
    let done = kubectl.wait_with_output().await?;
    ensure!(
        done.status.success(),
        "kubectl {verb:?} of the chart's rights: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(())
}

/// Takes back what `grant` made outside of the namespace.
pub(crate) async fn revoke(space: &Space) -> Result<()> {
    let ours = format!("-operator:{}", space.namespace);
    delete_named(&Api::<ClusterRoleBinding>::all(space.client.clone()), |name| {
        name.ends_with(&ours)
    })
    .await?;
    delete_named(&Api::<ClusterRole>::all(space.client.clone()), |name| {
        name.ends_with(&ours)
    })
    .await
}

async fn delete_named<K>(api: &Api<K>, wanted: impl Fn(&str) -> bool) -> Result<()>
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    for object in api.list_metadata(&Default::default()).await? {
        let name = object.metadata.name.unwrap_or_default();
        if wanted(&name) {
            api.delete(&name, &DeleteParams::default())
                .await
                .with_context(|| format!("deleting {name}"))?;
        }
    }
    Ok(())
}

fn kubeconfig_text(server: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: proxy\nclusters: [{{name: proxy, cluster: {{server: \"{server}\"}}}}]\n\
         contexts: [{{name: proxy, context: {{cluster: proxy, user: proxy}}}}]\nusers: [{{name: proxy, user: {{}}}}]\n"
    )
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
