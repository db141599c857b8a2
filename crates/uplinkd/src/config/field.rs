//! Keys and values of the TOML tree, each with its place in the text.

use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mistake::Mistake;

/// A table with nothing in it but known keys.
pub(super) struct Table<'a> {
    entries: &'a DeTable<'a>,
    span: Range<usize>,
}

impl<'a> Table<'a> {
    /// A table that may have these keys. `hint` knows where some others belong.
    pub(super) fn new(
        entries: &'a DeTable<'a>,
        span: Range<usize>,
        known: &[&str],
        hint: impl FnOnce(&str) -> Option<String>,
    ) -> Result<Self, Mistake> {
        let unknown = entries
            .keys()
            .filter(|key| !known.contains(&key.get_ref().as_ref()))
            .min_by_key(|key| key.span().start);
        match unknown {
            Some(key) => Err(Mistake::new(
                key.span(),
                format!("unknown key `{}`", key.get_ref().escape_debug()),
                hint(key.get_ref()).unwrap_or_else(|| format!("the keys here are {}", listed(known))),
            )),
            None => Ok(Self { entries, span }),
        }
    }

    /// What `read` makes of the value of `key`, or `default` if the key is not there.
    pub(super) fn read<T>(
        &self,
        key: &'static str,
        default: T,
        read: impl FnOnce(Field<'a>) -> Result<T, Mistake>,
    ) -> Result<T, Mistake> {
        self.get(key).map_or(Ok(default), read)
    }

    /// The value of a key that must be there.
    pub(super) fn must(&self, key: &'static str) -> Result<Field<'a>, Mistake> {
        self.get(key).ok_or_else(|| {
            Mistake::new(self.span.clone(), format!("`{key}` is missing here"), format!("add `{key} = …`"))
        })
    }

    /// The only entry of a table that must have exactly one.
    pub(super) fn only_one(&self, remedy: &str) -> Result<Field<'a>, Mistake> {
        let mut entries = self.entries.iter();
        match (entries.next(), entries.next()) {
            (Some((key, value)), None) => Ok(Field::new(key.get_ref(), value)),
            (None, _) => Err(Mistake::new(self.span.clone(), "nothing is said here", remedy)),
            (Some(_), Some(_)) => {
                Err(Mistake::new(self.span.clone(), "only one of these can be said", remedy))
            }
        }
    }

    /// The value of `key`, if it is there.
    fn get(&self, key: &'static str) -> Option<Field<'a>> {
        self.entries.get(key).map(|value| Field::new(key, value))
    }
}

/// A value and what it is called.
pub(super) struct Field<'a> {
    key: &'a str,
    value: &'a Spanned<DeValue<'a>>,
    /// It is an item of the list that is called so.
    item: bool,
}

impl<'a> Field<'a> {
    fn new(key: &'a str, value: &'a Spanned<DeValue<'a>>) -> Self {
        Self { key, value, item: false }
    }

    /// What it is called. An item of a list is called as the list.
    pub(super) fn key(&self) -> &'a str {
        self.key
    }

    /// A mistake in this value.
    pub(super) fn wrong(&self, message: impl Into<String>, remedy: impl Into<String>) -> Mistake {
        Mistake::new(self.value.span(), message, remedy)
    }

    /// It is text.
    pub(super) fn is_text(&self) -> bool {
        self.value.get_ref().is_str()
    }

