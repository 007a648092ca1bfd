//! Replays the fuzzer's corpus, and what it once found, as an ordinary test. `scripts/fuzz` finds more.

mod fuzzing;
mod inspection;
mod network;
mod notation;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use fuzzing::Fuzzing;
use fuzzing::mutation::{Random, mutate};

fn inputs(folder: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz").join(folder);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

#[test]
fn every_input_of_the_corpus_passes() {
    let fuzzing = Fuzzing::default();
    let inputs = [inputs("corpus"), inputs("found")].concat();
    assert!(inputs.len() >= 200, "{} inputs", inputs.len());
    for (path, input) in &inputs {
        if catch_unwind(AssertUnwindSafe(|| fuzzing.run(input))).is_err() {
            panic!("{}", path.display());
        }
    }
}

#[test]
fn inputs_made_at_random_pass() {
    let fuzzing = Fuzzing::default();
    let mut random = Random::new(7);
    let mut records = Vec::new();
    for number in 0..3000 {
        if number % 60 == 0 {
            records.clear();
        }
        mutate(&mut records, &mut random, &mut |bytes| bytes.reverse());
        fuzzing.run(&fuzzing::record::encode(&records));
    }
}
