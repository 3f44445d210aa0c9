//! Saves a topic to a checkpoint, and restores its parts: what is written and how it is read stand side by side.

use std::sync::Arc;

use super::{State, Topic};
use crate::channel::Channel;
use crate::channel::saved::{Clocks, CursorMoved, Saving};
use crate::clock::Nanos;
use crate::log::ages::TakenOver;
use crate::log::retention::Retention;
use crate::log::{Mark, TopicLog};
use crate::policy::setting::InvalidSetting;
use crate::policy::settings::Settings;
use crate::storage::SequenceRange;
use crate::storage::checkpoint::{
    AdoptedCheckpoint, ChannelCheckpoint, DeferredCheckpoint, IdsCheckpoint, RetentionCheckpoint,
    TakenOverCheckpoint, TargetedCheckpoint, TopicCheckpoint,
};

/// From this attempt on, a topic's channels are saved without slices, because they were moved during earlier attempts.
const SAVE_ATTEMPTS: u32 = 4;

impl Topic {
    /// Like [`Topic::save_while`], but without slices.
    pub fn save(&self, clocks: Clocks) -> TopicCheckpoint {
        self.save_while(clocks, usize::MAX, &mut || {})
    }

    /// Saves the topic for a checkpoint. Topic and channels are saved as of one moment, except for their outstanding
    /// messages. These are saved in slices of about `slice`; after each one, the lock is released and `between` is
    /// called. See [`crate::channel::saved`].
    pub fn save_while(&self, clocks: Clocks, slice: usize, between: &mut dyn FnMut()) -> TopicCheckpoint {
        let mut attempts = 0;
        loop {
            attempts += 1;
            // If channels are moved all the time, the save delays others a little instead of never ending.
            let slice = if attempts < SAVE_ATTEMPTS { slice } else { usize::MAX };
            let (mut saved, channels) = self.begin_saving(clocks);
            let channels: Result<_, CursorMoved> = (channels.into_iter())
                .map(|(channel, saving)| {
                    let saved = channel.save(saving, slice, between)?;
                    let (number, name) = (channel.number(), channel.name().to_string());
                    Ok(ChannelCheckpoint { number, name, ..saved })
                })
                .collect();
            if let Ok(channels) = channels {
                saved.channels = channels;
                saved.ids = self.save_ids(clocks, slice, between);
                return saved;
            }
        }
    }

    /// The topic's part of a checkpoint, without its channels and ids, and the started saves of its channels.
    fn begin_saving(&self, clocks: Clocks) -> (TopicCheckpoint, Vec<(Arc<Channel>, Saving)>) {
        let State { topic, .. } = &*self.state.lock();
        let point = topic.point();
        let (marks, next_sequence, counters, transfers) = (self.log).with_marks_and_end(|marks, end| {
            (save_marks(marks, clocks), end, self.counters(), self.adopting.save())
        });
        let SavedMarks { skipped, deferred, targeted, adopted } = marks;
        let channels = (topic.channels().values().filter(|channel| !channel.is_ephemeral()))
            .map(|channel| (channel.clone(), channel.begin_saving(clocks)))
            .collect();
        let saved = TopicCheckpoint {
            number: self.number,
            name: self.name.to_string(),
            paused: point.is_paused(),
            next_sequence,
            released: point.released(),
            releasing: point.is_releasing(),
            skipped,
            unreleased_deferred: deferred,
            unreleased_targeted: targeted,
            message_count: counters.message_count,
            message_bytes: counters.message_bytes,
            channels: Vec::new(),
            retention: save_retention(&self.log, topic.own().retention(), clocks),
            published_before: None,
            settings: Some(topic.own().to_string()),
            ids: IdsCheckpoint::default(),
            taken_over: save_taken_over(&self.log),
            unreleased_adopted: adopted,
            transfers,
        };
        (saved, channels)
    }
}

/// The fields `skipped`, `unreleased_deferred`, `unreleased_targeted` and `unreleased_adopted` of a [`TopicCheckpoint`].
#[derive(Default)]
struct SavedMarks {
    skipped: Vec<SequenceRange>,
    deferred: Vec<(u64, i64)>,
    targeted: Vec<TargetedCheckpoint>,
    adopted: Vec<AdoptedCheckpoint>,
}

