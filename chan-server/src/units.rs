//! Numbers with units, as a configuration writes them.

use serde::Deserialize;

/// Milliseconds in a second.
pub(crate) const SECOND: u64 = 1000;
/// Milliseconds in an hour.
pub(crate) const HOUR: u64 = 3600 * SECOND;
/// Bytes in a KiB.
pub(crate) const KIB: usize = 1024;
/// Bytes in a MiB.
pub(crate) const MIB: usize = 1024 * KIB;
/// Bytes in a GiB.
pub(crate) const GIB: usize = 1024 * MIB;

/// A number with or without a unit.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Number {
    Plain(u64),
    WithUnit(String),
}

impl Number {
    /// A number of bytes.
    pub(crate) fn bytes(&self) -> Option<usize> {
        let units = [("KiB", KIB as u64), ("MiB", MIB as u64), ("GiB", GIB as u64)];
        usize::try_from(self.in_units(&units, 1)?).ok()
    }

    /// A span of time.
    pub(crate) fn milliseconds(&self) -> Option<u64> {
        self.in_units(&[("ms", 1), ("s", SECOND), ("min", 60 * SECOND), ("h", HOUR)], SECOND)
    }

    /// A number without a unit.
    pub(crate) fn count<T: TryFrom<u64>>(&self) -> Option<T> {
        match self {
            Self::Plain(number) => T::try_from(*number).ok(),
            Self::WithUnit(_) => None,
        }
    }

    /// The number in the smallest unit; without a unit it counts `plain`s.
    fn in_units(&self, units: &[(&str, u64)], plain: u64) -> Option<u64> {
        match self {
            Self::Plain(number) => number.checked_mul(plain),
            // Nothing is nothing in every unit.
            Self::WithUnit(text) if text == "0" => Some(0),
            Self::WithUnit(text) => {
                let digits = text.bytes().take_while(u8::is_ascii_digit).count();
                let (number, unit) = text.split_at_checked(digits)?;
                let (_, size) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
                number.parse::<u64>().ok()?.checked_mul(*size)
            }
        }
    }
}