    /// The text that it must be.
    pub(super) fn text(&self, example: &str) -> Result<&'a str, Mistake> {
        self.value
            .get_ref()
            .as_str()
            .ok_or_else(|| self.not("text", &format!("write it in quotes, such as {example}")))
    }

    /// One of these words.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T, Mistake> {
        let words: Vec<String> = choices.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let remedy = format!("write one of {}", words.join(", "));
        let text = self.value.get_ref().as_str().ok_or_else(|| self.not("text", &remedy))?;
        choices.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning).ok_or_else(|| {
            self.wrong(format!("`{}` cannot be \"{}\"", self.key, text.escape_debug()), &remedy)
        })
    }

    /// A time such as `"300ms"` within these bounds.
    pub(super) fn duration(&self, min: Duration, max: Duration) -> Result<Duration, Mistake> {
        let text = self.text("\"1s\" or \"300ms\"")?;
        let duration = parse_duration(text).ok_or_else(|| {
            self.wrong(
                "this is not a time",
                "write a whole number and its unit, ms, s, m or h, such as \"1s\" or \"300ms\"",
            )
        })?;
        if duration < min || duration > max {
            return Err(self.wrong(
                format!("`{}` is out of bounds", self.key),
                format!("write a time from {} to {}", shown(min), shown(max)),
            ));
        }
        Ok(duration)
    }

    /// A whole number within these bounds.
    pub(super) fn integer(&self, min: u32, max: u32) -> Result<u32, Mistake> {
        let quoted = if self.is_text() { ", without quotes" } else { "" };
        let remedy = format!("write a whole number from {min} to {max}{quoted}");
        let integer = self.value.get_ref().as_integer().ok_or_else(|| self.not("a whole number", &remedy))?;
        u32::from_str_radix(integer.as_str(), integer.radix())
            .ok()
            .filter(|number| (min..=max).contains(number))
            .ok_or_else(|| self.wrong(format!("`{}` is out of bounds", self.key), remedy))
    }

    /// The items of the list that it must be.
    pub(super) fn list(
        &self,
        max: usize,
        remedy: &str,
    ) -> Result<impl Iterator<Item = Field<'a>> + use<'a>, Mistake> {
        let array = self.value.get_ref().as_array().ok_or_else(|| self.not("a list", remedy))?;
        let key = self.key;
        if let Some(extra) = array.get(max) {
            return Err(Mistake::new(
                extra.span(),
                format!("`{key}` has {} entries", array.len()),
                format!("keep {max} at most"),
            ));
        }
        Ok(array.iter().map(move |value| Field { key, value, item: true }))
    }

    /// The table that it must be, with no other keys than these; `hint` as for [`Table::new`].
    pub(super) fn table(
        &self,
        known: &[&str],
        hint: impl FnOnce(&str) -> Option<String>,
    ) -> Result<Table<'a>, Mistake> {
        let entries = self.value.get_ref().as_table().ok_or_else(|| {
            // Text is most likely what the first key should say.
            let first = known.first().zip(self.value.get_ref().as_str());
            let example = first.map_or("{ key = value }".to_owned(), |(key, text)| {
                format!("{{ {key} = \"{}\" }}", text.escape_debug())
            });
            self.not("a table", &format!("write {example}; the keys here are {}", listed(known)))
        })?;
        Table::new(entries, self.value.span(), known, hint)
    }

    /// The mistake that it is something other than `wanted`.
    fn not(&self, wanted: &str, remedy: &str) -> Mistake {
        let of = if self.item { "an entry of " } else { "" };
        let found = kind(self.value.get_ref());
        self.wrong(format!("{of}`{}` must be {wanted}, this is {found}", self.key), remedy)
    }
}

/// A kind of value in plain words.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time of day",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// `` `a`, `b` and `c` ``.
fn listed(keys: &[&str]) -> String {
    let quoted: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => "none".to_owned(),
    }
}

/// A whole number with a unit.
fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3600).map(Duration::from_secs),
        _ => None,
    }
}

/// A bound as it would be written.
fn shown(duration: Duration) -> String {
    match (duration.as_secs(), duration.subsec_millis()) {
        (seconds, 0) if seconds > 0 && seconds % 3600 == 0 => format!("\"{}h\"", seconds / 3600),
        (seconds, 0) => format!("\"{seconds}s\""),
        (seconds, millis) => format!("\"{}ms\"", seconds * 1000 + u64::from(millis)),
    }
}
