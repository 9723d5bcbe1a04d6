//! Bounds on the work that a payload may cause in serde, for every codec and type.
//!
//! The guard wraps the (de)serializer of the codec and everything that comes out of it: accessors, seeds, visitors.
//! It allocates nothing and knows no format. Encoding counts like decoding, so the sender refuses a value that the
//! receiver would refuse.

mod decode;
mod encode;

use std::{cell::Cell, fmt};

pub(super) use decode::Seed;
pub(super) use encode::Value;

use super::MAX_DEPTH;

/// The position of the codec in a value, and the work that is still allowed there.
#[derive(Clone, Copy)]
pub(super) struct Level<'a> {
    /// The elements that sequences and maps of the whole payload may still have.
    elements: &'a Cell<usize>,
    /// The levels that values may still be nested.
    depth: u8,
}

impl<'a> Level<'a> {
    /// The level of the payload itself, and `elements` for all that is in it.
    pub(super) fn top(elements: &'a Cell<usize>) -> Self {
        Self { elements, depth: MAX_DEPTH }
    }

    /// The level of what is inside the value at this one.
    fn inside(self) -> Result<Self, Exceeded> {
        let depth = self.depth.checked_sub(1).ok_or(Exceeded::Depth)?;
        Ok(Self { depth, ..self })
    }

    /// Takes `count` from the remaining elements.
    fn claim(self, count: usize) -> Result<(), Exceeded> {
        let left = self.elements.get().checked_sub(count).ok_or(Exceeded::Elements)?;
        self.elements.set(left);
        Ok(())
    }
}

/// The bound that a value exceeds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Exceeded {
    Depth,
    Elements,
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Depth => write!(f, "more than {MAX_DEPTH} values inside one another"),
            Self::Elements => f.write_str("more elements than the payload has bytes"),
        }
    }
}
