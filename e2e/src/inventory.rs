//! All that is in a namespace, of every kind that the API server knows: for evidence, for comparing end
//! states, and for finding what a deleted owner left behind.
use anyhow::{Context, Result};
use futures::future::try_join_all;
use kube::api::{DynamicObject, ListParams};
use kube::core::discovery::{Scope, verbs};
use kube::discovery::{ApiResource, Discovery};
use kube::{Api, Client, ResourceExt};

/// The listable kinds of the API server, as discovered.
#[derive(Clone)]
pub struct Inventory {
    client: Client,
    namespaced: Vec<ApiResource>,
    cluster: Vec<ApiResource>,
}

impl Inventory {
    /// Asks the API server for all kinds.
    pub async fn discover(client: Client) -> Result<Self> {
        let discovery = Discovery::new(client.clone())
            .run_aggregated()
            .await
            .context("discovering all kinds")?;
        let (mut namespaced, mut cluster) = (Vec::new(), Vec::new());
        for group in discovery.groups() {
            for (resource, capabilities) in group.recommended_resources() {
                if !capabilities.supports_operation(verbs::LIST) {
                    continue;
                }
                match capabilities.scope {
                    Scope::Namespaced => namespaced.push(resource),
                    Scope::Cluster => cluster.push(resource),
                }
            }
        }
        Ok(Self {
            client,
            namespaced,
            cluster,
        })
    }

    /// Every object of a namespace, with its apiVersion and kind filled in.
    pub async fn of_namespace(&self, namespace: &str) -> Result<Vec<DynamicObject>> {
        let lists = self
            .namespaced
            .iter()
            .map(|kind| list(Api::namespaced_with(self.client.clone(), namespace, kind), kind));
        Ok(try_join_all(lists).await?.into_iter().flatten().collect())
    }

    /// Every object, in every namespace or in none, that names one of these UIDs as its owner.
    pub async fn owned_by(&self, uids: &[String]) -> Result<Vec<DynamicObject>> {
        let all = self.all().await?.into_iter();
        Ok(all.filter(|object| has_owner(object, uids)).collect())
    }

    /// The object of this UID with all that it owns, directly or through others.
    pub async fn family(&self, uid: &str) -> Result<Vec<DynamicObject>> {
        let (mut family, mut rest): (Vec<_>, Vec<_>) = self
            .all()
            .await?
            .into_iter()
            .partition(|object| has_uid(object, &[uid.to_owned()]));
        loop {
            let known: Vec<String> = family.iter().filter_map(ResourceExt::uid).collect();
            let (found, others): (Vec<_>, Vec<_>) = rest.into_iter().partition(|object| has_owner(object, &known));
            if found.is_empty() {
                return Ok(family);
            }
            family.extend(found);
            rest = others;
        }
    }

    /// What still exists of these UIDs, or names one of them as its owner.
    pub async fn left_of(&self, uids: &[String]) -> Result<Vec<DynamicObject>> {
        let all = self.all().await?.into_iter();
        Ok(all
            .filter(|object| has_uid(object, uids) || has_owner(object, uids))
            .collect())
    }

    async fn all(&self) -> Result<Vec<DynamicObject>> {
        let kinds = self.namespaced.iter().chain(&self.cluster);
        let lists = kinds.map(|kind| list(Api::all_with(self.client.clone(), kind), kind));
        Ok(try_join_all(lists).await?.into_iter().flatten().collect())
    }
}

fn has_uid(object: &DynamicObject, uids: &[String]) -> bool {
    object.uid().is_some_and(|uid| uids.contains(&uid))
}

fn has_owner(object: &DynamicObject, uids: &[String]) -> bool {
    object.owner_references().iter().any(|owner| uids.contains(&owner.uid))
}

/// `Deployment/chat`, for messages.
pub fn called(object: &DynamicObject) -> String {
    let kind = object.types.as_ref().map_or("?", |types| types.kind.as_str());
    format!("{kind}/{}", object.name_any())
}

async fn list(api: Api<DynamicObject>, kind: &ApiResource) -> Result<Vec<DynamicObject>> {
    let list = match api.list(&ListParams::default()).await {
        Ok(list) => list.items,
        // Some kinds are listed in discovery and not served (a CRD that is just going away, for one).
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 405) => Vec::new(),
        Err(error) => return Err(error).with_context(|| format!("listing {}", kind.plural)),
    };
    Ok(list
        .into_iter()
        .map(|mut object| {
            object.types = Some(kube::core::TypeMeta {
                api_version: kind.api_version.clone(),
                kind: kind.kind.clone(),
            });
            object
        })
        .collect())
}
