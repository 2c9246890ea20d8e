//! What a folder of a model is: its weights are whole, its configuration asks for no code, and its facts.
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use windlass_api::fetch::ModelFacts;

use super::choice::MOST_FILES;
use super::safetensors::{self, Tensors, Unreadable};
use crate::failure::FetchFailed;
use crate::manifest::Manifest;
use crate::pattern::Patterns;

/// Bytes of a configuration; the largest known ones have some hundred thousand.
const LARGEST_CONFIG: u64 = 8 << 20;
/// Bytes of the list of tensors of a model in several files.
const LARGEST_INDEX: u64 = 64 << 20;
const DEEPEST: usize = 32;
const LONGEST_FACT: usize = 128;
/// The files of the Transformers library that may name code.
const CONFIGS: [&str; 4] = [
    "config.json",
    "tokenizer_config.json",
    "processor_config.json",
    "preprocessor_config.json",
];

/// The facts of a folder whose files are those of the manifest; `what` is the source for people.
pub fn facts(folder: &Path, manifest: &Manifest, patterns: &Patterns, what: &str) -> Result<ModelFacts, FetchFailed> {
    for name in CONFIGS.into_iter().filter(|name| manifest.has(name)) {
        let config = config(folder, name, what)?;
        if let Some(code) = code_of(&config).into_iter().find(|code| patterns.admit(code)) {
            let (what, file) = (what.to_owned(), name.to_owned());
            return Err(FetchFailed::RemoteCode { what, file, code });
        }
    }
    let tensors = weights(folder, manifest, what)?;
    let config = match manifest.has("config.json") {
        true => config(folder, "config.json", what)?,
        false => Value::Null,
    };
    let text = |value: &Value| {
        value
            .as_str()
            .map(|text| text.chars().take(LONGEST_FACT).collect::<String>())
    };
    // A quantized model packs several weights into one number, so the numbers do not count its weights.
    let quantization = text(&config["quantization_config"]["quant_method"]);
    let number = |value: &Value| value["max_position_embeddings"].as_u64();
    Ok(ModelFacts {
        digest: manifest.digest().to_string(),
        commit: None,
        size_bytes: manifest.size(),
        format: "safetensors".to_owned(),
        architecture: text(&config["architectures"][0]).or_else(|| text(&config["model_type"])),
        parameters: (quantization.is_none() && tensors.parameters > 0).then_some(tensors.parameters),
        quantization: quantization.or_else(|| tensors.most_used()),
        context_length: number(&config).or_else(|| number(&config["text_config"])),
        license: None,
    })
}

