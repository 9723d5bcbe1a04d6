//! What a hostile payload may not do.

use std::{
    collections::{BTreeMap, HashMap},
    marker::PhantomData,
    ptr, thread,
};

use bytes::Bytes;
use serde::{
    Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::*;

/// A length prefix of bincode, and nothing after it.
fn prefix(len: u64) -> Vec<u8> {
    encoded(Codec::Bincode, &len)
}

/// More than is refused by luck, and less than no machine has.
const PREFIXES: [u64; 5] = [10, 1_000_000_000, 1 << 47, u64::MAX >> 1, u64::MAX];

/// The most bytes that were allocated at one time while `bytes` were refused as a `T`.
fn allocated<T: DeserializeOwned + Debug>(bytes: &[u8]) -> u64 {
    let mut refused = false;
    let info = allocation_counter::measure(|| {
        refused = decode::<T>(Codec::Bincode, bytes).is_err();
    });
    assert!(refused, "{bytes:?}");
    info.bytes_max
}

/// The words of an error, and the text they are made from.
const ERROR: u64 = 1024;

#[test]
fn nothing_is_allocated_for_a_length_prefix() {
    for len in PREFIXES {
        let bytes = prefix(len);
        assert!(allocated::<String>(&bytes) <= ERROR);
        assert!(allocated::<Box<str>>(&bytes) <= ERROR);
        assert!(allocated::<Bytes>(&bytes) <= ERROR);
        assert!(allocated::<Vec<u8>>(&bytes) <= ERROR);
        assert!(allocated::<Vec<[u64; 32]>>(&bytes) <= ERROR);
        assert!(allocated::<HashMap<String, u64>>(&bytes) <= ERROR);
        assert!(allocated::<BTreeMap<(), ()>>(&bytes) <= ERROR);
        assert!(allocated::<std::path::PathBuf>(&bytes) <= ERROR);
        assert!(allocated::<std::ffi::CString>(&bytes) <= ERROR);
    }
}

#[test]
fn allocates_nothing_for_inner_length_prefix() {
    for len in PREFIXES {
        let bytes = encoded(Codec::Bincode, &(3u8, Some(len)));
        assert!(allocated::<(u8, Option<String>)>(&bytes) <= ERROR);
        assert!(allocated::<(u8, Option<Vec<u64>>)>(&bytes) <= ERROR);
    }
}

/// How a visitor of an owned string or byte buffer was called: with what, and where.
#[derive(Debug, PartialEq)]
enum Came {
    Borrowed(*const u8),
    Otherwise,
}

struct OwnedString(Came);
struct OwnedBytes(Came);

struct Watch;

impl<'de> Visitor<'de> for Watch {
    type Value = Came;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text or bytes")
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Came, E> {
        Ok(Came::Borrowed(text.as_ptr()))
    }
    fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Came, E> {
        Ok(Came::Borrowed(bytes.as_ptr()))
    }
    fn visit_str<E>(self, _: &str) -> Result<Came, E> {
        Ok(Came::Otherwise)
    }
    fn visit_bytes<E>(self, _: &[u8]) -> Result<Came, E> {
        Ok(Came::Otherwise)
    }
}

impl<'de> Deserialize<'de> for OwnedString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_string(Watch).map(Self)
    }
}

impl<'de> Deserialize<'de> for OwnedBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_byte_buf(Watch).map(Self)
    }
}

#[test]
fn copies_strings_and_bytes_once() {
    for codec in ALL {
        let bytes = encoded(codec, "joe");
        let text = ptr::from_ref(&bytes[bytes.windows(3).position(|w| w == b"joe").unwrap()]);
        assert_eq!(decode::<OwnedString>(codec, &bytes).unwrap().0, Came::Borrowed(text), "{codec}");
    }
    for codec in [Codec::Bincode, Codec::Raw] {
        let bytes = encoded(codec, &Bytes::from_static(b"joe"));
        let content = ptr::from_ref(&bytes[bytes.len() - 3]);
        assert_eq!(decode::<OwnedBytes>(codec, &bytes).unwrap().0, Came::Borrowed(content), "{codec}");
    }
    let bytes = vec![7; 1 << 20];
    let info = allocation_counter::measure(|| {
        decode::<Bytes>(Codec::Raw, &bytes).unwrap();
    });
    assert_eq!((info.count_total, info.bytes_total), (1, 1 << 20));
}

thread_local! {
    /// The sum of the elements that visitors were told to reserve room for.
    static RESERVED: Cell<usize> = const { Cell::new(0) };
}

