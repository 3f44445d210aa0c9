//! Sparklines and graphs as SVG. Pure.

use std::fmt::Write as _;
use std::time::SystemTime;

use maud::{Markup, html};

use crate::figures;

/// A small line without axes. Nothing if there are fewer than two points.
pub fn spark(values: &[f32], label: &str) -> Markup {
    let (width, height) = (96.0_f32, 20.0_f32);
    let top = values.iter().copied().filter(|value| value.is_finite()).fold(0.0_f32, f32::max);
    let known = values.iter().filter(|value| value.is_finite()).count();
    html! {
        @if known >= 2 {
            svg .spark viewBox={ "0 0 " (width) " " (height) } width=(width) height=(height) role="img" aria-label=(label) {
                path d=(path(values, width, height, top.max(f32::MIN_POSITIVE))) {}
            }
        } @else { span .spark.dim aria-hidden="true" {} }
    }
}

/// One line of a graph.
pub struct Line<'a> {
    pub name: &'a str,
    /// `a`, `b` or `c`: the colour.
    pub class: &'static str,
    pub values: Vec<f32>,
    pub show: fn(f64) -> String,
}

/// A graph with a scale, the times of its ends, and marks.
pub fn graph(
    title: &str,
    times: &[SystemTime],
    lines: &[Line<'_>],
    marks: &[(SystemTime, String)],
) -> Markup {
    let (width, height) = (720.0_f32, 140.0_f32);
    let finite = lines.iter().flat_map(|line| line.values.iter().copied()).filter(|value| value.is_finite());
    let top = nice(finite.fold(0.0_f32, f32::max));
    let (Some(first), Some(last)) = (times.first(), times.last()) else {
        return html! { figure .graph { figcaption { (title) } p .dim { "Two samples are needed: the graph begins in some seconds." } } };
    };
    let length = last.duration_since(*first).unwrap_or_default().as_secs_f32().max(f32::MIN_POSITIVE);
    let show = lines.first().map_or(figures::short as fn(f64) -> String, |line| line.show);
    let summary: Vec<String> = lines
        .iter()
        .map(|line| {
            let newest = line.values.iter().rev().find(|value| value.is_finite()).copied();
            format!(
                "{} {}",
                line.name,
                newest.map_or_else(|| "unknown".to_owned(), |v| (line.show)(f64::from(v)))
            )
        })
        .collect();
    html! {
        figure .graph {
            figcaption {
                span { (title) }
                @for (line, text) in lines.iter().zip(&summary) { span class={ "key " (line.class) } { (text) } }
            }
            svg viewBox={ "0 0 " (width) " " (height) } preserveAspectRatio="none" role="img"
                aria-label={ (title) ": " (summary.join(", ")) } {
                @for part in [0.0_f32, 0.5, 1.0] {
                    @let y = 1.0 + part * (height - 2.0);
                    line .grid x1="0" x2=(width) y1=(y) y2=(y) {}
                }
                @for line in lines { path class=(line.class) d=(path(&line.values, width, height, top)) {} }
                @for (at, what) in marks {
                    @if let Ok(after) = at.duration_since(*first) {
                        @let x = after.as_secs_f32() / length * width;
                        @if x <= width { line .mark x1=(x) x2=(x) y1="0" y2=(height) { title { (what) } } }
                    }
                }
            }
            div .axis {
                span { time datetime=(figures::rfc3339(*first)) { (figures::clock(*first)) } }
                span { "0 … " (show(f64::from(top))) }
                span { time datetime=(figures::rfc3339(*last)) { (figures::clock(*last)) } }
            }
        }
    }
}

/// A round number at or above `value`.
fn nice(value: f32) -> f32 {
    if value <= 0.0 || !value.is_finite() {
        return 1.0;
    }
    let magnitude = 10.0_f32.powf(value.log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0];
    steps.iter().map(|step| step * magnitude).find(|step| *step >= value * 0.999).unwrap_or(value)
}

/// The path of a line. Unknown values are gaps.
fn path(values: &[f32], width: f32, height: f32, top: f32) -> String {
    let step = width / (values.len().max(2) - 1) as f32;
    let mut path = String::new();
    let mut is_gap = true;
    for (index, value) in values.iter().enumerate() {
        if !value.is_finite() {
            is_gap = true;
            continue;
        }
        let x = index as f32 * step;
        let y = 1.0 + (height - 2.0) * (1.0 - (value / top).clamp(0.0, 1.0));
        // Writing to a String does not fail.
        let _ = write!(path, "{}{x:.1} {y:.1}", if is_gap { "M" } else { "L" });
        is_gap = false;
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_values_are_gaps() {
        let path = path(&[0.0, f32::NAN, 1.0, 1.0], 30.0, 12.0, 1.0);
        assert_eq!(path, "M0.0 11.0M20.0 1.0L30.0 1.0");
    }

    #[test]
    fn scales_end_at_round_numbers() {
        for (value, top) in
            [(0.0, 1.0), (0.7, 1.0), (3.0, 5.0), (12.0, 20.0), (99.0, 100.0), (1000.0, 1000.0)]
        {
            assert!((nice(value) - top).abs() < top * 1e-3, "{value}: {}", nice(value));
        }
    }

    #[test]
    fn a_line_without_points_is_not_drawn() {
        assert!(!spark(&[1.0], "x").into_string().contains("<svg"));
        assert!(spark(&[1.0, 2.0], "x").into_string().contains("<svg"));
    }
}
