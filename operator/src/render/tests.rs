//! What is rendered: against goldens, against the restricted Pod Security profile, and field by field
//! against the CRD's schema.
use std::path::PathBuf;

use serde_json::json;

use super::*;
use crate::model_deployment::fixtures::settings;

mod campaign;

const FIXTURES: [&str; 6] = ["minimal", "gpu", "claim", "custom", "everything", "embed"];

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn fixture(name: &str) -> Value {
    let text = std::fs::read_to_string(path(&format!("{name}.yaml"))).expect("fixture");
    serde_yaml::from_str(&text).expect("YAML")
}

fn rendered(name: &str) -> Vec<Value> {
    children(fixture(name), &settings()).expect("rendered")
}

fn pod_spec(children: &[Value]) -> Value {
    let deployment = children
        .iter()
        .find(|child| child["kind"] == "Deployment")
        .expect("Deployment");
    deployment["spec"]["template"]["spec"].clone()
}

#[test]
fn the_fixtures_render_as_their_goldens_say() {
    for name in FIXTURES {
        let golden = path(&format!("{name}.golden.yaml"));
        let text = documents(fixture(name), &settings()).expect("rendered");
        if std::env::var_os("WINDLASS_UPDATE_GOLDENS").is_some() {
            std::fs::write(&golden, &text).expect("written");
        }
        let committed = std::fs::read_to_string(&golden).unwrap_or_default();
        assert!(
            committed == text,
            "{name}: WINDLASS_UPDATE_GOLDENS=1 cargo test -p windlass-operator rewrites the goldens; read the difference"
        );
    }
}

#[test]
fn the_shortest_deadline_makes_a_deployment_that_kubernetes_takes() {
    let mut object = fixture("minimal");
    object["spec"]["rollout"] = json!({"progressDeadline": "10s"});
    let children = children(object, &settings()).expect("rendered");
    let deployment = children.last().expect("Deployment");
    let seconds = |field: &str| deployment["spec"][field].as_u64().expect("seconds");
    assert!(
        seconds("progressDeadlineSeconds") > seconds("minReadySeconds"),
        "{deployment}"
    );
}

#[test]
fn rendering_is_a_function() {
    for name in FIXTURES {
        assert_eq!(rendered(name), rendered(name), "{name}");
    }
}

#[test]
fn every_pod_satisfies_the_restricted_profile_unless_a_custom_runtime_asks_for_root() {
    for name in FIXTURES {
        let pod = pod_spec(&rendered(name));
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
        assert_eq!(
            pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault",
            "{name}"
        );
        assert_eq!(pod["automountServiceAccountToken"], false, "{name}");
        for key in ["hostNetwork", "hostPID", "hostIPC"] {
            assert!(pod.get(key).is_none(), "{name}: {key}");
        }
        let all = ["initContainers", "containers"]
            .into_iter()
            .flat_map(|list| pod[list].as_array().expect("containers").clone());
        for container in all {
            let security = &container["securityContext"];
            assert_eq!(security["allowPrivilegeEscalation"], false, "{name}");
            assert_eq!(security["capabilities"], json!({"drop": ["ALL"]}), "{name}");
            let asked_for_root = name == "custom" && container["name"] == "engine";
            assert_eq!(security["readOnlyRootFilesystem"], !asked_for_root, "{name}");
            assert!(
                asked_for_root || security.get("runAsNonRoot").is_none_or(|flag| flag == true),
                "{name}"
            );
        }
        for volume in pod["volumes"].as_array().expect("volumes") {
            let kinds: Vec<&String> = volume
                .as_object()
                .expect("volume")
                .keys()
                .filter(|key| *key != "name")
                .collect();
            assert!(
                ["emptyDir", "configMap", "secret", "persistentVolumeClaim"]
                    .iter()
                    .any(|kind| kinds == [kind]),
                "{name}: {volume}"
            );
        }
    }
}

#[test]
fn every_child_stays_in_the_namespace_has_its_owner_and_takes_no_label_of_the_object() {
    for name in FIXTURES {
        let namespace = fixture(name)["metadata"]["namespace"]
            .as_str()
            .unwrap_or("default")
            .to_owned();
        for child in rendered(name) {
            let metadata = &child["metadata"];
            assert_eq!(metadata["namespace"], namespace, "{name}");
            assert_eq!(metadata["ownerReferences"][0]["kind"], "ModelDeployment", "{name}");
            assert_eq!(metadata["ownerReferences"][0]["controller"], true, "{name}");
            assert!(metadata["name"].as_str().is_some_and(|text| text.len() <= 63), "{name}");
            assert!(!child.to_string().contains("not-copied"), "{name}: {child}");
            assert!(!child.to_string().contains("null"), "{name}: {child}");
        }
    }
}

