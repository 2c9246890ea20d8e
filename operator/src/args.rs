//! What was typed (`Args`) and what it means (`Config`), parsed once. Every flag also has an
//! environment variable `WINDLASS_…`; nothing else of the environment is read.
use std::{net::SocketAddr, path::PathBuf};

use clap::{Args as ClapArgs, Parser, Subcommand};

use windlass_crds::quantity::Amount;

use crate::cluster::apply::Fault;

/// Makes the cluster agree with the objects of Windlass.
#[derive(Debug, Parser)]
#[command(name = "windlass-operator", version, about)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watches the cluster and acts, as long as it holds the lease.
    Run(RunArgs),
    /// Prints what `run` would apply for an object, without a cluster.
    Render(RenderArgs),
}

/// What the built objects depend on, in addition to the object itself.
#[derive(Debug, Clone, ClapArgs)]
pub struct BuildArgs {
    /// Image of the engine container.
    #[arg(long, env = "WINDLASS_SERVER_IMAGE", default_value = concat!("windlass-server:", env!("CARGO_PKG_VERSION")))]
    pub server_image: String,
    /// Image of the init container that fetches the model.
    #[arg(long, env = "WINDLASS_REGISTRY_IMAGE", default_value = concat!("windlass-registry:", env!("CARGO_PKG_VERSION")))]
    pub registry_image: String,
    /// Address of the hub that `hf://` sources name.
    #[arg(long, env = "WINDLASS_HUB_URL", default_value = "https://huggingface.co")]
    pub hub_url: String,
    /// Pull policy of both images.
    #[arg(long, env = "WINDLASS_IMAGE_PULL_POLICY", default_value = "IfNotPresent", value_parser = ["IfNotPresent", "Always", "Never"])]
    pub image_pull_policy: String,
    /// Node label that names the product of an accelerator.
    #[arg(long, env = "WINDLASS_PRODUCT_LABEL", default_value = "nvidia.com/gpu.product")]
    pub product_label: String,
    /// Node label with the memory of an accelerator in MiB.
    #[arg(long, env = "WINDLASS_MEMORY_LABEL", default_value = "nvidia.com/gpu.memory")]
    pub memory_label: String,
    /// Namespace of the operator itself: its pods may reach the model pods.
    #[arg(long, env = "WINDLASS_OPERATOR_NAMESPACE")]
    pub operator_namespace: Option<String>,
    /// Namespaces whose pods may reach the model pods' HTTP port, in addition to their own: Prometheus, an ingress
    /// controller, a gateway; may be repeated.
    #[arg(long = "client-namespace", env = "WINDLASS_CLIENT_NAMESPACES", value_delimiter = ',')]
    pub client_namespaces: Vec<String>,
    /// Whether the cluster has native sidecars (restartPolicy Always of init containers, Kubernetes 1.29 and later).
    /// Defaults to what the API server's version says; `render` assumes true.
    #[arg(long, env = "WINDLASS_NATIVE_SIDECARS")]
    pub native_sidecars: Option<bool>,
    /// Leaves users and groups of model pods to the platform, as OpenShift's restricted-v2 demands.
    #[arg(long, env = "WINDLASS_PLATFORM_USERS")]
    pub platform_users: bool,
    /// A Secret with registry credentials for the images of every model pod; it must exist in each namespace with
    /// models. May be repeated.
    #[arg(
        long = "image-pull-secret",
        env = "WINDLASS_IMAGE_PULL_SECRETS",
        value_delimiter = ','
    )]
    pub image_pull_secrets: Vec<String>,
    /// Architectures that the server's and the registry's images have, as nodes name them (amd64, arm64): pods are
    /// scheduled to such nodes only. May be repeated. Defaults to any.
    #[arg(
        long = "image-architecture",
        env = "WINDLASS_IMAGE_ARCHITECTURES",
        value_delimiter = ','
    )]
    pub image_architectures: Vec<String>,
    /// Proxy for fetching models from https:// addresses, without credentials: the address becomes part of each pod.
    #[arg(long, env = "WINDLASS_HTTPS_PROXY", value_parser = proxy)]
    pub https_proxy: Option<String>,
    /// The same for http:// addresses.
    #[arg(long, env = "WINDLASS_HTTP_PROXY", value_parser = proxy)]
    pub http_proxy: Option<String>,
    /// Hosts, domains and CIDR blocks that are fetched from without a proxy, separated by commas.
    #[arg(long, env = "WINDLASS_NO_PROXY")]
    pub no_proxy: Option<String>,
    /// A ConfigMap whose key `ca.crt` holds the certificate authorities (PEM) that sources are checked against, in
    /// addition to the public ones; it must exist in each namespace with models.
    #[arg(long, env = "WINDLASS_CA_CONFIG_MAP")]
    pub ca_config_map: Option<String>,
    #[command(flatten)]
    pub defaults: DefaultResources,
}

