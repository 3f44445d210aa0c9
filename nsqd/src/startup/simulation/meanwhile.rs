//! Checkpoints that are taken while other steps run, between any two reads of a channel's messages.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::steps::step_meanwhile;
use super::world::World;
use crate::upkeep::checkpoint;

impl World<'_> {
    /// Takes a checkpoint, a few messages at a time, and runs steps from this seed in between.
    pub(super) fn checkpoint_while(&mut self, seed: u16) -> Result<(), String> {
        let registry = self.registry()?.clone();
        let mut random = SmallRng::seed_from_u64(seed.into());
        let slice = random.random_range(1..6);
        let mut done = Ok(());
        let mut steps_left = 40;
        let written = checkpoint::write_checkpoint_while(&registry, false, slice, &mut || {
            while done.is_ok() && steps_left > 0 && random.random_bool(0.6) {
                steps_left -= 1;
                let step = step_meanwhile(&mut random);
                if !(self.does_meanwhile)(&step) {
                    continue;
                }
                let applied = self.apply(step, usize::MAX);
                done = applied.map(drop).map_err(|error| format!("during the checkpoint, {step:?}: {error}"));
            }
        });
        done?;
        self.if_possible(written).map(drop)
    }
}
