//! The corpus of the fuzz targets (fuzz/corpus), replayed: whatever once broke something, or broke others (see
//! docs/develop/advisories.md), is run by every `cargo test`. The model files in it are made here.
#[path = "support/hostile_folders.rs"]
mod hostile_folders;
#[path = "support/hostile_weights.rs"]
mod hostile_weights;
mod support;
mod targets;

use std::fs;
use std::path::PathBuf;

use support::gguf::{GgufBytes, TensorBytes, sentence_pieces, tiny_llama};

fn folder(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(target)
}

/// Runs a target on every file of its corpus, of which there must be at least `least`.
fn replay(target: &str, run: fn(&[u8]), least: usize) {
    let files = fs::read_dir(folder(target)).expect("the corpus");
    let mut count = 0;
    for file in files {
        let path = file.expect("an entry").path();
        eprintln!("{}", path.display()); // shown if the target panics
        run(&fs::read(&path).expect("a file"));
        count += 1;
    }
    assert!(count >= least, "{count} files of {target}");
}

#[test]
fn no_model_file_of_the_corpus_breaks_the_reader_or_the_engine() {
    replay("gguf", targets::gguf::run, 30);
}

#[test]
fn no_folder_of_the_corpus_breaks_the_embedder() {
    replay("encoder", targets::encoder::run, 80);
}

#[test]
fn the_tiny_encoder_loads_so_that_the_corpus_reaches_the_arithmetic() {
    let loads = |name| targets::encoder::loads(&fs::read(folder("encoder").join(name)).expect("a file"));
    let good = [
        "weights",
        "tensors-in-a-model",
        "tensors-bf16",
        "pooling-first",
        "text-of-one-word",
    ];
    assert_eq!(good.map(loads), [true; 5]);
    assert!(!loads("weights-cut"));
}

#[test]
fn every_text_of_the_corpus_comes_back_from_every_tokenizer() {
    replay("tokenizer", targets::tokenizer::run, 10);
}

#[test]
fn every_template_of_the_corpus_ends() {
    replay("template", targets::template::run, 15);
}

#[test]
fn the_model_files_of_the_corpus_are_those_made_here() {
    let mut stale = Vec::new();
    for (target, files) in [
        ("gguf", model_files()),
        ("encoder", hostile_weights::files()),
        ("encoder", hostile_folders::folders()),
    ] {
        for (name, bytes) in files {
            let path = folder(target).join(name);
            // A file that is not there is as stale as one that is another.
            if fs::read(&path).ok().as_ref() != Some(&bytes) {
                fs::write(&path, bytes).expect("written");
                stale.push(format!("{target}/{name}"));
            }
        }
    }
    assert!(
        stale.is_empty(),
        "these files were stale and have been written again, commit them: {stale:?}"
    );
}

