//! Curves of characters. Pure.

/// Eighths of a cell, from the bottom.
const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A curve with its title, `height` lines high. The newest values are at the right; values that do not fit are left out.
pub fn plot(title: &str, values: &[f64], width: usize, height: usize) -> String {
    let scale_width = 9;
    let columns = width.saturating_sub(scale_width + 2).max(10);
    let values = &values[values.len().saturating_sub(columns)..];
    let (min, max) =
        values.iter().fold((f64::MAX, f64::MIN), |(min, max), value| (min.min(*value), max.max(*value)));
    let now = values.last().copied().unwrap_or(0.0);
    let (min, max) = if values.is_empty() { (0.0, 0.0) } else { (min, max) };
    let top = if max > 0.0 { max } else { 1.0 };
    let mut text = format!("{title}: now {}, min {}, max {}\n", short(now), short(min), short(max));
    for line in (0..height).rev() {
        let label = match line {
            _ if line + 1 == height => short(top),
            0 => "0".to_owned(),
            _ => String::new(),
        };
        text += &format!("{label:>scale_width$} ┤");
        for value in values {
            let eighths = (value / top * (height * 8) as f64).round() as i64 - (line * 8) as i64;
            text.push(BLOCKS[usize::try_from(eighths.clamp(0, 8)).unwrap_or(0)]);
        }
        let end = text.trim_end_matches(' ').len();
        text.truncate(end);
        text.push('\n');
    }
    text
}

fn short(value: f64) -> String {
    let mut scaled = value;
    for unit in ["", "k", "M", "G", "T"] {
        if scaled.abs() < 1000.0 {
            let decimals = usize::from(scaled.fract() != 0.0 && scaled.abs() < 100.0);
            return format!("{scaled:.decimals$}{unit}");
        }
        scaled /= 1000.0;
    }
    format!("{scaled:.0}P")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fill_their_share_of_the_height() {
        let text = plot("depth", &[0.0, 8.0, 16.0], 30, 2);
        assert_eq!(text, "depth: now 16, min 0, max 16\n       16 ┤  █\n        0 ┤ ██\n");
    }

    #[test]
    fn only_the_newest_values_are_shown() {
        let values: Vec<f64> = (0..100).map(f64::from).collect();
        let text = plot("x", &values, 21, 1);
        assert!(text.starts_with("x: now 99, min 90, max 99\n"), "{text}");
        assert_eq!(text.lines().nth(1).unwrap().chars().filter(|c| *c == '█').count(), 7);
        assert!(plot("none", &[], 0, 1).starts_with("none: now 0"));
    }

    #[test]
    fn figures_are_short() {
        assert_eq!([0.0, 1.5, 999.0, 12_345.0, 2e6].map(short), ["0", "1.5", "999", "12.3k", "2M"]);
    }
}
