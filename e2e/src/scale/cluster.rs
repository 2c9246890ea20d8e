//! A control plane with simulated nodes, started and ended by `e2e/cluster/cluster`, and what an operator finds in
//! it: the CRDs and rights of our charts, nodes with accelerators, namespaces.
use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, Node, ServiceAccount};
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::json;
use tokio::process::Command;

use crate::env::workspace;
use crate::scale::process::{ACCOUNT, NAMESPACE};
use crate::until::until_all;

/// Name of the cluster; `cluster down --name scale` removes what a killed measurement left.
pub const NAME: &str = "scale";
/// What the nodes say about their accelerators: product and MiB of memory, as NVIDIA's feature discovery labels them.
pub const ACCELERATORS: [(&str, u32); 4] = [
    ("NVIDIA-L4", 23034),
    ("NVIDIA-L40S", 46068),
    ("NVIDIA-A100-SXM4-80GB", 81920),
    ("NVIDIA-H100-80GB-HBM3", 81559),
];
/// Requests that this program has under way at the same time while it prepares.
const REQUESTS: usize = 16;

/// A running cluster.
pub struct Cluster {
    /// A client with an administrator's rights.
    pub client: Client,
    /// The API server's audit log.
    pub audit_log: PathBuf,
    /// With the operator's rights, as the chart grants them.
    pub operator_kubeconfig: PathBuf,
    kubeconfig: PathBuf,
    path: String,
}

impl Cluster {
    /// Starts it anew. `folder` takes the operator's kubeconfig.
    ///
    /// # Errors
    /// When it does not start; what is left of it then, [`down`] removes.
    pub async fn up(folder: &Path) -> Result<Self> {
        down().await?;
        script(&["up", "--nodes", "0"]).await?;
        let environment = Command::new("bash")
            .args([
                "-c",
                r#"eval "$("$1" env --name "$2")"; printf '%s\n' "$KUBECONFIG" "$WINDLASS_AUDIT_LOG" "$PATH""#,
            ])
            .args(["bash".as_ref(), script_path().as_os_str(), NAME.as_ref()])
            .env("CLUSTER", "bare")
            .output()
            .await?;
        let environment = String::from_utf8(environment.stdout)?;
        let mut lines = environment.lines();
        let mut next = || {
            lines
                .next()
                .filter(|line| !line.is_empty())
                .context("`cluster env` said too little")
        };
        let (kubeconfig, audit_log, path) = (PathBuf::from(next()?), PathBuf::from(next()?), next()?.to_owned());
        let client = client(&kubeconfig).await?;
        let cluster = Self {
            client,
            audit_log,
            operator_kubeconfig: folder.join("operator.kubeconfig"),
            kubeconfig,
            path,
        };
        cluster
            .install()
            .await
            .context("installing CRDs and rights from the charts")?;
        Ok(cluster)
    }

    /// The folder with the cluster's state.
    pub fn state(&self) -> &Path {
        self.kubeconfig.parent().unwrap_or(&self.kubeconfig)
    }

