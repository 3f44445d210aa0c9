//! Pure: the figures of the last hours, in memory that has a limit.
//!
//! Each object has a ring of fine points, one per sample, and a ring of coarse points, one per minute. If all of them do
//! not fit within the limit, the fine points are dropped first; then the coarse rings become shorter; at last, objects are
//! omitted, channels first. [`Series::detail`] says what is kept.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::snapshot::{Rates, Snapshot};

/// The default limit of the memory for all points.
pub const DEFAULT_SERIES_BYTES: usize = 64 << 20;
/// How long fine points are kept.
pub const FINE_FOR: Duration = Duration::from_secs(2 * 3600);
/// How many coarse points are kept: 48 hours.
pub const COARSE_POINTS: usize = 48 * 60;
/// The shortest coarse ring: an hour. If even this does not fit, objects are omitted.
const LEAST_COARSE_POINTS: usize = 60;
/// Time between two coarse points.
const COARSE_STEP: Duration = Duration::from_secs(60);
/// Memory of an object without points: its key with the names, its place in the table, and both rings.
const TRACK_BYTES: usize = 384;
// A table that has just grown is 7/16 full, and each place has one byte more.
const _: () = assert!((size_of::<(SeriesKey, Track)>() + 1) * 16 / 7 <= TRACK_BYTES);
/// Rings grow by this many points, so that little of their memory is unused.
const GROWTH: usize = 32;
/// Objects that vanished are kept for this many coarse points.
const KEEP_VANISHED: u32 = 10;
/// Number of marks that are kept.
const MARKS: usize = 1000;

/// What a series is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SeriesKey {
    /// Sums over the cluster.
    Cluster,
    /// A node, by its HTTP address.
    Node(Arc<str>),
    /// A topic: its depth includes its channels.
    Topic(Arc<str>),
    /// A channel of a topic.
    Channel(Arc<str>, Arc<str>),
}

/// The figures of an object at one time. A figure that is unknown is NaN.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[allow(missing_docs)] // As in `ChannelFigures` and `Rates`.
pub struct Point {
    pub depth: f32,
    pub in_flight_count: f32,
    pub ingress: f32,
    pub egress: f32,
    pub requeue: f32,
    pub timeout: f32,
}

/// Something that happened to a node, to be marked on graphs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mark {
    /// When it was noticed.
    pub at: SystemTime,
    /// The node's HTTP address.
    pub node: String,
    /// What happened.
    pub kind: MarkKind,
}

/// What happened to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MarkKind {
    /// It restarted: counters began again.
    Restarted,
    /// It stopped answering.
    Down,
    /// It answers again.
    Up,
}

/// Which points to return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// One per sample.
    Fine,
    /// One per minute, with the mean of its samples.
    Coarse,
}

/// How much is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Detail {
    /// Number of fine points per object; 0 if they do not fit.
    pub fine_points: usize,
    /// Number of coarse points per object.
    pub coarse_points: usize,
    /// Objects without a series.
    pub omitted_count: usize,
}

impl Detail {
    /// What fits within `limit` bytes for this many objects.
    fn plan(limit: usize, objects: usize, fine_points: usize) -> Self {
        let each = |points: usize| TRACK_BYTES + points * size_of::<Point>();
        let objects = objects.max(1);
        let share = limit / objects;
        if each(fine_points + COARSE_POINTS) <= share {
            return Detail { fine_points, coarse_points: COARSE_POINTS, omitted_count: 0 };
        }
        let coarse_points = share.saturating_sub(TRACK_BYTES) / size_of::<Point>();
        if coarse_points >= LEAST_COARSE_POINTS {
            return Detail {
                fine_points: 0,
                coarse_points: coarse_points.min(COARSE_POINTS),
                omitted_count: 0,
            };
        }
        let kept = limit / each(LEAST_COARSE_POINTS);
        Detail {
            fine_points: 0,
            coarse_points: LEAST_COARSE_POINTS,
            omitted_count: objects.saturating_sub(kept),
        }
    }

    /// What is missing, for people; `None` if everything is kept.
    pub fn reduction(&self) -> Option<String> {
        match self {
            Detail { omitted_count, coarse_points, .. } if *omitted_count > 0 => Some(format!(
                "{} min of history per minute, none for {omitted_count} objects: too many for the memory limit",
                coarse_points
            )),
            Detail { fine_points: 0, coarse_points, .. } => Some(format!(
                "{} h {} min of history per minute only: too many objects for the memory limit",
                coarse_points / 60,
                coarse_points % 60
            )),
            _ => None,
        }
    }
}

/// Points, the newest last.
#[derive(Debug, Default)]
struct Ring {
    points: VecDeque<Point>,
}

