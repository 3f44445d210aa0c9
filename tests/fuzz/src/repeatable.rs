//! Runs of a fuzz target on inputs that are the same every time.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use bolero::TypeGenerator;
use bolero::bolero_engine::rng::Recommended;
use bolero::generator::bolero_generator::driver::{Options, Rng};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng};

/// Whether bolero chooses the inputs, because one of its variables is set or one of its fuzzers runs the target.
pub fn is_searching() -> bool {
    const VARIABLES: [&str; 3] =
        ["BOLERO_RANDOM_TEST_TIME_MS", "BOLERO_RANDOM_ITERATIONS", "BOLERO_RANDOM_SEED"];
    cfg!(fuzzing) || VARIABLES.iter().any(|name| std::env::var_os(name).is_some())
}

/// Runs `target` on `runs` inputs. bolero makes the same input from a seed.
///
/// # Panics
///
/// As `target` does, after printing the seed and the input.
pub fn run<T: TypeGenerator + std::fmt::Debug>(runs: u64, target: impl Fn(&T)) {
    let options = Options::default();
    // Inputs of neighbouring seeds are alike, and those of small seeds nearly empty.
    let mut seeds = StdRng::seed_from_u64(0);
    for seed in (0..runs).map(|_| seeds.random::<u128>()) {
        let mut driver = Rng::new(Recommended::from_seed(seed.to_le_bytes()), &options);
        let Some(input) = T::generate(&mut driver) else { continue };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(&input))) {
            eprintln!("input: {input:#?}");
            eprintln!(
                "seed: {seed}; for a smaller input: BOLERO_RANDOM_SEED={seed} BOLERO_RANDOM_ITERATIONS=0"
            );
            resume_unwind(panic);
        }
    }
}
