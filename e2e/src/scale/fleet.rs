//! The ModelDeployments of a measurement: what they ask for, and how they are created and changed.
//! Three of ten ask for one GPU of a product and serve with a Custom runtime; the others serve on the CPU.
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt, stream};
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use windlass_crds::ModelDeployment;

use crate::scale::cluster::ACCELERATORS;
use crate::scale::progress::{Progress, follow};
use crate::space::MANAGER;

/// Over so many namespaces the objects are spread.
const NAMESPACES: usize = 20;

/// The objects, and a watch on them.
pub struct Fleet {
    client: Client,
    size: usize,
    progress: watch::Receiver<Progress>,
    watching: JoinHandle<()>,
}

impl Fleet {
    /// Begins to watch; nothing is created yet.
    pub fn new(client: Client, size: usize) -> Self {
        let (sender, progress) = watch::channel(Progress::new());
        let watching = tokio::spawn(follow(Api::all_with(client.clone(), &resource()), sender));
        Self {
            client,
            size,
            progress,
            watching,
        }
    }

    /// The namespaces in which objects will lie.
    pub fn namespaces() -> Vec<String> {
        (0..NAMESPACES).map(|index| format!("team-{index:02}")).collect()
    }

    /// Namespace and name of the object with this number.
    pub fn name(index: usize) -> (String, String) {
        (format!("team-{:02}", index % NAMESPACES), format!("model-{index:04}"))
    }

    /// Creates all objects, `writers` at the same time.
    ///
    /// # Errors
    /// When the API server refuses one.
    pub async fn create(&self, writers: usize) -> Result<()> {
        let resource = &resource();
        let created = stream::iter(0..self.size).map(|index| async move {
            let (namespace, name) = Self::name(index);
            let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &namespace, resource);
            let object: DynamicObject = serde_json::from_value(json!({"apiVersion": resource.api_version,
                "kind": resource.kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec(index)}))?;
            let made = api.create(&PostParams::default(), &object).await;
            made.with_context(|| format!("creating {namespace}/{name}"))?;
            anyhow::Ok(())
        });
        created.buffer_unordered(writers).try_collect().await
    }

    /// Changes what the pods of an object are labelled with.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn change(&self, index: usize, label: &str) -> Result<()> {
        let (namespace, name) = Self::name(index);
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &namespace, &resource());
        let params = PatchParams {
            field_manager: Some(MANAGER.into()),
            ..PatchParams::default()
        };
        let change = json!({"spec": {"podLabels": {"example.com/change": label}}});
        api.patch(&name, &params, &Patch::Merge(change)).await?;
        Ok(())
    }

    /// How far the objects are now.
    pub fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// Returns when all objects are Ready, or `within` has passed; `tick` is called every second meanwhile.
    ///
    /// # Errors
    /// Those of `tick`, and the end of the watch.
    pub async fn settle(
        &mut self,
        within: Duration,
        mut tick: impl FnMut(&Progress) -> Result<()>,
    ) -> Result<Progress> {
        let deadline = Instant::now() + within;
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        loop {
            let now = self.progress.borrow_and_update().clone();
            if now.ready == self.size || Instant::now() >= deadline {
                return Ok(now);
            }
            tokio::select! {
                changed = self.progress.changed() => if changed.is_err() {
                    bail!("the watch on the objects ended");
                },
                _ = ticks.tick() => tick(&now)?,
            }
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

fn spec(index: usize) -> Value {
    let source = format!("hf://team-{}/model-{index}/model-Q4_K_M.gguf", index % NAMESPACES);
    if index % 10 >= 3 {
        return json!({"model": {"source": source}, "resources": {"cpu": "2", "memory": "4Gi"}});
    }
    let (product, _) = ACCELERATORS[(index / 10 * 3 + index % 10) % ACCELERATORS.len()];
    json!({"model": {"source": source},
        "engine": {"runtime": "Custom", "custom": {"image": "example.com/llama.cpp:server-cuda",
            "args": ["--model", "$(WINDLASS_MODEL_PATH)", "--alias", "$(WINDLASS_SERVED_NAME)", "--port", "8000"]}},
        "resources": {"cpu": "4", "memory": "12Gi",
            "accelerator": {"resource": "nvidia.com/gpu", "count": 1, "products": [product], "memory": "20Gi"}}})
}

fn resource() -> ApiResource {
    ApiResource::erase::<ModelDeployment>(&())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use windlass_api::fetch::{FetchPhase, FetchReport};

    use super::*;

    #[test]
    fn five_thousand_objects_leave_accelerators_of_each_product_free() {
        let mut used: BTreeMap<String, usize> = BTreeMap::new();
        for index in 0..5000 {
            if let Some(product) = spec(index).pointer("/resources/accelerator/products/0") {
                *used.entry(product.to_string()).or_default() += 1;
            }
        }
        assert_eq!(used.len(), ACCELERATORS.len());
        assert!(
            used.values().all(|count| *count < 200 / ACCELERATORS.len() * 8),
            "{used:?}"
        );
    }

    #[test]
    fn the_simulated_init_container_ends_with_a_report_that_the_operator_reads() {
        let stages = std::fs::read_to_string(crate::env::workspace().join("e2e/cluster/bare/kwok.yaml")).unwrap();
        let message = stages
            .lines()
            .find_map(|line| line.trim().strip_prefix("message: '"))
            .unwrap();
        let report: FetchReport = serde_json::from_str(message.trim_end_matches('\'')).unwrap();
        assert_eq!(report.phase, FetchPhase::Verified);
        assert!(report.model.unwrap().digest.starts_with("sha256:"));
    }

    #[test]
    fn every_object_is_one_that_the_schema_takes() {
        for index in 0..10 {
            let object = json!({"apiVersion": "windlass.dev/v1alpha1", "kind": "ModelDeployment",
                "metadata": {"name": Fleet::name(index).1}, "spec": spec(index)});
            let object: ModelDeployment = serde_json::from_value(object).unwrap();
            object.validate_cel().unwrap();
        }
    }
}
