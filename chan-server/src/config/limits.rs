//! The `[limits]` table: each field of [`Limits`] under its own name.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

use lib_chan::Limits;

use super::document::{Problems, Table};
use crate::units::{GIB, HOUR, KIB, MIB, Number, SECOND};

/// The spelling, the place and the range of a field.
enum Field {
    /// A span of time, in milliseconds here.
    Time(fn(&mut Limits) -> &mut Duration, RangeInclusive<u64>),
    /// A number of bytes.
    Bytes(fn(&mut Limits) -> &mut usize, RangeInclusive<usize>),
    /// A number of things.
    Count(fn(&mut Limits) -> &mut usize, RangeInclusive<usize>),
    /// A number of things that the wire carries in 32 bits.
    Count32(fn(&mut Limits) -> &mut u32, RangeInclusive<u32>),
    /// A part of a hundred.
    Percent(fn(&mut Limits) -> &mut u8),
}

const MANY: usize = 1_000_000;

const FIELDS: &[(&str, Field)] = &[
    ("dial_timeout", Field::Time(|l| &mut l.dial_timeout, 100..=HOUR)),
    ("tls_timeout", Field::Time(|l| &mut l.tls_timeout, 100..=HOUR)),
    ("login_timeout", Field::Time(|l| &mut l.login_timeout, 100..=HOUR)),
    ("max_logins_before_drop", Field::Count(|l| &mut l.max_logins_before_drop, 1..=MANY)),
    ("login_drop_percent", Field::Percent(|l| &mut l.login_drop_percent)),
    ("max_logins", Field::Count(|l| &mut l.max_logins, 1..=MANY)),
    ("max_logins_per_source", Field::Count(|l| &mut l.max_logins_per_source, 1..=MANY)),
    ("max_frame_len", Field::Bytes(|l| &mut l.max_frame_len, Limits::FRAME_LEN_RANGE)),
    ("max_sessions", Field::Count(|l| &mut l.max_sessions, 1..=MANY)),
    ("max_sessions_per_service", Field::Count(|l| &mut l.max_sessions_per_service, 1..=MANY)),
    ("max_sessions_per_client", Field::Count(|l| &mut l.max_sessions_per_client, 1..=MANY)),
    ("window_len", Field::Bytes(|l| &mut l.window_len, Limits::MIN_WINDOW_LEN..=GIB)),
    ("max_window_len", Field::Bytes(|l| &mut l.max_window_len, 0..=GIB)),
    ("max_windows_in_all", Field::Bytes(|l| &mut l.max_windows_in_all, 0..=GIB.saturating_mul(1024))),
    ("max_unsent_before_pause", Field::Bytes(|l| &mut l.max_unsent_before_pause, KIB..=GIB)),
    ("max_unsent", Field::Bytes(|l| &mut l.max_unsent, KIB..=GIB)),
    ("max_held_in_all", Field::Bytes(|l| &mut l.max_held_in_all, MIB..=GIB.saturating_mul(1024))),
    ("max_retained", Field::Bytes(|l| &mut l.max_retained, 64 * KIB..=GIB)),
    ("max_resumable", Field::Count(|l| &mut l.max_resumable, 0..=MANY)),
    ("max_resumable_per_client", Field::Count(|l| &mut l.max_resumable_per_client, 0..=MANY)),
    ("max_tombstones", Field::Count(|l| &mut l.max_tombstones, 0..=MANY)),
    ("max_tombstones_per_client", Field::Count(|l| &mut l.max_tombstones_per_client, 0..=MANY)),
    ("max_calls", Field::Count32(|l| &mut l.max_calls, 1..=1_000_000)),
    ("max_links", Field::Count32(|l| &mut l.max_links, 0..=1_000_000)),
    ("max_handles", Field::Count32(|l| &mut l.max_handles, 0..=1_000_000)),
    ("heartbeat_interval", Field::Time(|l| &mut l.heartbeat_interval, SECOND..=300 * SECOND)),
    ("stall_timeout", Field::Time(|l| &mut l.stall_timeout, SECOND..=HOUR)),
    ("min_accepted", Field::Bytes(|l| &mut l.min_accepted, 0..=GIB)),
    ("mailbox_capacity", Field::Count(|l| &mut l.mailbox_capacity, 1..=MANY)),
    ("call_timeout", Field::Time(|l| &mut l.call_timeout, 1..=24 * HOUR)),
    ("close_timeout", Field::Time(|l| &mut l.close_timeout, 1..=HOUR)),
    ("last_words_timeout", Field::Time(|l| &mut l.last_words_timeout, 0..=HOUR)),
    ("max_reflections", Field::Count(|l| &mut l.max_reflections, 1..=MANY)),
    ("max_untaken_exits", Field::Count(|l| &mut l.max_untaken_exits, 1..=MANY)),
    // PROTOCOL.md, section 17: an end may allow more cancels and must not allow fewer.
    ("max_cancels_per_second", Field::Count32(|l| &mut l.max_cancels_per_second, 100..=1_000_000)),
    ("max_cancels_burst", Field::Count32(|l| &mut l.max_cancels_burst, 1000..=1_000_000)),
    ("drain_timeout", Field::Time(|l| &mut l.drain_timeout, 0..=24 * HOUR)),
];