    /// Makes nodes with `accelerators` each, and waits until they are Ready.
    ///
    /// # Errors
    /// When they are not within two minutes.
    pub async fn add_nodes(&self, count: usize, accelerators: usize) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let objects = (0..count).map(|index| {
            let (product, memory) = ACCELERATORS[index % ACCELERATORS.len()];
            let name = format!("gpu-{index:03}");
            let resources = json!({"cpu": "64", "memory": "512Gi", "ephemeral-storage": "4Ti", "pods": "110",
                "nvidia.com/gpu": accelerators.to_string()});
            json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux",
                    "kubernetes.io/arch": "amd64", "topology.kubernetes.io/zone": format!("zone-{}", index % 3),
                    "nvidia.com/gpu.product": product, "nvidia.com/gpu.memory": memory.to_string()}},
                "status": {"capacity": resources, "allocatable": resources}})
        });
        create_all(&nodes, objects).await?;
        let ready = |node: &Node| {
            let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
            conditions
                .into_iter()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True")
        };
        let all_ready = |nodes: &[Node]| nodes.len() == count && nodes.iter().all(ready);
        until_all(&nodes, "", "all nodes to be Ready", Duration::from_secs(120), all_ready).await?;
        Ok(())
    }

    /// Makes namespaces of these names.
    ///
    /// # Errors
    /// When the API server refuses one.
    pub async fn add_namespaces(&self, names: &[String]) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        create_all(
            &namespaces,
            names.iter().map(|name| json!({"metadata": {"name": name}})),
        )
        .await
    }

    /// The CRDs, a ServiceAccount with the chart's rights, and a kubeconfig with its token.
    async fn install(&self) -> Result<()> {
        self.add_namespaces(&[NAMESPACE.to_owned()]).await?;
        self.apply_chart("charts/windlass-crds", &[]).await?;
        self.apply_chart("charts/windlass", &["--show-only", "templates/operator-rbac.yaml"])
            .await?;
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), NAMESPACE);
        create_all(&accounts, [json!({"metadata": {"name": ACCOUNT}})].into_iter()).await?;
        let wanted = TokenRequest {
            spec: Some(TokenRequestSpec {
                expiration_seconds: Some(24 * 60 * 60),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let issued = accounts
            .create_token_request(ACCOUNT, &PostParams::default(), &wanted)
            .await?;
        let token = issued.status.context("the API server issued no token")?.token;
        let admin = Kubeconfig::read_from(&self.kubeconfig)?;
        let cluster = admin
            .clusters
            .into_iter()
            .find_map(|named| named.cluster)
            .context("a kubeconfig without cluster")?;
        let text = json!({"apiVersion": "v1", "kind": "Config", "current-context": NAME,
            "clusters": [{"name": NAME, "cluster": cluster}],
            "contexts": [{"name": NAME, "context": {"cluster": NAME, "user": NAME, "namespace": NAMESPACE}}],
            "users": [{"name": NAME, "user": {"token": token}}]});
        let file = fs::File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&self.operator_kubeconfig)?;
        serde_json::to_writer(file, &text)?;
        Ok(())
    }

    /// `helm template` of a chart of ours, applied.
    async fn apply_chart(&self, chart: &str, arguments: &[&str]) -> Result<()> {
        let rendered = Command::new("helm")
            .env("PATH", &self.path)
            .args(["template", NAME])
            .arg(workspace().join(chart))
            .args(["--namespace", NAMESPACE])
            .args(arguments)
            .output()
            .await
            .context("running helm")?;
        ensure!(
            rendered.status.success(),
            "helm template {chart}: {}",
            String::from_utf8_lossy(&rendered.stderr)
        );
        let file = self.operator_kubeconfig.with_file_name("chart.yaml");
        fs::write(&file, rendered.stdout)?;
        let applied = Command::new("kubectl")
            .env("PATH", &self.path)
            .env("KUBECONFIG", &self.kubeconfig)
            .args(["apply", "--server-side", "--filename"])
            .arg(&file)
            .output()
            .await
            .context("running kubectl")?;
        ensure!(
            applied.status.success(),
            "kubectl apply of {chart}: {}",
            String::from_utf8_lossy(&applied.stderr)
        );
        Ok(())
    }
}

/// Ends the cluster, also one that an earlier measurement left.
///
/// # Errors
/// When something of it stays.
pub async fn down() -> Result<()> {
    script(&["down"]).await
}

async fn script(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(script_path());
    let command = command
        .args(arguments)
        .args(["--name", NAME])
        .env("CLUSTER", "bare")
        .env_remove("KUBECONFIG");
    let status = command
        .stdin(Stdio::null())
        .status()
        .await
        .context("running e2e/cluster/cluster")?;
    ensure!(status.success(), "cluster {}: {status}", arguments.join(" "));
    Ok(())
}

fn script_path() -> PathBuf {
    workspace().join("e2e/cluster/cluster")
}

async fn client(kubeconfig: &Path) -> Result<Client> {
    let read = Kubeconfig::read_from(kubeconfig).with_context(|| format!("reading {}", kubeconfig.display()))?;
    Ok(Client::try_from(
        Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?,
    )?)
}

/// Creates objects, some at the same time.
async fn create_all<K>(api: &Api<K>, objects: impl Iterator<Item = serde_json::Value>) -> Result<()>
where
    K: kube::Resource + Clone + serde::Serialize + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let created = stream::iter(objects).map(|object| async {
        let object = serde_json::from_value(object)?;
        api.create(&PostParams::default(), &object).await?;
        anyhow::Ok(())
    });
    created.buffer_unordered(REQUESTS).try_collect().await
}
