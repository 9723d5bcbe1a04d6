//! Which Rust types travel: the table in the documentation, row by row.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Value, json};

use super::*;

/// The value as the other end has it.
fn travels<T: Serialize + DeserializeOwned>(codec: Codec, value: &T) -> T {
    decode(codec, &encoded(codec, value)).unwrap()
}

#[test]
fn bincode_is_little_endian_with_variable_length_integers() {
    fn is<T: Serialize + ?Sized>(value: &T, bytes: &[u8]) {
        assert_eq!(encoded(Codec::Bincode, value), bytes);
    }
    is(&250u64, &[250]);
    is(&251u16, &[251, 251, 0]);
    is(&0x1_0000u32, &[252, 0, 0, 1, 0]);
    is(&0x1_0000_0000u64, &[253, 0, 0, 0, 0, 1, 0, 0, 0]);
    is(&(1u128 << 64), &[254, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    is(&255u8, &[255]);
    is(&-1i8, &[255]);
    is(&-1i64, &[1]);
    is(&1i64, &[2]);
    is(&-126i32, &[251, 251, 0]);
    is(&1.0f32, &[0, 0, 0x80, 0x3f]);
    is(&'é', &[0xc3, 0xa9]);
    is(&true, &[1]);
    is("joe", &[3, b'j', b'o', b'e']);
    is(&Bytes::from_static(b"joe"), &[3, b'j', b'o', b'e']);
    is(&[Some(7u16), None], &[1, 7, 0]);
    is(&vec![(1u8, 2u8)], &[1, 1, 2]);
    is(&Err::<(), u8>(9), &[1, 9]);
}

#[test]
fn bincode_also_reads_integers_longer_than_needed() {
    assert_eq!(decode(Codec::Bincode, &[251, 1, 0]), Ok(1u64));
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Person {
    name: String,
    age: u8,
}

fn joe() -> Person {
    Person { name: "joe".into(), age: 68 }
}

#[test]
fn self_describing_types_need_json() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(untagged)]
    enum Untagged {
        Number(u8),
        Person(Person),
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "type")]
    enum Tagged {
        Person(Person),
        Nobody {},
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "type", content = "content")]
    enum Adjacent {
        Person(Person),
        Nobody,
    }
    fn json_only<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: T) {
        assert_eq!(travels(Codec::Json, &value), value);
        let what = undecodable::<T>(Codec::Bincode, &encoded(Codec::Bincode, &value));
        assert!(what.starts_with("the type asks what comes next"), "{what}");
    }
    json_only(Untagged::Number(1));
    json_only(Untagged::Person(joe()));
    json_only(Tagged::Person(joe()));
    json_only(Tagged::Nobody {});
    json_only(Adjacent::Person(joe()));
    json_only(Adjacent::Nobody);
    json_only(json!({"any": [1, null]}));
    json_only(Value::Null);
}

#[test]
fn a_flattened_field_travels_in_json_only() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Outer {
        id: u8,
        #[serde(flatten)]
        person: Person,
    }
    let outer = Outer { id: 1, person: joe() };
    assert_eq!(encoded(Codec::Json, &outer), br#"{"id":1,"name":"joe","age":68}"#);
    assert_eq!(travels(Codec::Json, &outer), outer);
    assert!(unencodable(Codec::Bincode, &outer).contains("`flatten`"));
    assert!(undecodable::<Outer>(Codec::Bincode, &[3, 1, 2, 3, 4]).len() > 1);
}

#[test]
fn refuses_missing_field_by_position() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Sparse {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        nick: Option<u8>,
        age: u8,
    }
    let (full, sparse) = (Sparse { nick: Some(1), age: 2 }, Sparse { nick: None, age: 2 });
    for codec in [Codec::Bincode, Codec::Json] {
        assert_eq!(travels(codec, &full), full);
    }
    assert_eq!(travels(Codec::Json, &sparse), sparse);
    assert_eq!(
        unencodable(Codec::Bincode, &sparse),
        "the field `nick` is left out (skip_serializing_if), but fields are told by their position: use json"
    );

    #[derive(Debug, Serialize)]
    enum Variant {
        Sparse {
            #[serde(skip_serializing_if = "Option::is_none")]
            nick: Option<u8>,
        },
    }
    assert!(unencodable(Codec::Bincode, &Variant::Sparse { nick: None }).contains("`nick`"));
}

