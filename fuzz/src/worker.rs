//! The fuzz target: frames at workers over ports in memory. What it does and what must hold is said in
//! `dataplane/tests/fuzzing`, which the replay of the corpus in `scripts/test` uses too.
//!
//! With SEEDS=folder it writes the frames of the packet catalogue there, as inputs to begin with, and ends.

#![no_main]

#[path = "../../dataplane/tests/fuzzing/mod.rs"]
mod fuzzing;
#[path = "../../dataplane/tests/inspection/mod.rs"]
mod inspection;
#[path = "../../dataplane/tests/network/mod.rs"]
mod network;
#[path = "../../dataplane/tests/notation/mod.rs"]
mod notation;
mod seeds;
#[path = "../../dataplane/tests/table/mod.rs"]
mod table;

use std::sync::LazyLock;

use fuzzing::Fuzzing;
use fuzzing::mutation::{self, Random};
use fuzzing::record;
use libfuzzer_sys::{fuzz_crossover, fuzz_mutator, fuzz_target, fuzzer_mutate};

static FUZZING: LazyLock<Fuzzing> = LazyLock::new(Fuzzing::default);

fuzz_target!(
    init: {
        if let Some(folder) = std::env::var_os("SEEDS") {
            seeds::write(folder.as_ref());
            std::process::exit(0);
        }
    },
    |input: &[u8]| FUZZING.run(input)
);

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let mut random = Random::new(seed);
    let mut records = record::decode(&data[..size]);
    let mut by_libfuzzer = |bytes: &mut Vec<u8>| {
        let length = bytes.len();
        bytes.resize(length + 64, 0);
        let length = fuzzer_mutate(bytes, length, length + 64);
        bytes.truncate(length);
    };
    for _ in 0..1 + random.below(3) {
        mutation::mutate(&mut records, &mut random, &mut by_libfuzzer);
    }
    write(&records, data, max_size)
});

fuzz_crossover!(|one: &[u8], other: &[u8], out: &mut [u8], seed: u32| {
    let (one, other) = (record::decode(one), record::decode(other));
    let records = mutation::cross(&one, &other, &mut Random::new(seed));
    let most = out.len();
    write(&records, out, most)
});

fn write(records: &[record::Record], into: &mut [u8], most: usize) -> usize {
    let input = record::encode(records);
    let length = input.len().min(most);
    into[..length].copy_from_slice(&input[..length]);
    length
}
