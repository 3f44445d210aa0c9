//! The steps of a workload. A step selects topics and channels by an arbitrary number, so it stays meaningful when
//! other steps are left out.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// One step. `topic` and `channel` select one of the existing ones.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    CreateTopic {
        name: u8,
    },
    DeleteTopic {
        topic: u8,
    },
    CreateChannel {
        topic: u8,
        name: u8,
    },
    DeleteChannel {
        channel: u8,
    },
    Publish {
        topic: u8,
        count: u8,
        size: u16,
    },
    /// Publishes to several topics in one write.
    PublishTogether {
        count: u8,
        size: u16,
    },
    PublishDeferred {
        topic: u8,
        count: u8,
        delay_s: u16,
    },
    Take {
        channel: u8,
        room: u16,
    },
    Finish {
        channel: u8,
        count: u8,
        newest: bool,
    },
    Requeue {
        channel: u8,
        delay_s: u16,
    },
    Touch {
        channel: u8,
    },
    /// Rejects a message, if its channel has a dead-letter topic of its own.
    Reject {
        channel: u8,
    },
    /// Cancels a message, which `which` selects.
    Cancel {
        channel: u8,
        which: u8,
    },
    /// Delivers a deferred message now, or defers a message that waits.
    Reschedule {
        channel: u8,
        which: u8,
        delay_s: u16,
    },
    /// A consumer disconnects and connects again.
    Reconnect {
        channel: u8,
    },
    /// Advances time until everything in flight times out and everything deferred is due.
    Advance {
        channel: u8,
    },
    PauseTopic {
        topic: u8,
        paused: bool,
    },
    PauseChannel {
        channel: u8,
        paused: bool,
    },
    EmptyTopic {
        topic: u8,
    },
    EmptyChannel {
        channel: u8,
    },
    /// Undoes the last empty or move forward of a channel.
    Undo {
        channel: u8,
    },
    /// Sets the retention of a topic. `acknowledged` says whether the step waits for the response.
    SetRetention {
        topic: u8,
        limits: u8,
        acknowledged: bool,
    },
    /// Sets or removes a setting of a topic that only people read.
    SetOwner {
        topic: u8,
        owner: Option<u8>,
    },
    /// Sets or removes a channel's retry schedule.
    SetRetry {
        channel: u8,
        on: bool,
    },
    /// Sets after how many failures a channel's messages are dead-lettered; 0 for never.
    SetMaxAttempts {
        channel: u8,
        max_attempts: u16,
    },
    /// Sets a filter that all messages match, or none, or removes it.
    SetFilter {
        channel: u8,
        filter: Option<bool>,
    },
    /// Publishes messages with keys.
    PublishKeyed {
        topic: u8,
        count: u8,
    },
    /// Orders a channel by key (1), all its messages (2), or not (0), or makes it fair (3), if nothing of it is in flight.
    SetOrder {
        channel: u8,
        order: u8,
    },
    /// Sets a rate and a limit of messages in flight, or removes both (0).
    SetLimits {
        channel: u8,
        limits: u8,
    },
    /// Sets or removes a channel's time to live.
    SetTtl {
        channel: u8,
        on: bool,
    },
    /// Sets or removes a channel's bound, which `bound` selects.
    SetBound {
        channel: u8,
        bound: u8,
    },
    /// Publishes messages whose own time to live passes at once.
    PublishShortLived {
        topic: u8,
        count: u8,
    },
    /// All messages of a topic are too old.
    ExpireOld {
        topic: u8,
    },
    /// Moves all dead letters of a dead-letter topic back.
    Redrive {
        topic: u8,
    },
    /// Makes a topic remember ids, or forget them.
    SetDedupe {
        topic: u8,
        on: bool,
    },
    /// Publishes a batch of messages with ids, which `ids` selects.
    PublishOnce {
        topic: u8,
        ids: u16,
    },
    /// Drops retained messages that exceed their limits.
    Retain,
    /// Moves a channel to a share of all published messages.
    MoveChannel {
        channel: u8,
        share: u8,
        acknowledged: bool,
    },
    CreateChannelAt {
        topic: u8,
        name: u8,
        share: u8,
    },
    Flush,
    Checkpoint,
    /// Runs other steps, generated from `seed`, during the checkpoint.
    CheckpointWhile {
        seed: u16,
    },
    Retire,
    Clean,
    Stop,
    /// The process dies or the power fails, `back` disk changes ago.
    Crash {
        back: u8,
        torn: u16,
    },
}

/// Generates the steps of a seed.
pub fn steps(seed: u64) -> Vec<Step> {
    let mut random = SmallRng::seed_from_u64(seed);
    let count = random.random_range(30..140);
    let mut steps = vec![Step::CreateTopic { name: 0 }, Step::CreateChannel { topic: 0, name: 0 }];
    steps.extend((0..count).map(|_| step(&mut random)));
    steps
}

