use super::*;
use crate::snapshot::{ChannelFigures, ChannelView, TopicFigures, TopicView, Totals};

const SECOND: Duration = Duration::from_secs(1);

/// A snapshot at this second with topics of one channel each, whose depth is given.
fn snapshot(at: u64, topics: &[(&str, i64)]) -> Snapshot {
    let mut snapshot = Snapshot::empty(SECOND * 5);
    snapshot.taken_at = SystemTime::UNIX_EPOCH + SECOND * u32::try_from(at).unwrap();
    let channel = |depth| ChannelView {
        name: "c".into(),
        sum: ChannelFigures {
            depth,
            in_flight_count: 1,
            rates: (depth > 0).then(|| Rates { egress: depth as f32, ..Rates::default() }),
            ..ChannelFigures::default()
        },
        parts: Vec::new(),
    };
    let topic = |(name, depth): &(&str, i64)| TopicView {
        name: (*name).into(),
        sum: TopicFigures::default(),
        parts: Vec::new(),
        channels: vec![channel(*depth)],
    };
    snapshot.topics = topics.iter().map(topic).collect();
    snapshot.totals = Totals { channel_count: topics.len(), ..Totals::default() };
    snapshot
}

fn channel(topic: &str) -> SeriesKey {
    SeriesKey::Channel(topic.into(), "c".into())
}

fn depths(series: &Series, key: &SeriesKey, resolution: Resolution) -> Vec<(u64, f32)> {
    let seconds = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    series.points(key, resolution).into_iter().map(|(at, point)| (seconds(at), point.depth)).collect()
}

#[test]
fn fine_points_are_the_samples_and_coarse_ones_their_means() {
    let mut series = Series::new(SECOND * 20, DEFAULT_SERIES_BYTES);
    for (index, depth) in [10, 20, 30, 0, 40].into_iter().enumerate() {
        series.add(&snapshot(120 + 20 * index as u64, &[("t", depth)]));
    }
    let key = channel("t");
    let fine = [(120, 10.0), (140, 20.0), (160, 30.0), (180, 0.0), (200, 40.0)];
    assert_eq!(depths(&series, &key, Resolution::Fine), fine);
    assert_eq!(depths(&series, &key, Resolution::Coarse), [(120, 20.0)]);
    assert_eq!(depths(&series, &SeriesKey::Topic("t".into()), Resolution::Coarse), [(120, 20.0)]);
    // A rate that is not known once does not lower the mean.
    series.add(&snapshot(240, &[("t", 1)]));
    let coarse = series.points(&key, Resolution::Coarse);
    assert_eq!((coarse[1].1.depth, coarse[1].1.egress), (20.0, 40.0));
    assert_eq!(series.newest(&key, 2).iter().map(|point| point.depth).collect::<Vec<_>>(), [40.0, 1.0]);
}

#[test]
fn objects_that_appear_later_or_vanish_keep_their_times() {
    let mut series = Series::new(SECOND * 5, DEFAULT_SERIES_BYTES);
    series.add(&snapshot(0, &[("a", 1)]));
    series.add(&snapshot(5, &[("a", 2), ("b", 3)]));
    series.add(&snapshot(10, &[("b", 4)]));
    assert_eq!(depths(&series, &channel("b"), Resolution::Fine), [(5, 3.0), (10, 4.0)]);
    let a = depths(&series, &channel("a"), Resolution::Fine);
    assert_eq!(a[..2], [(0, 1.0), (5, 2.0)]);
    assert!(a[2].1.is_nan());
    for minute in 1..30 {
        series.add(&snapshot(60 * minute, &[("b", 1)]));
    }
    assert_eq!(depths(&series, &channel("a"), Resolution::Fine), []);
    assert!(!depths(&series, &channel("b"), Resolution::Coarse).is_empty());
}

