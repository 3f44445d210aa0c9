//! Messages made from a template, for `nsq pub --count`. Pure.

use crate::body::rfc3339;

/// A parsed template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// The number of the message, from 1 on.
    Number,
    /// RFC 3339, in UTC.
    Time,
    /// A random UUID, version 4.
    Uuid,
    /// A random number below this one.
    Random(u64),
}

impl Template {
    /// Parses `{{n}}`, `{{time}}`, `{{uuid}}` and `{{rand N}}`; anything else is text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let (word, after) =
                after.split_once("}}").ok_or_else(|| format!("{{{{ without }}}} in {text:?}"))?;
            parts.push(Part::Text(before.to_owned()));
            parts.push(match word.trim() {
                "n" => Part::Number,
                "time" => Part::Time,
                "uuid" => Part::Uuid,
                other => {
                    let limit = other.strip_prefix("rand ").and_then(|limit| limit.trim().parse().ok());
                    let limit = limit.filter(|limit| *limit > 0u64);
                    Part::Random(limit.ok_or_else(|| {
                        format!("unknown {{{{{other}}}}}: expected {{{{n}}}}, {{{{time}}}}, {{{{uuid}}}} or {{{{rand N}}}}")
                    })?)
                }
            });
            rest = after;
        }
        parts.push(Part::Text(rest.to_owned()));
        parts.retain(|part| *part != Part::Text(String::new()));
        Ok(Template { parts })
    }

    /// The message with this number. `random` gives random bits.
    pub fn render(&self, number: u64, now_ns: i64, mut random: impl FnMut() -> u64) -> String {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(plain) => text += plain,
                Part::Number => text += &number.to_string(),
                Part::Time => text += &rfc3339(now_ns),
                Part::Random(limit) => text += &(random() % limit).to_string(),
                Part::Uuid => {
                    let (high, low) = (random(), random());
                    text += &format!(
                        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
                        high >> 32,
                        high >> 16 & 0xffff,
                        high & 0xfff,
                        low >> 48 & 0x3fff | 0x8000,
                        low & 0xffff_ffff_ffff
                    );
                }
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_replaced() {
        let template = Template::parse("msg {{n}} at {{time}}: {{rand 10}} {{ uuid }}").unwrap();
        let text = template.render(3, 1_795_000_000_000_000_000, || 17);
        assert_eq!(text, "msg 3 at 2026-11-18T11:06:40Z: 7 00000000-0000-4011-8000-000000000011");
        assert_eq!(Template::parse("{}").unwrap().render(1, 0, || 0), "{}");
        for wrong in ["{{n", "{{x}}", "{{rand}}", "{{rand 0}}"] {
            assert!(Template::parse(wrong).is_err(), "{wrong}");
        }
    }
}