/// The cases that nothing can find out.
#[test]
fn some_types_arrive_as_other_values_in_bincode() {
    // A field left out of a tuple struct, which serde does not tell.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Tuple(#[serde(skip_serializing_if = "Option::is_none")] Option<u8>, u8, u8);
    let sent = encoded(Codec::Bincode, &(Tuple(None, 0, 1), 7u8));
    assert_eq!(decode(Codec::Bincode, &sent), Ok(Tuple(None, 1, 7)));
    assert!(decode::<Tuple>(Codec::Json, &encoded(Codec::Json, &Tuple(None, 0, 1))).is_err());

    // A field that is never sent, but expected.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Hidden {
        #[serde(default, skip_serializing)]
        hidden: u8,
        shown: u8,
    }
    let sent = encoded(Codec::Bincode, &(Hidden { hidden: 9, shown: 1 }, 7u8));
    assert_eq!(decode(Codec::Bincode, &sent), Ok(Hidden { hidden: 1, shown: 7 }));
    assert_eq!(travels(Codec::Json, &Hidden { hidden: 9, shown: 1 }), Hidden { hidden: 0, shown: 1 });

    // Variants after one that is skipped: counted when encoded, not counted when decoded.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Skipping {
        #[serde(skip)]
        #[expect(dead_code, reason = "only in the way")]
        Skipped,
        First,
        Second,
    }
    let sent = encoded(Codec::Bincode, &Skipping::First);
    assert_eq!(decode(Codec::Bincode, &sent), Ok(Skipping::Second));
    assert_eq!(travels(Codec::Json, &Skipping::First), Skipping::First);

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum SkippingLast {
        First,
        Second,
        #[serde(skip)]
        #[expect(dead_code, reason = "in nobody's way")]
        Skipped,
    }
    for value in [SkippingLast::First, SkippingLast::Second] {
        assert_eq!(travels(Codec::Bincode, &value), value);
    }

    // Other types that fit as well.
    assert_eq!(decode(Codec::Bincode, &encoded(Codec::Bincode, &Some(1u8))), Ok(Err::<u8, u8>(1)));
    assert_eq!(decode(Codec::Bincode, &encoded(Codec::Bincode, &(1u8, 2u8))), Ok([1u8, 2]));
}

#[test]
fn skipped_field_becomes_default() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Cached {
        #[serde(skip)]
        cache: u8,
        key: u8,
    }
    for codec in [Codec::Bincode, Codec::Json] {
        assert_eq!(travels(codec, &Cached { cache: 1, key: 2 }), Cached { cache: 0, key: 2 });
    }
}

#[test]
fn a_field_more_breaks_bincode_and_not_json() {
    #[derive(Debug, Serialize, Deserialize, PartialEq)]
    struct Newer {
        name: String,
        age: u8,
        #[serde(default)]
        nick: String,
    }
    let newer = Newer { name: "joe".into(), age: 68, nick: String::new() };
    assert_eq!(decode::<Person>(Codec::Json, &encoded(Codec::Json, &newer)), Ok(joe()));
    assert_eq!(decode::<Newer>(Codec::Json, &encoded(Codec::Json, &joe())).as_ref(), Ok(&newer));
    assert!(
        undecodable::<Person>(Codec::Bincode, &encoded(Codec::Bincode, &newer)).contains("1 bytes too many")
    );
    assert!(undecodable::<Newer>(Codec::Bincode, &encoded(Codec::Bincode, &joe())).contains("ends inside"));
}

#[test]
fn a_variant_more_at_the_end_breaks_nothing() {
    #[derive(Debug, Serialize, Deserialize, PartialEq)]
    enum Older {
        Store(Person),
    }
    #[derive(Debug, Serialize, Deserialize, PartialEq)]
    enum Newer {
        Store(Person),
        Forget,
    }
    for codec in [Codec::Bincode, Codec::Json] {
        assert_eq!(decode(codec, &encoded(codec, &Older::Store(joe()))), Ok(Newer::Store(joe())));
        assert!(decode::<Older>(codec, &encoded(codec, &Newer::Forget)).is_err());
    }
}

#[test]
fn refuses_sequence_with_wrong_length() {
    struct Misstates(usize);
    impl Serialize for Misstates {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            use serde::ser::SerializeSeq;
            let mut seq = serializer.serialize_seq(Some(self.0))?;
            seq.serialize_element(&1u8)?;
            seq.serialize_element(&2u8)?;
            seq.end()
        }
    }
    for stated in [0, 1, 3, usize::MAX] {
        assert!(unencodable(Codec::Bincode, &Misstates(stated)).contains("stated"), "{stated}");
    }
    assert_eq!(encoded(Codec::Bincode, &Misstates(2)), [2, 1, 2]);
    assert_eq!(encoded(Codec::Json, &Misstates(3)), b"[1,2]");
}