/// Reads the table; what it does not name keeps its default.
pub(super) fn read(mut table: Table<'_>, problems: &mut Problems<'_>) -> Limits {
    let mut limits = Limits::default();
    for (key, field) in FIELDS {
        let Some(entry) = table.take(key) else { continue };
        let span = entry.key_span.clone();
        let expected = field.expected();
        let Some(number) = entry.value::<Number>(&expected, problems) else { continue };
        if field.set(&mut limits, &number.into_inner()).is_none() {
            problems.add(&span, format!("\"{key}\" cannot be this value; write {key} = {expected}"));
        }
    }
    let span = table.span.clone();
    for (less, more, holds) in [
        ("tls_timeout", "login_timeout", limits.tls_timeout <= limits.login_timeout),
        ("max_logins_before_drop", "max_logins", limits.max_logins_before_drop <= limits.max_logins),
        ("max_unsent_before_pause", "max_unsent", limits.max_unsent_before_pause <= limits.max_unsent),
    ] {
        if !holds {
            problems.add(
                &span,
                format!("\"{less}\" is more than \"{more}\"; lower the first or raise the second"),
            );
        }
    }
    table.finish(problems);
    limits
}

/// Returns the names of the limits that differ.
pub(crate) fn changed(before: &Limits, after: &Limits) -> Vec<&'static str> {
    let (mut before, mut after) = (before.clone(), after.clone());
    let mut differs = |field: &Field| match field {
        Field::Time(field, _) => *field(&mut before) != *field(&mut after),
        Field::Bytes(field, _) | Field::Count(field, _) => *field(&mut before) != *field(&mut after),
        Field::Count32(field, _) => *field(&mut before) != *field(&mut after),
        Field::Percent(field) => *field(&mut before) != *field(&mut after),
    };
    FIELDS.iter().filter(|(_, field)| differs(field)).map(|(name, _)| *name).collect()
}

/// Reads a number of things that stands outside of the table.
pub(super) fn count(table: &mut Table<'_>, key: &'static str, problems: &mut Problems<'_>) -> Option<usize> {
    let expected = format!("100 (from 1 to {MANY})");
    let entry = table.take(key)?;
    let span = entry.key_span.clone();
    let number = entry.value::<Number>(&expected, problems)?.into_inner();
    let count = number.count().and_then(|count| within(count, &(1..=MANY)));
    if count.is_none() {
        problems.add(&span, format!("\"{key}\" cannot be this value; write {key} = {expected}"));
    }
    count
}