/// A sequence or map whose visitor believes every hint, as that of some collections does.
#[derive(Debug)]
struct Believes<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Believes<T> {
    type Value = Self;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sequence or map")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Self, A::Error> {
        RESERVED.set(RESERVED.get() + access.size_hint().unwrap_or(0));
        while access.next_element::<T>()?.is_some() {}
        Ok(self)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self, A::Error> {
        RESERVED.set(RESERVED.get() + access.size_hint().unwrap_or(0));
        while access.next_entry::<T, T>()?.is_some() {}
        Ok(self)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Believes<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Self(PhantomData))
    }
}

/// The same for a map.
#[derive(Debug)]
struct BelievesMap<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for BelievesMap<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Believes(PhantomData::<T>)).map(|_| Self(PhantomData))
    }
}

/// The sum of all hints while `bytes` were decoded, or refused, as a `T`.
fn reserved<T: DeserializeOwned>(codec: Codec, bytes: &[u8]) -> usize {
    RESERVED.set(0);
    drop(decode::<T>(codec, bytes));
    RESERVED.get()
}

#[test]
fn size_hints_stay_within_payload() {
    let honest = encoded(Codec::Bincode, &vec![1u8; 100]);
    assert_eq!(reserved::<Believes<u8>>(Codec::Bincode, &honest), 100);
    for len in PREFIXES {
        assert_eq!(reserved::<Believes<u8>>(Codec::Bincode, &prefix(len)), 0);
        assert_eq!(reserved::<BelievesMap<u8>>(Codec::Bincode, &prefix(len)), 0);
    }
    // A sequence of sequences, each of which states all that is left: taken together they may not reserve more.
    let greedy: Vec<u8> = (0..200).rev().collect();
    let sum = reserved::<Believes<Believes<Believes<Believes<u8>>>>>(Codec::Bincode, &greedy);
    assert!((1..=greedy.len()).contains(&sum), "{sum}");
    assert_eq!(reserved::<Believes<u8>>(Codec::Raw, &[0; 50]), 50);
}

#[derive(Debug, Serialize, Deserialize, PartialEq)]
enum Tree {
    Leaf,
    Node(Box<Self>),
}

#[derive(Debug, Serialize, Deserialize)]
struct List(Option<Box<Self>>);

#[derive(Debug, Serialize, Deserialize)]
struct Vectors(Vec<Self>);

#[derive(Debug, Serialize, Deserialize)]
enum Fields {
    Tuple(u8, Box<Self>),
    Struct { inner: Box<Self> },
    Map(BTreeMap<u8, Self>),
    End,
}

/// Runs on a stack as small as a thread of tokio or of a test has.
fn on_a_small_stack(run: impl FnOnce() + Send + 'static) {
    thread::Builder::new().stack_size(2 << 20).spawn(run).unwrap().join().unwrap();
}

#[test]
fn recursion_is_bounded_in_bincode() {
    on_a_small_stack(|| {
        let ones = vec![1; 50_000];
        for what in [
            undecodable::<Tree>(Codec::Bincode, &ones),
            undecodable::<List>(Codec::Bincode, &ones),
            undecodable::<Vectors>(Codec::Bincode, &ones),
            undecodable::<Fields>(Codec::Bincode, &ones),
            undecodable::<Fields>(Codec::Bincode, &[0; 50_000]),
            undecodable::<Fields>(Codec::Bincode, &[2, 1, 9].repeat(10_000)),
        ] {
            assert_eq!(what, "more than 64 values inside one another");
        }
    });
}

