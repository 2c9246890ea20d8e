//! The rules that CEL cannot say: quantities and durations as numbers, and contradictions between
//! distant fields. Pure; every problem comes as one sentence that begins with the field's path.
use std::time::Duration;

use super::{
    ModelDeploymentSpec,
    engine::{Custom, Engine, VolumeKind},
    source::Source,
};
use crate::{duration, quantity::Amount};

/// The default of `spec.rollout.progressDeadline`.
pub const DEFAULT_PROGRESS_DEADLINE: Duration = Duration::from_secs(30 * 60);
/// Seconds. No engine starts and answers in less; more is taken for a typing error.
const DEADLINE_RANGE: std::ops::RangeInclusive<u64> = 10..=7 * 24 * 3600;
/// The default of `spec.engine.custom.verify.timeout`.
pub const DEFAULT_VERIFY_TIMEOUT: Duration = Duration::from_secs(120);
const VERIFY_RANGE: std::ops::RangeInclusive<u64> = 1..=3600;
/// `40m` where `40ms` was meant is refused.
const LONGEST_STEP_TIME: Duration = Duration::from_secs(60);

/// Every problem of a spec beyond what the schema refuses; empty when there is none.
pub fn problems(spec: &ModelDeploymentSpec) -> Vec<String> {
    let mut problems = Vec::new();
    if let Err(error) = Source::parse(&spec.model.source) {
        problems.push(format!("spec.model.source: {error}"));
    }
    if let Err(message) = progress_deadline(spec) {
        problems.push(format!("spec.rollout.progressDeadline: {message}"));
    }
    if let Err(message) = step_time(spec) {
        problems.push(format!("spec.engine.stepTime: {message}"));
    }
    if let Some(resources) = &spec.resources {
        positive(&mut problems, "spec.resources.cpu", resources.cpu.as_ref());
        positive(&mut problems, "spec.resources.cpuLimit", resources.cpu_limit.as_ref());
        positive(&mut problems, "spec.resources.memory", resources.memory.as_ref());
        positive(
            &mut problems,
            "spec.resources.ephemeralStorage",
            resources.ephemeral_storage.as_ref(),
        );
        if let (Some(Ok(request)), Some(Ok(limit))) = (
            resources.cpu.as_ref().map(Amount::milli),
            resources.cpu_limit.as_ref().map(Amount::milli),
        ) && request > limit
        {
            problems.push("spec.resources.cpuLimit: must not be less than spec.resources.cpu".to_owned());
        }
        if let Some(accelerator) = &resources.accelerator {
            positive(
                &mut problems,
                "spec.resources.accelerator.memory",
                accelerator.memory.as_ref(),
            );
        }
    }
    if let Some(engine) = &spec.engine {
        engine_problems(&mut problems, engine);
    }
    for (field, map) in [
        ("spec.podLabels", spec.pod_labels.as_ref()),
        (
            "spec.placement.nodeSelector",
            spec.placement.as_ref().and_then(|p| p.node_selector.as_ref()),
        ),
    ] {
        for (key, value) in map.into_iter().flatten() {
            if !is_qualified_name(key) || !is_label_value(value) {
                problems.push(format!("{field}: `{key}: {value}` is not a label; keys are [prefix/]name, values letters, digits, - _ and ."));
            }
        }
    }
    for key in spec.pod_annotations.iter().flat_map(|annotations| annotations.keys()) {
        if !is_qualified_name(key) {
            problems.push(format!(
                "spec.podAnnotations: `{key}` is not an annotation key; use [prefix/]name"
            ));
        }
    }
    problems
}

/// The deadline for a new revision.
///
/// # Errors
/// A sentence, when the text is no duration or out of range.
pub fn progress_deadline(spec: &ModelDeploymentSpec) -> Result<Duration, String> {
    let Some(text) = spec
        .rollout
        .as_ref()
        .and_then(|rollout| rollout.progress_deadline.as_ref())
    else {
        return Ok(DEFAULT_PROGRESS_DEADLINE);
    };
    let duration = duration::read(text).ok_or_else(|| format!("`{text}` is not a duration such as 45m or 1h30m"))?;
    if !DEADLINE_RANGE.contains(&duration.as_secs()) {
        return Err(format!("`{text}` must lie between 10s and 168h"));
    }
    Ok(duration)
}