/// Reads a number of bytes a second that stands outside of the table.
pub(super) fn rate(
    table: &mut Table<'_>,
    key: &'static str,
    problems: &mut Problems<'_>,
) -> Option<NonZeroU32> {
    // A heartbeat must get through among other bytes.
    const RANGE: RangeInclusive<usize> = 16 * KIB..=GIB;
    let expected = "\"1 MiB\" (from 16 KiB to 1 GiB; units KiB, MiB, GiB; a plain number is bytes)";
    let entry = table.take(key)?;
    let span = entry.key_span.clone();
    let number = entry.value::<Number>(expected, problems)?.into_inner();
    let bytes =
        number.bytes().and_then(|bytes| within(bytes, &RANGE)).and_then(|bytes| u32::try_from(bytes).ok());
    if bytes.is_none() {
        problems.add(&span, format!("\"{key}\" cannot be this value; write {key} = {expected}"));
    }
    NonZeroU32::new(bytes?)
}

/// Reads a time that stands outside of the table; `example` is its default.
pub(super) fn time(
    table: &mut Table<'_>,
    key: &'static str,
    example: Duration,
    problems: &mut Problems<'_>,
) -> Option<Duration> {
    let example = time_text(u64::try_from(example.as_millis()).unwrap_or(u64::MAX));
    let expected = format!("\"{example}\" (at most 1000 h; units ms, s, min, h; a plain number is seconds)");
    let entry = table.take(key)?;
    let span = entry.key_span.clone();
    let number = entry.value::<Number>(&expected, problems)?.into_inner();
    let time = number.milliseconds().filter(|&ms| ms <= 1000 * HOUR).map(Duration::from_millis);
    if time.is_none() {
        problems.add(&span, format!("\"{key}\" cannot be this value; write {key} = {expected}"));
    }
    time
}

impl Field {
    /// Returns the spelling of such a value, by the example of its default.
    fn expected(&self) -> String {
        let limits = &mut Limits::default();
        match self {
            Self::Time(field, range) => format!(
                "\"{}\" (from {} to {}; units ms, s, min, h; a plain number is seconds)",
                time_text(field(limits).as_millis() as u64),
                time_text(*range.start()),
                time_text(*range.end()),
            ),
            Self::Bytes(field, range) => format!(
                "\"{}\" (from {} to {}; units KiB, MiB, GiB; a plain number is bytes)",
                bytes_text(*field(limits)),
                bytes_text(*range.start()),
                bytes_text(*range.end()),
            ),
            Self::Count(field, range) => {
                format!("{} (from {} to {})", field(limits), range.start(), range.end())
            }
            Self::Count32(field, range) => {
                format!("{} (from {} to {})", field(limits), range.start(), range.end())
            }
            Self::Percent(field) => format!("{} (from 0 to 100)", field(limits)),
        }
    }

    /// Puts the number into its field; `None` when it is none of this kind, or out of range.
    fn set(&self, limits: &mut Limits, number: &Number) -> Option<()> {
        match self {
            Self::Time(field, range) => {
                *field(limits) = Duration::from_millis(within(number.milliseconds()?, range)?);
            }
            Self::Bytes(field, range) => {
                *field(limits) = within(number.bytes()?, range)?;
            }
            Self::Count(field, range) => *field(limits) = within(number.count()?, range)?,
            Self::Count32(field, range) => *field(limits) = within(number.count()?, range)?,
            Self::Percent(field) => *field(limits) = within(number.count()?, &(0..=100))?,
        }
        Some(())
    }
}

fn within<T: PartialOrd + Copy>(number: T, range: &RangeInclusive<T>) -> Option<T> {
    range.contains(&number).then_some(number)
}

fn time_text(milliseconds: u64) -> String {
    match milliseconds {
        0 => "0 s".into(),
        whole if whole.is_multiple_of(HOUR) => format!("{} h", whole / HOUR),
        whole if whole.is_multiple_of(SECOND) => format!("{} s", whole / SECOND),
        part => format!("{part} ms"),
    }
}