/// Resources of models whose spec.resources leaves them out.
#[derive(Debug, Clone, Default, PartialEq, Eq, ClapArgs)]
pub struct DefaultResources {
    /// spec.resources.cpu of models that leave it out.
    #[arg(long = "default-cpu", env = "WINDLASS_DEFAULT_CPU", value_parser = amount)]
    pub cpu: Option<Amount>,
    /// spec.resources.cpuLimit of models that leave it out.
    #[arg(long = "default-cpu-limit", env = "WINDLASS_DEFAULT_CPU_LIMIT", value_parser = amount)]
    pub cpu_limit: Option<Amount>,
    /// spec.resources.memory of models that leave it out.
    #[arg(long = "default-memory", env = "WINDLASS_DEFAULT_MEMORY", value_parser = amount)]
    pub memory: Option<Amount>,
    /// spec.resources.ephemeralStorage of models that leave it out.
    #[arg(long = "default-ephemeral-storage", env = "WINDLASS_DEFAULT_EPHEMERAL_STORAGE", value_parser = amount)]
    pub ephemeral_storage: Option<Amount>,
}

/// A quantity of more than zero.
fn amount(text: &str) -> Result<Amount, String> {
    let amount = Amount(text.to_owned());
    match amount.milli()? {
        1.. => Ok(amount),
        _ => Err("must be more than zero".to_owned()),
    }
}

/// The address of a proxy. Credentials in it would be readable by everybody who may read pods.
fn proxy(text: &str) -> Result<String, String> {
    let rest = ["http://", "https://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme));
    match rest {
        None | Some("") => Err("use http://host:port".to_owned()),
        Some(rest) if rest.contains('@') => {
            Err("must not contain credentials: the address becomes part of each pod".to_owned())
        }
        Some(_) => Ok(text.to_owned()),
    }
}

#[derive(Debug, ClapArgs)]
pub struct RunArgs {
    #[command(flatten)]
    pub build: BuildArgs,
    /// Watches this namespace only; may be repeated. Defaults to all namespaces.
    #[arg(long = "namespace", env = "WINDLASS_NAMESPACE", value_delimiter = ',')]
    pub namespaces: Vec<String>,
    /// Where Prometheus finds `/metrics`.
    #[arg(long, env = "WINDLASS_METRICS_LISTEN", default_value = "[::]:8080")]
    pub metrics_listen: SocketAddr,
    /// Where the kubelet finds `/healthz` and `/readyz`.
    #[arg(long, env = "WINDLASS_HEALTH_LISTEN", default_value = "[::]:8081")]
    pub health_listen: SocketAddr,
    /// Name of the Lease that elects the leader; it lies in the operator's namespace.
    #[arg(long, env = "WINDLASS_LEASE_NAME", default_value = "windlass-operator")]
    pub lease_name: String,
    /// Seconds for which an unrenewed lease protects its holder.
    #[arg(long, env = "WINDLASS_LEASE_DURATION", default_value_t = 15, value_parser = clap::value_parser!(u16).range(6..=300))]
    pub lease_duration: u16,
    /// Who holds the lease: the pod's name.
    #[arg(long, env = "WINDLASS_IDENTITY")]
    pub identity: Option<String>,
    /// Objects that are worked on at the same time.
    #[arg(long, env = "WINDLASS_CONCURRENCY", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub concurrency: u16,
    /// Looks at every object again after so many seconds at most, for tests that observe the operator at rest.
    #[arg(long, env = "WINDLASS_RECHECK_SECONDS", hide = true)]
    pub recheck_seconds: Option<u64>,
    /// Ends the process around its n-th write, for tests: `before:N` or `after:N`.
    #[arg(long, env = "WINDLASS_FAULT", hide = true)]
    pub fault: Option<Fault>,
}

#[derive(Debug, ClapArgs)]
pub struct RenderArgs {
    #[command(flatten)]
    pub build: BuildArgs,
    /// The objects, YAML or JSON, one document or several; - is standard input.
    #[arg(short = 'f', long = "file")]
    pub file: PathBuf,
}

/// What the built objects depend on, in addition to the object itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub server_image: String,
    pub registry_image: String,
    pub hub_url: String,
    pub image_pull_policy: String,
    pub product_label: String,
    pub memory_label: String,
    pub operator_namespace: Option<String>,
    pub client_namespaces: Vec<String>,
    pub native_sidecars: bool,
    pub platform_users: bool,
    pub image_pull_secrets: Vec<String>,
    pub image_architectures: Vec<String>,
    pub https_proxy: Option<String>,
    pub http_proxy: Option<String>,
    pub no_proxy: Option<String>,
    pub ca_config_map: Option<String>,
    pub defaults: DefaultResources,
}