#[test]
fn a_claim_gets_no_way_out_and_downloads_cannot_reach_the_metadata_service() {
    let egress = |name: &str| {
        let children = rendered(name);
        children
            .iter()
            .find(|child| child["kind"] == "NetworkPolicy")
            .expect("policy")["spec"]["egress"]
            .clone()
    };
    assert_eq!(egress("claim"), json!([]));
    assert!(
        egress("minimal")
            .to_string()
            .contains(r#""except":["169.254.169.254/32"]"#)
    );
}

#[test]
fn what_an_accelerator_demands_stands_in_each_of_the_users_terms() {
    let pod = pod_spec(&rendered("gpu"));
    let terms =
        pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"].clone();
    let terms = terms.as_array().expect("terms");
    for term in &terms[..2] {
        let text = term.to_string();
        assert!(
            text.contains("nvidia.com/gpu.product") && text.contains("nvidia.com/gpu.memory"),
            "{text}"
        );
    }
    assert_eq!(
        terms[2],
        json!({}),
        "a term that matches no node must not begin to match some"
    );
    assert_eq!(pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"], "2");
}

#[test]
fn an_object_without_the_fields_that_came_later_keeps_its_revision() {
    let mut object = fixture("everything");
    let engine = object["spec"]["engine"].as_object_mut().expect("an engine");
    for later in ["stepTime", "speculativeTokens", "kvCache"] {
        engine.remove(later).expect("a field of the fixture");
    }
    let children = children(object, &settings()).expect("rendered");
    // What the operator that did not know them rendered for the same object.
    assert!(
        children
            .iter()
            .any(|child| child["metadata"]["name"] == "chat-model-afbbe62716"),
        "{children:?}"
    );
    let args = pod_spec(&children)["containers"][0]["args"].to_string();
    for later in ["--step-time", "--speculate", "--kv-cache-type"] {
        assert!(!args.contains(later), "{args}");
    }
}

#[test]
fn an_invalid_file_is_refused_with_every_problem() {
    let mut object = fixture("minimal");
    object["spec"]["replicas"] = json!(0);
    object["spec"]["resources"] = json!({"cpu": "x"});
    let message = children(object, &settings()).expect_err("rendered").to_string();
    assert!(
        message.contains("suspend") && message.contains("spec.resources.cpu"),
        "{message}"
    );
}

#[test]
fn the_secret_reaches_the_pod_by_reference_only() {
    let pod = pod_spec(&rendered("custom"));
    let token = &pod["initContainers"][0]["env"]
        .as_array()
        .expect("env")
        .iter()
        .find(|v| v["name"] == "WINDLASS_SOURCE_TOKEN")
        .expect("token")["valueFrom"];
    assert_eq!(
        *token,
        json!({"secretKeyRef": {"name": "models-token", "key": "token"}})
    );
}

#[test]
fn several_documents_are_read_and_what_is_no_object_of_ours_is_refused_by_name() {
    let object = std::fs::read_to_string(path("minimal.yaml")).expect("fixture");
    assert_eq!(
        objects(&format!("---\n{object}\n---\n\n---\n{object}"))
            .expect("objects")
            .len(),
        2
    );
    assert!(objects("---\n").is_err());
    assert!(objects("kind: A\nkind: B\n").is_err(), "a key that stands twice");
    let mut other = fixture("minimal");
    other["kind"] = json!("ModelDeploymnt");
    let message = children(other, &settings()).expect_err("rendered").to_string();
    assert!(
        message.contains("ModelDeploymnt") && message.contains("ModelDeployment"),
        "{message}"
    );
    let mut unknown = fixture("minimal");
    unknown["spec"]["replica"] = json!(2);
    let message = children(unknown, &settings()).expect_err("rendered").to_string();
    assert_eq!(message, "spec.replica: is an unknown field");
}

#[test]
fn a_cluster_without_native_sidecars_gets_an_ordinary_container_that_verifies() {
    let old = Settings {
        native_sidecars: false,
        ..settings()
    };
    let names = |settings: &Settings, list: &str| {
        let pod = pod_spec(&children(fixture("custom"), settings).expect("rendered"));
        let containers = pod[list].as_array().expect("list").clone();
        containers
            .iter()
            .map(|container| container["name"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&settings(), "initContainers"), ["model", "verify"]);
    assert_eq!(names(&settings(), "containers"), ["engine"]);
    assert_eq!(names(&old, "initContainers"), ["model"]);
    assert_eq!(names(&old, "containers"), ["engine", "verify"]);
}

#[test]
fn what_the_platform_demands_reaches_every_pod() {
    let amount = |text: &str| Some(windlass_crds::quantity::Amount(text.to_owned()));
    let demanding = Settings {
        platform_users: true,
        image_pull_secrets: vec!["registry".into(), "mirror".into()],
        image_architectures: vec!["arm64".into()],
        https_proxy: Some("http://proxy.example:3128".into()),
        no_proxy: Some(".svc".into()),
        ca_config_map: Some("company-ca".into()),
        defaults: crate::args::DefaultResources {
            cpu: amount("2"),
            cpu_limit: amount("4"),
            memory: amount("1Gi"),
            ephemeral_storage: amount("9Gi"),
        },
        ..settings()
    };
    let pod = |name: &str| pod_spec(&children(fixture(name), &demanding).expect("rendered"));
    let minimal = pod("minimal");
    let security = &minimal["securityContext"];
    assert_eq!(security["runAsNonRoot"], true);
    for assigned in ["runAsUser", "runAsGroup", "fsGroup"] {
        assert_eq!(security[assigned], Value::Null);
    }
    assert!(minimal["affinity"].to_string().contains(r#""values":["arm64"]"#));
    let model = &minimal["initContainers"][0];
    for (name, value) in [
        ("HTTPS_PROXY", "http://proxy.example:3128"),
        ("NO_PROXY", ".svc"),
        ("WINDLASS_CA_BUNDLE", "/etc/windlass/ca/ca.crt"),
    ] {
        let variables = model["env"].as_array().expect("env");
        assert!(variables.contains(&json!({"name": name, "value": value})), "{name}");
    }
    assert_eq!(model["resources"]["limits"]["cpu"], "1");
    let engine = &minimal["containers"][0];
    assert_eq!(
        engine["resources"],
        json!({"requests": {"cpu": "2", "memory": "1Gi", "ephemeral-storage": "9Gi"}, "limits": {"cpu": "4", "memory": "1Gi"}})
    );
    assert!(engine["args"].to_string().contains(r#""--threads","2""#));
    let volumes = minimal["volumes"].as_array().expect("volumes");
    assert!(volumes.contains(&json!({"name": "models", "emptyDir": {"sizeLimit": "9Gi"}})));
    assert!(volumes.contains(&json!({"name": "ca", "configMap": {"name": "company-ca"}})));

    // What the object says itself counts, and the operator's secrets come after its own.
    let everything = pod("everything");
    assert_eq!(
        everything["imagePullSecrets"],
        json!([{"name": "registry"}, {"name": "mirror"}])
    );
    assert_eq!(everything["containers"][0]["resources"]["requests"]["memory"], "4Gi");
    let claim = pod("claim");
    assert_eq!(
        claim["containers"][0]["resources"]["requests"].get("ephemeral-storage"),
        None,
        "a model on a claim takes no space of the node"
    );
}

#[test]
fn the_drain_of_the_server_ends_before_the_pod_is_killed() {
    let mut object = fixture("minimal");
    object["spec"]["terminationGracePeriodSeconds"] = json!(300);
    let pod = pod_spec(&children(object, &settings()).expect("rendered"));
    assert_eq!(pod["terminationGracePeriodSeconds"], 300);
    assert!(
        pod["containers"][0]["args"]
            .to_string()
            .contains(r#""--drain-timeout","285s""#)
    );
}

#[test]
fn the_runtimes_key_reaches_the_verification_by_reference_only() {
    let pod = pod_spec(&rendered("custom"));
    let variable = &pod["initContainers"][1]["env"][0];
    let reference = json!({"secretKeyRef": {"name": "runtime-key", "key": "key"}});
    assert_eq!(
        (&variable["name"], &variable["valueFrom"]),
        (&json!("WINDLASS_RUNTIME_KEY"), &reference)
    );
}