#[test]
fn rings_end_at_their_length() {
    let mut series = Series::new(SECOND * 3600, DEFAULT_SERIES_BYTES);
    for hour in 0..4000 {
        series.add(&snapshot(3600 * hour, &[("t", 7)]));
    }
    assert_eq!(series.points(&channel("t"), Resolution::Fine).len(), 2);
    assert_eq!(series.points(&channel("t"), Resolution::Coarse).len(), COARSE_POINTS);
    assert_eq!(series.detail().reduction(), None);
}

#[test]
fn memory_stays_within_the_limit_and_detail_is_reduced_in_steps() {
    let names: Vec<String> = (0..400).map(|number| format!("t{number:03}")).collect();
    let topics: Vec<(&str, i64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let full = 1 + 2 * 400;
    for (limit, fine, coarse, omitted) in [
        (full * (TRACK_BYTES + (1440 + COARSE_POINTS) * 24), 1440, COARSE_POINTS, 0),
        (full * (TRACK_BYTES + COARSE_POINTS * 24), 0, COARSE_POINTS, 0),
        (full * (TRACK_BYTES + 100 * 24), 0, 100, 0),
        (500 * (TRACK_BYTES + 60 * 24), 0, 60, full - 500),
    ] {
        let mut series = Series::new(SECOND * 5, limit);
        for minute in 0..200 {
            series.add(&snapshot(60 * minute, &topics));
            assert!(series.bytes() <= limit, "{} of {limit} bytes", series.bytes());
        }
        assert_eq!(
            series.detail(),
            Detail { fine_points: fine, coarse_points: coarse, omitted_count: omitted }
        );
        assert_eq!(series.detail().reduction().is_some(), fine == 0);
        // The cluster and the topics are kept before the channels.
        let coarse = |key: &SeriesKey| series.points(key, Resolution::Coarse).len();
        assert_eq!(coarse(&SeriesKey::Cluster), coarse(&SeriesKey::Topic("t399".into())));
        assert_eq!(coarse(&channel("t399")) > 0, omitted == 0);
    }
}

#[test]
fn default_limit_holds_two_hours_of_five_thousand_topics() {
    let objects = 1 + 10 + 5000 + 5000 * 3;
    let plan = |limit| Detail::plan(limit, objects, 1440);
    let minutes = |coarse_points| Detail { fine_points: 0, coarse_points, omitted_count: 0 };
    assert_eq!(plan(DEFAULT_SERIES_BYTES), minutes(123));
    assert_eq!(plan(1400 << 20), minutes(COARSE_POINTS));
    let everything = Detail { fine_points: 1440, ..minutes(COARSE_POINTS) };
    assert_eq!(plan(2 << 30), everything);
}

#[test]
fn more_objects_shorten_what_is_kept() {
    let limit = 3 * (TRACK_BYTES + (1440 + COARSE_POINTS) * 24);
    let mut series = Series::new(SECOND * 5, limit);
    for minute in 0..10 {
        series.add(&snapshot(60 * minute, &[("a", 1)]));
    }
    assert_eq!(
        (series.detail().fine_points, series.points(&channel("a"), Resolution::Fine).len()),
        (1440, 10)
    );
    series.add(&snapshot(600, &[("a", 1), ("b", 1)]));
    assert_eq!((series.detail().fine_points, series.points(&channel("a"), Resolution::Fine).len()), (0, 0));
    // Without fine points, the coarse ones serve.
    assert_eq!(series.newest(&channel("a"), 3).len(), 3);
}

#[test]
fn marks_have_a_limit() {
    let mut series = Series::new(SECOND, 0);
    for second in 0..1500 {
        let at = SystemTime::UNIX_EPOCH + SECOND * second;
        series.mark(Mark { at, node: "n".to_owned(), kind: MarkKind::Restarted });
    }
    assert_eq!(series.marks().count(), MARKS);
    assert_eq!(series.marks().next().unwrap().at, SystemTime::UNIX_EPOCH + SECOND * 500);
}