/// Each shape of the public advisories on GGUF readers, and good files to start from.
fn model_files() -> Vec<(&'static str, Vec<u8>)> {
    type Change = fn(&mut GgufBytes);
    let changes: [(&str, Change); 33] = [
        ("empty-head", |_| ()),
        ("version-1", |file| file.version = 1),
        ("version-big-endian", |file| file.version = 3u32.swap_bytes()),
        ("entry-count-max", |file| file.entry_count = Some(u64::MAX)),
        ("entry-count-2-63", |file| file.entry_count = Some(1 << 63)),
        ("tensor-count-max", |file| file.tensor_count = Some(u64::MAX)),
        // 2^60 entries of 16 bytes are 2^64.
        ("tensor-count-wraps", |file| file.tensor_count = Some(1 << 60)),
        ("text-length-max", |file| add(file, 8, &u64::MAX.to_le_bytes())),
        ("text-length-wraps", |file| add(file, 8, &(u64::MAX - 7).to_le_bytes())),
        ("text-not-utf8", |file| {
            add(file, 8, &[&2u64.to_le_bytes()[..], &[0xff, 0xfe]].concat());
        }),
        ("entry-missing", |file| file.entry_count = Some(2)),
        ("array-count-max", |file| array(file, 10, u64::MAX)),
        ("array-count-wraps", |file| array(file, 10, 1 << 61)),
        ("array-of-texts-count", |file| array(file, 8, 1 << 40)),
        ("array-of-arrays", |file| array(file, 9, 1)),
        ("array-type-negative", |file| array(file, u32::MAX, 1)),
        ("value-type-negative", |file| add(file, u32::MAX, &[0; 8])),
        ("value-type-unknown", |file| add(file, 13, &[0; 8])),
        ("boolean-2", |file| add(file, 7, &[2])),
        ("duplicate-key", |file| {
            file.u32("x", 1).u32("x", 2);
        }),
        ("alignment-0", |file| alignment(file, 0)),
        ("alignment-33", |file| alignment(file, 33)),
        ("alignment-max", |file| alignment(file, u32::MAX)),
        ("alignment-2-31", |file| alignment(file, 1 << 31)),
        ("duplicate-tensor", |file| {
            tensor(file, &[4], 0, None);
            tensor(file, &[4], 0, None);
        }),
        ("tensor-type-negative", |file| tensor(file, &[32], u32::MAX, None)),
        ("tensor-type-removed", |file| tensor(file, &[32], 4, None)),
        ("tensor-without-dimensions", |file| tensor(file, &[], 0, None)),
        ("tensor-dimensions-5", |file| tensor(file, &[1; 5], 0, None)),
        ("tensor-extent-0", |file| tensor(file, &[0, 4], 0, None)),
        // The product of the extents, then that product in bytes, is beyond 64 bits.
        ("tensor-elements-wrap", |file| {
            tensor(file, &[1 << 32, 1 << 32], 0, None)
        }),
        ("tensor-bytes-wrap", |file| tensor(file, &[1 << 62], 0, None)),
        // One row too many of a block type: rounding its size down would make it fit.
        ("tensor-row-not-whole", |file| tensor(file, &[33], 2, None)),
    ];
    let offsets: [(&str, Option<u64>, &[u64]); 4] = [
        ("tensor-past-the-end", None, &[1 << 20]),
        ("tensor-offset-past-the-end", Some(1 << 40), &[4]),
        // With the start of the data, the offset is beyond 64 bits; padded to the alignment, it would be 0.
        ("tensor-offset-wraps", Some(u64::MAX - 31), &[4]),
        ("tensor-offset-odd", Some(1), &[4]),
    ];
    let mut files: Vec<(&str, Vec<u8>)> = Vec::new();
    for (name, change) in changes {
        let mut file = GgufBytes::new();
        change(&mut file);
        files.push((name, file.bytes()));
    }
    for (name, offset, dims) in offsets {
        let mut file = GgufBytes::new();
        tensor(&mut file, dims, 0, offset);
        files.push((name, file.bytes()));
    }
    let whole = tiny_llama().bytes();
    files.push(("tiny-llama-cut-in-its-head", whole[..4096].to_vec()));
    files.push(("tiny-llama-cut-in-its-tensors", whole[..whole.len() - 4096].to_vec()));
    files.push(("tiny-llama", whole));
    files.push((
        "sentence-pieces",
        sentence_pieces(&["<s>", "</s>"], &[("▁", -1.0), ("a", -2.0)]).bytes(),
    ));
    files
}

fn add(file: &mut GgufBytes, kind: u32, value: &[u8]) {
    file.entry("x", kind, value.into());
}

fn array(file: &mut GgufBytes, element: u32, count: u64) {
    file.array("x", element, count, vec![0; 16]);
}

fn alignment(file: &mut GgufBytes, alignment: u32) {
    file.u32("general.alignment", alignment);
    tensor(file, &[4], 0, None);
}

/// Adds a tensor with 32 bytes of data, whatever its extents say.
fn tensor(file: &mut GgufBytes, dims: &[u64], kind: u32, offset: Option<u64>) {
    file.tensors.push(TensorBytes {
        name: "t".into(),
        dims: dims.into(),
        kind,
        data: vec![0; 32],
        offset,
    });
}