impl From<BuildArgs> for Settings {
    fn from(args: BuildArgs) -> Self {
        let BuildArgs {
            server_image,
            registry_image,
            hub_url,
            image_pull_policy,
            product_label,
            memory_label,
            operator_namespace,
            client_namespaces,
            native_sidecars,
            platform_users,
            image_pull_secrets,
            image_architectures,
            https_proxy,
            http_proxy,
            no_proxy,
            ca_config_map,
            defaults,
        } = args;
        let non_empty = |list: Vec<String>| list.into_iter().filter(|name| !name.is_empty()).collect();
        Self {
            server_image,
            registry_image,
            hub_url: hub_url.trim_end_matches('/').to_owned(),
            image_pull_policy,
            product_label,
            memory_label,
            operator_namespace,
            client_namespaces: non_empty(client_namespaces),
            native_sidecars: native_sidecars.unwrap_or(true),
            platform_users,
            image_pull_secrets: non_empty(image_pull_secrets),
            image_architectures: non_empty(image_architectures),
            https_proxy,
            http_proxy,
            no_proxy,
            ca_config_map,
            defaults,
        }
    }
}

/// Which part of the cluster is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All namespaces.
    Cluster,
    /// These namespaces, each once.
    Namespaces(Vec<String>),
}

impl Scope {
    /// The scope that the flags name.
    pub fn from_flags(mut namespaces: Vec<String>) -> Self {
        namespaces.retain(|namespace| !namespace.is_empty());
        namespaces.sort();
        namespaces.dedup();
        if namespaces.is_empty() {
            Self::Cluster
        } else {
            Self::Namespaces(namespaces)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn amounts_and_proxies_are_checked_when_the_operator_starts() {
        assert_eq!(amount("2Gi").map(|amount| amount.units()), Ok(Ok(2 << 30)));
        assert!(amount("0").is_err() && amount("much").is_err());
        assert!(proxy("http://proxy.example:3128").is_ok());
        for refused in ["proxy.example:3128", "http://", "http://user:password@proxy.example"] {
            let message = proxy(refused).expect_err("refused");
            assert!(!message.contains("password"), "{message}");
        }
    }

    #[test]
    fn namespaces_are_watched_once_each_and_none_means_all() {
        assert_eq!(Scope::from_flags(vec![]), Scope::Cluster);
        assert_eq!(Scope::from_flags(vec![String::new()]), Scope::Cluster);
        let twice = ["b", "a", "b"].map(str::to_owned).to_vec();
        assert_eq!(
            Scope::from_flags(twice),
            Scope::Namespaces(vec!["a".into(), "b".into()])
        );
    }
}
