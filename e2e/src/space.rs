//! A namespace of its own for one test: made before it, dumped when it fails, deleted after it. Pod Security
//! "restricted" is enforced in each, so that every test proves that our pods obey it.
use std::path::PathBuf;
use std::process::Output;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolume};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::env::Env;
use crate::evidence;
use crate::inside::Inside;
use crate::operator;

/// Field manager of what tests write; never the operator's.
pub const MANAGER: &str = "e2e";

/// The test's namespace and the way into the cluster.
pub struct Space {
    /// Name of the namespace.
    pub namespace: String,
    /// A client with an administrator's rights; it does not retry by itself.
    pub client: Client,
    /// The surroundings.
    pub env: Env,
    /// Folder for this test's evidence and logs.
    pub folder: PathBuf,
}

impl Space {
    /// Makes the namespace. `test` is short, a DNS label of at most 30 characters.
    pub async fn new(env: Env, test: &str) -> Result<Self> {
        let client = client(&env).await?;
        let folder = evidence::folder(&env.evidence, test)?;
        let namespace = format!("e2e-{test}-{}", suffix()?);
        let labels = json!({"windlass.dev/e2e": test, "pod-security.kubernetes.io/enforce": "restricted"});
        let object = serde_json::from_value(json!({"metadata": {"name": namespace, "labels": labels}}))?;
        let namespaces: Api<Namespace> = Api::all(client.clone());
        namespaces
            .create(&PostParams::default(), &object)
            .await
            .with_context(|| format!("creating {namespace}"))?;
        Ok(Self {
            namespace,
            client,
            env,
            folder,
        })
    }

    /// Runs `body` in one more namespace, for tests that need many. `test` as for `new`.
    pub async fn in_another<T>(&self, test: &str, body: impl AsyncFnOnce(&Space) -> Result<T>) -> Result<T> {
        let space = Self::new(self.env.clone(), test).await?;
        let outcome = body(&space).await;
        space.close(outcome.is_err()).await;
        operator::revoke(&space).await?;
        outcome.with_context(|| format!("in the namespace {}", space.namespace))
    }

    /// The API of a kind in this namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Creates an object.
    pub async fn create<K>(&self, object: &K) -> Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Serialize
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let created = self.api().create(&PostParams::default(), object).await;
        created.with_context(|| format!("creating {} {}", K::kind(&()), object.name_any()))
    }

    /// Creates or changes an object as `kubectl apply --server-side` does.
    pub async fn apply<K>(&self, object: &K) -> Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Serialize
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let params = PatchParams::apply(MANAGER).force();
        let applied = self
            .api()
            .patch(&object.name_any(), &params, &Patch::Apply(object))
            .await;
        applied.with_context(|| format!("applying {} {}", K::kind(&()), object.name_any()))
    }

    /// Changes some fields of an object as `kubectl patch --type=merge` does.
    pub async fn merge<K>(&self, name: &str, change: Value) -> Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let params = PatchParams {
            field_manager: Some(MANAGER.into()),
            ..PatchParams::default()
        };
        let merged = self.api().patch(name, &params, &Patch::Merge(change)).await;
        merged.with_context(|| format!("changing {} {name}", K::kind(&())))
    }

    /// Deletes an object in the background, as `kubectl delete --wait=false` does.
    pub async fn delete<K>(&self, name: &str) -> Result<()>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let deleted = self.api::<K>().delete(name, &DeleteParams::background()).await;
        deleted
            .map(drop)
            .with_context(|| format!("deleting {} {name}", K::kind(&())))
    }

    /// The client pod of this namespace, running.
    pub async fn inside(&self) -> Result<Inside> {
        Inside::start(self).await
    }

    /// Runs kubectl in this namespace and returns what it printed; fails when it fails.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let output = self.try_kubectl(arguments).await?;
        ensure!(
            output.status.success(),
            "kubectl {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs kubectl in this namespace, whatever comes of it.
    pub async fn try_kubectl(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new("kubectl");
        command
            .env("KUBECONFIG", &self.env.kubeconfig)
            .args(["--namespace", &self.namespace])
            .args(arguments);
        command
            .kill_on_drop(true)
            .output()
            .await
            .context("running kubectl: is it on the PATH?")
    }

    /// Runs the script that made the cluster, as in `cluster signal n2 kubelet STOP`; fails when it fails.
    pub async fn cluster(&self, arguments: &[&str]) -> Result<()> {
        let script = self.env.cluster.as_ref();
        let script = script.context("WINDLASS_CLUSTER is not set: no way to change the cluster")?;
        let output = Command::new(script).args(arguments).output().await?;
        ensure!(
            output.status.success(),
            "cluster {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// Keeps an object's status for the kstatus program, under the name of the state it shows.
    pub fn capture<K: Serialize>(&self, state: &str, object: &K) -> Result<()> {
        let mut value = serde_json::to_value(object)?;
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
        std::fs::create_dir_all(&self.env.status_dir)?;
        let file = self.env.status_dir.join(format!("{state}.json"));
        std::fs::write(&file, serde_json::to_vec_pretty(&value)?).with_context(|| format!("writing {}", file.display()))
    }

    /// Ends the space: evidence where the test failed, then the namespace goes.
    pub(crate) async fn close(&self, failed: bool) {
        if failed {
            evidence::dump(&self.client, &self.namespace, &self.folder).await;
            if self.env.keep {
                return eprintln!("--- {} is kept", self.namespace);
            }
        }
        // A volume that a test made for its claim has the namespace's name.
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let volume = volumes
            .delete(&self.namespace, &DeleteParams::background())
            .await
            .map(drop);
        for deleted in [
            namespaces
                .delete(&self.namespace, &DeleteParams::background())
                .await
                .map(drop),
            volume,
        ] {
            match deleted {
                Ok(()) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => eprintln!("--- {} was not deleted: {error}", self.namespace),
            }
        }
    }
}

/// A client that does not retry by itself: a test wants to see the first answer.
pub async fn client(env: &Env) -> Result<Client> {
    let file =
        Kubeconfig::read_from(&env.kubeconfig).with_context(|| format!("reading {}", env.kubeconfig.display()))?;
    let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

/// Distinguishes the namespaces of runs that follow each other: 5 characters of the clock.
fn suffix() -> Result<String> {
    const DIGITS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rest = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let mut name = String::new();
    for _ in 0..5 {
        let base = DIGITS.len() as u128;
        let Some(digit) = DIGITS.get(usize::try_from(rest % base)?) else {
            bail!("no such digit")
        };
        name.push(char::from(*digit));
        rest /= base;
    }
    Ok(name)
}