/// Saves the marks that no release has taken.
fn save_marks(marks: &[Mark], clocks: Clocks) -> SavedMarks {
    let mut saved = SavedMarks::default();
    for mark in marks {
        match *mark {
            Mark::Skipped { from, to } => saved.skipped.push(SequenceRange { from, to }),
            Mark::Deferred { from, to, due } => {
                saved.deferred.extend((from..to).map(|sequence| (sequence, clocks.to_wall(due))));
            }
            Mark::Targeted { from, to, channel } => {
                saved.targeted.push(TargetedCheckpoint { from, to, channel })
            }
            Mark::Adopted { from, to, channel, attempts, failures, due } => {
                let due_ns = due.map(|due| clocks.to_wall(due));
                saved.adopted.push(AdoptedCheckpoint { from, to, channel, attempts, failures, due_ns });
            }
        }
    }
    saved
}

/// Restores the marks that no release has taken. `deadline` converts a saved wall time.
pub fn restore_marks(log: &TopicLog, saved: &TopicCheckpoint, deadline: impl Fn(i64) -> Nanos) {
    for &(sequence, due_ns) in &saved.unreleased_deferred {
        log.mark(Mark::Deferred { from: sequence, to: sequence.saturating_add(1), due: deadline(due_ns) });
    }
    for &TargetedCheckpoint { from, to, channel } in &saved.unreleased_targeted {
        if from < to {
            log.mark(Mark::Targeted { from, to, channel });
        }
    }
    for &AdoptedCheckpoint { from, to, channel, attempts, failures, due_ns } in &saved.unreleased_adopted {
        if from < to {
            log.mark(Mark::Adopted { from, to, channel, attempts, failures, due: due_ns.map(&deadline) });
        }
    }
    // Last, so that a refused message is skipped, whatever else it was: the newest mark comes first.
    for &SequenceRange { from, to } in saved.skipped.iter().filter(|range| !range.is_empty()) {
        log.mark(Mark::Skipped { from, to });
    }
}

fn save_retention(log: &TopicLog, own: Option<Retention>, clocks: Clocks) -> RetentionCheckpoint {
    let Retention { age, bytes } = own.unwrap_or_default();
    RetentionCheckpoint {
        own: own.is_some(),
        for_ns: age,
        bytes,
        from: Some(log.retained_from()).filter(|_| log.is_retaining()),
        void: log.void(),
        deferred: (log.deferred().into_iter())
            .map(|(SequenceRange { from, to }, due)| DeferredCheckpoint {
                from,
                to,
                due_ns: clocks.to_wall(due),
            })
            .collect(),
        targeted: (log.targeted().into_iter())
            .map(|(SequenceRange { from, to }, channel)| TargetedCheckpoint { from, to, channel })
            .collect(),
    }
}

fn save_taken_over(log: &TopicLog) -> Option<TakenOverCheckpoint> {
    let TakenOver { before, at_ns } = log.taken_over()?;
    Some(TakenOverCheckpoint { before, at_ns })
}

/// Restores which messages were taken over from NSQ.
pub fn restore_taken_over(log: &TopicLog, saved: &TopicCheckpoint) {
    if let Some(TakenOverCheckpoint { before, at_ns }) = saved.taken_over {
        log.set_taken_over(TakenOver { before, at_ns });
    }
}

/// Restores a topic's own settings, and reports those that this version does not accept.
pub fn restore_own(saved: &TopicCheckpoint) -> (Settings, Vec<InvalidSetting>) {
    match &saved.settings {
        Some(text) => Settings::parse(text),
        None => {
            let RetentionCheckpoint { own, for_ns, bytes, .. } = saved.retention;
            let mut settings = Settings::default();
            settings.set_retention(own.then_some(Retention { age: for_ns, bytes }));
            (settings, Vec::new())
        }
    }
}

/// Restores the retention of a log that needs its messages from `first` on. `retention` are the limits in force.
pub fn restore_retention(
    log: &TopicLog,
    saved: &RetentionCheckpoint,
    retention: Retention,
    first: u64,
    deadline: impl Fn(i64) -> Nanos,
) {
    log.set_retention(retention, saved.from.unwrap_or(first));
    saved.void.iter().for_each(|void| log.add_void(void.from, void.to));
    for &DeferredCheckpoint { from, to, due_ns } in &saved.deferred {
        log.add_deferred(from, to, deadline(due_ns));
    }
    for &TargetedCheckpoint { from, to, channel } in &saved.targeted {
        log.add_targeted(from, to, channel);
    }
}
