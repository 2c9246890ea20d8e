//! The bodies of the fuzz target `request` (fuzz/corpus/request), replayed.
#[path = "../../engine/tests/support/mod.rs"]
mod support;
#[path = "targets/request.rs"]
mod target;

#[test]
fn every_body_of_the_corpus_is_accepted_or_refused_in_openais_shape() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/request");
    let mut count = 0;
    for file in std::fs::read_dir(folder).expect("the corpus") {
        let path = file.expect("an entry").path();
        eprintln!("{}", path.display()); // shown if the target panics
        drop(target::outcomes(&std::fs::read(&path).expect("a file")));
        count += 1;
    }
    assert!(count >= 25, "{count} bodies");
}
