//! What is common to all codecs.

mod hazard;
mod random;
mod shape;

use std::cell::Cell;
use std::fmt::Debug;

use super::*;

const ALL: [Codec; 3] = [Codec::Bincode, Codec::Json, Codec::Raw];

/// The payload of a value that travels.
fn encoded<T: Serialize + ?Sized>(codec: Codec, value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    encode(codec, value, &mut out).unwrap();
    out
}

/// What a codec says of a value that does not travel.
fn unencodable<T: Serialize + ?Sized>(codec: Codec, value: &T) -> String {
    let mut out = b"before".to_vec();
    let error = encode(codec, value, &mut out).unwrap_err();
    assert_eq!(out, b"before");
    what(codec, error)
}

/// What a codec says of bytes that are no `T`.
fn undecodable<T: DeserializeOwned + Debug>(codec: Codec, bytes: &[u8]) -> String {
    what(codec, decode::<T>(codec, bytes).unwrap_err())
}

fn what(by: Codec, error: PayloadError) -> String {
    match error {
        PayloadError::Codec { codec, what } if codec == by => what.into(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn codec_has_one_code_and_name() {
    let mut known = 0;
    for code in 0..=u8::MAX {
        if let Some(codec) = Codec::from_code(code) {
            known += 1;
            assert_eq!((codec.code(), codec.to_string().parse()), (code, Ok(codec)));
        }
    }
    assert_eq!(known, ALL.len());
    for name in ["", "Json", "json ", "cbor"] {
        assert_eq!(name.parse::<Codec>(), Err(UnknownCodec));
    }
}

#[test]
fn encoding_appends() {
    for codec in ALL {
        let mut out = b"before".to_vec();
        encode(codec, "joe", &mut out).unwrap();
        assert_eq!(out.strip_prefix(b"before"), Some(&encoded(codec, "joe")[..]));
    }
}

#[test]
fn accepts_payload_up_to_maximum() {
    for codec in ALL {
        let text = "x".repeat(1000);
        let len = encoded(codec, &text).len();
        let mut out = b"before".to_vec();
        assert_eq!(
            encode_within(codec, &text, len - 1, &mut out),
            Err(PayloadError::TooLong { max: len - 1 })
        );
        assert_eq!(out, b"before");
        encode_within(codec, &text, len, &mut out).unwrap();
        assert_eq!(out.len(), 6 + len);
    }
}

#[test]
fn reports_too_long_sequence() {
    for codec in ALL {
        let mut out = Vec::new();
        for max in 0..4 {
            let error = encode_within(codec, &vec![1u8; 4], max, &mut out);
            assert_eq!(error, Err(PayloadError::TooLong { max }), "{codec}");
        }
    }
}

/// Serializes as a sequence, and tells how many of its elements were asked for.
struct Endless(Cell<usize>);

impl Serialize for Endless {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeSeq;
        let mut seq = serializer.serialize_seq(Some(usize::MAX))?;
        loop {
            self.0.set(self.0.get() + 1);
            seq.serialize_element(&1u8)?;
        }
    }
}

#[test]
fn nothing_is_built_beyond_the_maximum() {
    for codec in ALL {
        let endless = Endless(Cell::new(0));
        let mut out = Vec::new();
        assert_eq!(encode_within(codec, &endless, 100, &mut out), Err(PayloadError::TooLong { max: 100 }));
        assert!(endless.0.get() <= 101 && out.capacity() <= 256, "{codec}");
    }
}

/// Writes half of itself, then panics.
struct Panics;

impl Serialize for Panics {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeSeq;
        let mut seq = serializer.serialize_seq(Some(2))?;
        seq.serialize_element(&1u8)?;
        panic!("as it was told to");
    }
}

#[test]
fn a_value_that_panics_leaves_no_trace() {
    for codec in ALL {
        let mut out = b"before".to_vec();
        let encoding = std::panic::AssertUnwindSafe(|| encode(codec, &Panics, &mut out));
        assert!(std::panic::catch_unwind(encoding).is_err());
        assert_eq!(out, b"before");
    }
}

/// Ignores that it did not fit.
struct Stubborn;

impl Serialize for Stubborn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeTuple;
        let mut tuple = serializer.serialize_tuple(2)?;
        let _ = tuple.serialize_element(&[7u8; 100][..]);
        tuple.end()
    }
}

#[test]
fn an_ignored_overflow_is_an_overflow() {
    for codec in [Codec::Bincode, Codec::Json] {
        let mut out = Vec::new();
        let error = encode_within(codec, &Stubborn, 50, &mut out);
        assert_eq!((error, out.len()), (Err(PayloadError::TooLong { max: 50 }), 0), "{codec}");
    }
}

#[test]
fn trailing_bytes_are_an_error() {
    for codec in ALL {
        for mut bytes in [encoded(codec, &()), encoded(codec, &[1u8, 2, 3])] {
            bytes.push(b'0');
            assert!(decode::<()>(codec, &bytes).is_err(), "{codec}");
            assert!(decode::<[u8; 3]>(codec, &bytes).is_err(), "{codec}");
        }
    }
}

#[test]
fn white_space_around_json_is_no_error() {
    assert_eq!(decode(Codec::Json, b"\n [1,\t2] \r\n"), Ok(vec![1, 2]));
    assert!(undecodable::<u8>(Codec::Json, b"1 2").contains("trailing"));
    assert!(decode::<u8>(Codec::Json, b"1\0").is_err());
}

#[test]
fn no_arguments_are_empty_but_for_json() {
    for (codec, bytes) in [(Codec::Bincode, &b""[..]), (Codec::Json, b"null"), (Codec::Raw, b"")] {
        assert_eq!(encoded(codec, &()), bytes);
        assert_eq!(decode(codec, bytes), Ok(()));
    }
    assert!(undecodable::<()>(Codec::Json, b"").contains("EOF"));
}

#[test]
fn an_error_is_short_and_quotes_no_payload() {
    let secret = "hunter2".repeat(100_000);
    for value in [&secret[..], "hunter2"] {
        let bytes = encoded(Codec::Json, value);
        for what in [
            undecodable::<u32>(Codec::Json, &bytes),
            undecodable::<Vec<u8>>(Codec::Json, &bytes),
            undecodable::<std::net::IpAddr>(Codec::Json, &bytes),
        ] {
            assert!(!what.contains("hunter2") && !what.is_empty(), "{what}");
            assert!(what.len() <= PayloadError::MAX_WHAT_LEN);
        }
    }
}

#[test]
fn an_error_names_the_codec_and_the_place() {
    let error = decode::<Vec<u32>>(Codec::Json, b"[1,\n2,true]").unwrap_err();
    assert_eq!(error.to_string(), "json: invalid type: boolean `true`, expected u32 at line 2 column 6");
}

#[test]
fn borrowed_values_point_into_the_payload() {
    for codec in ALL {
        let bytes = encoded(codec, "joe");
        let name: &str = decode_borrowed(codec, &bytes).unwrap();
        assert!(bytes.as_ptr_range().contains(&name.as_ptr()), "{codec}");
    }
}