/// Every safetensors file is whole, and those that an index names are there.
fn weights(folder: &Path, manifest: &Manifest, what: &str) -> Result<Tensors, FetchFailed> {
    let mut tensors = Tensors::default();
    let mut any = false;
    for path in manifest.paths().filter(|path| path.ends_with(".safetensors")) {
        any = true;
        let real = folder.join(path);
        let failed = |error| FetchFailed::io("reading", &real, error);
        let file = File::open(&real).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        safetensors::read(file, size, &mut tensors).map_err(|unreadable| match unreadable {
            Unreadable::Malformed(why) => malformed(what, path, why),
            Unreadable::Io(error) => FetchFailed::io("reading", &real, error),
        })?;
    }
    if !any {
        return Err(FetchFailed::NoWeights { what: what.to_owned() });
    }
    for path in manifest
        .paths()
        .filter(|path| path.ends_with(".safetensors.index.json"))
    {
        let index: Index = serde_json::from_slice(&bounded(folder, path, LARGEST_INDEX, what)?)
            .map_err(|error| malformed(what, path, error.to_string()))?;
        let prefix = path
            .rsplit_once('/')
            .map(|(prefix, _)| format!("{prefix}/"))
            .unwrap_or_default();
        let named: BTreeSet<&String> = index.weight_map.values().collect();
        if let Some(missing) = named.into_iter().find(|name| !manifest.has(&format!("{prefix}{name}"))) {
            return Err(malformed(what, path, format!("it names {missing}, which is not there")));
        }
    }
    Ok(tensors)
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn malformed(what: &str, path: &str, why: String) -> FetchFailed {
    FetchFailed::Malformed {
        what: format!("{path} of {what}"),
        why,
    }
}

fn config(folder: &Path, name: &str, what: &str) -> Result<Value, FetchFailed> {
    serde_json::from_slice(&bounded(folder, name, LARGEST_CONFIG, what)?)
        .map_err(|error| malformed(what, name, format!("it is not JSON: {error}")))
}

fn bounded(folder: &Path, name: &str, most: u64, what: &str) -> Result<Vec<u8>, FetchFailed> {
    let (path, mut text) = (folder.join(name), Vec::new());
    File::open(&path)
        .and_then(|file| file.take(most + 1).read_to_end(&mut text))
        .map_err(|error| FetchFailed::io("reading", &path, error))?;
    if text.len() as u64 > most {
        return Err(malformed(what, name, format!("it has more than {most} bytes")));
    }
    Ok(text)
}

/// The files of code that `auto_map` names, as paths: `modeling_x.Model` is `modeling_x.py`; one of another repository
/// (`org/repo--modeling_x.Model`) keeps its name before it.
fn code_of(config: &Value) -> Vec<String> {
    let Some(map) = config["auto_map"].as_object() else {
        return Vec::new();
    };
    let mut code = Vec::new();
    for value in map.values() {
        // A tokenizer may have two classes, slow and fast.
        let listed = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        for name in listed.iter().filter_map(Value::as_str) {
            let module = name.rsplit_once('.').map_or(name, |(module, _)| module);
            code.push(format!("{}.py", module.chars().take(LONGEST_FACT).collect::<String>()));
        }
    }
    code
}

/// All regular files below a folder, by their paths in it; links are not followed.
pub fn paths(folder: &Path) -> Result<Vec<PathBuf>, FetchFailed> {
    let mut found = Vec::new();
    let mut folders = vec![(folder.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let failed = |error: io::Error| FetchFailed::io("reading", &folder, error);
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            match entry.file_type().map_err(failed)?.is_dir() {
                true if depth < DEEPEST => folders.push((entry.path(), depth + 1)),
                true => return Err(failed(io::Error::other("its folders are too deep"))),
                false => found.push(entry.path()),
            }
            // Twice as many as wanted: each may have a part.
            if found.len() + folders.len() > 4 * MOST_FILES {
                return Err(failed(io::Error::other("it holds too many files")));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::digest::Digest;

    fn weights_file(dtype: &str) -> Vec<u8> {
        let head = json!({"a": {"dtype": dtype, "shape": [2], "data_offsets": [0, 4]}}).to_string();
        [&(head.len() as u64).to_le_bytes()[..], head.as_bytes(), &[0; 4]].concat()
    }

    fn facts_of(files: &[(&str, Vec<u8>)], ignore: &[&str]) -> Result<ModelFacts, String> {
        let folder = tempfile::tempdir().unwrap();
        let mut manifest = Manifest::default();
        for (name, content) in files {
            fs::write(folder.path().join(name), content).unwrap();
            manifest.add(name, Digest::of(&content[..], |_| {}).unwrap(), content.len() as u64);
        }
        let ignore = ignore.iter().map(|pattern| (*pattern).to_owned()).collect();
        let patterns = Patterns {
            allow: Vec::new(),
            ignore,
        };
        facts(folder.path(), &manifest, &patterns, "hf://org/repo").map_err(|failed| failed.to_string())
    }

    fn text(value: Value) -> Vec<u8> {
        value.to_string().into_bytes()
    }

    #[test]
    fn the_facts_are_those_of_the_configuration_and_the_weights() {
        let config =
            json!({"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "max_position_embeddings": 4096});
        let files = [
            ("config.json", text(config)),
            ("model.safetensors", weights_file("BF16")),
        ];
        let facts = facts_of(&files, &[]).unwrap();
        assert_eq!(
            (facts.format.as_str(), facts.architecture.as_deref()),
            ("safetensors", Some("Qwen3ForCausalLM"))
        );
        assert_eq!((facts.context_length, facts.parameters), (Some(4096), Some(2)));
        assert_eq!(facts.quantization.as_deref(), Some("BF16"));
        assert_eq!(
            facts.size_bytes,
            files.iter().map(|(_, content)| content.len() as u64).sum::<u64>()
        );
    }

    #[test]
    fn a_quantized_model_is_named_by_its_method_and_an_outer_one_by_its_text_model() {
        let config = json!({"model_type": "mllama", "text_config": {"max_position_embeddings": 7},
            "quantization_config": {"quant_method": "awq"}});
        let files = [
            ("config.json", text(config)),
            ("model.safetensors", weights_file("I16")),
        ];
        let facts = facts_of(&files, &[]).unwrap();
        assert_eq!((facts.quantization.as_deref(), facts.parameters), (Some("awq"), None));
        assert_eq!(
            (facts.architecture.as_deref(), facts.context_length),
            (Some("mllama"), Some(7))
        );
    }

    #[test]
    fn code_in_a_configuration_is_refused_unless_the_patterns_leave_it_out() {
        for map in [
            json!({"AutoModel": "modeling_x.Model"}),
            json!({"AutoTokenizer": [null, "tokenization_x.Fast"]}),
            json!({"AutoModel": "other/repo--modeling_x.Model"}),
        ] {
            for name in ["config.json", "tokenizer_config.json"] {
                let files = [
                    (name, text(json!({"auto_map": map}))),
                    ("model.safetensors", weights_file("F16")),
                ];
                let message = facts_of(&files, &[]).unwrap_err();
                assert!(message.contains(name) && message.contains("`*.py`"), "{message}");
                assert!(facts_of(&files, &["*.py"]).is_ok());
            }
        }
    }

    #[test]
    fn a_folder_without_whole_weights_is_refused() {
        let message = facts_of(&[("config.json", b"{}".to_vec())], &[]).unwrap_err();
        assert!(message.contains(".safetensors"), "{message}");
        let cut = weights_file("F16")[..30].to_vec();
        let message = facts_of(&[("model.safetensors", cut)], &[]).unwrap_err();
        assert!(message.contains("model.safetensors of hf://org/repo"), "{message}");
        let index = json!({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}});
        let files = [
            ("model.safetensors.index.json", text(index)),
            ("model-1.safetensors", weights_file("F16")),
        ];
        let message = facts_of(&files, &[]).unwrap_err();
        assert!(message.contains("names model-2.safetensors"), "{message}");
        let files = [
            ("config.json", b"<html>".to_vec()),
            ("model.safetensors", weights_file("F16")),
        ];
        assert!(facts_of(&files, &[]).unwrap_err().contains("not JSON"));
    }
}