impl Ring {
    fn push(&mut self, point: Point, limit: usize) {
        while self.points.len() >= limit.max(1) {
            self.points.pop_front();
        }
        if limit == 0 {
            return;
        }
        if self.points.len() == self.points.capacity() {
            self.points.reserve_exact(GROWTH.min(limit - self.points.len()));
        }
        self.points.push_back(point);
    }

    fn shorten(&mut self, limit: usize) {
        if self.points.capacity() > limit {
            while self.points.len() > limit {
                self.points.pop_front();
            }
            self.points.shrink_to(limit);
        }
    }

    fn bytes(&self) -> usize {
        self.points.capacity() * size_of::<Point>()
    }
}

/// The points of one object.
#[derive(Debug, Default)]
struct Track {
    fine: Ring,
    coarse: Ring,
    /// Sums of the samples of the current minute, and how many samples know each figure.
    sums: [f32; 6],
    counts: [u16; 6],
    /// Number of the last sample that had the object.
    seen: u64,
    /// Coarse points since then.
    missed: u32,
}

impl Point {
    /// A point of which nothing is known.
    pub const UNKNOWN: Point = Point {
        depth: f32::NAN,
        in_flight_count: f32::NAN,
        ingress: f32::NAN,
        egress: f32::NAN,
        requeue: f32::NAN,
        timeout: f32::NAN,
    };

    fn new(depth: i64, in_flight: i64, rates: Option<&Rates>) -> Self {
        let known = Point { depth: depth as f32, in_flight_count: in_flight as f32, ..Point::UNKNOWN };
        match rates {
            None => known,
            Some(rates) => Point {
                ingress: rates.ingress,
                egress: rates.egress,
                requeue: rates.requeue,
                timeout: rates.timeout,
                ..known
            },
        }
    }

    fn figures(&self) -> [f32; 6] {
        [self.depth, self.in_flight_count, self.ingress, self.egress, self.requeue, self.timeout]
    }
}

impl Track {
    fn add(&mut self, point: &Point) {
        for (index, figure) in point.figures().into_iter().enumerate() {
            if !figure.is_nan() {
                self.sums[index] += figure;
                self.counts[index] += 1;
            }
        }
    }

    /// The means of the minute, which ends.
    fn take_mean(&mut self) -> Point {
        let mut means = [f32::NAN; 6];
        for (index, mean) in means.iter_mut().enumerate() {
            if self.counts[index] > 0 {
                *mean = self.sums[index] / f32::from(self.counts[index]);
            }
        }
        (self.sums, self.counts) = ([0.0; 6], [0; 6]);
        let [depth, in_flight_count, ingress, egress, requeue, timeout] = means;
        Point { depth, in_flight_count, ingress, egress, requeue, timeout }
    }
}

/// The series of a cluster.
#[derive(Debug)]
pub struct Series {
    limit: usize,
    /// Number of fine points that are wanted.
    fine_points: usize,
    detail: Detail,
    tracks: HashMap<SeriesKey, Track>,
    /// The times of the fine and coarse points: the newest point of each ring has the newest time.
    times: VecDeque<SystemTime>,
    coarse_times: VecDeque<SystemTime>,
    /// The minute of which samples are being added up.
    minute: Option<u64>,
    samples: u64,
    marks: VecDeque<Mark>,
}

impl Series {
    /// Empty series of samples in this interval, with a limit in bytes.
    pub fn new(interval: Duration, limit: usize) -> Self {
        let fine_points = FINE_FOR.as_millis() / interval.as_millis().max(1);
        Series {
            limit,
            fine_points: usize::try_from(fine_points).unwrap_or(usize::MAX).clamp(1, 7200),
            detail: Detail::default(),
            tracks: HashMap::new(),
            times: VecDeque::new(),
            coarse_times: VecDeque::new(),
            minute: None,
            samples: 0,
            marks: VecDeque::new(),
        }
    }

    /// Adds a snapshot, which must be newer than those before.
    pub fn add(&mut self, snapshot: &Snapshot) {
        self.samples += 1;
        let at = snapshot.taken_at;
        self.adapt(1 + snapshot.nodes.len() + snapshot.topics.len() + snapshot.totals.channel_count);
        let minute =
            at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() / COARSE_STEP.as_secs();
        if self.minute.is_some_and(|before| before != minute) {
            self.end_minute();
        }
        self.minute = Some(minute);
        push_time(&mut self.times, at, self.detail.fine_points);

        let totals = &snapshot.totals;
        let point = |totals: &crate::snapshot::Totals| {
            Point::new(totals.depth, totals.in_flight_count, totals.rates.as_ref())
        };
        self.put(SeriesKey::Cluster, point(totals));
        for node in &snapshot.nodes {
            self.put(SeriesKey::Node(node.address.as_str().into()), point(&node.totals));
        }
        for topic in &snapshot.topics {
            let in_flight = topic.channels.iter().map(|channel| channel.sum.in_flight_count).sum();
            let point = Point::new(topic.total_depth(), in_flight, topic.sum.rates.as_ref());
            self.put(SeriesKey::Topic(topic.name.clone()), point);
        }
        for topic in &snapshot.topics {
            for channel in &topic.channels {
                let sum = &channel.sum;
                let point = Point::new(sum.depth, sum.in_flight_count, sum.rates.as_ref());
                self.put(SeriesKey::Channel(topic.name.clone(), channel.name.clone()), point);
            }
        }
        let (samples, fine_points) = (self.samples, self.detail.fine_points);
        for track in self.tracks.values_mut().filter(|track| track.seen != samples) {
            track.fine.push(Point::UNKNOWN, fine_points);
        }
    }

