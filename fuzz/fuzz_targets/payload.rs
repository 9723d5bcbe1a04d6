//! Any bytes decode as any type or are refused, in every codec; what decodes can be encoded, and decodes again.
#![no_main]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use bytes::Bytes;
use lib_chan::payload::{Codec, decode, encode};
use libfuzzer_sys::fuzz_target;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Every shape that serde has, and each recursion.
#[derive(Serialize, Deserialize)]
enum Shape {
    Unit,
    Newtype(Box<Shape>),
    Tuple(u8, String),
    Struct { inner: Option<Box<Shape>>, bytes: Bytes },
    Seq(Vec<Shape>),
    Map(BTreeMap<String, Shape>),
    Numbers(i8, u16, i32, u64, i128, f64, char, bool),
    Empty(Vec<()>),
    Std(Duration, IpAddr, Result<u8, String>, BTreeSet<u16>),
    List(List),
}

#[derive(Serialize, Deserialize)]
struct List(Option<Box<List>>);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Text(String),
    Numbers(Vec<f64>),
    Shape(Shape),
}

fn decodes<T: Serialize + DeserializeOwned>(codec: Codec, bytes: &[u8]) {
    let Ok(value) = decode::<T>(codec, bytes) else { return };
    let mut once = Vec::new();
    if let Err(error) = encode(codec, &value, &mut once) {
        // Bytes that say the same in more bytes than needed have room for more elements of no size.
        assert!(error.to_string().contains("more elements"), "{error}");
        return;
    }
    let again: T = decode(codec, &once).expect("what was encoded decodes");
    let mut twice = Vec::new();
    encode(codec, &again, &mut twice).expect("what was encoded can be encoded again");
    assert_eq!(once, twice);
}

fuzz_target!(|bytes: &[u8]| {
    for codec in [Codec::Bincode, Codec::Json, Codec::Raw] {
        decodes::<()>(codec, bytes);
        decodes::<String>(codec, bytes);
        decodes::<Bytes>(codec, bytes);
        decodes::<Vec<u8>>(codec, bytes);
        decodes::<Vec<Vec<()>>>(codec, bytes);
        decodes::<Shape>(codec, bytes);
        decodes::<Untagged>(codec, bytes);
        decodes::<serde_json::Value>(codec, bytes);
    }
});