#[test]
fn recursion_is_bounded_in_json() {
    on_a_small_stack(|| {
        let nodes = format!("{}\"Leaf\"{}", r#"{"Node":"#.repeat(50_000), "}".repeat(50_000));
        let arrays = format!("{}{}", "[".repeat(50_000), "]".repeat(50_000));
        let structs = r#"{"Struct":{"inner":"#.repeat(50_000);
        let unknown = format!(r#"{{"unknown":{arrays}}}"#);
        #[derive(Debug, Deserialize)]
        struct Empty {}
        for what in [
            undecodable::<Tree>(Codec::Json, nodes.as_bytes()),
            undecodable::<Vectors>(Codec::Json, arrays.as_bytes()),
            undecodable::<serde_json::Value>(Codec::Json, arrays.as_bytes()),
            undecodable::<serde_json::Value>(Codec::Json, nodes.as_bytes()),
            undecodable::<IgnoredAny>(Codec::Json, arrays.as_bytes()),
            undecodable::<Empty>(Codec::Json, unknown.as_bytes()),
            undecodable::<Fields>(Codec::Json, structs.as_bytes()),
            // No brackets at all: a number is a list of a list of a list.
            undecodable::<List>(Codec::Json, b"1"),
        ] {
            assert!(what.starts_with("more than 64 values inside one another"), "{what}");
        }
    });
}

#[test]
fn recursion_is_bounded_in_raw() {
    on_a_small_stack(|| {
        #[derive(Debug, Deserialize)]
        #[expect(dead_code, reason = "only decoded")]
        struct Endless(Box<Self>);
        assert_eq!(undecodable::<Endless>(Codec::Raw, b""), "more than 64 values inside one another");
    });
}

/// A tree with so many nodes above its leaf.
fn tree(nodes: usize) -> Tree {
    (0..nodes).fold(Tree::Leaf, |tree, _| Tree::Node(Box::new(tree)))
}

/// A tree as its payload, encoded by hand so that no guard has seen it.
fn tree_bytes(codec: Codec, nodes: usize) -> Vec<u8> {
    match codec {
        Codec::Json => format!("{}\"Leaf\"{}", r#"{"Node":"#.repeat(nodes), "}".repeat(nodes)).into(),
        _ => [vec![1; nodes], vec![0]].concat(),
    }
}

#[test]
fn both_ends_refuse_same_depth() {
    on_a_small_stack(|| {
        for codec in [Codec::Bincode, Codec::Json] {
            // The leaf is an enum too: 63 nodes and a leaf are 64 values.
            assert_eq!(encoded(codec, &tree(63)), tree_bytes(codec, 63));
            assert_eq!(decode(codec, &tree_bytes(codec, 63)), Ok(tree(63)));
            assert_eq!(unencodable(codec, &tree(64)), "more than 64 values inside one another");
            assert!(decode::<Tree>(codec, &tree_bytes(codec, 64)).is_err(), "{codec}");
        }
    });
}

#[test]
fn both_ends_count_values_alike() {
    #[derive(Debug, Serialize, Deserialize)]
    enum All {
        Newtype(Box<Self>),
        Tuple(u8, Box<Self>),
        Struct { inner: Box<Self> },
        Option(Option<Box<Self>>),
        Vec(Vec<Self>),
        Map(BTreeMap<u8, Self>),
        Pair(Box<(u8, Self)>),
        Wrapped(Wrapped),
        End(Unit),
    }
    #[derive(Debug, Serialize, Deserialize)]
    struct Wrapped(Box<All>);
    #[derive(Debug, Serialize, Deserialize)]
    struct Unit;

    type Wrap = fn(All) -> All;
    let kinds: [(Wrap, usize); 8] = [
        (|all| All::Newtype(all.into()), 1),
        (|all| All::Tuple(0, all.into()), 2),
        (|all| All::Struct { inner: all.into() }, 2),
        (|all| All::Option(Some(all.into())), 2),
        (|all| All::Vec(vec![all]), 2),
        (|all| All::Map([(0, all)].into()), 2),
        (|all| All::Pair(Box::new((0, all))), 2),
        (|all| All::Wrapped(Wrapped(all.into())), 2),
    ];
    on_a_small_stack(move || {
        for (wrap, depth) in kinds {
            for codec in [Codec::Bincode, Codec::Json] {
                // The innermost is one value, so 63 are left for what is around it.
                let deepest = (0..63 / depth).fold(All::End(Unit), |all, _| wrap(all));
                let bytes = encoded(codec, &deepest);
                decode::<All>(codec, &bytes).unwrap();
                let deeper = wrap(deepest);
                assert!(unencodable(codec, &deeper).contains("inside one another"));
                let bytes = match codec {
                    Codec::Json => serde_json::to_vec(&deeper).unwrap(),
                    _ => ::bincode::serde::encode_to_vec(&deeper, ::bincode::config::standard()).unwrap(),
                };
                assert!(undecodable::<All>(codec, &bytes).contains("inside one another"));
            }
        }
    });
}

#[test]
fn refuses_depth_before_stack_overflows() {
    on_a_small_stack(|| {
        let mut tall = tree(5_000);
        for codec in ALL {
            unencodable(codec, &tall);
        }
        // Dropping it must not recurse either.
        while let Tree::Node(inner) = tall {
            tall = *inner;
        }
    });
}

#[test]
fn elements_of_no_size_are_counted() {
    for len in [2_000_000_000u64, u64::MAX] {
        let bytes = prefix(len);
        for what in [
            undecodable::<Vec<()>>(Codec::Bincode, &bytes),
            undecodable::<Vec<[u8; 0]>>(Codec::Bincode, &bytes),
            undecodable::<Vec<PhantomData<u8>>>(Codec::Bincode, &bytes),
            undecodable::<BTreeMap<(), ()>>(Codec::Bincode, &bytes),
        ] {
            assert_eq!(what, "more elements than the payload has bytes");
        }
    }
}

#[test]
fn counts_empty_elements_over_whole_payload() {
    // 100 sequences of 100 each: every one of them is smaller than the payload.
    let bytes = [vec![100], vec![100; 100]].concat();
    assert_eq!(
        undecodable::<Vec<Vec<()>>>(Codec::Bincode, &bytes),
        "more elements than the payload has bytes"
    );
}

#[test]
fn counts_elements_without_stated_number() {
    use serde::de::{DeserializeSeed, value};
    for (bytes, elements) in [(3, 3), (3, 4), (0, 0), (0, 1)] {
        let left = Allowance::new(bytes);
        let unstated = std::iter::repeat_n(1u8, elements).filter(|_| true);
        let sequence = value::SeqDeserializer::<_, value::Error>::new(unstated);
        let decoded = Seed::<Vec<u8>>::new(Level::top(&left)).deserialize(sequence);
        assert_eq!(decoded.is_ok(), elements <= bytes);
    }
}

#[test]
fn both_ends_bound_empty_elements_alike() {
    for len in 0..4 {
        let list = vec![(); len];
        // One byte, the length: so one element.
        match len {
            0 | 1 => assert_eq!(decode(Codec::Bincode, &encoded(Codec::Bincode, &list)), Ok(list)),
            _ => assert_eq!(unencodable(Codec::Bincode, &list), "more elements than the payload has bytes"),
        }
    }
    // Each `null` has its bytes in JSON, and other fields of a bincode payload are bytes too.
    assert_eq!(decode(Codec::Json, &encoded(Codec::Json, &[(); 9])), Ok(vec![(); 9]));
    let beside = (vec![(); 9], "a text beside".to_owned());
    assert_eq!(decode(Codec::Bincode, &encoded(Codec::Bincode, &beside)), Ok(beside));
}

#[test]
fn fields_of_no_size_are_not_counted() {
    type Nothing = ((), [(); 30], PhantomData<u8>, ((), ()));
    let nothing = ((), [(); 30], PhantomData, ((), ()));
    assert_eq!(encoded(Codec::Bincode, &nothing), b"");
    assert_eq!(decode::<Nothing>(Codec::Bincode, b""), Ok(nothing));
}

#[test]
fn dense_values_are_within_the_bounds() {
    for codec in [Codec::Bincode, Codec::Json] {
        let flat = vec![0u8; 10_000];
        assert_eq!(decode(codec, &encoded(codec, &flat)), Ok(flat));
        let nested = vec![vec![Vec::<u8>::new(); 100]; 100];
        assert_eq!(decode(codec, &encoded(codec, &nested)), Ok(nested));
        let set: std::collections::BTreeSet<u8> = (0..=255).collect();
        assert_eq!(decode(codec, &encoded(codec, &set)), Ok(set));
        let map: BTreeMap<u8, ()> = (0..=255).map(|n| (n, ())).collect();
        assert_eq!(decode(codec, &encoded(codec, &map)), Ok(map));
    }
}

#[test]
fn json_numbers_beyond_their_type_are_errors() {
    assert!(undecodable::<u8>(Codec::Json, b"256").contains("256"));
    assert!(decode::<i64>(Codec::Json, b"9223372036854775808").is_err());
    assert!(decode::<f64>(Codec::Json, b"1e999").is_err());
    assert!(decode::<u128>(Codec::Json, "9".repeat(40).as_bytes()).is_err());
    assert!(decode::<serde_json::Value>(Codec::Json, b"-1e999999999999").is_err());
    let digits = "9".repeat(1 << 20);
    assert!(decode::<u64>(Codec::Json, digits.as_bytes()).is_err());
    assert!(decode::<f64>(Codec::Json, digits.as_bytes()).is_err());
}

#[test]
fn duplicate_field_is_error_or_last_wins() {
    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only decoded")]
    struct Store {
        key: String,
    }
    let twice = br#"{"key":"a","key":"b"}"#;
    assert!(undecodable::<Store>(Codec::Json, twice).contains("duplicate field `key`"));
    let map: BTreeMap<String, String> = decode(Codec::Json, twice).unwrap();
    assert_eq!(map["key"], "b");
}

#[test]
fn encoding_small_struct_allocates_payload_only() {
    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Small<'a> {
        id: u64,
        key: &'a str,
        numbers: [u32; 4],
        more: Option<(u16, bool)>,
    }
    let small = Small {
        id: 1 << 40,
        key: "joe armstrong, who wrote it",
        numbers: [70_000; 4],
        more: Some((9, true)),
    };
    let mut out = Vec::with_capacity(256);
    for codec in [Codec::Bincode, Codec::Json] {
        out.clear();
        let info = allocation_counter::measure(|| encode_within(codec, &small, 1 << 20, &mut out).unwrap());
        assert_eq!(info.count_total, 0, "{codec}");
        assert!(out.len() >= 60);
    }
    out.clear();
    encode(Codec::Bincode, &small, &mut out).unwrap();
    let info = allocation_counter::measure(|| {
        assert_eq!(decode_borrowed(Codec::Bincode, &out), Ok(small));
    });
    assert_eq!(info.count_total, 0);
}
