//! LEB128, shortest form only: each number has exactly one spelling.

use super::WireError;

/// The most bytes that a `u64` takes.
pub(super) const MAX_LEN: usize = 10;

/// Appends `value`.
#[inline]
pub(super) fn put(value: u64, out: &mut Vec<u8>) {
    if value < 0x80 { out.push(value as u8) } else { put_long(value, out) }
}

fn put_long(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes a number off the front of `bytes`.
///
/// # Errors
/// When the bytes end within the number, it does not fit 64 bits, or it is not in its shortest form.
#[inline]
pub(super) fn take(bytes: &mut &[u8]) -> Result<u64, WireError> {
    match bytes.split_first() {
        Some((&byte @ ..0x80, rest)) => {
            *bytes = rest;
            Ok(u64::from(byte))
        }
        _ => take_long(bytes),
    }
}

fn take_long(bytes: &mut &[u8]) -> Result<u64, WireError> {
    let mut value = 0;
    for shift in (0..).step_by(7).take(MAX_LEN) {
        let Some((&byte, rest)) = bytes.split_first() else { return Err(WireError::Truncated) };
        *bytes = rest;
        let low = u64::from(byte & 0x7f);
        if shift == 63 && low > 1 {
            return Err(WireError::Number);
        }
        value |= low << shift;
        if byte & 0x80 == 0 {
            return if byte == 0 && shift > 0 { Err(WireError::Number) } else { Ok(value) };
        }
    }
    Err(WireError::Number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_one_spelling() {
        for value in (0..64).flat_map(|bit| [(1u64 << bit) - 1, 1 << bit, (1 << bit) + 1]).chain([u64::MAX]) {
            let mut out = Vec::new();
            put(value, &mut out);
            assert_eq!(take(&mut &out[..]), Ok(value));
            for cut in 0..out.len() {
                assert_eq!(take(&mut &out[..cut]), Err(WireError::Truncated));
            }
            let last = out.len() - 1;
            out[last] |= 0x80;
            out.push(0);
            assert_eq!(take(&mut &out[..]), Err(WireError::Number), "{value} with a needless zero");
        }
    }

    #[test]
    fn refuses_more_than_64_bits() {
        assert_eq!(take(&mut &[0xff; 11][..]), Err(WireError::Number));
        let mut too_large = [0xff; 10];
        too_large[9] = 2;
        assert_eq!(take(&mut &too_large[..]), Err(WireError::Number));
    }
}