#[test]
fn json_has_one_null() {
    assert_eq!(travels(Codec::Json, &Some(None::<u8>)), None);
    assert_eq!(travels(Codec::Json, &Some(())), None);
    assert_eq!(encoded(Codec::Json, &f64::NAN), b"null");
    assert_eq!(travels(Codec::Json, &Some(f64::INFINITY)), None);
    assert!(decode::<f64>(Codec::Json, b"null").is_err());
    assert_eq!(travels(Codec::Bincode, &Some(None::<u8>)), Some(None));
    assert_eq!(travels(Codec::Bincode, &Some(f64::INFINITY)), Some(f64::INFINITY));
}

#[test]
fn json_writes_text_keys_and_byte_numbers() {
    assert_eq!(encoded(Codec::Json, &BTreeMap::from([(7u8, true)])), br#"{"7":true}"#);
    assert_eq!(travels(Codec::Json, &BTreeMap::from([(7u8, true)])), BTreeMap::from([(7, true)]));
    assert_eq!(encoded(Codec::Json, &BTreeMap::from([(true, 'x')])), br#"{"true":"x"}"#);
    assert_eq!(travels(Codec::Json, &BTreeMap::from([(true, 'x')])), BTreeMap::from([(true, 'x')]));
    assert!(unencodable(Codec::Json, &BTreeMap::from([((1, 2), 3)])).contains("key must be a string"));
    assert_eq!(encoded(Codec::Json, &Bytes::from_static(b"joe")), b"[106,111,101]");
    assert_eq!(travels(Codec::Json, &Bytes::from_static(b"joe")), Bytes::from_static(b"joe"));
}

#[test]
fn a_path_travels_where_it_is_text() {
    use std::path::PathBuf;
    for codec in [Codec::Bincode, Codec::Json] {
        assert_eq!(travels(codec, &PathBuf::from("/tmp/é")), PathBuf::from("/tmp/é"));
        #[cfg(unix)]
        {
            use std::os::unix::ffi::OsStringExt;
            let path = PathBuf::from(std::ffi::OsString::from_vec(vec![0xff]));
            assert!(unencodable(codec, &path).contains("UTF-8"));
        }
    }
}

#[test]
fn raw_carries_bytes_text_and_nothing() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Chunk(Bytes);
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Nothing;
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Octet(u8);
    fn is_raw<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T, bytes: &[u8]) {
        assert_eq!(encoded(Codec::Raw, value), bytes);
        assert_eq!(decode::<T>(Codec::Raw, bytes).as_ref(), Ok(value));
    }
    is_raw(&Bytes::from_static(b"joe"), b"joe");
    is_raw(&Chunk(Bytes::from_static(b"joe")), b"joe");
    is_raw(&b"joe".to_vec(), b"joe");
    is_raw(&vec![Octet(1), Octet(2)], &[1, 2]);
    is_raw(b"joe", b"joe");
    is_raw(&"jö".to_owned(), "jö".as_bytes());
    is_raw(&(), b"");
    is_raw(&Nothing, b"");
    is_raw(&Vec::<u8>::new(), b"");
    assert_eq!(decode_borrowed(Codec::Raw, b"joe"), Ok(&b"joe"[..]));
    assert_eq!(undecodable::<()>(Codec::Raw, b"joe"), "3 bytes too many");
    assert_eq!(undecodable::<[u8; 2]>(Codec::Raw, b"joe"), "1 bytes too many");
    assert!(decode::<[u8; 4]>(Codec::Raw, b"joe").is_err());
    assert_eq!(undecodable::<String>(Codec::Raw, &[0xff]), "text that is not UTF-8");
}

#[test]
fn raw_carries_nothing_else() {
    fn is_refused<T: Serialize + DeserializeOwned + Debug>(value: T) {
        let what = "carries bytes only: send and expect Bytes, Vec<u8>, String or (), or use bincode or json";
        assert_eq!(unencodable(Codec::Raw, &value), what);
        assert_eq!(undecodable::<T>(Codec::Raw, b"12"), what);
    }
    is_refused(true);
    is_refused(1u8);
    is_refused(-1i128);
    is_refused(0.5f64);
    is_refused('x');
    is_refused(Some(Bytes::new()));
    is_refused(None::<()>);
    is_refused(joe());
    is_refused(vec![1u16]);
    is_refused(vec!["text".to_owned()]);
    is_refused(vec![vec![1u8]]);
    is_refused((1u8, 'x'));
    is_refused(BTreeMap::from([(1u8, 1u8)]));
    is_refused(Err::<(), ()>(()));
    is_refused(std::time::Duration::ZERO);
}
