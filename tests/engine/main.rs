//! The engine and the file system as a whole, on a pool in memory, without a mount.
//!
//! `AMBERFS_SEED=N` reruns the random operations of a seed, which every failure prints with the shortest
//! sequence that fails; `PROPTEST_CASES=N` sets how many sequences are tried, `AMBERFS_STRESS_RUNS=N` how many
//! times more runs of sixteen threads.

mod compare;
mod faults;
mod large;
mod model;
#[path = "../support/mounting.rs"]
mod mounting;
mod operations;
#[path = "../support/random.rs"]
mod random;
mod run;
mod stress;
mod world;

use proptest::test_runner::{Config, RngSeed, TestRunner};

use operations::sequences;
use run::Run;

/// A number from the environment.
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn random_operations(seed: u64, cases: u32, length: usize) {
    let seed = setting("AMBERFS_SEED").unwrap_or(seed);
    // Long sequences are fewer.
    let asked = setting("PROPTEST_CASES").map(|cases| cases as usize * 40 / length);
    let cases = asked.map_or(cases, |asked| asked as u32).max(1);
    let config = Config {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: 4000,
        ..Config::default()
    };
    let outcome = TestRunner::new(config).run(&sequences(length), |operations| {
        let mut run = Run::new();
        for operation in &operations {
            run.step(operation);
        }
        run.finish();
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("seed {seed}: {error}");
    }
}

#[test]
fn short_random_runs_follow_the_model() {
    random_operations(1, 150, 40);
}

#[test]
fn long_random_runs_follow_the_model() {
    random_operations(2, 12, 600);
}
