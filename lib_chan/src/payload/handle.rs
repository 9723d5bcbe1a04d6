//! The places of processes in a payload.
//!
//! A process is not in the payload itself: it goes into the table in the head of the message, and the payload holds its
//! place there. In JSON that is `{"$process": 0}`, in bincode a `u32`.
//!
//! Only the guard of a message accepts a process, because only there is a table. The guard recognizes it by the name
//! [`MARKER`], offers it the next place, and takes it over when it was written. Another serializer knows nothing of
//! that, so the process finds no place and fails.

#![cfg_attr(not(feature = "io"), expect(dead_code, reason = "only the io half has addresses"))]

use std::{any::Any, cell::Cell, fmt};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    ser::{Error, SerializeStruct},
};

/// The name of the newtype around a place. It is compared by its address, so no other type has it.
pub(super) static MARKER: &str = "a process in a message";

/// The key of a place in JSON.
const KEY: &str = "$process";

/// The values of a message that travel beside its payload, in the order of their places. Usually there are none, so the
/// type is as small as can be.
#[doc(hidden)]
#[derive(Default)]
pub struct Carried(Option<Box<CarriedItems>>);

/// The values of a message that has some.
#[derive(Default)]
struct CarriedItems(Vec<Box<dyn Any + Send>>);

impl Carried {
    /// Returns `true` if nothing travels beside the payload.
    #[inline]
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(crate) fn into_items(self) -> Vec<Box<dyn Any + Send>> {
        self.0.map_or_else(Vec::new, |items| items.0)
    }

    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |items| items.0.len())
    }

    fn push(&mut self, item: Box<dyn Any + Send>) {
        self.0.get_or_insert_default().0.push(item);
    }
}

impl fmt::Debug for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Carried").field(&self.len()).finish()
    }
}

thread_local! {
    /// The place that the guard offers to the process that is serialized next.
    static OFFERED: Cell<Option<u32>> = const { Cell::new(None) };
    /// The process that took the place.
    static TAKEN: Cell<Option<Box<dyn Any + Send>>> = const { Cell::new(None) };
}

/// An offer of a place. Dropping it takes back what is left, also while a panic unwinds.
pub(super) struct Offer;

impl Offer {
    /// Offers the next place of `carried`.
    pub(super) fn new(carried: &Carried) -> Self {
        let place = u32::try_from(carried.len()).ok();
        // A thread that is shutting down serializes no process.
        let _ = OFFERED.try_with(|offered| offered.set(place));
        Self
    }

    /// Takes over the process, if one has taken the place.
    pub(super) fn accept(self, carried: &mut Carried) {
        if let Some(item) = TAKEN.try_with(Cell::take).ok().flatten() {
            carried.push(item);
        }
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        let _ = OFFERED.try_with(Cell::take);
        let _ = TAKEN.try_with(Cell::take);
    }
}

/// Serializes a process: `item` travels beside the payload.
///
/// # Errors
/// There is no table for it.
pub(crate) fn serialize_process<S: Serializer>(
    item: Box<dyn Any + Send>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_newtype_struct(MARKER, &Placed(Cell::new(Some(item))))
}

/// A process that writes the place that it is offered.
struct Placed(Cell<Option<Box<dyn Any + Send>>>);

impl Serialize for Placed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(place) = OFFERED.try_with(Cell::take).ok().flatten() else {
            return Err(S::Error::custom("a process can be encoded only in a message of a session"));
        };
        let _ = TAKEN.try_with(|taken| taken.set(self.0.take()));
        if serializer.is_human_readable() {
            let mut object = serializer.serialize_struct(KEY, 1)?;
            object.serialize_field(KEY, &place)?;
            object.end()
        } else {
            serializer.serialize_u32(place)
        }
    }
}

/// Reads the place of a process.
pub(crate) fn deserialize_place<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename = "$process", deny_unknown_fields)]
    struct Object {
        #[serde(rename = "$process")]
        place: u32,
    }
    if deserializer.is_human_readable() {
        Object::deserialize(deserializer).map(|object| object.place)
    } else {
        u32::deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::payload::{Codec, encode, encode_in_message};

    struct Process(u8);

    impl Serialize for Process {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serialize_process(Box::new(self.0), serializer)
        }
    }

    fn items(carried: Carried) -> Vec<u8> {
        carried.into_items().into_iter().map(|item| *item.downcast().unwrap()).collect()
    }

    #[test]
    fn processes_are_named_by_their_places() {
        let message = (Process(7), vec![Some(Process(8))], "text");
        for (codec, bytes) in [
            (Codec::Json, &br#"[{"$process":0},[{"$process":1}],"text"]"#[..]),
            (Codec::Bincode, b"\0\x01\x01\x01\x04text"),
        ] {
            let mut out = Vec::new();
            let carried = encode_in_message(codec, &message, 100, &mut out).unwrap();
            assert_eq!((&out[..], items(carried)), (bytes, vec![7, 8]));
        }
        assert!(encode_in_message(Codec::Raw, &Process(7), 100, &mut Vec::new()).is_err());
    }

    #[test]
    fn process_outside_message_is_an_error() {
        for codec in [Codec::Json, Codec::Bincode] {
            let error = encode(codec, &Process(7), &mut Vec::new()).unwrap_err().to_string();
            assert!(error.contains("only in a message of a session"), "{error}");
        }
        assert!(serde_json::to_string(&Process(7)).is_err());
    }

    #[test]
    fn foreign_serializer_inside_message_exports_nothing() {
        struct Text;
        impl Serialize for Text {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bool(serde_json::to_string(&Process(7)).is_ok())
            }
        }
        let mut out = Vec::new();
        let carried = encode_in_message(Codec::Json, &(Text, Process(8)), 100, &mut out).unwrap();
        assert_eq!((&out[..], items(carried)), (&br#"[false,{"$process":0}]"#[..], vec![8]));
    }

    #[test]
    fn panic_leaves_no_offer() {
        struct Unplaced;
        impl Serialize for Unplaced {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_newtype_struct(MARKER, &Inner)
            }
        }
        struct Inner;
        impl Serialize for Inner {
            fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                panic!("while a place is offered")
            }
        }
        let encoded = catch_unwind(AssertUnwindSafe(|| {
            encode_in_message(Codec::Json, &Unplaced, 100, &mut Vec::new())
        }));
        assert!(encoded.is_err());
        assert!(serde_json::to_string(&Process(7)).is_err());
    }

    #[test]
    fn too_long_message_carries_nothing() {
        assert!(encode_in_message(Codec::Json, &(Process(7), "long"), 10, &mut Vec::new()).is_err());
        assert!(serde_json::to_string(&Process(7)).is_err());
    }
}
