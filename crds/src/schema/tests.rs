//! The finished CRD against the rules of the API, and its CEL rules against objects.
use super::*;

fn schema() -> Value {
    crd::<ModelDeployment>().expect("CRD")["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

fn minimal() -> Value {
    json!({
        "apiVersion": "windlass.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "chat"},
        "spec": {"model": {"source": "hf://org/repo/model.gguf"}},
    })
}

fn with(pointer: &str, value: Value) -> Value {
    let mut object = minimal();
    let mut target = &mut object;
    for key in pointer.trim_start_matches('/').split('/') {
        target = &mut target[key];
    }
    *target = value;
    object
}

fn refusal(object: &Value) -> String {
    check_rules::<ModelDeployment>(object, None)
        .expect_err("the object was accepted")
        .join("; ")
}

#[test]
fn the_chart_and_the_reference_are_what_is_generated() {
    for (path, text) in generated().expect("files") {
        let file = format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"));
        let committed = std::fs::read_to_string(&file).expect(path);
        assert!(committed == text, "{path} is not what is generated: run `make crds`");
        assert!(
            !path.starts_with("charts/") || !committed.contains("{{"),
            "Helm would read {path} as a template"
        );
    }
}

#[test]
fn the_reference_names_every_field_with_its_bounds() {
    let text = reference::reference::<ModelDeployment>().expect("reference");
    for line in [
        "## spec.engine.volumes[]",
        "## status.revision",
        "| `source` | string | required; 1 to 1024 characters |",
        "| `replicas` | integer | 0 to 1000 |",
        "| `tolerations` | list of object, as in a Pod | at most 32 items |",
        "| `cpu` | quantity |",
        "one of Auto, Surge, Recreate |",
        "- `progressDeadline`: progressDeadline must be a duration",
    ] {
        assert!(text.contains(line), "no {line:?} in:\n{text}");
    }
}

#[test]
fn the_crd_is_small_enough_for_every_client() {
    assert!(crd::<ModelDeployment>().expect("CRD").to_string().len() < 200 * 1024);
}

#[test]
fn the_spec_has_no_default_and_nothing_is_nullable_or_unbounded() {
    let mut schema = schema();
    walk(&mut schema, &mut |map| {
        assert!(!map.contains_key("nullable"), "{map:?}")
    });
    walk(&mut schema["properties"]["spec"], &mut |map| {
        assert!(!map.contains_key("default"), "{map:?}");
        assert!(!map.contains_key("x-kubernetes-preserve-unknown-fields"), "{map:?}");
        let bound = match map.get("type").and_then(Value::as_str) {
            Some("array") => "maxItems",
            Some("string") if !map.contains_key("enum") => "maxLength",
            Some("object") if map.contains_key("additionalProperties") => "maxProperties",
            _ => return,
        };
        assert!(map.contains_key(bound), "no {bound} in {map:?}");
    });
}

#[test]
fn no_reference_can_leave_the_namespace() {
    let schema = schema();
    for pointer in [
        "/properties/spec/properties/model/properties/credentialsSecretRef",
        "/properties/spec/properties/imagePullSecrets/items",
        "/properties/spec/properties/engine/properties/volumes/items/properties/secret",
        "/properties/spec/properties/engine/properties/volumes/items/properties/configMap",
        "/properties/spec/properties/engine/properties/volumes/items/properties/persistentVolumeClaim",
    ] {
        let reference = schema.pointer(pointer).unwrap_or_else(|| panic!("{pointer} is gone"));
        assert!(
            reference["properties"].get("namespace").is_none(),
            "{pointer} has a namespace"
        );
    }
}

#[test]
fn the_status_tolerates_what_a_newer_operator_writes() {
    let mut schema = schema();
    let status = &mut schema["properties"]["status"];
    assert_eq!(status["default"], json!({"observedGeneration": -1}));
    assert_eq!(status["properties"]["conditions"]["x-kubernetes-list-type"], "map");
    assert_eq!(
        status["properties"]["conditions"]["x-kubernetes-list-map-keys"],
        json!(["type"])
    );
    assert_eq!(status["properties"]["conditions"]["items"]["required"], json!(["type"]));
    status["properties"]["conditions"]["items"]["required"] = json!(null);
    walk(status, &mut |map| {
        let required = map.get("required").is_some_and(|required| !required.is_null());
        assert!(!required && !map.contains_key("enum"), "{map:?}");
        assert!(!map.contains_key("x-kubernetes-validations"), "{map:?}");
    });
}

#[test]
fn kubectl_scale_writes_the_number_of_replicas_and_an_autoscaler_finds_the_pods() {
    let crd = crd::<ModelDeployment>().expect("CRD");
    let subresources = &crd["spec"]["versions"][0]["subresources"];
    assert!(subresources.get("status").is_some());
    assert_eq!(
        subresources["scale"],
        json!({"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas.current",
            "labelSelectorPath": ".status.selector"})
    );
}

#[test]
fn the_columns_answer_the_first_questions() {
    let crd = crd::<ModelDeployment>().expect("CRD");
    let columns = crd["spec"]["versions"][0]["additionalPrinterColumns"]
        .as_array()
        .expect("columns");
    let names: Vec<&str> = columns.iter().filter_map(|column| column["name"].as_str()).collect();
    assert_eq!(names, ["Ready", "Reason", "Replicas", "Model", "URL", "Age", "Digest"]);
    assert_eq!(crd["spec"]["names"]["shortNames"], json!(["wmd"]));
    assert_eq!(crd["spec"]["names"]["categories"], json!(["windlass"]));
}

#[test]
fn every_rule_compiles_and_names_its_fix() {
    let mut schema = schema();
    assert!(!compile_schema(&schema).has_errors());
    let mut rules = 0;
    walk(&mut schema, &mut |map| {
        for rule in map
            .get("x-kubernetes-validations")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            rules += 1;
            let message = rule["message"].as_str().expect("a message");
            assert!(message.len() > 30, "{message}");
        }
    });
    assert!(rules > 20, "{rules} rules");
}

#[test]
fn a_minimal_object_and_its_edit_are_accepted() {
    assert_eq!(check_rules::<ModelDeployment>(&minimal(), None), Ok(()));
    let edited = with("/spec/model/source", json!("https://host/other.gguf"));
    assert_eq!(check_rules::<ModelDeployment>(&edited, Some(&minimal())), Ok(()));
}

#[test]
fn an_edit_is_held_to_the_same_rules() {
    let edited = with("/spec/model/digest", json!("sha256:short"));
    let messages = check_rules::<ModelDeployment>(&edited, Some(&minimal())).expect_err("the edit was accepted");
    assert!(messages.join(";").contains("64 lower-case hex digits"), "{messages:?}");
}

#[test]
fn the_derived_client_side_validators_agree() {
    let object: ModelDeployment = serde_json::from_value(minimal()).expect("object");
    assert!(object.validate_cel().is_ok());
    let bad: ModelDeployment =
        serde_json::from_value(with("/spec/engine", json!({"runtime": "Custom"}))).expect("object");
    assert!(bad.validate_cel().is_err());
    assert!(bad.validate_cel_update(&object).is_err());
    assert!(object.validate_cel_update(&bad).is_ok());
}

#[test]
fn names_that_would_not_fit_are_refused() {
    for name in ["Chat", "1chat", "chat-", "chat.small", &"a".repeat(41)] {
        let message = refusal(&with("/metadata/name", json!(name)));
        assert!(message.contains("at most 40 characters"), "{name}: {message}");
    }
    assert_eq!(
        check_rules::<ModelDeployment>(&with("/metadata/name", json!("a".repeat(40))), None),
        Ok(())
    );
}

#[test]
fn the_rule_and_the_parser_accept_the_same_sources() {
    for source in [
        "hf://org/repo/model.gguf",
        "hf://org/repo/a/b.gguf",
        "hf://org/repo",
        "hf://org/repo/../x",
        "hf://org/repo/x/..",
        "hf://org/repo//x",
        "hf://org/repo/a..b.gguf",
        "https://host/x.gguf",
        "https://host:8443/a%20b/x.gguf?sig=1",
        "https://user:pw@host/x.gguf",
        "https://host/",
        "https://host/x#y",
        "http://host/x.gguf",
        "pvc://claim/x.gguf",
        "pvc://claim/a/../x",
        "pvc://claim/",
        "pvc://claim",
        "pvc://-claim/x",
        "pvc://../x",
        "s3://bucket/x",
        "",
    ] {
        let mut object = with("/spec/model/source", json!(source));
        if source == "hf://org/repo" {
            object["spec"]["model"]["task"] = json!("Embed");
        }
        let rule = check_rules::<ModelDeployment>(&object, None);
        let parser = crate::model_deployment::source::Source::parse(source);
        assert_eq!(
            rule.is_ok(),
            parser.is_ok(),
            "{source}: rule {rule:?}, parser {parser:?}"
        );
    }
}

#[test]
fn an_object_that_passed_is_remembered_with_its_name_and_spec_and_no_other_object_with_it() {
    for _ in 0..2 {
        assert_eq!(check_rules::<ModelDeployment>(&minimal(), None), Ok(()));
        for (pointer, value) in [("/spec/replicas", json!(0)), ("/metadata/name", json!("1-chat"))] {
            refusal(&with(pointer, value));
        }
    }
}

#[test]
fn contradictions_are_refused_with_a_remedy() {
    let custom = json!({"image": "vllm/vllm-openai:v0.23.0"});
    let volume = |extra: Value| {
        let mut volume = json!({"name": "files", "mountPath": "/files", "type": "EmptyDir"});
        volume
            .as_object_mut()
            .expect("object")
            .extend(extra.as_object().expect("object").clone());
        json!({"volumes": [volume]})
    };
    let with_custom = |key: &str, value: Value| {
        let mut custom = custom.clone();
        custom[key] = value;
        json!({"runtime": "Custom", "custom": custom})
    };
    let accelerator = |key: &str, value: Value| {
        let mut accelerator = json!({"resource": "nvidia.com/gpu"});
        accelerator[key] = value;
        json!({"accelerator": accelerator})
    };
    let cases = [
        ("/spec/replicas", json!(0), "suspend"),
        (
            "/spec",
            json!({"model": {"source": "hf://org/repo/model.gguf"}, "replicas": 2, "scaling": {"mode": "External"}}),
            "replicas must be left out",
        ),
        ("/spec/engine", json!({"runtime": "Custom"}), "set both or neither"),
        ("/spec/engine", json!({"custom": custom}), "set both or neither"),
        (
            "/spec/engine",
            json!({"runtime": "Custom", "custom": custom, "contextLength": 4096}),
            "custom.args",
        ),
        ("/spec/engine", json!({"maxBatchTokens": 31}), "at least maxSequences"),
        (
            "/spec/engine",
            json!({"maxSequences": 513, "maxBatchTokens": 512}),
            "at least maxSequences",
        ),
        ("/spec/engine", json!({"stepTime": "5ms1s"}), "40ms or 1s500ms"),
        ("/spec/engine", with_custom("port", json!(8081)), "choose another"),
        (
            "/spec/engine",
            with_custom("probePath", json!("health")),
            "begins with /",
        ),
        (
            "/spec/engine",
            json!({"env": [{"name": "WINDLASS_X", "value": "1"}]}),
            "belong to Windlass",
        ),
        (
            "/spec/engine",
            volume(json!({"mountPath": "/models/x"})),
            "outside /models",
        ),
        (
            "/spec/engine",
            volume(json!({"mountPath": "/a/../b"})),
            "outside /models",
        ),
        ("/spec/engine", volume(json!({"name": "models"})), "choose another"),
        ("/spec/engine", volume(json!({"type": "Secret"})), "exactly the member"),
        (
            "/spec/engine",
            volume(json!({"secret": {"name": "x"}})),
            "exactly the member",
        ),
        (
            "/spec/resources",
            accelerator("resource", json!("gpu")),
            "extended resource",
        ),
        (
            "/spec/resources",
            accelerator("resource", json!("kubernetes.io/gpu")),
            "belong to Kubernetes",
        ),
        (
            "/spec/resources",
            accelerator("products", json!(["NVIDIA L4"])),
            "appear there as -",
        ),
        (
            "/spec/podLabels",
            json!({"windlass.dev/revision": "x"}),
            "another prefix",
        ),
        (
            "/spec/podLabels",
            json!({"app.kubernetes.io/name": "x"}),
            "another prefix",
        ),
        ("/spec/podAnnotations", json!({"windlass.dev/x": "x"}), "another prefix"),
        ("/spec/rollout", json!({"progressDeadline": "soon"}), "45m or 1h30m"),
        ("/spec/model/revision", json!("a/../b"), "branch, tag or commit"),
        ("/spec/model/servedName", json!("-x"), "chat-small"),
        ("/spec/model/task", json!("Embed"), "correct model.source or model.task"),
        (
            "/spec/model/source",
            json!("hf://org/repo"),
            "correct model.source or model.task",
        ),
        (
            "/spec/model/allowPatterns",
            json!(["*.json"]),
            "belong to whole repositories",
        ),
        (
            "/spec",
            json!({"model": {"source": "hf://org/repo", "task": "Embed"}, "engine": {"contextLength": 512}}),
            "have no effect with task: Embed",
        ),
    ];
    for (pointer, value, way_out) in cases {
        let message = refusal(&with(pointer, value.clone()));
        assert!(message.contains(way_out), "{pointer} {value}: {message}");
    }
}

#[test]
fn a_custom_runtime_takes_no_field_of_the_windlass_runtime() {
    let schema = schema();
    let engine = schema
        .pointer("/properties/spec/properties/engine/properties")
        .and_then(Value::as_object)
        .expect("the engine's fields");
    // What both runtimes have.
    let shared = ["runtime", "custom", "env", "volumes", "securityContext", "probes"];
    let fields: Vec<&String> = engine.keys().filter(|name| !shared.contains(&name.as_str())).collect();
    assert!(fields.len() >= 6, "{fields:?}");
    for field in fields {
        let value = match engine[field]["type"].as_str() {
            Some("string") => json!("40ms"),
            Some("object") => json!({}),
            _ => engine[field]["maximum"].clone(),
        };
        let mut object = with("/spec/engine", json!({"runtime": "Windlass", field.as_str(): value}));
        assert_eq!(check_rules::<ModelDeployment>(&object, None), Ok(()), "{field}");
        object["spec"]["engine"]["runtime"] = json!("Custom");
        object["spec"]["engine"]["custom"] = json!({"image": "vllm/vllm-openai:v0.23.0"});
        let message = refusal(&object);
        let (named, _) = message
            .split_once(" belong to the Windlass runtime")
            .expect("the rule's message");
        assert!(named.contains(field.as_str()), "{field}: {message}");
    }
}

#[test]
fn fields_of_the_engine_that_are_not_given_are_not_written() {
    let engine = crate::model_deployment::engine::Engine::default();
    assert_eq!(serde_json::to_value(engine).expect("JSON"), json!({}));
}

#[test]
fn a_claim_takes_neither_revision_nor_credentials() {
    let model = |key: &str, value: Value| {
        let mut model = json!({"source": "pvc://claim/m.gguf"});
        model[key] = value;
        with("/spec/model", model)
    };
    assert!(refusal(&model("revision", json!("main"))).contains("belongs to hf://"));
    assert!(refusal(&model("credentialsSecretRef", json!({"name": "x"}))).contains("needs no credentials"));
}
