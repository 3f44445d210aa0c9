//! The condition of `nsq stat --until`, such as `depth==0`. Pure.

use std::fmt;

use super::sums::Sum;

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Figure {
    Depth,
    InFlight,
    Deferred,
    Clients,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    Unequal,
    Less,
    AtMost,
    Greater,
    AtLeast,
}

/// Longer spellings first where one begins with another.
const COMPARISONS: [(&str, Comparison); 6] = [
    ("==", Comparison::Equal),
    ("!=", Comparison::Unequal),
    ("<=", Comparison::AtMost),
    (">=", Comparison::AtLeast),
    ("<", Comparison::Less),
    (">", Comparison::Greater),
];

const FIGURES: [(&str, Figure); 4] = [
    ("depth", Figure::Depth),
    ("in_flight", Figure::InFlight),
    ("deferred", Figure::Deferred),
    ("clients", Figure::Clients),
];

/// A figure of everything that is shown, compared with a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    figure: Figure,
    comparison: Comparison,
    number: i64,
    text: String,
}

impl Condition {
    /// Parses a condition. Usable as a clap value parser.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected = "expected depth, in_flight, deferred or clients, one of == != < <= > >=, and a number, such as 'depth==0'";
        let at = text.find(['=', '!', '<', '>']).ok_or(expected)?;
        let (name, rest) = text.split_at(at);
        let found =
            COMPARISONS.iter().find_map(|(sign, comparison)| Some((*comparison, rest.strip_prefix(sign)?)));
        let (comparison, number) = found.ok_or(expected)?;
        let figure = FIGURES.iter().find(|(known, _)| *known == name.trim()).ok_or(expected)?.1;
        let number = number.trim().parse().map_err(|_| expected)?;
        Ok(Condition { figure, comparison, number, text: text.to_owned() })
    }

    /// Whether it holds for everything that is shown.
    pub fn holds(&self, sum: &Sum) -> bool {
        let value = match self.figure {
            Figure::Depth => sum.depth,
            Figure::InFlight => sum.in_flight_count,
            Figure::Deferred => sum.deferred_count,
            Figure::Clients => sum.client_count,
        };
        match self.comparison {
            Comparison::Equal => value == self.number,
            Comparison::Unequal => value != self.number,
            Comparison::Less => value < self.number,
            Comparison::AtMost => value <= self.number,
            Comparison::Greater => value > self.number,
            Comparison::AtLeast => value >= self.number,
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_compare_a_figure_with_a_number() {
        let sum = Sum { depth: 5, client_count: 2, ..Sum::default() };
        for (text, expected) in [
            ("depth==5", true),
            ("depth == 0", false),
            ("depth!=5", false),
            ("depth<6", true),
            ("depth<=5", true),
            ("clients>2", false),
            ("clients>=2", true),
            ("in_flight>0", false),
            ("deferred==0", true),
        ] {
            assert_eq!(Condition::parse(text).unwrap().holds(&sum), expected, "{text}");
        }
        for text in ["", "depth", "depth=0", "depth==", "depth==x", "age>1", "==1"] {
            assert!(Condition::parse(text).unwrap_err().contains("depth==0"), "{text}");
        }
    }
}