/// How long a step of the engine should take; zero sets no limit, `None` leaves it to the engine.
///
/// # Errors
/// A sentence, when the text is no duration or too long a one.
pub fn step_time(spec: &ModelDeploymentSpec) -> Result<Option<Duration>, String> {
    let text = spec.engine.as_ref().and_then(|engine| engine.step_time.as_deref());
    text.map(|text| engine_time(text, LONGEST_STEP_TIME)).transpose()
}

/// How long a Custom runtime may take to answer its verification request.
///
/// # Errors
/// A sentence, when the text is no duration or out of range.
pub fn verify_timeout(custom: &Custom) -> Result<Duration, String> {
    let Some(text) = custom.verify.as_ref().and_then(|verify| verify.timeout.as_ref()) else {
        return Ok(DEFAULT_VERIFY_TIMEOUT);
    };
    let duration = duration::read(text).ok_or_else(|| format!("`{text}` is not a duration such as 90s or 10m"))?;
    if !VERIFY_RANGE.contains(&duration.as_secs()) {
        return Err(format!("`{text}` must lie between 1s and 1h"));
    }
    Ok(duration)
}

fn engine_time(text: &str, longest: Duration) -> Result<Duration, String> {
    let time = duration::read(text).ok_or_else(|| format!("`{text}` is not a duration such as 40ms or 1s500ms"))?;
    if time > longest {
        return Err(format!("`{text}` is more than {}s", longest.as_secs()));
    }
    Ok(time)
}

fn positive(problems: &mut Vec<String>, field: &str, amount: Option<&Amount>) {
    match amount.map(Amount::milli) {
        None | Some(Ok(1..)) => {}
        Some(Ok(_)) => problems.push(format!(
            "{field}: must be more than zero; leave it out to ask for nothing"
        )),
        Some(Err(message)) => problems.push(format!("{field}: {message}")),
    }
}

fn engine_problems(problems: &mut Vec<String>, engine: &Engine) {
    const FIELD: &str = "spec.engine";
    if let Some(custom) = &engine.custom {
        positive(problems, &format!("{FIELD}.custom.shmSize"), custom.shm_size.as_ref());
        if let Err(message) = verify_timeout(custom) {
            problems.push(format!("{FIELD}.custom.verify.timeout: {message}"));
        }
    }
    for (index, volume) in engine.volumes.iter().flatten().enumerate() {
        if volume.kind == VolumeKind::EmptyDir {
            let limit = volume
                .empty_dir
                .as_ref()
                .and_then(|directory| directory.size_limit.as_ref());
            positive(problems, &format!("{FIELD}.volumes[{index}].emptyDir.sizeLimit"), limit);
        }
    }
    for variable in engine.env.iter().flatten() {
        if variable.value.is_some() && variable.value_from.is_some() {
            problems.push(format!(
                "{FIELD}.env: {} has both value and valueFrom; keep one",
                variable.name
            ));
        }
    }
}

/// `[prefix/]name`, as keys of labels and annotations are.
fn is_qualified_name(key: &str) -> bool {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let prefix_is_good = prefix.is_none_or(|prefix| {
        !prefix.is_empty()
            && prefix.len() <= 253
            && prefix
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
    });
    !name.is_empty() && is_label_value(name) && prefix_is_good
}

