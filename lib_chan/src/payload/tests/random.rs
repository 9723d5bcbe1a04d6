//! Any bytes, and any values.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    num::NonZeroU32,
    time::Duration,
};

use bytes::Bytes;

use super::*;

/// A small generator of the same numbers in every run (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// A number of any width.
    fn wide(&mut self) -> u64 {
        self.next() >> self.below(64)
    }

    fn many<T>(&mut self, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(5)).map(|_| make(self)).collect()
    }

    fn text(&mut self) -> String {
        self.many(|r| char::from_u32(r.wide() as u32 % 0x11_0000).unwrap_or('"')).into_iter().collect()
    }

    fn bytes(&mut self, max: usize) -> Vec<u8> {
        let small = self.below(2) == 0;
        (0..self.below(max)).map(|_| if small { self.below(4) as u8 } else { self.next() as u8 }).collect()
    }

    /// Bytes of the letters that JSON is made of.
    fn json(&mut self, max: usize) -> Vec<u8> {
        const PIECES: [&str; 24] = [
            "{",
            "}",
            "[",
            "]",
            ":",
            ",",
            "\"",
            "\\u",
            "d800",
            "null",
            "true",
            "1",
            "-",
            "0.5",
            "e9",
            " ",
            "\n",
            "9",
            "\"Leaf\"",
            "\"Node\"",
            "\"key\"",
            "{\"Node\":",
            "\u{e9}",
            "\\",
        ];
        (0..self.below(max)).flat_map(|_| PIECES[self.below(PIECES.len())].bytes()).collect()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Unit;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Newtype(String);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Pair(i8, Newtype);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Kind {
    Unit,
    Newtype(Newtype),
    Tuple(u16, Box<Self>),
    Struct { unit: Unit, kinds: Vec<Self> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Rich {
    small: (u8, i8, u16, i16),
    large: (u32, i32, u64, i64, usize, isize),
    huge: (u128, i128),
    real: (f32, f64),
    letter: char,
    flag: bool,
    text: String,
    bytes: Bytes,
    octets: Vec<u8>,
    unit: Unit,
    pair: Pair,
    kind: Kind,
    option: Option<Option<u8>>,
    result: Result<u32, String>,
    queue: VecDeque<Kind>,
    by_name: BTreeMap<String, Vec<i32>>,
    by_number: BTreeMap<i64, Option<Newtype>>,
    set: BTreeSet<char>,
    array: [u16; 3],
    elapsed: Duration,
    address: IpAddr,
    nonzero: Option<NonZeroU32>,
    range: std::ops::Range<u32>,
}

fn kind(r: &mut Random, depth: usize) -> Kind {
    match r.below(if depth == 0 { 2 } else { 4 }) {
        0 => Kind::Unit,
        1 => Kind::Newtype(Newtype(r.text())),
        2 => Kind::Tuple(r.wide() as u16, Box::new(kind(r, depth - 1))),
        _ => Kind::Struct { unit: Unit, kinds: r.many(|r| kind(r, depth - 1)) },
    }
}

fn rich(r: &mut Random) -> Rich {
    let huge = |r: &mut Random| u128::from(r.wide()) << r.below(65);
    Rich {
        small: (r.next() as u8, r.next() as i8, r.wide() as u16, r.wide() as i16),
        large: (
            r.wide() as u32,
            r.next() as i32,
            r.wide(),
            r.next() as i64,
            r.wide() as usize,
            r.next() as isize,
        ),
        huge: (huge(r), huge(r) as i128),
        real: (r.wide() as f32, r.wide() as f64 / 256.0),
        letter: char::from_u32(r.wide() as u32).unwrap_or('\0'),
        flag: r.below(2) == 0,
        text: r.text(),
        bytes: r.bytes(40).into(),
        octets: r.bytes(40),
        unit: Unit,
        pair: Pair(r.next() as i8, Newtype(r.text())),
        kind: kind(r, 4),
        // JSON has one `null`, so `Some(None)` is left out here; `shape` tests it.
        option: (r.below(2) == 0).then(|| Some(r.next() as u8)),
        result: if r.below(2) == 0 { Ok(r.wide() as u32) } else { Err(r.text()) },
        queue: r.many(|r| kind(r, 2)).into(),
        by_name: r.many(|r| (r.text(), r.many(|r| r.next() as i32))).into_iter().collect(),
        by_number: r
            .many(|r| (r.next() as i64, (r.below(2) == 0).then(|| Newtype(r.text()))))
            .into_iter()
            .collect(),
        set: r.text().chars().collect(),
        array: [r.wide() as u16, 0, r.wide() as u16],
        elapsed: Duration::new(r.wide(), r.below(1_000_000_000) as u32),
        address: if r.below(2) == 0 {
            IpAddr::V4((r.next() as u32).into())
        } else {
            IpAddr::V6(huge(r).into())
        },
        nonzero: NonZeroU32::new(r.wide() as u32),
        range: r.wide() as u32..r.wide() as u32,
    }
}

#[test]
fn encoding_round_trips() {
    let mut r = Random(1);
    for _ in 0..500 {
        let value = rich(&mut r);
        for codec in [Codec::Bincode, Codec::Json] {
            let bytes = encoded(codec, &value);
            assert_eq!(decode::<Rich>(codec, &bytes).as_ref(), Ok(&value), "{codec}");
        }
    }
}

#[test]
fn bytes_and_text_pass_raw_unchanged() {
    let mut r = Random(2);
    for _ in 0..1_000 {
        let bytes = r.bytes(100);
        assert_eq!(encoded(Codec::Raw, &Bytes::from(bytes.clone())), bytes);
        assert_eq!(encoded(Codec::Raw, &bytes), bytes);
        assert_eq!(decode(Codec::Raw, &bytes), Ok(bytes.clone()));
        assert_eq!(decode(Codec::Raw, &bytes), Ok(Bytes::from(bytes.clone())));
        assert_eq!(decode::<String>(Codec::Raw, &bytes).ok(), String::from_utf8(bytes).ok());
    }
}

/// Decodes as a `T` without a panic; what decodes can be encoded again, and decodes then to what encodes the same.
fn survives<T: Serialize + DeserializeOwned>(codec: Codec, bytes: &[u8]) -> bool {
    let Ok(value) = decode::<T>(codec, bytes) else { return false };
    let mut once = Vec::new();
    if encode(codec, &value, &mut once).is_ok() {
        let again: T = decode(codec, &once).unwrap();
        assert_eq!(encoded(codec, &again), once);
    }
    true
}

/// As many types as `bytes` decode as.
fn survives_all(codec: Codec, bytes: &[u8]) -> usize {
    let types: [fn(Codec, &[u8]) -> bool; 20] = [
        survives::<()>,
        survives::<bool>,
        survives::<u8>,
        survives::<i128>,
        survives::<char>,
        survives::<String>,
        survives::<Bytes>,
        survives::<Vec<u8>>,
        survives::<[u8; 3]>,
        survives::<Vec<()>>,
        survives::<Vec<Vec<u16>>>,
        survives::<Option<Option<u64>>>,
        survives::<Kind>,
        survives::<Vec<Kind>>,
        survives::<BTreeMap<String, Kind>>,
        survives::<BTreeMap<i8, ()>>,
        survives::<(f64, f64)>,
        survives::<Duration>,
        survives::<serde_json::Value>,
        survives::<Rich>,
    ];
    types.iter().filter(|survives| survives(codec, bytes)).count()
}

#[test]
fn any_bytes_decode_or_are_refused() {
    let mut r = Random(3);
    let mut decoded = [0; 3];
    for _ in 0..5_000 {
        let bytes = r.bytes(60);
        for (codec, decoded) in ALL.into_iter().zip(&mut decoded) {
            *decoded += survives_all(codec, &bytes);
        }
        decoded[1] += survives_all(Codec::Json, &r.json(30));
    }
    // The test is worth something only if not all bytes are refused at their beginning.
    assert!(decoded.iter().all(|&decoded| decoded > 100), "{decoded:?}");
}

#[test]
fn damaged_payloads_decode_or_are_refused() {
    let mut r = Random(4);
    let mut decoded = [0; 2];
    for _ in 0..1_000 {
        let value = rich(&mut r);
        for (codec, decoded) in [Codec::Bincode, Codec::Json].into_iter().zip(&mut decoded) {
            let mut bytes = encoded(codec, &value);
            for _ in 0..=r.below(3) {
                match (r.below(4), r.below(bytes.len().max(1))) {
                    (0, at) => bytes.truncate(at),
                    (1, at) => bytes.insert(at.min(bytes.len()), r.next() as u8),
                    (2, at) if at < bytes.len() => drop(bytes.remove(at)),
                    (_, at) => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << r.below(8)),
                }
            }
            *decoded += usize::from(survives::<Rich>(codec, &bytes));
        }
    }
    assert!(decoded.iter().all(|&decoded| decoded > 20), "{decoded:?}");
}