    /// Adds a mark; the oldest of more than a thousand are forgotten.
    pub fn mark(&mut self, mark: Mark) {
        if self.marks.len() == MARKS {
            self.marks.pop_front();
        }
        self.marks.push_back(mark);
    }

    /// The marks, oldest first.
    pub fn marks(&self) -> impl Iterator<Item = &Mark> {
        self.marks.iter()
    }

    /// How much is kept.
    pub fn detail(&self) -> Detail {
        self.detail
    }

    /// The limit of [`bytes`](Self::bytes).
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes in use for points and their keys.
    pub fn bytes(&self) -> usize {
        let rings: usize = self.tracks.values().map(|track| track.fine.bytes() + track.coarse.bytes()).sum();
        rings + self.tracks.len() * TRACK_BYTES
    }

    /// The points of an object with their times, oldest first; empty if there is no such series.
    pub fn points(&self, key: &SeriesKey, resolution: Resolution) -> Vec<(SystemTime, Point)> {
        let Some(track) = self.tracks.get(key) else { return Vec::new() };
        let (ring, times) = match resolution {
            Resolution::Fine => (&track.fine, &self.times),
            Resolution::Coarse => (&track.coarse, &self.coarse_times),
        };
        let skip_times = times.len().saturating_sub(ring.points.len());
        times.iter().skip(skip_times).copied().zip(ring.points.iter().copied()).collect()
    }

    /// The newest points of an object, oldest first, at most this many: fine ones, or coarse ones if no fine ones are kept.
    pub fn newest(&self, key: &SeriesKey, count: usize) -> Vec<Point> {
        let Some(track) = self.tracks.get(key) else { return Vec::new() };
        let ring = if self.detail.fine_points > 0 { &track.fine } else { &track.coarse };
        ring.points.iter().skip(ring.points.len().saturating_sub(count)).copied().collect()
    }

    fn put(&mut self, key: SeriesKey, point: Point) {
        let track = match self.tracks.get_mut(&key) {
            Some(track) => track,
            None => {
                let least = TRACK_BYTES + LEAST_COARSE_POINTS * size_of::<Point>();
                if self.detail.omitted_count > 0 && self.tracks.len() >= self.limit / least {
                    return;
                }
                self.tracks.entry(key).or_default()
            }
        };
        track.seen = self.samples;
        track.missed = 0;
        track.fine.push(point, self.detail.fine_points);
        track.add(&point);
    }

    fn end_minute(&mut self) {
        let Some(minute) = self.minute else { return };
        let at = SystemTime::UNIX_EPOCH + COARSE_STEP * u32::try_from(minute).unwrap_or(u32::MAX);
        let coarse_points = self.detail.coarse_points;
        push_time(&mut self.coarse_times, at, coarse_points);
        let samples = self.samples;
        self.tracks.retain(|_, track| {
            let mean = track.take_mean();
            track.coarse.push(mean, coarse_points);
            // The current sample is not in the tracks yet.
            track.missed += u32::from(track.seen + 1 < samples);
            track.missed <= KEEP_VANISHED
        });
    }

    /// Makes room for this many objects.
    fn adapt(&mut self, objects: usize) {
        let objects = objects.max(self.tracks.len());
        let detail = Detail::plan(self.limit, objects, self.fine_points);
        if detail == self.detail {
            return;
        }
        let is_shorter =
            detail.fine_points < self.detail.fine_points || detail.coarse_points < self.detail.coarse_points;
        self.detail = detail;
        if is_shorter {
            for track in self.tracks.values_mut() {
                track.fine.shorten(detail.fine_points);
                track.coarse.shorten(detail.coarse_points);
            }
            while self.times.len() > detail.fine_points {
                self.times.pop_front();
            }
            while self.coarse_times.len() > detail.coarse_points {
                self.coarse_times.pop_front();
            }
        }
    }
}

fn push_time(times: &mut VecDeque<SystemTime>, at: SystemTime, limit: usize) {
    times.push_back(at);
    while times.len() > limit {
        times.pop_front();
    }
}

#[cfg(test)]
#[path = "series_tests.rs"]
mod tests;