/// At most 63 letters, digits, `-`, `_` and `.`, the first and last of them letters or digits.
fn is_label_value(value: &str) -> bool {
    let edge = |b: Option<u8>| b.is_none_or(|b| b.is_ascii_alphanumeric());
    value.len() <= 63
        && edge(value.bytes().next())
        && edge(value.bytes().last())
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(value: Value) -> ModelDeploymentSpec {
        let mut spec = json!({"model": {"source": "hf://org/repo/model.gguf"}});
        spec.as_object_mut()
            .expect("object")
            .extend(value.as_object().expect("object").clone());
        serde_json::from_value(spec).expect("spec")
    }

    #[test]
    fn a_minimal_spec_has_no_problem_and_the_default_deadline() {
        let spec = spec(json!({}));
        assert_eq!(problems(&spec), Vec::<String>::new());
        assert_eq!(progress_deadline(&spec), Ok(DEFAULT_PROGRESS_DEADLINE));
    }

    #[test]
    fn deadlines_are_read_and_bounded() {
        for (text, seconds) in [("45m", 2700), ("1h30m", 5400), ("90s", 90), ("168h", 604_800)] {
            let spec = spec(json!({"rollout": {"progressDeadline": text}}));
            assert_eq!(progress_deadline(&spec), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "9s", "169h", "30", "m", "1m1h", "99999999999999999999h", "-5m"] {
            let spec = spec(json!({"rollout": {"progressDeadline": text}}));
            assert_eq!(problems(&spec).len(), 1, "{text}");
        }
    }

    #[test]
    fn the_time_of_a_step_is_read_and_bounded() {
        for text in ["0s", "40ms", "1m"] {
            let spec = spec(json!({"engine": {"stepTime": text}}));
            assert_eq!(problems(&spec), Vec::<String>::new(), "{text}");
        }
        for (text, problem) in [
            ("40", "not a duration such as 40ms"),
            ("40m", "is more than"),
            ("1m1ms", "is more than"),
        ] {
            let problems = problems(&spec(json!({"engine": {"stepTime": text}})));
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].contains(problem), "{problems:?}");
        }
        let asked = spec(json!({"engine": {"stepTime": "40ms"}}));
        assert_eq!(step_time(&asked), Ok(Some(Duration::from_millis(40))));
        assert_eq!(step_time(&spec(json!({"engine": {}}))), Ok(None));
    }

    #[test]
    fn each_problem_begins_with_its_field() {
        for (value, field) in [
            (json!({"resources": {"cpu": "0"}}), "spec.resources.cpu:"),
            (json!({"resources": {"memory": "-1Gi"}}), "spec.resources.memory:"),
            (
                json!({"resources": {"accelerator": {"resource": "nvidia.com/gpu", "memory": 0}}}),
                "spec.resources.accelerator.memory:",
            ),
            (
                json!({"engine": {"runtime": "Custom", "custom": {"image": "x", "shmSize": "x"}}}),
                "spec.engine.custom.shmSize:",
            ),
            (
                json!({"engine": {"env": [{"name": "A", "value": "1",
                    "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}}),
                "spec.engine.env:",
            ),
            (
                json!({"resources": {"ephemeralStorage": "0"}}),
                "spec.resources.ephemeralStorage:",
            ),
            (
                json!({"resources": {"cpu": "2", "cpuLimit": "1500m"}}),
                "spec.resources.cpuLimit:",
            ),
            (json!({"engine": {"stepTime": "40m"}}), "spec.engine.stepTime:"),
            (
                json!({"engine": {"runtime": "Custom", "custom": {"image": "x", "verify": {"timeout": "2h"}}}}),
                "spec.engine.custom.verify.timeout:",
            ),
            (json!({"podLabels": {"a b": "c"}}), "spec.podLabels:"),
            (json!({"podAnnotations": {"/x": "c"}}), "spec.podAnnotations:"),
            (
                json!({"placement": {"nodeSelector": {"zone": "-"}}}),
                "spec.placement.nodeSelector:",
            ),
            (json!({"model": {"source": "ftp://x"}}), "spec.model.source:"),
        ] {
            let problems = problems(&spec(value.clone()));
            assert!(
                matches!(problems.as_slice(), [problem] if problem.starts_with(field)),
                "{value}: {problems:?}"
            );
        }
    }
}