fn bytes_text(bytes: usize) -> String {
    match bytes {
        0 => "0".into(),
        whole if whole.is_multiple_of(GIB) => format!("{} GiB", whole / GIB),
        whole if whole.is_multiple_of(MIB) => format!("{} MiB", whole / MIB),
        whole if whole.is_multiple_of(KIB) => format!("{} KiB", whole / KIB),
        part => part.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> (Limits, Vec<String>) {
        let text = format!("[limits]\n{text}\n");
        let mut problems = Problems::new(&text);
        let mut root = problems.parse();
        let table = root.table("limits", "[limits]", &mut problems).unwrap();
        let limits = read(table, &mut problems);
        let texts = match problems.settle(std::path::Path::new("c"), Some(())) {
            Ok(()) => Vec::new(),
            Err(error) => error.problems.into_iter().map(|problem| problem.text).collect(),
        };
        (limits, texts)
    }

    #[test]
    fn every_limit_can_be_set() {
        let shown = format!("{:#?}", Limits::default());
        let fields = shown.lines().filter_map(|line| line.trim().split_once(": "));
        let mut count = 0;
        for (name, _) in fields {
            assert!(FIELDS.iter().any(|(key, _)| *key == name), "no way to set {name}");
            count += 1;
        }
        assert_eq!(count, FIELDS.len());
    }

    #[test]
    fn each_name_sets_only_its_field() {
        for (key, field) in FIELDS {
            let value = match field {
                Field::Time(_, range) => format!("\"{} ms\"", range.end() - 7),
                Field::Bytes(_, range) => (range.end() - 7).to_string(),
                Field::Count(_, range) => (range.end() - 7).to_string(),
                Field::Count32(_, range) => (range.end() - 7).to_string(),
                Field::Percent(_) => "93".into(),
            };
            let (limits, _) = read_text(&format!("{key} = {value}"));
            let (set, default) = (format!("{limits:#?}"), format!("{:#?}", Limits::default()));
            let changed: Vec<_> = set.lines().zip(default.lines()).filter(|(a, b)| a != b).collect();
            assert_eq!(changed.len(), 1, "{key}: {changed:?}");
            assert!(changed[0].0.trim().starts_with(&format!("{key}: ")), "{key}: {changed:?}");
        }
    }

    #[test]
    fn refuses_fewer_cancels_than_the_protocol_grants() {
        for (text, fits) in [
            ("max_cancels_per_second = 100\nmax_cancels_burst = 1000", true),
            ("max_cancels_per_second = 99", false),
            ("max_cancels_burst = 999", false),
        ] {
            assert_eq!(read_text(text).1.is_empty(), fits, "{text}");
        }
    }

    #[test]
    fn the_defaults_are_within_their_own_ranges() {
        let mut limits = Limits::default();
        for (key, field) in FIELDS {
            let fits = match field {
                Field::Time(field, range) => range.contains(&(field(&mut limits).as_millis() as u64)),
                Field::Bytes(field, range) | Field::Count(field, range) => range.contains(field(&mut limits)),
                Field::Count32(field, range) => range.contains(field(&mut limits)),
                Field::Percent(field) => *field(&mut limits) <= 100,
            };
            assert!(fits, "{key}");
        }
    }

    #[test]
    fn units_are_read_with_and_without_a_space() {
        let (limits, problems) = read_text(
            "tls_timeout = \"1500ms\"\nlogin_timeout = 2\nwindow_len = \"1 MiB\"\nmin_accepted = 5",
        );
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(limits.tls_timeout, Duration::from_millis(1500));
        assert_eq!(limits.login_timeout, Duration::from_secs(2));
        assert_eq!((limits.window_len, limits.min_accepted), (MIB, 5));
    }

    #[test]
    fn refuses_numbers_without_unit_or_too_large() {
        for value in [
            "\"15\"",
            "\"s\"",
            "\"15 sec\"",
            "\"1.5 s\"",
            "\"99999999999999999999 s\"",
            "\"9999999999999999999 h\"",
            "-1",
            "1.5",
            "true",
        ] {
            let (_, problems) = read_text(&format!("tls_timeout = {value}"));
            assert_eq!(problems.len(), 1, "{value}: {problems:?}");
        }
    }
}