/// Generates a step that can run during a checkpoint.
pub fn step_meanwhile(random: &mut SmallRng) -> Step {
    loop {
        match step(random) {
            Step::Checkpoint
            | Step::CheckpointWhile { .. }
            | Step::Retire
            | Step::Stop
            | Step::Crash { .. } => {}
            step => return step,
        }
    }
}

fn step(random: &mut SmallRng) -> Step {
    let (topic, channel) = (random.random(), random.random());
    let paused = random.random_bool(0.3);
    let count = random.random_range(1..12);
    let size = random.random_range(0..200);
    // More at once than fits a memory chunk, and sometimes a journal file.
    let (many, large) = (random.random_range(12..40), random.random_range(200..6000));
    let delay_s = random.random_range(600..3000);
    let (share, acknowledged) = (random.random(), random.random_bool(0.7));
    match random.random_range(0..216) {
        0..=2 => Step::CreateTopic { name: random.random() },
        3 => Step::DeleteTopic { topic },
        4..=6 => Step::CreateChannel { topic, name: random.random() },
        7 => Step::DeleteChannel { channel },
        8..=25 => Step::Publish { topic, count, size },
        26..=27 => Step::Publish { topic, count: many, size },
        28 => Step::Publish { topic, count: 1, size: large },
        29..=31 => Step::PublishTogether { count, size },
        32..=34 => Step::PublishDeferred { topic, count: random.random_range(1..4), delay_s },
        35..=51 => Step::Take { channel, room: random.random_range(1..4000) },
        52..=67 => {
            Step::Finish { channel, count: random.random_range(1..40), newest: random.random_bool(0.2) }
        }
        68..=72 => Step::Requeue { channel, delay_s: if random.random() { delay_s } else { 0 } },
        73 => Step::Touch { channel },
        74 => Step::Reconnect { channel },
        75 => Step::Advance { channel },
        76..=77 => Step::PauseTopic { topic, paused },
        78..=79 => Step::PauseChannel { channel, paused },
        80 => Step::EmptyTopic { topic },
        81 | 180..=182 => Step::EmptyChannel { channel },
        183..=187 => Step::Undo { channel },
        82..=84 => Step::Flush,
        85 => match random.random_bool(0.2) {
            true => Step::Checkpoint,
            false => Step::CheckpointWhile { seed: random.random() },
        },
        86..=90 => Step::Retire,
        91..=93 => Step::Clean,
        94..=95 => Step::Stop,
        96..=99 => Step::Crash { back: random.random_range(0..4), torn: random.random() },
        100..=101 => Step::SetRetention { topic, limits: random.random(), acknowledged },
        102 => Step::Retain,
        103..=106 => Step::MoveChannel { channel, share, acknowledged },
        107 => Step::SetOwner { topic, owner: random.random_bool(0.7).then(|| random.random()) },
        108..=109 => Step::SetRetry { channel, on: random.random_bool(0.7) },
        111..=116 => {
            let max_attempts = [0, 1, 1, 1, 2][random.random_range(0..5)];
            Step::SetMaxAttempts { channel, max_attempts }
        }
        117..=119 => Step::Advance { channel },
        120..=123 | 160..=165 | 204..=215 => Step::Redrive { topic },
        126..=127 => Step::SetTtl { channel, on: random.random_bool(0.7) },
        128..=129 => Step::ExpireOld { topic },
        142..=145 => Step::SetBound { channel, bound: random.random() },
        130..=132 => Step::SetDedupe { topic, on: random.random_bool(0.85) },
        133..=141 => Step::PublishOnce { topic, ids: random.random() },
        146..=151 | 188..=195 => Step::Reject { channel },
        152..=155 => Step::PublishShortLived { topic, count: random.random_range(1..4) },
        156..=159 => {
            let filter = [None, None, Some(true), Some(false)][random.random_range(0..4)];
            Step::SetFilter { channel, filter }
        }
        166..=171 => Step::PublishKeyed { topic, count: random.random_range(1..8) },
        172..=177 => Step::SetOrder { channel, order: [0, 1, 1, 1, 2, 3, 3][random.random_range(0..7)] },
        178..=179 => Step::SetLimits { channel, limits: [0, 0, 2, 5][random.random_range(0..4)] },
        196..=198 => Step::Cancel { channel, which: random.random() },
        199..=203 => {
            let delay_s = if random.random() { delay_s } else { 0 };
            Step::Reschedule { channel, which: random.random(), delay_s }
        }
        _ => Step::CreateChannelAt { topic, name: random.random(), share },
    }
}
