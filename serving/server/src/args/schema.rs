//! The flags against what a ModelDeployment may ask of them: the CRD's schema and the operator's goldens are the
//! contract, read as files.
use super::*;
use clap::CommandFactory;
use serde::Deserialize as _;
use serde_json::Value;

fn file(path: &str) -> String {
    let path = format!("{}/../../{path}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The schemas of `spec.engine`'s fields.
fn engine_fields() -> Value {
    let crd: Value = serde_yaml::from_str(&file("charts/windlass-crds/templates/modeldeployments.yaml")).unwrap();
    let path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/engine/properties";
    crd.pointer(path).unwrap().clone()
}

fn is_taken(flag: &str, value: &str) -> bool {
    Args::try_parse_from(["windlass-server", "--model", "m.gguf", flag, value]).is_ok()
}

/// What a flag is without being given.
fn default_of(flag: &str) -> String {
    let command = Args::command();
    let argument = command
        .get_arguments()
        .find(|argument| argument.get_long() == flag.strip_prefix("--"));
    argument.unwrap().get_default_values()[0].to_str().unwrap().to_owned()
}

#[test]
fn the_flags_take_every_number_that_a_model_deployment_may_have() {
    let fields = engine_fields();
    for (field, flag) in [
        ("contextLength", "--context-length"),
        ("maxSequences", "--max-sequences"),
        ("maxBatchTokens", "--max-batch-tokens"),
        ("speculativeTokens", "--speculate"),
    ] {
        for limit in ["minimum", "maximum"] {
            let value = fields[field][limit].as_u64().unwrap();
            assert!(is_taken(flag, &value.to_string()), "{field}: {value}");
        }
    }
    // The longest time of `crds/src/validate.rs`, as the operator writes it.
    assert!(is_taken("--step-time", "60000ms"));
    let guesses = fields["speculativeTokens"]["maximum"].as_u64().unwrap();
    assert!(
        !is_taken("--speculate", &(guesses + 1).to_string()),
        "the schema allows too few"
    );
}

#[test]
fn the_schema_and_the_flag_know_the_same_types_of_keys_and_values() {
    let fields = engine_fields();
    let asked = fields["kvCache"]["properties"]["dtype"]["enum"].as_array().unwrap();
    let asked: Vec<String> = asked.iter().map(|name| name.as_str().unwrap().to_lowercase()).collect();
    let known = KvCacheType::value_variants().iter();
    let known: Vec<String> = known
        .map(|kind| kind.to_possible_value().unwrap().get_name().to_owned())
        .collect();
    assert_eq!(asked, known);
}

#[test]
fn the_schema_knows_how_many_sequences_there_are_without_a_number() {
    let rule = "!has(self.maxBatchTokens) || self.maxBatchTokens >= (has(self.maxSequences) ? self.maxSequences : N)";
    let rule = rule.replace('N', &default_of("--max-sequences"));
    assert!(file("charts/windlass-crds/templates/modeldeployments.yaml").contains(&rule));
}

#[test]
fn the_schema_says_what_the_server_does_without_a_field() {
    let fields = engine_fields();
    for (schema, flag) in [
        (&fields["stepTime"], "--step-time"),
        (&fields["speculativeTokens"], "--speculate"),
        (&fields["kvCache"]["properties"]["dtype"], "--kv-cache-type"),
    ] {
        let said = schema["description"].as_str().unwrap().to_lowercase();
        assert!(
            said.ends_with(&format!("defaults to {}.", default_of(flag))),
            "{flag}: {said}"
        );
    }
}

#[test]
fn the_server_takes_the_arguments_that_the_operator_gives_it() {
    let parsed = |golden: &str| {
        let text = file(&format!("operator/fixtures/{golden}.golden.yaml"));
        let documents = serde_yaml::Deserializer::from_str(&text);
        let children: Vec<Value> = documents
            .map(|document| Value::deserialize(document).unwrap())
            .collect();
        let deployment = children.iter().find(|child| child["kind"] == "Deployment").unwrap();
        let args = deployment.pointer("/spec/template/spec/containers/0/args").unwrap();
        let args = args.as_array().unwrap().iter().map(|arg| arg.as_str().unwrap());
        Args::try_parse_from(["windlass-server"].into_iter().chain(args)).unwrap()
    };
    assert_eq!(parsed("minimal").kv_cache_type, KvCacheType::F16);
    // As `operator/fixtures/everything.yaml` asks.
    let args = parsed("everything");
    assert_eq!(
        (args.context_length, args.max_sequences, args.max_batch_tokens),
        (Some(8192), 8, Some(512))
    );
    assert_eq!(args.step_time, Duration::from_millis(1500));
    assert_eq!((args.speculate, args.kv_cache_type), (3, KvCacheType::Q8));
}
